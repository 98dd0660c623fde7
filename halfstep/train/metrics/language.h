#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/metrics/metric.h"

#include <cstdint>
#include <string>

namespace halfstep::train {

/// How well the next token was foretold: from the mean over all tokens of −ln p(target), in float32
/// and summed in float64, "perplexity" = e to that power, or "bits_per_character" = that / ln 2
/// (where a token is a character, as TextFile's are). Outputs (n·t, classes) and int64 targets
/// (n, t), or (n, classes) and (n).
///
///   val_evaluator: [{type: Perplexity}, {type: BitsPerCharacter}]
class LanguageMetric : public Metric {
 public:
  /// In which of the two words the mean is told.
  enum class Kind { perplexity, bits_per_character };

  /// Key: prefix (none): "prefix/perplexity".
  LanguageMetric(Config& config, Kind kind);

  void process(const at::Tensor& output, const at::Tensor& target) override;
  Metrics compute() override;

  void reduce(const SumOverRanks& sum) override;
  bool can_reduce() const override { return true; }

 private:
  Kind kind_;
  std::string name_;
  at::Tensor sum_;
  int64_t tokens_ = 0;
};

}  // namespace halfstep::train
