#include "halfstep/core/error.h"
#include "halfstep/train/metrics/evaluator.h"
#include "halfstep/train/registry/registry.h"

#include <cmath>

#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace halfstep::train {
namespace {

std::unique_ptr<Metric> make(const std::string& yaml) {
  auto config = Config::parse(yaml, "x.yaml");
  auto metric = metrics().build(config);
  config.finish();
  return metric;
}

class MetricOn : public halfstep::testing::DeviceTest {};

TEST_P(MetricOn, AccuracyCountsTheLargestOutputs) {
  const auto metric = make("{type: Accuracy, topk: [1, 2, 4]}");
  const auto output =
      torch::tensor({{0.1, 0.5, 0.3, 0.1}, {0.4, 0.2, 0.3, 0.1}, {0.1, 0.2, 0.3, 0.4}},
                    torch::kFloat)
          .to(device());
  const auto target = torch::tensor({1, 2, 0}, torch::kLong).to(device());
  metric->process(output, target);
  metric->process(output.to(torch::kBFloat16).slice(0, 0, 1), target.slice(0, 0, 1));
  const auto result = metric->compute();
  EXPECT_DOUBLE_EQ(*result.find("accuracy/top1"), 2.0 / 4);
  EXPECT_DOUBLE_EQ(*result.find("accuracy/top2"), 3.0 / 4);
  EXPECT_DOUBLE_EQ(*result.find("accuracy/top4"), 1);
  metric->process(output.slice(0, 2, 3), target.slice(0, 2, 3));
  EXPECT_EQ(*metric->compute().find("accuracy/top1"), 0) << "the batches before were not forgotten";
}

// Of equal outputs only as many are among the k largest as there is room for.
TEST_P(MetricOn, AccuracyOfEqualOutputsAndNan) {
  const auto metric = make("{type: Accuracy}");
  metric->process(torch::zeros({4, 4}, device()), torch::arange(4, torch::kLong).to(device()));
  EXPECT_DOUBLE_EQ(*metric->compute().find("accuracy/top1"), 0.25);
  metric->process(torch::full({4, 4}, NAN, torch::TensorOptions(device())),
                  torch::arange(4, torch::kLong).to(device()));
  EXPECT_EQ(*metric->compute().find("accuracy/top1"), 0);
}

TEST_P(MetricOn, MeanErrorsOverAllElements) {
  const auto options = torch::TensorOptions(device());
  for (const auto& [yaml, name, expected] :
       {std::tuple("{type: MAE}", "MAE", (2.0 * 4 + 1) / 5),
        {"{type: MSE, prefix: x}", "x/MSE", (4.0 * 4 + 1) / 5}}) {
    const auto metric = make(yaml);
    metric->process(torch::zeros({2, 2}, options), torch::full({2, 2}, -2.0, options));
    metric->process(torch::ones({1, 1}, options.dtype(torch::kHalf)),
                    torch::zeros({1, 1}, options));
    const auto result = metric->compute();
    EXPECT_DOUBLE_EQ(*result.find(name), expected);
    EXPECT_EQ(*metric->compute().find(name), 0);
  }
}

TEST_P(MetricOn, LanguageMetricsAreMeansOverAllTokens) {
  const auto options = torch::dtype(torch::kFloat).device(device());
  // Of 4 equal scores each has 2 bits; where one of two has 3/4, log2(4/3).
  const auto even = torch::zeros({6, 4}, options);
  const auto uneven = torch::tensor({{3.0, 1.0, 0.0, 0.0}}, options).log();
  for (const auto& [yaml, name] : {std::pair("{type: BitsPerCharacter}", "bits_per_character"),
                                   {"{type: Perplexity, prefix: x}", "x/perplexity"}}) {
    const auto metric = make(yaml);
    const auto target = torch::zeros({2, 3}, options.dtype(torch::kLong));
    metric->process(even, target);
    metric->process(uneven, target.flatten().slice(0, 0, 1));
    const double bits = (6 * 2 + std::log2(4.0 / 3)) / 7;
    const bool is_bits = std::string(name) == "bits_per_character";
    EXPECT_NEAR(*metric->compute().find(name), is_bits ? bits : std::exp2(bits), 1e-6);
    EXPECT_EQ(*metric->compute().find(name), is_bits ? 0 : 1);
  }
}

HALFSTEP_ON_EACH_DEVICE(MetricOn);

TEST(Metric, KeysAndShapesAreChecked) {
  EXPECT_ERROR(make("{type: Accuracy, topk: []}"), UsageError,
               "[config] x.yaml:1: topk must be a list");
  EXPECT_ERROR(make("{type: Accuracy, topk: [0]}"), UsageError, "topk must be a list");
  EXPECT_ERROR(make("{type: Accuracy, topk: [2, 2]}"), UsageError, "topk must name each k once");
  EXPECT_ERROR(make("{type: Acuracy}"), UsageError, "unknown metric 'Acuracy'", "did you mean");
  EXPECT_ERROR(make("{type: MAE}")->process(torch::zeros({2}), torch::zeros({2, 1})), UsageError,
               "[MAE] output and target must have one shape, but got [2] and [2, 1]");
  EXPECT_ERROR(make("{type: Accuracy}")->process(torch::zeros({2, 3}), torch::zeros({2})),
               UsageError, "[Accuracy] outputs must be (n, classes) and targets n int64");
  EXPECT_ERROR(make("{type: Perplexity}")->process(torch::zeros({2, 3}), torch::zeros({2})),
               UsageError, "[perplexity] outputs must be (n, classes) and targets n int64 tokens");
}

TEST(Evaluator, RefusesTwoResultsOfOneName) {
  std::vector<std::unique_ptr<Metric>> metrics;
  metrics.push_back(make("{type: MAE}"));
  metrics.push_back(make("{type: MAE, prefix: second}"));
  Evaluator different(std::move(metrics));
  different.process(torch::ones({2}), torch::zeros({2}));
  const auto result = different.compute();
  EXPECT_EQ(result.find("MAE"), 1);
  EXPECT_EQ(result.find("second/MAE"), 1);
  metrics.clear();
  metrics.push_back(make("{type: MAE}"));
  metrics.push_back(make("{type: MAE}"));
  Evaluator same(std::move(metrics));
  EXPECT_ERROR(same.compute(), UsageError, "got 'MAE' twice", "another prefix");
}

}  // namespace
}  // namespace halfstep::train
