#include "halfstep/apex/amp.h"

#include "halfstep/apex/convert_network.h"
#include "halfstep/autocast/cast_cache.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/scaling/dialects.h"
#include "halfstep/scaling/guarded_step.h"

#include <algorithm>
#include <set>
#include <string>

#include <c10/core/GradMode.h>

namespace halfstep::apex {

namespace {

constexpr const char* kInitialize = "apex::initialize";
constexpr const char* kScaleLoss = "apex::Amp::scale_loss";
constexpr const char* kLoad = "apex::Amp::load";
constexpr const char* kLoadState = "apex::Amp::load_float32_state";

std::string key_of_scale(std::size_t loss_id) {
  return "loss_scaler" + std::to_string(loss_id);
}

/// The named parameters and buffers of a model, but for empty ones.
std::vector<std::pair<std::string, at::Tensor>> tensors_of(const torch::nn::Module& model) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& all : {model.named_parameters(), model.named_buffers()}) {
    for (const auto& item : all)
      if (item.value().defined()) tensors.emplace_back(item.key(), item.value());
  }
  return tensors;
}

GradScalerOptions scaler_options(const AmpOptions& options, const Properties& properties,
                                 c10::DeviceType device_type) {
  auto made = properties.loss_scale ? dialects::apex_static(*properties.loss_scale)
                                    : dialects::apex()
                                          .min_scale(options.min_loss_scale())
                                          .max_scale(options.max_loss_scale());
  return made.device_type(device_type).float16_gradients(true);
}

c10::DeviceType device_type_of(const Models& models) {
  for (const torch::nn::Module& model : models) {
    if (const auto found = halfstep::detail::device_type_of(model)) return *found;
  }
  return c10::DeviceType::CPU;
}

/// What a program without Apex has.
Properties without_amp(OptLevel level) {
  return {level, std::nullopt, false, std::nullopt, std::nullopt, 1.0};
}

void check(const Models& models, const Optimizers& optimizers, const AmpOptions& options) {
  if (!options.allow_incoming_model_not_fp32()) {
    for (const torch::nn::Module& model : models) detail::check_is_float32(model, kInitialize);
  }
  std::set<const torch::optim::Optimizer*> seen;
  for (torch::optim::Optimizer& optimizer : optimizers) {
    detail::check_optimizer(optimizer);
    HALFSTEP_CHECK_USAGE(seen.insert(&optimizer).second, kInitialize,
                         "an optimizer must be given once, but one was given twice; leave one out");
    for (const auto& group : optimizer.param_groups()) {
      for (const auto& parameter : group.params()) {
        HALFSTEP_CHECK_USAGE(!parameter.grad().defined(), kInitialize,
                             "parameters must have no gradients yet, but one has; call it before "
                             "the first backward, or zero_grad() first");
      }
    }
  }
}

}  // namespace

Amp::Amp(const Models& models, const Optimizers& optimizers, const AmpOptions& options)
    : options_(options), properties_(options.properties()) {
  const auto scaler = scaler_options(options_, properties_, device_type_of(models));
  for (int64_t i = 0; i < options_.num_losses(); ++i)
    scales_.push_back({GradScaler(GradScalerOptions(scaler).enabled(options_.enabled()))});
  if (!options_.enabled()) {
    properties_ = without_amp(properties_.opt_level);
    return;
  }
  if (properties_.patch_torch_functions) o1_policy_ = OpPolicy::apex();
  check(models, optimizers, options_);
  const bool master_weights = properties_.master_weights.value_or(false);
  if (properties_.cast_model_type) {
    for (torch::nn::Module& model : models)
      detail::convert_network(model, *properties_.cast_model_type,
                              properties_.keep_batchnorm_fp32.value_or(false));
  }
  for (torch::optim::Optimizer& optimizer : optimizers)
    optimizers_.try_emplace(&optimizer, optimizer, master_weights);
}

Amp initialize(torch::nn::Module& model, torch::optim::Optimizer& optimizer,
               const AmpOptions& options) {
  return Amp({model}, {optimizer}, options);
}

Amp initialize(const Models& models, const Optimizers& optimizers, const AmpOptions& options) {
  return Amp(models, optimizers, options);
}

