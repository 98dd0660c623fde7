#include "halfstep/inspect/overflow_finding.h"

#include "halfstep/core/dtype.h"

#include <cmath>
#include <cstdio>
#include <ostream>

#include <c10/util/ArrayRef.h>
#include <c10/util/StringUtil.h>

namespace halfstep::inspect {

namespace {

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

}  // namespace

bool TensorRange::has_nan() const {
  return std::isnan(min) || std::isnan(max);
}

bool TensorRange::is_finite() const {
  return std::isfinite(min) && std::isfinite(max);
}

std::string TensorRange::text() const {
  const auto range =
      has_nan() ? std::string("with NaN") : c10::str("from ", number(min), " to ", number(max));
  return c10::str(name, ", ", dtype_name(dtype), " ", c10::IntArrayRef(sizes), ", ", range);
}

bool OverflowFinding::same_place(const OverflowFinding& other) const {
  return place() == other.place();
}

std::string OverflowFinding::place() const {
  if (came_in) return c10::str("before the step: ", tensor.name);
  auto text = c10::str(backward ? "backward: " : "forward: ", op);
  if (!within.empty()) text += " (in " + within + ")";
  if (!of.empty()) text += ", a gradient of " + of;
  if (!module.empty()) text += " of " + (module == "." ? "the model itself" : module);
  return text;
}

std::string OverflowFinding::text() const {
  if (came_in) return c10::str("before the step: ", tensor.text(), "\n");
  auto text = c10::str(place(), " gave ", tensor.has_nan() ? "NaN" : "inf",
                       "\n  result: ", tensor.text(), "\n");
  for (const auto& input : inputs) text += "  from: " + input.text() + "\n";
  return text;
}

std::ostream& operator<<(std::ostream& stream, const OverflowFinding& finding) {
  return stream << finding.text();
}

}  // namespace halfstep::inspect
