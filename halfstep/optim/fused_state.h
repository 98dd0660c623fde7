#pragma once
#include "halfstep/core/weight_mark.h"
#include "halfstep/optim/master_weights.h"

#include <array>
#include <memory>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>
#include <torch/serialize/archive.h>

namespace halfstep::optim {

/// What a fused optimizer keeps for one parameter, under the names of Python's state_dict. Tensors
/// it does not use are undefined.
///
/// `step` counts the steps taken: 0-dim float32 on the parameter's device, as in Python's fused
/// optimizers. The buffers have the parameter's shape, dtype and layout; where the parameter is not
/// dense in memory, the layout of `empty_like(parameter)`. With MasterWeights they are float32, and
/// `master` is the float32 master or its int16 remainder, in that layout too; saved as "master".
class FusedState : public torch::optim::OptimizerParamState {
 public:
  static constexpr std::size_t kBuffers = 3;

  at::Tensor step;
  std::array<at::Tensor, kBuffers> buffers;
  at::Tensor master;

  /// The parameter as the last step left it. Not saved.
  halfstep::detail::WeightMark mark;

  /// All of the above, undefined ones too.
  std::array<const at::Tensor*, kBuffers + 2> tensors() const {
    return {&step, &buffers[0], &buffers[1], &buffers[2], &master};
  }

  /// Names of the buffers in archives; nullptr from the first one that is not used.
  virtual std::array<const char*, kBuffers> buffer_names() const = 0;

  /// Writes the tensors that are defined.
  void serialize(torch::serialize::OutputArchive& archive) const override;

  /// Also reads what LibTorch's own optimizer of that name writes, whose `step` is an integer.
  void serialize(torch::serialize::InputArchive& archive) override;
};

namespace detail {

/// Zeros of this dtype in the layout of `parameter`, which is dense.
at::Tensor buffer_like(const at::Tensor& parameter, c10::ScalarType dtype);

/// Brings a state that was loaded, or put in by hand, onto the parameter's device and into its
/// layout, the buffers into the dtype for this kind of master; leaves alone what fits. Drops a
/// master where none is wanted; one of another kind stays for settle_master. Throws UsageError for
/// another shape or a master that is none; `where` opens the message.
void adopt(FusedState& state, const at::Tensor& parameter, MasterWeights kind, const char* where);

}  // namespace detail

}  // namespace halfstep::optim
