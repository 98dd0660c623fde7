#include "halfstep/graph/plan/op_graph.h"

#include "halfstep/core/error.h"

#include <array>
#include <ostream>

namespace halfstep {

namespace {

constexpr std::array<std::string_view, 5> kNames = {"white", "gray", "black", "clear", "unlisted"};

}  // namespace

std::string op_color_name(OpColor color) {
  return std::string(kNames.at(static_cast<size_t>(color)));
}

OpColor parse_op_color(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<OpColor>(i);
  }
  detail::raise<UsageError>("parse_op_color",
                            "a color must be white, gray, black, clear or unlisted, but got '",
                            name, "'; use one of them");
}

std::ostream& operator<<(std::ostream& stream, OpColor color) {
  return stream << op_color_name(color);
}

}  // namespace halfstep
