#include "halfstep/train/loop/wrapper_state.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/optimizer_state.h"
#include "halfstep/train/loop/trainer.h"

#include <iostream>
#include <string>
#include <utility>

namespace halfstep::train {

namespace {

using nlohmann::json;

json scaler_to_json(const GradScaler& scaler) {
  const auto state = scaler.state();
  if (!state) return nullptr;
  json saved = {{"scale", state->scale},
                {"growth_factor", state->growth_factor},
                {"backoff_factor", state->backoff_factor},
                {"growth_interval", state->growth_interval},
                {"_growth_tracker", state->growth_tracker}};
  if (state->hysteresis_tracker) saved["_hysteresis_tracker"] = *state->hysteresis_tracker;
  return saved;
}

// Settings are the same, but dtype auto, and with it the default scale, follows the device.
void load_scaler(GradScaler& scaler, const json& saved) {
  if (!scaler.is_enabled() || saved.is_null()) return;
  GradScalerState state;
  saved.at("scale").get_to(state.scale);
  saved.at("growth_factor").get_to(state.growth_factor);
  saved.at("backoff_factor").get_to(state.backoff_factor);
  saved.at("growth_interval").get_to(state.growth_interval);
  saved.at("_growth_tracker").get_to(state.growth_tracker);
  if (saved.contains("_hysteresis_tracker"))
    state.hysteresis_tracker = saved.at("_hysteresis_tracker").get<int64_t>();
  scaler.load_state(state);
}

const json& own_state(const json& state, const WrapperParts& parts) {
  return parts.name.empty() ? state : state.at("wrappers").at(parts.name);
}

/// Calls `visit` with each parameter and its name.
template <class Visit>
void for_each_parameter(const WrapperParts& parts, const Visit& visit) {
  size_t index = 0;
  for (const auto& group : std::as_const(*parts.wrapper).param_groups())
    for (const auto& parameter : group.params()) visit(parameter, parts.parameter_names[index++]);
}

constexpr const char* kGradient = "gradient.";
constexpr const char* kOptimizer = "optimizer.";

std::string tensor_prefix(const WrapperParts& parts) {
  return "optimizers." + parts.name + ".";
}

void collect_optimizer(const WrapperParts& parts, json& own, Checkpoint& checkpoint) {
  const auto& optimizer = std::as_const(*parts.wrapper).optimizer();
  if (parts.name.empty()) {
    save_optimizer(optimizer, parts.parameter_names, checkpoint);
    return;
  }
  Checkpoint alone;
  save_optimizer(optimizer, parts.parameter_names, alone);
  own["optimizer"] = std::move(alone.state["optimizer"]);
  for (auto& [name, tensor] : alone.tensors)
    checkpoint.tensors[tensor_prefix(parts) + name.substr(std::string(kOptimizer).size())] = tensor;
}

void restore_optimizer(const Checkpoint& checkpoint, const WrapperParts& parts) {
  auto& optimizer = parts.wrapper->optimizer();
  if (parts.name.empty()) {
    load_optimizer(checkpoint, parts.parameter_names, optimizer);
    return;
  }
  Checkpoint alone;
  alone.state["optimizer"] = own_state(checkpoint.state, parts).at("optimizer");
  const auto prefix = tensor_prefix(parts);
  for (const auto& [name, tensor] : checkpoint.tensors)
    if (name.starts_with(prefix)) alone.tensors[kOptimizer + name.substr(prefix.size())] = tensor;
  load_optimizer(alone, parts.parameter_names, optimizer);
}

// A checkpoint from before the base rate was kept has it in the first group's rate, whose part of
// it schedules leave alone.
void restore_rates(const Checkpoint& checkpoint, const json& own, const WrapperParts& parts) {
  auto* base = parts.wrapper->base_settings();
  const auto first = [&] { return parts.wrapper->param_groups().front().options().get_lr(); };
  const double begun = base == nullptr || first() == 0 ? 1 : base->get_lr() / first();
  restore_optimizer(checkpoint, parts);
  if (base == nullptr) return;
  base->set_lr(own.contains("base_lr") ? own.at("base_lr").get<double>() : begun * first());
}

void restore_gradients(const Checkpoint& checkpoint, const WrapperParts& parts) {
  bool any = false;
  for_each_parameter(parts, [&](const at::Tensor& parameter, const std::string& name) {
    const auto saved = checkpoint.tensors.find(kGradient + name);
    if (saved == checkpoint.tensors.end()) return;
    HALFSTEP_CHECK_ENVIRONMENT(saved->second.sizes() == parameter.sizes(), "resume",
                               "the gradient of '", name, "' must be ", parameter.sizes(),
                               ", but the checkpoint has ", saved->second.sizes(),
                               "; the file is damaged: take another checkpoint");
    parameter.mutable_grad() = saved->second.to(parameter.device(), /*non_blocking=*/false,
                                                /*copy=*/true);
    any = true;
  });
  if (any || !parts.wrapper->is_accumulating()) return;
  // The run that is made longer had made its last step of what was left.
  const auto counts = parts.wrapper->accumulative_counts();
  std::cerr << "warning: iteration " << parts.wrapper->inner_count()
            << ", where the run had ended, is no multiple of accumulative_counts " << counts
            << ": the next step adds up the gradients of "
            << counts - parts.wrapper->inner_count() % counts << " batches and divides them by "
            << counts << '\n';
}

}  // namespace

void collect_wrappers(const Trainer& trainer, Checkpoint& checkpoint) {
  const auto& wrappers = trainer.parts().wrappers;
  for (size_t i = 0; i < wrappers.size(); ++i) {
    const auto& parts = wrappers[i];
    json& own = parts.name.empty() ? checkpoint.state : checkpoint.state["wrappers"][parts.name];
    collect_optimizer(parts, own, checkpoint);
    own["scaler"] = parts.scaler() ? scaler_to_json(*parts.scaler()) : json();
    if (trainer.fell_back(i)) own["fell_back"] = true;
    own["schedulers"] = parts.schedulers.counts();
    if (auto plateaus = parts.schedulers.plateaus(); !plateaus.empty())
      own["plateaus"] = std::move(plateaus);
    if (parts.wrapper->base_settings() != nullptr) own["base_lr"] = parts.learning_rate();
    own["inner_count"] = parts.wrapper->inner_count();
    own["updates"] = trainer.counts(i).updates;
    if (!parts.name.empty()) own["skipped_steps"] = trainer.counts(i).skipped_steps;
    if (!parts.wrapper->is_accumulating()) continue;
    for_each_parameter(parts, [&](const at::Tensor& parameter, const std::string& name) {
      if (parameter.grad().defined()) checkpoint.tensors[kGradient + name] = parameter.grad();
    });
  }
}

void restore_fall_backs(Trainer& trainer, const json& state) {
  const auto& wrappers = trainer.parts().wrappers;
  for (size_t i = 0; i < wrappers.size(); ++i)
    if (own_state(state, wrappers[i]).value("fell_back", false)) trainer.fall_back(i);
}

void restore_wrappers(Trainer& trainer, const Checkpoint& checkpoint) {
  const auto& state = checkpoint.state;
  const auto& progress = state.at("progress");
  auto& wrappers = trainer.parts().wrappers;
  for (size_t i = 0; i < wrappers.size(); ++i) {
    auto& parts = wrappers[i];
    const json& own = own_state(state, parts);
    restore_rates(checkpoint, own, parts);
    parts.schedulers.set_counts(own.at("schedulers").get<std::vector<int64_t>>());
    if (own.contains("plateaus")) parts.schedulers.load_plateaus(own.at("plateaus"));
    if (parts.scaler()) load_scaler(*parts.scaler(), own.at("scaler"));
    const auto steps = progress.at("step").get<int64_t>();
    parts.wrapper->set_inner_count(own.value("inner_count", steps));
    const json& skipped = parts.name.empty() ? progress : own;
    trainer.counts(i) = {own.value("updates", steps), skipped.at("skipped_steps").get<int64_t>()};
    restore_gradients(checkpoint, parts);
  }
}

}  // namespace halfstep::train
