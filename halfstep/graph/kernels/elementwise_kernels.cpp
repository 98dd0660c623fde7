#include "halfstep/graph/kernels/elementwise_kernels.h"

#include "halfstep/graph/saved_state.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/threshold_backward.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

namespace halfstep::detail {

namespace {

constexpr int64_t kBlock = 1024, kGrain = 16384;
static_assert(kBlock % kBlockPadding == 0);

using Flushes = std::array<bool, kElementwiseKinds>;

/// Memory of a value: a tensor's, or none but the block's own.
struct Memory {
  char* data = nullptr;
  bool wide = true;  // float32

  char* at(int64_t i) const { return data + i * (wide ? 4 : 2); }
  size_t bytes(int64_t size) const { return static_cast<size_t>(size * (wide ? 4 : 2)); }
};

Memory memory_of(const at::Tensor& tensor) {
  return {static_cast<char*>(const_cast<void*>(tensor.const_data_ptr())),
          tensor.scalar_type() == c10::kFloat};
}

class Run {
 public:
  Run(std::vector<Memory> inputs, std::vector<ElementwiseStep> steps, std::vector<Memory> results,
      const Flushes& flushes)
      : inputs_(std::move(inputs)),
        steps_(std::move(steps)),
        results_(std::move(results)),
        flushes_(flushes) {}

  /// Elements [begin, begin + size), at most a block of them.
  void block(int64_t begin, int64_t size) const {
    const bool whole = size % kBlockPadding == 0;
    const auto padded = (size + kBlockPadding - 1) / kBlockPadding * kBlockPadding;
    alignas(64) std::array<std::array<float, kBlock>, kMostElementwiseValues> own;
    alignas(64) std::array<uint16_t, kBlock> narrow;
    std::array<const float*, kMostElementwiseValues> values;
    size_t next = 0;
    for (const auto& input : inputs_) {
      auto* to = own[next].data();
      values[next++] = to;
      if (input.wide && whole) {
        values[next - 1] = reinterpret_cast<const float*>(input.at(begin));
      } else if (input.wide) {
        std::fill(to + size, to + padded, 0.0F);
        std::memcpy(to, input.at(begin), input.bytes(size));
      } else if (whole) {
        widen_block(reinterpret_cast<const uint16_t*>(input.at(begin)), to, padded);
      } else {
        std::fill(narrow.begin() + size, narrow.begin() + padded, uint16_t(0));
        std::memcpy(narrow.data(), input.at(begin), input.bytes(size));
        widen_block(narrow.data(), to, padded);
      }
    }
    for (size_t i = 0; i < steps_.size(); ++i) {
      const auto& step = steps_[i];
      const auto& result = results_[i];
      const bool given = result.data != nullptr;
      auto* to = given && result.wide && whole ? reinterpret_cast<float*>(result.at(begin))
                                               : own[next].data();
      values[next++] = to;
      const auto numbers = step.dtype == c10::kFloat                  ? Numbers::float32
                           : flushes_[static_cast<size_t>(step.kind)] ? Numbers::flushed_bfloat16
                                                                      : Numbers::bfloat16;
      elementwise_block(step.kind, values[size_t(step.a)],
                        step.b < 0 ? nullptr : values[size_t(step.b)], to, padded, numbers);
      if (!given || (result.wide && whole)) continue;
      if (result.wide) {
        std::memcpy(result.at(begin), to, result.bytes(size));
      } else if (whole) {
        narrow_block(to, reinterpret_cast<uint16_t*>(result.at(begin)), padded);
      } else {
        narrow_block(to, narrow.data(), padded);
        std::memcpy(result.at(begin), narrow.data(), result.bytes(size));
      }
    }
  }

 private:
  std::vector<Memory> inputs_;
  std::vector<ElementwiseStep> steps_;
  std::vector<Memory> results_;  // of each step
  Flushes flushes_;
};

std::vector<at::Tensor> compute(at::TensorList inputs, const std::vector<ElementwiseStep>& steps,
                                at::IntArrayRef outputs, const Flushes& flushes) {
  std::vector<Memory> from, to(steps.size());
  for (const auto& input : inputs) from.push_back(memory_of(input));
  std::vector<at::Tensor> results;
  for (const auto output : outputs) {
    const auto step = static_cast<size_t>(output) - inputs.size();
    results.push_back(at::empty_like(inputs[0], inputs[0].options().dtype(steps[step].dtype)));
    to[step] = memory_of(results.back());
  }
  const Run run(std::move(from), steps, std::move(to), flushes);
  at::parallel_for(0, inputs[0].numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kBlock) run.block(i, std::min(kBlock, end - i));
  });
  return results;
}

