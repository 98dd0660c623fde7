#pragma once
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

/// One call of each op that PyTorch documents as listed for autocast, with what its list says of
/// it.
namespace halfstep::testing {

enum class Policy {
  none,          ///< not listed: the inputs' dtype decides
  lower,         ///< inputs are cast to the region's 16-bit dtype
  fp32,          ///< inputs are cast to float32
  promote,       ///< inputs are cast to the widest dtype among them
  set_dtype,     ///< runs in float32 by its dtype argument
  append_dtype,  ///< redispatches to an overload with a dtype argument
  banned,        ///< throws
};

using Tensors = std::vector<at::Tensor>;

/// How to make an input: float32, except whole().
struct Input {
  enum class Kind { normal, unit, sign, definite, whole } kind;
  std::vector<int64_t> shape;
  int64_t high = 0;

  at::Tensor make(c10::Device device) const;
};

Input normal(std::vector<int64_t> shape);
/// Uniform in [0.1, 0.9): in the domain of log, acos, probabilities, …
Input unit(std::vector<int64_t> shape);
/// 1 or -1.
Input sign(std::vector<int64_t> shape);
/// A symmetric positive definite matrix, far from singular.
Input definite(int64_t n);
/// int64 in [0, high).
Input whole(std::vector<int64_t> shape, int64_t high);

struct OpCase {
  std::string op;  ///< as registered, without "aten::": "conv1d.padding"
  Policy cpu;
  Policy cuda;
  std::vector<Input> inputs;
  std::function<Tensors(const Tensors&)> call;
  bool cuda_only = false;       ///< the op has no CPU kernel
  bool needs_hardware = false;  ///< its 16-bit kernels need a CPU that computes in 16 bits

  Policy policy(c10::DeviceType device_type) const {
    return device_type == c10::kCUDA ? cuda : cpu;
  }
};

/// Every case, one or more for each op on CPU's or CUDA's list.
const std::vector<OpCase>& op_cases();

std::vector<OpCase> product_cases();
std::vector<OpCase> loss_cases();
std::vector<OpCase> pointwise_cases();
std::vector<OpCase> image_cases();
std::vector<OpCase> linalg_cases();

namespace detail {
template <class Result>
void append_outputs(Tensors& outputs, const Result& result) {
  if constexpr (std::is_convertible_v<Result, at::Tensor>) {
    outputs.push_back(result);
  } else if constexpr (std::is_same_v<Result, Tensors>) {
    outputs.insert(outputs.end(), result.begin(), result.end());
  }
}
template <class... Results>
void append_outputs(Tensors& outputs, const std::tuple<Results...>& results) {
  std::apply([&](const auto&... result) { (append_outputs(outputs, result), ...); }, results);
}
}  // namespace detail

/// `call` takes the inputs and returns a tensor, a tuple or a vector of them.
template <class Call>
OpCase op_case(std::string op, Policy cpu, Policy cuda, std::vector<Input> inputs, Call call) {
  return {std::move(op), cpu, cuda, std::move(inputs), [call](const Tensors& t) {
            Tensors outputs;
            detail::append_outputs(outputs, call(t));
            return outputs;
          }};
}

}  // namespace halfstep::testing
