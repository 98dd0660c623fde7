#pragma once
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

namespace halfstep::inspect {

/// A tensor as an OverflowTracer remembers it.
struct TensorRange {
  std::string name;  ///< "weight fc1.weight", "relu in fc1", "addmm backward in fc1", "input"
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  std::vector<int64_t> sizes;
  double min = 0;  ///< NaN, as max, where an element is NaN
  double max = 0;

  bool has_nan() const;
  bool is_finite() const;
  /// "relu in fc1, float16 [64, 256], from 0 to 6.5e+04"
  std::string text() const;
};

/// The first op of a step whose result was not finite; see OverflowTracer.
struct OverflowFinding {
  bool came_in = false;  ///< no op made it: a weight or an input had it before
  bool backward = false;
  std::string op;      ///< "addmm"; empty where it came in
  std::string within;  ///< the op the program called, where `op` is a part of it: "linear"
  std::string of;      ///< backward: the forward op, "addmm", or autograd's name for its node
  std::string module;  ///< whose op it is, also in backward; "." for the root, empty for nobody's
  TensorRange tensor;  ///< the result, or the tensor that came in
  std::vector<TensorRange> inputs;  ///< of the op, before it ran

  /// Whether another one has the same op, module and direction.
  bool same_place(const OverflowFinding& other) const;
  /// The place in one line: "forward: addmm (in linear) of fc1".
  std::string place() const;
  /// The place, what came out, and a line for each input.
  std::string text() const;
};

/// Writes text().
std::ostream& operator<<(std::ostream& stream, const OverflowFinding& finding);

}  // namespace halfstep::inspect
