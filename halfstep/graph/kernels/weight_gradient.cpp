#include "halfstep/graph/kernels/weight_gradient.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/mm.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/strides.h>
#include <torch/library.h>

namespace halfstep::detail {

namespace {

/// Patches that stay in the cache while a thread multiplies them; and where all threads share one
/// product.
constexpr int64_t kRows = 256, kSharedRows = 1024;
/// Elements of a weight up to which each thread has sums of its own.
constexpr int64_t kOwnSums = int64_t{1} << 20;
/// Elements of all of them together and of the patches, at most.
constexpr int64_t kAllSums = int64_t{1} << 24;

/// The patches of an image that lies channels-last: for each pixel of the result a row of
/// kernel height × kernel width × channels numbers, zero beyond the borders.
struct Patches {
  Patches(const at::Tensor& input, const at::Tensor& grad, at::IntArrayRef kernel,
          at::IntArrayRef its_stride, at::IntArrayRef its_padding, at::IntArrayRef its_dilation)
      : channels(input.size(1)),
        size{input.size(2), input.size(3)},
        pixels{grad.size(2), grad.size(3)},
        taps{kernel[0], kernel[1]},
        stride{its_stride[0], its_stride[1]},
        padding{its_padding[0], its_padding[1]},
        dilation{its_dilation[0], its_dilation[1]},
        rows(grad.size(0) * pixels[0] * pixels[1]),
        width(taps[0] * taps[1] * channels) {}

  template <class T>
  void copy(const T* image, int64_t begin, int64_t end, T* to) const {
    for (int64_t row = begin; row < end; ++row) {
      const auto n = row / (pixels[0] * pixels[1]);
      const auto top = row / pixels[1] % pixels[0] * stride[0] - padding[0];
      const auto left = row % pixels[1] * stride[1] - padding[1];
      for (int64_t i = 0; i < taps[0]; ++i) {
        for (int64_t j = 0; j < taps[1]; ++j, to += channels) {
          const auto y = top + i * dilation[0], x = left + j * dilation[1];
          if (y >= 0 && y < size[0] && x >= 0 && x < size[1])
            std::copy_n(image + ((n * size[0] + y) * size[1] + x) * channels, channels, to);
          else
            std::fill_n(to, channels, T());
        }
      }
    }
  }

