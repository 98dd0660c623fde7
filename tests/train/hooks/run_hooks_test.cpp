// The built-in hooks in runs.
#include "halfstep/core/error.h"
#include "halfstep/train/files/module_state.h"
#include "halfstep/train/hooks/early_stopping_hook.h"
#include "halfstep/train/hooks/ema_hook.h"
#include "halfstep/train/loop/trainer.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include <torch/types.h>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/train/loop/blobs.h"
#include <gtest/gtest.h>

namespace halfstep::train {
namespace {

using halfstep::testing::TempFolder;

std::vector<nlohmann::ordered_json> lines_of(const std::filesystem::path& file) {
  std::vector<nlohmann::ordered_json> lines;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);)
    lines.push_back(nlohmann::ordered_json::parse(line));
  return lines;
}

class RunHooks : public ::testing::Test {
 protected:
  void SetUp() override { testing::register_blobs(); }
  Config config(const std::vector<std::string>& overrides) {
    auto config = Config::parse(testing::blobs_config, "blobs.yaml");
    for (const auto& assignment : overrides) config.override_with(assignment);
    return config;
  }
  std::unique_ptr<Trainer> trainer(const std::vector<std::string>& overrides, bool resume = false) {
    return std::make_unique<Trainer>(config(overrides),
                                     RunOptions{.work_dir = dir_.path(), .resume = resume});
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir_.path() / "checkpoints"))
      names.push_back(entry.path().stem().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  TempFolder dir_;
};

using Names = std::vector<std::string>;

// Checkpoints

TEST_F(RunHooks, CheckpointsByEpoch) {
  trainer({"train_cfg.max_epochs=5", "default_hooks.checkpoint={interval: 2, max_keep: 0}"})
      ->train();
  EXPECT_EQ(files(), (Names{"step_00000012", "step_00000024", "step_00000030"}));
}

TEST_F(RunHooks, CheckpointsFromAnEpochOnWithoutTheLast) {
  trainer({"train_cfg.max_epochs=6",
           "default_hooks.checkpoint={interval: 2, save_begin: 3, save_last: false, "
           "max_keep_ckpts: -1}"})
      ->train();
  EXPECT_EQ(files(), (Names{"step_00000018", "step_00000030"}));
}

TEST_F(RunHooks, CheckpointsByStep) {
  trainer({"default_hooks.checkpoint={by_epoch: false, interval: 5, max_keep_ckpts: 2}"})->train();
  EXPECT_EQ(files(), (Names{"step_00000010", "step_00000012"}));
}

TEST_F(RunHooks, TheBestCheckpointStaysBesideTheLast) {
  // An evaluation after each of 6 epochs; the rate makes the run worse again.
  const std::vector<std::string> overrides{
      "train_cfg.max_epochs=6", "param_scheduler=[{type: StepLR, step_size: 3, gamma: 1.0e+4}]",
      "default_hooks.checkpoint={max_keep: 1, save_best: loss}"};
  auto run = trainer(overrides);
  run->train();
  const auto lines = lines_of(run->work_dir().log_file());
  int64_t best = 0;
  double loss = INFINITY;
  for (const auto& line : lines) {
    if (line["event"] != "epoch" || !line["test_loss"].is_number()) continue;
    if (line["test_loss"] < loss) best = line["step"];
    loss = std::min(loss, line["test_loss"].get<double>());
  }
  ASSERT_GT(best, 6);
  ASSERT_LT(best, 36) << "the last epoch was the best: the test proves nothing";
  const auto name =
      "best_loss_step_" + std::string(best < 10 ? "0000000" : "000000") + std::to_string(best);
  EXPECT_EQ(files(), (Names{name, "step_00000036"}));
  const auto state = Checkpoint::load(run->last_saved()).state;
  EXPECT_THAT(state["hooks"].dump(), ::testing::HasSubstr(name));
  const auto saved = Checkpoint::load(dir_.path() / "checkpoints" / (name + ".safetensors"));
  EXPECT_EQ(saved.state["progress"]["step"], best);
}

TEST_F(RunHooks, SaveBestAutoTakesTheFirstResult) {
  trainer({"default_hooks.checkpoint={save_best: auto}"})->train();
  EXPECT_TRUE(files().at(0).starts_with("best_accuracy_step_"));
}

