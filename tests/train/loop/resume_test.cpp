#include "halfstep/core/error.h"
#include "halfstep/train/loop/trainer.h"

#include <fstream>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/train/loop/blobs.h"
#include <gtest/gtest.h>

namespace halfstep::train {

namespace {

using halfstep::testing::read_file;
using halfstep::testing::TempFolder;

// Stops the run after a given step, as a signal would.
struct StopAt : Hook {
  int64_t step;
  explicit StopAt(int64_t at) : step(at) {}
  void after_train_iter(Trainer& trainer, const Batch&) override {
    if (trainer.progress().step == step) trainer.request_stop();
  }
};

constexpr int64_t steps = 12;

struct Case {
  const char* name;
  const char* optim_wrapper;
  std::vector<std::string> more = {};
};

// Scales so near float32's largest number that bfloat16 gradients overflow, again each time the
// scale has grown.
const Case cases[] = {
    {"Float32", "{type: OptimWrapper, optimizer: {type: Adam, lr: 0.01}}"},
    {"Bfloat16", "{type: AmpOptimWrapper, optimizer: {type: SGD, lr: 0.01, momentum: 0.9}}"},
    {"ScaleInMidGrowth",
     "{type: AmpOptimWrapper, loss_scale: {init_scale: 8, growth_interval: 5}, optimizer: {type: "
     "Adam, lr: 0.01}}"},
    {"Overflows",
     "{type: AmpOptimWrapper, loss_scale: {init_scale: 3.0e+38, growth_interval: 2, growth_factor: "
     "64.0, backoff_factor: "
     "0.015625}, optimizer: {type: AdamW, lr: 0.01}}"},
    {"Masters",
     "{type: AmpOptimWrapper, dtype: float16, loss_scale: {init_scale: 1.0e+6, growth_interval: "
     "4}, "
     "optimizer: {type: Adam, lr: 0.01, master_weights: float32}}"},
    {"MasterRemainders",
     "{type: AmpOptimWrapper, optimizer: {type: SGD, lr: 0.01, momentum: 0.9, master_weights: "
     "remainder}}"},
    {"Accumulates",
     "{type: OptimWrapper, accumulative_counts: 5, clip_grad: {max_norm: 0.5}, optimizer: {type: "
     "Adam, lr: 0.01}}"},
    {"AccumulatesScaled",
     "{type: AmpOptimWrapper, dtype: float16, accumulative_counts: 3, clip_grad: {max_norm: 0.5, "
     "norm_type: 1}, loss_scale: {init_scale: 1.0e+5, growth_interval: 2}, optimizer: {type: SGD, "
     "lr: 0.01, momentum: 0.9}}"},
    {"TwoOptimizers",
     "{constructor: OptimWrapperConstructor, first: {type: AmpOptimWrapper, dtype: float16, "
     "accumulative_counts: 2, optimizer: {type: Adam, lr: 0.01}}, last: {type: OptimWrapper, "
     "accumulative_counts: 3, optimizer: {type: RMSprop, lr: 0.01}}}",
     {"model.type=TwoStepNet", "test_cfg={fp16: false}"}},
    {"Plateau",
     "{type: OptimWrapper, optimizer: {type: SGD, lr: 0.01}}",
     {"param_scheduler=[{type: ReduceOnPlateauLR, threshold: 0.9, patience: 0}]"}},
    {"HookWithState",
     "{type: OptimWrapper, optimizer: {type: SGD, lr: 0.01}}",
     {"custom_hooks=[{type: Drift}]"}},
    {"AverageBestAndEarlyStopping",
     "{type: AmpOptimWrapper, optimizer: {type: Adam, lr: 0.01}}",
     {"custom_hooks=[{type: Drift}, {type: EMAHook, momentum: 0.2, begin_iter: 2}, {type: "
      "EarlyStoppingHook, monitor: loss, min_delta: 0.0}]",
      "default_hooks.checkpoint.save_best=auto"}},
    {"AverageOf16BitWeights",
     "{type: AmpOptimWrapper, optimizer: {type: Adam, lr: 0.01, master_weights: remainder}}",
     {"custom_hooks=[{type: EMAHook, ema_type: StochasticWeightAverage}]"}},
    {"ByIterations",
     "{type: AmpOptimWrapper, loss_scale: {init_scale: 3.0e+38, growth_interval: 2, growth_factor: "
     "64.0, backoff_factor: 0.015625}, optimizer: {type: AdamW, lr: 0.01}}",
     {"train_cfg={type: IterBasedTrainLoop, max_iters: 12, val_interval: 5}",
      "param_scheduler=[{type: LinearLR, by_epoch: false, end: 4}, {type: CosineAnnealingLR, "
      "by_epoch: false, begin: 3, end: 9, eta_min: 1.0e-4}]",
      "default_hooks.checkpoint.save_best=loss", "custom_hooks=[{type: Drift}]"}},
};

class Resume : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override { testing::register_blobs(); }

