#include "halfstep/apex/amp.h"

#include "halfstep/apex/convert_network.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/scaling/dialects.h"
#include "halfstep/scaling/guarded_step.h"

#include <set>
#include <string>

namespace halfstep::apex {

namespace {

constexpr const char* kInitialize = "apex::initialize";
constexpr const char* kScaleLoss = "apex::Amp::scale_loss";

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
    for (const auto& parameter : model.parameters()) return parameter.device().type();
  }
  return c10::DeviceType::CPU;
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
  if (!options_.enabled()) return;
  if (properties_.patch_torch_functions) o1_policy_ = OpPolicy::apex();
  check(models, optimizers, options_);
  const bool master_weights = properties_.master_weights.value_or(false);
  const auto scaler = scaler_options(options_, properties_, device_type_of(models));
  for (int64_t i = 0; i < options_.num_losses(); ++i) scalers_.emplace_back(scaler);
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
  if (!options_.enabled()) return ScaledLoss(loss, nullptr, {}, options);
  auto& scaler_of_loss = scaler(options.loss_id());
  std::vector<detail::AmpOptimizer*> records;
  for (torch::optim::Optimizer& optimizer : optimizers)
    records.push_back(&record_of(optimizer, kScaleLoss));
  HALFSTEP_CHECK_USAGE(!records.empty(), kScaleLoss,
                       "at least one optimizer must be named, but got none; name those whose "
                       "parameters the loss reaches");
  const auto in_float32 = loss.to(c10::kFloat);
  if (!scales()) return ScaledLoss(in_float32, nullptr, {}, options);
  return ScaledLoss(scaler_of_loss.scale(in_float32), &scaler_of_loss, std::move(records), options);
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
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    at::Tensor full;
    for (const auto& [optimizer, record] : optimizers_) {
      if (!full.defined()) full = record.master_of(tensor);
    }
    if (!full.defined())
      full = is_low_precision(tensor.scalar_type()) ? tensor.to(c10::kFloat) : tensor;
    state.insert(name, full.detach());
  };
  for (const auto& item : model.named_parameters()) add(item.key(), item.value());
  for (const auto& item : model.named_buffers()) add(item.key(), item.value());
  return state;
}

void Amp::add_param_group(torch::optim::Optimizer& optimizer,
                          const torch::optim::OptimizerParamGroup& group) {
  auto* record = options_.enabled() ? &record_of(optimizer, "apex::Amp::add_param_group") : nullptr;
  // The base class's would drop the options of optimizers LibTorch does not know.
  if (auto* fused = dynamic_cast<optim::FusedOptimizer*>(&optimizer))
    fused->add_param_group(group);
  else
    optimizer.add_param_group(group);
  if (record != nullptr) record->take_new_groups();
}

GradScaler& Amp::scaler(int64_t loss_id) {
  HALFSTEP_CHECK_USAGE(loss_id >= 0 && static_cast<std::size_t>(loss_id) < scalers_.size(),
                       "apex::Amp::scaler", "loss_id must be from 0 to ",
                       static_cast<int64_t>(scalers_.size()) - 1, ", but got ", loss_id,
                       "; raise num_losses");
  return scalers_[static_cast<std::size_t>(loss_id)];
}

void Amp::save(torch::serialize::OutputArchive& archive) const {
  for (std::size_t i = 0; i < scalers_.size(); ++i) {
    torch::serialize::OutputArchive inner(archive.compilation_unit());
    scalers_[i].save(inner);
    archive.write("loss_scaler" + std::to_string(i), inner);
  }
}

void Amp::load(torch::serialize::InputArchive& archive) {
  HALFSTEP_CHECK_USAGE(archive.keys().size() == scalers_.size(), "apex::Amp::load",
                       "the archive must hold a scale for each loss, but it holds ",
                       archive.keys().size(), " for ", scalers_.size(),
                       "; initialize with the same num_losses");
  for (std::size_t i = 0; i < scalers_.size(); ++i) {
    torch::serialize::InputArchive inner;
    archive.read("loss_scaler" + std::to_string(i), inner);
    scalers_[i].load(inner);
  }
}

}  // namespace halfstep::apex
