#include "halfstep/graph/kernels/batch_norm_kernels.h"

#include "halfstep/graph/kernels/batch_norm_rows.h"
#include "halfstep/graph/saved_state.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/threshold_backward.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

namespace halfstep::detail {

namespace {

using OptionalTensor = std::optional<at::Tensor>;

const uint16_t* bits_of(const at::Tensor& tensor) {
  return reinterpret_cast<const uint16_t*>(tensor.const_data_ptr<c10::BFloat16>());
}

const uint16_t* bits_of(const OptionalTensor& tensor) {
  return tensor && tensor->defined() ? bits_of(*tensor) : nullptr;
}

uint16_t* mutable_bits_of(const at::Tensor& tensor) {
  return reinterpret_cast<uint16_t*>(tensor.mutable_data_ptr<c10::BFloat16>());
}

/// a · b rounded to float32 and to nothing else: a compiler may not make it part of an fma.
float product(float a, float b) {
  return static_cast<float>(static_cast<double>(a) * b);
}

/// A number for each channel, in the order of channel_places.
class Channels {
 public:
  explicit Channels(const std::vector<int64_t>& places)
      : places_(places), numbers_(places.size()) {}
  void set(int64_t channel, float number) {
    numbers_[size_t(places_[size_t(channel)])] =
        std::isnan(number) ? std::numeric_limits<float>::quiet_NaN() : number;
  }
  void set(const float* numbers) {
    for (size_t c = 0; c < numbers_.size(); ++c) set(int64_t(c), numbers[c]);
  }
  const float* data() const { return numbers_.data(); }

 private:
  const std::vector<int64_t>& places_;
  std::vector<float> numbers_;
};

/// Sums over rows, for each channel: each thread adds its rows, the threads' sums are added in
/// their order, as in LibTorch.
class RowSums {
 public:
  RowSums(int64_t rows, int64_t channels, int64_t count)
      : rows_(rows),
        channels_(channels),
        threads_(at::get_num_threads()),
        buffer_(static_cast<size_t>(count * threads_ * channels)) {}

  /// add(begin, end, thread); where `few_alone`, one thread adds rows that are no more than
  /// threads.
  template <class Add>
  void run(bool few_alone, const Add& add) {
    if (few_alone && rows_ <= threads_) return add(0, rows_, 0);
    at::parallel_for(0, rows_, 1, [&](int64_t begin, int64_t end) {
      add(begin, end, static_cast<int64_t>(at::get_thread_num()));
    });
  }

  float* of(int64_t which, int64_t thread) {
    return buffer_.data() + (which * threads_ + thread) * channels_;
  }

  float total(int64_t which, int64_t channel) {
    float sum = 0;
    for (int64_t thread = 0; thread < threads_; ++thread) sum += of(which, thread)[channel];
    return sum;
  }

 private:
  int64_t rows_, channels_;
  int64_t threads_;
  std::vector<float> buffer_;
};

using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Four = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Three forward(const RoundingHabits& habits, const at::Tensor& input, const at::Tensor& weight,
              const at::Tensor& bias, at::Tensor& running_mean, at::Tensor& running_var,
              double momentum, double eps, const OptionalTensor& other, bool relu) {
  const auto channels = input.size(1), rows = input.numel() / channels;
  auto output = at::empty_like(input);
  auto save_mean = at::empty({channels}, weight.options()), save_invstd = at::empty_like(save_mean);
  auto* mean = save_mean.mutable_data_ptr<float>();
  auto* invstd = save_invstd.mutable_data_ptr<float>();
  const auto* x = bits_of(input);
  const auto places = channel_places(channels);
  Channels center(places), scale(places), shift(places);

  RowSums sums(rows, channels, 1);
  sums.run(true, [&](int64_t begin, int64_t end, int64_t thread) {
    add_rows(x, channels, begin, end, sums.of(0, thread));
  });
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = sums.total(0, places[size_t(c)]) / static_cast<float>(rows);
    center.set(c, mean[c]);
  }

  RowSums squares(rows, channels, 1);
  squares.run(true, [&](int64_t begin, int64_t end, int64_t thread) {
    add_squares(x, center.data(), channels, begin, end, habits.fuses_squares,
                squares.of(0, thread));
  });
  const auto *w = weight.const_data_ptr<float>(), *b = bias.const_data_ptr<float>();
  auto* moving_mean = running_mean.mutable_data_ptr<float>();
  auto* moving_var = running_var.mutable_data_ptr<float>();
  const auto rate = static_cast<float>(momentum);
  for (int64_t c = 0; c < channels; ++c) {
    const float sum = squares.total(0, places[size_t(c)]);
    const float var = sum / static_cast<float>(rows);
    invstd[c] = var != 0 || eps != 0 ? static_cast<float>(1 / std::sqrt(var + eps)) : 0.0F;
    moving_mean[c] = product(rate, mean[c]) + product(1 - rate, moving_mean[c]);
    moving_var[c] =
        product(rate, sum / static_cast<float>(rows - 1)) + product(1 - rate, moving_var[c]);
    const float factor = invstd[c] * w[c];
    scale.set(c, factor);
    shift.set(
        c, habits.fuses_shift ? std::fma(-mean[c], factor, b[c]) : b[c] - product(mean[c], factor));
  }

