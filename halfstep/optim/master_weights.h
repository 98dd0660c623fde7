#pragma once
#include <cstdint>

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

namespace halfstep::optim {

/// Whether a fused optimizer keeps a float32 master of each bfloat16 or float16 parameter. Steps
/// smaller than half a unit in a 16-bit weight's last place are lost without one: it adds them up,
/// and the weight is the master, rounded to nearest. The optimizer's other state is float32 then.
///
///   set_weight_dtype(*net, torch::kBFloat16);
///   Adam adam(net->parameters(), AdamOptions(1e-4).master_weights(MasterWeights::float32));
///
/// Bytes a weight, for all that is as large as the weights but the optimizer's own buffers:
///
///   weights                                    weight  gradient  beside it       in all
///   float32                                         4         4                       8
///   float32, shadow_weights, bfloat16 gradients     4         2  2 copy               8
///   16-bit, MasterWeights::float32                  2         2  4 master             8
///   bfloat16, MasterWeights::remainder              2         2  2 remainder          6
///
/// The last row holds between steps, and during those of our CPU kernels. Where ATen's kernels run
/// (CUDA, Kernel::aten), a step takes float32 copies of gradients and of masters kept as remainder
/// beside it, of about 16 million elements, or of one parameter, at a time.
///
/// A master is made at the parameter's first step, from its value. Somebody else may change a
/// parameter, as loading weights does: where it is no longer its rounded master, element by
/// element, the master is made anew from it. That is looked at where version counter, memory or
/// strides show that somebody was there. Not seen: a change through `.data()` or a raw pointer.
enum class MasterWeights : std::uint8_t {
  none,
  /// A float32 tensor.
  float32,
  /// bfloat16 parameters only: the parameter is the upper half of the master, an int16 tensor the
  /// lower one, and the masters are those of `float32` to the bit. Two differences: a master in the
  /// very middle between two bfloat16 numbers rounds away from zero, not to the even one; and a
  /// parameter that somebody else changed keeps its remainder, so its master is off by half a unit
  /// in the parameter's last place at most.
  remainder,
};

class FusedState;

namespace detail {

/// True where a parameter of `dtype` gets a master.
bool takes_master(c10::ScalarType dtype, MasterWeights kind);

/// The dtype of the buffers of a parameter of `dtype`: float32 where it has a master.
c10::ScalarType buffer_dtype(c10::ScalarType dtype, MasterWeights kind);

/// Throws UsageError for a parameter that can't have this kind of master; `where` opens the
/// message.
void check_master(const at::Tensor& weight, MasterWeights kind, const char* where);

/// The float32 master of a bfloat16 weight and its int16 remainder, in a layout of
/// empty_work_tensor. Does not sync.
at::Tensor join_master(const at::Tensor& weight, const at::Tensor& remainder);

/// Writes a float32 master as bfloat16 weight and int16 remainder. Does not sync.
void split_master(const at::Tensor& master, const at::Tensor& weight, const at::Tensor& remainder);

/// The float32 master to go on with from a 16-bit weight that somebody may have written: element by
/// element `master` where the weight is this, rounded, else the weight. Does not sync.
at::Tensor renewed_master(const at::Tensor& master, const at::Tensor& weight);

/// Makes the master of `state` the one to go on with from `weight`, as MasterWeights says: makes a
/// missing one, and anew what does not belong to the weight. Leaves tensors that are there as they
/// are: a changed master is a new tensor. Does not sync.
void settle_master(FusedState& state, const at::Tensor& weight, MasterWeights kind);

/// Gives the weight this float32 master: writes the weight, rounded as `kind` rounds, and the
/// state. Does not sync between GPUs.
void set_master(FusedState& state, const at::Tensor& weight, const at::Tensor& master,
                MasterWeights kind);

}  // namespace detail

}  // namespace halfstep::optim
