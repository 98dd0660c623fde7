#include "halfstep/train/models/base_model.h"

#include "halfstep/core/error.h"
#include "halfstep/optim_wrapper.h"
#include "halfstep/train/files/module_state.h"
#include "halfstep/train/models/model.h"
#include "halfstep/train/registry/registry.h"

#include <ATen/autocast_mode.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep::train {
namespace {

using ::testing::ElementsAre;

/// MMEngine's, whose loss is its output.
class ToyModel : public BaseModel {
 public:
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(3, 1, 1));

  torch::Tensor forward(const torch::Tensor& inputs) override {
    last_dtype = conv(inputs).scalar_type();
    return conv(inputs);
  }
  Losses loss(const Batch& batch) override { return {{"loss", forward(batch.data)}}; }

  c10::ScalarType last_dtype = c10::kFloat;
};

/// One in another's place; says what it was called with.
class CustomPreprocessor : public DataPreprocessorImpl {
 public:
  Batch forward(const Batch& batch, bool training) override {
    return {torch::full_like(batch.data, training ? 1 : 2), batch.target};
  }
};

struct NestedModel : ToyModel {
  std::shared_ptr<ToyModel> toy_model = register_module("toy_model", std::make_shared<ToyModel>());
};

std::shared_ptr<DataPreprocessorImpl> preprocessor(double mean, double std) {
  return std::make_shared<DataPreprocessorImpl>(std::vector{mean}, std::vector{std});
}

class OnDevice : public halfstep::testing::DeviceTest {
 protected:
  Batch batch() const { return {torch::randn({1, 3, 1, 1}), {}}; }
};
using BaseModelOnDevice = OnDevice;

}  // namespace

TEST(BaseModel, Init) {
  ToyModel model;
  const Batch batch{torch::ones({1, 3, 2, 2}), torch::zeros({1})};
  EXPECT_TRUE(model.data_preprocessor(batch, true).data.is_same(batch.data)) << "no mean: as it is";
  EXPECT_TRUE(model.named_children().contains("data_preprocessor"));

  const auto custom = std::make_shared<CustomPreprocessor>();
  model.set_data_preprocessor(custom);
  EXPECT_EQ(model.data_preprocessor.ptr(), custom);
  EXPECT_EQ(model.named_children()["data_preprocessor"], custom);
  EXPECT_EQ(model.data_preprocessor(batch, true).data.mean().item<float>(), 1);
  EXPECT_EQ(model.data_preprocessor(batch, false).data.mean().item<float>(), 2);
  EXPECT_ERROR(model.set_data_preprocessor(nullptr), UsageError, "must be a module, but is null");
}

TEST(BaseModel, ParseLosses) {
  const ToyModel model;
  const auto number = [](double value) { return torch::tensor(value, torch::kFloat); };
  const auto [loss, log_vars] =
      model.parse_losses({{"loss_cls", number(1)},
                          {"loss_list", std::vector{number(2), number(3)}},
                          {"acc", number(9)}});
  EXPECT_EQ(loss.item<double>(), 6);
  EXPECT_THAT(log_vars.keys(), ElementsAre("loss", "loss_cls", "loss_list", "acc"));
  EXPECT_EQ(log_vars["loss"].item<double>(), 6);
  EXPECT_EQ(log_vars["loss_cls"].item<double>(), 1);
  EXPECT_EQ(log_vars["loss_list"].item<double>(), 5);
  EXPECT_EQ(log_vars["acc"].item<double>(), 9);
}

TEST(BaseModel, ParseLossesTakesMeansAndKeepsTheGraph) {
  const auto x = torch::ones({4}, torch::requires_grad());
  const auto scalar = (x * 2).sum();
  const auto [loss, log_vars] = parse_losses({{"loss_a", x * 3}, {"loss", scalar}});
  EXPECT_EQ(loss.item<double>(), 3 + 8);
  loss.backward();
  EXPECT_TRUE(x.grad().equal(torch::full({4}, 3. / 4 + 2)));
  EXPECT_EQ(log_vars["loss"].item<double>(), 11) << "the sum, not the term of that name";
  for (const auto& item : log_vars) EXPECT_FALSE(item.value().requires_grad()) << item.key();
  EXPECT_TRUE(parse_losses({{"loss", scalar}}).first.is_same(scalar)) << "no node of its own";
}

