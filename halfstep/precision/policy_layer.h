#pragma once
#include "halfstep/autocast/autocast.h"
#include "halfstep/core/module_tensors.h"
#include "halfstep/precision/dtype_policy.h"

#include <utility>

#include <ATen/core/Tensor.h>

namespace halfstep {

/// A module that is called under a policy of its own, as a Keras layer with `dtype=`: what stands
/// around it in the model stays as it is.
///
///   struct NetImpl : torch::nn::Module {
///     using Linear = halfstep::PolicyLayer<torch::nn::Linear>;
///     Linear fc1{register_module("fc1", torch::nn::Linear(784, 256))};  // the global policy
///     Linear fc2{register_module("fc2", torch::nn::Linear(256, 10)), "float32"};
///     torch::Tensor forward(torch::Tensor x) { return fc2(torch::relu(fc1(x))); }
///   };
///
/// A call casts the floating-point tensors among its arguments to `compute_dtype`, calls the
/// module's forward in an autocast region of that dtype (mixed policies; with autocast disabled for
/// others), and casts what it returns to `output_dtype`. It is no module itself: names of
/// parameters and saved files are those of the module it holds.
///
/// Difference from Keras: inside, autocast's lists choose the dtype of each op, where Keras casts
/// the variables and runs everything in the compute dtype. An op of your own that autocast does not
/// know, `x * weight`, gives float32 from a float32 weight, and the output is cast.
///
/// `Holder` is a module holder (torch::nn::Linear) or a shared_ptr to a module. Not for use by two
/// threads at once if the module is not.
template <class Holder>
class PolicyLayer {
 public:
  /// Casts the module's floating-point parameters and buffers to the policy's `param_dtype` in
  /// place (torch::nn::Module::to would cast integer buffers too); make optimizers afterwards.
  /// Throws UsageError for a mixed policy that autocast can't make (see DtypePolicy::autocast).
  explicit PolicyLayer(Holder layer, DtypePolicy policy = DtypePolicy())
      : layer_(std::move(layer)), policy_(policy) {
    policy_.autocast(c10::kCPU);
    detail::cast_floating_tensors(*layer_, policy_.param_dtype());
  }

  /// The module's forward under the policy. The region is for the device type of the first tensor
  /// among the arguments; where there is none, of the module's parameters; without these, the CPU.
  template <class... Arguments>
  auto operator()(Arguments&&... arguments) {
    const Autocast autocast(policy_.autocast(detail::device_type_of_call(*layer_, arguments...)));
    auto cast = detail::cast_floating(policy_.compute_dtype());
    return policy_.cast_to_output(
        layer_->forward(detail::map_argument(cast, std::forward<Arguments>(arguments))...));
  }

  const DtypePolicy& policy() const { return policy_; }
  c10::ScalarType compute_dtype() const { return policy_.compute_dtype(); }
  c10::ScalarType variable_dtype() const { return policy_.variable_dtype(); }

  /// The module itself; called directly it knows nothing of the policy.
  const Holder& layer() const { return layer_; }

 private:
  Holder layer_;
  DtypePolicy policy_;
};

}  // namespace halfstep