const detail::AmpOptimizer& Amp::record_of(torch::optim::Optimizer& optimizer,
                                           const char* where) const {
  const auto place = optimizers_.find(&optimizer);
  HALFSTEP_CHECK_USAGE(place != optimizers_.end(), where,
                       "an optimizer must have been given to initialize, but this one was not; "
                       "give initialize all optimizers at once");
  return place->second;
}

detail::AmpOptimizer& Amp::record_of(torch::optim::Optimizer& optimizer, const char* where) {
  return const_cast<detail::AmpOptimizer&>(std::as_const(*this).record_of(optimizer, where));
}

AutocastOptions Amp::autocast(c10::DeviceType device_type) const {
  AutocastOptions region(device_type);
  if (!options_.enabled() || !properties_.patch_torch_functions) return region.enabled(false);
  return region.dtype(options_.half_dtype()).policy(o1_policy_);
}

bool Amp::scales() const {
  return properties_.master_weights.value_or(false) || properties_.loss_scale != 1.0;
}

ScaledLoss Amp::scale_loss(const at::Tensor& loss, torch::optim::Optimizer& optimizer,
                           const ScaleLossOptions& options) {
  return scale_loss(loss, Optimizers{optimizer}, options);
}

ScaledLoss Amp::scale_loss(const at::Tensor& loss, const Optimizers& optimizers,
                           const ScaleLossOptions& options) {
  HALFSTEP_CHECK_USAGE(loss.defined(), kScaleLoss,
                       "the loss must be a tensor, but got an undefined one; pass the loss of this "
                       "iteration");
  if (!options_.enabled()) return ScaledLoss(loss);
  auto& scale = scale_of(options.loss_id());
  std::vector<detail::AmpOptimizer*> records;
  for (torch::optim::Optimizer& optimizer : optimizers) {
    auto* record = &record_of(optimizer, kScaleLoss);
    HALFSTEP_CHECK_USAGE(std::find(records.begin(), records.end(), record) == records.end(),
                         kScaleLoss,
                         "an optimizer must be named once, but one is named twice; leave one out");
    records.push_back(record);
  }
  HALFSTEP_CHECK_USAGE(!records.empty(), kScaleLoss,
                       "at least one optimizer must be named, but got none; name those whose "
                       "parameters the loss reaches");
  auto scaled = loss.to(c10::kFloat);
  if (scales()) scaled = scale.scaler.scale(scaled);
  return ScaledLoss(std::move(scaled), scale, scales(), std::move(records), options);
}

StepResult Amp::step(torch::optim::Optimizer& optimizer) {
  if (!options_.enabled()) return halfstep::detail::step_unless(optimizer, {});
  return record_of(optimizer, "apex::Amp::step").step();
}

void Amp::zero_grad(torch::optim::Optimizer& optimizer) {
  if (!options_.enabled()) return optimizer.zero_grad();
  record_of(optimizer, "apex::Amp::zero_grad").zero_grad();
}

std::vector<at::Tensor> Amp::master_params(torch::optim::Optimizer& optimizer) const {
  if (options_.enabled()) return record_of(optimizer, "apex::Amp::master_params").master_params();
  std::vector<at::Tensor> parameters;
  for (const auto& group : optimizer.param_groups())
    parameters.insert(parameters.end(), group.params().begin(), group.params().end());
  return parameters;
}

torch::OrderedDict<std::string, at::Tensor> Amp::float32_state(
    const torch::nn::Module& model) const {
  torch::OrderedDict<std::string, at::Tensor> state;
  const c10::NoGradGuard no_grad;
  for (const auto& [name, tensor] : tensors_of(model)) {
    at::Tensor full;
    for (const auto& [optimizer, record] : optimizers_) {
      if (!full.defined()) full = record.master_of(tensor);
    }
    if (!full.defined())
      full = is_low_precision(tensor.scalar_type()) && options_.enabled() ? tensor.to(c10::kFloat)
                                                                          : tensor;
    state.insert(name, full.detach());
  }
  return state;
}