TEST(BaseModel, ParseLossesErrors) {
  EXPECT_ERROR(parse_losses({{"acc", torch::ones({})}, {"iou", torch::ones({})}}), UsageError,
               "[parse_losses]", "'loss' in it", "but got acc, iou", "call the term loss_");
  EXPECT_ERROR(parse_losses(Losses()), UsageError, "no terms");
  EXPECT_ERROR(parse_losses({{"loss_x", torch::Tensor()}}), UsageError, "'loss_x'", "undefined");
  EXPECT_ERROR(parse_losses({{"loss_x", std::vector<torch::Tensor>{}}}), UsageError, "empty list");
}

TEST_P(BaseModelOnDevice, TrainStep) {
  ToyModel model;
  model.to(device());
  torch::optim::SGD optimizer(model.parameters(), 0.1);
  OptimWrapper wrapper(optimizer);
  const auto before = model.conv->weight.detach().clone();
  const auto log_vars = model.train_step(batch(), wrapper);
  EXPECT_FALSE(model.conv->weight.equal(before));
  EXPECT_EQ(log_vars["loss"].dim(), 0);
  EXPECT_EQ(log_vars["loss"].device(), device());
  EXPECT_EQ(model.last_dtype, c10::kFloat);
}

TEST_P(BaseModelOnDevice, TrainStepRunsInTheWrappersPrecision) {
  ToyModel model;
  model.to(device());
  torch::optim::SGD optimizer(model.parameters(), 0.1);
  AmpOptimWrapper wrapper(optimizer);
  model.train_step(batch(), wrapper);
  EXPECT_EQ(model.last_dtype, at::autocast::get_autocast_dtype(device().type()));
  EXPECT_FALSE(at::autocast::is_autocast_enabled(device().type()));
}

TEST_P(BaseModelOnDevice, ValStepAndTestStep) {
  ToyModel model;
  model.to(device());
  const auto data = batch();
  const auto out = model.val_step(data);
  EXPECT_EQ(out.device(), device());
  EXPECT_TRUE(out.equal(model.forward(data.data.to(device()))));
  EXPECT_TRUE(model.test_step(data).equal(out));
  model.set_data_preprocessor(std::make_shared<CustomPreprocessor>());
  model.to(torch::kCPU);
  EXPECT_TRUE(model.val_step(data).equal(model.forward(torch::full({1, 3, 1, 1}, 2.f))))
      << "training is false";
}

TEST_P(BaseModelOnDevice, ToMovesThePreprocessors) {
  NestedModel model;
  EXPECT_EQ(model.data_preprocessor->device(), c10::kCPU);
  model.to(device());
  EXPECT_EQ(model.data_preprocessor->device(), device());
  EXPECT_EQ(model.toy_model->data_preprocessor->device(), device());
  model.to(torch::kDouble);
  EXPECT_EQ(model.data_preprocessor->device(), device());
  model.to(c10::Device(c10::kCPU), torch::kHalf);
  EXPECT_EQ(model.toy_model->data_preprocessor->device(), c10::kCPU);
  for (const auto& parameter : model.parameters()) {
    EXPECT_EQ(parameter.scalar_type(), torch::kHalf);
    EXPECT_TRUE(parameter.is_cpu());
  }
  // One that comes later goes where the model is.
  model.to(device());
  model.set_data_preprocessor(std::make_shared<DataPreprocessorImpl>());
  EXPECT_EQ(model.data_preprocessor->device(), device());
}

TEST_P(BaseModelOnDevice, NormalisesByChannel) {
  DataPreprocessor normalise(std::vector<double>{1, 2, 3}, std::vector<double>{2, 4, 8});
  normalise->to(device());
  const auto images = torch::arange(24, torch::kByte).view({2, 3, 2, 2});
  const auto [data, target] = normalise({images, torch::ones({2})}, true);
  EXPECT_EQ(data.device(), device());
  EXPECT_EQ(target.device(), device());
  EXPECT_EQ(data.scalar_type(), torch::kFloat);
  for (int64_t channel = 0; channel < 3; ++channel) {
    const double mean = static_cast<double>(channel) + 1;
    const double std = static_cast<double>(2 << channel);
    EXPECT_TRUE(data.select(1, channel).cpu().equal((images.select(1, channel) - mean) / std));
  }
  EXPECT_TRUE(normalise->denormalize(data).cpu().equal(images.to(torch::kFloat)));
}

HALFSTEP_ON_EACH_DEVICE(BaseModelOnDevice);

