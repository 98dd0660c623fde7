#include "halfstep/train/hooks/ema_hook.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/module_state.h"

#include <torch/types.h>

#include "tests/support/errors.h"
#include "tests/train/loop/blob_runs.h"

namespace halfstep::train {
namespace {

using halfstep::testing::TempFolder;

class AveragedRuns : public testing::BlobRuns {};

/// Replays the averages from the weights after each step.
struct Replay : Hook {
  double momentum;
  int64_t begin;
  torch::Tensor average;
  int64_t updates = 0;
  Replay(double share, int64_t from) : momentum(share), begin(from) {}
  void after_outcome(Trainer& trainer, const StepResult& result) override {
    if (!result.stepped()) return;
    const torch::NoGradGuard no_grad;
    const auto weight = trainer.parts().model->parameters().front().to(torch::kFloat).clone();
    if (trainer.progress().step < begin || updates++ == 0)
      average = weight;
    else
      average.lerp_(weight, momentum);
  }
};

TEST_F(AveragedRuns, AverageFollowsTheWeightsAndIsWhatIsSaved) {
  for (const bool sixteen_bits : {false, true}) {
    SCOPED_TRACE(sixteen_bits);
    const TempFolder dir;
    const std::string masters = sixteen_bits ? ", master_weights: float32" : "";
    Trainer run(config({"optim_wrapper={type: AmpOptimWrapper, dtype: bfloat16, loss_scale: "
                        "{init_scale: 3.0e+38}, optimizer: {type: Adam, lr: 0.01" +
                            masters + "}}",
                        "custom_hooks=[{type: EMAHook, momentum: 0.1, begin_iter: 4}]"}),
                {.work_dir = dir.path()});
    auto replay = std::make_unique<Replay>(0.1, 4);
    const auto& expected = *replay;
    run.register_hook(std::move(replay));
    run.train();
    ASSERT_GT(run.progress().skipped_steps, 0) << "no step was skipped: the test proves less";
    ASSERT_GT(expected.updates, 4);
    const auto saved = Checkpoint::load(run.last_saved());
    const auto weight = run.parts().model->parameters().front();
    const auto& model = saved.tensors.at("model.first.weight");
    EXPECT_EQ(model.scalar_type(), weight.scalar_type());
    EXPECT_TRUE(model.equal(expected.average.to(weight.scalar_type())));
    EXPECT_TRUE(saved.tensors.at("ema.weight.first.weight").equal(weight));
    EXPECT_FALSE(model.equal(weight)) << "the average is the weights: the test proves nothing";
    EXPECT_EQ(saved.tensors.contains("ema.average.first.weight"), sixteen_bits);
    // Tests and load_from take the average, which is what the validation measured.
    auto testing_config =
        config({"optim_wrapper={type: AmpOptimWrapper, dtype: bfloat16, optimizer: "
                "{type: Adam" +
                masters + "}}"});
    auto parts = build_testing(testing_config, {});
    load_module(saved, *parts.model);
    const auto result =
        evaluate(*parts.model, *parts.test_loader, c10::kCPU, parts.amp(), parts.evaluator);
    EXPECT_EQ(result->loss, run.evaluation()->loss);
  }
}

// A GAN's iteration makes two updates and is averaged once, as MMEngine does in after_train_iter;
// on a GPU, which tells the second one's outcome late, to the same bits.
TEST_F(AveragedRuns, CountIterationsNotTheUpdatesOfEachOptimizer) {
  /// Averages the weights as they are at the end of each iteration.
  struct EndOfIteration : Hook {
    std::vector<torch::Tensor> average;
    void after_train_iter(Trainer& trainer, const Batch&) override {
      const torch::NoGradGuard no_grad;
      const auto weights = trainer.parts().model->parameters();
      for (size_t i = 0; i < weights.size(); ++i) {
        if (average.size() < weights.size())
          average.push_back(weights[i].clone());
        else
          average[i].lerp_(weights[i], 0.1);
      }
    }
  };
  for (const bool late : {false, true}) {
    SCOPED_TRACE(late);
    const TempFolder dir;
    Trainer run(config({"model.type=TwoStepNet", "custom_hooks=[{type: EMAHook, momentum: 0.1}]",
                        "optim_wrapper={constructor: OptimWrapperConstructor, first: {optimizer: "
                        "{type: SGD, lr: 0.1}}, last: {optimizer: {type: SGD, lr: 0.1}}}"}),
                {.work_dir = dir.path(), .late_outcomes = late});
    auto replay = std::make_unique<EndOfIteration>();
    const auto& expected = replay->average;
    run.register_hook(std::move(replay));
    run.train();
    ASSERT_EQ(run.counts(0).updates + run.counts(1).updates, 24);
    const auto saved = Checkpoint::load(run.last_saved());
    const auto names = run.parts().model->named_parameters().keys();
    for (size_t i = 0; i < names.size(); ++i)
      EXPECT_TRUE(saved.tensors.at("model." + names[i]).equal(expected[i])) << names[i];
    for (const auto& hook : saved.state["hooks"])
      if (hook["state"].contains("updates")) {
        EXPECT_EQ(hook["state"]["updates"], 12);
      }
  }
}

TEST(WeightAverage, KindsOfMMEngine) {
  const auto run = [](const char* yaml) {
    auto config = Config::parse(yaml);
    WeightAverage average(config);
    config.finish();
    torch::nn::Module module;
    auto weight = module.register_parameter("w", torch::zeros({1}, torch::kDouble), false);
    auto buffer = module.register_buffer("b", torch::zeros({1}));
    average.watch(module);
    for (int i = 1; i <= 5; ++i) {
      weight.fill_(i);
      buffer.fill_(i);
      average.update();
    }
    std::vector<double> result;
    for (const auto& item : average.items()) result.push_back(item.average.item<double>());
    average.swap_in();
    EXPECT_EQ(weight.item<double>(), result[0]);
    average.swap_out();
    EXPECT_EQ(weight.item<double>(), 5);
    return result;
  };
  using Values = std::vector<double>;
  const auto expect_near = [](const Values& got, const Values& expected) {
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-6);
  };
  expect_near(run("{momentum: 0.5}"), {4.0625});
  expect_near(run("{momentum: 0.5, interval: 2}"), {0.5 * (0.5 * (1 + 3)) + 0.5 * 5});
  expect_near(run("{ema_type: StochasticWeightAverage}"), {3});
  expect_near(run("{ema_type: StochasticWeightAverage, interval: 2}"), {(1 + 3 + 5) / 3.0});
  double annealed = 1;
  for (int i = 2; i <= 5; ++i) annealed += (i - annealed) * std::max(0.2, 1.0 / (1 + (i - 1)));
  expect_near(run("{ema_type: MomentumAnnealingEMA, momentum: 0.2, gamma: 1}"), {annealed});
  expect_near(run("{momentum: 0.5, update_buffers: true}"), {4.0625, 4.0625});
}

TEST_F(AveragedRuns, AverageSettingsAreChecked) {
  const auto fails = [&](const std::string& keys, const char* rule) {
    EXPECT_ERROR(trainer({"custom_hooks=[{type: EMAHook, " + keys + "}]"})->train(), UsageError,
                 rule);
  };
  fails("begin_iter: -1", "begin_iter must be at least 0");
  fails("begin_iter: 1, begin_epoch: 1", "begin_epoch must be left out beside begin_iter");
  fails("momentum: 1.0", "momentum must be above 0 and below 1");
  fails("ema_type: Mean", "ema_type must be ExponentialMovingAverage");
  fails("begin_epoch: 3", "[EMAHook] begin_epoch must be at most max_epochs");
  fails("begin_iter: 13", "[EMAHook] begin_iter must be at most the 12 steps");
}

}  // namespace
}  // namespace halfstep::train
