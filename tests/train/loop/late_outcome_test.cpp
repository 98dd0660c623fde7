#include "halfstep/train/loop/late_outcome.h"

#include "halfstep/core/error.h"
#include "halfstep/train/loop/trainer.h"

#include <cmath>
#include <fstream>

#include <ATen/ops/zeros.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/train/loop/blobs.h"

namespace halfstep::train {

namespace {

using halfstep::testing::read_file;
using halfstep::testing::TempFolder;

TEST(LateOutcome, KnownResultsAreTakenAtOnce) {
  LateOutcome outcome;
  EXPECT_FALSE(outcome.is_known());
  EXPECT_FALSE(outcome.take().has_value());
  outcome.note(StepResult::known(false, {}, {}));
  EXPECT_TRUE(outcome.is_known());
  const auto taken = outcome.take();
  ASSERT_TRUE(taken.has_value());
  EXPECT_FALSE(taken->stepped());
  EXPECT_FALSE(outcome.is_known());
  EXPECT_FALSE(outcome.take().has_value());
  // The CPU's own flag is as good.
  outcome.note(StepResult::on_device(at::zeros({}), {}));
  EXPECT_TRUE(outcome.is_known());
}

// The step after may write the flag before the one at hand is taken.
TEST(LateOutcome, ReadsTheFlagAsItWasWhenItWasNoted) {
  const auto found_inf = at::zeros({});
  LateOutcome outcome(/*pretend=*/true);
  outcome.note(StepResult::on_device(found_inf, {}));
  EXPECT_FALSE(outcome.is_known());
  found_inf.fill_(1);
  const auto taken = outcome.take();
  ASSERT_TRUE(taken.has_value());
  EXPECT_TRUE(taken->is_known());
  EXPECT_TRUE(taken->stepped());
  outcome.note(StepResult::on_device(found_inf, {}));
  EXPECT_FALSE(outcome.take()->stepped());
}

TEST(LateOutcome, NoneIsLost) {
  LateOutcome outcome(/*pretend=*/true);
  outcome.note(StepResult::known(true, {}, {}));
  EXPECT_ERROR(outcome.note(StepResult::known(true, {}, {})), UsageError, "[LateOutcome::note]",
               "must be taken before the next one", "call take() before GradScaler::step");
}

class LateOutcomeGpu : public halfstep::testing::DeviceTest {};
TEST_P(LateOutcomeGpu, IsReadBehindTheStepThatMadeIt) {
  const auto found_inf = at::zeros({}, at::TensorOptions(device()));
  LateOutcome outcome;
  for (const bool overflow : {true, false, true}) {
    found_inf.fill_(overflow);
    outcome.note(StepResult::on_device(found_inf, {}));
    found_inf.fill_(!overflow);
    EXPECT_EQ(outcome.take()->stepped(), !overflow);
  }
}
HALFSTEP_ON_EACH_DEVICE(LateOutcomeGpu);

/// What a hook of the user sees after each step, without settling it.
struct Look : Hook {
  std::vector<int64_t> skipped;
  void after_train_iter(Trainer& trainer, const Batch&) override {
    skipped.push_back(trainer.progress().skipped_steps);
  }
};

struct StopAt : Hook {
  int64_t step;
  explicit StopAt(int64_t at) : step(at) {}
  void after_train_iter(Trainer& trainer, const Batch&) override {
    if (trainer.progress().step == step) trainer.request_stop();
  }
};

/// What a run leaves behind.
struct Left {
  Progress progress;
  std::vector<std::string> log;
  std::vector<int64_t> looks;
  std::string checkpoint;
  bool operator==(const Left&) const = default;
};

/// Runs of 2 epochs of 6 steps, whose step `bad` of each epoch (from 1) overflows.
class LateRun : public ::testing::TestWithParam<int64_t> {
 protected:
  static constexpr int64_t steps = 12;
  void SetUp() override { testing::register_blobs(); }

  Config config(const std::vector<std::string>& more) const {
    auto config = Config::parse(testing::blobs_config, "blobs.yaml");
    const auto nan_at = std::to_string(16 * (GetParam() - 1) + 3);
    for (const auto& assignment :
         {std::string("train_dataloader.shuffle=false"),
          "train_dataloader.dataset.nan_at=" + nan_at,
          std::string("optim_wrapper={type: AmpOptimWrapper, loss_scale: {init_scale: 64.0, "
                      "growth_interval: 3}, optimizer: {type: Adam, lr: 0.01}}"),
          std::string("param_scheduler=[{type: ExponentialLR, gamma: 0.8, by_epoch: false}]"),
          std::string("default_hooks.logger.interval=3")})
      config.override_with(assignment);
    for (const auto& assignment : more) config.override_with(assignment);
    return config;
  }

