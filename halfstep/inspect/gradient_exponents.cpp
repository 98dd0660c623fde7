#include "halfstep/inspect/gradient_exponents.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/ops/bincount.h>
#include <c10/util/StringUtil.h>

namespace halfstep::inspect {

namespace {

// Of float32's bits.
constexpr int kBias = 127, kNotFinite = 255;
constexpr int kBinWidth = 4;

struct Limits {
  int least_normal, least;  // exponents
};

Limits limits_of(c10::ScalarType dtype) {
  HALFSTEP_CHECK_USAGE(dtype == c10::kHalf || dtype == c10::kBFloat16, "GradientExponents",
                       "dtype must be float16 or bfloat16, but got ", dtype);
  return dtype == c10::kHalf ? Limits{-14, -24} : Limits{-126, -133};
}

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g %%", 100 * share);
  return text;
}

std::string power(double scale) {
  const double exponent = std::log2(scale);
  return exponent == std::floor(exponent) ? c10::str("2^", static_cast<int>(exponent))
                                          : c10::str(scale);
}

}  // namespace

void GradientExponents::add(const at::Tensor& gradient, double scale) {
  HALFSTEP_CHECK_USAGE(scale > 0 && std::isfinite(scale), "GradientExponents::add",
                       "scale must be finite and above 0, but got ", scale);
  if (!gradient.defined()) return;
  HALFSTEP_CHECK_USAGE(gradient.is_floating_point(), "GradientExponents::add",
                       "gradient must have a floating-point dtype, but got ",
                       gradient.scalar_type());
  auto wide = gradient.detach();
  if (wide.is_sparse()) wide = wide.coalesce().values();
  wide = wide.to(at::kFloat).contiguous().flatten();
  if (wide.numel() == 0) return;
  const auto bits = wide.view(at::kInt).bitwise_right_shift(23).bitwise_and(0xFF);
  const auto by_exponent = at::bincount(bits, {}, 256).to(at::kCPU, at::kLong);
  const auto zeros = wide.eq(0).sum().item<int64_t>();
  const auto* counts = by_exponent.const_data_ptr<int64_t>();
  const int scale_exponent = static_cast<int>(std::lround(std::log2(scale)));
  zeros_ += zeros;
  non_finite_ += counts[kNotFinite];
  for (int i = 0; i < kNotFinite; ++i) {
    const auto count = i == 0 ? counts[0] - zeros : counts[i];
    const int exponent = std::clamp(i - kBias - scale_exponent, kLeast, kMost);
    counts_[static_cast<size_t>(exponent - kLeast)] += count;
  }
}

int64_t GradientExponents::not_zero() const {
  return std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
}

int64_t GradientExponents::elements() const {
  return not_zero() + zeros_ + non_finite_;
}

int64_t GradientExponents::count(int exponent) const {
  if (exponent < kLeast || exponent > kMost) return 0;
  return counts_[static_cast<size_t>(exponent - kLeast)];
}

std::optional<int> GradientExponents::largest() const {
  for (int exponent = kMost; exponent >= kLeast; --exponent) {
    if (count(exponent) > 0) return exponent;
  }
  return std::nullopt;
}

/// Elements with an exponent below the limit.
int64_t GradientExponents::below(double limit) const {
  int64_t sum = 0;
  for (int exponent = kLeast; exponent <= kMost && exponent < limit; ++exponent)
    sum += count(exponent);
  return sum;
}

double GradientExponents::share_lost(c10::ScalarType dtype, double scale) const {
  const auto all = not_zero();
  const double limit = limits_of(dtype).least - 1 - std::log2(scale);
  return all == 0 ? 0 : static_cast<double>(below(limit)) / static_cast<double>(all);
}

double GradientExponents::share_weakened(c10::ScalarType dtype, double scale) const {
  const auto all = not_zero();
  const double limit = limits_of(dtype).least_normal - std::log2(scale);
  if (all == 0) return 0;
  return static_cast<double>(below(limit)) / static_cast<double>(all) - share_lost(dtype, scale);
}

std::optional<double> GradientExponents::recommended_scale(int headroom) const {
  const auto most = largest();
  if (!most) return std::nullopt;
  // The largest element is below 2^(most + 1).
  return std::exp2(15 - headroom - (*most + 1));
}

std::string GradientExponents::text(double scale) const {
  const auto all = not_zero();
  auto text = c10::str(elements(), " gradients, ", zeros_, " of them 0, ", non_finite_,
                       " not finite; the others by size:\n");
  if (all == 0) return text;
  const auto bin_of = [](int exponent) {
    return static_cast<int>(std::floor(static_cast<double>(exponent) / kBinWidth));
  };
  int first = kLeast;
  while (count(first) == 0) ++first;
  for (int bin = bin_of(first); bin <= bin_of(*largest()); ++bin) {
    int64_t sum = 0;
    for (int i = 0; i < kBinWidth; ++i) sum += count(bin * kBinWidth + i);
    const double share = static_cast<double>(sum) / static_cast<double>(all);
    char line[64];
    std::snprintf(line, sizeof(line), "  2^%-4d to 2^%-4d %6.2f %% ", bin * kBinWidth,
                  (bin + 1) * kBinWidth, 100 * share);
    text += line + std::string(static_cast<size_t>(std::lround(40 * share)), '#') + "\n";
  }
  const auto row = [&](const std::string& name, double value) {
    text += c10::str("  float16 ", name, ": ", percent(share_lost(c10::kHalf, value)),
                     " become 0, ", percent(share_weakened(c10::kHalf, value)), " lose bits\n");
  };
  row("without a loss scale", 1);
  if (scale != 1) row("at the loss scale " + power(scale), scale);
  if (const auto best = recommended_scale()) row("at the recommended " + power(*best), *best);
  return text;
}

}  // namespace halfstep::inspect