  const NormalizedRows normalized{
      channels,     x,    bits_of(other), mutable_bits_of(output), scale.data(),
      shift.data(), relu, habits};
  at::parallel_for(0, rows, 1,
                   [&](int64_t begin, int64_t end) { normalize_rows(normalized, begin, end); });
  return {output, save_mean, save_invstd};
}

Four backward(const RoundingHabits& habits, const at::Tensor& grad,
              const OptionalTensor& other_grad, const OptionalTensor& output,
              const at::Tensor& input, const at::Tensor& weight, const at::Tensor& save_mean,
              const at::Tensor& save_invstd, bool keep_grad) {
  const auto channels = input.size(1), rows = input.numel() / channels;
  const auto places = channel_places(channels);
  Channels mean(places), scale(places), factor(places), mean_grad(places), slope(places);
  mean.set(save_mean.const_data_ptr<float>());
  scale.set(save_invstd.const_data_ptr<float>());
  factor.set(weight.const_data_ptr<float>());
  GradientRows gradient{channels,        bits_of(grad),  bits_of(other_grad),
                        bits_of(output), bits_of(input), mean.data(),
                        habits};
  const auto masked = keep_grad ? at::empty_like(grad) : at::Tensor();
  auto* kept = keep_grad ? mutable_bits_of(masked) : nullptr;

  RowSums sums(rows, channels, 2);
  sums.run(false, [&](int64_t begin, int64_t end, int64_t thread) {
    add_gradients(gradient, begin, end, sums.of(0, thread), sums.of(1, thread), kept);
  });

  auto grad_weight = at::empty({channels}, weight.options()),
       grad_bias = at::empty_like(grad_weight);
  auto* to_weight = grad_weight.mutable_data_ptr<float>();
  auto* to_bias = grad_bias.mutable_data_ptr<float>();
  const auto* invstd = save_invstd.const_data_ptr<float>();
  const auto n = static_cast<float>(rows);
  for (int64_t c = 0; c < channels; ++c) {
    const auto place = places[size_t(c)];
    const float sum = sums.total(0, place), dot = sums.total(1, place);
    to_weight[c] = dot * invstd[c];
    to_bias[c] = sum;
    mean_grad.set(c, sum / n);
    slope.set(c, dot * invstd[c] * invstd[c] / n);
  }

  auto grad_input = at::empty_like(input);
  const InputGradient result{mean_grad.data(), slope.data(), scale.data(), factor.data(),
                             mutable_bits_of(grad_input)};
  if (kept != nullptr) {
    gradient.grad = kept;
    gradient.other = gradient.output = nullptr;
  }
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    input_gradients(gradient, result, begin, end);
  });
  return {grad_input, grad_weight, grad_bias, masked};
}

/// Finds out where LibTorch's kernels round on this machine: by images whose results are little
/// more than rounding errors, and with numbers below the least normal one in channel 0.
class BatchNormTrial {
 public:
  BatchNormTrial() {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    same_bits = find_forward() && find_backward();
  }

  RoundingHabits habits;
  bool same_bits = false;

 private:
  static constexpr int64_t kChannels = 96;
  static constexpr double kMomentum = 0.1, kEps = 1e-5;

  /// Rows of channels around `mean`.
  static at::Tensor image(int64_t rows, double step, double mean, double spread) {
    return at::sin(at::arange(rows * kChannels, at::kFloat).square().mul(step))
        .mul(spread)
        .add(mean)
        .view({1, rows / 2, 2, kChannels})
        .to(at::kBFloat16)
        .permute({0, 3, 1, 2});
  }
  static at::Tensor row(double step, double first) {
    auto result = at::sin(at::arange(kChannels, at::kFloat).mul(step)).add(1.5);
    result[0].fill_(first);
    return result;
  }
  static at::Tensor with_first(at::Tensor image, double value) {
    image.select(1, 0).fill_(value);
    return image;
  }

  bool find_forward() {
    for (int bits = 0; bits < 16; ++bits) {
      habits.flushes = (bits & 1) != 0;
      habits.fuses_scale = (bits & 2) == 0;
      habits.fuses_shift = (bits & 4) == 0;
      habits.fuses_squares = (bits & 8) == 0;
      if (forward_agrees(2) && forward_agrees(210)) return true;
    }
    return false;
  }

