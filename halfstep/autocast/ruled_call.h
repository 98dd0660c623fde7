#pragma once
#include "halfstep/autocast/autocast_kernels.h"
#include "halfstep/autocast/cast_rule.h"
#include "halfstep/autocast/region_cast_cache.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>

namespace halfstep::detail {

/// Calls of one op under a rule, with its arguments on a stack. What it needs to know of the op is
/// looked up once. Safe from any thread.
class RuledCall {
 public:
  RuledCall(const c10::OperatorHandle& op, c10::DeviceType device_type);

  /// Casts the arguments as the rule says and calls the op with autocast off, as LibTorch's own
  /// autocast kernels do. `cache` is the region's, null outside of regions with a policy:
  /// LibTorch's is used then. Throws UsageError for `banned`, and for a dtype rule the op can't
  /// follow.
  void run(CastRule rule, RegionCastCache* cache, StandIn stand_in, torch::jit::Stack* stack) const;

  /// Calls the op as if autocast had no kernel for it; autocast stays on for the ops it is made of.
  void fall_through(c10::DispatchKeySet keys, torch::jit::Stack* stack) const;

  /// Puts what stands in for them in the place of arguments.
  void use_stand_ins(StandIn stand_in, torch::jit::Stack* stack) const;

  const c10::OperatorHandle& op() const { return op_; }
  c10::ArrayRef<c10::IValue> arguments(const torch::jit::Stack& stack) const {
    return c10::ArrayRef<c10::IValue>(stack.data() + (stack.size() - castable_.size()),
                                      castable_.size());
  }

 private:
  /// Arguments of a batch norm that belong together: its running statistics, which it writes
  /// without saying so in its schema, and the weight and bias, which must have their dtype.
  struct BatchNorm {
    std::vector<size_t> statistics, affine;
    std::optional<size_t> training;  // whether it writes them
    bool has_parameter(size_t argument) const {
      return !statistics.empty() &&
             std::find(affine.begin(), affine.end(), argument) != affine.end();
    }
  };
  class LentStatistics;

  template <class Change>
  void change_tensors(torch::jit::Stack* stack, const Change& change) const;
  c10::ScalarType parameter_dtype(c10::ScalarType dtype, torch::jit::Stack* stack) const;
  LentStatistics lend_statistics(c10::ScalarType dtype, torch::jit::Stack* stack) const;
  LentStatistics cast_all(c10::ScalarType dtype, RegionCastCache* cache, StandIn stand_in,
                          torch::jit::Stack* stack) const;
  c10::ScalarType widest(torch::jit::Stack* stack) const;
  bool all_float32(torch::jit::Stack* stack) const;
  bool first_is_eligible(torch::jit::Stack* stack) const;

  c10::OperatorHandle op_;
  c10::DeviceType device_type_;
  c10::DispatchKeySet autocast_key_;
  c10::DispatchKeySet below_autocast_;
  std::vector<bool> castable_;
  BatchNorm batch_norm_;
  std::optional<size_t> dtype_argument_;
  std::optional<c10::OperatorHandle> overload_with_dtype_;
};

}  // namespace halfstep::detail
