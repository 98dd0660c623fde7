// Which op made the first inf or NaN of a step, and which did not.
#include "halfstep/inspect/overflow_tracer.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/module_scope.h"
#include "halfstep/inspect/precision_recorder.h"
#include "halfstep/nn/linear.h"

#include <cmath>
#include <limits>
#include <sstream>

#include <torch/torch.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep::inspect {

namespace F = torch::nn::functional;
using ::testing::HasSubstr;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

struct TracedNetImpl : torch::nn::Module {
  torch::nn::Linear first{register_module("first", torch::nn::Linear(8, 8))};
  nn::Linear second{register_module("second", nn::Linear(8, 3))};
  torch::Tensor mask{register_buffer("mask", torch::zeros({8}))};
  torch::Tensor forward(const torch::Tensor& x) {
    return second->forward(torch::relu(first->forward(x) + mask));
  }
};
TORCH_MODULE(TracedNet);

}  // namespace

class OverflowTracers : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (IsSkipped()) return;
    net = TracedNet();
    net->to(device());
    x = torch::rand({6, 8}, device());
    y = torch::zeros({6}, torch::dtype(torch::kLong).device(device()));
  }
  torch::Tensor loss() { return F::cross_entropy(net->forward(x), y); }
  template <class F>
  std::optional<OverflowFinding> traced(const F& step) {
    OverflowTracer tracer(*net);
    step();
    return tracer.end_step();
  }

  TracedNet net = nullptr;
  torch::Tensor x, y;
};
HALFSTEP_ON_EACH_DEVICE(OverflowTracers);

TEST_P(OverflowTracers, FindNothingInACleanStep) {
  OverflowTracer tracer(*net);
  for (int i = 0; i < 3; ++i) {
    loss().backward();
    EXPECT_FALSE(tracer.end_step());
  }
}

TEST_P(OverflowTracers, NameTheForwardOpItsModuleAndWhatItWasGiven) {
  torch::NoGradGuard no_grad;
  net->to(torch::kHalf);
  net->second->weight.fill_(60000);
  x = torch::ones({6, 8}, device()).to(torch::kHalf);
  net->first->weight.fill_(1);
  net->first->bias.fill_(0);
  const auto found = traced([&] { net->forward(x); });
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->came_in);
  EXPECT_FALSE(found->backward);
  EXPECT_EQ(found->op, "addmm");
  EXPECT_EQ(found->within, "linear");
  EXPECT_EQ(found->module, "second");
  EXPECT_EQ(found->tensor.dtype, torch::kHalf);
  EXPECT_EQ(found->tensor.sizes, (std::vector<int64_t>{6, 3}));
  EXPECT_EQ(found->tensor.max, kInf);
  ASSERT_EQ(found->inputs.size(), 3);
  EXPECT_EQ(found->inputs[0].name, "weight second.bias");
  EXPECT_EQ(found->inputs[1].name, "relu");
  EXPECT_EQ(found->inputs[1].min, 8);
  EXPECT_EQ(found->inputs[1].max, 8);
  EXPECT_EQ(found->inputs[2].name, "weight second.weight");
  EXPECT_NEAR(found->inputs[2].max, 60000, 32);
  const auto text = found->text();
  EXPECT_THAT(text, HasSubstr("forward: addmm (in linear) of second gave inf\n"));
  EXPECT_THAT(text, HasSubstr("  from: relu, float16 [6, 8], from 8 to 8\n"));
  std::ostringstream stream;
  stream << *found;
  EXPECT_EQ(stream.str(), text);
}

TEST_P(OverflowTracers, FindACastThatOverflows) {
  x = torch::full({6, 8}, 1e6F, device());
  const auto found = traced([&] {
    const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kHalf));
    net->forward(x);
  });
  ASSERT_TRUE(found);
  EXPECT_EQ(found->op, "_to_copy");
  EXPECT_EQ(found->within, "addmm");
  EXPECT_EQ(found->module, "first");
  ASSERT_EQ(found->inputs.size(), 1);
  EXPECT_EQ(found->inputs[0].name, "input");
  EXPECT_EQ(found->inputs[0].dtype, torch::kFloat);
  EXPECT_EQ(found->inputs[0].max, 1e6);
}

TEST_P(OverflowTracers, NameTheForwardOpThatBackwardDifferentiates) {
  const auto found = traced([&] {
    const auto hidden = net->first->forward(x);
    const ModuleScope scope(*net->second);
    (hidden * 0).sqrt().sum().backward();  // the slope of a root at 0
  });
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->backward);
  EXPECT_EQ(found->of, "sqrt");
  EXPECT_EQ(found->module, "second");
  EXPECT_THAT(found->text(), HasSubstr("a gradient of sqrt of second gave inf\n"));
}

