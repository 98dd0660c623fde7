#include "halfstep/train/models/base_model.h"

#include "halfstep/core/error.h"

namespace halfstep::train {

BaseModel::BaseModel() {
  data_preprocessor = register_module("data_preprocessor", DataPreprocessor());
}

BaseModel::BaseModel(std::string name) : torch::nn::Module(std::move(name)) {
  data_preprocessor = register_module("data_preprocessor", DataPreprocessor());
}

void BaseModel::set_data_preprocessor(std::shared_ptr<DataPreprocessorImpl> preprocessor) {
  HALFSTEP_CHECK_USAGE(preprocessor != nullptr, "BaseModel::set_data_preprocessor",
                       "the preprocessor must be a module, but is null; make one first");
  preprocessor->to(data_preprocessor->device());
  data_preprocessor = DataPreprocessor(preprocessor);
  replace_module("data_preprocessor", preprocessor);
}

LogVars BaseModel::train_step(const Batch& data, OptimWrapperBase& optim_wrapper) {
  Losses losses;
  {
    const auto context = optim_wrapper.optim_context(*this);
    losses = loss(data_preprocessor(data, /*training=*/true));
  }
  auto [total, log_vars] = parse_losses(losses);
  optim_wrapper.update_params(total);
  return std::move(log_vars);
}

torch::Tensor BaseModel::val_step(const Batch& data) {
  return predict(data_preprocessor(data, /*training=*/false).data);
}

torch::Tensor BaseModel::test_step(const Batch& data) {
  return val_step(data);
}

std::pair<torch::Tensor, LogVars> BaseModel::parse_losses(const Losses& losses) const {
  return train::parse_losses(losses);
}

}  // namespace halfstep::train
