#include "halfstep/train/losses/losses.h"

#include "halfstep/core/error.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/log_softmax.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

Loss build(const std::string& yaml) {
  Config config = Config::parse("l: " + yaml, "x.yaml");
  Config child = config.child("l");
  auto loss = losses().build(child);
  config.finish();
  return loss;
}

class LossFunctions : public testing::DeviceTest {
 protected:
  torch::TensorOptions where() { return torch::TensorOptions(device()); }
  torch::Tensor output() {
    return torch::tensor({{1.0f, 2.0f, -1.0f}, {0.5f, 0.0f, 3.0f}}, where());
  }
  torch::Tensor target() { return torch::tensor({1, 0}, where().dtype(torch::kLong)); }
  // -log p of each class, in double on the CPU.
  torch::Tensor costs() { return -at::log_softmax(output().cpu().to(torch::kDouble), 1); }

  void expect(const torch::Tensor& loss, const torch::Tensor& expected) {
    EXPECT_EQ(loss.dim(), 0);
    EXPECT_EQ(loss.device().type(), device().type());
    testing::expect_close(loss, expected, testing::tolerance(torch::kFloat, "softmax"));
  }
};

}  // namespace

TEST_P(LossFunctions, CrossEntropyIsTheMeanCostOfTheTarget) {
  const auto c = costs();
  expect(build("{type: CrossEntropyLoss}")(output(), target()), (c[0][1] + c[1][0]) / 2);
  expect(build("{type: CrossEntropyLoss, ignore_index: 0}")(output(), target()), c[0][1]);
}

TEST_P(LossFunctions, CrossEntropyTakesSequences) {
  const auto scores = at::cat({output(), output().flip(0)});
  const auto flat = at::cat({target(), target()});
  const auto loss = build("{type: CrossEntropyLoss}");
  testing::expect_same_bits(loss(scores, flat.reshape({2, 2})), loss(scores, flat));
}

TEST_P(LossFunctions, LabelSmoothingSpreadsTheTarget) {
  const auto c = costs();
  const auto hard = (c[0][1] + c[1][0]) / 2;
  expect(build("{type: CrossEntropyLoss, label_smoothing: 0.3}")(output(), target()),
         0.7 * hard + 0.3 * c.mean());
}

TEST_P(LossFunctions, NllTakesLogProbabilities) {
  const auto c = costs();
  const auto log_probabilities = at::log_softmax(output(), 1);
  expect(build("{type: NLLLoss}")(log_probabilities, target()), (c[0][1] + c[1][0]) / 2);
  expect(build("{type: NLLLoss, ignore_index: 1}")(log_probabilities, target()), c[1][0]);
}

TEST_P(LossFunctions, MseIsTheMeanOfSquares) {
  const auto loss = build("{type: MSELoss}");
  const auto integers = torch::tensor({{1, 2, 0}, {0, 0, 0}}, where().dtype(torch::kLong));
  // Differences 0, 0, -1, 0.5, 0, 3.
  expect(loss(output(), integers), torch::tensor((1 + 0.25 + 9) / 6, torch::kDouble));
}

TEST_P(LossFunctions, GiveGradients) {
  auto x = output().requires_grad_();
  build("{type: CrossEntropyLoss}")(x, target()).backward();
  EXPECT_GT(x.grad().abs().sum().item<float>(), 0.1f);
}

HALFSTEP_ON_EACH_DEVICE(LossFunctions);

TEST(LossKeys, OutOfRangeAreErrors) {
  EXPECT_ERROR(build("{type: CrossEntropyLoss, label_smoothing: 1.5}"), UsageError,
               "[config] x.yaml:1: l.label_smoothing must be in [0, 1], but got 1.5");
  EXPECT_ERROR(build("{type: MSELoss, reduction: sum}"), UsageError,
               "[config] x.yaml:1: unknown key 'reduction' in l; allowed: type");
  EXPECT_ERROR(build("{type: CrossEntropy}"), UsageError,
               "[config] x.yaml:1: unknown loss 'CrossEntropy'; known: CrossEntropyLoss, MSELoss, "
               "NLLLoss; did you mean 'CrossEntropyLoss'?");
}

TEST(LossShapes, ThatOnlyBroadcastAreErrorsOfMse) {
  EXPECT_ERROR(build("{type: MSELoss}")(torch::zeros({2, 1}), torch::zeros({2})), UsageError,
               "[MSELoss] output and target must have one shape, but got [2, 1] and [2]");
}

}  // namespace halfstep::train
