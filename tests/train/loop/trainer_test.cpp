#include "halfstep/train/loop/trainer.h"

#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/autocast/shadow_weights.h"
#include "halfstep/core/error.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/optim/gradient_dtype.h"

#include <csignal>
#include <map>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/train/loop/blobs.h"
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace halfstep::train {

namespace {

using halfstep::testing::read_file;
using halfstep::testing::TempFolder;

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::register_blobs(); }
  Config config(const std::vector<std::string>& overrides = {}) {
    auto config = Config::parse(testing::blobs_config, "blobs.yaml");
    for (const auto& assignment : overrides) config.override_with(assignment);
    return config;
  }
  Trainer trainer(const std::vector<std::string>& overrides = {}, bool amp = false) {
    return Trainer(config(overrides), {.work_dir = dir_.path(), .amp = amp});
  }
  TempFolder dir_;
};

TEST_F(TrainerTest, Learns) {
  auto run = trainer({"train_cfg.max_epochs=20"});
  EXPECT_EQ(run.train(), Trainer::Outcome::finished);
  ASSERT_TRUE(run.evaluation()->accuracy.has_value());
  EXPECT_GT(*run.evaluation()->accuracy, 0.9);
  EXPECT_EQ(run.progress().step, 120);
}

TEST_F(TrainerTest, AmpRunsLayersInBfloat16AndTheLossInFloat32) {
  auto run = trainer({}, true);
  run.train();
  const auto text = run.dtypes().summary();
  EXPECT_THAT(text, ::testing::ContainsRegex("linear +bfloat16"));
  EXPECT_THAT(text, ::testing::ContainsRegex("loss +float32"));
}

TEST_F(TrainerTest, AmpTakesTheCopiesOfWeightsThatTheOptimizerKeeps) {
  const auto uses_of = [&](const std::string& optimizer, bool amp) {
    const auto before = ShadowWeights::uses();
    trainer({"optim_wrapper.optimizer=" + optimizer}, amp).train();
    return ShadowWeights::uses() - before;
  };
  EXPECT_GT(uses_of("{type: Adam}", true), 12) << "in each of twelve steps";
  EXPECT_EQ(uses_of("{type: Adam}", false), 0);
  EXPECT_EQ(uses_of("{type: RMSprop}", true), 0);
}

TEST_F(TrainerTest, Float16OnTheCpuIsRehearsed) {
  const auto rehearsed = [&](const std::string& wrapper) {
    auto run = trainer({"optim_wrapper=" + wrapper});
    const auto before = HalfRehearsal::uses();
    run.train();
    EXPECT_FALSE(HalfRehearsal::is_enabled());
    return HalfRehearsal::uses() - before;
  };
  // Two linear layers: two products forward, and three backward, in each of twelve steps.
  const auto fp16 = "{type: AmpOptimWrapper, dtype: float16, optimizer: {type: Adam}}";
  EXPECT_GE(rehearsed(fp16), 12 * 5);
  EXPECT_EQ(rehearsed("{type: AmpOptimWrapper, optimizer: {type: Adam}}"), 0);
  EXPECT_EQ(rehearsed("{type: OptimWrapper, optimizer: {type: Adam}}"), 0);
}

TEST_F(TrainerTest, RehearsedGradientsStayInFloat16UntilItFallsBack) {
  auto run =
      trainer({"optim_wrapper={type: AmpOptimWrapper, dtype: float16, optimizer: {type: Adam}}"});
  const auto weight = run.parts().model->parameters().front();
  run.train();
  EXPECT_EQ(optim::gradient_dtype(weight), torch::kHalf);
  run.fall_back();
  EXPECT_EQ(optim::gradient_dtype(weight), torch::kFloat);
}

TEST_F(TrainerTest, WithoutAmpTheSameCodeReportsFloat32) {
  auto run = trainer();
  run.train();
  const auto text = run.dtypes().summary();
  EXPECT_THAT(text, ::testing::ContainsRegex("linear +float32"));
  EXPECT_THAT(text, ::testing::ContainsRegex("loss +float32"));
  EXPECT_THAT(text, ::testing::Not(::testing::HasSubstr("bfloat16")));
}

