#include "halfstep/inspect/precision_report.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/module_scope.h"
#include "halfstep/autocast/propagate.h"
#include "halfstep/inspect/dtype_counter.h"
#include "halfstep/inspect/precision_recorder.h"
#include "halfstep/nn/linear.h"

#include <map>
#include <optional>
#include <sstream>
#include <thread>

#include <torch/torch.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep::inspect {

namespace F = torch::nn::functional;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

namespace {

struct NetImpl : torch::nn::Module {
  nn::Linear first{register_module("first", nn::Linear(8, 8))};
  torch::nn::Linear second{register_module("second", torch::nn::Linear(8, 3))};
  torch::Tensor shift{register_parameter("shift", torch::zeros({3}))};
  torch::Tensor forward(const torch::Tensor& x) {
    return second->forward(torch::relu(first->forward(x))) + shift;
  }
};
TORCH_MODULE(Net);

/// "first linear bfloat16 x1"
std::vector<std::string> lines(const PrecisionReport::Pass& pass) {
  std::vector<std::string> all;
  for (const auto& op : pass.ops)
    all.push_back(c10::str(op.module, " ", op.op, " ", op.dtype, " x", op.calls));
  return all;
}

std::vector<std::string> cast_lines(const PrecisionReport::Pass& pass) {
  std::vector<std::string> all;
  for (const auto& cast : pass.casts)
    all.push_back(c10::str(cast.module, " ", cast.from, " ", cast.to, " x", cast.casts, " ",
                           cast.bytes, " bytes"));
  return all;
}

}  // namespace

class PrecisionReports : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (IsSkipped()) return;
    net = Net();
    net->to(device());
    x = torch::randn({6, 8}, device());
    y = torch::zeros({6}, torch::dtype(torch::kLong).device(device()));
  }
  AutocastOptions bfloat16() const { return AutocastOptions(GetParam()).dtype(torch::kBFloat16); }
  torch::Tensor loss() { return F::cross_entropy(net->forward(x), y); }
  std::string why(const std::function<void()>& run) {
    const PrecisionRecorder recorder(*net);
    run();
    EXPECT_FALSE(recorder.report().any_low_precision());
    EXPECT_THAT(recorder.report().text(),
                HasSubstr("nothing ran in 16 bits: " + recorder.report().why_nothing_low()));
    return recorder.report().why_nothing_low();
  }

  Net net = nullptr;
  torch::Tensor x, y;
};
HALFSTEP_ON_EACH_DEVICE(PrecisionReports);

TEST_P(PrecisionReports, TellOpsDtypesAndCastsByModule) {
  const PrecisionRecorder recorder(*net);
  {
    const Autocast autocast(bfloat16());
    loss();
  }
  const auto report = recorder.report();
  // The layer that is no at::linear enters as addmm over a view of its weight.
  const auto ops = lines(report.forward);
  ASSERT_GE(ops.size(), 5);
  EXPECT_EQ(ops[0], "first linear BFloat16 x1");
  EXPECT_EQ(ops[1], " relu BFloat16 x1");
  EXPECT_EQ(ops[2], "second addmm BFloat16 x1");
  EXPECT_EQ(ops[3], ". add Float x1");
  // CUDA's list has only what is inside of it.
  EXPECT_EQ(ops[4],
            GetParam() == c10::kCUDA ? " log_softmax Float x1" : " cross_entropy_loss Float x1");
  // x, weight and bias; weight and bias again.
  const auto casts = cast_lines(report.forward);
  ASSERT_GE(casts.size(), 2);
  EXPECT_EQ(casts[0], "first Float BFloat16 x3 240 bytes");
  EXPECT_EQ(casts[1], "second Float BFloat16 x2 54 bytes");
  // What `add` promotes is cast by an op of its own on the CPU, inside its kernel on CUDA.
  const bool promotes = GetParam() == torch::kCPU;
  if (promotes) {
    EXPECT_EQ(casts.at(2), ". BFloat16 Float x1 72 bytes");
  }
  EXPECT_THAT(report.backward.ops, IsEmpty());
  EXPECT_TRUE(report.any_low_precision());
  EXPECT_EQ(report.why_nothing_low(), "");
  EXPECT_EQ(report.forward.low_precision_calls(), 3);
  EXPECT_EQ(report.forward.cast_count(), promotes ? 6 : 5);
  EXPECT_EQ(report.forward.cast_bytes(), promotes ? 366 : 294);
}

