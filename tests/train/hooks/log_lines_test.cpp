// The lines of the log in runs: text, scalars.json, and the gradients' figures in log.jsonl.
#include "halfstep/core/error.h"
#include "halfstep/train/hooks/log_processor.h"

#include <algorithm>
#include <map>

#include <c10/core/CachingDeviceAllocator.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/train/loop/blob_runs.h"

namespace halfstep::train {
namespace {

using halfstep::testing::TempFolder;
using testing::lines_of;

class LoggedRuns : public testing::BlobRuns {};

TEST_F(LoggedRuns, LinesInMMEnginesForm) {
  ::testing::internal::CaptureStdout();
  auto run =
      trainer({"optim_wrapper={type: AmpOptimWrapper, loss_scale: 512., optimizer: {type: "
               "Adam, lr: 0.01}}"});
  run->message_hub().update_scalar("train/grad_norm", 2.5);
  run->train();
  const auto output = ::testing::internal::GetCapturedStdout();
  const std::string times = "eta: 0:00:0[0-9]  time: 0\\.[0-9]{4}  data_time: 0\\.[0-9]{4}  ";
  EXPECT_THAT(output,
              ::testing::ContainsRegex(
                  "Epoch\\(train\\) \\[1\\]\\[4/6\\]  lr: 1\\.0000e-02  " + times +
                  "grad_norm: 2\\.5000  loss: [0-9]+\\.[0-9]{4}  loss_scale: 512  skipped: 0\n"));
  EXPECT_THAT(output,
              ::testing::ContainsRegex("Epoch\\(train\\) \\[2\\]\\[4/6\\]  lr: 5\\.0000e-03  "));
  EXPECT_THAT(output, ::testing::ContainsRegex(
                          "Epoch\\(val\\) \\[2\\]\\[3/3\\]    accuracy: [01]\\.[0-9]{4}  loss: "
                          "[0-9]+\\.[0-9]{4}  data_time: 0\\.[0-9]{4}  time: 0\\.[0-9]{4}\n"));
  const auto scalars = lines_of(run->work_dir().scalars_file());
  ASSERT_EQ(scalars.size(), 4);
  for (const char* key : {"lr", "loss", "time", "data_time", "epoch", "iter", "step", "loss_scale"})
    EXPECT_TRUE(scalars[0].contains(key)) << key;
  EXPECT_EQ(scalars[2]["epoch"], 2);
  EXPECT_EQ(scalars[2]["step"], 10);
  EXPECT_EQ(scalars[3]["step"], 2);
  EXPECT_EQ(scalars[3]["accuracy"], *run->evaluation()->accuracy);
}

TEST_F(LoggedRuns, LinesOfAValidation) {
  ::testing::internal::CaptureStdout();
  trainer({"default_hooks.logger.interval=2", "train_cfg.max_epochs=1"})->train();
  const auto output = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(output,
              ::testing::ContainsRegex("Epoch\\(val\\) \\[1\\]\\[2/3\\]    eta: 0:00:0[0-9]  "
                                       "time: 0\\.[0-9]{4}  data_time: 0\\.[0-9]{4}"));
  EXPECT_THAT(output, ::testing::Not(::testing::HasSubstr("[1/3]")));
}

TEST_F(LoggedRuns, LinesByIteration) {
  ::testing::internal::CaptureStdout();
  trainer({"train_cfg={by_epoch: false, max_iters: 100, val_interval: 50}", "param_scheduler=[]",
           "default_hooks.logger.interval=50"})
      ->train();
  const auto output = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(output,
              ::testing::ContainsRegex("Iter\\(train\\) \\[ 50/100\\]  lr: 1\\.0000e-02  eta: "));
  EXPECT_THAT(output, ::testing::ContainsRegex("Iter\\(train\\) \\[100/100\\]  "));
  EXPECT_THAT(output, ::testing::ContainsRegex("Iter\\(val\\) \\[3/3\\]    accuracy: "));
}

// With groups of their own rates, the rate they come from goes before the first group's.
TEST_F(LoggedRuns, TheBaseRateWhereGroupsHaveTheirOwn) {
  ::testing::internal::CaptureStdout();
  const auto run =
      trainer({"optim_wrapper.paramwise_cfg={custom_keys: {first: {lr_mult: 0.1}, "
               "last: {lr_mult: 10}}}"});
  run->train();
  EXPECT_THAT(::testing::internal::GetCapturedStdout(),
              ::testing::HasSubstr("  base_lr: 5.0000e-03 lr: 5.0000e-04  eta: "));
  EXPECT_EQ(log().back()["base_lr"], 0.0025);
  EXPECT_EQ(run->learning_rate(), 0.0025);
}

/// Memory of which 3 MiB and a half were in use at the most.
struct FakeMemory : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t) override { return {}; }
  void copy_data(void*, const void*, std::size_t) const override {}
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    asked = index;
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0].peak = (7 << 20) / 2;
    stats.allocated_bytes[0].current = 1 << 20;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {}
  int asked = -1;
};

