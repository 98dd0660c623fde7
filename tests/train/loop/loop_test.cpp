#include "halfstep/core/error.h"
#include "halfstep/train/loop/loop_settings.h"

#include "tests/support/errors.h"
#include "tests/train/loop/blob_runs.h"

namespace halfstep::train {
namespace {

using halfstep::testing::read_file;
using halfstep::testing::TempFolder;

/// Writes down the points it is called at.
struct Recorder : Hook {
  std::string* text;
  explicit Recorder(std::string* into) : text(into) {}
  void note(const char* point) { *text += point; }
  void before_run(Trainer&) override { note("run("); }
  void after_run(Trainer&) override { note(")"); }
  void before_train_epoch(Trainer&) override { note("E["); }
  void after_train_epoch(Trainer&) override { note("]"); }
  void before_train_iter(Trainer& trainer, const Batch& batch) override {
    EXPECT_EQ(batch.data.size(0), 48);
    EXPECT_FALSE(trainer.progress().val_due);
    note("i");
  }
  void after_backward(Trainer& trainer) override {
    for (const auto& parameter : trainer.parts().model->parameters())
      EXPECT_TRUE(parameter.grad().defined());
    note("b");
  }
  void after_outcome(Trainer&, const StepResult& result) override {
    EXPECT_TRUE(result.stepped());
    note("o");
  }
  void after_train_iter(Trainer&, const Batch&) override { note(". "); }
  void before_val_epoch(Trainer& trainer) override {
    EXPECT_TRUE(trainer.progress().val_due);
    note("V{");
  }
  void after_val_epoch(Trainer& trainer, const Metrics& metrics) override {
    EXPECT_FALSE(metrics.empty());
    EXPECT_FALSE(trainer.progress().val_due);
    note("}");
  }
  void before_val_iter(Trainer&, int64_t number, const Batch& batch) override {
    EXPECT_EQ(batch.data.size(0), number < 2 ? 40 : 16);
    note("v");
  }
  void after_val_iter(Trainer&, int64_t, const Batch&) override { note("."); }
  void before_save_checkpoint(Trainer&, Checkpoint&) override { note("<"); }
  void after_save_checkpoint(Trainer&, const std::filesystem::path& file) override {
    EXPECT_TRUE(std::filesystem::exists(file));
    note(">");
  }
};

class LoopTest : public testing::BlobRuns {
 protected:
  std::string points(const std::vector<std::string>& overrides, bool late = false) {
    const TempFolder dir;
    auto with_batches = overrides;
    with_batches.emplace_back("train_dataloader.batch_size=48");
    Trainer trainer(config(with_batches), {.work_dir = dir.path(), .late_outcomes = late});
    std::string text;
    trainer.register_hook(std::make_unique<Recorder>(&text));
    EXPECT_EQ(trainer.train(), Trainer::Outcome::finished);
    return text;
  }
};

TEST_F(LoopTest, PointsOfARunByEpochs) {
  const std::string epoch = "E[ibo. ibo. ]V{v.v.v.}<>";
  EXPECT_EQ(points({}), "run(" + epoch + epoch + ")");
}

// The outcome of a step comes after the next one's backward, or when the epoch ends.
TEST_F(LoopTest, PointsWhereOutcomesAreLate) {
  EXPECT_EQ(points({"train_cfg.max_epochs=1"}, true), "run(E[ib. iob. o]V{v.v.v.}<>)");
}

TEST_F(LoopTest, PointsOfARunByIterations) {
  EXPECT_EQ(
      points({"train_cfg={by_epoch: false, max_iters: 5, val_interval: 2}", "param_scheduler=[]"}),
      "run(E[ibo. ibo. V{v.v.v.}ibo. ibo. V{v.v.v.}ibo. V{v.v.v.}])<>");
}

TEST_F(LoopTest, ValidationIntervals) {
  const auto validations = [&](const std::string& train_cfg) {
    std::string epochs;
    const auto text = points({"train_cfg={" + train_cfg + "}"});
    int epoch = 0;
    for (const char point : text) {
      if (point == ']') ++epoch;
      if (point == 'V') epochs += std::to_string(epoch);
    }
    return epochs;
  };
  EXPECT_EQ(validations("max_epochs: 5, val_interval: 2"), "245");
  EXPECT_EQ(validations("max_epochs: 5, val_begin: 3"), "345");
  EXPECT_EQ(validations("max_epochs: 2, val_interval: 7"), "2");
  // The interval of the epoch to come decides, as in MMEngine.
  EXPECT_EQ(validations("max_epochs: 9, val_interval: 4, dynamic_intervals: [[6, 3], [8, 1]]"),
            "46789");
}

TEST_F(LoopTest, IterationsEndInMidEpoch) {
  Trainer run(config({"train_cfg={type: IterBasedTrainLoop, max_iters: 8}", "param_scheduler=[]"}),
              {.work_dir = dir_.path()});
  EXPECT_EQ(run.train(), Trainer::Outcome::finished);
  EXPECT_EQ(run.progress(), (Progress{.epoch = 1, .batch = 2, .step = 8}));
  EXPECT_TRUE(run.evaluation().has_value()) << "the last step is followed by a validation";
}

// The same steps on the same batches, whatever counts them.
TEST_F(LoopTest, EpochsAndIterationsTrainAlike) {
  std::vector<std::string> weights;
  for (const char* train_cfg : {"{max_epochs: 2}", "{by_epoch: false, max_iters: 12}"}) {
    const TempFolder dir;
    Trainer run(config({std::string("train_cfg=") + train_cfg, "param_scheduler=[]"}),
                {.work_dir = dir.path()});
    run.train();
    const auto weight = run.parts().model->parameters().front();
    weights.emplace_back(static_cast<const char*>(weight.const_data_ptr()), weight.nbytes());
  }
  EXPECT_TRUE(weights[0] == weights[1]);
}

TEST_F(LoopTest, SettingsAreChecked) {
  const auto read = [](const char* text) {
    auto cfg = Config::parse(text, "x.yaml");
    const auto settings = LoopSettings::read(cfg);
    cfg.finish();
    return settings;
  };
  EXPECT_EQ(read("{type: EpochBasedTrainLoop, max_epochs: 3}").length, 3);
  EXPECT_FALSE(read("{type: IterBasedTrainLoop, max_iters: 3}").by_epoch);
  EXPECT_EQ(read("{by_epoch: false, max_iters: 3}").val_interval, 1000);
  EXPECT_ERROR(read("{type: EpochBasedTrainLoop, by_epoch: true}"), UsageError,
               "by_epoch must be left out beside type");
  EXPECT_ERROR(read("{type: TrainLoop}"), UsageError, "EpochBasedTrainLoop or IterBasedTrainLoop");
  EXPECT_ERROR(read("{by_epoch: false}"), UsageError, "'max_iters' is missing");
  EXPECT_ERROR(read("{by_epoch: false, max_iters: 0}"), UsageError, "max_iters must be at least 1");
  EXPECT_ERROR(read("{max_epochs: 1, max_iters: 3}"), UsageError, "unknown key 'max_iters'");
  for (const char* pairs : {"5", "[5]", "[[5]]", "[[0, 1]]", "[[2, 0]]", "[[5, 1], [5, 2]]",
                            "[[1.5, 1]]", "[[1, 2, 3]]"})
    EXPECT_ERROR(read((std::string("{dynamic_intervals: ") + pairs + "}").c_str()), UsageError,
                 "dynamic_intervals must be a list of [from, interval]");
  EXPECT_ERROR(read("{val_interval: 0}"), UsageError, "val_interval must be at least 1");
}

TEST_F(LoopTest, LoadFromTakesWeightsAlone) {
  std::filesystem::path file;
  {
    Trainer first(config({"train_cfg.max_epochs=4"}), {.work_dir = dir_.path() / "first"});
    first.train();
    file = first.last_saved();
  }
  const auto weight_of = [](Trainer& run) { return run.parts().model->parameters().front(); };
  Trainer second(config({}), {.work_dir = dir_.path() / "second", .load_from = file});
  EXPECT_EQ(second.progress().step, 0);
  EXPECT_EQ(second.learning_rate(), 0.01);
  EXPECT_TRUE(second.resumed_from().empty());
  EXPECT_TRUE(weight_of(second).equal(Checkpoint::load(file).tensors.at("model.first.weight")));
  const auto saved = read_file(second.work_dir().config_file());
  EXPECT_THAT(saved, ::testing::HasSubstr(file.string()));
  second.train();
  // What the work dir has goes before load_from; without anything there, load_from is resumed.
  {
    Trainer resumed(Config::load(second.work_dir().config_file()),
                    {.work_dir = dir_.path() / "third", .resume = true});
    EXPECT_EQ(resumed.progress().step, 24);
  }
}

TEST_F(LoopTest, LoadFromTakesWhatTorchSaved) {
  const std::string file = HALFSTEP_GOLDEN_WEIGHTS "/mlp.pth";
  const std::vector<std::string> options{"model={type: Mlp, sizes: [16, 8, 4]}",
                                         "load_from=" + file};
  ::testing::internal::CaptureStderr();
  Trainer run(config(options), {.work_dir = dir_.path() / "first"});
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              ::testing::HasSubstr("fc1.bias (float16 to float32)"));
  const auto weight = run.parts().model->parameters().front();
  EXPECT_TRUE(weight.equal((at::arange(128, at::kFloat) / 8).view({8, 16})));
  run.train();
  // With nothing to resume from it is a new run with these weights.
  const TempFolder other;
  Trainer resumed(config(options), {.work_dir = other.path(), .resume = true});
  EXPECT_TRUE(resumed.resumed_from().empty());
  EXPECT_TRUE(resumed.parts().model->parameters().front().equal(
      (at::arange(128, at::kFloat) / 8).view({8, 16})));
}

TEST_F(LoopTest, LoadFromSaysWhatDoesNotFit) {
  std::filesystem::path file;
  {
    Trainer first(config({"model={type: Mlp, sizes: [16, 32, 4]}"}), {.work_dir = dir_.path()});
    first.train();
    file = first.last_saved();
  }
  const std::string key = "load_from=" + file.string();
  ::testing::internal::CaptureStderr();
  const TempFolder other;
  Trainer second(config({"model={type: Mlp, sizes: [16, 32, 5]}", key}),
                 {.work_dir = other.path()});
  const auto warning = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(warning, ::testing::HasSubstr(": fc2.bias (here float32 [5], there float32 [4])"));
  EXPECT_THAT(warning, ::testing::HasSubstr("have another shape in it and keep their initial"));
  const TempFolder third;
  EXPECT_ERROR(Trainer(config({key}), {.work_dir = third.path()}), UsageError, "[load_from]",
               "none of its names and shapes fits");
}

}  // namespace
}  // namespace halfstep::train
