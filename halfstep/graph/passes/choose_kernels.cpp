#include "halfstep/graph/kernels/gelu_kernels.h"
#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/passes/program_uses.h"

namespace halfstep::detail {

namespace {

/// aten::gelu_backward(grad, self, approximate='none') as halfstep's.
bool choose_gelu_backward(const Program& program, Instruction& call) {
  if (call.op.schema().name() != "aten::gelu_backward" || call.operands.size() != 2 ||
      call.arguments[2].toStringRef() != "none" || !is_pure(call))
    return false;
  const auto& grad = program.value(call.operands[0].value).geometry;
  const auto& self = program.value(call.operands[1].value).geometry;
  const auto fits = [&](const Geometry& x) {
    return x.device.is_cpu() && x.dtype == c10::kBFloat16 && x.is_contiguous() && x.numel() > 1;
  };
  if (!fits(grad) || !fits(self) || grad.sizes != self.sizes || !gelu_backward_has_same_bits())
    return false;
  call.op = gelu_backward_op();
  call.arguments.resize(2);
  return true;
}

}  // namespace

int64_t choose_kernels(Program& program) {
  int64_t count = 0;
  for (auto& call : program.code) count += choose_gelu_backward(program, call) ? 1 : 0;
  return count;
}

}  // namespace halfstep::detail