TEST(LogLines, MemoryIsThePeakOfTheDevicesAllocatorInWholeMebibytes) {
  static FakeMemory memory;
  c10::SetAllocator(c10::kPrivateUse1, &memory);
  EXPECT_EQ(peak_mebibytes(c10::Device(c10::kPrivateUse1, 2)), 3);
  EXPECT_EQ(memory.asked, 2);
  EXPECT_EQ(peak_mebibytes(c10::Device(c10::kPrivateUse1)), 3);
  EXPECT_EQ(memory.asked, 0);
}

TEST_F(LoggedRuns, MemoryOfAGpu) {
  HALFSTEP_REQUIRE_CUDA(1);
  const auto big = torch::zeros({64, 1 << 20}, torch::kCUDA);
  ::testing::internal::CaptureStdout();
  const auto run = trainer({}, {.device = c10::Device(c10::kCUDA, 0)});
  run->train();
  EXPECT_THAT(::testing::internal::GetCapturedStdout(),
              ::testing::ContainsRegex("data_time: [0-9.]+  memory: [0-9]+  loss: "));
  EXPECT_GE(lines_of(run->work_dir().scalars_file())[0]["memory"], 256);
}

// The line's loss is the mean of the last ten, log.jsonl's that of the step.
TEST_F(LoggedRuns, LossesAreSmoothedOverTheWindow) {
  struct Keep : Hook {
    std::vector<double> losses;
    void after_train_iter(Trainer& trainer, const Batch&) override {
      losses.push_back(trainer.loss().item<double>());
    }
  };
  auto run = trainer({"log_processor={window_size: 5}", "default_hooks.logger={interval: 6}"});
  auto keep = std::make_unique<Keep>();
  const auto& losses = keep->losses;
  run->register_hook(std::move(keep));
  run->train();
  double sum = 0;
  for (size_t i = 7; i < 12; ++i) sum += losses.at(i);
  EXPECT_NEAR(lines_of(run->work_dir().scalars_file())[2]["loss"], sum / 5, 1e-6);
  double last = 0;
  for (const auto& line : lines_of(run->work_dir().log_file()))
    if (line["event"] == "train") last = line["loss"];
  EXPECT_EQ(last, losses.back());
}

// MMEngine's custom_cfg: other statistics, under names of their own or in the place of what is
// there.
TEST_F(LoggedRuns, CustomStatistics) {
  struct Keep : Hook {
    std::vector<double> losses;
    void after_train_iter(Trainer& trainer, const Batch&) override {
      losses.push_back(trainer.loss().item<double>());
    }
  };
  ::testing::internal::CaptureStdout();
  auto run = trainer(
      {"log_processor.custom_cfg=[{data_src: loss, log_name: loss_best, method_name: min, "
       "window_size: 4}, {data_src: loss, log_name: loss_worst, method_name: max, window_size: 4}, "
       "{data_src: loss, method_name: current}, {data_src: time, method_name: mean, window_size: "
       "2}]"});
  auto keep = std::make_unique<Keep>();
  const auto& losses = keep->losses;
  run->register_hook(std::move(keep));
  run->train();
  EXPECT_THAT(::testing::internal::GetCapturedStdout(),
              ::testing::ContainsRegex(
                  "  loss: [0-9.]+  loss_best: [0-9.]+  loss_worst: [0-9.]+  skipped"));
  const auto line = lines_of(run->work_dir().scalars_file())[0];
  ASSERT_EQ(line["step"], 4);
  const auto [least, most] = std::minmax_element(losses.begin(), losses.begin() + 4);
  EXPECT_EQ(line["loss_best"], *least);
  EXPECT_EQ(line["loss_worst"], *most);
  EXPECT_EQ(line["loss"], losses[3]);
}

