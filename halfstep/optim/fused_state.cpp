#include "halfstep/optim/fused_state.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/optim/layout.h"

#include <utility>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>

namespace halfstep::optim {

void FusedState::serialize(torch::serialize::OutputArchive& archive) const {
  if (step.defined()) archive.write("step", c10::IValue(step));
  const auto names = buffer_names();
  for (std::size_t i = 0; i < kBuffers; ++i) {
    if (buffers[i].defined()) archive.write(names[i], c10::IValue(buffers[i]));
  }
  if (master.defined()) archive.write("master", c10::IValue(master));
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
  if (archive.try_read("master", value) && value.isTensor()) master = value.toTensor();
}

namespace detail {

namespace {

/// `tensor` with the layout and device of `layout`, a dense parameter.
void fit(at::Tensor& tensor, const at::Tensor& layout, c10::ScalarType dtype, const char* name,
         const char* where) {
  if (!tensor.defined()) return;
  HALFSTEP_CHECK_USAGE(tensor.sizes() == layout.sizes(), where, name,
                       " must have its parameter's shape ", layout.sizes(), ", but has ",
                       tensor.sizes(), "; load the archive that belongs to this model");
  if (same_layout(tensor, layout) && tensor.is_non_overlapping_and_dense() &&
      tensor.scalar_type() == dtype && tensor.device() == layout.device())
    return;
  auto fitting = empty_work_tensor(layout, dtype);
  fitting.copy_(tensor);
  tensor = std::move(fitting);
}

}  // namespace

at::Tensor buffer_like(const at::Tensor& parameter, c10::ScalarType dtype) {
  return at::zeros_like(parameter.detach(), dtype, {}, {}, {}, at::MemoryFormat::Preserve);
}

void adopt(FusedState& state, const at::Tensor& parameter, MasterWeights kind, const char* where) {
  if (state.step.defined() && (state.step.dim() != 0 || state.step.scalar_type() != c10::kFloat ||
                               state.step.device() != parameter.device())) {
    HALFSTEP_CHECK_USAGE(state.step.numel() == 1, where,
                         "step must be a tensor of one element, but has shape ", state.step.sizes(),
                         "; load the archive that belongs to this model");
    state.step = state.step.reshape({}).to(parameter.device(), c10::kFloat);
  }
  at::Tensor layout = parameter;
  if (!parameter.is_non_overlapping_and_dense()) layout = empty_work_tensor(parameter);
  const auto dtype = buffer_dtype(parameter.scalar_type(), kind);
  for (std::size_t i = 0; i < FusedState::kBuffers; ++i)
    fit(state.buffers[i], layout, dtype, state.buffer_names()[i], where);

  auto& master = state.master;
  if (!takes_master(parameter.scalar_type(), kind)) master.reset();
  if (!master.defined()) return;
  const auto master_dtype = master.scalar_type();
  HALFSTEP_CHECK_USAGE(
      master_dtype == c10::kFloat ||
          (master_dtype == c10::kShort && parameter.scalar_type() == c10::kBFloat16),
      where,
      "a master must be float32, or an int16 remainder of a bfloat16 parameter, but that of "
      "a ",
      dtype_name(parameter.scalar_type()), " parameter is ", dtype_name(master_dtype),
      "; load the archive that belongs to this model");
  fit(master, layout, master_dtype, "master", where);
}

}  // namespace detail

}  // namespace halfstep::optim
