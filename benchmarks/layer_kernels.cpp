// LibTorch's ways to compute a linear layer or a convolution with its activation on the CPU, some
// of which eager code never calls: microseconds (the least of many runs), and whether the bits are
// those of eager code's. What a pass over a Graph's program could put in their place.
//
//   halfstep_layer_kernels [seconds a figure = 0.3] [threads = 1]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/StringUtil.h>
#include <torch/types.h>

namespace {

using at::Tensor;
using Clock = std::chrono::steady_clock;

double least_microseconds(double limit, const std::function<void()>& call) {
  double least = 1e12;
  const auto start = Clock::now();
  do {
    const auto before = Clock::now();
    call();
    least =
        std::min(least, std::chrono::duration<double, std::micro>(Clock::now() - before).count());
  } while (std::chrono::duration<double>(Clock::now() - start).count() < limit);
  return least;
}

using Scalars = c10::List<std::optional<at::Scalar>>;
using OptionalText = std::optional<std::string_view>;

template <class Signature>
auto mkldnn_op(const char* name) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string("mkldnn::") + name).c_str(), "")
      .typed<Signature>();
}

Tensor linear_pointwise(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const char* activation) {
  static const auto op =
      mkldnn_op<Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, std::string_view,
                       Scalars, OptionalText)>("_linear_pointwise");
  return op.call(x, weight, bias, activation, Scalars(),
                 std::string(activation) == "gelu" ? OptionalText("none") : std::nullopt);
}

/// The weight as oneDNN likes it best for this batch. It holds for one step: the next one writes
/// the weight.
Tensor reordered(const Tensor& weight, int64_t batch) {
  static const auto op =
      mkldnn_op<Tensor(const Tensor&, std::optional<c10::SymInt>)>("_reorder_linear_weight");
  return op.call(weight, batch);
}

Tensor convolution_relu(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  static const auto op = mkldnn_op<Tensor(
      const Tensor&, const Tensor&, const std::optional<Tensor>&, at::IntArrayRef, at::IntArrayRef,
      at::IntArrayRef, int64_t, std::string_view, Scalars, OptionalText)>("_convolution_pointwise");
  return op.call(x, weight, bias, {1, 1}, {1, 1}, {1, 1}, 1, "relu", Scalars(), std::nullopt);
}

struct Way {
  const char* name;
  Tensor expected;
  std::function<Tensor()> call;
};

void compare(double limit, c10::ScalarType dtype, const std::string& shape,
             const std::vector<Way>& ways) {
  for (const auto& [name, expected, call] : ways) {
    std::printf("%-9s %-22s %-32s", dtype == at::kFloat ? "float32" : "bfloat16", shape.c_str(),
                name);
    try {
      const auto result = call();
      const auto time = least_microseconds(limit, [&call = call] { call(); });
      std::printf("%12.1f%s\n", time, at::equal(result, expected) ? "" : "  other bits");
    } catch (const std::exception&) {
      std::printf("%12s\n", "refused");  // oneDNN has none for this CPU
    }
  }
}

void compare_linear(double limit, c10::ScalarType dtype, int64_t batch, int64_t in, int64_t out) {
  const auto x = at::randn({batch, in}).to(dtype);
  const auto weight = (at::randn({out, in}) / std::sqrt(double(in))).to(dtype);
  const auto bias = at::randn({out}).to(dtype);
  const auto alone = at::linear(x, weight, bias);
  const auto with_relu = at::relu(alone), with_gelu = at::gelu(alone);
  compare(
      limit, dtype, c10::str(batch, " x ", in, " x ", out),
      {{"addmm alone", alone, [&] { return at::linear(x, weight, bias); }},
       {"_reorder_linear_weight alone", weight,
        [&] { return reordered(weight, batch).to_dense(); }},
       {"addmm, relu", with_relu, [&] { return at::relu(at::linear(x, weight, bias)); }},
       {"_addmm_activation", with_relu, [&] { return at::_addmm_activation(bias, x, weight.t()); }},
       {"_linear_pointwise relu", with_relu,
        [&] { return linear_pointwise(x, weight, bias, "relu"); }},
       {"the same on a reordered weight", with_relu,
        [&, kept = Tensor()]() mutable {
          if (!kept.defined()) kept = reordered(weight, batch);
          return linear_pointwise(x, kept, bias, "relu");
        }},
       {"addmm, gelu", with_gelu, [&] { return at::gelu(at::linear(x, weight, bias)); }},
       {"_linear_pointwise gelu", with_gelu,
        [&] { return linear_pointwise(x, weight, bias, "gelu"); }}});
}

void compare_convolution(double limit, c10::ScalarType dtype, int64_t channels, int64_t size) {
  const auto channels_last = at::MemoryFormat::ChannelsLast;
  const auto x = at::randn({64, channels, size, size}).to(dtype).contiguous(channels_last);
  const auto weight =
      (at::randn({channels, channels, 3, 3}) / std::sqrt(9.0 * double(channels))).to(dtype);
  const auto bias = at::randn({channels}).to(dtype);
  const auto alone = at::conv2d(x, weight, bias, {1, 1}, {1, 1});
  const auto with_relu = at::relu(alone);
  compare(limit, dtype, c10::str("64 x ", channels, " x ", size, " x ", size),
          {{"conv2d alone", alone,
            [&] {
              return at::conv2d(x, weight, bias, {1, 1}, {1, 1});
            }},
           {"conv2d, relu", with_relu,
            [&] {
              return at::relu(at::conv2d(x, weight, bias, {1, 1}, {1, 1}));
            }},
           {"_convolution_pointwise relu", with_relu,
            [&] { return convolution_relu(x, weight, bias); }}});
}

}  // namespace

int main(int argc, char** argv) {
  const double limit = argc > 1 ? std::atof(argv[1]) : 0.3;
  at::set_num_threads(std::max(argc > 2 ? std::atoi(argv[2]) : 1, 1));
  const c10::NoGradGuard no_grad;
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    compare_linear(limit, dtype, 64, 784, 128);
    compare_linear(limit, dtype, 256, 1024, 1024);
    compare_linear(limit, dtype, 2048, 256, 1024);
    compare_convolution(limit, dtype, 64, 28);
    compare_convolution(limit, dtype, 256, 7);
  }
  return 0;
}