  Config config() const {
    auto config = Config::parse(testing::blobs_config, "blobs.yaml");
    config.override_with(std::string("optim_wrapper=") + GetParam().optim_wrapper);
    for (const auto& assignment : GetParam().more) config.override_with(assignment);
    // Each step is saved by the hook, not at the stop.
    config.override_with("default_hooks.checkpoint.step_interval=1");
    return config;
  }

  // The final checkpoint's bytes of a run that is stopped after each given step and resumed in a
  // new Trainer.
  std::string run(const TempFolder& dir, std::vector<int64_t> stops) {
    RunOptions options{.work_dir = dir.path()};
    stops.push_back(-1);
    for (const auto stop : stops) {
      torch::manual_seed(1000 + stop);  // what a new process finds in the generator must not matter
      Trainer trainer(config(), options);
      trainer.register_hook(std::make_unique<StopAt>(stop));
      trainer.train();
      skipped_ = trainer.progress().skipped_steps;
      scale_ = trainer.scaler().get_scale();
      EXPECT_EQ(trainer.progress().step, stop < 0 ? steps : stop);
      options.resume = true;
    }
    return read_file(WorkDir(dir.path()).checkpoint_file(steps));
  }

  int64_t skipped_ = 0;
  double scale_ = 1;
};

TEST_P(Resume, EqualsTheUnbrokenRunWhereverItStopped) {
  const TempFolder whole;
  const auto expected = run(whole, {});
  ASSERT_FALSE(expected.empty());
  const std::string name = GetParam().name;
  if (name == "Overflows" || name == "Masters" || name == "ByIterations") {
    ASSERT_GE(skipped_, 3) << "no overflow happened: the case proves nothing";
    ASSERT_LT(skipped_, steps) << "every step was skipped: the case proves nothing";
  }
  if (name == "ScaleInMidGrowth") {
    ASSERT_EQ(scale_, 32) << "the scale did not grow twice in 12 steps";
  }
  for (int64_t stop = 1; stop <= steps; ++stop) {
    const TempFolder dir;
    EXPECT_TRUE(run(dir, {stop}) == expected) << "differs after a stop at step " << stop;
  }
  const TempFolder dir;
  EXPECT_TRUE(run(dir, {1, 2, 5, 6, 7, 11}) == expected) << "differs after six stops";
}

INSTANTIATE_TEST_SUITE_P(Of, Resume, ::testing::ValuesIn(cases),
                         [](const auto& of) { return of.param.name; });

class ResumeErrors : public ::testing::Test {
 protected:
  void SetUp() override { testing::register_blobs(); }
  // A run that is stopped after 3 steps.
  void start(const std::string& assignment = "", bool amp = false) {
    Trainer trainer(config(assignment), {.work_dir = dir_.path(), .amp = amp});
    trainer.register_hook(std::make_unique<StopAt>(3));
    trainer.train();
  }
  void resume(const std::string& assignment = "", RunOptions options = {}) {
    options.work_dir = dir_.path();
    options.resume = true;
    Trainer trainer(config(assignment), options);
    EXPECT_EQ(trainer.progress().step, 3);
  }
  // Changes the state in the checkpoint.
  template <class Change>
  void damage(const Change& change) {
    const auto file = dir_.path() / "checkpoints" / "step_00000003.safetensors";
    auto checkpoint = Checkpoint::load(file);
    change(checkpoint.state);
    checkpoint.save(file);
  }
  static Config config(const std::string& assignment) {
    auto config = Config::parse(testing::blobs_config);
    if (!assignment.empty()) config.override_with(assignment);
    return config;
  }
  TempFolder dir_;
};

TEST_F(ResumeErrors, EachOtherSettingIsNamedWithBothValues) {
  start();
  const std::pair<const char*, const char*> changes[] = {
      {"optim_wrapper.optimizer.lr=0.5", "optim_wrapper.optimizer.lr = 0.5 (it was 0.01)"},
      {"optim_wrapper.optimizer.type=AdamW", "optim_wrapper.optimizer.type = \"AdamW\""},
      {"train_dataloader.batch_size=8", "train_dataloader.batch_size = 8 (it was 16)"},
      {"train_dataloader.shuffle=false", "train_dataloader.shuffle = false (it was true)"},
      {"train_dataloader.drop_last=true", "train_dataloader.drop_last = true (it was false)"},
      {"train_dataloader.dataset.examples=80", "examples = 80 (it was 96)"},
      {"loss.label_smoothing=0.1", "loss.label_smoothing = 0.1 (it was 0.0)"},
      {"model={type: Mlp, sizes: [16, 4]}", "model.type = \"Mlp\" (it was \"DropoutNet\")"},
      {"param_scheduler=[]", "param_scheduler.0.type = nothing (it was \"StepLR\")"},
      {"randomness.seed=5", "randomness.seed = 5 (it was 0)"},
      {"optim_wrapper.type=AmpOptimWrapper", "leave --amp out"},
  };
  for (const auto& [assignment, difference] : changes) {
    SCOPED_TRACE(assignment);
    EXPECT_ERROR(resume(assignment), UsageError, "[resume]", "the settings it began with",
                 "step_00000003.safetensors", difference, "or start anew without --resume");
  }
  EXPECT_ERROR(resume("", {.seed = 7}), UsageError, "randomness.seed = 7 (it was 0)");
}

TEST_F(ResumeErrors, ForgottenAmp) {
  start("", true);
  EXPECT_ERROR(resume(), UsageError, "optim_wrapper.type = \"OptimWrapper\"", "add --amp");
  resume("", {.amp = true});
}

TEST_F(ResumeErrors, OtherLossScale) {
  const std::string amp =
      "optim_wrapper={type: AmpOptimWrapper, optimizer: {type: SGD}, loss_scale: ";
  start(amp + "{init_scale: 8}}");
  EXPECT_ERROR(resume(amp + "{init_scale: 16}}"), UsageError,
               "optim_wrapper.loss_scale.init_scale = 16 (it was 8)");
  EXPECT_ERROR(resume(amp + "{init_scale: 8, growth_interval: 3}}"), UsageError,
               "optim_wrapper.loss_scale.growth_interval = 3 (it was 2000)");
  resume(amp + "{growth_interval: 2000, init_scale: 8.0}}");
}

TEST_F(ResumeErrors, WhatDoesNotChangeTheNumbersMayDiffer) {
  start();
  for (const char* assignment :
       {"train_cfg.max_epochs=7", "test_dataloader=null", "custom_hooks=[{type: Drift}]",
        "default_hooks={logger: {interval: 1}}", "optim_wrapper.optimizer.lr=1e-2",
        "randomness={seed: 0}"})
    EXPECT_NO_THROW(resume(assignment)) << assignment;
  EXPECT_NO_THROW(resume("", {.seed = 0}));
}

TEST_F(ResumeErrors, TheSeedOfTheCheckpointIsTakenWhereNoneIsGiven) {
  start("randomness.seed=5");
  resume();
  EXPECT_THAT(read_file(dir_.path() / "config.yaml"), ::testing::HasSubstr("seed: 5"));
}

TEST_F(ResumeErrors, HookThatIsGone) {
  start("custom_hooks=[{type: Drift}]");
  EXPECT_ERROR(resume(), UsageError, "[resume]", "the state of a hook", "Drift",
               "restore custom_hooks");
}

TEST_F(ResumeErrors, DamagedState) {
  start();
  for (const auto& [key, value] :
       {std::pair("batch", 1000000000), {"epoch", -5}, {"step", 4}, {"skipped_steps", 4}}) {
    SCOPED_TRACE(key);
    int64_t old = 0;
    damage([&](nlohmann::json& state) {
      old = state["progress"][key];
      state["progress"][key] = value;
    });
    const auto shown = nlohmann::json(key).dump() + ":" + std::to_string(value);
    EXPECT_ERROR(resume(), EnvironmentError, "[resume]", "must say where a run of 6 batches",
                 shown.c_str(), "take another checkpoint");
    damage([&](nlohmann::json& state) { state["progress"][key] = old; });
  }
  resume();
  damage([](nlohmann::json& state) { state.erase("progress"); });
  try {
    resume();
    ADD_FAILURE() << "a checkpoint without its progress was taken";
  } catch (const EnvironmentError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("training run, but key 'progress' not found; "));
    EXPECT_THAT(error.what(), ::testing::Not(::testing::HasSubstr("exception")));
  }
}

