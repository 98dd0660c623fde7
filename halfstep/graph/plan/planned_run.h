#pragma once
#include "halfstep/core/error.h"
#include "halfstep/graph/plan/call_tensors.h"
#include "halfstep/graph/plan/forward_calls.h"
#include "halfstep/graph/plan/precision_plan.h"

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include <c10/core/TensorImpl.h>

namespace halfstep::detail {

class PolicyRegion;

/// A build did not make the calls of its plan.
class PlanMismatch : public UsageError {
 public:
  using UsageError::UsageError;
};

/// Runs the forward of a build as a plan says: casts operands before each call, each value once,
/// above autograd, which so sees the casts. Throws PlanMismatch at a call that is not the plan's
/// next one.
class PlannedRun final : public ForwardCalls {
 public:
  /// `remedy` ends the message of a mismatch.
  PlannedRun(std::shared_ptr<const PrecisionPlan> plan, c10::DeviceType device_type,
             std::string remedy);

  void call(const c10::OperatorHandle& op, torch::jit::Stack* stack) override;
  void begin_backward() override;

  /// Casts what build returned, too, and throws where it did not make all calls.
  void finish(std::vector<at::Tensor>& outputs);

 private:
  struct Cast {
    c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> of;
    uint32_t version;
    at::Tensor tensor;
  };

  size_t begin(const c10::OperatorHandle& op, const std::vector<CallTensor>& operands);
  void cast_operands(size_t node, const c10::OperatorHandle& op,
                     const std::vector<CallTensor>& operands, torch::jit::Stack* stack);
  void settle_results(size_t node, const c10::OperatorHandle& op,
                      const std::vector<CallTensor>& operands, torch::jit::Stack* stack);
  at::Tensor cast(const at::Tensor& tensor, c10::ScalarType dtype);
  c10::ScalarType dtype_of(size_t node) const;
  bool fits(const at::Tensor& tensor, size_t value) const;
  void check_autocast();
  [[noreturn]] void fail(const std::string& but);

  std::shared_ptr<const PrecisionPlan> plan_;
  c10::DeviceType device_type_;
  std::string remedy_;
  const PolicyRegion* surrounding_;
  size_t next_ = 0;
  size_t calls_ = 0;  // nodes before outputs and losses
  std::unordered_map<const c10::TensorImpl*, Cast> casts_;
  std::string error_;
  std::mutex mutex_;
};

}  // namespace halfstep::detail
