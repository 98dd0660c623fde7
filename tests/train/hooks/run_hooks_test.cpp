// Checkpoints, early stopping, metrics and priorities in runs.
#include "halfstep/core/error.h"
#include "halfstep/train/files/module_state.h"
#include "halfstep/train/hooks/early_stopping_hook.h"

#include <algorithm>
#include <cmath>

#include "tests/support/errors.h"
#include "tests/train/loop/blob_runs.h"

namespace halfstep::train {
namespace {

using halfstep::testing::TempFolder;
using testing::lines_of;

class RunHooks : public testing::BlobRuns {
 protected:
  std::unique_ptr<Trainer> trainer(const std::vector<std::string>& overrides, bool resume = false) {
    return BlobRuns::trainer(overrides, {.resume = resume});
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir_.path() / "checkpoints"))
      names.push_back(entry.path().stem().string());
    std::sort(names.begin(), names.end());
    return names;
  }
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

TEST_F(RunHooks, PublishesTheWeightsAlone) {
  double loss = 0;
  {
    auto run =
        trainer({"default_hooks.checkpoint={save_best: loss, max_keep: 1, published_keys: "
                 "[meta, state_dict]}"});
    run->train();
    loss = run->evaluation()->loss;
  }
  const auto names = files();
  ASSERT_EQ(names.size(), 4);
  EXPECT_TRUE(names[1].starts_with("published_best_loss_step_"));
  EXPECT_EQ(names[2], "published_step_00000012");
  const auto folder = dir_.path() / "checkpoints";
  const auto whole = Checkpoint::load(folder / "step_00000012.safetensors");
  const auto published = Checkpoint::load(folder / "published_step_00000012.safetensors");
  EXPECT_EQ(published.tensors.size(), 4);
  EXPECT_LT(published.tensors.size(), whole.tensors.size());
  EXPECT_TRUE(published.tensors.at("model.last.bias").equal(whole.tensors.at("model.last.bias")));
  EXPECT_EQ(published.state["progress"]["step"], 12);
  EXPECT_FALSE(published.state.contains("optimizer"));
  auto testing_config = config({});
  auto parts = build_testing(testing_config, {});
  load_module(published, *parts.model);
  EXPECT_EQ(
      evaluate(*parts.model, *parts.test_loader, c10::kCPU, parts.amp(), parts.evaluator)->loss,
      loss);
  // A resumed run looks for its own checkpoints only.
  EXPECT_EQ(trainer({"train_cfg.max_epochs=3"}, true)->progress().step, 12);
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
  fails("published_keys: [state_dict, optimizer]",
        "published_keys must be state_dict, or state_dict and meta");
  fails("published_keys: meta", "published_keys must have state_dict");
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
