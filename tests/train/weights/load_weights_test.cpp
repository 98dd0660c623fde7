#include "halfstep/train/weights/load_weights.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/module_state.h"
#include "halfstep/train/weights/convert.h"

#include <limits>
#include <sstream>

#include <ATen/ATen.h>
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
using halfstep::testing::TempFolder;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
namespace nn = torch::nn;

std::filesystem::path golden_weights(const std::string& name) {
  return std::filesystem::path(HALFSTEP_TEST_SOURCES "/golden") / (name + ".pth");
}

at::Tensor count(at::IntArrayRef shape, c10::ScalarType dtype = at::kFloat) {
  return (at::arange(c10::multiply_integers(shape), at::kDouble) / 8).to(dtype).view(shape);
}

// The network of the golden files.
nn::Sequential make_net(int64_t outputs = 2) {
  return nn::Sequential(nn::Linear(4, 3), nn::BatchNorm1d(3), nn::Linear(3, outputs));
}

NamedTensors copy_of(const torch::nn::Module& module) {
  NamedTensors result;
  for (const auto& item : module.named_parameters()) result[item.key()] = item->detach().clone();
  for (const auto& item : module.named_buffers()) result[item.key()] = item->clone();
  return result;
}

void expect_unchanged(const torch::nn::Module& module, const NamedTensors& before) {
  const auto now = copy_of(module);
  for (const auto& [name, tensor] : before) expect_same_bits(now.at(name), tensor);
}

std::string printed(const WeightsReport& report) {
  std::ostringstream out;
  out << report;
  return out.str();
}

}  // namespace

class LoadWeights : public halfstep::testing::DeviceTest {};

TEST_P(LoadWeights, TakesPthSafetensorsAndCheckpointsInPlace) {
  const TempFolder folder;
  const auto reference = make_net();
  Checkpoint checkpoint;
  save_module(*reference, checkpoint);
  checkpoint.tensors["optimizer.x"] = at::ones({1});
  checkpoint.save(folder.path() / "checkpoint.safetensors");
  save_safetensors(folder.path() / "plain.safetensors", {copy_of(*reference), {}});
  for (const auto& file : {golden_weights("state_dict"), folder.path() / "checkpoint.safetensors",
                           folder.path() / "plain.safetensors"}) {
    SCOPED_TRACE(file.string());
    auto net = make_net();
    net->to(device());
    const auto weight = net->named_parameters()["0.weight"];
    const auto version = weight._version();
    const auto report = load_weights(*net, file);
    EXPECT_TRUE(report.is_complete());
    EXPECT_EQ(printed(report), "loaded 9 of 9 tensors from " + file.string() + "\n");
    const bool is_golden = file.extension() == ".pth";
    expect_same_bits(
        weight.detach().cpu(),
        is_golden ? count({3, 4}) : reference->named_parameters()["0.weight"].detach());
    EXPECT_EQ(weight.device().type(), device().type());
    EXPECT_TRUE(weight.requires_grad());
    EXPECT_GT(weight._version(), version);
    EXPECT_EQ(net->named_buffers()["1.num_batches_tracked"].item<int64_t>(), is_golden ? 7 : 0);
  }
}

TEST_P(LoadWeights, ConvertsDtypesAndSaysSo) {
  auto net = make_net();
  net->to(device());
  // Named "module.…" in the file, as DistributedDataParallel names them.
  const auto report = load_weights(*net, golden_weights("training"));
  EXPECT_TRUE(report.is_complete());
  EXPECT_EQ(report.converted.size(), 8u);  // all but num_batches_tracked
  EXPECT_THAT(printed(report),
              ::testing::HasSubstr("converted (8): 0.bias (float16 to float32), "));
  expect_same_bits(net->named_parameters()["0.weight"].detach().cpu(), count({3, 4}));
  net->to(torch::kBFloat16);
  // Unlike Python, to() has made the counter of batches a floating-point one, too.
  EXPECT_EQ(load_weights(*net, golden_weights("state_dict")).converted.size(), 9u);
  expect_same_bits(net->named_parameters()["0.weight"].detach().cpu(),
                   count({3, 4}, at::kBFloat16));
}
HALFSTEP_ON_EACH_DEVICE(LoadWeights);

TEST(LoadWeightsStrict, ChangesNothingAndNamesWhatDiffers) {
  auto wider = make_net(5);
  const auto before = copy_of(*wider);
  EXPECT_ERROR(
      load_weights(*wider, golden_weights("state_dict")), EnvironmentError, "[load_weights]",
      "state_dict.pth must have exactly the module's tensors, but got of another shape (2): "
      "2.bias (here float32 [5], there float32 [2]), 2.weight",
      "strict = false");
  expect_unchanged(*wider, before);
  nn::Sequential longer(nn::Linear(4, 3), nn::BatchNorm1d(3), nn::Linear(3, 2), nn::Linear(2, 2));
  EXPECT_ERROR(load_weights(*longer, golden_weights("state_dict")), EnvironmentError,
               "missing (2): 3.bias, 3.weight");
  nn::Sequential shorter(nn::Linear(4, 3));
  EXPECT_ERROR(load_weights(*shorter, golden_weights("state_dict")), EnvironmentError,
               "unexpected (7): 1.bias");
  EXPECT_ERROR(load_weights(*wider, NamedTensors{{"extra", {}}}, "x"), EnvironmentError,
               "unexpected (1): extra (no tensor)");
  EXPECT_ERROR(load_weights(*wider, "none.pth"), EnvironmentError, "none.pth", "No such file");
  expect_unchanged(*wider, before);
}

