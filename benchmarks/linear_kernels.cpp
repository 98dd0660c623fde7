// LibTorch's ways to compute a linear layer with its activation on the CPU, some of which eager
// code never calls: microseconds (the least of many runs), and whether the bits are those of addmm
// and then relu (gelu). What a pass over a Graph's program could put in their place.
//
//   halfstep_linear_kernels [seconds a figure = 0.3] [threads = 1]
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

Tensor linear_pointwise(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const char* activation) {
  using Scalars = c10::List<std::optional<at::Scalar>>;
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
          .typed<Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&,
                        std::string_view, Scalars, std::optional<std::string_view>)>();
  return op.call(
      x, weight, bias, activation, Scalars(),
      std::string(activation) == "gelu" ? std::optional<std::string_view>("none") : std::nullopt);
}

struct Way {
  const char* name;
  const Tensor& expected;
  std::function<Tensor()> call;
};

void compare(double limit, c10::ScalarType dtype, int64_t batch, int64_t in, int64_t out) {
  const auto x = at::randn({batch, in}).to(dtype);
  const auto weight = (at::randn({out, in}) / std::sqrt(double(in))).to(dtype);
  const auto bias = at::randn({out}).to(dtype);
  const auto alone = at::linear(x, weight, bias);
  const auto with_relu = at::relu(alone), with_gelu = at::gelu(alone);
  const std::vector<Way> ways = {
      {"addmm alone", alone, [&] { return at::linear(x, weight, bias); }},
      {"addmm, relu", with_relu, [&] { return at::relu(at::linear(x, weight, bias)); }},
      {"_addmm_activation", with_relu, [&] { return at::_addmm_activation(bias, x, weight.t()); }},
      {"_linear_pointwise relu", with_relu,
       [&] { return linear_pointwise(x, weight, bias, "relu"); }},
      {"addmm, gelu", with_gelu, [&] { return at::gelu(at::linear(x, weight, bias)); }},
      {"_linear_pointwise gelu", with_gelu,
       [&] { return linear_pointwise(x, weight, bias, "gelu"); }}};
  for (const auto& [name, expected, call] : ways) {
    std::printf("%-10s%5ld x %5ld x %5ld  %-24s", dtype == at::kFloat ? "float32" : "bfloat16",
                long(batch), long(in), long(out), name);
    try {
      const auto result = call();
      const auto time = least_microseconds(limit, [&call = call] { call(); });
      std::printf("%12.1f%s\n", time, at::equal(result, expected) ? "" : "  other bits");
    } catch (const std::exception&) {
      std::printf("%12s\n", "refused");  // oneDNN has none for this CPU
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const double limit = argc > 1 ? std::atof(argv[1]) : 0.3;
  at::set_num_threads(std::max(argc > 2 ? std::atoi(argv[2]) : 1, 1));
  const c10::NoGradGuard no_grad;
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    compare(limit, dtype, 64, 784, 128);
    compare(limit, dtype, 256, 1024, 1024);
    compare(limit, dtype, 2048, 256, 1024);
  }
  return 0;
}