TEST_P(PrecisionReports, KeepBackwardApart) {
  const PrecisionRecorder recorder(*net);
  {
    const Autocast autocast(bfloat16());
    auto value = loss();
    const auto before = recorder.report();
    EXPECT_THAT(before.backward.ops, IsEmpty());
    value.backward();
    const auto after = recorder.report();
    EXPECT_EQ(lines(after.forward), lines(before.forward));
    EXPECT_EQ(after.regions.calls, before.regions.calls);
  }
  const auto report = recorder.report();
  // Two layers: x needs no gradient, so the first layer's product with its weight is left out.
  int64_t products = 0;
  for (const auto& op : report.backward.ops) {
    EXPECT_EQ(op.module, "");
    if (op.op == "mm") {
      EXPECT_EQ(op.dtype, torch::kBFloat16);
      products += op.calls;
    }
  }
  EXPECT_EQ(products, 3);
  // Gradients of two weights and two biases are cast back.
  int64_t to_float32 = 0;
  for (const auto& cast : report.backward.casts) {
    if (cast.to == torch::kFloat) to_float32 += cast.casts;
  }
  EXPECT_EQ(to_float32, 4);
}

TEST_P(PrecisionReports, CountCallsAndUseTheCastCache) {
  const PrecisionRecorder recorder(*net);
  const Autocast autocast(bfloat16());
  for (int i = 0; i < 3; ++i) net->first->forward(x);
  EXPECT_THAT(lines(recorder.report().forward), ElementsAre("first linear BFloat16 x3"));
  EXPECT_THAT(cast_lines(recorder.report().forward),
              ElementsAre("first Float BFloat16 x5 432 bytes"))
      << "x thrice, weight and bias once";
}

TEST_P(PrecisionReports, NameTheScopeOfOpsWithoutParameters) {
  const PrecisionRecorder recorder(*net);
  {
    const ModuleScope scope(*net->second);
    at::mm(x, x.t());
    net->first->forward(x);
    const ModuleScope by_path("first");
    at::mm(x, x.t());
  }
  {
    const ModuleScope root(*net);
    net->first->forward(x);
    at::mm(x, x.t());
  }
  at::mm(x, x.t());
  EXPECT_THAT(lines(recorder.report().forward),
              ElementsAre("second mm Float x1", "second linear Float x1", "first mm Float x1",
                          "first linear Float x1", ". mm Float x1", " mm Float x1"));
}

TEST_P(PrecisionReports, NeedNoModule) {
  const PrecisionRecorder recorder;
  const Autocast autocast(bfloat16());
  const ModuleScope scope("head");
  at::mm(x, x.t());
  EXPECT_THAT(lines(recorder.report().forward), ElementsAre("head mm BFloat16 x1"));
}

// Below an op that autocast lets through, it decides about the ops inside.
TEST_P(PrecisionReports, ShowOpsInsideThatHaveARule) {
  const PrecisionRecorder recorder(*net);
  const Autocast autocast(bfloat16());
  at::linalg_matrix_power(torch::eye(4, device()), 2);
  const auto report = recorder.report();
  EXPECT_GE(report.regions.low_rule, 1);
  EXPECT_GE(report.forward.ops.size(), 2);
}

TEST_P(PrecisionReports, TellRulesThatNeverMatched) {
  auto policy = OpPolicy::torch(GetParam());
  policy.set("bmm", CastRule::float32).set("linear", CastRule::float32);
  policy.module("first", CastRule::float32).module("second", CastRule::float32).bind(*net);
  const PrecisionRecorder recorder(*net);
  {
    const Autocast autocast(bfloat16().policy(policy));
    net->first->forward(x);
  }
  const auto report = recorder.report();
  EXPECT_THAT(report.unmatched_ops, ElementsAre("bmm"));
  EXPECT_THAT(report.unmatched_modules, ElementsAre("second"));
  EXPECT_THAT(report.text(), HasSubstr("rules that met no op call: bmm\n"));
  EXPECT_THAT(report.text(), HasSubstr("rules by module that met no op call: second\n"));
}

TEST_P(PrecisionReports, SayThatNoRegionWasEntered) {
  const auto nowhere = why([&] { loss().backward(); });
  EXPECT_THAT(nowhere, HasSubstr("no op ran in an enabled autocast region"));
  EXPECT_EQ(why([&] {
              const Autocast off(AutocastOptions(GetParam()).enabled(false));
              loss();
            }),
            nowhere);
  EXPECT_THAT(why([] {}), HasSubstr("no floating-point op ran while it was recorded"));
}

TEST_P(PrecisionReports, SayThatTheRegionIsForAnotherDevice) {
  const auto other = GetParam() == torch::kCPU ? torch::kXPU : torch::kCPU;
  EXPECT_THAT(why([&] {
                const Autocast autocast(AutocastOptions(other).dtype(torch::kBFloat16));
                loss();
              }),
              HasSubstr(c10::str("the autocast region is for ", c10::DeviceTypeName(other, true),
                                 ", but the ops ran on ", c10::DeviceTypeName(GetParam(), true),
                                 " tensors")));
}

