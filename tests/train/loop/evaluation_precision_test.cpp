#include "halfstep/train/loop/evaluation_precision.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"
#include "tests/train/loop/blob_runs.h"

namespace halfstep::train {
namespace {

const std::string amp = "{type: AmpOptimWrapper, optimizer: {type: Adam}}";
const std::string plain = "{optimizer: {type: Adam}}";

class EvaluationPrecisions : public testing::BlobRuns {
 protected:
  static std::vector<std::string> two(const std::string& first, const std::string& last) {
    return {"model.type=TwoStepNet",
            "optim_wrapper={constructor: OptimWrapperConstructor, first: " + first +
                ", last: " + last + "}"};
  }
  static std::vector<std::string> with(std::vector<std::string> overrides,
                                       const std::string& more) {
    overrides.push_back(more);
    return overrides;
  }
  /// What the model computes in while it is evaluated.
  c10::ScalarType dtype_of(const std::vector<std::string>& overrides) {
    struct Note : Hook {
      c10::ScalarType dtype = c10::kDouble;
      void after_val_iter(Trainer& trainer, int64_t, const Batch& batch) override {
        const auto& settings = trainer.parts().amp();
        const Autocast region(
            AutocastOptions(c10::kCPU).enabled(settings.enabled).dtype(settings.dtype));
        dtype = trainer.parts().model->forward(batch.data).scalar_type();
      }
    };
    const auto run = trainer(overrides);
    auto note = std::make_unique<Note>();
    const auto& noted = *note;
    run->register_hook(std::move(note));
    run->train();
    return noted.dtype;
  }
};

TEST_F(EvaluationPrecisions, OfOneOptimizer) {
  const auto one = [](const std::string& wrapper, const std::string& more) {
    return std::vector<std::string>{"optim_wrapper=" + wrapper, "test_cfg=" + more};
  };
  EXPECT_EQ(dtype_of(one(amp, "null")), c10::kBFloat16);
  EXPECT_EQ(dtype_of(one(amp, "{type: TestLoop}")), c10::kBFloat16);
  EXPECT_EQ(dtype_of(one(amp, "{fp16: false}")), c10::kFloat);
  EXPECT_EQ(dtype_of(one(plain, "{}")), c10::kFloat);
  EXPECT_EQ(dtype_of(one(plain, "{fp16: true}")), c10::kBFloat16) << "the device's own";
}

// The loss of the validation is that of its precision.
TEST_F(EvaluationPrecisions, ChangesWhatIsMeasured) {
  std::vector<double> losses;
  for (const char* cfg : {"null", "{fp16: true}", "{fp16: false}"}) {
    const halfstep::testing::TempFolder dir;
    Trainer run(config({"optim_wrapper=" + amp, std::string("test_cfg=") + cfg}),
                {.work_dir = dir.path()});
    run.train();
    losses.push_back(run.evaluation()->loss);
    auto testing = config({"optim_wrapper=" + amp, std::string("test_cfg=") + cfg});
    EXPECT_EQ(build_testing(testing, {}).amp().enabled, run.parts().amp().enabled);
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_NE(losses[0], losses[2]);
}

TEST_F(EvaluationPrecisions, OptimizersMustAgree) {
  EXPECT_EQ(dtype_of(two(amp, amp)), c10::kBFloat16);
  EXPECT_EQ(dtype_of(with(two(plain, amp), "test_cfg={fp16: true}")), c10::kBFloat16);
  EXPECT_EQ(dtype_of(with(two(amp, plain), "val_cfg={fp16: false}")), c10::kFloat);
  EXPECT_ERROR(trainer(two(amp, plain)), UsageError,
               "optim_wrapper must have one precision for the model to be evaluated in, but "
               "'first' has bfloat16 (autocast) and 'last' has float32; write test_cfg: {fp16: "
               "false} to evaluate in float32, or {fp16: true} for the precision of those");
  const std::string half = "{type: AmpOptimWrapper, dtype: float16, optimizer: {type: Adam}}";
  EXPECT_ERROR(trainer(with(two(amp, half), "test_cfg={fp16: true}")), UsageError,
               "'first' has bfloat16", "'last' has float16", "or give them the same dtype");
  const std::string rules =
      "{type: AmpOptimWrapper, autocast: {ops: {softmax: float32}}, optimizer: {type: Adam}}";
  EXPECT_ERROR(trainer(two(amp, rules)), UsageError,
               "{policy: torch(cpu), ops: {\"softmax\": float32}}");
  EXPECT_EQ(dtype_of(two(rules, rules)), c10::kBFloat16);
  // Nothing is evaluated, so nothing needs to be decided.
  EXPECT_NO_THROW(trainer(with(two(amp, plain), "test_dataloader=null")));
}

// One that falls back takes the evaluation along.
TEST_F(EvaluationPrecisions, TheWidestAfterAFallBack) {
  const auto run = trainer(two(amp, amp));
  EXPECT_TRUE(run->parts().amp().enabled);
  run->fall_back(1);
  EXPECT_FALSE(run->parts().amp().enabled);
}

TEST_F(EvaluationPrecisions, SettingsAreChecked) {
  EXPECT_ERROR(trainer({"val_cfg={type: MultiValLoop}"}), UsageError,
               "val_cfg.type must be ValLoop, but got MultiValLoop");
  EXPECT_ERROR(trainer({"test_cfg={type: ValLoop}"}), UsageError, "test_cfg.type must be TestLoop");
  EXPECT_ERROR(trainer({"val_cfg={fp32: true}"}), UsageError, "unknown key 'fp32'");
  EXPECT_ERROR(trainer({"val_cfg={}", "test_dataloader=null"}), UsageError,
               "val_cfg must stand beside data to evaluate on");
  EXPECT_ERROR(trainer({"optim_wrapper={type: AmpOptimWrapper, optimizer: {type: Adam, "
                        "master_weights: float32}}",
                        "val_cfg={fp16: false}"}),
               UsageError, "val_cfg.fp16 must be true, or left out, beside master_weights");
}

// What a run computes in is said of all its optimizers.
TEST_F(EvaluationPrecisions, ACheckpointNamesThePrecisionOfEach) {
  const auto run = trainer(with(two(amp, plain), "test_dataloader=null"));
  EXPECT_EQ(collect_state(*run).state["environment"]["dtype"], "bfloat16 (autocast) and float32");
}

}  // namespace
}  // namespace halfstep::train
