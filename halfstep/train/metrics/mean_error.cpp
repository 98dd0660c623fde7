#include "halfstep/train/metrics/mean_error.h"

#include "halfstep/core/error.h"

#include <algorithm>

#include <ATen/ops/scalar_tensor.h>

namespace halfstep::train {

MeanError::MeanError(Config& config, Kind kind)
    : kind_(kind), name_(kind == Kind::absolute ? "MAE" : "MSE") {
  const auto prefix = config.get<std::string>("prefix", "");
  if (!prefix.empty()) name_ = prefix + "/" + name_;
}

void MeanError::process(const at::Tensor& output, const at::Tensor& target) {
  HALFSTEP_CHECK_USAGE(output.sizes() == target.sizes(), name_.c_str(),
                       "output and target must have one shape, but got ", output.sizes(), " and ",
                       target.sizes(), "; choose another metric in val_evaluator");
  const auto error = output.to(at::kFloat) - target.to(at::kFloat);
  const auto sum = (kind_ == Kind::absolute ? error.abs() : error.square()).sum(at::kDouble);
  sum_ = sum_.defined() ? sum_ + sum : sum;
  elements_ += output.numel();
}

void MeanError::reduce(const SumOverRanks& sum) {
  sum_ = sum(sum_.defined() ? sum_.to(at::kCPU) : at::scalar_tensor(0, at::kDouble));
  elements_ = sum(at::scalar_tensor(elements_, at::kLong)).item<int64_t>();
}

Metrics MeanError::compute() {
  const double sum = sum_.defined() ? sum_.item<double>() : 0;
  Metrics result{{name_, sum / static_cast<double>(std::max<int64_t>(elements_, 1))}};
  sum_.reset();
  elements_ = 0;
  return result;
}

}  // namespace halfstep::train
