#pragma once
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep {

/// 16-bit copies of float32 weights that autocast takes instead of casting the weights in every
/// region. Whoever writes the weights (an optimizer) writes the copies too: optim::Adam and its
/// like do so with AdamOptions().shadow_weights(torch::kBFloat16); a program with an optimizer of
/// its own may keep them by hand:
///
///   halfstep::ShadowWeights shadows(net->parameters(), torch::kBFloat16);
///   for (auto& batch : *loader) {
///     …                      // forward in a bfloat16 region: no weight is cast
///     optimizer.step();
///     shadows.refresh();
///   }
///
/// The results are those of stock autocast to the bit. A copy is used where the region's dtype is
/// its own, and the weight is the one it was written from: unchanged since (by version counter,
/// memory and strides), as the weight itself or as its transpose (torch::nn::Linear passes that).
/// Else the weight is cast as ever. Not seen: a change through `.data()` or a raw pointer; call
/// `refresh()` after one. Gradients reach the weight as from a cast. A transposed view that has
/// hooks, or keeps its gradient, is cast as ever.
///
/// Memory: 2 bytes a weight, on its device. Regions on several threads may use the copies at once;
/// write them only when no region runs. A copy written between forward and backward makes
/// backward throw, as a weight changed in place does.
class ShadowWeights {
 public:
  /// Makes and registers a copy of each of `parameters`: float32 leaves that require a gradient, on
  /// CPU or CUDA, each in one ShadowWeights only. `dtype` is float16 or bfloat16. Throws UsageError
  /// for other tensors. Does not sync.
  ShadowWeights(std::vector<at::Tensor> parameters, c10::ScalarType dtype);
  ~ShadowWeights();
  ShadowWeights(const ShadowWeights&) = delete;
  ShadowWeights& operator=(const ShadowWeights&) = delete;

  c10::ScalarType dtype() const { return dtype_; }

  /// The copy of parameter i, with its shape and strides, for a kernel that writes both. Call
  /// `written(i)` after writing.
  const at::Tensor& copy(size_t i) const { return copies_[i]; }
  size_t size() const { return copies_.size(); }

  /// Says that copy i was just written from its weight. Bumps the copy's version, because kernels
  /// that write through pointers don't.
  void written(size_t i);

  /// Writes every copy from its weight, whatever changed it. Does not sync.
  void refresh();

  /// How often a copy stood in for a cast so far, over all ShadowWeights of the process.
  static int64_t uses();

 private:
  std::vector<at::Tensor> parameters_;
  std::vector<at::Tensor> copies_;
  c10::ScalarType dtype_;
};

namespace detail {

/// The copy that ShadowWeights keep of `weight`, whether or not it is still that of its values;
/// undefined where there is none.
at::Tensor shadow_of(const at::Tensor& weight);

/// Writes those copies anew whose weight was changed by somebody else since. Returns false, and
/// writes nothing, where one of `copies` is no longer that of its weight. Does not sync.
bool refresh_outdated(const std::vector<at::Tensor>& weights,
                      const std::vector<at::Tensor>& copies);

}  // namespace detail
}  // namespace halfstep
