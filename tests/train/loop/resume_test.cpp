#include "halfstep/core/error.h"
#include "halfstep/train/loop/trainer.h"

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
  void after_step(Trainer& trainer) override {
    if (trainer.progress().step == step) trainer.request_stop();
  }
};

constexpr int64_t steps = 12;

struct Case {
  const char* name;
  const char* optim_wrapper;
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
};

class Resume : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override { testing::register_blobs(); }

  Config config() const {
    auto config = Config::parse(testing::blobs_config, "blobs.yaml");
    config.override_with(std::string("optim_wrapper=") + GetParam().optim_wrapper);
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
      trainer.parts().hooks.push_back(std::make_unique<StopAt>(stop));
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
  if (name == "Overflows") {
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
  void SetUp() override {
    testing::register_blobs();
    Trainer trainer(Config::parse(testing::blobs_config), {.work_dir = dir_.path()});
    trainer.parts().hooks.push_back(std::make_unique<StopAt>(3));
    trainer.train();
  }
  void resume(const std::string& assignment, std::optional<uint64_t> seed = std::nullopt) {
    auto config = Config::parse(testing::blobs_config);
    if (!assignment.empty()) config.override_with(assignment);
    Trainer trainer(config, {.work_dir = dir_.path(), .seed = seed, .resume = true});
  }
  TempFolder dir_;
};

TEST_F(ResumeErrors, OtherData) {
  EXPECT_ERROR(resume("train_dataloader.batch_size=8"), UsageError, "[resume]",
               "96 examples in batches of 8", "in batches of 16", "start anew");
}

TEST_F(ResumeErrors, OtherModel) {
  EXPECT_ERROR(resume("model={type: Mlp, sizes: [16, 4]}"), EnvironmentError, "another model",
               "first.weight");
}

TEST_F(ResumeErrors, OtherSeed) {
  EXPECT_ERROR(resume("", 7), UsageError, "[resume]", "its own seed 0", "--seed 7",
               "leave --seed out");
  resume("", 0);
}

TEST_F(ResumeErrors, OtherSchedulers) {
  EXPECT_ERROR(resume("param_scheduler=[]"), UsageError, "[resume]", "schedulers it began with (1",
               "but got 0");
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
