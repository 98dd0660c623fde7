#include "halfstep/nn/linear.h"

#include "halfstep/autocast/autocast.h"

#include <sstream>

#include <torch/torch.h>

#include "tests/autocast/cast_counter.h"
#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace halfstep {

namespace {
template <class Linear>
Linear seeded(const torch::nn::LinearOptions& options) {
  torch::manual_seed(7);
  return Linear(options);
}
}  // namespace

class NnLinear : public testing::DeviceTest {};
HALFSTEP_ON_EACH_DEVICE(NnLinear);

TEST_P(NnLinear, StartsAndComputesAsLibTorchs) {
  for (const bool bias : {true, false}) {
    const auto options = torch::nn::LinearOptions(5, 3).bias(bias);
    auto ours = seeded<nn::Linear>(options);
    auto theirs = seeded<torch::nn::Linear>(options);
    ours->to(device());
    theirs->to(device());
    ASSERT_EQ(ours->named_parameters().keys(), theirs->named_parameters().keys());
    testing::expect_same_bits(ours->weight, theirs->weight);
    if (bias) testing::expect_same_bits(ours->bias, theirs->bias);

    const auto matrix = torch::randn({4, 5}, device());
    testing::expect_same_bits(ours(matrix), theirs(matrix));
    for (const auto& shape : {std::vector<int64_t>{5}, {2, 4, 5}, {2, 2, 4, 5}}) {
      const auto x = torch::randn(shape, device());
      testing::expect_close(ours(x), theirs(x), testing::tolerance(torch::kFloat, "matmul"));
    }
  }
}

TEST_P(NnLinear, GivesTheSameGradients) {
  auto ours = seeded<nn::Linear>({5, 3});
  auto theirs = seeded<torch::nn::Linear>({5, 3});
  ours->to(device());
  theirs->to(device());
  const auto x = torch::randn({2, 4, 5}, device());
  ours(x).pow(2).sum().backward();
  theirs(x).pow(2).sum().backward();
  const auto tolerance = testing::tolerance(torch::kFloat, "matmul", testing::Direction::backward);
  testing::expect_close(ours->weight.grad(), theirs->weight.grad(), tolerance);
  testing::expect_close(ours->bias.grad(), theirs->bias.grad(), tolerance);
}

TEST_P(NnLinear, ItsWeightIsCastOncePerRegionAndLibTorchsAtEachUse) {
  auto ours = seeded<nn::Linear>({5, 3});
  auto theirs = seeded<torch::nn::Linear>({5, 3});
  ours->to(device());
  theirs->to(device());
  const auto x = torch::randn({2, 4, 5}, device());
  const auto casts_of = [&](auto& linear, const torch::Tensor& what) {
    const testing::CastCounter casts(what);
    const Autocast autocast(GetParam());
    for (int use = 0; use < 2; ++use) EXPECT_EQ(linear(x).scalar_type(), autocast.dtype());
    return casts.count();
  };
  EXPECT_EQ(casts_of(ours, ours->weight), 1);
  // It casts a view of the weight, which the cache does not keep.
  EXPECT_EQ(casts_of(theirs, theirs->weight.t()), 2);
}

TEST(NnLinearModule, FilesFitLibTorchsModuleBothWays) {
  auto ours = seeded<nn::Linear>({5, 3});
  torch::nn::Linear theirs(5, 3);
  std::stringstream file;
  torch::save(ours, file);
  torch::load(theirs, file);
  testing::expect_same_bits(theirs->weight, ours->weight);
  testing::expect_same_bits(theirs->bias, ours->bias);

  nn::Linear again(5, 3);
  std::stringstream back;
  torch::save(theirs, back);
  torch::load(again, back);
  testing::expect_same_bits(again->weight, ours->weight);
}

TEST(NnLinearModule, CloneIsDeepAndKeepsTheType) {
  torch::nn::Sequential net(nn::Linear(4, 4), torch::nn::ReLU(),
                            nn::Linear(torch::nn::LinearOptions(4, 2).bias(false)));
  net->eval();
  const auto x = torch::randn({2, 3, 4});
  const auto expected = net->forward(x);

  const auto copy = std::dynamic_pointer_cast<torch::nn::SequentialImpl>(net->clone());
  ASSERT_NE(copy, nullptr);
  {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : net->parameters()) parameter.zero_();
  }
  testing::expect_same_bits(copy->forward(x), expected);
  EXPECT_FALSE(copy->ptr(0)->is_training());

  nn::Linear single(4, 2);
  single->to(torch::kDouble);
  const auto twin = single->clone();
  ASSERT_NE(twin->as<nn::LinearImpl>(), nullptr);
  EXPECT_NE(twin->as<torch::nn::LinearImpl>(), nullptr);
  testing::expect_same_bits(twin->as<nn::LinearImpl>()->weight, single->weight);
  EXPECT_TRUE(twin->as<nn::LinearImpl>()->weight.requires_grad());
  EXPECT_TRUE(twin->as<nn::LinearImpl>()->weight.is_leaf());
}

TEST(NnLinearModule, PrintsItself) {
  std::ostringstream text;
  text << *nn::Linear(5, 3);
  EXPECT_EQ(text.str(), "halfstep::nn::Linear(in_features=5, out_features=3, bias=true)");
}

}  // namespace halfstep
