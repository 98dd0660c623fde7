#pragma once
#include <memory>
#include <optional>
#include <ostream>

#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

namespace halfstep::nn {

/// torch::nn::Linear whose forward is one call of at::linear: x Wᵀ + b.
///
/// torch::nn::Linear in C++ never calls it: it is addmm for 2-D inputs and a product followed by an
/// in-place sum for others, both over a transposed view of the weight. Under autocast that view is
/// cast anew in each use (the cast cache keeps leaf tensors only), and 3-D inputs run up to 2.6
/// times slower in bfloat16.
///
/// Options, initial values for a given seed, parameter names and saved files are those of
/// torch::nn::Linear, and `module.as<torch::nn::Linear>()` finds it; but call forward through this
/// class: LibTorch's is not virtual.
///
///   halfstep::nn::Linear fc(torch::nn::LinearOptions(784, 256).bias(false));
class LinearImpl : public torch::nn::LinearImpl {
 public:
  using torch::nn::LinearImpl::LinearImpl;

  /// (*, in_features) → (*, out_features). In float32 the result may differ from
  /// torch::nn::Linear's in its last bits for inputs that are not 2-D.
  torch::Tensor forward(const torch::Tensor& input);

  /// A deep copy, optionally on another device.
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;

  /// "halfstep::nn::Linear(in_features=784, out_features=256, bias=true)".
  void pretty_print(std::ostream& stream) const override;
};

/// The module holder of LinearImpl: shared, called as `linear(input)`.
TORCH_MODULE(Linear);

}  // namespace halfstep::nn