TEST(DataPreprocessor, IsSavedWithTheModel) {
  ToyModel model;
  EXPECT_TRUE(model.named_buffers().is_empty());
  model.set_data_preprocessor(preprocessor(0.5, 0.25));
  Checkpoint checkpoint;
  save_module(model, checkpoint);
  EXPECT_EQ(checkpoint.tensors.at("model.data_preprocessor.mean").item<double>(), 0.5);

  ToyModel other;
  EXPECT_ERROR(load_module(checkpoint, other), EnvironmentError, "data_preprocessor.mean");
  other.set_data_preprocessor(preprocessor(0, 1));
  load_module(checkpoint, other);
  const Batch batch{torch::ones({1, 3, 1, 1}), {}};
  EXPECT_EQ(other.data_preprocessor(batch, false).data.max().item<double>(), 2);
}

TEST(DataPreprocessor, RefusesWhatCannotBe) {
  const auto make = [](std::vector<double> mean, std::vector<double> std) {
    return DataPreprocessor(mean, std);
  };
  EXPECT_ERROR(make({1, 2}, {1, 2, 3}), UsageError, "[DataPreprocessor]",
               "as many numbers as each other, but got 2 and 3");
  EXPECT_ERROR(make({1}, {0}), UsageError, "std must be above 0, but got [0]");
  auto two = make({1, 2}, {1, 2});
  EXPECT_ERROR(two({torch::ones({1, 3, 2, 2}), {}}, true), UsageError, "the 2 channels",
               "but got shape [1, 3, 2, 2]");
  auto config = Config::parse("mean: [1]\nstd: []", "x.yaml");
  EXPECT_ERROR(make_data_preprocessor(config), UsageError, "x.yaml:1",
               "but got 1 and 0; give one of each");
  auto other = Config::parse("type: Other", "x.yaml");
  EXPECT_ERROR(make_data_preprocessor(other), UsageError,
               "x.yaml:1: type must be DataPreprocessor");
}

namespace {
struct Line : Model {
  torch::nn::Linear fit = register_module("fit", torch::nn::Linear(1, 1));
  torch::Tensor forward(const torch::Tensor& x) override { return fit(x); }
};
}  // namespace

/// docs/extending.md's.
namespace {
class Regressor : public BaseModel {
 public:
  explicit Regressor(Config backbone_cfg)
      : backbone(register_module("backbone", models().build(backbone_cfg))) {}

  torch::Tensor forward(const torch::Tensor& inputs) override { return backbone->forward(inputs); }
  Losses loss(const Batch& batch) override {
    const auto difference = forward(batch.data) - batch.target;
    return {{"loss_l1", difference.abs()},
            {"loss_l2", difference.square()},
            {"worst", difference.abs().max()}};
  }

 private:
  std::shared_ptr<BaseModel> backbone;
};
}  // namespace

TEST(BaseModel, BuildsPartsFromNestedMappingsAndLogsEachTerm) {
  auto config = Config::parse("backbone: {type: Mlp, sizes: [2, 8, 1]}", "x.yaml");
  Regressor model(config.child("backbone"));
  config.finish();
  torch::optim::SGD optimizer(model.parameters(), 0.01);  // 0.1 overshoots from some weights
  OptimWrapper wrapper(optimizer);
  const Batch batch{torch::ones({4, 2}), torch::full({4, 1}, 2.f)};
  const auto first = model.train_step(batch, wrapper);
  EXPECT_THAT(first.keys(), ElementsAre("loss", "loss_l1", "loss_l2", "worst"));
  EXPECT_FLOAT_EQ(first["loss"].item<float>(),
                  first["loss_l1"].item<float>() + first["loss_l2"].item<float>());
  EXPECT_LT(model.train_step(batch, wrapper)["loss"].item<float>(), first["loss"].item<float>());
}

TEST(SimpleModel, TrainsWithTheLossItWasGiven) {
  Line line;
  const Batch batch{torch::ones({4, 1}), torch::full({4, 1}, 3.f)};
  EXPECT_ERROR(line.loss(batch), UsageError, "[Model::loss]", "call set_loss");
  line.set_loss([](const torch::Tensor& output, const torch::Tensor& target) {
    return (output - target).square().mean();
  });
  torch::optim::SGD optimizer(line.parameters(), 0.25);
  OptimWrapper wrapper(optimizer);
  const auto first = line.train_step(batch, wrapper);
  EXPECT_THAT(first.keys(), ElementsAre("loss"));
  for (int i = 0; i < 20; ++i) line.train_step(batch, wrapper);
  EXPECT_LT(line.train_step(batch, wrapper)["loss"].item<double>(), 1e-6);
  EXPECT_GT(first["loss"].item<double>(), 1e-3);
}

}  // namespace halfstep::train
