#pragma once
#include <cstdint>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>

#include <ATen/core/Generator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>
#include <torch/version.h>

/// What differs between the LibTorch versions halfstep builds with (2.11 to 2.15), and nothing
/// else.
namespace halfstep::detail {

/// How an autograd edge holds its node: std::shared_ptr in 2.11, c10::intrusive_ptr in 2.15.
using NodePtr = decltype(torch::autograd::Edge::function);

template <class NodeType, class Ptr = NodePtr, class... Args>
Ptr make_node(Args&&... args) {
  if constexpr (std::is_same_v<Ptr, std::shared_ptr<torch::autograd::Node>>) {
    // The function that deletes nodes is found by its argument: LibTorch 2.15 has none.
    return Ptr(new NodeType(std::forward<Args>(args)...), [](auto* node) { deleteNode(node); });
  } else {
    return Ptr(std::unique_ptr<torch::autograd::Node>(
        std::make_unique<NodeType>(std::forward<Args>(args)...)));
  }
}

/// A weak reference to a node, as impl::set_grad_accumulator takes it.
template <class Ptr = NodePtr>
auto weak_node(const Ptr& node) {
  using NodeType = typename Ptr::element_type;
  if constexpr (std::is_same_v<Ptr, std::shared_ptr<NodeType>>) {
    return std::weak_ptr<NodeType>(node);
  } else {
    return c10::weak_intrusive_ptr<NodeType>(node);
  }
}

/// A slot of halfstep's in c10::ThreadLocalDebugInfo. 2.15 tells slots apart by the address of
/// their name, which must be static; 2.11 by a number, LibTorch's own being small.
template <class Kind = c10::DebugInfoKind>
constexpr Kind debug_info_kind(const std::string_view* name, uint8_t number) {
  if constexpr (std::is_enum_v<Kind>) {
    return static_cast<Kind>(128 + number);
  } else {
    return Kind(name);
  }
}

/// True where a CUDA graph must be told of the random generators it draws from (2.11; 2.15 finds
/// them by itself). There, a capture that the device refuses leaves them, and the allocator, in it.
template <class CudaGraph>
inline constexpr bool kRefusedCaptureLingers = requires(CudaGraph& graph,
                                                        const at::Generator& generator) {
  graph.register_generator_state(generator);
};

/// Tells a CUDA graph that is captured next of a generator, where it must know.
template <class CudaGraph>
void register_generator(CudaGraph& graph, const at::Generator& generator) {
  if constexpr (kRefusedCaptureLingers<CudaGraph>) graph.register_generator_state(generator);
}

/// True where ATen's fused CPU kernels are wrong for 16-bit parameters: SGD's leaves most elements
/// as they were (PyTorch issue 191763), Adagrad's rounds eps to the dtype. Right in 2.15.
inline constexpr bool kFused16BitIsWrong = TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 15;

}  // namespace halfstep::detail