TEST_F(LoggedRuns, CustomStatisticsAreChecked) {
  const auto fails = [&](const std::string& entries, const char* rule) {
    EXPECT_ERROR(trainer({"log_processor.custom_cfg=[" + entries + "]"}), UsageError, rule);
  };
  fails("{method_name: min}", "'data_src' is missing");
  fails("{data_src: loss, method_name: median, window_size: 5}",
        "must be mean, min, max or current");
  fails("{data_src: loss, method_name: mean}",
        "window_size must be a number of values from 1 to 100");
  fails("{data_src: loss, method_name: mean, window_size: global}", "no 'epoch' and no 'global'");
  fails("{data_src: loss, method_name: mean, window_size: 101}",
        "window_size must be from 1 to 100");
  fails("{data_src: loss, method_name: current, window_size: 5}", "unknown key 'window_size'");
  fails("{data_src: loss, method_name: current}, {data_src: loss, method_name: current}",
        "data_src must give each line's number once");
}

TEST_F(LoggedRuns, TheLastBatchIsLoggedWhereItWouldBeMissing) {
  const auto batches = [&](const std::string& logger) {
    const TempFolder dir;
    Trainer run(config({"train_cfg.max_epochs=1", "default_hooks.logger={" + logger + "}"}),
                {.work_dir = dir.path()});
    run.train();
    std::vector<int> result;
    for (const auto& line : lines_of(run.work_dir().log_file()))
      if (line["event"] == "train") result.push_back(line["batch"]);
    return result;
  };
  EXPECT_EQ(batches("interval: 4"), (std::vector<int>{4}));
  EXPECT_EQ(batches("interval: 4, ignore_last: false"), (std::vector<int>{4, 6}));
  EXPECT_EQ(batches("interval: 50"), (std::vector<int>{6}));
}

// Gradients

TEST_F(LoggedRuns, GradientStatisticsWithoutTheLossScale) {
  struct Norms : Hook {
    std::vector<double> norms;
    void after_backward(Trainer& trainer) override {
      const auto gradient = trainer.parts().model->parameters().front().grad().to(torch::kDouble);
      norms.push_back(gradient.norm().item<double>() / 512);
    }
  };
  for (const char* by : {"parameter", "module"}) {
    const TempFolder dir;
    Trainer run(
        config({"optim_wrapper={type: AmpOptimWrapper, loss_scale: 512., optimizer: {type: "
                "Adam, lr: 0.01}}",
                std::string("custom_hooks=[{type: GradientStatisticsHook, interval: 5, by: ") + by +
                    "}]"}),
        {.work_dir = dir.path()});
    auto own = std::make_unique<Norms>();
    const auto& norms = own->norms;
    run.register_hook(std::move(own));
    run.train();
    std::vector<nlohmann::ordered_json> lines;
    for (auto& line : lines_of(run.work_dir().log_file()))
      if (line["event"] == "gradients") lines.push_back(line);
    ASSERT_EQ(lines.size(), 2);
    EXPECT_EQ(lines[1]["step"], 10);
    EXPECT_EQ(lines[1]["loss_scale"], 512);
    const auto& gradients = lines[1]["gradients"];
    if (std::string_view(by) == "parameter") {
      EXPECT_EQ(gradients.size(), 4);
      EXPECT_NEAR(gradients["first.weight"]["norm"], norms.at(9), 1e-9);
      EXPECT_EQ(gradients["first.weight"]["nonfinite"], 0);
    } else {
      EXPECT_EQ(gradients.size(), 2);
      EXPECT_GT(gradients["first"]["norm"], norms.at(9));
    }
  }
}

