#include "halfstep/scaling/overflow_diagnosis.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>

namespace halfstep {

namespace {

/// "a, b and 3 more".
std::string list(const std::vector<std::string>& names) {
  constexpr std::size_t most = 5;
  std::ostringstream out;
  for (std::size_t i = 0; i < std::min(names.size(), most); ++i)
    out << (i > 0 ? ", " : "") << "'" << names[i] << "'";
  if (names.size() > most) out << " and " << names.size() - most << " more";
  return out.str();
}

std::vector<std::string> names_since(const OverflowDiagnosis& diagnosis, int64_t update) {
  std::vector<std::string> names;
  for (const auto& gradient : diagnosis.non_finite)
    if (gradient.since_update == update) names.push_back(gradient.parameter);
  return names;
}

std::vector<std::string> non_finite_parameters(const OverflowDiagnosis& diagnosis) {
  std::vector<std::string> names;
  for (const auto& gradient : diagnosis.non_finite)
    if (gradient.parameter_too) names.push_back(gradient.parameter);
  return names;
}

}  // namespace

std::string OverflowDiagnosis::what() const {
  std::ostringstream out;
  out << "update " << update << " overflowed";
  if (in_a_row_at_minimum > 0)
    out << " (" << in_a_row_at_minimum << " in a row at the minimum scale " << scale << ")";
  if (overflowing_since < update) out << ", as every update since " << overflowing_since << " did";
  if (non_finite.empty()) return out.str();
  const int64_t first = non_finite.front().since_update;
  const auto names = names_since(*this, first);
  out << "; not finite: the gradients of " << non_finite.size() << " of " << gradients
      << " parameters, first those of " << list(names) << " (seen from update " << first << " on)";
  const auto parameters = non_finite_parameters(*this);
  if (!parameters.empty())
    out << "; the parameters " << list(parameters) << " are not finite themselves";
  return out.str();
}

std::string OverflowDiagnosis::advice() const {
  if (non_finite.empty())
    return "look for an operation that makes inf or NaN, on the other ranks too where there are "
           "any; "
           "to have the gradients named, zero them after update() only";
  if (!non_finite_parameters(*this).empty())
    return "go back to a checkpoint from before, with a lower learning rate";
  const auto first = names_since(*this, non_finite.front().since_update);
  if (static_cast<int64_t>(first.size()) == gradients)
    return "every gradient is hit, so look at the loss and its inputs first; then lower the "
           "learning rate, or train in bfloat16 or float32";
  return "look at the operations that use these parameters and at those behind them; then lower "
         "the "
         "learning rate, or train in bfloat16 or float32";
}

namespace detail {

namespace {

at::Tensor is_not_finite(const at::Tensor& tensor) {
  const auto values = tensor.is_sparse() ? tensor._values() : tensor;
  return at::isfinite(values).all().logical_not();
}

/// The bits of 0-dim flags that lie on any devices: one wait for each device.
std::vector<bool> read_flags(const std::vector<at::Tensor>& flags) {
  std::vector<bool> result(flags.size());
  std::unordered_map<c10::Device, std::vector<std::size_t>> by_device;
  for (std::size_t i = 0; i < flags.size(); ++i) by_device[flags[i].device()].push_back(i);
  for (const auto& [device, places] : by_device) {
    std::vector<at::Tensor> here;
    for (const auto place : places) here.push_back(flags[place]);
    const auto bits = at::stack(here).cpu();
    for (std::size_t i = 0; i < places.size(); ++i)
      result[places[i]] = bits.const_data_ptr<bool>()[i];
  }
  return result;
}

}  // namespace

void OverflowSearch::look(const std::map<int64_t, torch::optim::Optimizer*>& optimizers,
                          int64_t update) {
  const c10::NoGradGuard no_grad;
  gradients_ = 0;
  Seen now;
  for (const auto& [number, optimizer] : optimizers) look(number, *optimizer, update, now);
  seen_ = std::move(now);
}

void OverflowSearch::look(int64_t number, torch::optim::Optimizer& optimizer, int64_t update,
                          Seen& now) {
  std::vector<at::Tensor> flags;
  std::vector<std::pair<Place, const at::Tensor*>> places;
  for (std::size_t g = 0; g < optimizer.param_groups().size(); ++g) {
    const auto& parameters = optimizer.param_groups()[g].params();
    for (std::size_t p = 0; p < parameters.size(); ++p) {
      if (!parameters[p].defined() || !parameters[p].grad().defined()) continue;
      places.push_back(
          {{number, static_cast<int64_t>(g), static_cast<int64_t>(p)}, &parameters[p]});
      flags.push_back(is_not_finite(parameters[p].grad()));
      flags.push_back(is_not_finite(parameters[p]));
    }
  }
  const auto bits = read_flags(flags);
  gradients_ += static_cast<int64_t>(places.size());
  for (std::size_t i = 0; i < places.size(); ++i) {
    const auto& [place, parameter] = places[i];
    if (!bits[2 * i]) continue;
    const auto earlier = seen_.find(place);
    NonFiniteGradient& gradient = now[place];
    const auto name = names_.find(parameter->unsafeGetTensorImpl());
    gradient.parameter = name != names_.end() ? name->second
                                              : c10::str("optimizer ", place[0], ", group ",
                                                         place[1], ", parameter ", place[2]);
    gradient.since_update = earlier != seen_.end() ? earlier->second.since_update : update;
    gradient.parameter_too = bits[2 * i + 1];
  }
}

void OverflowSearch::clear() {
  seen_.clear();
  gradients_ = 0;
}

std::vector<NonFiniteGradient> OverflowSearch::non_finite() const {
  std::vector<NonFiniteGradient> result;
  for (const auto& [place, gradient] : seen_) result.push_back(gradient);
  std::stable_sort(result.begin(), result.end(),
                   [](const auto& a, const auto& b) { return a.since_update < b.since_update; });
  return result;
}

}  // namespace detail

}  // namespace halfstep
