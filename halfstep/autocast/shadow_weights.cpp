#include "halfstep/autocast/shadow_weights.h"

#include "halfstep/autocast/autocast_kernels.h"
#include "halfstep/autocast/cast_cache.h"
#include "halfstep/autocast/weight_alias.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/core/weight_mark.h"

#include <atomic>
#include <mutex>
#include <unordered_map>
#include <utility>

#include <ATen/autocast_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/InferenceMode.h>

namespace halfstep {

namespace {

constexpr const char* kShadowWeightsWhere = "ShadowWeights";

struct Entry {
  at::Tensor copy = {};
  detail::WeightMark weight = {};  // when the copy was written
  uint64_t epoch = 0;              // of the cast cache when the alias was made
  at::Tensor alias = {};           // of the copy, see make_alias
};

/// What the kernels ask. Never destroyed: they outlive everything.
struct Entries {
  std::mutex mutex;
  std::unordered_map<const c10::TensorImpl*, Entry> of_weight;
  std::atomic<int64_t> uses = 0;
};

Entries& entries() {
  static auto& all = *new Entries();
  return all;
}

void note_written(Entry& entry, const at::Tensor& weight) {
  entry.weight = detail::WeightMark(weight);
  entry.alias.reset();
}

/// What stands in for `argument`, float32; undefined where nothing does.
at::Tensor stand_in(const at::Tensor& argument, c10::DeviceType device_type) {
  // Results of other ops are never weights.
  if (argument.is_inference() || (!argument.is_leaf() && !argument.is_view())) return {};
  auto& all = entries();
  const std::lock_guard lock(all.mutex);
  detail::WeightUse use{argument, false};
  auto found = all.of_weight.find(argument.unsafeGetTensorImpl());
  if (found == all.of_weight.end()) {
    const auto behind = detail::weight_behind(argument);
    if (!behind || !behind->transposed) return {};
    use = *behind;
    found = all.of_weight.find(use.weight.unsafeGetTensorImpl());
    if (found == all.of_weight.end()) return {};
  }
  const auto& weight = use.weight;
  auto& entry = found->second;
  if (weight.device().type() != device_type ||
      entry.copy.scalar_type() != at::autocast::get_autocast_dtype(device_type) ||
      entry.copy.device() != weight.device() || !entry.weight.is_of(weight))
    return {};
  ++all.uses;
  if (!at::GradMode::is_enabled() || !weight.requires_grad())
    return use.transposed ? entry.copy.t() : entry.copy;
  // Stock autocast casts a view at each use, so the gradients of its uses are added in float32;
  // it keeps the cast of a weight for the region, so theirs are added in 16 bits.
  if (use.transposed) return detail::make_alias(weight, entry.copy).t();
  if (!at::autocast::is_autocast_cache_enabled()) return detail::make_alias(weight, entry.copy);
  const auto epoch = detail::cast_cache_epoch();
  if (!entry.alias.defined() || entry.epoch != epoch) {
    entry.alias = detail::make_alias(weight, entry.copy);
    entry.epoch = epoch;
  }
  return entry.alias;
}

void check_parameter(const at::Tensor& parameter) {
  HALFSTEP_CHECK_USAGE(
      parameter.defined() && parameter.scalar_type() == c10::kFloat && parameter.is_leaf() &&
          parameter.requires_grad() && !parameter.is_inference(),
      kShadowWeightsWhere, "parameters must be float32 leaves that require a gradient, but got ",
      parameter.defined() ? parameter.toString() : "an undefined tensor", "; leave the others out");
  HALFSTEP_CHECK_USAGE(
      parameter.layout() == c10::kStrided && (parameter.is_cpu() || parameter.is_cuda()),
      kShadowWeightsWhere, "parameters must be dense and on CPU or CUDA, but got one on ",
      parameter.device(), "; leave it out");
}

void unregister(Entries& all, const std::vector<at::Tensor>& parameters, size_t count) {
  for (size_t i = 0; i < count; ++i) all.of_weight.erase(parameters[i].unsafeGetTensorImpl());
}

void register_all(const std::vector<at::Tensor>& parameters,
                  const std::vector<at::Tensor>& copies) {
  auto& all = entries();
  const std::lock_guard lock(all.mutex);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const bool is_new =
        all.of_weight.try_emplace(parameters[i].unsafeGetTensorImpl(), Entry{.copy = copies[i]})
            .second;
    if (!is_new) unregister(all, parameters, i);
    HALFSTEP_CHECK_USAGE(is_new, kShadowWeightsWhere,
                         "a parameter must have one copy, but parameter ", i,
                         " has one already; list each once, and make one ShadowWeights");
  }
}

}  // namespace

ShadowWeights::ShadowWeights(std::vector<at::Tensor> parameters, c10::ScalarType dtype)
    : parameters_(std::move(parameters)), dtype_(dtype) {
  HALFSTEP_CHECK_USAGE(is_low_precision(dtype), kShadowWeightsWhere,
                       "dtype must be float16 or bfloat16, but got ", dtype_name(dtype),
                       "; use the dtype of the autocast region");
  // The copies change in place later, which inference tensors don't allow.
  const c10::InferenceMode normal_mode(false);
  const at::NoGradGuard no_grad;
  for (const auto& parameter : parameters_) {
    check_parameter(parameter);
    copies_.push_back(at::empty_like(parameter, parameter.options().dtype(dtype)));
  }
  register_all(parameters_, copies_);
  refresh();
  for (const auto& parameter : parameters_)
    detail::offer_stand_ins(parameter.device().type(), &stand_in);
}

ShadowWeights::~ShadowWeights() {
  auto& all = entries();
  const std::lock_guard lock(all.mutex);
  unregister(all, parameters_, parameters_.size());
}

void ShadowWeights::written(size_t i) {
  auto& all = entries();
  const std::lock_guard lock(all.mutex);
  copies_[i].unsafeGetTensorImpl()->bump_version();
  note_written(all.of_weight.at(parameters_[i].unsafeGetTensorImpl()), parameters_[i]);
}

void ShadowWeights::refresh() {
  const at::NoGradGuard no_grad;
  if (!copies_.empty()) at::_foreach_copy_(copies_, parameters_);
  for (size_t i = 0; i < copies_.size(); ++i) written(i);
}

int64_t ShadowWeights::uses() {
  return entries().uses;
}

namespace detail {

at::Tensor shadow_of(const at::Tensor& weight) {
  auto& all = entries();
  const std::lock_guard lock(all.mutex);
  const auto found = all.of_weight.find(weight.unsafeGetTensorImpl());
  return found == all.of_weight.end() ? at::Tensor() : found->second.copy;
}

bool refresh_outdated(const std::vector<at::Tensor>& weights,
                      const std::vector<at::Tensor>& copies) {
  auto& all = entries();
  const std::lock_guard lock(all.mutex);
  std::vector<size_t> outdated;
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto found = all.of_weight.find(weights[i].unsafeGetTensorImpl());
    if (found == all.of_weight.end() || !found->second.copy.is_same(copies[i])) return false;
    if (!found->second.weight.is_of(weights[i])) outdated.push_back(i);
  }
  const at::NoGradGuard no_grad;
  for (const auto i : outdated) {
    copies[i].copy_(weights[i]);
    note_written(all.of_weight.at(weights[i].unsafeGetTensorImpl()), weights[i]);
  }
  return true;
}

}  // namespace detail

}  // namespace halfstep
