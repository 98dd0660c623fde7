#include "halfstep/train/loop/evaluate.h"

#include <torch/nn/modules/dropout.h>
#include <torch/types.h>

#include <gtest/gtest.h>

namespace halfstep::train {

namespace {

struct Ten : Dataset {
  int64_t size() const override { return 10; }
  Batch get_batch(const at::Tensor& indices) const override {
    return {torch::one_hot(indices.remainder(4), 4).to(torch::kFloat), indices.remainder(2)};
  }
};

struct TwoDropouts : Model {
  torch::nn::Dropout trained = register_module("trained", torch::nn::Dropout(0.5));
  torch::nn::Dropout frozen = register_module("frozen", torch::nn::Dropout(0.5));
  TwoDropouts() { frozen->eval(); }
  torch::Tensor forward(const torch::Tensor& x) override {
    EXPECT_FALSE(trained->is_training());
    return frozen(trained(x));
  }
};

/// What it predicts is not what it is trained with, and another in a test.
struct Chooser : BaseModel {
  torch::Tensor forward(const torch::Tensor& x) override { return torch::zeros_like(x); }
  Losses loss(const Batch& batch) override { return {{"loss", forward(batch.data).sum()}}; }
  torch::Tensor predict(const torch::Tensor& x) override { return x; }
  torch::Tensor test_step(const Batch& data) override { return -val_step(data); }
};

class Evaluate : public ::testing::Test {
 protected:
  std::optional<Evaluation> run(const Loss& loss, const std::function<bool()>& stop = {}) {
    Evaluator none;
    model_->set_loss(loss);
    return evaluate(*model_, loader_, c10::kCPU, AmpSettings{}, none, {.stop = stop});
  }
  void expect_modes_as_before() {
    EXPECT_TRUE(model_->is_training());
    EXPECT_TRUE(model_->trained->is_training());
    EXPECT_FALSE(model_->frozen->is_training());
  }
  std::shared_ptr<TwoDropouts> model_ = std::make_shared<TwoDropouts>();
  Loader loader_{std::make_shared<Ten>(), {.batch_size = 4}};
};

TEST_F(Evaluate, GivesMeansAndEachModuleItsMode) {
  const auto result = run([](const torch::Tensor& output, const torch::Tensor&) {
    return torch::full({}, static_cast<double>(output.size(0)));
  });
  ASSERT_TRUE(result.has_value());
  EXPECT_DOUBLE_EQ(result->loss, (4 * 4 + 4 * 4 + 2 * 2) / 10.0);
  EXPECT_DOUBLE_EQ(result->accuracy.value(), 0.6);  // the targets 0 and 1 of 0, 1, 2, 3
  expect_modes_as_before();
}

TEST_F(Evaluate, MeasuresWhatTheModelsStepsPredict) {
  Chooser model;
  Evaluator none;
  const auto accuracy = [&](bool testing) {
    return evaluate(model, loader_, c10::kCPU, AmpSettings{}, none, {.testing = testing})
        ->accuracy.value();
  };
  EXPECT_DOUBLE_EQ(accuracy(false), 0.6);  // of the targets 0 and 1 of 0, 1, 2, 3
  // The first of the smallest: 1, 0, 0, 0.
  EXPECT_DOUBLE_EQ(accuracy(true), 0.2);
}

TEST_F(Evaluate, RestoresTheModesWhereTheLossThrows) {
  EXPECT_THROW(run([](const torch::Tensor&, const torch::Tensor&) -> torch::Tensor {
                 throw std::runtime_error("no");
               }),
               std::runtime_error);
  expect_modes_as_before();
}

TEST_F(Evaluate, StopsBetweenBatches) {
  int asked = 0;
  const auto result =
      run([](const torch::Tensor&, const torch::Tensor&) { return torch::zeros({}); },
          [&] { return ++asked == 2; });
  EXPECT_FALSE(result.has_value());
  EXPECT_EQ(asked, 2);
  expect_modes_as_before();
}

}  // namespace

}  // namespace halfstep::train
