#pragma once
#include "halfstep/train/models/base_model.h"

#include <functional>

namespace halfstep::train {

/// A loss: (model output, target) → 0-dim tensor.
using Loss = std::function<torch::Tensor(const torch::Tensor&, const torch::Tensor&)>;

/// The simple form of a BaseModel: one forward, and one loss of its output and the target, which
/// the config's `loss` (or the program) gives. The output is the prediction, and is computed once
/// for both; a model with another prediction or other losses derives from BaseModel.
class Model : public BaseModel {
 public:
  /// As BaseModel's.
  using BaseModel::BaseModel;

  /// What loss() and train_step() train with.
  void set_loss(Loss loss) { loss_ = std::move(loss); }

  /// {"loss": the loss of the output}. Throws UsageError before set_loss.
  Losses loss(const Batch& batch) final;

  torch::Tensor predict(const torch::Tensor& inputs) final { return forward(inputs); }
  torch::Tensor val_step(const Batch& data) final { return BaseModel::val_step(data); }
  torch::Tensor test_step(const Batch& data) final { return BaseModel::test_step(data); }

  /// The same of an output that is there already.
  torch::Tensor loss_of(const torch::Tensor& output, const torch::Tensor& target) const;

 private:
  Loss loss_;
};

}  // namespace halfstep::train
