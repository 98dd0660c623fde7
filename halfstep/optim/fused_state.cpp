#include "halfstep/optim/fused_state.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/layout.h"

#include <ATen/ops/full.h>

namespace halfstep::optim {

void FusedState::serialize(torch::serialize::OutputArchive& archive) const {
  if (step.defined()) archive.write("step", c10::IValue(step));
  const auto names = buffer_names();
  for (std::size_t i = 0; i < kBuffers; ++i) {
    if (buffers[i].defined()) archive.write(names[i], c10::IValue(buffers[i]));
  }
}

void FusedState::serialize(torch::serialize::InputArchive& archive) {
  c10::IValue value;
  if (archive.try_read("step", value))
    step = value.isTensor() ? value.toTensor()
                            : at::full({}, value.toScalar(), at::TensorOptions(c10::kFloat));
  const auto names = buffer_names();
  for (std::size_t i = 0; i < kBuffers && names[i] != nullptr; ++i) {
    if (archive.try_read(names[i], value) && value.isTensor()) buffers[i] = value.toTensor();
  }
}

namespace detail {

void adopt(FusedState& state, const at::Tensor& parameter, const char* where) {
  if (state.step.defined() && (state.step.dim() != 0 || state.step.scalar_type() != c10::kFloat ||
                               state.step.device() != parameter.device()))
    state.step = state.step.reshape({}).to(parameter.device(), c10::kFloat);
  at::Tensor layout = parameter;
  if (!parameter.is_non_overlapping_and_dense()) layout = empty_work_tensor(parameter);
  for (std::size_t i = 0; i < FusedState::kBuffers; ++i) {
    at::Tensor& buffer = state.buffers[i];
    if (!buffer.defined()) continue;
    HALFSTEP_CHECK_USAGE(buffer.sizes() == parameter.sizes(), where, state.buffer_names()[i],
                         " must have its parameter's shape ", parameter.sizes(), ", but has ",
                         buffer.sizes(), "; load the archive that belongs to this model");
    if (same_layout(buffer, layout) && buffer.is_non_overlapping_and_dense() &&
        buffer.scalar_type() == parameter.scalar_type() && buffer.device() == parameter.device())
      continue;
    auto fitting = empty_work_tensor(parameter);
    fitting.copy_(buffer);
    buffer = std::move(fitting);
  }
}

}  // namespace detail

}  // namespace halfstep::optim