TEST_F(TrainerTest, RulesByModuleHold) {
  auto run = trainer({"optim_wrapper.autocast={modules: {last: float32}}"}, true);
  run.train();
  const auto text = run.dtypes().summary();
  EXPECT_THAT(text, ::testing::ContainsRegex("linear +float32 x1 bfloat16 x1"));
  EXPECT_TRUE(run.parts().amp().policy->unmatched_modules().empty());
  EXPECT_ERROR(trainer({"optim_wrapper.autocast={modules: {lost: float32}}"}, true), UsageError,
               "[config] --cfg-options", "but got 'lost'", "did you mean 'last'?");
}

TEST_F(TrainerTest, RecordsThePrecisionOfTheSecondStep) {
  const RunOptions options{.work_dir = dir_.path(), .amp = true, .precision_report = true};
  std::optional<Trainer> run;
  run.emplace(config({"optim_wrapper.autocast={modules: {last: float32}, ops: {bmm: float32}}"}),
              options);
  const auto file = run->work_dir().precision_report_file();
  run->train();
  ASSERT_TRUE(run->precision_report());
  const auto report = *run->precision_report();
  run.reset();
  std::map<std::string, c10::ScalarType> dtype_of_layer;
  for (const auto& op : report.forward.ops) {
    EXPECT_EQ(op.calls, 1) << op.op << ": one step";
    if (op.op == "addmm") dtype_of_layer[op.module] = op.dtype;
  }
  EXPECT_EQ(dtype_of_layer, (std::map<std::string, c10::ScalarType>{{"first", torch::kBFloat16},
                                                                    {"last", torch::kFloat}}));
  EXPECT_GT(report.backward.calls(), 0);
  EXPECT_THAT(report.unmatched_ops, ::testing::ElementsAre("bmm"));
  const auto json = nlohmann::json::parse(read_file(file));
  EXPECT_EQ(json.at("forward").at("ops").size(), report.forward.ops.size());
  EXPECT_EQ(json.at("forward").at("ops").at(0).at("module"), "first");
  EXPECT_EQ(json.at("forward").at("casts").size(), report.forward.casts.size());
  EXPECT_EQ(json.at("unmatched_ops"), nlohmann::json({"bmm"}));
  EXPECT_FALSE(json.contains("why_nothing_low"));

  // It is one of the run's files, and none of a run that was not asked.
  auto other = trainer();
  other.train();
  EXPECT_FALSE(other.precision_report());
  EXPECT_FALSE(std::filesystem::exists(file));
  EXPECT_TRUE(std::filesystem::exists(dir_.path() / "previous_1/precision_report.json"));
}

TEST_F(TrainerTest, SchedulerStepsOncePerEpoch) {
  auto run = trainer();
  run.train();
  EXPECT_DOUBLE_EQ(run.learning_rate(), 0.01 * 0.25);
}

TEST_F(TrainerTest, SchedulerByStepCountsTheStepsThatWereTaken) {
  const std::string amp =
      "optim_wrapper={type: AmpOptimWrapper, loss_scale: {init_scale: 3.0e+38}, optimizer: {type: "
      "SGD, lr: 0.01}}";
  auto run = trainer({amp, "param_scheduler=[{type: ExponentialLR, gamma: 0.5, by_epoch: false}]"});
  run.train();
  const auto taken = run.progress().step - run.progress().skipped_steps;
  EXPECT_GT(run.progress().skipped_steps, 0) << "no overflow happened: the test proves nothing";
  EXPECT_GT(taken, 0);
  EXPECT_EQ(run.parts().wrappers[0].schedulers.counts()[0], taken);
  EXPECT_DOUBLE_EQ(run.learning_rate(), 0.01 * std::pow(0.5, taken));
}

TEST_F(TrainerTest, StaticScaleIsKeptAndSkipsOnOverflow) {
  auto run =
      trainer({"optim_wrapper={type: AmpOptimWrapper, loss_scale: 3.0e+38, optimizer: {type: SGD, "
               "lr: 0.01}}"});
  run.train();
  EXPECT_GT(run.progress().skipped_steps, 0) << "no overflow happened: the test proves nothing";
  EXPECT_FLOAT_EQ(static_cast<float>(run.scaler().get_scale()), 3.0e+38F);
}

TEST_F(TrainerTest, NanLossInFloat32IsAnError) {
  auto run = trainer({"train_dataloader.dataset.nan_at=20"});
  EXPECT_ERROR(run.train(), UsageError, "[train] the loss must be finite, but got nan at step",
               "in float32", "lower the learning rate (0.01)");
}