  int64_t channels;
  std::array<int64_t, 2> size, pixels, taps, stride, padding, dilation;
  int64_t rows, width;
};

/// Rows of `patches` into `to` by all threads.
template <class T>
void copy_together(const Patches& patches, const T* image, int64_t begin, int64_t end, T* to) {
  at::parallel_for(begin, end, 16, [&](int64_t from, int64_t until) {
    patches.copy(image, from, until, to + (from - begin) * patches.width);
  });
}

/// sums = or += gradᵀ · patches, of the rows from `begin` on that `patches` holds.
void add_product(at::Tensor& sums, const at::Tensor& grad, const at::Tensor& patches, int64_t begin,
                 int64_t rows, bool first) {
  sums.addmm_(grad.narrow(0, begin, rows).t(), patches.narrow(0, 0, rows), first ? 0 : 1);
}

/// Each thread adds up its part of the rows, then the parts are added.
at::Tensor multiply_apart(const Patches& patches, const at::Tensor& grad, const at::Tensor& image,
                          int64_t parts) {
  const auto sums = at::empty({parts, grad.size(1), patches.width}, grad.options());
  const auto memory = at::empty({parts, kRows, patches.width}, grad.options());
  at::parallel_for(0, parts, 1, [&](int64_t from, int64_t until) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    for (int64_t part = from; part < until; ++part) {
      auto sum = sums.select(0, part);
      const auto own = memory.select(0, part);
      const auto first = patches.rows * part / parts, end = patches.rows * (part + 1) / parts;
      for (auto begin = first; begin < end; begin += kRows) {
        const auto rows = std::min(kRows, end - begin);
        patches.copy(image.const_data_ptr<float>(), begin, begin + rows,
                     own.mutable_data_ptr<float>());
        add_product(sum, grad, own, begin, rows, begin == first);
      }
    }
  });
  return parts == 1 ? sums.select(0, 0) : sums.sum(0);
}

at::Tensor multiply_floats(const Patches& patches, const at::Tensor& grad,
                           const at::Tensor& image) {
  const auto elements = grad.size(1) * patches.width;
  const auto parts = std::min<int64_t>(at::get_num_threads(), (patches.rows + kRows - 1) / kRows);
  if (elements <= kOwnSums && (elements + kRows * patches.width) * parts <= kAllSums)
    return multiply_apart(patches, grad, image, parts);
  auto sum = at::empty({grad.size(1), patches.width}, grad.options());
  const auto memory =
      at::empty({std::min(kSharedRows, patches.rows), patches.width}, grad.options());
  for (int64_t begin = 0; begin < patches.rows; begin += kSharedRows) {
    const auto rows = std::min(kSharedRows, patches.rows - begin);
    copy_together(patches, image.const_data_ptr<float>(), begin, begin + rows,
                  memory.mutable_data_ptr<float>());
    add_product(sum, grad, memory, begin, rows, begin == 0);
  }
  return sum;
}

at::Tensor multiply_bfloat16(const Patches& patches, const at::Tensor& grad,
                             const at::Tensor& image) {
  const auto memory = at::empty({patches.rows, patches.width}, grad.options());
  copy_together(patches, image.const_data_ptr<c10::BFloat16>(), 0, patches.rows,
                memory.mutable_data_ptr<c10::BFloat16>());
  return at::mm(grad.t(), memory);
}

at::Tensor weight_gradient(const at::Tensor& grad, const at::Tensor& input, at::IntArrayRef kernel,
                           at::IntArrayRef stride, at::IntArrayRef padding,
                           at::IntArrayRef dilation, bool channels_last) {
  for (const auto& list : {kernel, stride, padding, dilation})
    TORCH_CHECK(list.size() == 2, "[convolution_weight_gradient] lists must have 2 elements");
  const auto image = input.contiguous(at::MemoryFormat::ChannelsLast);
  const Patches patches(input, grad, kernel, stride, padding, dilation);
  const auto pixels = grad.contiguous(at::MemoryFormat::ChannelsLast)
                          .permute({0, 2, 3, 1})
                          .reshape({patches.rows, grad.size(1)});
  const auto product = grad.scalar_type() == c10::kFloat
                           ? multiply_floats(patches, pixels, image)
                           : multiply_bfloat16(patches, pixels, image);
  const std::array<int64_t, 4> sizes{grad.size(1), patches.channels, kernel[0], kernel[1]};
  if (channels_last) return product.as_strided(sizes, c10::get_channels_last_strides_2d(sizes));
  const auto rows = product.view({sizes[0], sizes[2] * sizes[3], sizes[1]});
  return rows.transpose(1, 2).contiguous().as_strided(sizes, c10::contiguous_strides(sizes));
}

TORCH_LIBRARY_FRAGMENT(halfstep, library) {
  library.def(
      "convolution_weight_gradient(Tensor grad, Tensor input, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation, bool channels_last) -> Tensor");
  library.impl("convolution_weight_gradient", torch::dispatch(at::kCPU, weight_gradient));
}

template <class Function>
double seconds_of(const Function& function) {
  const auto start = std::chrono::steady_clock::now();
  function();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return took.count();
}

bool try_both(const ConvolutionBackward& call) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto ones = [](const Geometry& x) {
    return at::empty_strided(x.sizes, x.strides, at::TensorOptions(x.dtype)).fill_(1);
  };
  const auto grad = ones(call.grad), input = ones(call.input), weight = ones(call.weight);
  const auto run_theirs = [&] {
    at::convolution_backward(grad, input, weight, std::nullopt, call.stride, call.padding,
                             call.dilation, false, {0, 0}, 1, {false, true, false});
  };
  const auto run_ours = [&] {
    weight_gradient(grad, input, at::IntArrayRef(call.weight.sizes).slice(2), call.stride,
                    call.padding, call.dilation, call.channels_last);
  };
  double theirs = seconds_of(run_theirs), ours = seconds_of(run_ours);
  if (ours > 0.8 * theirs && ours < theirs) {  // nearly as fast
    theirs = std::min(theirs, seconds_of(run_theirs));
    ours = std::min(ours, seconds_of(run_ours));
  }
  return ours <= 0.9 * theirs;
}

}  // namespace

c10::OperatorHandle convolution_weight_gradient_op() {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("halfstep::convolution_weight_gradient", "");
  return op;
}

bool weight_gradient_is_faster(const ConvolutionBackward& call) {
  static std::mutex mutex;
  static auto& known = *new std::vector<std::pair<ConvolutionBackward, bool>>();
  const std::lock_guard lock(mutex);
  for (const auto& [other, faster] : known) {
    if (other == call) return faster;
  }
  known.emplace_back(call, try_both(call));
  return known.back().second;
}

WeightGradientChoice& weight_gradient_choice() {
  static WeightGradientChoice choice = weight_gradient_is_faster;
  return choice;
}

}  // namespace halfstep::detail