TEST_F(RunHooks, AResumedRunGoesOnWithTheBestCheckpoint) {
  const std::vector<std::string> overrides{"default_hooks.checkpoint={save_best: loss}"};
  trainer(overrides)->train();
  const auto first = files();
  ASSERT_EQ(first.size(), 3);
  auto more = overrides;
  more.emplace_back("train_cfg.max_epochs=4");
  trainer(more, true)->train();
  const auto best = files();
  EXPECT_TRUE(best[0].starts_with("best_loss_step_"));
  EXPECT_NE(best[0], first[0]) << "it got no better: the test proves nothing";
  EXPECT_FALSE(best[1].starts_with("best_")) << "the old one was not removed";
  // Without its file the score still counts, and that is said.
  std::filesystem::remove(dir_.path() / "checkpoints" / (best[0] + ".safetensors"));
  ::testing::internal::CaptureStderr();
  trainer(more, true)->train();
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              ::testing::HasSubstr(best[0] + ".safetensors', is not there any more"));
}

TEST_F(RunHooks, CheckpointSettingsAreChecked) {
  const auto fails = [&](const std::string& hook, const char* rule) {
    EXPECT_ERROR(trainer({"default_hooks.checkpoint={" + hook + "}"}), UsageError, rule);
  };
  fails("save_best: MAE", "save_best must be a metric whose rule can be guessed");
  fails("save_best: acc, rule: more", "rule must be greater or less");
  fails("save_best: [acc, auto]", "save_best must be auto alone");
  fails("save_best: [acc, acc]", "save_best must name each metric once");
  fails("save_best: [acc, loss], rule: [less, less, less]",
        "rule must be one rule, or one for each");
  fails("max_keep: 1, max_keep_ckpts: 1", "max_keep_ckpts must be left out beside max_keep");
  fails("interval: 0", "interval must be at least 1");
  EXPECT_ERROR(
      trainer({"default_hooks.checkpoint={save_best: acc}"})->train(), UsageError,
      "[checkpoint] save_best must name a result of the validation (accuracy, loss), but got "
      "'acc'");
}

// Early stopping

std::string feed(EarlyStoppingHook& hook, const std::vector<double>& values, size_t* count) {
  for (*count = 0; *count < values.size(); ++*count)
    if (auto reason = hook.check(values[*count]); !reason.empty()) return reason;
  return "";
}

TEST(EarlyStopping, StopsAsMMEngineDoes) {
  struct Case {
    const char* yaml;
    std::vector<double> values;
    size_t stops_at;
    const char* reason;
  };
  const Case cases[] = {
      {"{monitor: acc, min_delta: 0.1, patience: 2}",
       {0.1, 0.3, 0.35, 0.39},
       3,
       "did not improve in the last 2"},
      // Just as good as needed is better; the best value follows it.
      {"{monitor: acc, min_delta: 0.0, patience: 2}",
       {0.5, 0.5, 0.5, 0.5, 0.4, 0.4},
       5,
       "the best value was 0.500"},
      {"{monitor: loss, min_delta: 0.1, patience: 1}", {1.0, 0.8, 0.75}, 2, "loss did not improve"},
      {"{monitor: x, rule: less, min_delta: 0.0, patience: 1, stopping_threshold: 0.5}",
       {0.9, 0.6, 0.4},
       2,
       "x = 0.4 passed the threshold 0.5"},
      {"{monitor: acc}", {0.1, NAN}, 1, "acc = nan is not finite"},
      {"{monitor: acc, check_finite: false, patience: 1}", {0.1, INFINITY}, 2, ""},
  };
  for (const auto& [yaml, values, stops_at, reason] : cases) {
    SCOPED_TRACE(yaml);
    auto config = Config::parse(yaml);
    EarlyStoppingHook hook(config);
    config.finish();
    size_t count = 0;
    EXPECT_THAT(feed(hook, values, &count), ::testing::HasSubstr(reason));
    EXPECT_EQ(count, stops_at);
  }
}

TEST(EarlyStopping, SettingsAreChecked) {
  const auto fails = [](const char* yaml, const char* rule) {
    auto config = Config::parse(yaml);
    EXPECT_ERROR(EarlyStoppingHook{config}, UsageError, rule);
  };
  fails("{}", "'monitor' is missing");
  fails("{monitor: x}", "monitor must be a metric whose rule can be guessed");
  fails("{monitor: x, rule: most}", "rule must be greater or less");
  fails("{monitor: acc, patience: 0}", "patience must be at least 1");
  fails("{monitor: acc, min_delta: -1.0}", "min_delta must be at least 0");
}