TEST_F(TrainerTest, OverflowsThatGoOnEndTheRunWithTheirNames) {
  for (const std::string optimizer : {"Adam", "SGD"}) {
    SCOPED_TRACE(optimizer);
    auto run = trainer({"model={type: LoudNet, broken_from: 5}", "train_cfg.max_epochs=20",
                        "optim_wrapper={type: AmpOptimWrapper, loss_scale: {init_scale: 4.0, "
                        "min_scale: 1.0}, optimizer: {type: " +
                            optimizer + ", lr: 0.01}}"});
    EXPECT_ERROR(run.train(), UsageError,
                 "[train] overflows must end once the loss scale is at its minimum, but at step 26 "
                 "(epoch 5, batch 2) update 26 overflowed (20 in a row at the minimum scale 1), as "
                 "every update since 5 did; not finite: the gradients of 2 of 4 parameters, first "
                 "those of 'first.weight', 'first.bias' (seen from update 7 on); look at the "
                 "operations that use these parameters",
                 "learning rate");
    EXPECT_EQ(run.progress().skipped_steps, 22);
  }
}

// Without a floor the scale falls to where it is of no use any more.
TEST_F(TrainerTest, OverflowsEndTheRunWithoutAFloorToo) {
  auto run = trainer({"model={type: LoudNet, broken_from: 1}", "train_dataloader.batch_size=96",
                      "train_cfg.max_epochs=400", "test_dataloader=null",
                      "optim_wrapper={type: AmpOptimWrapper, loss_scale: {init_scale: 1.0}, "
                      "optimizer: {type: SGD, lr: 0.01}}"});
  EXPECT_ERROR(run.train(), UsageError,
               "[train] overflows must end once the loss scale is at its minimum",
               "(20 in a row at the minimum scale", "first those of 'first.weight'");
  EXPECT_EQ(run.progress().step, 126 + 20);
}

TEST_F(TrainerTest, FallsBackToAWiderPrecisionAndStaysThere) {
  const std::vector<std::string> overrides{
      "model={type: LoudNet, gain: 1.0e+6}",
      "optim_wrapper={type: AmpOptimWrapper, dtype: float16, loss_scale: {init_scale: 4.0, "
      "min_scale: 1.0, at_min_scale: fall_back, min_scale_patience: 2}, optimizer: {type: Adam, "
      "lr: 0.01}}",
      // A save in the very step that falls back, whose loss is the overflow's.
      "default_hooks.checkpoint={step_interval: 4, max_keep: 0}"};
  auto unbroken = trainer(overrides);
  unbroken.train();
  EXPECT_TRUE(unbroken.fell_back());
  EXPECT_EQ(unbroken.parts().amp().dtype, c10::kBFloat16);
  const auto& fused =
      dynamic_cast<optim::FusedOptimizer&>(unbroken.parts().wrappers[0].wrapper->optimizer());
  EXPECT_EQ(fused.shadow_of(unbroken.parts().model->parameters()[0]).scalar_type(), c10::kBFloat16);
  EXPECT_FALSE(unbroken.scaler().is_enabled());
  EXPECT_EQ(unbroken.progress().skipped_steps, 4);
  EXPECT_EQ(unbroken.progress().step, 12);
  EXPECT_THAT(unbroken.dtypes().summary(), ::testing::ContainsRegex("linear +float16"));
  const auto expected = read_file(unbroken.work_dir().checkpoint_file(12));

  struct StopAt8 : Hook {
    void after_train_iter(Trainer& t, const Batch&) override {
      if (t.progress().step == 8) t.request_stop();
    }
  };
  TempFolder other;
  {
    Trainer first(config(overrides), {.work_dir = other.path()});
    first.register_hook(std::make_unique<StopAt8>());
    first.train();
    ASSERT_EQ(first.progress().step, 8);
  }
  Trainer second(config(overrides), {.work_dir = other.path(), .resume = true});
  EXPECT_TRUE(second.fell_back());
  EXPECT_EQ(second.parts().amp().dtype, c10::kBFloat16);
  second.train();
  EXPECT_EQ(read_file(second.work_dir().checkpoint_file(12)), expected);
}

