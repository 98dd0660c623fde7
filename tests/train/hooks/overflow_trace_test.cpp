// What --trace-overflow tells of a run.
#include "halfstep/core/error.h"
#include "halfstep/train/hooks/overflow_trace_hook.h"

#include <torch/nn/utils/convert_parameters.h>

#include "tests/support/errors.h"
#include "tests/train/loop/blob_runs.h"

namespace halfstep::train {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kAmp =
    "optim_wrapper={type: AmpOptimWrapper, loss_scale: 4., optimizer: {type: Adam}}";

class TracedRuns : public testing::BlobRuns {
 protected:
  /// What the run printed, also where it ended in a UsageError.
  std::string printed(Trainer& run) {
    ::testing::internal::CaptureStdout();
    try {
      run.train();
    } catch (const UsageError& error) {
      error_ = error.what();
    }
    return ::testing::internal::GetCapturedStdout();
  }
  std::vector<nlohmann::ordered_json> lines(const std::string& event) const {
    std::vector<nlohmann::ordered_json> found;
    for (auto& line : log())
      if (line["event"] == event) found.push_back(line);
    return found;
  }
  std::string error_;
};

TEST_F(TracedRuns, NameTheForwardOpThatOverflowed) {
  const auto run = trainer({"model={type: LoudNet, gain: 3.0e+4}", "test_dataloader=null",
                            "optim_wrapper={type: AmpOptimWrapper, dtype: float16, loss_scale: "
                            "dynamic, optimizer: {type: Adam}}",
                            "train_cfg.max_epochs=1"},
                           {.trace_overflow = true});
  const auto text = printed(*run);
  EXPECT_THAT(text, HasSubstr("first inf or NaN of step 1: forward: mul"));
  EXPECT_THAT(text, HasSubstr(" gave inf\n"));
  const auto found = lines("overflow");
  ASSERT_GE(found.size(), 1);
  EXPECT_EQ(found[0]["step"], 1);
  EXPECT_EQ(found[0]["direction"], "forward");
  EXPECT_EQ(found[0]["op"], "mul");
  EXPECT_EQ(found[0]["gave"], "inf");
  EXPECT_EQ(found[0]["result"]["dtype"], "float16");
  EXPECT_GT(found[0]["inputs"][0]["max"], 0);
  EXPECT_LT(found[0]["inputs"][0]["max"], 65504);
}

TEST_F(TracedRuns, NameTheBackwardOpOnceAndCountItsSteps) {
  const auto run = trainer({"model={type: LoudNet, broken_from: 3}", "test_dataloader=null", kAmp,
                            "train_cfg.max_epochs=1"},
                           {.trace_overflow = true});
  const auto text = printed(*run);
  EXPECT_EQ(error_, "");
  EXPECT_THAT(text, HasSubstr("first inf or NaN of step 3: backward: "));
  EXPECT_THAT(text, HasSubstr("a gradient of sqrt"));
  EXPECT_THAT(text, Not(HasSubstr("first inf or NaN of step 4")));
  EXPECT_THAT(text, HasSubstr("first inf or NaN in 4 of 6 steps: backward: "));
  const auto found = lines("overflow");
  ASSERT_EQ(found.size(), 4);
  EXPECT_EQ(found[0]["step"], 3);
  EXPECT_EQ(found[3]["step"], 6);
  EXPECT_EQ(found[0]["direction"], "backward");
  EXPECT_EQ(found[0]["gradient_of"], "sqrt");
}

TEST_F(TracedRuns, TellOfTheStepThatEndsTheRun) {
  const auto run = trainer({"model={type: LoudNet, broken_from: 2}", "test_dataloader=null"},
                           {.trace_overflow = true});
  const auto text = printed(*run);
  EXPECT_NE(error_, "") << "nothing ended the run";
  EXPECT_THAT(text, HasSubstr("first inf or NaN of step 2: backward: "));
}

TEST_F(TracedRuns, TellThatThereWasNoneAndHowLargeGradientsAre) {
  const auto run = trainer({"custom_hooks=[{type: OverflowTraceHook, interval: 5}]", kAmp});
  const auto text = printed(*run);
  EXPECT_THAT(text, HasSubstr("no inf or NaN in 12 steps\n"));
  EXPECT_THAT(text, HasSubstr("gradients of step 11: "));
  EXPECT_THAT(text, HasSubstr("  float16 at the loss scale 2^2: "));
  const auto exponents = lines("gradient_exponents");
  ASSERT_EQ(exponents.size(), 3);
  EXPECT_EQ(exponents[1]["step"], 6);
  EXPECT_EQ(exponents[1]["loss_scale"], 4);
  EXPECT_GT(exponents[1]["recommended_scale"], 1);
  int64_t elements = exponents[1]["zeros"].get<int64_t>();
  for (const auto& [exponent, count] : exponents[1]["counts"].items())
    elements += count.get<int64_t>();
  int64_t weights = 0;
  for (const auto& parameter : run->parts().model->parameters()) weights += parameter.numel();
  EXPECT_EQ(elements, weights);
  EXPECT_TRUE(lines("overflow").empty());
}

TEST_F(TracedRuns, TellEachStepOnceWhereTwoAsk) {
  const auto run = trainer({"model={type: LoudNet, broken_from: 3}", "test_dataloader=null", kAmp,
                            "train_cfg.max_epochs=1", "custom_hooks=[{type: OverflowTraceHook}]"},
                           {.trace_overflow = true});
  printed(*run);
  EXPECT_EQ(lines("overflow").size(), 4);
}

TEST_F(TracedRuns, LookAtEachOptimizersStep) {
  const auto run = trainer(
      {"model.type=TwoStepNet", "train_cfg.max_epochs=1",
       "optim_wrapper={constructor: OptimWrapperConstructor, first: {type: AmpOptimWrapper, "
       "loss_scale: 512., optimizer: {type: Adam}}, last: {type: AmpOptimWrapper, loss_scale: 4., "
       "optimizer: {type: Adam}}}"},
      {.trace_overflow = true});
  const auto text = printed(*run);
  EXPECT_THAT(text, HasSubstr("no inf or NaN in 6 steps\n")) << "an update is none of the model's";
  EXPECT_THAT(text, HasSubstr("gradients of step 1 of first: "));
  EXPECT_THAT(text, HasSubstr("gradients of step 1 of last: "));
}

TEST_F(TracedRuns, GiveTheBitsOfARunWithoutTracing) {
  const auto weights = [&](bool traces) {
    const halfstep::testing::TempFolder dir;
    Trainer run(config({kAmp}), {.work_dir = dir.path(), .trace_overflow = traces});
    ::testing::internal::CaptureStdout();
    run.train();
    ::testing::internal::GetCapturedStdout();
    return torch::nn::utils::parameters_to_vector(run.parts().model->parameters());
  };
  EXPECT_TRUE(torch::equal(weights(true), weights(false)));
}

TEST_F(TracedRuns, RefuseAnIntervalBelowOne) {
  EXPECT_ERROR(trainer({"custom_hooks=[{type: OverflowTraceHook, interval: 0}]"}), UsageError,
               "interval", "must be at least 1 step");
}

}  // namespace
}  // namespace halfstep::train