  bool find_backward() {
    for (int bits = 0; bits < 4; ++bits) {
      habits.fuses_slope = (bits & 1) == 0;
      habits.fuses_dots = (bits & 2) == 0;
      if (backward_agrees(2) && backward_agrees(4) && backward_agrees(210)) return true;
    }
    return false;
  }

  bool forward_agrees(int64_t rows) const {
    const auto input = image(rows, 1.7, 3, 0.05), other = with_first(image(rows, 0.9, 0, 1e-3), 0);
    const auto weight = row(0.7, 3e-39), bias = row(1.1, 0).mul(1e-3);
    auto mean = row(0.3, 1), var = row(0.4, 1);
    auto own_mean = mean.clone(), own_var = var.clone();
    const auto [normal, save_mean, save_invstd] =
        at::native_batch_norm(input, weight, bias, mean, var, true, kMomentum, kEps);
    const auto output = at::relu(at::add(normal, other));
    const auto [own_output, own_save_mean, own_save_invstd] =
        forward(habits, input, weight, bias, own_mean, own_var, kMomentum, kEps, other, true);
    return detail::same_bits(output, own_output) && detail::same_bits(save_mean, own_save_mean) &&
           detail::same_bits(save_invstd, own_save_invstd) && detail::same_bits(mean, own_mean) &&
           detail::same_bits(var, own_var);
  }

  bool backward_agrees(int64_t rows) const {
    const auto input = image(rows, 1.7, 3, 2), output = image(rows, 0.9, 1, 1.2);
    const auto grad = with_first(image(rows, 2.3, 0.1, 3), 3e-39);
    const auto other = with_first(image(rows, 3.1, 0.2, 0.5), 0);
    const auto weight = row(0.7, 1);
    auto mean = row(0.3, 1), var = row(0.4, 1);
    const auto [normal, save_mean, save_invstd] =
        at::native_batch_norm(input, weight, mean, mean, var, true, kMomentum, kEps);
    const auto masked = at::threshold_backward(at::add(grad, other), output, 0);
    const auto [grad_input, grad_weight, grad_bias] = at::native_batch_norm_backward(
        masked, input, weight, mean, var, save_mean, save_invstd, true, kEps, {true, true, true});
    const auto [own_grad_input, own_grad_weight, own_grad_bias, own_masked] =
        backward(habits, grad, other, output, input, weight, save_mean, save_invstd, true);
    return detail::same_bits(masked, own_masked) && detail::same_bits(grad_input, own_grad_input) &&
           detail::same_bits(grad_weight, own_grad_weight) &&
           detail::same_bits(grad_bias, own_grad_bias);
  }
};

const BatchNormTrial& batch_norm_trial() {
  static const BatchNormTrial result;
  return result;
}

Three batch_norm(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                 at::Tensor& running_mean, at::Tensor& running_var, double momentum, double eps,
                 const OptionalTensor& other, bool relu) {
  return forward(batch_norm_trial().habits, input, weight, bias, running_mean, running_var,
                 momentum, eps, other, relu);
}

Four batch_norm_backward(const at::Tensor& grad, const OptionalTensor& other_grad,
                         const OptionalTensor& output, const at::Tensor& input,
                         const at::Tensor& weight, const at::Tensor& save_mean,
                         const at::Tensor& save_invstd, bool keep_grad) {
  return backward(batch_norm_trial().habits, grad, other_grad, output, input, weight, save_mean,
                  save_invstd, keep_grad);
}

TORCH_LIBRARY_FRAGMENT(halfstep, library) {
  library.def(
      "batch_norm(Tensor input, Tensor weight, Tensor bias, Tensor(a!) running_mean, "
      "Tensor(b!) running_var, float momentum, float eps, Tensor? other, bool relu) "
      "-> (Tensor, Tensor, Tensor)");
  library.def(
      "batch_norm_backward(Tensor grad, Tensor? other_grad, Tensor? output, Tensor input, "
      "Tensor weight, Tensor save_mean, Tensor save_invstd, bool keep_grad) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  library.impl("batch_norm", torch::dispatch(at::kCPU, batch_norm));
  library.impl("batch_norm_backward", torch::dispatch(at::kCPU, batch_norm_backward));
}

c10::OperatorHandle op_named(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

}  // namespace

c10::OperatorHandle batch_norm_op() {
  static const auto op = op_named("halfstep::batch_norm");
  return op;
}

c10::OperatorHandle batch_norm_backward_op() {
  static const auto op = op_named("halfstep::batch_norm_backward");
  return op;
}

bool batch_norm_has_same_bits() {
  return batch_norm_trial().same_bits;
}

}  // namespace halfstep::detail