class ResumeFile : public ::testing::Test {
 protected:
  void SetUp() override { testing::register_blobs(); }
  // A run of 12 steps with a checkpoint every 2.
  static std::string run(const std::filesystem::path& work_dir, int64_t seed) {
    Trainer trainer(config(), {.work_dir = work_dir, .seed = seed});
    trainer.train();
    return read_file(trainer.work_dir().checkpoint_file(12));
  }
  static Config config(const std::string& checkpoint = "{step_interval: 2, max_keep: 0}") {
    auto config = Config::parse(testing::blobs_config);
    config.override_with("default_hooks.checkpoint=" + checkpoint);
    return config;
  }
  static std::vector<std::string> steps_in(const std::filesystem::path& work_dir) {
    std::vector<std::string> names;
    for (const auto& file : list_checkpoints(work_dir))
      names.push_back(file.stem().string().substr(11));
    return names;
  }
  TempFolder dir_;
  const std::filesystem::path used_ = dir_.path() / "used";
};

TEST_F(ResumeFile, LaterCheckpointsOfTheWorkDirAreMovedAside) {
  const auto expected = run(used_, 3);
  const auto file = WorkDir(used_).checkpoint_file(4);
  Trainer trainer(config(), {.work_dir = used_, .resume = true, .resume_from = file});
  EXPECT_EQ(trainer.put_aside(), used_ / "previous_1");
  EXPECT_EQ(steps_in(used_), (std::vector<std::string>{"02", "04"}));
  EXPECT_EQ(steps_in(used_ / "previous_1"), (std::vector<std::string>{"06", "08", "10", "12"}));
  trainer.train();
  EXPECT_TRUE(read_file(trainer.work_dir().checkpoint_file(12)) == expected);
}

