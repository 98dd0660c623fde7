#include "halfstep/train/doctor/advice.h"

#include "halfstep/core/dtype.h"

#include <algorithm>

#include <fmt/format.h>

namespace halfstep::train {

namespace {

// Differences below are noise.
constexpr double kClear = 1.05;

bool is_tried(const PrecisionFigures& figures) {
  return figures.trial && figures.trial->error.empty();
}

// Seconds for the same work; how they compare is all that counts.
double cost(const PrecisionFigures& figures, bool by_trials) {
  return by_trials ? figures.trial->seconds : 1 / figures.rates.product;
}

// The one to take of those in 16 bits; null where there is none.
const PrecisionFigures* best_low(const std::vector<PrecisionFigures>& figures, bool by_trials) {
  const PrecisionFigures* best = nullptr;
  for (const auto& each : figures) {
    if (each.dtype == c10::kFloat || each.rehearsed || (by_trials && !is_tried(each))) continue;
    const double handicap = each.dtype == c10::kHalf ? kClear : 1;
    if (best == nullptr || cost(each, by_trials) * handicap < cost(*best, by_trials)) best = &each;
  }
  return best;
}

std::string times(double ratio) {
  return fmt::format("{:.{}f}", ratio, ratio < 10 ? 1 : 0);
}

// "bfloat16 (--amp --cfg-options optim_wrapper.dtype=bfloat16)".
std::string named(c10::ScalarType dtype, const std::vector<std::string>& dtype_options) {
  auto text = fmt::format("{} (--amp --cfg-options", dtype_name(dtype));
  for (const auto& option : dtype_options) text += " " + option + dtype_name(dtype);
  return text + ")";
}

std::string by_trial(const PrecisionFigures& plain, const PrecisionFigures& low,
                     const std::string& named_low) {
  const auto name = dtype_name(low.dtype);
  const std::string scale =
      low.dtype == c10::kHalf ? " and a loss scale, which comes by itself" : "";
  if (!is_tried(plain))
    return fmt::format("Train this config in {}: float32 fails here.", named_low);
  const double faster = plain.trial->seconds / low.trial->seconds;
  const auto memory = fmt::format("{} MiB instead of {}", low.trial->memory, plain.trial->memory);
  if (faster >= kClear)
    return fmt::format(
        "Train this config in {}: a step is {} times as fast as in float32, with {}{}.", named_low,
        times(faster), memory, scale);
  if (faster * kClear > 1)
    return fmt::format("float32 and {} are equally fast for this config; {} needs {}.", name, name,
                       memory);
  return fmt::format("Train this config in float32: a step in {} takes {} times as long, with {}.",
                     name, times(1 / faster), memory);
}

std::string by_rate(const PrecisionFigures& plain, const PrecisionFigures& low,
                    const std::string& named_low) {
  const auto name = dtype_name(low.dtype);
  const double faster = low.rates.product / plain.rates.product;
  if (faster >= kClear)
    return fmt::format(
        "Train in {}: products are {} times as fast as in float32, which is the most that a step "
        "can gain; `halfstep doctor CONFIG` says what yours does.",
        named_low, times(faster));
  if (faster * kClear > 1)
    return fmt::format(
        "Products in float32 and {} are equally fast here: {} saves memory, not time.", name, name);
  return fmt::format("Train in float32 here: products in {} take {} times as long.", name,
                     times(1 / faster));
}

}  // namespace

std::string advice(const std::vector<PrecisionFigures>& figures,
                   const std::vector<std::string>& dtype_options) {
  const auto& plain = figures.front();
  const bool by_trials = std::any_of(figures.begin(), figures.end(),
                                     [](const auto& each) { return each.trial.has_value(); });
  const auto* low = best_low(figures, by_trials);
  if (low == nullptr && by_trials && !is_tried(plain))
    return "This config runs here in no precision but a rehearsed one.";
  if (low == nullptr) return "Train in float32 here: no 16-bit type could be tried.";
  const auto named_low = named(low->dtype, dtype_options);
  return by_trials ? by_trial(plain, *low, named_low) : by_rate(plain, *low, named_low);
}

}  // namespace halfstep::train
