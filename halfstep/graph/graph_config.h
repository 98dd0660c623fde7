#pragma once
#include "halfstep/autocast/op_policy.h"
#include "halfstep/graph/plan/precision_plan.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include <c10/core/ScalarType.h>

namespace halfstep {

/// What a Graph does with its build. The names are OneFlow's where it has one (GraphConfig).
///
///   config().enable_amp(true, torch::kBFloat16).set_gradient_accumulation_steps(4);
///
/// A change drops what was recorded. Setters throw UsageError for values out of range.
class GraphConfig {
 public:
  /// Runs the forward of build as in an Autocast region of this dtype; its backward outside of it.
  /// Without a dtype: float16 on CUDA, bfloat16 on the CPU. Default: off. A region around the call
  /// does not reach into the graph.
  /// Difference from OneFlow: the dtype is not float16 on every device, and the ops that run in it
  /// are LibTorch's list or `policy`, unless plan_precision() is called.
  GraphConfig& enable_amp(bool enabled = true, std::optional<c10::ScalarType> dtype = {});
  bool amp_enabled() const { return amp_; }
  std::optional<c10::ScalarType> amp_dtype() const { return dtype_; }

  /// Which ops run in 16 bits. Default: LibTorch's list.
  GraphConfig& policy(std::optional<OpPolicy> value);
  const std::optional<OpPolicy>& policy() const { return policy_; }

  /// With enable_amp: a PrecisionPlan says what runs in 16 bits, as in OneFlow, in the place of
  /// autocast. It is made of a run of build in float32, before the first one that is recorded,
  /// which leaves no trace in parameters, buffers and random generators; its colors are `policy`'s,
  /// or OneFlow's lists (OpPolicy::oneflow_graph) where there is none. Results come back in
  /// float32, as in OneFlow, unless the plan's "output" is white. Default: off.
  GraphConfig& plan_precision(bool enabled = true);
  bool plans_precision() const { return plan_precision_ || plan_; }

  /// The same with a plan that was made before, and loaded or changed: none is made then, and a
  /// build that makes other calls is a UsageError. Its dtype must be enable_amp's. None: as
  /// plan_precision says.
  GraphConfig& set_precision_plan(std::optional<PrecisionPlan> plan);
  const std::optional<PrecisionPlan>& precision_plan() const { return plan_; }

  /// Each call cuts its inputs into this many parts along dimension 0, runs build on one after the
  /// other, averages the gradients and makes one step. Outputs are put together along dimension 0;
  /// those without dimensions become one of this length, as in OneFlow. Default: 1. At least 1.
  GraphConfig& set_gradient_accumulation_steps(int64_t steps);
  int64_t gradient_accumulation_steps() const { return accumulation_steps_; }

  /// How many kinds of inputs (shapes, dtypes) are kept recorded; the one used longest ago makes
  /// room. Default: 8. At least 1.
  GraphConfig& set_max_recordings(int64_t count);
  int64_t max_recordings() const { return max_recordings_; }

  /// Checked mode: each replay is compared with an eager run of build from the same state, outputs,
  /// gradients and all tensors the step may use: to the bit, but for what comes of calls that a
  /// pass made reorder arithmetic, which must lie near it (docs/graph.md has the bounds). Takes
  /// twice the time and memory. Default: off.
  GraphConfig& check_replays(bool enabled = true);
  bool checks_replays() const { return check_; }

  /// Switches a pass over the recorded program on or off: "reuse_views", "reuse_results",
  /// "drop_inverse_casts", "remove_dead_calls", "choose_kernels", "fuse_batch_norm",
  /// "fuse_elementwise", "write_in_place", "place_results"; "plan_memory", which keeps the memory
  /// of a replay for the next; and "cuda_graph", which launches a replay on a GPU as one CUDA
  /// graph. Results have the same bits with any of them, but that a NaN may be another NaN.
  /// Default: on. And "lower_convolutions", which adds in another order than LibTorch, in favour of
  /// speed; default: off. Throws UsageError for another name.
  static constexpr const char* kPlanMemory = "plan_memory";
  static constexpr const char* kCudaGraph = "cuda_graph";
  GraphConfig& enable_pass(const std::string& name, bool enabled = true);
  bool pass_enabled(const std::string& name) const;

  /// Counts changes, so that a Graph notices one.
  int64_t version() const { return version_; }

 private:
  bool amp_ = false;
  std::optional<c10::ScalarType> dtype_;
  std::optional<OpPolicy> policy_;
  bool plan_precision_ = false;
  std::optional<PrecisionPlan> plan_;
  int64_t accumulation_steps_ = 1;
  int64_t max_recordings_ = 8;
  bool check_ = false;
  std::map<std::string, bool> passes_;  // those that somebody switched
  int64_t version_ = 0;
};

}  // namespace halfstep