// bfloat16 with a scale has float32 to fall back to, in which a NaN ends the run after all, at the
// latest when it would be saved.
TEST_F(TrainerTest, FallsBackFromBfloat16ToFloat32) {
  auto run =
      trainer({"model={type: LoudNet, broken_from: 3}",
               "optim_wrapper={type: AmpOptimWrapper, loss_scale: {dialect: deepspeed, "
               "init_scale: 2.0, at_min_scale: fall_back}, optimizer: {type: SGD, lr: 0.01}}"});
  EXPECT_ERROR(run.train(), UsageError, "[train] weights must be finite to be saved",
               "'first.weight' has inf or NaN");
  EXPECT_TRUE(run.fell_back());
  EXPECT_FALSE(run.parts().amp().enabled);
  EXPECT_FALSE(dynamic_cast<optim::FusedOptimizer&>(run.parts().wrappers[0].wrapper->optimizer())
                   .keeps_shadow_weights());
  EXPECT_EQ(run.parts().amp().describe_dtype(), "float32");
}

TEST_F(TrainerTest, NanLossWithALossScaleIsAnErrorAfterTenSkippedSteps) {
  for (const char* scale : {"512", "{init_scale: 512.0}"}) {
    auto run = trainer({std::string("optim_wrapper={type: AmpOptimWrapper, loss_scale: ") + scale +
                            ", optimizer: {type: SGD, lr: 1.0e+30}}",
                        "train_cfg.max_epochs=20"});
    EXPECT_ERROR(run.train(), UsageError, "[train] the loss must be finite, but got ",
                 " at step 11", "in bfloat16", "10 skipped steps in a row",
                 "lower the learning rate");
  }
}

TEST_F(TrainerTest, OneBadBatchIsLeftToTheLossScale) {
  auto run = trainer(
      {"train_dataloader.dataset.nan_at=20", "test_dataloader=null",
       "optim_wrapper={type: AmpOptimWrapper, loss_scale: {init_scale: 65536}, optimizer: {type: "
       "SGD, lr: 0.01}}"});
  EXPECT_EQ(run.train(), Trainer::Outcome::finished);
  EXPECT_EQ(run.progress().skipped_steps, 2);  // one an epoch
}

TEST_F(TrainerTest, ARunWithoutASingleStepTakenIsAnError) {
  auto run = trainer({"train_dataloader.batch_size=96", "train_cfg.max_epochs=3",
                      "optim_wrapper={type: AmpOptimWrapper, loss_scale: 3.4e+38, optimizer: "
                      "{type: SGD, lr: 0.01}}"});
  EXPECT_ERROR(run.train(), UsageError, "[train] a run must take steps, but all 3 were skipped",
               "lower the loss scale (3.4e+38)");
}

TEST_F(TrainerTest, NumbersThatAreNotFiniteAreNeverSaved) {
  auto run = trainer();
  run.train();
  const auto saved = list_checkpoints(dir_.path());
  run.progress().step += 1;
  auto loss = run.loss();
  const auto before = loss.clone();
  loss.fill_(NAN);
  EXPECT_ERROR(run.save_checkpoint(), UsageError, "[train] the loss must be finite, but got nan");
  loss.copy_(before);
  {
    const torch::NoGradGuard no_grad;
    run.parts().model->named_parameters()["last.bias"][1] = INFINITY;
  }
  EXPECT_ERROR(run.save_checkpoint(), UsageError, "[train] weights must be finite to be saved",
               "'last.bias' has inf or NaN after step 13", "earlier checkpoints are kept");
  EXPECT_EQ(list_checkpoints(dir_.path()), saved);
}

TEST_F(TrainerTest, ErrorsOfLibTorchNameTheStep) {
  auto run = trainer({"model={type: Mlp, sizes: [16, 3]}"});
  EXPECT_ERROR(run.train(), UsageError,
               "[train] step 1 must run, but LibTorch says: ", "out of bounds",
               "every label is below the number of the model's outputs");
}

TEST_F(TrainerTest, HooksAreToldOfTheExceptionThatEndsARun) {
  struct Tells : Hook {
    explicit Tells(std::vector<std::string>& its_told) : told(its_told) {}
    void after_train_iter(Trainer& t, const Batch&) override {
      if (t.progress().step == 3) throw UsageError("[hook] the third step");
    }
    void on_exception(Trainer& t, const std::exception& error) override {
      told.push_back(std::to_string(t.progress().step) + " " + error.what());
      throw UsageError("[hook] dropped");
    }
    void after_run(Trainer&) override { told.emplace_back("after_run"); }
    std::vector<std::string>& told;
  };
  std::vector<std::string> told;
  auto run = trainer();
  for (int i = 0; i < 2; ++i) run.register_hook(std::make_unique<Tells>(told));
  EXPECT_ERROR(run.train(), UsageError, "[hook] the third step");
  EXPECT_EQ(told, std::vector<std::string>(2, "3 [hook] the third step"));
  const auto log = read_file(run.work_dir().log_file());
  const auto last = nlohmann::json::parse(log.substr(log.rfind('\n', log.size() - 2) + 1));
  EXPECT_EQ(last["event"], "error");
  EXPECT_EQ(last["step"], 3);
  EXPECT_EQ(last["error"], "[hook] the third step");
}