void Amp::load_float32_state(torch::nn::Module& model,
                             const torch::OrderedDict<std::string, at::Tensor>& state) {
  const auto tensors = tensors_of(model);
  for (const auto& item : state) {
    const auto is_it = [&](const auto& own) { return own.first == item.key(); };
    HALFSTEP_CHECK_USAGE(std::any_of(tensors.begin(), tensors.end(), is_it), kLoadState,
                         "the state must be the model's, but has '", item.key(),
                         "', which the model has not; load it into the model it was taken from");
  }
  for (const auto& [name, tensor] : tensors) {
    const auto* value = state.find(name);
    HALFSTEP_CHECK_USAGE(value != nullptr && value->defined(), kLoadState,
                         "the state must have all of the model's tensors, but lacks '", name,
                         "'; load it into the model it was taken from");
    HALFSTEP_CHECK_USAGE(value->sizes() == tensor.sizes(), kLoadState, "the state's '", name,
                         "' must have the shape ", tensor.sizes(), ", but has ", value->sizes(),
                         "; load it into the model it was taken from");
  }
  const c10::NoGradGuard no_grad;
  for (const auto& [name, tensor] : tensors) {
    const auto& value = state[name];
    tensor.copy_(value);
    for (auto& [optimizer, record] : optimizers_) record.set_master(tensor, value);
  }
  halfstep::detail::clear_cast_cache();
}

void Amp::add_param_group(torch::optim::Optimizer& optimizer,
                          const torch::optim::OptimizerParamGroup& group) {
  constexpr const char* where = "apex::Amp::add_param_group";
  auto* record = options_.enabled() ? &record_of(optimizer, where) : nullptr;
  HALFSTEP_CHECK_USAGE(record == nullptr || !record->is_open(), where,
                       "a group must be added outside of scale_loss, but a scope with this "
                       "optimizer is still open; add it before the scope begins");
  // The base class's would drop the options of optimizers LibTorch does not know.
  if (auto* fused = dynamic_cast<optim::FusedOptimizer*>(&optimizer))
    fused->add_param_group(group);
  else
    optimizer.add_param_group(group);
  if (record != nullptr) record->take_new_groups();
}

detail::LossScale& Amp::scale_of(int64_t loss_id) {
  HALFSTEP_CHECK_USAGE(loss_id >= 0 && static_cast<std::size_t>(loss_id) < scales_.size(),
                       "apex::Amp::scaler", "loss_id must be from 0 to ",
                       static_cast<int64_t>(scales_.size()) - 1, ", but got ", loss_id,
                       "; raise num_losses");
  return scales_[static_cast<std::size_t>(loss_id)];
}

GradScaler& Amp::scaler(int64_t loss_id) {
  return scale_of(loss_id).scaler;
}

void Amp::save(torch::serialize::OutputArchive& archive) const {
  if (!options_.enabled()) return;
  for (std::size_t i = 0; i < scales_.size(); ++i) {
    torch::serialize::OutputArchive inner(archive.compilation_unit());
    scales_[i].scaler.save(inner);
    archive.write(key_of_scale(i), inner);
  }
}

void Amp::load(torch::serialize::InputArchive& archive) {
  if (!options_.enabled()) return;
  HALFSTEP_CHECK_USAGE(archive.keys().size() == scales_.size(), kLoad,
                       "the archive must hold a scale for each loss, but it holds ",
                       archive.keys().size(), " for ", scales_.size(),
                       "; initialize with the same num_losses");
  std::vector<std::optional<GradScalerState>> states;
  for (std::size_t i = 0; i < scales_.size(); ++i) {
    HALFSTEP_CHECK_USAGE(!scales_[i].is_open, kLoad,
                         "scales must be loaded outside of scale_loss, but the scope of loss ", i,
                         " is still open; load before it begins");
    torch::serialize::InputArchive inner;
    HALFSTEP_CHECK_ENVIRONMENT(archive.try_read(key_of_scale(i), inner), kLoad,
                               "the archive must hold '", key_of_scale(i),
                               "', but does not; load a file that Amp::save wrote");
    states.push_back(read_grad_scaler_state(inner));
    GradScaler(scales_[i].scaler.options()).load_state(states.back());  // throws for a bad one
  }
  for (std::size_t i = 0; i < scales_.size(); ++i) scales_[i].scaler.load_state(states[i]);
}

}  // namespace halfstep::apex
