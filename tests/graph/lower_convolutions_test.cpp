// Weight gradients of convolutions as products of matrices: their kernel, the pass, and who asks
// for it.
#include "halfstep/graph.h"
#include "halfstep/graph/kernels/weight_gradient.h"

#include <chrono>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/convolution_backward.h>
#include <torch/nn.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/graph/steps.h"
#include "tests/support/thread_count.h"
#include "tests/support/tolerance.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::detail::ConvolutionBackward;
using halfstep::detail::weight_gradient_choice;
using halfstep::testing::count_of;
using halfstep::testing::Direction;
using halfstep::testing::expect_close;
using halfstep::testing::same_bits;
using halfstep::testing::ThreadCount;
using halfstep::testing::tolerance;
using ::testing::HasSubstr;
using ::testing::Not;
using torch::Tensor;
using Numbers = std::vector<int64_t>;

Tensor our_weight_gradient(const Tensor& grad, const Tensor& input, const Numbers& kernel,
                           const Numbers& stride, const Numbers& padding, const Numbers& dilation,
                           bool channels_last) {
  using Sign = Tensor(const Tensor&, const Tensor&, at::IntArrayRef, at::IntArrayRef,
                      at::IntArrayRef, at::IntArrayRef, bool);
  return halfstep::detail::convolution_weight_gradient_op().typed<Sign>().call(
      grad, input, kernel, stride, padding, dilation, channels_last);
}

struct Shape {
  int64_t images, channels, outputs;
  Numbers size, kernel, stride, padding, dilation;
};

