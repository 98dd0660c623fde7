#include "halfstep/train/models/gpt.h"

#include "halfstep/core/error.h"
#include "halfstep/train/registry/registry.h"

#include <ATen/ops/cross_entropy_loss.h>
#include <torch/optim/adam.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

std::shared_ptr<BaseModel> build_gpt(const std::string& yaml) {
  Config config = Config::parse("m: " + yaml, "x.yaml");
  Config child = config.child("m");
  auto model = models().build(child);
  config.finish();
  return model;
}

constexpr const char* tiny =
    "{type: Gpt, vocabulary: 11, context: 6, width: 8, layers: 2, heads: 2}";

class GptModel : public testing::DeviceTest {};

}  // namespace

TEST_P(GptModel, ScoresDependOnEarlierTokensOnly) {
  const auto model = build_gpt(tiny);
  model->to(device());
  const auto tokens = torch::randint(11, {3, 6}, device()).to(torch::kLong);
  const auto scores = model->forward(tokens);
  ASSERT_EQ(scores.sizes(), (std::vector<int64_t>{18, 11}));
  auto other = tokens.clone();
  other.select(1, 4).add_(1).remainder_(11);
  const auto before = scores.reshape({3, 6, 11}), after = model->forward(other).reshape({3, 6, 11});
  testing::expect_close(after.narrow(1, 0, 4), before.narrow(1, 0, 4),
                        testing::tolerance(torch::kFloat, "step"));
  for (const int64_t changed : {4, 5})
    EXPECT_GT((after.select(1, changed) - before.select(1, changed)).abs().max().item<float>(),
              1e-4);
}

TEST_P(GptModel, TakesShorterSequences) {
  const auto model = build_gpt(tiny);
  model->to(device());
  const auto tokens = torch::randint(11, {3, 6}, device()).to(torch::kLong);
  const auto whole = model->forward(tokens).reshape({3, 6, 11});
  const auto part = model->forward(tokens.narrow(1, 0, 2)).reshape({3, 2, 11});
  testing::expect_close(part, whole.narrow(1, 0, 2), testing::tolerance(torch::kFloat, "step"));
}

TEST_P(GptModel, Learns) {
  torch::manual_seed(1);
  const auto model = build_gpt(tiny);
  model->to(device());
  const auto tokens = torch::arange(24, device()).reshape({4, 6}) % 11;
  const auto target = ((tokens + 1) % 11).flatten();
  torch::optim::Adam optimizer(model->parameters(), 1e-2);
  float first = 0, last = 0;
  for (int step = 0; step < 40; ++step) {
    optimizer.zero_grad();
    const auto loss = at::cross_entropy_loss(model->forward(tokens), target);
    loss.backward();
    optimizer.step();
    last = loss.item<float>();
    if (step == 0) first = last;
  }
  EXPECT_LT(last, first / 4);
}

HALFSTEP_ON_EACH_DEVICE(GptModel);

TEST(Gpt, MisuseIsAnError) {
  EXPECT_ERROR(build_gpt("{type: Gpt, vocabulary: 0}"), UsageError,
               "[config] x.yaml:1: m.vocabulary must be at least 1, but got 0");
  EXPECT_ERROR(build_gpt("{type: Gpt, context: 0}"), UsageError, "m.context must be at least 1");
  EXPECT_ERROR(build_gpt("{type: Gpt, layers: -1}"), UsageError, "m.layers must be at least 0");
  EXPECT_ERROR(build_gpt("{type: Gpt, heads: 0}"), UsageError, "m.heads must be at least 1");
  EXPECT_ERROR(build_gpt("{type: Gpt, width: 10}"), UsageError,
               "m.width must be a multiple of heads, at least 1, but got 10");
  Gpt::Options options;
  options.width = 0;
  EXPECT_ERROR(Gpt{options}, UsageError, "[Gpt] width must be a multiple of heads");
  EXPECT_ERROR(build_gpt(tiny)->forward(torch::zeros({2, 7}, torch::kLong)), UsageError,
               "[Gpt::forward] input must have shape (n, t) with t at most 6, but got [2, 7]");
}

}  // namespace halfstep::train