TEST_F(TrainerTest, AStopInBeforeRunComesBeforeAnyStep) {
  struct Stop : Hook {
    void before_run(Trainer& t) override { t.request_stop(); }
  };
  auto run = trainer();
  run.register_hook(std::make_unique<Stop>());
  EXPECT_EQ(run.train(), Trainer::Outcome::stopped);
  EXPECT_EQ(run.progress().step, 0);
}

TEST_F(TrainerTest, ASignalEndsAnEvaluationWhichIsMadeAgainOnResume) {
  const auto config_with_signal = [&] { return config({"loss={type: SignalInEvaluation}"}); };
  {
    Trainer run(config_with_signal(), {.work_dir = dir_.path()});
    EXPECT_EQ(run.train(), Trainer::Outcome::stopped);
    EXPECT_EQ(run.stop_signal(), SIGTERM);
    EXPECT_EQ(run.progress(),
              (Progress{.epoch = 1, .batch = 0, .step = 6, .skipped_steps = 0, .val_due = true}));
    EXPECT_FALSE(run.evaluation().has_value());
  }
  const TempFolder whole;
  Trainer unbroken(config_with_signal(), {.work_dir = whole.path()});
  unbroken.train();
  Trainer resumed(config_with_signal(), {.work_dir = dir_.path(), .resume = true});
  EXPECT_EQ(resumed.train(), Trainer::Outcome::finished);
  EXPECT_TRUE(resumed.evaluation().has_value());
  EXPECT_EQ(read_file(resumed.work_dir().checkpoint_file(12)),
            read_file(unbroken.work_dir().checkpoint_file(12)));
}

TEST_F(TrainerTest, SignalStopsAfterTheStepAndSaves) {
  struct Raise : Hook {
    void after_train_iter(Trainer& t, const Batch&) override {
      if (t.progress().step == 4) std::raise(SIGTERM);
    }
  };
  auto run = trainer();
  run.register_hook(std::make_unique<Raise>());
  EXPECT_EQ(run.train(), Trainer::Outcome::stopped);
  EXPECT_EQ(run.stop_signal(), SIGTERM);
  EXPECT_EQ(run.progress().step, 4);
  EXPECT_TRUE(std::filesystem::exists(run.work_dir().checkpoint_file(4)));
}

TEST_F(TrainerTest, KeepsTheNewestCheckpoints) {
  trainer({"default_hooks.checkpoint={step_interval: 2, max_keep: 2}"}).train();
  const auto files = list_checkpoints(dir_.path());
  ASSERT_EQ(files.size(), 2);
  EXPECT_EQ(files.back().filename(), "step_00000012.safetensors");
  EXPECT_EQ(files.front().filename(), "step_00000010.safetensors");
}

TEST_F(TrainerTest, SavesTheResolvedConfigWithDefaults) {
  auto run = trainer({"train_cfg.max_epochs=1"});
  const auto text = read_file(run.work_dir().config_file());
  EXPECT_THAT(text, ::testing::HasSubstr("max_epochs: 1"));
  EXPECT_THAT(text, ::testing::HasSubstr("weight_decay"));
  // What was saved describes the same run.
  const TempFolder second;
  Trainer again(Config::load(run.work_dir().config_file()), {.work_dir = second.path()});
  EXPECT_EQ(read_file(again.work_dir().config_file()), text);
}

TEST_F(TrainerTest, UnknownTopLevelKeyNamesThePlace) {
  EXPECT_ERROR(trainer({"trian_cfg={max_epochs: 1}"}), UsageError, "trian_cfg", "train_cfg");
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()))
      << "a wrong config must not leave files behind";
}

TEST_F(TrainerTest, ANewRunMovesTheEarlierOneAside) {
  trainer().train();
  auto second = trainer();
  EXPECT_EQ(*second.put_aside(), dir_.path() / "previous_1");
  EXPECT_TRUE(std::filesystem::exists(dir_.path() / "previous_1" / "checkpoints" /
                                      "step_00000012.safetensors"));
  EXPECT_TRUE(list_checkpoints(dir_.path()).empty());
}

}  // namespace

}  // namespace halfstep::train