const std::vector<Shape> kShapes = {
    {2, 3, 5, {7, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {3, 1, 4, {9, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {1, 4, 1, {5, 5}, {1, 1}, {2, 2}, {0, 0}, {1, 1}},
    {2, 5, 6, {11, 9}, {5, 3}, {2, 1}, {2, 0}, {1, 2}},
    {2, 2, 3, {4, 4}, {3, 3}, {1, 1}, {4, 3}, {2, 1}},       // some patches are all border
    {70, 8, 16, {7, 7}, {3, 3}, {2, 2}, {1, 1}, {1, 1}},     // more rows than a block of a thread
    {2, 128, 1024, {3, 3}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},  // one sum for all threads
    {65, 128, 1024, {4, 4}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}};

TEST(ConvolutionWeightGradient, IsThatOfAConvolution) {
  torch::manual_seed(2);
  for (const int threads : {1, 2, 3}) {
    const ThreadCount guard(threads);
    for (const auto& shape : kShapes) {
      const auto input = torch::randn({shape.images, shape.channels, shape.size[0], shape.size[1]});
      const auto weight =
          torch::randn({shape.outputs, shape.channels, shape.kernel[0], shape.kernel[1]});
      const auto grad = torch::randn_like(
          at::conv2d(input, weight, {}, shape.stride, shape.padding, shape.dilation));
      for (const auto dtype : {torch::kFloat, torch::kBFloat16}) {
        const auto x = input.to(dtype), g = grad.to(dtype);
        const auto exact = std::get<1>(at::convolution_backward(
            g.to(torch::kDouble), x.to(torch::kDouble), weight.to(torch::kDouble), std::nullopt,
            shape.stride, shape.padding, shape.dilation, false, {0, 0}, 1, {false, true, false}));
        const double most = exact.abs().max().item<double>();
        ASSERT_GT(most, 0);
        const auto bound = tolerance(dtype, "conv", Direction::backward);
        for (const int layout : {0, 1, 2, 3}) {
          SCOPED_TRACE(c10::str(threads, " threads, ", input.sizes(), " and ", weight.sizes(), ", ",
                                dtype, ", layout ", layout));
          const bool last = (layout & 1) != 0;
          const auto of = [](const Tensor& tensor, bool channels_last) {
            return tensor.contiguous(channels_last ? at::MemoryFormat::ChannelsLast
                                                   : at::MemoryFormat::Contiguous);
          };
          const auto own = our_weight_gradient(of(g, (layout & 2) != 0), of(x, !last), shape.kernel,
                                               shape.stride, shape.padding, shape.dilation, last);
          const auto layout_of_own = torch::empty(
              weight.sizes(),
              at::TensorOptions(dtype).memory_format(last ? at::MemoryFormat::ChannelsLast
                                                          : at::MemoryFormat::Contiguous));
          EXPECT_EQ(own.strides(), layout_of_own.strides());
          EXPECT_EQ(own.scalar_type(), dtype);
          expect_close(own.to(torch::kDouble) / most, exact / most, bound);
        }
      }
    }
  }
}

/// Four convolutions whose weight gradients are ours, a frozen one, one of groups, one transposed.
struct ConvolutionsImpl : torch::nn::Module {
  static torch::nn::Conv2d convolution(int64_t channels, int64_t outputs, int64_t size,
                                       int64_t stride, bool bias, int64_t groups = 1) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(channels, outputs, size)
                                 .stride(stride)
                                 .padding(size / 2)
                                 .bias(bias)
                                 .groups(groups));
  }
  ConvolutionsImpl() {
    frozen->weight.set_requires_grad(false);
    for (const auto& [name, conv] :
         {std::pair("first", first), std::pair("second", second), std::pair("third", third),
          std::pair("fourth", fourth), std::pair("frozen", frozen), std::pair("grouped", grouped)})
      register_module(name, conv);
    register_module("transposed", transposed);
  }
  Tensor forward(const Tensor& x) {
    auto y = first(x).relu();
    y = at::conv2d(y, second->weight, second->bias, 2, 1).relu();  // one number for both sides
    y = grouped(frozen(third(y).relu()).relu()).relu();
    return fourth(transposed(y).relu()).square().mean();
  }
  torch::nn::Conv2d first = convolution(3, 8, 3, 1, false);
  torch::nn::Conv2d second = convolution(8, 16, 3, 2, true);
  torch::nn::Conv2d third = convolution(16, 8, 1, 1, false);
  torch::nn::Conv2d fourth = convolution(8, 4, 3, 1, true);
  torch::nn::Conv2d frozen = convolution(8, 8, 3, 1, false);
  torch::nn::Conv2d grouped = convolution(8, 8, 3, 1, false, 2);
  torch::nn::ConvTranspose2d transposed =
      torch::nn::ConvTranspose2d(torch::nn::ConvTranspose2dOptions(8, 8, 2).stride(2));
};
TORCH_MODULE(Convolutions);

struct ConvolutionTraining : Graph<Tensor(Tensor)> {
  ConvolutionTraining() { register_module("net", net); }
  Tensor build(const Tensor& x) override {
    const auto loss = net->forward(x);
    loss.backward();
    return loss;
  }
  Convolutions net;
};

struct ConvolutionStep {
  std::vector<Tensor> gradients;
  std::string log;
};

/// Gradients of a checked replay, with the pass as asked.
ConvolutionStep train_convolutions(std::optional<bool> lowers, bool channels_last) {
  torch::manual_seed(3);
  ConvolutionTraining step;
  step.config().check_replays();
  if (lowers) step.config().enable_pass("lower_convolutions", *lowers);
  std::ostringstream log;
  step.debug(1, log);
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  if (channels_last) {
    for (auto& parameter : step.net->parameters())
      if (parameter.dim() == 4) parameter.set_data(parameter.detach().contiguous(format));
  }
  for (int i = 0; i < 4; ++i) {
    step.net->zero_grad();
    step(torch::randn({4, 3, 12, 10}).contiguous(format));
  }
  EXPECT_EQ(step.replayed_steps(), 2) << step.last_reason();
  ConvolutionStep outcome{{}, log.str()};
  for (const auto& parameter : step.net->parameters())
    if (parameter.grad().defined()) outcome.gradients.push_back(parameter.grad());
  return outcome;
}

/// Has lower_convolutions ask `choice` for as long as it lives.
class Choice {
 public:
  explicit Choice(halfstep::detail::WeightGradientChoice choice)
      : before_(std::exchange(weight_gradient_choice(), choice)) {}
  ~Choice() { weight_gradient_choice() = before_; }
  Choice(const Choice&) = delete;
  Choice& operator=(const Choice&) = delete;

 private:
  halfstep::detail::WeightGradientChoice before_;
};

TEST(LowerConvolutions, TakesTheWeightGradientsItMayAndStaysNearEager) {
  const Choice always([](const ConvolutionBackward&) { return true; });
  for (const bool channels_last : {false, true}) {
    SCOPED_TRACE(channels_last);
    const auto lowered = train_convolutions(true, channels_last);
    EXPECT_THAT(lowered.log,
                HasSubstr("lower_convolutions made 4 weight gradients products of matrices"));
    EXPECT_EQ(count_of(lowered.log, "= halfstep::convolution_weight_gradient("), 4) << lowered.log;
    // The first has no other gradient: nothing of LibTorch's is left. The rest is one call each.
    EXPECT_EQ(count_of(lowered.log, "= convolution_backward("), 6) << lowered.log;
    EXPECT_EQ(count_of(lowered.log, "output_mask=[True, False, False]"), 4) << lowered.log;
    // And two biases.
    EXPECT_EQ(count_of(lowered.log, "  reordered"), 6) << lowered.log;
    const auto stock = train_convolutions(false, channels_last);
    ASSERT_EQ(lowered.gradients.size(), stock.gradients.size());
    for (size_t i = 0; i < stock.gradients.size(); ++i) {
      const auto& expected = stock.gradients[i];
      const double most = expected.abs().max().item<double>();
      EXPECT_GT(most, 0);
      expect_close(lowered.gradients[i] / most, expected / most,
                   tolerance(torch::kFloat, "step", Direction::backward));
      EXPECT_EQ(lowered.gradients[i].strides(), expected.strides());
    }
  }
}

TEST(LowerConvolutions, OnlyWhereItIsAskedForAndFaster) {
  const Choice never([](const ConvolutionBackward&) { return false; });
  EXPECT_THAT(train_convolutions(true, true).log,
              HasSubstr("lower_convolutions made 0 weight gradients"));
  const Choice always([](const ConvolutionBackward&) { return true; });
  const auto by_default = train_convolutions(std::nullopt, true),
             off = train_convolutions(false, true);
  EXPECT_THAT(by_default.log, Not(HasSubstr("lower_convolutions")));
  EXPECT_THAT(by_default.log, Not(HasSubstr("weight_gradient")));
  EXPECT_TRUE(same_bits(by_default.gradients, off.gradients));
}

std::vector<ConvolutionBackward> asked;

TEST(LowerConvolutions, AsksByShapeLayoutAndThreads) {
  asked.clear();
  const Choice ask([](const ConvolutionBackward& call) {
    asked.push_back(call);
    return false;
  });
  const ThreadCount guard(2);
  train_convolutions(true, true);
  ASSERT_EQ(asked.size(), 4U);
  const auto& second = asked[2];
  EXPECT_EQ(second.input.sizes, (Numbers{4, 8, 12, 10}));
  EXPECT_EQ(second.weight.sizes, (Numbers{16, 8, 3, 3}));
  EXPECT_EQ(second.grad.sizes, (Numbers{4, 16, 6, 5}));
  EXPECT_EQ(second.stride, (Numbers{2, 2}));
  EXPECT_EQ(second.padding, (Numbers{1, 1}));
  EXPECT_TRUE(second.channels_last);
  EXPECT_EQ(second.threads, 2);
  for (const auto& call : asked) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    const bool faster = halfstep::detail::weight_gradient_is_faster(call);
    const auto tried = Clock::now();
    EXPECT_EQ(halfstep::detail::weight_gradient_is_faster(call), faster);
    EXPECT_LT(Clock::now() - tried, tried - start) << "measured again";
  }
}

TEST(LowerConvolutions, LeavesVolumesAlone) {
  struct Volumes : Graph<Tensor(Tensor)> {
    Volumes() { register_module("convolution", convolution); }
    Tensor build(const Tensor& x) override {
      const auto loss = convolution(x).square().mean();
      loss.backward();
      return loss;
    }
    torch::nn::Conv3d convolution{torch::nn::Conv3dOptions(2, 4, 3)};
  };
  const Choice always([](const ConvolutionBackward&) { return true; });
  torch::manual_seed(4);
  Volumes step;
  step.config().enable_pass("lower_convolutions").check_replays();
  std::ostringstream log;
  step.debug(1, log);
  for (int i = 0; i < 3; ++i)
    step(torch::randn({2, 2, 5, 6, 7}).contiguous(at::MemoryFormat::ChannelsLast3d));
  EXPECT_EQ(step.replayed_steps(), 1) << step.last_reason();
  EXPECT_THAT(log.str(), HasSubstr("lower_convolutions made 0 weight gradients"));
}

}  // namespace
