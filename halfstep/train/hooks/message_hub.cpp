#include "halfstep/train/hooks/message_hub.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <utility>

#include <ATen/ops/stack.h>

namespace halfstep::train {

namespace {
double read(const std::variant<double, at::Tensor>& value) {
  if (const auto* number = std::get_if<double>(&value)) return *number;
  return std::get<at::Tensor>(value).item<double>();
}
}  // namespace

void MessageHub::update_scalar(const std::string& name, double value) {
  auto& all = values(name);
  all.emplace_back(value);
  if (all.size() > kept) all.pop_front();
}

void MessageHub::update_scalar(const std::string& name, const at::Tensor& value) {
  HALFSTEP_CHECK_USAGE(value.defined() && value.numel() == 1, "MessageHub::update_scalar",
                       "a value must be a tensor of one element, but got ",
                       value.defined() ? c10::str(value.sizes()) : "an undefined one", " for '",
                       name, "'; take its mean or sum");
  auto& all = values(name);
  all.emplace_back(value.detach());
  if (all.size() > kept) all.pop_front();
}

double MessageHub::current(const std::string& name) const {
  return read(known(name).back());
}

double MessageHub::mean(const std::string& name, int64_t window) const {
  HALFSTEP_CHECK_USAGE(window >= 1, "MessageHub::mean", "a window must be at least 1, but got ",
                       window);
  const auto& all = known(name);
  const auto count = std::min(all.size(), static_cast<size_t>(window));
  double sum = 0;
  std::vector<at::Tensor> tensors;
  for (auto value = all.end() - static_cast<std::ptrdiff_t>(count); value != all.end(); ++value) {
    if (const auto* number = std::get_if<double>(&*value))
      sum += *number;
    else
      tensors.push_back(std::get<at::Tensor>(*value).to(at::kDouble).reshape({}));
  }
  // One read for all of them.
  if (!tensors.empty()) sum += at::stack(tensors).sum().item<double>();
  return sum / static_cast<double>(count);
}

std::vector<double> MessageHub::last(const std::string& name, int64_t window) const {
  HALFSTEP_CHECK_USAGE(window >= 1, "MessageHub::last", "a window must be at least 1, but got ",
                       window);
  const auto& all = known(name);
  const auto count = std::min(all.size(), static_cast<size_t>(window));
  std::vector<double> result;
  for (auto value = all.end() - static_cast<std::ptrdiff_t>(count); value != all.end(); ++value)
    result.push_back(read(*value));
  return result;
}

std::vector<std::string> MessageHub::names(std::string_view prefix) const {
  std::vector<std::string> result;
  for (const auto& name : order_)
    if (name.starts_with(prefix)) result.push_back(name);
  return result;
}

std::deque<MessageHub::Value>& MessageHub::values(const std::string& name) {
  const auto [place, is_new] = scalars_.try_emplace(name);
  if (is_new) order_.push_back(name);
  return place->second;
}

const std::deque<MessageHub::Value>& MessageHub::known(const std::string& name) const {
  const auto found = scalars_.find(name);
  HALFSTEP_CHECK_USAGE(found != scalars_.end(), "MessageHub", "a name must have been told, but '",
                       name, "' was not; call update_scalar first");
  return found->second;
}

}  // namespace halfstep::train