  // The log's lines without what differs from run to run.
  static std::vector<std::string> log_of(const std::filesystem::path& file) {
    std::vector<std::string> lines;
    std::ifstream stream(file);
    for (std::string line; std::getline(stream, line);) {
      auto json = nlohmann::ordered_json::parse(line);
      for (const char* key : {"samples_per_second", "time", "memory"}) json.erase(key);
      lines.push_back(json.dump());
    }
    return lines;
  }

  Left run(bool late, const std::vector<std::string>& more = {}, int64_t stop = -1) const {
    const TempFolder dir;
    Left left;
    RunOptions options{.work_dir = dir.path(), .late_outcomes = late};
    for (const int64_t at : {stop, int64_t{-1}}) {
      Trainer trainer(config(more), options);
      auto look = std::make_unique<Look>();
      auto& seen = look->skipped;
      trainer.register_hook(std::move(look), priority::low);
      trainer.register_hook(std::make_unique<StopAt>(at));
      trainer.train();
      left.looks.insert(left.looks.end(), seen.begin(), seen.end());
      left.progress = trainer.progress();
      if (at < 0) break;
      EXPECT_EQ(left.progress.step, at);
      EXPECT_EQ(left.progress.skipped_steps, (at >= GetParam()) + (at >= GetParam() + 6));
      options.resume = true;
    }
    left.log = log_of(dir.path() / "log.jsonl");
    left.checkpoint = read_file(WorkDir(dir.path()).checkpoint_file(steps));
    return left;
  }
};

TEST_P(LateRun, LeavesWhatARunLeavesThatKnowsAtOnce) {
  const auto at_once = run(false);
  auto late = run(true);
  ASSERT_EQ(at_once.progress.skipped_steps, 2) << "no overflow happened: the test proves nothing";
  ASSERT_FALSE(at_once.checkpoint.empty());
  // A hook that does not settle looks too early, unless the logger did it, which runs first.
  const auto bad = static_cast<size_t>(GetParam());
  EXPECT_EQ(at_once.looks[bad - 1], 1);
  EXPECT_EQ(late.looks[bad - 1], bad % 3 == 0 ? 1 : 0);
  late.looks = at_once.looks;
  EXPECT_EQ(late.log, at_once.log);
  std::vector<int64_t> skips;
  for (const auto& line : late.log)
    if (const auto json = nlohmann::json::parse(line); json["event"] == "skip")
      skips.push_back(json["step"]);
  EXPECT_EQ(skips, (std::vector<int64_t>{GetParam(), GetParam() + 6}));
  EXPECT_TRUE(late == at_once);
}

TEST_P(LateRun, ResumesToTheSameBitsWhereverItStopped) {
  const auto at_once = run(false);
  for (const int64_t stop : {GetParam() - 1, GetParam(), GetParam() + 1, steps - 1}) {
    if (stop == 0) continue;
    const auto resumed = run(true, {}, stop);
    EXPECT_TRUE(resumed.checkpoint == at_once.checkpoint) << "differs after a stop at " << stop;
    EXPECT_EQ(resumed.progress, at_once.progress);
  }
}

TEST_P(LateRun, SavesWithinAnEpochHoldTheStepTheyCount) {
  const std::vector<std::string> saving{"default_hooks.checkpoint={step_interval: 1, max_keep: 0}"};
  for (const bool late : {false, true}) {
    const TempFolder dir;
    Trainer trainer(config(saving), {.work_dir = dir.path(), .late_outcomes = late});
    trainer.train();
    for (int64_t step = 1; step <= steps; ++step) {
      const auto state = Checkpoint::load(trainer.work_dir().checkpoint_file(step)).state;
      const int64_t skipped = (step >= GetParam()) + (step >= GetParam() + 6);
      EXPECT_EQ(state["progress"]["skipped_steps"], skipped) << step;
      EXPECT_EQ(state["schedulers"][0], step - skipped) << step;
    }
    EXPECT_DOUBLE_EQ(trainer.learning_rate(), 0.01 * std::pow(0.8, steps - 2));
  }
}
INSTANTIATE_TEST_SUITE_P(BadStep, LateRun, ::testing::Values(1, 2, 5, 6));

class LateTrainer : public ::testing::Test {
 protected:
  void SetUp() override { testing::register_blobs(); }
  std::string error_of(bool late, const std::vector<std::string>& overrides) {
    auto config = Config::parse(testing::blobs_config, "blobs.yaml");
    for (const auto& assignment : overrides) config.override_with(assignment);
    Trainer trainer(std::move(config), {.work_dir = dir_.path(), .late_outcomes = late});
    try {
      trainer.train();
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  }
  TempFolder dir_;
};

TEST_F(LateTrainer, ErrorsNameTheStepThatMadeThem) {
  const std::string amp_wrapper = "optim_wrapper={type: AmpOptimWrapper, loss_scale: ";
  const std::vector<std::pair<const char*, std::vector<std::string>>> cases{
      {"at step 26",
       {"model={type: LoudNet, broken_from: 5}", "train_cfg.max_epochs=20",
        amp_wrapper + "{init_scale: 4.0, min_scale: 1.0}, optimizer: {type: Adam, lr: 0.01}}"}},
      {"at step 11",
       {"train_cfg.max_epochs=20", amp_wrapper + "512, optimizer: {type: SGD, lr: 1.0e+30}}"}},
      {"all 3 were skipped",
       {"train_dataloader.batch_size=96", "train_cfg.max_epochs=3",
        amp_wrapper + "3.4e+38, optimizer: {type: SGD, lr: 0.01}}"}},
      {"at step 2", {"train_dataloader={batch_size: 16, dataset: {type: Blobs, nan_at: 20}}"}},
  };
  for (const auto& [place, overrides] : cases) {
    const auto at_once = error_of(false, overrides);
    EXPECT_THAT(at_once, ::testing::HasSubstr(place));
    EXPECT_EQ(error_of(true, overrides), at_once);
  }
}

TEST_F(LateTrainer, FallsBackBeforeTheNextLossIsScaled) {
  std::vector<std::string> checkpoints;
  for (const bool late : {false, true}) {
    auto config = Config::parse(testing::blobs_config, "blobs.yaml");
    config.override_with("model={type: LoudNet, gain: 1.0e+6}");
    config.override_with(
        "optim_wrapper={type: AmpOptimWrapper, dtype: float16, loss_scale: {init_scale: 4.0, "
        "min_scale: 1.0, at_min_scale: fall_back, min_scale_patience: 2}, optimizer: {type: Adam, "
        "lr: 0.01}}");
    const TempFolder dir;
    Trainer trainer(std::move(config), {.work_dir = dir.path(), .late_outcomes = late});
    trainer.train();
    EXPECT_TRUE(trainer.fell_back());
    EXPECT_EQ(trainer.progress().skipped_steps, 4);
    checkpoints.push_back(read_file(trainer.work_dir().checkpoint_file(12)));
    ASSERT_FALSE(checkpoints.back().empty());
  }
  EXPECT_TRUE(checkpoints[0] == checkpoints[1]);
}

// On a GPU, whose outcomes are late by themselves: what the run counted is what the scaler did.
TEST_F(LateTrainer, CountsWhatTheScalerSkippedOnAGpu) {
  HALFSTEP_REQUIRE_CUDA(1);
  auto config = Config::parse(testing::blobs_config, "blobs.yaml");
  config.override_with(
      "optim_wrapper={type: AmpOptimWrapper, dtype: bfloat16, loss_scale: {init_scale: 3.0e+38}, "
      "optimizer: {type: AdamW, lr: 0.01}}");
  config.override_with("param_scheduler=[{type: ExponentialLR, gamma: 0.5, by_epoch: false}]");
  Trainer trainer(std::move(config), {.work_dir = dir_.path(), .device = c10::kCUDA});
  trainer.train();
  const auto report = trainer.scaler().overflows();
  EXPECT_GT(report.skipped_steps, 0) << "no overflow happened: the test proves nothing";
  EXPECT_EQ(trainer.progress().skipped_steps, report.skipped_steps);
  EXPECT_EQ(trainer.parts().wrappers[0].schedulers.counts()[0], 12 - report.skipped_steps);
}

}  // namespace

}  // namespace halfstep::train
