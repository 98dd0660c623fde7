// What is known of skipped steps afterwards: the log on the device, the report, late reads.
#include "halfstep/scaling/overflow_report.h"

#include "halfstep/core/error.h"
#include "halfstep/scaling/grad_scaler.h"
#include "halfstep/scaling/overflow_log.h"

#include <random>

#include <torch/optim/sgd.h>
#include <torch/types.h>

#include "tests/scaling/fused_for_tests.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/special_values.h"

namespace halfstep::testing {

class OverflowReports : public DeviceTest {
 protected:
  at::Tensor number(double value, c10::ScalarType dtype = c10::kFloat) const {
    return torch::full({}, value, torch::device(device()).dtype(dtype));
  }
};
HALFSTEP_ON_EACH_DEVICE(OverflowReports);

// Several pages, and every way a row is written, against a list kept here.
TEST_P(OverflowReports, LogRemembersTheLastOverflowsOfManyUpdates) {
  for (const bool by_operations : {false, true}) {
    for (const auto dtype : {c10::kFloat, c10::kDouble}) {
      SCOPED_TRACE(c10::str(by_operations ? "operations, " : "host, ", dtype));
      constexpr int64_t size = 7;
      detail::OverflowLog log(size, by_operations);
      const OverflowSource first{0, device()}, second{1, device()};
      ASSERT_EQ(log.bit_of(first), 1);
      ASSERT_EQ(log.bit_of(second), 2);
      ASSERT_EQ(log.bit_of(first), 1);
      std::mt19937 random(3);
      std::vector<SkippedUpdate> expected;
      int64_t skipped_steps = 0, since = 0;
      double scale = 1024;
      for (int64_t i = 1; i <= 1000; ++i) {
        // Long runs with and without, and a run at the end.
        const bool overflow = i > 990 || (i % 300 > 40 ? random() % 60 == 0 : random() % 2 == 0);
        const auto mask = overflow ? random() % 4 : 0;
        const double next = overflow ? scale / 2 : scale * 2;
        const auto before = log.begin_update(number(scale, dtype));
        log.end_update(before, number(next, dtype), number(overflow),
                       number(static_cast<double>(mask)), number(overflow ? 2 : 0));
        if (overflow) {
          SkippedUpdate skipped{i, scale, next, {}};
          if (mask & 1U) skipped.sources.push_back(first);
          if (mask & 2U) skipped.sources.push_back(second);
          expected.push_back(skipped);
          skipped_steps += 2;
        }
        since = overflow ? (since == 0 ? i : since) : 0;
        scale = next > 1e30 || next < 1e-30 ? 1024 : next;
        if (i % 101 != 0 && i < 990) continue;
        const auto report = log.report();
        ASSERT_EQ(report.updates, i);
        ASSERT_EQ(report.overflows, static_cast<int64_t>(expected.size()));
        ASSERT_EQ(report.skipped_steps, skipped_steps);
        ASSERT_EQ(report.overflowing_since, since);
        const auto shown = std::min<std::size_t>(expected.size(), size);
        ASSERT_EQ(report.last, std::vector<SkippedUpdate>(expected.end() - shown, expected.end()));
      }
      ASSERT_GT(expected.size(), 2u * size) << "too few overflows to prove anything";
    }
  }
}

TEST_P(OverflowReports, TellsWhoseStepWasSkipped) {
  for (const bool fused : {false, true}) {
    SCOPED_TRACE(fused ? "fused" : "ordinary");
    const auto options = torch::device(device()).requires_grad(true);
    std::vector<at::Tensor> parameters;
    for (int i = 0; i < 3; ++i) parameters.push_back(torch::zeros({2}, options));
    std::vector<std::unique_ptr<torch::optim::Optimizer>> optimizers;
    for (const auto& parameter : parameters) {
      const std::vector<at::Tensor> own{parameter};
      if (fused)
        optimizers.push_back(
            std::make_unique<FusedForTests>(own, FusedForTests::Kind::sgd, /*lr=*/0.1));
      else
        optimizers.push_back(std::make_unique<torch::optim::SGD>(own, 0.1));
    }
    GradScaler scaler(GradScalerOptions(GetParam()).init_scale(64).growth_interval(2));
    EXPECT_EQ(scaler.overflows().updates, 0);
    // Which of the three overflow, in three updates; the last one is unscaled but not stepped.
    const std::vector<std::vector<int>> overflows{{}, {1}, {0, 2}, {}};
    for (const auto& places : overflows) {
      scaler.scale(torch::ones({}, device()));
      for (std::size_t i = 0; i < parameters.size(); ++i)
        parameters[i].mutable_grad() = torch::ones_like(parameters[i]);
      for (const int i : places) parameters[i].mutable_grad()[0] = kInf;
      scaler.step(*optimizers[0]);
      scaler.step(*optimizers[1]);
      scaler.unscale_(*optimizers[2]);
      scaler.update();
    }
    const auto report = scaler.overflows();
    EXPECT_EQ(report.updates, 4);
    EXPECT_EQ(report.overflows, 2);
    EXPECT_EQ(report.skipped_steps, 2) << "the third optimizer was never stepped";
    EXPECT_EQ(report.overflowing_since, 0);
    ASSERT_EQ(report.last.size(), 2u);
    EXPECT_EQ(report.last[0], (SkippedUpdate{2, 64, 32, {{1, device()}}}));
    EXPECT_EQ(report.last[1].scale, 32);
    EXPECT_EQ(report.last[1].next_scale, 16);
    EXPECT_THAT(
        report.last[1].sources,
        ::testing::UnorderedElementsAre(OverflowSource{0, device()}, OverflowSource{2, device()}));
    EXPECT_THAT(report.text(),
                ::testing::StartsWith("2 of 4 updates followed an overflow, 2 steps were skipped\n"
                                      "update 2: scale 64 -> 32, found by optimizer 1 on "));
  }
}

// A scale set by hand at every step, as MMCV's static one, is no reason not to count.
TEST_P(OverflowReports, CountsUpdatesToANewScale) {
  auto parameter = torch::zeros({2}, torch::device(device()).requires_grad(true));
  torch::optim::SGD optimizer({parameter}, 0.1);
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(512));
  for (const float gradient : {1.0f, kInf, 1.0f, kInf}) {
    scaler.scale(torch::ones({}, device()));
    parameter.mutable_grad() = torch::full_like(parameter, gradient);
    scaler.step(optimizer);
    if (gradient == kInf)
      scaler.update(512.0);
    else
      scaler.update(torch::full({}, 512.0, device()));
  }
  const auto report = scaler.overflows();
  EXPECT_EQ(report.updates, 4);
  EXPECT_EQ(report.overflows, 2);
  EXPECT_EQ(report.overflowing_since, 4);
  ASSERT_EQ(report.last.size(), 2u);
  EXPECT_EQ(report.last[1].scale, 512);
}

