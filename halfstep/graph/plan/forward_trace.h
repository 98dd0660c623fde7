#pragma once
#include "halfstep/autocast/module_tree.h"
#include "halfstep/graph/plan/call_tensors.h"
#include "halfstep/graph/plan/forward_calls.h"
#include "halfstep/graph/plan/op_colors.h"
#include "halfstep/graph/plan/op_graph.h"

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <c10/core/StorageImpl.h>
#include <c10/core/TensorImpl.h>

namespace halfstep::detail {

/// Writes down the forward of a build that runs in float32, as an OpGraph: what a PrecisionPlan is
/// made from. What the build casts to 16 bits by itself stays so, except beside float32 operands.
/// Holds weak references only.
class ForwardTrace final : public ForwardCalls {
 public:
  ForwardTrace(OpPolicy policy, c10::DeviceType device_type, const torch::nn::Module& root)
      : colors_(std::move(policy)), device_type_(device_type), tree_(root) {}

  /// Names an input, parameter or buffer; others the build uses are "tensor".
  void add_outside(const at::Tensor& tensor, const std::string& name);

  void call(const c10::OperatorHandle& op, torch::jit::Stack* stack) override;

  /// What was written down, with these as what build returned.
  OpGraph take(const std::vector<at::Tensor>& outputs);

 private:
  struct Known {
    c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> alive;
    size_t value;
    int64_t writes;  // of its memory by then
  };
  struct Memory {
    c10::weak_intrusive_ptr<c10::StorageImpl> alive;
    size_t last_value;
    std::vector<size_t> nodes = {};  // that have results in it
    bool is_outside = false;
    int64_t writes = 0;
  };

  Memory* memory_of(const at::Tensor& tensor);
  size_t value_of(const at::Tensor& tensor);
  size_t add_value(const at::Tensor& tensor, const std::string& name,
                   std::optional<size_t> producer);
  void add_node(PlanNode node, const std::vector<CallTensor>& operands,
                const std::vector<CallTensor>& results);
  void raise_low_operands(const c10::OperatorHandle& op, std::vector<CallTensor>& operands,
                          torch::jit::Stack* stack);
  void tell_apart(const c10::OperatorHandle& op, const std::vector<CallTensor>& operands,
                  torch::jit::Stack* stack) const;
  std::string module_of(const std::vector<CallTensor>& operands) const;
  void join_by_memory();

  OpColors colors_;
  c10::DeviceType device_type_;
  ModuleTree tree_;
  OpGraph graph_;
  std::vector<bool> takes_gradient_;  // by value
  std::unordered_map<const c10::TensorImpl*, Known> by_tensor_;
  std::unordered_map<const c10::StorageImpl*, Memory> by_storage_;
  std::mutex mutex_;
};

}  // namespace halfstep::detail
