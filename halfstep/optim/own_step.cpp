#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/optim/span_of.h"

namespace halfstep::optim {

namespace {

/// A float32 master is the span's parameter already; the user's is then written in the same pass,
/// where it is laid out alike.
void use_master(const at::Tensor& master, const at::Tensor& parameter, detail::KernelSpan& span,
                detail::WorkTensor& work) {
  span.buffer_element = detail::Element::float32;
  if (master.scalar_type() == c10::kShort) {
    span.remainder = master.mutable_data_ptr<std::int16_t>();
  } else if (parameter.is_non_overlapping_and_dense() && detail::same_layout(parameter, master)) {
    span.low = parameter.mutable_data_ptr();
    span.low_element = *detail::element_of(parameter.scalar_type());
    work.is_copy = false;
  }
}

}  // namespace

void FusedOptimizer::step_with_own(std::vector<Prepared>& work, const Divisor& divisor) {
  if (work.empty()) return;
  auto factor = divisor.factor;
  if (divisor.tensor && !divisor.tensor->device().is_cpu())
    factor = static_cast<float>(1.0 / divisor.tensor->item<double>());

  std::vector<detail::StepTask> tasks;
  std::vector<const Shadow*> written;  // in the same pass
  tasks.reserve(work.size());
  written.reserve(work.size());
  for (auto& ready : work) {
    const auto& parameter = ready.item.parameter;
    const auto& options = options_of(ready.item.group);
    double step = 0;
    if (ready.state->step.defined()) {
      step = ready.state->step.mutable_data_ptr<float>()[0] += 1;
      detail::bump_version(ready.state->step);
    }
    detail::StepTask task{{}, {}, make_rule(options, step, ready.is_first_step)};
    task.gradient.factor = direction(options) * factor;
    if (settings_.clips_value()) task.gradient.limit = static_cast<float>(settings_.clip_value);
    auto& span = task.span;
    detail::set_gradient(span, ready.gradient.tensor);
    span.element = *detail::element_of(ready.parameter.tensor.scalar_type());
    span.parameter = ready.parameter.tensor.mutable_data_ptr();
    span.buffer_element = span.element;
    for (std::size_t i = 0; i < uses_buffers(options); ++i)
      span.buffers[i] = ready.state->buffers[i].mutable_data_ptr();
    if (ready.has_master) use_master(ready.state->master, parameter, span, ready.parameter);
    const auto shadow = shadows_.find(parameter.unsafeGetTensorImpl());
    // Of a parameter with a master, the low copy is the parameter.
    const bool fits = shadow != shadows_.end() && !ready.has_master &&
                      shadow->second.copy().is_cpu() &&
                      detail::same_layout(shadow->second.copy(), ready.parameter.tensor);
    written.push_back(fits ? &shadow->second : nullptr);
    if (fits) {
      const auto& copy = shadow->second.copy();
      span.low = copy.mutable_data_ptr();
      span.low_element = *detail::element_of(copy.scalar_type());
    }
    tasks.push_back(std::move(task));
  }

  detail::run_step(tasks);

  for (std::size_t i = 0; i < work.size(); ++i) {
    const auto& ready = work[i];
    const auto& parameter = ready.item.parameter;
    for (const auto& buffer : ready.state->buffers) {
      if (buffer.defined()) detail::bump_version(buffer);
    }
    if (ready.has_master) detail::bump_version(ready.state->master);
    if (ready.parameter.is_copy)
      parameter.copy_(ready.parameter.tensor);
    else
      detail::bump_version(parameter);
    if (written[i] != nullptr)
      written[i]->weights->written(written[i]->index);
    else
      write_shadow(parameter);
  }
}

}  // namespace halfstep::optim
