#include "halfstep/core/error.h"
#include "halfstep/optim_wrapper/optim_wrapper.h"

#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

namespace halfstep {

namespace {

constexpr const char* kInnerCount = "inner_count";
constexpr const char* kBaseRate = "base_lr";
constexpr const char* kGradients = "gradients";

/// Calls `visit` with each parameter and its number as text.
template <class Visit>
void for_each_parameter(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                        const Visit& visit) {
  int64_t number = 0;
  for (const auto& group : groups)
    for (const auto& parameter : group.params()) visit(parameter, std::to_string(number++));
}

}  // namespace

void OptimWrapper::save(torch::serialize::OutputArchive& archive) const {
  optimizer_->save(archive);
  archive.write(kInnerCount, c10::IValue(inner_count_));
  if (base_settings_) archive.write(kBaseRate, c10::IValue(base_settings_->get_lr()));
  if (!is_accumulating()) return;
  torch::serialize::OutputArchive gradients(archive.compilation_unit());
  for_each_parameter(param_groups(), [&](const at::Tensor& parameter, const std::string& number) {
    if (parameter.grad().defined()) gradients.write(number, parameter.grad());
  });
  archive.write(kGradients, gradients);
}

void OptimWrapper::load(torch::serialize::InputArchive& archive) {
  try {
    optimizer_->load(archive);
  } catch (const c10::Error& error) {
    detail::raise<EnvironmentError>(
        "OptimWrapper::load", "the state must be what save wrote for an optimizer of ",
        param_groups().size(),
        " groups like this one, but LibTorch says: ", error.what_without_backtrace(),
        "; load what was saved for the same model and optimizer");
  }
  c10::IValue value;
  if (!archive.try_read(kInnerCount, value)) return;
  HALFSTEP_CHECK_ENVIRONMENT(value.isInt() && value.toInt() >= 0, "OptimWrapper::load",
                             "'inner_count' must be an int of at least 0, but is none; load what "
                             "OptimWrapper::save wrote");
  inner_count_ = value.toInt();
  if (base_settings_ && archive.try_read(kBaseRate, value) && value.isDouble())
    base_settings_->set_lr(value.toDouble());
  zero_grad();
  torch::serialize::InputArchive gradients;
  if (!archive.try_read(kGradients, gradients)) return;
  const c10::NoGradGuard no_grad;
  for_each_parameter(param_groups(), [&](const at::Tensor& parameter, const std::string& number) {
    at::Tensor gradient;
    if (!gradients.try_read(number, gradient)) return;
    HALFSTEP_CHECK_ENVIRONMENT(gradient.sizes() == parameter.sizes(), "OptimWrapper::load",
                               "gradients must have the shapes of the parameters, but number ",
                               number, " is ", gradient.sizes(), " for ", parameter.sizes(),
                               "; load what was saved for the same model");
    parameter.mutable_grad() = gradient.to(parameter.device());
  });
}

}  // namespace halfstep
