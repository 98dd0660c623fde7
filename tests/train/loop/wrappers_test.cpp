// The optimizer wrappers of a run: accumulation, clipping and several optimizers from a config.
#include "halfstep/core/error.h"
#include "halfstep/optim/gradient_dtype.h"
#include "halfstep/optim_wrapper/amp_optim_wrapper.h"
#include "halfstep/train/optim/constructors.h"

#include <cmath>

#include "tests/support/errors.h"
#include "tests/support/tolerance.h"
#include "tests/train/loop/blob_runs.h"

namespace halfstep::train {

namespace {

using halfstep::testing::read_file;
using halfstep::testing::TempFolder;

const std::string two_names = "{constructor: OptimWrapperConstructor, first: ";

class Wrappers : public testing::BlobRuns {
 protected:
  static std::vector<double> rates(const Trainer& run) {
    std::vector<double> result;
    for (const auto& parts : run.parts().wrappers)
      result.push_back(parts.wrapper->param_groups().front().options().get_lr());
    return result;
  }
};

TEST_F(Wrappers, AccumulatedBatchesTrainAsWholeOnes) {
  std::vector<std::vector<torch::Tensor>> weights;
  for (const int64_t counts : {1, 3}) {
    const TempFolder dir;
    auto run_config =
        config({"model={type: Mlp, sizes: [16, 8, 4]}",
                "optim_wrapper={optimizer: {type: SGD, lr: 0.1, momentum: 0.9}}",
                "param_scheduler=[{type: ExponentialLR, gamma: 0.9, by_epoch: false}]",
                "train_dataloader.shuffle=false", "train_dataloader.batch_size=48"});
    if (counts > 1) {
      run_config.override_with("train_dataloader.batch_size=16");
      run_config.override_with("optim_wrapper.accumulative_counts=3");
    }
    Trainer run(run_config, {.work_dir = dir.path()});
    run.train();
    EXPECT_EQ(run.progress().step, 4 * counts);
    EXPECT_EQ(run.counts(0).updates, 4);
    EXPECT_EQ(run.parts().wrappers[0].schedulers.counts()[0], 4);
    weights.push_back(run.parts().model->parameters());
  }
  for (size_t i = 0; i < weights[0].size(); ++i)
    halfstep::testing::expect_close(weights[1][i], weights[0][i],
                                    halfstep::testing::tolerance(torch::kFloat, "step"));
}

// 12 iterations by 5: the last step is made of two.
TEST_F(Wrappers, TheLastStepTakesWhatIsLeft) {
  const auto run = trainer({"optim_wrapper.accumulative_counts=5"});
  const auto& wrapper = *run->parts().wrappers[0].wrapper;
  EXPECT_EQ(wrapper.max_counts(), 12);
  EXPECT_EQ(wrapper.remainder_counts(), 2);
  run->train();
  EXPECT_EQ(run->counts(0).updates, 3);
  EXPECT_FALSE(wrapper.is_accumulating());
}

TEST_F(Wrappers, ARunThatIsMadeLongerTellsOfItsShortStep) {
  const std::vector<std::string> overrides{"optim_wrapper.accumulative_counts=5"};
  const TempFolder dir;
  Trainer(config(overrides), {.work_dir = dir.path()}).train();
  for (const auto& [checkpoint, told] : {std::pair("06", ""), {"12", "warning: iteration 12"}}) {
    ::testing::internal::CaptureStderr();
    auto longer = config(overrides);
    longer.override_with("train_cfg.max_epochs=3");
    Trainer run(longer, {.work_dir = dir_.path() / checkpoint,
                         .resume = true,
                         .resume_from = dir.path() / "checkpoints" /
                                        c10::str("step_000000", checkpoint, ".safetensors")});
    const auto errors = ::testing::internal::GetCapturedStderr();
    EXPECT_THAT(errors, ::testing::HasSubstr(told));
    EXPECT_EQ(errors.find("accumulative_counts") == errors.npos, *told == 0) << errors;
  }
}

TEST_F(Wrappers, TheNormOfTheGradientsIsLogged) {
  for (const char* clip : {"{max_norm: 0.01}", "{type: norm, max_norm: 0.01, norm_type: inf}"}) {
    trainer({std::string("optim_wrapper.clip_grad=") + clip, "default_hooks.logger.interval=1"})
        ->train();
    EXPECT_GT(log().back().at("grad_norm").get<double>(), 0.01);
  }
  trainer({"optim_wrapper.clip_grad={clip_value: 0.01}"})->train();
  EXPECT_FALSE(log().back().contains("grad_norm"));
}

TEST_F(Wrappers, ClippingChangesTheRun) {
  std::vector<double> losses;
  for (const char* clip : {"null", "{max_norm: 1.0e-6}", "{type: value, clip_value: 1.0e-9}"}) {
    const auto run = trainer({std::string("optim_wrapper.clip_grad=") + clip,
                              "optim_wrapper.optimizer={type: SGD, lr: 0.1}"});
    run->train();
    losses.push_back(run->evaluation()->loss);
  }
  EXPECT_LT(losses[0], losses[1] / 2);
  EXPECT_LT(losses[0], losses[2] / 2);
}

TEST_F(Wrappers, RefusesWhatTheyCantBe) {
  const std::string base = "optim_wrapper={type: AmpOptimWrapper, optimizer: {type: Adam}, ";
  const std::vector<std::pair<std::string, const char*>> cases{
      {base + "accumulative_counts: 0}", "accumulative_counts must be at least 1 iteration"},
      {base + "clip_grad: {type: both, max_norm: 1}}", "must be norm or value, but got both"},
      {base + "clip_grad: {max_norm: -1}}", "max_norm must be at least 0, but got -1"},
      {base + "clip_grad: {norm_type: 2}}", "max_norm"},
      {base + "clip_grad: {max_norm: 1, norm_type: 0}}", "norm_type must be above 0, or inf"},
      {base + "clip_grad: {max_norm: 1, clip_value: 1}}", "unknown key 'clip_value'"},
      {"optim_wrapper=" + two_names +
           "{optimizer: {type: Adam}}, second: {optimizer: {type: "
           "Adam}}}",
       "must be named after a submodule of the model (first, last)"},
      {"optim_wrapper={constructor: OptimWrapperConstructor, optimizer: {type: Adam}}",
       "must stand in each of the wrappers"}};
  for (const auto& [assignment, message] : cases)
    EXPECT_ERROR(trainer({assignment}), UsageError, message);
  // A model that knows of one optimizer.
  const auto run = trainer({"optim_wrapper=" + two_names +
                            "{optimizer: {type: Adam}}, last: {optimizer: {type: "
                            "Adam}}}"});
  EXPECT_ERROR(run->train(), UsageError, "[OptimWrapperDict::optim_context]", "'first', 'last'");
}

class TwoOptimizers : public Wrappers {
 protected:
  std::vector<std::string> overrides(const std::string& first, const std::string& last) const {
    return {"model.type=TwoStepNet", "default_hooks.logger.interval=1",
            "optim_wrapper=" + two_names + first + ", last: " + last + "}"};
  }
  const std::string plain = "{optimizer: {type: SGD, lr: 0.05}}";
};

TEST_F(TwoOptimizers, TrainBySchedulesScalesAndCountsOfTheirOwn) {
  auto given = overrides(
      "{type: AmpOptimWrapper, dtype: float16, loss_scale: {init_scale: 1.0e+6, growth_interval: "
      "100}, optimizer: {type: SGD, lr: 0.1}, clip_grad: {max_norm: 1}}",
      "{type: OptimWrapper, accumulative_counts: 4, optimizer: {type: Adam, lr: 0.01}}");
  given.emplace_back("param_scheduler={first: [{type: StepLR, step_size: 1, gamma: 0.5}]}");
  given.emplace_back("test_cfg={fp16: false}");
  const auto run = trainer(given);
  run->train();
  const auto& wrappers = run->parts().wrappers;
  EXPECT_EQ(run->counts(0).updates, 12);
  EXPECT_EQ(run->counts(1).updates, 3);
  EXPECT_GT(run->counts(0).skipped_steps, 0) << "no overflow happened: the test proves nothing";
  EXPECT_LT(run->counts(0).skipped_steps, 12);
  EXPECT_EQ(run->counts(1).skipped_steps, 0);
  EXPECT_EQ(run->progress().skipped_steps, run->counts(0).skipped_steps);
  EXPECT_EQ(rates(*run), (std::vector<double>{0.025, 0.01}));
  EXPECT_EQ(wrappers[1].scaler(), nullptr);
  const auto line = log().back();
  EXPECT_EQ(line.at("first.lr"), 0.025);
  EXPECT_EQ(line.at("last.lr"), 0.01);
  EXPECT_EQ(line.at("first.loss_scale"), wrappers[0].scaler()->get_scale());
  EXPECT_EQ(line.at("first.skipped_steps"), run->counts(0).skipped_steps);
  EXPECT_EQ(line.at("last.skipped_steps"), 0);
  EXPECT_TRUE(line.contains("first.grad_norm"));
  EXPECT_FALSE(line.contains("last.loss_scale"));
  // Its outcome is taken in the middle of the iteration, before the other one's update.
  int64_t skips = 0;
  int64_t step = 0;
  for (const auto& each : log()) {
    if (each["event"] != "skip") continue;
    if (++skips == 1) {
      EXPECT_EQ(each["step"], 1) << "the scale overflows from the first step on";
    }
    EXPECT_GT(each["step"], step);
    step = each["step"];
    EXPECT_EQ(each["optimizer"], "first");
    EXPECT_EQ(each["first.loss_scale"], 1e6 / std::pow(2, skips));
  }
  EXPECT_EQ(skips, run->counts(0).skipped_steps);
}

TEST_F(TwoOptimizers, AListOfSchedulesIsForBoth) {
  const auto run = trainer(overrides(plain, plain));
  run->train();
  EXPECT_EQ(rates(*run), (std::vector<double>{0.0125, 0.0125}));
}

TEST_F(TwoOptimizers, AmpSwitchesBoth) {
  const auto run = trainer(overrides(plain, plain), {.amp = true});
  for (const auto& wrapper : run->parts().wrappers) {
    EXPECT_TRUE(wrapper.amp.enabled);
    EXPECT_NE(dynamic_cast<AmpOptimWrapper*>(wrapper.wrapper.get()), nullptr);
  }
  run->train();
  EXPECT_THAT(run->dtypes().summary(), ::testing::ContainsRegex("linear +bfloat16"));
}

TEST_F(TwoOptimizers, ARunWithoutAStepIsAnError) {
  const std::string never = "{optimizer: {type: SGD, lr: 0.05}, accumulative_counts: 100}";
  EXPECT_ERROR(trainer(overrides(never, never))->train(), UsageError, "[train]",
               "a run must take steps, but got none in 12 iterations; lower accumulative_counts");
  ::testing::internal::CaptureStderr();
  trainer(overrides(plain, never))->train();
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              ::testing::HasSubstr("warning: 'last' made no step in the whole run of 12"));
}

TEST_F(TwoOptimizers, EachFallsBackAlone) {
  std::vector<std::string> checkpoints;
  for (const bool late : {false, true}) {
    const TempFolder dir;
    Trainer run(
        config(overrides("{type: AmpOptimWrapper, loss_scale: {init_scale: 3.4e+38, min_scale: "
                         "3.4e+38, at_min_scale: fall_back, min_scale_patience: 2}, optimizer: "
                         "{type: Adam, lr: 0.01}}",
                         "{type: AmpOptimWrapper, optimizer: {type: Adam, lr: 0.01}}")),
        {.work_dir = dir.path(), .late_outcomes = late});
    run.train();
    EXPECT_TRUE(run.fell_back(0));
    EXPECT_FALSE(run.fell_back(1));
    EXPECT_EQ(run.counts(0).skipped_steps, 2);
    EXPECT_FALSE(run.parts().wrappers[0].amp.enabled);
    EXPECT_TRUE(run.parts().wrappers[1].amp.enabled);
    checkpoints.push_back(read_file(run.work_dir().checkpoint_file(12)));
    ASSERT_FALSE(checkpoints.back().empty());
  }
  EXPECT_TRUE(checkpoints[0] == checkpoints[1]);
}

TEST_F(TwoOptimizers, WhatIsLearntLateChangesNoBit) {
  std::vector<std::string> checkpoints;
  for (const bool late : {false, true}) {
    const TempFolder dir;
    auto run_config = config(overrides(
        "{type: AmpOptimWrapper, loss_scale: {init_scale: 3.0e+38, growth_interval: 2, "
        "growth_factor: 64.0, backoff_factor: 0.015625}, optimizer: {type: AdamW, lr: 0.01}}",
        "{type: AmpOptimWrapper, accumulative_counts: 2, optimizer: {type: Adam, lr: 0.01}}"));
    run_config.override_with(
        "param_scheduler=[{type: ExponentialLR, gamma: 0.5, by_epoch: false}]");
    Trainer run(run_config, {.work_dir = dir.path(), .late_outcomes = late});
    run.train();
    EXPECT_GT(run.counts(0).skipped_steps, 1) << "no overflow happened: the test proves nothing";
    checkpoints.push_back(read_file(run.work_dir().checkpoint_file(12)));
    ASSERT_FALSE(checkpoints.back().empty());
  }
  EXPECT_TRUE(checkpoints[0] == checkpoints[1]);
}

// The rate to show is part of the state where schedules take turns; before it was kept, the first
// group's told it.
TEST_F(Wrappers, TheBaseRateIsResumed) {
  const std::vector<std::string> overrides{
      "optim_wrapper.paramwise_cfg={custom_keys: {first: {lr_mult: 0.5}, last: {lr_mult: 2}}}",
      "param_scheduler=[{type: LinearLR, start_factor: 0.1, by_epoch: false, end: 9}, {type: "
      "ExponentialLR, gamma: 0.5}]"};
  for (const bool older : {false, true}) {
    const TempFolder first, second;
    Trainer unbroken(config(overrides), {.work_dir = first.path()});
    unbroken.train();
    auto half = Checkpoint::load(unbroken.work_dir().checkpoint_file(6));
    EXPECT_NEAR(half.state.at("base_lr").get<double>(), 0.01 * (0.1 + 0.9 * 6 / 8) / 2, 1e-12);
    if (older) half.state.erase("base_lr");
    half.save(second.path() / "half.safetensors");
    Trainer resumed(config(overrides), {.work_dir = second.path() / "run",
                                        .resume = true,
                                        .resume_from = second.path() / "half.safetensors"});
    EXPECT_NEAR(resumed.learning_rate(), 0.01 * (0.1 + 0.9 * 6 / 8) / 2, 1e-12);
    resumed.train();
    EXPECT_NEAR(resumed.learning_rate(), unbroken.learning_rate(), 1e-15);
    EXPECT_NEAR(resumed.learning_rate(), 0.0025, 1e-12);
  }
}

// Written before there were counts of updates and iterations, and validations to be resumed.
TEST_F(Wrappers, ACheckpointWithoutCountsGoesOn) {
  std::string expected;
  {
    const TempFolder dir;
    Trainer run(config({}), {.work_dir = dir.path()});
    run.train();
    expected = read_file(run.work_dir().checkpoint_file(12));
    auto old = Checkpoint::load(run.work_dir().checkpoint_file(6));
    EXPECT_EQ(old.state.erase("inner_count"), 1U);
    EXPECT_EQ(old.state.erase("updates"), 1U);
    EXPECT_EQ(old.state["progress"].erase("val_due"), 1U);
    old.save(dir_.path() / "old.safetensors");
  }
  const auto run = trainer({}, {.resume = true, .resume_from = dir_.path() / "old.safetensors"});
  EXPECT_EQ(run->counts(0).updates, 6);
  run->train();
  EXPECT_TRUE(read_file(run->work_dir().checkpoint_file(12)) == expected);
}

/// A program's own constructor: the rate halves from parameter to parameter.
BuiltOptimizer halving(Config& optim_wrapper, const torch::nn::Module& module,
                       const std::string& prefix) {
  const auto factor = optim_wrapper.get<double>("decay_rate", 0.5);
  auto mapping = optim_wrapper.child("optimizer");
  BuiltOptimizer built;
  std::vector<torch::optim::OptimizerParamGroup> groups;
  double share = 1;
  for (const auto& item : module.named_parameters()) {
    built.parameter_names.push_back(prefix + item.key());
    auto made = optimizers().build(mapping, {item.value()});
    groups.push_back(std::move(made->param_groups()[0]));
    auto& options = groups.back().options();
    options.set_lr(options.get_lr() * share);
    share *= factor;
    built.optimizer = std::move(made);
  }
  built.optimizer->param_groups() = std::move(groups);
  return built;
}

TEST_F(Wrappers, AConstructorOfTheProgram) {
  [[maybe_unused]] static const bool added =
      optim_wrapper_constructors().add("Halving", halving) &&
      optim_wrapper_constructors().add(
          "Nameless",
          [](Config& config, const torch::nn::Module& module, const std::string& prefix) {
            auto built = build_optimizer(config, module, prefix);
            built.parameter_names.clear();
            return built;
          });
  const std::vector<std::string> overrides{
      "optim_wrapper={type: AmpOptimWrapper, constructor: Halving, decay_rate: 0.1, "
      "accumulative_counts: 2, optimizer: {type: Adam, lr: 0.01}}",
      "param_scheduler=[]"};
  {
    const auto run = trainer(overrides);
    run->train();
    EXPECT_EQ(run->counts(0).updates, 6);
    const auto& groups = run->parts().wrappers[0].wrapper->param_groups();
    ASSERT_EQ(groups.size(), 4);
    EXPECT_DOUBLE_EQ(groups[3].options().get_lr(), 0.01 * 0.001);
  }
  auto testing = config(overrides);
  EXPECT_TRUE(build_testing(testing, {}).amp().enabled);
  EXPECT_ERROR(trainer({"optim_wrapper.constructor=Nameless"}), UsageError,
               "constructor must name each parameter of its optimizer (4), but gave 0 names");
  EXPECT_ERROR(trainer({"optim_wrapper.constructor=Halvin"}), UsageError,
               "or one that the program registered");
  // Each of several has its own.
  const auto two = trainer({"model.type=TwoStepNet",
                            "optim_wrapper=" + two_names +
                                "{constructor: Halving, optimizer: {type: Adam, lr: 0.01}}, last: "
                                "{optimizer: {type: Adam, lr: 0.01}}}"});
  EXPECT_EQ(two->parts().wrappers[0].parameter_names[1], "first.bias");
  EXPECT_EQ(two->parts().wrappers[0].wrapper->param_groups().size(), 2);
  EXPECT_ERROR(trainer({"model.type=TwoStepNet",
                        "optim_wrapper=" + two_names +
                            "{constructor: OptimWrapperConstructor, optimizer: {type: Adam}}}"}),
               UsageError, "must be one that makes a single optimizer");
}

// An epoch's numbers become those of its steps, as the saved config says, which resumes the same.
TEST_F(Wrappers, SchedulesConvertedToSteps) {
  const std::vector<std::string> overrides{
      "param_scheduler=[{type: MultiStepLR, milestones: [1], gamma: 0.5, convert_to_iter_based: "
      "true}]",
      "optim_wrapper.accumulative_counts=3"};
  {
    const auto run = trainer(overrides);
    run->train();
    EXPECT_EQ(run->parts().wrappers[0].schedulers.counts()[0], 4) << "counts steps";
    EXPECT_DOUBLE_EQ(run->learning_rate(), 0.005);
  }
  auto saved = Config::load(dir_.path() / "config.yaml");
  EXPECT_EQ(saved.to_json()["param_scheduler"][0]["milestones"].dump(), "[2]");
  EXPECT_NO_THROW(Trainer(saved, {.work_dir = dir_.path(), .resume = true}));
}

TEST_F(Wrappers, GradientsOfARehearsalStayInFloat16WhereNothingAddsThemUp) {
  const auto dtype = [&](const std::string& more) {
    const auto run =
        trainer({"optim_wrapper={type: AmpOptimWrapper, dtype: float16, optimizer: "
                 "{type: Adam}" +
                 more + "}"});
    return optim::gradient_dtype(run->parts().model->parameters()[0]);
  };
  EXPECT_EQ(dtype(""), c10::kHalf);
  EXPECT_EQ(dtype(", clip_grad: {max_norm: 1}"), c10::kHalf);
  EXPECT_EQ(dtype(", clip_grad: {max_norm: 1, norm_type: 1}"), c10::kFloat);
  EXPECT_EQ(dtype(", accumulative_counts: 2"), c10::kFloat);
}

TEST_F(Wrappers, HooksAreToldOfUpdatesNotOfIterations) {
  struct Count : Hook {
    int64_t backwards = 0, outcomes = 0, iterations = 0;
    void after_backward(Trainer& trainer) override {
      ++backwards;
      EXPECT_TRUE(trainer.parts().model->parameters()[0].grad().defined());
    }
    void after_outcome(Trainer&, const StepResult&) override { ++outcomes; }
    void after_train_iter(Trainer&, const Batch&) override { ++iterations; }
  };
  const auto run = trainer({"optim_wrapper.accumulative_counts=4"});
  auto owned = std::make_unique<Count>();
  const auto& count = *owned;
  run->register_hook(std::move(owned));
  run->train();
  EXPECT_EQ(count.backwards, 3);
  EXPECT_EQ(count.outcomes, 3);
  EXPECT_EQ(count.iterations, 12);
}

}  // namespace

}  // namespace halfstep::train
