#include "halfstep/graph/saved_state.h"

#include "halfstep/graph/strided_copy.h"

#include <cstring>
#include <mutex>

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <c10/core/GradMode.h>

namespace halfstep::detail {

SavedState::SavedState(std::vector<at::Tensor> tensors, const std::vector<at::Tensor>& others)
    : tensors_(std::move(tensors)) {
  std::erase_if(tensors_, [](const at::Tensor& tensor) { return !tensor.defined(); });
  copies_ = copies_of(tensors_);
  add_generator(c10::kCPU);
  add_generators(tensors_);
  add_generators(others);
}

void SavedState::add_generators(const std::vector<at::Tensor>& tensors) {
  for (const auto& tensor : tensors) {
    if (tensor.defined() && !tensor.is_cpu()) add_generator(tensor.device());
  }
}

void SavedState::add_generator(c10::Device device) {
  auto generator = at::globalContext().defaultGenerator(device);
  for (const auto& [known, state] : generators_) {
    if (known == generator) return;
  }
  const std::lock_guard lock(generator.mutex());
  generators_.emplace_back(generator, generator.get_state());
}

void SavedState::restore() {
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!same_bits(copies_[i], tensors_[i])) tensors_[i].detach().copy_(copies_[i]);
  }
  for (auto& [generator, state] : generators_) {
    const std::lock_guard lock(generator.mutex());
    generator.set_state(state);
  }
}

std::vector<at::Tensor> copies_of(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> copies;
  copies.reserve(tensors.size());
  for (const auto& tensor : tensors) copies.push_back(strided_copy(tensor));
  return copies;
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.defined() != b.defined()) return false;
  if (!a.defined()) return true;
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const auto x = a.detach().cpu().contiguous(), y = b.detach().cpu().contiguous();
  return std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

bool same_bits_but_nans(const at::Tensor& a, const at::Tensor& b) {
  if (same_bits(a, b)) return true;
  if (!a.defined() || !b.defined() || a.sizes() != b.sizes() || a.device() != b.device() ||
      !c10::isFloatingType(a.scalar_type()))
    return false;
  const auto x = a.detach(), y = b.detach();
  const auto x_is_nan = x.isnan(), y_is_nan = y.isnan();
  return x_is_nan.equal(y_is_nan) &&
         same_bits(x.masked_fill(x_is_nan, 0), y.masked_fill(y_is_nan, 0));
}

}  // namespace halfstep::detail