/// Which kinds have LibTorch's bits, and which of its kernels round subnormal numbers to zero.
struct ElementwiseTrial {
  ElementwiseTrial() {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    for (int64_t kind = 0; kind < kElementwiseKinds; ++kind) {
      for (const bool flush : {false, true}) {
        flushes[size_t(kind)] = flush;
        same_bits[size_t(kind)] = agrees(static_cast<ElementwiseKind>(kind));
        if (same_bits[size_t(kind)]) break;
      }
    }
  }

  /// Numbers of common sizes, and from `begin` to `end` and in the last quarter of them such that
  /// are subnormal or nearly so.
  static at::Tensor numbers(double step, int64_t begin, int64_t end) {
    auto x = at::sin(at::arange(4096, at::kFloat).mul(step)).mul(3);
    for (const auto& [from, to] : {std::pair(begin, end), std::pair<int64_t, int64_t>(3072, 4096)})
      x.slice(0, from, to).mul_(2e-38);
    return x;
  }

  static at::Tensor theirs(ElementwiseKind kind, const at::Tensor& a, const at::Tensor& b,
                           c10::ScalarType dtype) {
    switch (kind) {
      case ElementwiseKind::copy:
        return a.to(dtype);
      case ElementwiseKind::add:
        return at::add(a, b);
      case ElementwiseKind::multiply:
        return at::mul(a, b);
      case ElementwiseKind::relu:
        return at::relu(a);
      case ElementwiseKind::mask:
        return at::threshold_backward(a, b, 0);
    }
    return {};
  }

  bool agrees(ElementwiseKind kind) const {
    const auto a = numbers(1.3, 1024, 2048), b = numbers(0.7, 2048, 3072);
    const auto low_a = a.to(at::kBFloat16), low_b = b.to(at::kBFloat16);
    const auto same = [&](const at::Tensor& x, const at::Tensor& y, c10::ScalarType dtype) {
      const auto ours = compute({x, y}, {{kind, 0, 1, dtype}}, {2}, flushes);
      return detail::same_bits(theirs(kind, x, y, dtype), ours[0]);
    };
    const bool mixes = kind == ElementwiseKind::add || kind == ElementwiseKind::multiply;
    return same(a, b, at::kFloat) && same(low_a, low_b, at::kBFloat16) &&
           (!mixes || (same(a, low_b, at::kFloat) && same(low_a, b, at::kFloat))) &&
           (kind != ElementwiseKind::copy ||
            (same(a, b, at::kBFloat16) && same(low_a, b, at::kFloat)));
  }

  Flushes flushes = {};
  std::array<bool, kElementwiseKinds> same_bits = {};
};

const ElementwiseTrial& elementwise_trial() {
  static const ElementwiseTrial result;
  return result;
}

constexpr int64_t kNumbersOfStep = 4;

std::vector<at::Tensor> elementwise(at::TensorList inputs, at::IntArrayRef steps,
                                    at::IntArrayRef outputs) {
  std::vector<ElementwiseStep> unpacked;
  for (size_t i = 0; i < steps.size(); i += kNumbersOfStep)
    unpacked.push_back({static_cast<ElementwiseKind>(steps[i]), steps[i + 1], steps[i + 2],
                        static_cast<c10::ScalarType>(steps[i + 3])});
  return compute(inputs, unpacked, outputs, elementwise_trial().flushes);
}

TORCH_LIBRARY_FRAGMENT(halfstep, library) {
  library.def("elementwise(Tensor[] inputs, int[] steps, int[] outputs) -> Tensor[]");
  library.impl("elementwise", torch::dispatch(at::kCPU, elementwise));
}

}  // namespace

c10::OperatorHandle elementwise_op() {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("halfstep::elementwise", "");
  return op;
}

std::vector<int64_t> packed(const std::vector<ElementwiseStep>& steps) {
  std::vector<int64_t> numbers;
  for (const auto& step : steps) {
    for (const auto number :
         {static_cast<int64_t>(step.kind), step.a, step.b, static_cast<int64_t>(step.dtype)})
      numbers.push_back(number);
  }
  return numbers;
}

bool elementwise_has_same_bits(ElementwiseKind kind) {
  return elementwise_trial().same_bits[static_cast<size_t>(kind)];
}

}  // namespace halfstep::detail
