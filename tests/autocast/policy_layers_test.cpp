// Whole layers in policy regions: those that LibTorch makes of one op with habits of its own.
#include "halfstep/autocast/autocast.h"

#include <torch/torch.h>

#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace halfstep {

using testing::expect_same_bits;

namespace {

constexpr auto kLayerLow = torch::kBFloat16;

const char* const kPresets[] = {"torch(cpu)", "torch(cuda)", "safe", "mmcv", "apex"};

template <class Layer>
std::vector<torch::Tensor> run(Layer& layer, const AutocastOptions& region) {
  torch::manual_seed(4);
  const auto x = torch::randn({5, 2, 8}).requires_grad_();
  torch::Tensor output;
  {
    const Autocast autocast(region);
    output = std::get<0>(layer->forward(x));
  }
  auto all = torch::autograd::grad({output.to(torch::kFloat).square().sum()}, layer->parameters());
  all.push_back(output);
  return all;
}

}  // namespace

// On the CPU an LSTM layer is an op that CUDA's list has not.
TEST(PolicyRnn, LayersOnTheCpuRunAsInStockAutocast) {
  HALFSTEP_REQUIRE_BFLOAT16_LSTM(torch::kCPU);
  const AutocastOptions stock = AutocastOptions(torch::kCPU).dtype(kLayerLow);
  torch::manual_seed(3);
  torch::nn::LSTM lstm(torch::nn::LSTMOptions(8, 6).num_layers(2).bidirectional(true));
  torch::nn::GRU gru(torch::nn::GRUOptions(8, 6).num_layers(2));
  const auto lstm_expected = run(lstm, stock);
  const auto gru_expected = run(gru, stock);
  ASSERT_EQ(lstm_expected.back().scalar_type(), kLayerLow);
  for (const auto* name : kPresets) {
    SCOPED_TRACE(name);
    const auto region = AutocastOptions(stock).policy(OpPolicy::preset(name, torch::kCPU));
    const auto lstm_got = run(lstm, region);
    for (size_t i = 0; i < lstm_got.size(); ++i) expect_same_bits(lstm_got[i], lstm_expected[i]);
    const auto gru_got = run(gru, region);
    if (name == std::string("mmcv")) {  // lowers the outputs on their way, by cat and stack
      EXPECT_EQ(gru_got.back().scalar_type(), kLayerLow);
      continue;
    }
    for (size_t i = 0; i < gru_got.size(); ++i) expect_same_bits(gru_got[i], gru_expected[i]);
  }
}

class PolicyBatchNorm : public testing::DeviceTest {
 protected:
  torch::nn::BatchNorm1d layer(c10::ScalarType dtype) const {
    torch::nn::BatchNorm1d made(torch::nn::BatchNorm1dOptions(6));
    made->to(device(), dtype);
    return made;
  }
  AutocastOptions region(CastRule rule) const {
    return AutocastOptions(GetParam())
        .dtype(kLayerLow)
        .policy(OpPolicy::safe().set("batch_norm", rule));
  }
  at::Tensor input(c10::ScalarType dtype) const {
    torch::manual_seed(7);
    return (torch::randn({32, 6}) + 3).to(device(), dtype);
  }
};
HALFSTEP_ON_EACH_DEVICE(PolicyBatchNorm);

// A layer that is all 16-bit, its statistics too, computes in float32 and keeps its statistics.
TEST_P(PolicyBatchNorm, In16BitsFollowsAFloat32Rule) {
  auto low = layer(kLayerLow);
  auto wide = layer(torch::kFloat);
  const auto x = input(kLayerLow).requires_grad_();
  at::Tensor output;
  {
    const Autocast autocast(region(CastRule::float32));
    output = low->forward(x);
  }
  const auto twin = x.detach().to(torch::kFloat).requires_grad_();
  const auto expected = wide->forward(twin);
  expect_same_bits(output, expected);
  EXPECT_EQ(low->running_mean.scalar_type(), kLayerLow);
  expect_same_bits(low->running_mean, wide->running_mean.to(kLayerLow));
  expect_same_bits(low->running_var, wide->running_var.to(kLayerLow));
  EXPECT_GT(low->running_mean.abs().sum().item<float>(), 0.1);
  output.square().sum().backward();
  expected.square().sum().backward();
  expect_same_bits(x.grad(), twin.grad().to(kLayerLow));
  EXPECT_TRUE(low->weight.grad().defined());

  // In evaluation they are read only.
  low->eval();
  wide->eval();
  const auto version = low->running_mean._version();
  {
    const torch::NoGradGuard no_grad;
    wide->running_mean.copy_(low->running_mean);
    wide->running_var.copy_(low->running_var);
  }
  const Autocast autocast(region(CastRule::float32));
  expect_same_bits(low->forward(x).detach(), wide->forward(twin).detach());
  EXPECT_EQ(low->running_mean._version(), version);
}

// Float32 weights and statistics beside a 16-bit input are what LibTorch has kernels for.
TEST_P(PolicyBatchNorm, InFloat32FollowsALowRule) {
  for (const auto rule : {CastRule::lower_precision, CastRule::promote_or_lower}) {
    auto ruled = layer(torch::kFloat), plain = layer(torch::kFloat);
    at::Tensor output;
    {
      const Autocast autocast(region(rule));
      output = ruled->forward(input(torch::kFloat));
    }
    EXPECT_EQ(output.scalar_type(), kLayerLow);
    expect_same_bits(output, plain->forward(input(torch::kFloat).to(kLayerLow)));
    expect_same_bits(ruled->running_mean, plain->running_mean);
    EXPECT_EQ(ruled->running_mean.scalar_type(), torch::kFloat);
    EXPECT_GT(ruled->running_mean.abs().sum().item<float>(), 0.1);
  }
}

TEST_P(PolicyBatchNorm, In16BitsFollowsALowRule) {
  auto low = layer(kLayerLow), plain = layer(kLayerLow);
  const Autocast autocast(region(CastRule::lower_precision));
  const auto output = low->forward(input(torch::kFloat));
  EXPECT_EQ(output.scalar_type(), kLayerLow);
  EXPECT_GT(low->running_mean.abs().sum().item<float>(), 0.1);
  const Autocast off(AutocastOptions(GetParam()).enabled(false));
  expect_same_bits(output, plain->forward(input(kLayerLow)));
  expect_same_bits(low->running_mean, plain->running_mean);
}

}  // namespace halfstep
