#include "halfstep/train/metrics/language.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <ATen/core/Reduction.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/scalar_tensor.h>

namespace halfstep::train {

LanguageMetric::LanguageMetric(Config& config, Kind kind)
    : kind_(kind), name_(kind == Kind::perplexity ? "perplexity" : "bits_per_character") {
  const auto prefix = config.get<std::string>("prefix", "");
  if (!prefix.empty()) name_ = prefix + "/" + name_;
}

void LanguageMetric::process(const at::Tensor& output, const at::Tensor& target) {
  const auto tokens = target.flatten();
  HALFSTEP_CHECK_USAGE(
      output.dim() == 2 && output.size(0) == tokens.size(0) && tokens.scalar_type() == at::kLong,
      name_.c_str(), "outputs must be (n, classes) and targets n int64 tokens, but got ",
      output.sizes(), " and ", target.scalar_type(), " ", target.sizes(),
      "; choose another metric in val_evaluator");
  const auto each =
      at::cross_entropy_loss(output.to(at::kFloat), tokens, /*weight=*/{}, at::Reduction::None);
  const auto sum = each.sum(at::kDouble);
  sum_ = sum_.defined() ? sum_.add(sum) : sum;
  tokens_ += tokens.size(0);
}

void LanguageMetric::reduce(const SumOverRanks& sum) {
  sum_ = sum(sum_.defined() ? sum_.to(at::kCPU) : at::scalar_tensor(0, at::kDouble));
  tokens_ = sum(at::scalar_tensor(tokens_, at::kLong)).item<int64_t>();
}

Metrics LanguageMetric::compute() {
  const double sum = sum_.defined() ? sum_.item<double>() : 0;
  const double mean = sum / static_cast<double>(std::max<int64_t>(tokens_, 1));
  Metrics result{{name_, kind_ == Kind::perplexity ? std::exp(mean) : mean / std::numbers::ln2}};
  sum_.reset();
  tokens_ = 0;
  return result;
}

}  // namespace halfstep::train