TEST(LoadWeightsPartial, TakesWhatFitsAndReportsTheRest) {
  nn::Sequential net(nn::Linear(4, 3), nn::BatchNorm1d(3), nn::Linear(3, 5), nn::Linear(2, 2));
  const auto before = copy_of(*net);
  const auto report = load_weights(*net, golden_weights("state_dict"), {.strict = false});
  EXPECT_FALSE(report.is_complete());
  EXPECT_EQ(report.loaded, 7u);
  EXPECT_EQ(report.wanted, 11u);
  EXPECT_THAT(report.missing, ElementsAre("3.bias", "3.weight"));
  EXPECT_THAT(report.unexpected, IsEmpty());
  EXPECT_THAT(report.reshaped, ElementsAre("2.bias (here float32 [5], there float32 [2])",
                                           "2.weight (here float32 [5, 3], there float32 [2, 3])"));
  EXPECT_EQ(printed(report), "loaded 7 of 11 tensors from " +
                                 golden_weights("state_dict").string() +
                                 "\n"
                                 "missing (2): 3.bias, 3.weight\n"
                                 "of another shape (2): " +
                                 report.reshaped[0] + ", " + report.reshaped[1] + "\n");
  const auto after = copy_of(*net);
  expect_same_bits(after.at("0.weight"), count({3, 4}));
  expect_same_bits(after.at("2.bias"), before.at("2.bias"));
  expect_same_bits(after.at("3.weight"), before.at("3.weight"));
}

TEST(LoadWeightsPartial, KeyAndPrefixChoose) {
  auto net = make_net();
  EXPECT_TRUE(
      load_weights(*net, golden_weights("two_networks"), {.key = "generator"}).is_complete());
  EXPECT_ERROR(load_weights(*net, golden_weights("two_networks")), UsageError,
               "generator, discriminator");
  nn::Linear linear(4, 3);
  const auto report = load_weights(*linear, golden_weights("state_dict"), {.prefix = "0."});
  EXPECT_TRUE(report.is_complete());
  expect_same_bits(linear->weight.detach(), count({3, 4}));
  const TempFolder folder;
  save_safetensors(folder.path() / "a", {copy_of(*net), {}});
  EXPECT_ERROR(load_weights(*net, folder.path() / "a", {.key = "x"}), UsageError,
               "must be a .pth file for the key 'x'");
}

TEST(LoadWeightsValues, MustFitTheModulesDtype) {
  nn::Linear linear(nn::LinearOptions(2, 1).bias(false));
  linear->to(torch::kHalf);
  const auto before = copy_of(*linear);
  const NamedTensors large{{"weight", at::tensor({1.0f, 1e5f}).view({1, 2})}};
  EXPECT_ERROR(load_weights(*linear, large, "x"), UsageError,
               "x: values of 'weight' must be within the range of float16, the module's dtype, but "
               "1 of 2 are not");
  expect_unchanged(*linear, before);
  const auto inf = std::numeric_limits<float>::infinity();
  const NamedTensors infinite{{"weight", at::tensor({1.0f, inf}).view({1, 2})}};
  EXPECT_NO_THROW(load_weights(*linear, infinite, "x"));
  // Numbers of another kind are no weights for it.
  nn::BatchNorm1d norm(nn::BatchNorm1dOptions(3).affine(false));
  auto weights = copy_of(*norm);
  weights["num_batches_tracked"] = at::scalar_tensor(7.0);
  EXPECT_THAT(load_weights(*norm, weights, "x", {.strict = false}).reshaped,
              ElementsAre("num_batches_tracked (here int64 [], there float32 [])"));
}

TEST(ReadAsCheckpoint, KeepsACheckpointsStateAndMakesOneOfOtherFiles) {
  const TempFolder folder;
  Checkpoint checkpoint;
  save_module(*make_net(), checkpoint);
  checkpoint.state["a"] = 1;
  checkpoint.save(folder.path() / "a");
  EXPECT_TRUE(is_checkpoint(folder.path() / "a"));
  EXPECT_EQ(read_as_checkpoint(folder.path() / "a").state, checkpoint.state);
  EXPECT_FALSE(is_checkpoint(golden_weights("state_dict")));
  const auto made = read_as_checkpoint(golden_weights("state_dict"));
  EXPECT_TRUE(made.state.empty());
  EXPECT_TRUE(made.tensors.contains("model.0.weight"));
}

TEST(Convert, CountsWhatDoesNotSurvive) {
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  const auto result = convert(at::tensor({1.0f, 65520.0f, -1e9f, 1e-9f, 0.0f, nan}), at::kHalf);
  EXPECT_EQ(result.tensor.scalar_type(), at::kHalf);
  EXPECT_EQ(result.overflowed, 2);
  EXPECT_EQ(result.vanished, 1);
  const auto same = at::tensor({1.0f});
  EXPECT_TRUE(convert(same, at::kFloat).tensor.is_same(same) ||
              convert(same, at::kFloat).tensor.data_ptr() == same.data_ptr());
}

}  // namespace halfstep::train
