#pragma once
#include "halfstep/autocast/cast_rule.h"

#include <iosfwd>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <c10/core/DeviceType.h>

namespace torch::nn {
class Module;
}

namespace halfstep {

namespace detail {
class CallRules;
class CompiledPolicy;
}  // namespace detail

/// What an OpPolicy did with one op so far.
struct RuleUse {
  std::string op;      ///< "softmax.int"
  CastRule rule;       ///< the op's rule
  std::string set_as;  ///< the name the rule was set by ("softmax", "linear"), empty for a preset's
  int64_t calls;       ///< how often the rule decided, in all regions with this policy
};

/// Which rule each op follows in an autocast region: an op list that the user can change, where
/// PyTorch's are fixed in its binary.
///
///   auto policy = halfstep::OpPolicy::torch(torch::kCPU);
///   policy.set("softmax", halfstep::CastRule::float32);
///   halfstep::Autocast autocast(halfstep::AutocastOptions(torch::kCPU).policy(policy));
///
/// A value: changing a copy leaves the other alone; copies are cheap. An op without a rule is as an
/// unlisted op of PyTorch's: it runs in its inputs' dtype, and the ops it is made of follow theirs.
///
/// A rule acts where a call enters the dispatcher, and an op with a rule hides the ops it is made
/// of: a rule for `mm` does not see the product inside `matmul`. Ops are named with overload
/// ("softmax.int"; "conv1d.default" for the one without a name), without ("softmax": every
/// overload), with the library they are from ("mylib::op"), or as a family: `linear`, `matmul` and
/// `conv` reach every op that such a layer may enter by, `linear` the `addmm` and `matmul` that
/// torch::nn::Linear calls (and those a program calls by itself: the dispatcher can't tell).
/// Overloads that write an argument (`add_`, `mm.out`) are never cast and can't have a rule.
class OpPolicy {
 public:
  /// No rules: nothing is cast.
  OpPolicy();

  /// The list of the running LibTorch for a device type, read from its registrations. It may be
  /// given to a region of another device type, so that CUDA's behaviour shows on a CPU: CUDA's has
  /// the CPU's LSTM layer (mkldnn_rnn_layer) for that, beside cuDNN's.
  static OpPolicy torch(c10::DeviceType device_type);

  /// On every device: products in 16 bits; losses, softmax, norms (also batch norm), sums, and
  /// what either CPU's or CUDA's list runs in float32, in float32; what either promotes in the
  /// widest type. Nothing is banned.
  static OpPolicy safe();

  /// MMCV: CUDA's list, with promoting ops (and cat, stack, equal) run in 16 bits where all their
  /// inputs are float32, and binary_cross_entropy in float32 instead of banned, because MMCV runs
  /// losses under force_fp32.
  static OpPolicy mmcv();

  /// OneFlow's eager autocast: white ops in 16 bits; gray and clear ops in float32 unless all
  /// inputs are 16-bit; PyTorch's float32 ops that OneFlow does not list in float32, as all it does
  /// not list. Difference from OneFlow: ops that neither lists keep their inputs' dtype.
  static OpPolicy oneflow();

  /// The colors of OneFlow's graphs, which a PrecisionPlan is made from: white ops have the rule
  /// lower_precision, gray ones promote, clear ones (which only move data) keep. Nothing is black.
  static OpPolicy oneflow_graph();

  /// Apex's lists (O1): products and prelu in float16, pointwise functions that need range, norms,
  /// sums and losses in float32, arithmetic and comparisons in the widest type,
  /// binary_cross_entropy banned.
  static OpPolicy apex();

  /// A preset by name: "torch" (of `device_type`), "torch(cuda)" (of the one named), "safe",
  /// "mmcv", "oneflow", "oneflow_graph", "apex", "none". Throws UsageError for any other text.
  static OpPolicy preset(std::string_view name, c10::DeviceType device_type);

  /// Gives an op, an overload or a family a rule, whatever it had. Throws UsageError for an unknown
  /// name, with the nearest known one, for an op that writes its arguments, and where the rule
  /// can't be: float32_set_dtype needs an optional dtype argument, float32_append_dtype an overload
  /// that takes one.
  OpPolicy& set(const std::string& op, CastRule rule);