TEST_F(ResumeFile, FromElsewhereMovesTheWholeEarlierRunAside) {
  const auto other = dir_.path() / "other";
  const auto expected = run(other, 4);
  run(used_, 3);
  const auto file = WorkDir(other).checkpoint_file(4);
  {
    Trainer trainer(config("{step_interval: 2, max_keep: 2}"),
                    {.work_dir = used_, .resume = true, .resume_from = file});
    EXPECT_EQ(trainer.put_aside(), used_ / "previous_1");
    EXPECT_TRUE(steps_in(used_).empty());
    EXPECT_EQ(steps_in(used_ / "previous_1").size(), 6);
    trainer.train();
  }
  EXPECT_EQ(steps_in(used_), (std::vector<std::string>{"10", "12"}));
  EXPECT_TRUE(read_file(used_ / "checkpoints" / "step_00000012.safetensors") == expected);
}

TEST_F(ResumeFile, TheNewestLeavesTheWorkDirAsItIs) {
  run(used_, 3);
  Trainer trainer(config(), {.work_dir = used_, .resume = true});
  EXPECT_FALSE(trainer.put_aside().has_value());
  EXPECT_EQ(steps_in(used_).size(), 6);
}

TEST_F(ResumeFile, AFinishedRunIsSavedInItsNewWorkDir) {
  const auto expected = run(used_, 3);
  const auto file = WorkDir(used_).checkpoint_file(12);
  Trainer trainer(config(), {.work_dir = dir_.path() / "new", .resume = true, .resume_from = file});
  EXPECT_EQ(trainer.train(), Trainer::Outcome::finished);
  EXPECT_TRUE(read_file(trainer.work_dir().checkpoint_file(12)) == expected);
}

TEST_F(ResumeFile, TheCheckpointJustWrittenIsNeverRemoved) {
  Trainer trainer(config("{step_interval: 2, max_keep: 1}"), {.work_dir = used_});
  // As if a later run had been there.
  for (const int64_t step : {1450, 1500})
    std::ofstream(trainer.work_dir().checkpoint_file(step)) << "x";
  trainer.train();
  EXPECT_TRUE(std::filesystem::exists(trainer.work_dir().checkpoint_file(12)));
}

TEST(ResumeStart, WithoutACheckpointBeginsAnew) {
  testing::register_blobs();
  const TempFolder dir;
  Trainer trainer(Config::parse(testing::blobs_config), {.work_dir = dir.path(), .resume = true});
  EXPECT_TRUE(trainer.resumed_from().empty());
  EXPECT_EQ(trainer.progress().step, 0);
}

}  // namespace

}  // namespace halfstep::train