TEST_P(OverflowReports, AnswerOfAFusedStepComesLate) {
  auto parameter = torch::zeros({2}, torch::device(device()).requires_grad(true));
  FusedForTests optimizer({parameter}, FusedForTests::Kind::sgd, /*lr=*/0.1);
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(64));
  for (const float gradient : {1.0f, kInf}) {
    scaler.scale(torch::ones({}, device()));
    parameter.mutable_grad() = torch::full_like(parameter, gradient);
    auto result = scaler.step(optimizer);
    EXPECT_FALSE(result.is_known());
    result.start_read();
    if (device().is_cpu()) {
      EXPECT_TRUE(result.is_known());
    }
    // The flag of this step, not of a later one that reuses its memory.
    const StepResult copy = result;
    scaler.update();
    EXPECT_EQ(result.stepped(), gradient != kInf);
    EXPECT_EQ(copy.stepped(), gradient != kInf);
    EXPECT_TRUE(result.is_known());
  }
  torch::optim::SGD ordinary({parameter}, 0.1);
  scaler.scale(torch::ones({}, device()));
  auto result = scaler.step(ordinary);
  result.start_read();
  EXPECT_TRUE(result.is_known());
  EXPECT_FALSE(result.stepped());
}

// As a CUDA graph does: the device's half once, the host's at each launch.
TEST_P(OverflowReports, AnUpdateInTwoHalvesIsNotedAtEachLaunch) {
  auto parameter = torch::zeros({2}, torch::device(device()).requires_grad(true));
  FusedForTests optimizer({parameter}, FusedForTests::Kind::sgd, /*lr=*/0.1);
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(64));
  scaler.scale(torch::ones({}, device()));
  EXPECT_EQ(scaler.why_not_captured(), "the scaler has yet to make its first update");
  parameter.mutable_grad() = torch::ones_like(parameter);
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(scaler.why_not_captured(), "");
  parameter.mutable_grad() = torch::full_like(parameter, kInf);
  scaler.step(optimizer);
  EXPECT_EQ(scaler.why_not_captured(), "optimizers were unscaled or stepped since the last update");
  const auto update = scaler.queue_update();
  EXPECT_EQ(scaler.get_scale(), 32);
  EXPECT_EQ(scaler.overflows().updates, 1);
  scaler.note_update(update);
  scaler.note_update(update);
  const auto report = scaler.overflows();
  EXPECT_EQ(report.updates, 3);
  EXPECT_EQ(report.overflows, 2);
  EXPECT_EQ(report.skipped_steps, 2);
  ASSERT_EQ(report.last.size(), 2u);
  EXPECT_EQ(report.last[0], (SkippedUpdate{2, 64, 32, {{0, device()}}}));
  EXPECT_EQ(scaler.why_not_captured(), "");
}

TEST_P(OverflowReports, AStepThatWasGivenUpIsForgotten) {
  auto parameter = torch::zeros({2}, torch::device(device()).requires_grad(true));
  torch::optim::SGD optimizer({parameter}, 0.1);
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(64));
  scaler.scale(torch::ones({}, device()));
  parameter.mutable_grad() = torch::full_like(parameter, kInf);
  scaler.unscale_(optimizer);
  scaler.forget_step();
  parameter.mutable_grad() = torch::ones_like(parameter);
  scaler.unscale_(optimizer);  // as if for the first time
  EXPECT_TRUE(scaler.step(optimizer).stepped());
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 64);
  EXPECT_EQ(scaler.overflows().overflows, 0);
}

TEST(OverflowReportOptions, SizeHasARange) {
  EXPECT_ERROR(GradScalerOptions(c10::kCPU).report_size(0).validate(), UsageError,
               "report_size must be from 1 to 65536", "got 0");
}

}  // namespace halfstep::testing
