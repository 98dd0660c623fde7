#include "benchmarks/products.h"

#include <array>
#include <memory>

#include <ATen/ops/bmm.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/types.h>

namespace halfstep::benchmarks {
namespace {

at::Tensor numbers(at::IntArrayRef sizes) {
  return torch::rand(sizes, torch::kBFloat16) - 0.5;
}

using Products = std::vector<std::function<void()>>;

void add_linear(Products& list, int64_t rows, int64_t in, int64_t out, bool input_gradient) {
  list.emplace_back([=, x = numbers({rows, in}), w = numbers({out, in}), g = numbers({rows, out})] {
    at::linear(x, w);
    at::mm(g.t(), x);
    if (input_gradient) at::mm(g, w);
  });
}

void add_attention(Products& list, int64_t batch, int64_t length, int64_t width) {
  const auto q = numbers({batch, length, width}), k = numbers({batch, length, width}),
             v = numbers({batch, length, width}), out = numbers({batch, length, width}),
             weights = numbers({batch, length, length});
  list.emplace_back([=] {
    at::bmm(q, k.transpose(1, 2));          // scores
    at::bmm(weights, v);                    // output
    at::bmm(weights.transpose(1, 2), out);  // gradient of v
    at::bmm(out, v.transpose(1, 2));        // of the weights
    at::bmm(weights, k);                    // of q
    at::bmm(weights.transpose(1, 2), q);    // of k
  });
}

struct Convolution {
  int64_t in, out, kernel, stride, side;  // side of the input image
};

void add_convolution(Products& list, int64_t n, const Convolution& c, bool input_gradient,
                     bool channels_last) {
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const std::array<int64_t, 2> stride{c.stride, c.stride}, padding{c.kernel / 2, c.kernel / 2},
      one{1, 1}, zero{0, 0};
  const auto x = numbers({n, c.in, c.side, c.side}).contiguous(format);
  const auto w = numbers({c.out, c.in, c.kernel, c.kernel}).contiguous(format);
  const auto side = (c.side - 1) / c.stride + 1;
  const auto g = numbers({n, c.out, side, side}).contiguous(format);
  list.emplace_back([=] {
    at::convolution(x, w, {}, stride, padding, one, false, zero, 1);
    at::convolution_backward(g, x, w, {}, stride, padding, one, false, zero, 1,
                             {input_gradient, true, false});
  });
}

void add_resnet18(Products& list, int64_t n, bool channels_last) {
  add_convolution(list, n, {1, 64, 3, 1, 28}, false, channels_last);
  int64_t in = 64, side = 28;
  for (const int64_t out : {64, 128, 256, 512}) {
    const int64_t stride = out == 64 ? 1 : 2;
    add_convolution(list, n, {in, out, 3, stride, side}, true, channels_last);
    if (stride == 2) add_convolution(list, n, {in, out, 1, stride, side}, true, channels_last);
    side = (side - 1) / stride + 1;
    for (int i = 0; i < 3; ++i)
      add_convolution(list, n, {out, out, 3, 1, side}, true, channels_last);
    in = out;
  }
  add_linear(list, n, 512, 10, true);
}

void add_gpt(Products& list, int64_t n) {
  const int64_t length = 128, width = 256, heads = 4, layers = 4, rows = n * length;
  for (int64_t i = 0; i < layers; ++i) {
    add_linear(list, rows, width, 3 * width, true);
    add_attention(list, n * heads, length, width / heads);
    add_linear(list, rows, width, width, true);
    add_linear(list, rows, width, 4 * width, true);
    add_linear(list, rows, 4 * width, width, true);
  }
  add_linear(list, rows, width, 256, true);
}

}  // namespace

Step products(const Workload& workload, bool channels_last) {
  auto list = std::make_shared<Products>();
  const int64_t n = workload.batch_size();
  if (workload.name() == "resnet18") {
    add_resnet18(*list, n, channels_last);
  } else if (workload.name() == "gpt") {
    add_gpt(*list, n);
  } else {
    const int64_t width = workload.name() == "mlp_small" ? 256 : 2048;
    add_linear(*list, n, 784, width, false);
    if (width == 2048) add_linear(*list, n, width, width, true);
    add_linear(*list, n, width, 10, true);
  }
  return [list] {
    const torch::NoGradGuard no_grad;
    for (const auto& product : *list) product();
    return at::Tensor();
  };
}

}  // namespace halfstep::benchmarks
