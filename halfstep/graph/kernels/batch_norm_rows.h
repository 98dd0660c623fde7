#pragma once
#include <cstdint>
#include <vector>

namespace halfstep::detail {

/// The loops of batch norm over rows of bfloat16 channels, vectorised over channels: each channel's
/// numbers are added row by row, in the order and with the roundings of LibTorch's kernels. A
/// number of channels must be a multiple of kChannelMultiple. On the calling thread.
constexpr int64_t kChannelMultiple = 32;

/// Where LibTorch's kernels round: its compiler made some products and sums one instruction, and
/// not the same ones for each kind of CPU.
struct RoundingHabits {
  bool flushes = false;       ///< as Rounding's
  bool fuses_scale = true;    ///< input · scale + shift
  bool fuses_shift = true;    ///< bias - mean · scale
  bool fuses_squares = true;  ///< the sum of squares
  bool fuses_dots = true;     ///< the sum of products with the gradient
  bool fuses_slope = false;   ///< gradient - (input - mean) · slope
};

/// Where channel c lies in arrays of float32, which all have this order, the one the CPU's vectors
/// come in. NaN in them must be what std::numeric_limits gives.
std::vector<int64_t> channel_places(int64_t channels);

/// sums[c] += x[r][c], over rows [begin, end).
void add_rows(const uint16_t* x, int64_t channels, int64_t begin, int64_t end, float* sums);

/// sums[c] += (x[r][c] - mean[c])², over rows [begin, end).
void add_squares(const uint16_t* x, const float* mean, int64_t channels, int64_t begin, int64_t end,
                 bool fuses, float* sums);

/// output = relu(input · scale + shift + other), rounded after each step.
struct NormalizedRows {
  int64_t channels = 0;
  const uint16_t* input = nullptr;
  const uint16_t* other = nullptr;  ///< null: nothing is added
  uint16_t* output = nullptr;
  const float *scale = nullptr, *shift = nullptr;  ///< of each channel
  bool relu = false;
  RoundingHabits habits = {};
};
void normalize_rows(const NormalizedRows& rows, int64_t begin, int64_t end);

/// The gradient that comes into a batch norm: grad + other, rounded, and 0 where `output`, what a
/// relu gave, is not positive.
struct GradientRows {
  int64_t channels = 0;
  const uint16_t* grad = nullptr;
  const uint16_t* other = nullptr;   ///< null: nothing is added
  const uint16_t* output = nullptr;  ///< null: no relu
  const uint16_t* input = nullptr;   ///< batch norm's
  const float* mean = nullptr;
  RoundingHabits habits = {};
};

/// sums[c] += gradient, dots[c] += (input - mean[c]) · gradient; writes the gradient to `kept`
/// unless that is null.
void add_gradients(const GradientRows& rows, int64_t begin, int64_t end, float* sums, float* dots,
                   uint16_t* kept);

/// What a channel's sums come to.
struct InputGradient {
  const float *mean_grad = nullptr, *slope = nullptr, *invstd = nullptr, *weight = nullptr;
  uint16_t* to = nullptr;
};

/// to = (gradient - mean_grad - (input - mean) · slope) · invstd · weight.
void input_gradients(const GradientRows& rows, const InputGradient& result, int64_t begin,
                     int64_t end);

}  // namespace halfstep::detail