  /// Gives the modules of a path a rule: of exactly that path, or of all that the regular
  /// expression (ECMAScript's) matches whole: "head.*" is "head" and all below it, "encoder\\.\\d+"
  /// the layers of an encoder. Paths are those of named_modules(); the exact path wins, as in
  /// Keras' DTypePolicyMap.
  ///
  ///   policy.module("head.*", halfstep::CastRule::float32).bind(*net);
  ///
  /// C++ modules have no hooks. So the rule holds for ops that take a parameter or buffer of such a
  /// module, or a view of one (the weight.t() of torch::nn::Linear), and for all ops inside a
  /// ModuleScope of it. A copy of a parameter (`weight.to(…)`, `weight * 2`) is nobody's. An op
  /// inside a scope belongs to the owner of its parameter only if that is inside the scope's
  /// module; a module without a rule leaves it to the scope around. The module's rule wins over the
  /// op's own; only `banned` stays, unless the module's is float32. As ever, it acts on ops that
  /// have a kernel: those on LibTorch's list, torch::nn's layers, and whatever op this policy
  /// names.
  ///
  /// `rule`: lower_precision, float32, promote, promote_or_lower or keep. Throws UsageError for
  /// another, for text that is no regular expression, and, where bound, as bind() does. Giving a
  /// path again replaces its rule.
  OpPolicy& module(const std::string& path, CastRule rule);

  /// The tree the modules are of, as it is now: parameters registered later are unknown. Memory may
  /// change (`to(device)`, an optimizer's steps). Keeps nothing alive. A region with rules by
  /// module needs it; it may come before or after them. Throws UsageError, with the nearest path,
  /// for a path or pattern that no module has, for a module that two patterns match, and for a
  /// weight whose modules (where tied) have different rules.
  OpPolicy& bind(const torch::nn::Module& root);

  /// The rules by module, in the order given.
  const std::vector<std::pair<std::string, CastRule>>& module_rules() const;

  /// Takes over every rule of `other`, which wins where both have one; its tree, where it is bound.
  OpPolicy& merge(const OpPolicy& other);

  /// Takes the rule of an op, an overload or a family away. Throws UsageError for an unknown name.
  OpPolicy& remove(const std::string& op);

  /// The rule of one op, as in table(): "softmax.int". None where it has none.
  std::optional<CastRule> rule(const std::string& op) const;

  /// Every op with a rule, sorted by name.
  std::vector<std::pair<std::string, CastRule>> rules() const;

  /// The preset this policy began as: "torch(cpu)", "safe", …, "none".
  const std::string& base() const;

  /// What was set and removed since, in that order, by the names as written; a removal has no rule.
  const std::vector<std::pair<std::string, std::optional<CastRule>>>& changes() const;

  /// One line an op: its name, its rule, and the name the rule was set by.
  std::string table() const;

  /// How often each rule decided so far, over all regions that were given this policy or a copy of
  /// it; changing a policy begins anew. Safe while regions run.
  std::vector<RuleUse> uses() const;

  /// The names as written of rules (set, not a preset's) that decided no call so far: a misspelt or
  /// hidden op. A family counts as used when any of its ops was.
  std::vector<std::string> unmatched() const;

  /// The paths as written of rules by module that decided no call so far: no op took a parameter of
  /// such a module, and no ModuleScope named it. All of them before bind().
  std::vector<std::string> unmatched_modules() const;

  /// Internal: adds rules that look at each call.
  OpPolicy& add_call_rules(std::shared_ptr<const detail::CallRules> rules);
  /// Internal: what the kernels read; made at the first call.
  const std::shared_ptr<const detail::CompiledPolicy>& compiled() const;

 private:
  struct Rules;
  OpPolicy(std::string base, const std::map<std::string, CastRule>& rules);
  Rules& change();
  void check_modules() const;
  std::shared_ptr<Rules> rules_;
};

/// Prints the table.
std::ostream& operator<<(std::ostream& stream, const OpPolicy& policy);

}  // namespace halfstep