std::vector<nlohmann::ordered_json> gradient_lines(const Trainer& run) {
  std::vector<nlohmann::ordered_json> lines;
  for (auto& line : lines_of(run.work_dir().log_file()))
    if (line["event"] == "gradients") lines.push_back(line);
  return lines;
}

TEST_F(LoggedRuns, GradientStatisticsOfEachOptimizer) {
  struct Norms : Hook {
    std::map<std::string, double> last;
    void after_backward(Trainer& trainer) override {
      const auto& parts = trainer.active_wrapper();
      const auto gradient = parts.wrapper->param_groups()[0].params()[0].grad().to(torch::kDouble);
      last[parts.name] = gradient.norm().item<double>() / parts.scaler()->get_scale();
    }
  };
  const auto run = trainer(
      {"model.type=TwoStepNet", "custom_hooks=[{type: GradientStatisticsHook, interval: 12}]",
       "optim_wrapper={constructor: OptimWrapperConstructor, first: {type: AmpOptimWrapper, "
       "loss_scale: 512., optimizer: {type: Adam}}, last: {type: AmpOptimWrapper, loss_scale: 4., "
       "optimizer: {type: Adam}}}"});
  auto own = std::make_unique<Norms>();
  const auto& norms = own->last;
  run->register_hook(std::move(own));
  run->train();
  const auto lines = gradient_lines(*run);
  ASSERT_EQ(lines.size(), 1);
  EXPECT_EQ(lines[0]["step"], 12);
  EXPECT_EQ(lines[0]["first.loss_scale"], 512);
  EXPECT_EQ(lines[0]["last.loss_scale"], 4);
  const auto& gradients = lines[0]["gradients"];
  ASSERT_EQ(gradients.size(), 4);
  EXPECT_NEAR(gradients["first.weight"]["norm"], norms.at("first"), 1e-9);
  EXPECT_NEAR(gradients["last.weight"]["norm"], norms.at("last"), 1e-9);
}

// Steps 5 and 10 only accumulate: the updates of steps 8 and 12 are the next ones.
TEST_F(LoggedRuns, GradientStatisticsWaitForTheUpdate) {
  const auto run = trainer({"custom_hooks=[{type: GradientStatisticsHook, interval: 5}]",
                            "optim_wrapper.accumulative_counts=4"});
  run->train();
  std::vector<int> steps;
  for (const auto& line : gradient_lines(*run)) steps.push_back(line["step"]);
  EXPECT_EQ(steps, (std::vector<int>{8, 12}));
}

TEST_F(LoggedRuns, GradientStatisticsShowWhereAnOverflowBegan) {
  auto run =
      trainer({"model={type: LoudNet, broken_from: 2}", "test_dataloader=null",
               "optim_wrapper={type: AmpOptimWrapper, loss_scale: 4., optimizer: {type: Adam}}",
               "train_dataloader.batch_size=48",
               "custom_hooks=[{type: GradientStatisticsHook, interval: 1}]"});
  run->train();
  std::vector<nlohmann::ordered_json> lines;
  for (auto& line : lines_of(run->work_dir().log_file()))
    if (line["event"] == "gradients") lines.push_back(line);
  ASSERT_EQ(lines.size(), 4);
  EXPECT_EQ(lines[0]["gradients"]["first.weight"]["nonfinite"], 0);
  EXPECT_EQ(lines[1]["gradients"]["first.weight"]["nonfinite"], 1);
  EXPECT_EQ(lines[1]["gradients"]["first.weight"]["norm"], nullptr);
  EXPECT_EQ(lines[1]["gradients"]["last.weight"]["nonfinite"], 0);
}

}  // namespace
}  // namespace halfstep::train