TEST_F(RunHooks, EarlyStoppingEndsTheRunAndStaysWithIt) {
  const auto overrides = [](const std::string& patience) {
    return std::vector<std::string>{
        "train_cfg.max_epochs=9",
        "custom_hooks=[{type: EarlyStoppingHook, monitor: loss, min_delta: 5.0, patience: " +
            patience + "}]"};
  };
  auto run = trainer(overrides("2"));
  EXPECT_EQ(run->train(), Trainer::Outcome::stopped);
  EXPECT_EQ(run->progress().epoch, 3);
  run.reset();  // and with it the work dir
  run = trainer(overrides("2"), true);
  EXPECT_EQ(run->train(), Trainer::Outcome::stopped);
  EXPECT_EQ(run->progress().step, 18);
  run.reset();
  run = trainer(overrides("4"), true);
  run->train();
  EXPECT_EQ(run->progress().epoch, 5);
}

TEST_F(RunHooks, EarlyStoppingWithoutItsMetric) {
  const std::string hook = "custom_hooks=[{type: EarlyStoppingHook, monitor: acc, strict: ";
  EXPECT_ERROR(trainer({hook + "true}]"})->train(), UsageError,
               "[early stopping] monitor must be a result", "(accuracy, loss), but got 'acc'");
  EXPECT_EQ(trainer({hook + "false}]"})->train(), Trainer::Outcome::finished);
}

// Averages

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

TEST_F(RunHooks, AverageFollowsTheWeightsAndIsWhatIsSaved) {
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

TEST_F(RunHooks, AverageSettingsAreChecked) {
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

// The log

TEST_F(RunHooks, LinesInMMEnginesForm) {
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

TEST_F(RunHooks, LinesOfAValidation) {
  ::testing::internal::CaptureStdout();
  trainer({"default_hooks.logger.interval=2", "train_cfg.max_epochs=1"})->train();
  const auto output = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(output,
              ::testing::ContainsRegex("Epoch\\(val\\) \\[1\\]\\[2/3\\]    eta: 0:00:0[0-9]  "
                                       "time: 0\\.[0-9]{4}  data_time: 0\\.[0-9]{4}"));
  EXPECT_THAT(output, ::testing::Not(::testing::HasSubstr("[1/3]")));
}

TEST_F(RunHooks, LinesByIteration) {
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

// The line's loss is the mean of the last ten, log.jsonl's that of the step.
TEST_F(RunHooks, LossesAreSmoothedOverTheWindow) {
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

TEST_F(RunHooks, TheLastBatchIsLoggedWhereItWouldBeMissing) {
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

TEST_F(RunHooks, GradientStatisticsWithoutTheLossScale) {
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

TEST_F(RunHooks, GradientStatisticsShowWhereAnOverflowBegan) {
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

// Metrics

TEST_F(RunHooks, ChosenMetricsGoToTheLogAndToSaveBest) {
  auto run = trainer({"val_evaluator=[{type: Accuracy, topk: [1, 2]}]",
                      "default_hooks.checkpoint={save_best: accuracy/top2}"});
  run->train();
  const auto& evaluation = *run->evaluation();
  EXPECT_FALSE(evaluation.accuracy.has_value());
  std::vector<std::string> names;
  for (const auto& [name, value] : evaluation.metrics) names.push_back(name);
  EXPECT_EQ(names, (Names{"accuracy/top1", "accuracy/top2", "loss"}));
  EXPECT_TRUE(files()[0].starts_with("best_accuracy_top2_step_"));
  EXPECT_EQ(lines_of(run->work_dir().log_file()).back()["test_accuracy/top2"],
            *evaluation.metrics.find("accuracy/top2"));
}

TEST_F(RunHooks, ValidationDataGoesBeforeTestData) {
  auto run = trainer({"val_dataloader={batch_size: 8, dataset: {type: Blobs, examples: 8}}"});
  EXPECT_EQ(run->parts().test_loader->dataset().size(), 8);
  auto testing_config =
      config({"val_dataloader={batch_size: 8, dataset: {type: Blobs, examples: 8}}"});
  EXPECT_EQ(build_testing(testing_config, {}).test_loader->dataset().size(), 96);
}

TEST_F(RunHooks, PrioritiesInTheConfig) {
  EXPECT_ERROR(trainer({"custom_hooks=[{type: Drift, priority: FIRST}]"}), UsageError,
               "custom_hooks.0.priority must be HIGHEST", "but got FIRST");
  EXPECT_ERROR(trainer({"custom_hooks=[{type: Drift, prority: LOW}]"}), UsageError,
               "unknown key 'prority'");
  EXPECT_NO_THROW(
      trainer({"custom_hooks=[{type: Drift, priority: LOW}]", "default_hooks.logger.priority=95"}));
}

}  // namespace
}  // namespace halfstep::train
