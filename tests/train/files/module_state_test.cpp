#include "halfstep/train/files/module_state.h"

#include "halfstep/core/error.h"

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

using halfstep::testing::expect_same_bits;
namespace nn = torch::nn;

nn::Sequential make_net(int64_t width = 3) {
  return nn::Sequential(nn::Linear(4, width), nn::BatchNorm1d(width), nn::Linear(width, 2));
}

}  // namespace

class ModuleState : public halfstep::testing::DeviceTest {};

TEST_P(ModuleState, RoundTripIsBitExact) {
  auto net = make_net();
  net->to(device());
  net->forward(torch::randn({8, 4}, device()));
  Checkpoint checkpoint;
  save_module(*net, checkpoint);
  ASSERT_TRUE(checkpoint.tensors.contains("model.0.weight"));
  ASSERT_TRUE(checkpoint.tensors.contains("model.1.running_mean"));
  EXPECT_EQ(checkpoint.tensors.size(), 9u);

  const halfstep::testing::TempFolder folder;
  checkpoint.save(folder.path() / "a");
  auto other = make_net();
  other->to(device());
  const auto weight = other->named_parameters()["0.weight"];
  ASSERT_FALSE(weight.equal(net->named_parameters()["0.weight"]));
  const auto version = weight._version();
  load_module(Checkpoint::load(folder.path() / "a"), *other);
  for (const auto& item : net->named_parameters())
    expect_same_bits(other->named_parameters()[item.key()].detach(), item.value().detach());
  for (const auto& item : net->named_buffers())
    expect_same_bits(other->named_buffers()[item.key()], item.value());
  EXPECT_EQ(other->named_buffers()["1.num_batches_tracked"].item<int64_t>(), 1);
  EXPECT_TRUE(weight.requires_grad());
  EXPECT_TRUE(weight.equal(net->named_parameters()["0.weight"])) << "not loaded in place";
  EXPECT_GT(weight._version(), version);
}
HALFSTEP_ON_EACH_DEVICE(ModuleState);

TEST(ModuleStateErrors, NameTheFirstThatDiffer) {
  Checkpoint checkpoint;
  save_module(*make_net(), checkpoint);
  auto wider = make_net(5);
  const auto before = wider->named_parameters()["2.bias"].clone();
  EXPECT_ERROR(load_module(checkpoint, *wider), EnvironmentError, "[checkpoint]",
               "is of another model", "other shapes or dtypes: model.0.bias",
               "here float32 [5], there float32 [3]", "more", "use the config it was made with");
  expect_same_bits(wider->named_parameters()["2.bias"].detach(), before.detach());

  nn::Sequential longer(nn::Linear(4, 3), nn::BatchNorm1d(3), nn::Linear(3, 2), nn::Linear(2, 2));
  EXPECT_ERROR(load_module(checkpoint, *longer), EnvironmentError,
               "it lacks model.3.bias, model.3.weight;");
  nn::Sequential shorter(nn::Linear(4, 3));
  EXPECT_ERROR(load_module(checkpoint, *shorter), EnvironmentError,
               "it has besides model.1.bias, model.1.num_batches_tracked, model.1.running_mean "
               "and 4 more");
  auto doubles = make_net();
  doubles->to(torch::kDouble);
  EXPECT_ERROR(load_module(checkpoint, *doubles), EnvironmentError, "here float64",
               "there float32");
}

}  // namespace halfstep::train
