// The key master_weights of a fused optimizer: 16-bit weights that train as float32 ones do.
#include "halfstep/core/error.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/train/files/module_state.h"
#include "halfstep/train/loop/trainer.h"

#include <list>

#include <ATen/ops/linear.h>
#include <torch/types.h>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"
#include "tests/train/loop/blobs.h"

namespace halfstep::train {

namespace {

using halfstep::testing::expect_same_bits;
using halfstep::testing::TempFolder;

// A layer of the user's own, whose weight is left to autocast.
struct OwnMatrix : Model {
  torch::Tensor weight = register_parameter("weight", torch::ones({4, 16}));
  torch::Tensor forward(const torch::Tensor& input) override { return at::linear(input, weight); }
};
[[maybe_unused]] const bool own_matrix = models().add(
    "OwnMatrix", [](Config&) -> std::shared_ptr<Model> { return std::make_shared<OwnMatrix>(); });

class TrainMasters : public ::testing::Test {
 protected:
  void SetUp() override { testing::register_blobs(); }
  static Config config(const std::string& optim_wrapper) {
    auto config = Config::parse(testing::blobs_config, "blobs.yaml");
    config.override_with("optim_wrapper=" + optim_wrapper);
    return config;
  }
  std::unique_ptr<Trainer> trainer(const std::string& optim_wrapper, const std::string& more = "") {
    dirs_.emplace_back();
    auto all = config(optim_wrapper);
    if (!more.empty()) all.override_with(more);
    return std::make_unique<Trainer>(std::move(all), RunOptions{.work_dir = dirs_.back().path()});
  }
  static const optim::FusedOptimizer& fused(const Trainer& run) {
    return dynamic_cast<const optim::FusedOptimizer&>(run.parts().wrappers[0].wrapper->optimizer());
  }
  std::list<TempFolder> dirs_;
};

TEST_F(TrainMasters, WeightsAreThoseOfMixedPrecisionRounded) {
  struct Case {
    const char *wrapper, *optimizer, *kind;
  };
  const Case cases[] = {
      {"", "type: Adam, lr: 0.01", "float32"},
      {"", "type: Adam, lr: 0.01", "remainder"},
      {"", "type: SGD, lr: 0.01, momentum: 0.9", "float32"},
      {"", "type: AdamW, lr: 0.01", "remainder"},
      {"", "type: Adagrad, lr: 0.01", "float32"},
      {"dtype: float16, loss_scale: {init_scale: 1.0e+6, growth_interval: 4}, ",
       "type: Adam, lr: 0.01", "float32"},
  };
  for (const auto& [wrapper, optimizer, kind] : cases) {
    SCOPED_TRACE(std::string(wrapper) + optimizer + " " + kind);
    const std::string start = std::string("{type: AmpOptimWrapper, ") + wrapper + "optimizer: {";
    auto amp = trainer(start + optimizer + "}}");
    const auto dtype = amp->parts().amp().dtype;
    {
      // A master starts from its weight.
      const torch::NoGradGuard no_grad;
      for (auto& weight : amp->parts().model->parameters()) weight.copy_(weight.to(dtype));
    }
    const auto initial = amp->parts().model->parameters()[0].detach().clone();
    amp->train();
    auto run = trainer(start + optimizer + ", master_weights: " + kind + "}}");
    run->train();
    if (amp->parts().amp().scaling) {
      EXPECT_GT(amp->progress().skipped_steps, 0) << "no overflow happened: the case proves less";
      EXPECT_LT(amp->progress().skipped_steps, 8);
    }
    EXPECT_EQ(run->progress(), amp->progress());
    expect_same_bits(run->loss(), amp->loss());
    EXPECT_EQ(run->evaluation()->loss, amp->evaluation()->loss);
    const auto expected = amp->parts().model->named_parameters();
    EXPECT_FALSE(expected["first.weight"].equal(initial)) << "nothing was trained";
    for (const auto& item : run->parts().model->named_parameters()) {
      EXPECT_EQ(item.value().scalar_type(), dtype) << item.key();
      expect_same_bits(fused(*run).master_of(item.value()), expected[item.key()].detach());
      EXPECT_FALSE(fused(*run).shadow_of(item.value()).defined());
    }
  }
}

TEST_F(TrainMasters, CheckpointsHoldSixteenBitsAndTheRest) {
  for (const auto& [kind, beside] :
       {std::pair("float32", c10::kFloat), std::pair("remainder", c10::kShort)}) {
    auto run = trainer(
        std::string("{type: AmpOptimWrapper, optimizer: {type: Adam, lr: 0.01, master_weights: ") +
        kind + "}}");
    run->train();
    const auto tensors = Checkpoint::load(run->save_checkpoint()).tensors;
    EXPECT_EQ(tensors.at("model.first.weight").scalar_type(), c10::kBFloat16);
    EXPECT_EQ(tensors.at("optimizer.first.weight.master").scalar_type(), beside);
    EXPECT_EQ(tensors.at("optimizer.first.weight.exp_avg").scalar_type(), c10::kFloat);
  }
}

TEST_F(TrainMasters, TestingTakesTheCheckpoint) {
  const std::string wrapper =
      "{type: AmpOptimWrapper, optimizer: {type: Adam, lr: 0.01, master_weights: remainder}}";
  auto run = trainer(wrapper);
  run->train();
  auto testing_config = config(wrapper);
  auto parts = build_testing(testing_config, {});
  load_module(Checkpoint::load(run->save_checkpoint()), *parts.model);
  const auto result =
      *evaluate(*parts.model, *parts.test_loader, c10::kCPU, parts.amp(), parts.evaluator);
  EXPECT_EQ(result.loss, run->evaluation()->loss);
  auto float32 = config("{type: OptimWrapper, optimizer: {type: Adam, master_weights: float32}}");
  EXPECT_ERROR(build_testing(float32, {}), UsageError, "master_weights must be none", "--amp");
}

TEST_F(TrainMasters, WhatCannotBeIsRefusedWithAnAdvice) {
  EXPECT_ERROR(trainer("{type: OptimWrapper, optimizer: {type: Adam, master_weights: float32}}"),
               UsageError, "[config] --cfg-options",
               "optim_wrapper.optimizer.master_weights must be none where "
               "the weights stay float32",
               "--amp, or type: AmpOptimWrapper", "but got float32");
  EXPECT_ERROR(trainer("{type: AmpOptimWrapper, dtype: float16, optimizer: {type: Adam, "
                       "master_weights: remainder}}"),
               UsageError, "master_weights must be none or float32 with dtype float16");
  EXPECT_ERROR(trainer("{type: AmpOptimWrapper, dtype: float16, loss_scale: {min_scale: 1.0, "
                       "at_min_scale: fall_back}, optimizer: {type: SGD, master_weights: "
                       "float32}}"),
               UsageError, "master_weights must be none with loss_scale.at_min_scale fall_back",
               "take stop or continue");
  EXPECT_ERROR(trainer("{type: AmpOptimWrapper, optimizer: {type: Adam, master_weights: half}}"),
               UsageError, "master_weights must be none, float32 or remainder, but got half");
  EXPECT_ERROR(trainer("{type: AmpOptimWrapper, optimizer: {type: RMSprop, master_weights: "
                       "float32}}"),
               UsageError, "unknown key 'master_weights' in optim_wrapper.optimizer");
  EXPECT_ERROR(trainer("{type: AmpOptimWrapper, optimizer: {type: Adam, master_weights: float32}}",
                       "model={type: OwnMatrix}"),
               UsageError,
               "master_weights must be none for a model without linear and convolution");
  auto run = trainer("{type: AmpOptimWrapper, optimizer: {type: Adam, master_weights: float32}}");
  EXPECT_ERROR(run->fall_back(), UsageError, "[Trainer::fall_back]", "must have float32 weights");
}

TEST_F(TrainMasters, NoneIsTheDefaultInEveryPrecision) {
  for (const char* type : {"OptimWrapper", "AmpOptimWrapper"}) {
    auto run =
        trainer(std::string("{type: ") + type + ", optimizer: {type: Adam, master_weights: none}}");
    EXPECT_EQ(run->parts().model->parameters()[0].scalar_type(), c10::kFloat);
  }
}

}  // namespace

}  // namespace halfstep::train
