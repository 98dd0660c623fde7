#pragma once
#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

namespace halfstep::inspect {

/// What a PrecisionRecorder saw: which op ran in which dtype, how often, what was cast, and, where
/// nothing ran in 16 bits, why. A value; `std::cout << report` prints it as tables.
struct PrecisionReport {
  /// An op with floating-point tensors, as a program calls it: what it is made of is left out, but
  /// for ops inside that autocast has a rule for; so are views, casts and `ones_like`.
  struct Op {
    std::string module;  ///< whose parameter it takes, or whose ModuleScope it is in; "." for the
                         ///< root, empty for nobody's and in backward
    std::string op;      ///< "linear": without "aten::" and overload
    c10::ScalarType dtype;  ///< of its first floating-point output
    int64_t calls;
  };
  /// Casts between floating-point dtypes: by autocast, by `to` or by copying.
  struct Cast {
    std::string module;  ///< as in Op
    c10::ScalarType from;
    c10::ScalarType to;
    int64_t casts;
    int64_t bytes;  ///< written by them
  };
  /// In the order of the first call.
  struct Pass {
    std::vector<Op> ops;
    std::vector<Cast> casts;
    int64_t calls() const;
    int64_t low_precision_calls() const;
    int64_t cast_count() const;
    int64_t cast_bytes() const;
  };

  Pass forward;   ///< all that did not run inside backward()
  Pass backward;  ///< by autograd; its ops differ between CPU and CUDA

  /// Names as written of rules of the policies in use that met no op call so far (not only while it
  /// recorded): OpPolicy::unmatched and unmatched_modules.
  std::vector<std::string> unmatched_ops;
  std::vector<std::string> unmatched_modules;

  /// What is known of forward calls where autocast could have acted.
  struct Regions {
    int64_t calls = 0;                  ///< ops with floating-point tensors
    int64_t inside = 0;                 ///< of them in an enabled region for their device type
    int64_t inside_another = 0;         ///< of them in one for another device type only
    int64_t low_rule = 0;               ///< of those inside with a rule that casts to 16 bits
    int64_t low_rule_on_double = 0;     ///< of them with float64 inputs alone, which are never cast
    std::string device_type;            ///< "cpu": of the last of `calls`
    std::string other_device_type;      ///< "cuda": of the last region of another one
    std::vector<std::string> policies;  ///< "torch(cpu)", …: the policies' bases, where not stock
    bool module_rules = false;          ///< whether one of them has rules by module
  };
  Regions regions;

  /// Whether any forward op ran in float16 or bfloat16.
  bool any_low_precision() const { return forward.low_precision_calls() > 0; }

  /// Why nothing ran in 16 bits, as far as can be known, and what to do; empty where something did.
  std::string why_nothing_low() const;

  /// The tables.
  std::string text() const;
};

/// Prints text().
std::ostream& operator<<(std::ostream& stream, const PrecisionReport& report);

}  // namespace halfstep::inspect
