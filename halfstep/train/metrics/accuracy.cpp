#include "halfstep/train/metrics/accuracy.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <utility>

#include <ATen/ops/arange.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

namespace halfstep::train {

Accuracy::Accuracy(Config& config)
    : topk_(config.get<std::vector<int64_t>>("topk", {1})),
      prefix_(config.get<std::string>("prefix", "accuracy")) {
  if (topk_.empty() || *std::min_element(topk_.begin(), topk_.end()) < 1)
    config.fail("topk", "must be a list of numbers of at least 1");
  for (const auto k : topk_)
    if (std::count(topk_.begin(), topk_.end(), k) > 1) config.fail("topk", "must name each k once");
}

void Accuracy::process(const at::Tensor& output, const at::Tensor& target) {
  const auto labels = target.flatten();
  HALFSTEP_CHECK_USAGE(
      output.dim() == 2 && output.size(0) == labels.size(0) && labels.scalar_type() == at::kLong,
      "Accuracy", "outputs must be (n, classes) and targets n int64 class indices, but got ",
      output.sizes(), " and ", target.scalar_type(), " ", target.sizes(),
      "; choose another metric in val_evaluator");
  const auto scores = output.to(at::kFloat);
  const auto own = scores.gather(1, labels.unsqueeze(1));
  // How many outputs stand before the target's own; nothing is before a NaN, which is never right.
  const auto classes = at::arange(output.size(1), labels.options());
  const auto before = (scores > own) | ((scores == own) & (classes < labels.unsqueeze(1)));
  const auto rank = before.sum(1);
  std::vector<at::Tensor> counts;
  for (const auto k : topk_)
    counts.push_back(((rank < k) & own.squeeze(1).isnan().logical_not()).sum());
  const auto batch = at::stack(counts);
  correct_ = correct_.defined() ? correct_ + batch : batch;
  examples_ += labels.size(0);
}

at::Tensor Accuracy::correct() const {
  if (correct_.defined()) return correct_.to(at::kCPU);
  return at::zeros({static_cast<int64_t>(topk_.size())}, at::kLong);
}

void Accuracy::reduce(const SumOverRanks& sum) {
  correct_ = sum(correct());
  examples_ = sum(at::scalar_tensor(examples_, at::kLong)).item<int64_t>();
}

Metrics Accuracy::compute() {
  Metrics result;
  const auto correct = this->correct();
  for (size_t i = 0; i < topk_.size(); ++i)
    result.add(c10::str(prefix_, "/top", topk_[i]),
               static_cast<double>(correct[static_cast<int64_t>(i)].item<int64_t>()) /
                   static_cast<double>(std::max<int64_t>(examples_, 1)));
  correct_.reset();
  examples_ = 0;
  return result;
}

}  // namespace halfstep::train
