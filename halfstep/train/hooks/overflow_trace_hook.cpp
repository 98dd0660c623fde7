#include "halfstep/train/hooks/overflow_trace_hook.h"

#include "halfstep/core/dtype.h"
#include "halfstep/inspect/overflow_tracer.h"
#include "halfstep/train/loop/trainer.h"

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>

namespace halfstep::train {

namespace {

nlohmann::ordered_json to_json(const inspect::TensorRange& tensor) {
  // What is not finite is null.
  return {{"name", tensor.name},
          {"dtype", dtype_name(tensor.dtype)},
          {"sizes", tensor.sizes},
          {"min", tensor.min},
          {"max", tensor.max}};
}

nlohmann::ordered_json to_json(const inspect::OverflowFinding& found, int64_t step) {
  nlohmann::ordered_json line{{"event", "overflow"},
                              {"step", step},
                              {"direction", found.came_in    ? "before"
                                            : found.backward ? "backward"
                                                             : "forward"},
                              {"op", found.op},
                              {"within", found.within},
                              {"gradient_of", found.of},
                              {"module", found.module},
                              {"gave", found.tensor.has_nan() ? "nan" : "inf"},
                              {"result", to_json(found.tensor)}};
  auto& inputs = line["inputs"] = nlohmann::ordered_json::array();
  for (const auto& input : found.inputs) inputs.push_back(to_json(input));
  return line;
}

}  // namespace

OverflowTraceHook::OverflowTraceHook(Config& config)
    : interval_(config.get<int64_t>("interval", 100)) {
  if (interval_ < 1) config.fail("interval", "must be at least 1 step");
}

void OverflowTraceHook::before_run(Trainer& trainer) {
  is_active_ = trainer.trace_overflows();
  if (!is_active_) return;
  log_.emplace(trainer.work_dir().log_file());
  gradients_.assign(trainer.parts().wrappers.size(), {});
}

void OverflowTraceHook::end_step(Trainer& trainer, int64_t step) {
  const auto found = trainer.overflow_tracer()->end_step();
  // What comes after a step's first one may follow from it: sums of the losses, for one.
  if (!found || step == last_found_) return;
  last_found_ = step;
  log_->write(to_json(*found, step));
  const auto known = std::find_if(places_.begin(), places_.end(), [&](const auto& place) {
    return place.first.same_place(*found);
  });
  if (known != places_.end()) {
    ++known->second;
    return;
  }
  places_.emplace_back(*found, 1);
  fmt::print("first inf or NaN of step {}: {}", step, found->text());
  std::fflush(stdout);
}

void OverflowTraceHook::count_gradients(Trainer& trainer, int64_t step) {
  const auto& parts = trainer.active_wrapper();
  auto& gradients = gradients_[static_cast<size_t>(&parts - trainer.parts().wrappers.data())];
  if (gradients.step != 0 && step < gradients.step + interval_) return;
  gradients = Gradients();
  gradients.whose = parts.name;
  gradients.step = step;
  if (trainer.scaler().is_enabled()) gradients.scale = trainer.scaler().get_scale();
  for (const auto& group : parts.wrapper->param_groups())
    for (const auto& parameter : group.params())
      gradients.exponents.add(parameter.grad(), gradients.scale);
  nlohmann::ordered_json line{{"event", "gradient_exponents"}, {"step", step}};
  const auto named = [&](const char* name) { return parts.named(name); };
  line[named("loss_scale")] = gradients.scale;
  line[named("zeros")] = gradients.exponents.zeros();
  line[named("nonfinite")] = gradients.exponents.non_finite();
  line[named("lost_in_float16")] = gradients.exponents.share_lost(at::kHalf, gradients.scale);
  line[named("lost_in_float16_without_scale")] = gradients.exponents.share_lost(at::kHalf, 1);
  if (const auto scale = gradients.exponents.recommended_scale())
    line[named("recommended_scale")] = *scale;
  auto& counts = line[named("counts")] = nlohmann::ordered_json::object();
  for (int exponent = -160; exponent <= 127; ++exponent) {
    if (const auto count = gradients.exponents.count(exponent); count > 0)
      counts[std::to_string(exponent)] = count;
  }
  log_->write(line);
}

void OverflowTraceHook::after_backward(Trainer& trainer) {
  if (!is_active_) return;
  const auto step = trainer.progress().step + 1;
  end_step(trainer, step);
  count_gradients(trainer, step);
}

void OverflowTraceHook::after_train_iter(Trainer& trainer, const Batch&) {
  if (is_active_) end_step(trainer, trainer.progress().step);
}

void OverflowTraceHook::after_run(Trainer& trainer) {
  if (!is_active_) return;
  if (places_.empty()) fmt::print("no inf or NaN in {} steps\n", trainer.steps_of_this_process());
  for (const auto& [found, steps] : places_)
    fmt::print("first inf or NaN in {} of {} steps: {}\n", steps, trainer.steps_of_this_process(),
               found.place());
  for (const auto& gradients : gradients_) {
    if (gradients.step == 0) continue;
    fmt::print("gradients of step {}{}: {}", gradients.step,
               gradients.whose.empty() ? "" : " of " + gradients.whose,
               gradients.exponents.text(gradients.scale));
  }
  std::fflush(stdout);
}

}  // namespace halfstep::train
