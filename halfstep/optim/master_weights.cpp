#include "halfstep/optim/master_weights.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/optim/fused_state.h"
#include "halfstep/optim/layout.h"

#include <ATen/ops/where.h>

namespace halfstep::optim::detail {

namespace {

constexpr std::int64_t kHalfUnit = 0x8000;  // half a unit of bfloat16, in float32's last places
constexpr std::int64_t kUnit = 0x10000;

/// The bits of a bfloat16 tensor as an int32 of the upper half.
at::Tensor upper_bits(const at::Tensor& weight) {
  return weight.detach().view(c10::kShort).to(c10::kInt).mul_(kUnit);
}

/// The remainder of another weight could make a NaN of a zero or of an infinity.
at::Tensor without_nonsense(const at::Tensor& remainder, const at::Tensor& weight) {
  const auto value = weight.detach();
  const auto below_zero = value.eq(0).logical_and_(remainder.lt(0));
  const auto above_inf = value.isfinite().logical_not_().logical_and_(remainder.gt(0));
  return remainder.masked_fill(below_zero.logical_or(above_inf), 0);
}

/// The master in full as what stays of it beside the weight. A master of `float32` may round the
/// other way from the middle: one unit in its last place is lost then.
at::Tensor remainder_of(const at::Tensor& master, const at::Tensor& weight) {
  const auto difference = master.view(c10::kInt).to(c10::kLong).sub_(upper_bits(weight));
  const auto belongs = difference.abs().le(kHalfUnit).logical_and_(weight.detach().isfinite());
  return at::where(belongs, difference.clamp_max(kHalfUnit - 1), 0).to(c10::kShort);
}

at::Tensor in_layout_of(const at::Tensor& weight, const at::Tensor& values) {
  auto result = empty_work_tensor(weight, values.scalar_type());
  result.copy_(values);
  return result;
}

}  // namespace

bool takes_master(c10::ScalarType dtype, MasterWeights kind) {
  return kind != MasterWeights::none && is_low_precision(dtype);
}

c10::ScalarType buffer_dtype(c10::ScalarType dtype, MasterWeights kind) {
  return takes_master(dtype, kind) ? c10::kFloat : dtype;
}

void check_master(const at::Tensor& weight, MasterWeights kind, const char* where) {
  HALFSTEP_CHECK_USAGE(
      kind != MasterWeights::remainder || weight.scalar_type() != c10::kHalf, where,
      "parameters with MasterWeights::remainder must be bfloat16 (or float32, without master), but "
      "got one in float16, which is no upper half of a float32; use MasterWeights::float32");
}

at::Tensor join_master(const at::Tensor& weight, const at::Tensor& remainder) {
  return in_layout_of(weight, upper_bits(weight).add_(remainder).view(c10::kFloat));
}

void split_master(const at::Tensor& master, const at::Tensor& weight, const at::Tensor& remainder) {
  const auto bits = master.view(c10::kInt);
  // Downwards, also for negative numbers; arithmetic in int32 never overflows but for NaN.
  const auto nan = master.isnan();
  auto upper = bits.add(kHalfUnit).bitwise_right_shift_(16);
  weight.detach().view(c10::kShort).copy_(upper.masked_fill(nan, 0x7FC0));
  remainder.copy_(upper.mul_(-kUnit).add_(bits).masked_fill_(nan, 0));
}

at::Tensor renewed_master(const at::Tensor& master, const at::Tensor& weight) {
  const auto value = weight.detach();
  const auto rounded = master.to(value.scalar_type());
  // Bits, so that a zero of the other sign counts as changed.
  const auto belongs = rounded.view(c10::kShort).eq(value.view(c10::kShort));
  return at::where(belongs, master, value.to(c10::kFloat));
}

void set_master(FusedState& state, const at::Tensor& weight, const at::Tensor& master,
                MasterWeights kind) {
  auto full = in_layout_of(weight, master.detach().to(weight.device(), c10::kFloat));
  if (kind == MasterWeights::float32) {
    weight.detach().copy_(full);
    state.master = std::move(full);
  } else {
    state.master = empty_work_tensor(weight, c10::kShort);
    split_master(full, weight, state.master);
  }
  state.mark = halfstep::detail::WeightMark(weight);
}

void settle_master(FusedState& state, const at::Tensor& weight, MasterWeights kind) {
  auto& master = state.master;
  const bool full = kind == MasterWeights::float32;
  const auto dtype = full ? c10::kFloat : c10::kShort;
  if (master.defined() && master.scalar_type() == dtype && state.mark.is_of(weight)) return;
  if (!master.defined()) {
    master = full ? in_layout_of(weight, weight.detach().to(c10::kFloat))
                  : empty_work_tensor(weight, c10::kShort).zero_();
  } else if (full) {
    const auto values = master.scalar_type() == c10::kFloat
                            ? renewed_master(master, weight)
                            : join_master(weight, without_nonsense(master, weight));
    master = in_layout_of(weight, values);
  } else if (master.scalar_type() == c10::kFloat) {
    master = in_layout_of(weight, remainder_of(master, weight));
  } else {
    master = in_layout_of(weight, without_nonsense(master, weight));
  }
  state.mark = halfstep::detail::WeightMark(weight);
}

}  // namespace halfstep::optim::detail
