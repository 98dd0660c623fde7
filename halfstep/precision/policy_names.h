#pragma once
#include "halfstep/precision/dtype_policy.h"

#include <string>
#include <string_view>

namespace halfstep {

/// A policy in jmp's words: one dtype for all three, or parts "key=dtype" with commas between them.
/// Keys are params, compute and output, or p, c and o; params that are not given are float32,
/// compute follows params, output follows compute. Dtypes are full, f32 and float32; half, f16 and
/// float16; bf16 and bfloat16; f64 and float64. Throws UsageError for another key or dtype, and for
/// a key given twice (Difference from jmp, which takes the last).
///
///   get_policy("params=float32,compute=float16,output=float32")
///   get_policy("c=bf16")  // p=full,c=bf16,o=bf16
///
/// Difference from jmp: half is float16 everywhere, and bfloat16 nowhere (in jmp: on TPUs).
DtypePolicy get_policy(std::string_view text);

/// A policy by Lightning Fabric's `precision`: "16-mixed" and "bf16-mixed" (float32 parameters,
/// autocast, outputs in torch's default dtype), "16-true", "bf16-true", "32-true" and "64-true"
/// (parameters and computation in that dtype, outputs in torch's default dtype), or a legacy name:
/// "16", "bf16" (mixed), "32", "64" (true). Throws UsageError for another name; Transformer Engine
/// has no counterpart here. Differences from Fabric: "32-true" casts inputs of other dtypes, which
/// it leaves alone; "16-mixed" on a CPU stays float16, where it warns and takes bfloat16.
DtypePolicy fabric_policy(std::string_view precision);

/// The floating-point tensors of `tree` in float32, and in float16: jmp's functions. See
/// DtypePolicy for trees.
template <class Tree>
auto cast_to_full(const Tree& tree) {
  return DtypePolicy("float32").cast_to_compute(tree);
}
template <class Tree>
auto cast_to_half(const Tree& tree) {
  return DtypePolicy("float16").cast_to_compute(tree);
}

namespace detail {

/// The shortest name jmp prints: full, f16, bf16, f64.
std::string jmp_name(c10::ScalarType dtype);

/// Whose names a text was taken for.
enum class Vocabulary { keras, jmp, fabric };

/// The end of an error message: who else knows `text`, or where to look.
std::string advice_for_policy(std::string_view text, Vocabulary taken_for);

}  // namespace detail

}  // namespace halfstep