TEST_P(OverflowTracers, TellTheFirstOfSeveral) {
  const auto found = traced([&] { (x.log() - x.log() + (x * 0).log() * 0).sum(); });
  ASSERT_TRUE(found);
  EXPECT_EQ(found->op, "log");
  EXPECT_EQ(found->tensor.min, -kInf);
  EXPECT_EQ(found->inputs.at(0).name, "mul");
  EXPECT_EQ(found->inputs.at(0).max, 0);
}

TEST_P(OverflowTracers, SeeInPlaceOpsBeforeAndAfter) {
  const auto found = traced([&] {
    auto each = torch::full({4}, 1e30F, device());
    each.mul_(1e5).mul_(1e30);
  });
  ASSERT_TRUE(found);
  EXPECT_EQ(found->op + " " + found->within, "mul mul_");
  ASSERT_EQ(found->inputs.size(), 2);
  auto& own = found->inputs[found->inputs[0].name == "mul_" ? 0 : 1];
  EXPECT_EQ(own.name, "mul_");
  EXPECT_NEAR(own.max / 1e35, 1, 1e-5);
}

TEST_P(OverflowTracers, TellWhatCameInFromOutside) {
  x[2][3] = std::numeric_limits<float>::quiet_NaN();
  auto found = traced([&] { loss(); });
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->came_in);
  EXPECT_EQ(found->tensor.name, "input");
  EXPECT_TRUE(found->tensor.has_nan());
  EXPECT_EQ(found->text(), "before the step: input, float32 [6, 8], with NaN\n");

  x.fill_(1);
  torch::NoGradGuard no_grad;
  net->second->bias[1] = kInf;
  found = traced([&] { loss(); });
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->came_in);
  EXPECT_EQ(found->tensor.name, "weight second.bias");
}

TEST_P(OverflowTracers, AllowInfinitiesThatAreMeant) {
  const auto hidden = torch::zeros({8}, torch::dtype(torch::kBool).device(device()));
  hidden[3] = true;
  EXPECT_FALSE(traced([&] { (x.masked_fill(hidden, -kInf) * 2).softmax(1).sum(); }));
  net->mask[3] = -kInf;
  EXPECT_FALSE(traced([&] { loss(); }));
  const auto found =
      traced([&] { x.masked_fill(hidden.logical_not() | hidden, -kInf).softmax(1); });
  ASSERT_TRUE(found) << "a row without any number has no softmax";
  EXPECT_TRUE(found->tensor.has_nan());
  EXPECT_THAT(found->op, HasSubstr("softmax"));
  // An infinity of another origin still counts.
  EXPECT_TRUE(traced([&] { x.masked_fill(hidden, -kInf), (x * 0).log(); }));
}

TEST_P(OverflowTracers, LeaveOutMemoryThatNobodyWrote) {
  EXPECT_FALSE(traced([&] {
    auto unwritten = torch::empty({64}, device());
    unwritten.detach().view({8, 8}).fill_(1);
    (unwritten + 1).sum();
  }));
}

TEST_P(OverflowTracers, LeaveOutWhatIsPausedAndBeginAnewWithEachStep) {
  OverflowTracer tracer(*net);
  tracer.pause();
  (x * 0).log();
  tracer.resume();
  loss();
  EXPECT_FALSE(tracer.end_step());
  (x * 0).log();
  EXPECT_TRUE(tracer.end_step());
  EXPECT_FALSE(tracer.end_step());
  loss();
  EXPECT_FALSE(tracer.end_step());
}

TEST_P(OverflowTracers, SeeNothingWhileAnotherRecordsInside) {
  OverflowTracer tracer(*net);
  {
    const PrecisionRecorder recorder(*net);
    (x * 0).log();
    EXPECT_FALSE(recorder.report().forward.ops.empty());
  }
  EXPECT_FALSE(tracer.end_step());
}

TEST(OverflowFinding, IsOfTheSamePlaceWhateverItsNumbers) {
  OverflowFinding one;
  one.op = "mm";
  one.module = ".";
  auto other = one;
  other.tensor.max = kInf;
  EXPECT_TRUE(one.same_place(other));
  EXPECT_EQ(one.place(), "forward: mm of the model itself");
  other.backward = true;
  other.of = "SoftmaxBackward0";
  EXPECT_FALSE(one.same_place(other));
  EXPECT_EQ(other.place(), "backward: mm, a gradient of SoftmaxBackward0 of the model itself");
}

}  // namespace halfstep::inspect
