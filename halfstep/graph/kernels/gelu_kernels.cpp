#include "halfstep/graph/kernels/gelu_kernels.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/ones_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halfstep/graph/kernels/gelu_kernels.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halfstep::detail::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// to[i] = slopes[x[i]] · grad[i], rounded to bfloat16.
void multiply_slopes(const float* slopes, bool flushes, const uint16_t* x, const uint16_t* grad,
                     int64_t size, uint16_t* to) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint32_t, decltype(d)> u32;
  const hn::Rebind<int32_t, decltype(d)> i32;
  const hn::Rebind<uint16_t, decltype(d)> u16;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto least = hn::Set(d, flushes ? std::numeric_limits<float>::min() : 0.0F);
  const auto vector_at = [&](const uint16_t* numbers, const uint16_t* grads, uint16_t* out) {
    const auto index = hn::BitCast(i32, hn::PromoteTo(u32, hn::LoadU(u16, numbers)));
    const auto g = hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(u32, hn::LoadU(u16, grads))));
    const auto value = hn::Mul(hn::GatherIndex(d, slopes, index), g);
    const auto bits = hn::BitCast(u32, value);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(u32, 1));
    const auto nearest = hn::Add(bits, hn::Add(odd, hn::Set(u32, 0x7FFF)));
    const auto number = hn::IfThenElse(hn::RebindMask(u32, hn::Eq(value, value)), nearest,
                                       hn::Or(bits, hn::Set(u32, 0x400000)));
    const auto kept = hn::IfThenElse(hn::RebindMask(u32, hn::Lt(hn::Abs(value), least)),
                                     hn::And(bits, hn::Set(u32, 0x80000000)), number);
    hn::StoreU(hn::DemoteTo(u16, hn::BitCast(i32, hn::ShiftRight<16>(kept))), u16, out);
  };
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) vector_at(x + i, grad + i, to + i);
  if (i == size) return;
  constexpr size_t kLanes = hn::MaxLanes(hn::ScalableTag<float>());
  HWY_ALIGN uint16_t numbers[kLanes] = {}, grads[kLanes] = {}, out[kLanes];
  const auto bytes = static_cast<size_t>(size - i) * 2;
  std::memcpy(numbers, x + i, bytes);
  std::memcpy(grads, grad + i, bytes);
  vector_at(numbers, grads, out);
  std::memcpy(to + i, out, bytes);
}

}  // namespace halfstep::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halfstep::detail {

HWY_EXPORT(multiply_slopes);

namespace {

constexpr int64_t kNumbers = 65536, kGrain = 16384;

const uint16_t* bits_of(const at::Tensor& tensor) {
  return reinterpret_cast<const uint16_t*>(tensor.const_data_ptr<c10::BFloat16>());
}

at::Tensor multiply(const at::Tensor& slopes, bool flushes, const at::Tensor& grad,
                    const at::Tensor& self) {
  auto result = at::empty_like(self);
  const auto* table = slopes.const_data_ptr<float>();
  const auto *x = bits_of(self), *g = bits_of(grad);
  auto* to = reinterpret_cast<uint16_t*>(result.mutable_data_ptr<c10::BFloat16>());
  at::parallel_for(0, self.numel(), kGrain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(multiply_slopes)
    (table, flushes, x + begin, g + begin, end - begin, to + begin);
  });
  return result;
}

/// The slope of each bfloat16 number, and how LibTorch's kernel rounds.
struct Slopes {
  Slopes() {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const auto numbers = every_number();
    const auto wide = numbers.to(at::kFloat);
    table = at::gelu_backward(at::ones_like(wide), wide);
    for (const bool with_flush : {true, false}) {
      flushes = with_flush;
      same_bits = agrees(numbers);
      if (same_bits) return;
    }
  }

  static at::Tensor every_number() {
    auto numbers = at::empty({kNumbers}, at::kBFloat16);
    auto* bits = reinterpret_cast<uint16_t*>(numbers.mutable_data_ptr<c10::BFloat16>());
    for (int64_t i = 0; i < kNumbers; ++i) bits[i] = static_cast<uint16_t>(i);
    return numbers;
  }

  bool agrees(const at::Tensor& numbers) const {
    const auto tried = [&](const at::Tensor& grad) {
      const auto theirs = at::gelu_backward(grad, numbers);
      const auto ours = multiply(table, flushes, grad, numbers);
      return std::memcmp(bits_of(theirs), bits_of(ours), 2 * kNumbers) == 0;
    };
    for (const double value : {1.0, -0.7, 1.3e-3, 2.9e4, 3e-38, 1e-40, 3e38, 0.0, -0.0,
                               std::numeric_limits<double>::infinity()}) {
      if (!tried(at::full_like(numbers, value))) return false;
    }
    // Each number with another one: all mantissas and exponents meet.
    for (const int64_t step : {1, 257, 4099, 30011}) {
      auto grad = at::empty_like(numbers);
      auto* bits = reinterpret_cast<uint16_t*>(grad.mutable_data_ptr<c10::BFloat16>());
      for (int64_t i = 0; i < kNumbers; ++i) {
        bits[i] = static_cast<uint16_t>(i * 31 + step * (i >> 7));
        if ((bits[i] & 0x7F80) == 0x7F80) bits[i] = 0x3F80;  // two NaN: either may come out
      }
      if (!tried(grad)) return false;
    }
    return true;
  }

  at::Tensor table;
  bool flushes = false, same_bits = false;
};

const Slopes& slopes() {
  static const auto& result = *new Slopes();  // never destroyed: threads may outlive main
  return result;
}

at::Tensor gelu_backward(const at::Tensor& grad, const at::Tensor& self) {
  return multiply(slopes().table, slopes().flushes, grad, self);
}

TORCH_LIBRARY_FRAGMENT(halfstep, library) {
  library.def("gelu_backward(Tensor grad, Tensor self) -> Tensor");
  library.impl("gelu_backward", torch::dispatch(at::kCPU, gelu_backward));
}

}  // namespace

c10::OperatorHandle gelu_backward_op() {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("halfstep::gelu_backward", "");
  return op;
}

bool gelu_backward_has_same_bits() {
  return slopes().same_bits;
}

}  // namespace halfstep::detail
#endif
