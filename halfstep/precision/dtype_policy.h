#pragma once
#include "halfstep/autocast/autocast.h"
#include "halfstep/core/nested.h"

#include <cstddef>
#include <iosfwd>
#include <string>
#include <string_view>

#include <c10/core/ScalarType.h>

namespace halfstep {

/// In which dtypes a model, or a layer of it, keeps its parameters, computes, and gives its
/// outputs: one value behind Keras's policies, jmp's and Fabric's `precision`.
///
///   DtypePolicy("mixed_float16")               // Keras: float32 parameters, float16 else
///   get_policy("p=f32,c=bf16,o=f32")           // jmp
///   fabric_policy("bf16-mixed")                // Lightning Fabric
///
/// A value: copied freely, safe from any thread. Casts don't sync, and autograd records them.
class DtypePolicy {
 public:
  /// The global policy (`dtype_policy()`), as in Keras.
  DtypePolicy();

  /// Throws UsageError for a dtype other than float32, float16, bfloat16 and float64.
  DtypePolicy(c10::ScalarType param_dtype, c10::ScalarType compute_dtype,
              c10::ScalarType output_dtype);

  /// A policy of Keras: "mixed_float16" or "mixed_bfloat16" (float32 parameters, the rest in that
  /// dtype), or the name of a floating-point dtype for all three. Converts implicitly, as Keras
  /// takes a name wherever it takes a policy. Throws UsageError for another name. Difference from
  /// Keras: no integer and no quantized policies.
  DtypePolicy(std::string_view name);
  DtypePolicy(const char* name) : DtypePolicy(std::string_view(name)) {}
  DtypePolicy(const std::string& name) : DtypePolicy(std::string_view(name)) {}
  DtypePolicy(std::nullptr_t) = delete;

  c10::ScalarType param_dtype() const { return param_; }
  c10::ScalarType compute_dtype() const { return compute_; }
  c10::ScalarType output_dtype() const { return output_; }

  /// Keras's word for `param_dtype`.
  c10::ScalarType variable_dtype() const { return param_; }

  /// The same policy with another output dtype.
  DtypePolicy with_output_dtype(c10::ScalarType dtype) const { return {param_, compute_, dtype}; }

  /// The floating-point tensors of `tree` in one of the three dtypes. A tree is a tensor, or
  /// vectors, arrays, pairs, tuples, optionals and maps (std::map, std::unordered_map,
  /// torch::OrderedDict) that hold some, in any nesting; an at::TensorList gives a vector (inside a
  /// container, where nothing would own the results, it does not compile). Anything else in it,
  /// integers, strings or objects of your own, is copied as it is, and so is a tensor that has the
  /// dtype already.
  template <class Tree>
  auto cast_to_param(const Tree& tree) const {
    return cast_to(param_, tree);
  }
  template <class Tree>
  auto cast_to_compute(const Tree& tree) const {
    return cast_to(compute_, tree);
  }
  template <class Tree>
  auto cast_to_output(const Tree& tree) const {
    return cast_to(output_, tree);
  }

  /// Whether parameters and computation differ, which is what autocast is for.
  bool is_mixed() const { return param_ != compute_; }

  /// Whether gradients need a GradScaler: it is mixed, and computes in float16. So Keras and Fabric
  /// decide.
  ///
  ///   GradScaler scaler(GradScalerOptions(torch::kCUDA).enabled(policy.needs_loss_scale()));
  bool needs_loss_scale() const { return is_mixed() && compute_ == c10::kHalf; }

  /// The region the policy's computation runs in: autocast to `compute_dtype` where the policy is
  /// mixed, disabled where it is not. Throws UsageError for a mixed policy that autocast can't
  /// make: a compute dtype of more than 16 bits, or float64 parameters.
  AutocastOptions autocast(c10::DeviceType device_type) const;

  /// Keras's name, "mixed_float16" or "float32", where it has one for this policy, else `str()`.
  std::string name() const;

  /// As jmp prints it: "p=full,c=f16,o=full". `get_policy` reads it.
  std::string str() const;

  bool operator==(const DtypePolicy&) const = default;

 private:
  template <class Tree>
  static auto cast_to(c10::ScalarType dtype, const Tree& tree) {
    auto cast = detail::cast_floating(dtype);
    return detail::map_tensors(cast, tree);
  }

  c10::ScalarType param_, compute_, output_;
};

/// Prints `str()`.
std::ostream& operator<<(std::ostream& out, const DtypePolicy& policy);

/// The policy of the process, which layers take that are given none. Until one is set, that of
/// torch's default dtype, float32 unless changed. Safe from any thread.
DtypePolicy dtype_policy();

/// Sets it for layers made from now on.
///
///   halfstep::set_dtype_policy("mixed_bfloat16");
void set_dtype_policy(const DtypePolicy& policy);

}  // namespace halfstep
