#include "halfstep/optim/fused_optimizer.h"

#include "halfstep/autocast/cast_cache.h"
#include "halfstep/core/dtype.h"
#include "halfstep/optim/clip_grad.h"
#include "halfstep/optim/gradient_kernels.h"
#include "halfstep/optim/span_of.h"
#include "halfstep/scaling/device_copies.h"

#include <algorithm>
#include <cmath>
#include <typeinfo>
#include <unordered_set>
#include <utility>

#include <ATen/ops/ones_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/GradMode.h>
#include <c10/util/Type.h>

namespace halfstep::optim {

using torch::optim::OptimizerParamGroup;

FusedOptimizer::FusedOptimizer(const char* where, const std::vector<OptimizerParamGroup>& groups,
                               std::unique_ptr<FusedOptions> defaults)
    : Optimizer(std::vector<OptimizerParamGroup>(), std::move(defaults)), where_(where) {
  const auto& options = static_cast<const FusedOptions&>(*defaults_);
  options.validate(where_);
  settings_ = options.settings();
  set_clipping(settings_.clip_norm, settings_.clip_value);
  for (const auto& group : groups) add_param_group(group);
}

void FusedOptimizer::set_clipping(double clip_norm, double clip_value) {
  detail::check_limit(clip_norm, "clip_norm", where_);
  detail::check_limit(clip_value, "clip_value", where_);
  HALFSTEP_CHECK_USAGE(clip_norm == StepSettings::kNone || clip_value == StepSettings::kNone,
                       where_,
                       "only one of clip_norm and clip_value may be set, but both are; leave one "
                       "out");
  settings_.clip_norm = clip_norm;
  settings_.clip_value = clip_value;
}

void FusedOptimizer::add_param_group(const OptimizerParamGroup& group) {
  const auto index = param_groups_.size();
  std::unordered_set<const c10::TensorImpl*> known;
  for (const auto& other : param_groups_) {
    for (const auto& parameter : other.params()) known.insert(parameter.unsafeGetTensorImpl());
  }
  for (const auto& parameter : group.params()) {
    HALFSTEP_CHECK_USAGE(parameter.defined(), where_, "parameters must be tensors, but group ",
                         index, " has an undefined one; leave it out");
    HALFSTEP_CHECK_USAGE(parameter.is_leaf(), where_,
                         "parameters must be leaves, but one of shape ", parameter.sizes(),
                         " in group ", index,
                         " was computed from others; pass what it was computed from");
    detail::check_master(parameter, settings_.master_weights, where_);
    HALFSTEP_CHECK_USAGE(known.insert(parameter.unsafeGetTensorImpl()).second, where_,
                         "each parameter must be listed once, but one of shape ", parameter.sizes(),
                         " in group ", index, " is listed again; leave the second one out");
  }
  auto options = defaults_->clone();
  if (group.has_options()) {
    const auto& given = group.options();
    const auto& wanted = *options;
    HALFSTEP_CHECK_USAGE(typeid(given) == typeid(wanted), where_, "the options of a group must be ",
                         c10::demangle(typeid(wanted).name()), ", but group ", index, " has ",
                         c10::demangle(typeid(given).name()), "; make them with that class");
    options = given.clone();
    auto& merged = static_cast<FusedOptions&>(*options);
    const auto settings = merged.settings();
    // Not settings_: keep_shadow_weights may have changed it since.
    const auto ours = static_cast<const FusedOptions&>(*defaults_).settings();
    HALFSTEP_CHECK_USAGE(
        settings == StepSettings() || settings == ours, where_,
        "kernel, clip_norm, clip_value, shadow_weights, master_weights and capturable "
        "hold for all groups and must be set in the optimizer's defaults, but "
        "group ",
        index, " sets other ones; move them there");
    merged.inherit(static_cast<const FusedOptions&>(*defaults_));
    merged.validate(where_);
  }
  if (settings_.shadow_weights) make_shadows(group.params());
  // Without options: LibTorch 2.15 would replace those of a class it does not know by the defaults.
  Optimizer::add_param_group(OptimizerParamGroup(group.params()));
  param_groups_.back().set_options(std::move(options));
}

namespace {

void check_factor(const std::optional<at::Tensor>& tensor, const char* name, const char* where) {
  if (!tensor) return;
  HALFSTEP_CHECK_USAGE(
      tensor->defined() && tensor->numel() == 1 && tensor->scalar_type() == c10::kFloat, where,
      name, " must be a float32 tensor of one element, but is not; let GradScaler::step set it");
}

bool has_cpu_item(const std::vector<detail::StepItem>& items) {
  return std::any_of(items.begin(), items.end(),
                     [](const auto& item) { return item.parameter.device().is_cpu(); });
}

/// Also where a kernel throws when another has written weights.
struct ClearsCastCache {
  ~ClearsCastCache() { halfstep::detail::clear_cast_cache(); }
};

// Syncs where the tensor is on a GPU.
double read_on_cpu(const at::Tensor& tensor) {
  return halfstep::detail::to_device(tensor, c10::kCPU).const_data_ptr<float>()[0];
}

}  // namespace

at::Tensor FusedOptimizer::step(LossClosure closure) {
  auto checked = std::exchange(checked_, std::nullopt);
  at::Tensor loss;
  if (closure) {
    checked.reset();
    const at::AutoGradMode with_gradients(true);
    loss = closure();
  }
  const c10::NoGradGuard no_grad;
  check_factor(grad_scale, "grad_scale", where_);
  check_factor(found_inf, "found_inf", where_);
  const auto items = detail::collect_items(*this, where_);
  for (const auto& item : items)  // it may have got another dtype since it was added
    detail::check_master(item.parameter, settings_.master_weights, where_);
  // On the CPU the flag is read here, so a skipped step touches nothing at all.
  const bool cpu_skips = found_inf && has_cpu_item(items) && read_on_cpu(*found_inf) != 0;
  const auto divisor = make_divisor(items, checked);
  // All are made ready before the first is changed: this may throw.
  std::vector<Prepared> own, aten;
  for (const auto& item : items) {
    if (cpu_skips && item.parameter.device().is_cpu()) continue;
    const bool is_own = takes_own_kernel(item);
    (is_own ? own : aten).push_back(prepare(item, !is_own));
  }
  for (auto* work : {&own, &aten}) {
    for (auto& ready : *work) {
      if (ready.fresh) state_[ready.item.parameter.unsafeGetTensorImpl()] = std::move(ready.fresh);
    }
  }
  const auto settled = settled_masters();
  const ClearsCastCache clears;
  step_with_own(own, divisor);
  step_with_aten(aten, divisor);
  // Not before: parameters that are parts of one tensor share its version.
  for (const auto& [state, parameter] : settled)
    state->mark = halfstep::detail::WeightMark(parameter);
  return loss;
}

const FusedOptions& FusedOptimizer::options_of(std::size_t group) const {
  return static_cast<const FusedOptions&>(param_groups_[group].options());
}

bool FusedOptimizer::takes_own_kernel(const detail::StepItem& item) const {
  // What ATen's kernels would update.
  const auto dtype = detail::buffer_dtype(item.parameter.scalar_type(), settings_.master_weights);
  return (settings_.kernel == Kernel::automatic || aten_is_wrong(dtype)) &&
         item.parameter.device().is_cpu() && detail::element_of(item.parameter.scalar_type()) &&
         (detail::element_of(item.gradient.scalar_type()) || aten_is_wrong(dtype));
}

FusedOptimizer::Prepared FusedOptimizer::prepare(const detail::StepItem& item, bool for_aten) {
  const auto& options = options_of(item.group);
  const bool masters = has_master(item.parameter);
  if (uses_buffers(options) == 0 && !masters) {  // plain SGD: nothing to keep, so nothing to save
    if (!stateless_) stateless_ = make_state();
    Prepared ready{item, stateless_.get(), {}, detail::work_parameter(item.parameter), {}};
    ready.gradient = work_gradient(item.gradient, ready.parameter.tensor, for_aten);
    return ready;
  }
  // A state that is new, or would not look like one before its first step any more, is kept when
  // all are ready.
  const auto found = state_.find(item.parameter.unsafeGetTensorImpl());
  auto* kept = found == state_.end() ? nullptr : static_cast<FusedState*>(found->second.get());
  const bool is_first_step =
      first_step_differs(options) && (kept == nullptr || !kept->buffers[0].defined());
  std::unique_ptr<torch::optim::OptimizerParamState> fresh;
  if (kept == nullptr)
    fresh = make_state();
  else if (is_first_step)
    fresh = kept->clone();
  auto& state = fresh ? static_cast<FusedState&>(*fresh) : *kept;
  detail::adopt(state, item.parameter, settings_.master_weights, where_);
  if (masters) detail::settle_master(state, item.parameter, settings_.master_weights);

  Prepared ready{item, &state, std::move(fresh), {}, {}, is_first_step, masters};
  const bool full = settings_.master_weights == MasterWeights::float32;
  if (!masters || (!full && !for_aten))
    ready.parameter = detail::work_parameter(item.parameter);
  else if (full)
    ready.parameter = {state.master, true};
  const auto& layout = masters ? state.master : ready.parameter.tensor;
  if (!masters || !for_aten) ready.gradient = work_gradient(item.gradient, layout, for_aten);
  fill_state(state, layout,
             detail::buffer_dtype(item.parameter.scalar_type(), settings_.master_weights), options);
  return ready;
}

detail::WorkTensor FusedOptimizer::work_gradient(const at::Tensor& gradient,
                                                 const at::Tensor& layout, bool for_aten) {
  const bool readable = for_aten || detail::element_of(gradient.scalar_type());
  return detail::work_gradient(readable ? gradient : gradient.to(c10::kFloat), layout, for_aten);
}

std::optional<FoundInfs> FusedOptimizer::check_gradients() {
  checked_.reset();
  const auto items = detail::collect_items(*this, where_);
  std::vector<detail::KernelSpan> spans;
  for (const auto& item : items) {
    if (!takes_own_kernel(item) || !detail::element_of(item.gradient.scalar_type()) ||
        !item.gradient.is_non_overlapping_and_dense())
      return std::nullopt;
    detail::set_gradient(spans.emplace_back(), item.gradient);
  }
  FoundInfs found_infs;
  if (items.empty()) return found_infs;
  bool found = false;
  if (settings_.clips_norm()) {
    checked_.emplace();
    checked_->norm = norm_of(items);
    for (const auto& item : items)
      checked_->gradients.emplace_back(item.gradient,
                                       item.gradient.is_inference() ? 0 : item.gradient._version());
    found = !std::isfinite(checked_->norm.const_data_ptr<double>()[0]);
  } else {
    found = detail::any_nonfinite(spans);
  }
  found_infs.emplace(c10::Device(c10::kCPU),
                     at::scalar_tensor(found ? 1.0 : 0.0, at::TensorOptions(c10::kFloat)));
  return found_infs;
}

at::Tensor FusedOptimizer::norm_of(const std::vector<detail::StepItem>& items) {
  std::vector<at::Tensor> gradients;
  gradients.reserve(items.size());
  for (const auto& item : items) gradients.push_back(item.gradient);
  return detail::total_norm(gradients);
}

FusedOptimizer::Divisor FusedOptimizer::make_divisor(const std::vector<detail::StepItem>& items,
                                                     const std::optional<Checked>& checked) {
  Divisor divisor{grad_scale};
  const bool scale_on_cpu = !grad_scale || grad_scale->device().is_cpu();
  // By way of float64, as GradScaler makes its inverse.
  double inverse = grad_scale && scale_on_cpu ? 1 / read_on_cpu(*grad_scale) : 1;
  divisor.factor = static_cast<float>(inverse);
  if (!settings_.clips_norm()) return divisor;

  bool fresh = checked && checked->gradients.size() == items.size();
  for (std::size_t i = 0; fresh && i < items.size(); ++i) {
    const auto& [gradient, version] = checked->gradients[i];
    fresh = gradient.is_same(items[i].gradient) &&
            (gradient.is_inference() || version == gradient._version());
  }
  const auto scaled_norm = fresh ? checked->norm : norm_of(items);
  if (scaled_norm.device().is_cpu()) {
    if (!scale_on_cpu) inverse = 1 / read_on_cpu(*grad_scale);
    const double norm = scaled_norm.const_data_ptr<double>()[0] * inverse;
    inverse *= detail::clip_factor(norm, settings_.clip_norm);
    // By way of float64: scalar_tensor throws for what float32 has not.
    const at::TensorOptions wide(c10::kDouble);
    grad_norm_ = at::scalar_tensor(norm, wide).to(c10::kFloat);
    divisor.factor = static_cast<float>(inverse);
    divisor.tensor = at::scalar_tensor(1 / inverse, wide).to(c10::kFloat);
    return divisor;
  }
  const auto scale = grad_scale ? halfstep::detail::to_device(*grad_scale, scaled_norm.device())
                                : at::ones_like(scaled_norm);
  const auto norm = scaled_norm / scale;
  grad_norm_ = norm.to(c10::kFloat);
  divisor.tensor = (scale / detail::clip_factor(norm, settings_.clip_norm)).to(c10::kFloat);
  return divisor;
}

void FusedOptimizer::load_with(const std::function<void()>& read) {
  auto old_state = std::move(state_);
  std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> old_options;
  for (const auto& group : param_groups_) old_options.push_back(group.options().clone());
  state_ = {};
  try {
    read();
    for (const auto& group : param_groups_) {
      static_cast<const FusedOptions&>(group.options()).validate(where_);
      for (const auto& parameter : group.params()) {
        const auto found = state_.find(parameter.unsafeGetTensorImpl());
        if (found != state_.end())
          detail::adopt(static_cast<FusedState&>(*found->second), parameter,
                        settings_.master_weights, where_);
      }
    }
  } catch (...) {
    state_ = std::move(old_state);
    for (std::size_t i = 0; i < param_groups_.size(); ++i)
      param_groups_[i].set_options(std::move(old_options[i]));
    throw;
  }
}

}  // namespace halfstep::optim