TEST_P(PrecisionReports, SayThatTensorsAreFloat64) {
  net->to(torch::kDouble);
  x = x.to(torch::kDouble);
  EXPECT_THAT(why([&] {
                const Autocast autocast(bfloat16());
                loss();
              }),
              HasSubstr("all 2 ops that autocast casts to 16 bits got float64 tensors"));
}

TEST_P(PrecisionReports, SayThatNoOpHasARule) {
  EXPECT_THAT(
      why([&] {
        const Autocast autocast(bfloat16());
        torch::relu(x);
      }),
      HasSubstr(c10::str("none of the 1 op in the region has a rule in LibTorch's list for ",
                         c10::DeviceTypeName(GetParam(), true))));
  EXPECT_THAT(why([&] {
                const Autocast autocast(bfloat16().policy(OpPolicy()));
                loss();
              }),
              HasSubstr("has a rule in the region's policy (none) that casts to 16 bits"));
}

TEST_P(PrecisionReports, SayThatModulesDecidedOtherwise) {
  const auto policy = OpPolicy::torch(GetParam()).module(".*", CastRule::float32).bind(*net);
  EXPECT_THAT(why([&] {
                const Autocast autocast(bfloat16().policy(policy));
                loss();
              }),
              HasSubstr("but its rules by module decided otherwise"));
}

TEST_P(PrecisionReports, SeeThreadsThatCarryThem) {
  const PrecisionRecorder recorder(*net);
  const Autocast autocast(bfloat16());
  std::thread(propagate([&] { net->first->forward(x); })).join();
  std::thread([&] { net->second->forward(x); }).join();
  EXPECT_THAT(lines(recorder.report().forward), ElementsAre("first linear BFloat16 x1"));
}

TEST_P(PrecisionReports, GoBesideCounters) {
  std::optional<DtypeCounter> outer(std::in_place);
  {
    const PrecisionRecorder recorder(*net);
    const DtypeCounter inner;
    net->first->forward(x);
    EXPECT_EQ(inner.report().ops, outer->report().ops);
    EXPECT_EQ(inner.report().ops.at("linear").at(torch::kFloat), 1);
    EXPECT_THAT(lines(recorder.report().forward), ElementsAre("first linear Float x1"));
    net->first->forward(x);
    outer.reset();
    net->first->forward(x);
    EXPECT_THAT(lines(recorder.report().forward), ElementsAre("first linear Float x3"));
  }
  const DtypeCounter later;
  net->first->forward(x);
  EXPECT_EQ(later.report().ops.at("linear").at(torch::kFloat), 1);
}

TEST_P(PrecisionReports, TheInnerOneRecords) {
  const PrecisionRecorder outer(*net);
  {
    const PrecisionRecorder inner(*net);
    net->first->forward(x);
    EXPECT_EQ(inner.report().forward.calls(), 1);
  }
  net->second->forward(x);
  EXPECT_THAT(lines(outer.report().forward), ElementsAre("second addmm Float x1"));
}

TEST(PrecisionReportText, IsTables) {
  PrecisionReport report;
  report.forward.ops = {{"body.0", "linear", torch::kBFloat16, 2},
                        {"", "softmax", torch::kFloat, 1}};
  report.forward.casts = {{"body.0", torch::kFloat, torch::kBFloat16, 3, 3 << 20}};
  report.backward.ops = {{"", "mm", torch::kBFloat16, 12}};
  report.unmatched_ops = {"bmm", "exp"};
  std::ostringstream text;
  text << report;
  EXPECT_EQ(text.str(),
            "forward: 2 of 3 ops ran in 16 bits; 3 casts, 3.0 MiB\n"
            "  module  op       dtype     calls\n"
            "  body.0  linear   bfloat16  2\n"
            "  -       softmax  float32   1\n"
            "  module  cast                  casts  written\n"
            "  body.0  float32  to bfloat16  3      3.0 MiB\n"
            "backward: 12 of 12 ops ran in 16 bits; 0 casts, 0 B\n"
            "  op  dtype     calls\n"
            "  mm  bfloat16  12\n"
            "rules that met no op call: bmm, exp\n");
}

TEST(PrecisionRecorder, LeavesOutWhatRunsWhilePaused) {
  const auto x = torch::randn({2, 2});
  PrecisionRecorder recorder;
  at::mm(x, x);
  recorder.pause();
  at::exp(x);
  recorder.resume();
  at::relu(x);
  const auto report = recorder.report();
  ASSERT_EQ(report.forward.ops.size(), 2U);
  EXPECT_EQ(report.forward.ops[0].op, "mm");
  EXPECT_EQ(report.forward.ops[1].op, "relu");
}

TEST(PrecisionRecorderDeathTest, EndsTheProgramWhenARecorderEndsOutOfOrder) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        auto outer = std::make_unique<PrecisionRecorder>();
        const PrecisionRecorder inner;
        outer.reset();
      },
      "\\[PrecisionRecorder\\] a guard must end on the thread that made it");
}

}  // namespace halfstep::inspect
