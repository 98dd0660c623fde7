#pragma once
#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace halfstep {

/// What OneFlow's AMP pass knows of an op.
enum class OpColor : uint8_t {
  white,     ///< runs in 16 bits: products
  gray,      ///< in 16 bits where it stands between white ops: additions, norms, softmax
  black,     ///< in float32, and so do gray and clear ops after it on the way to others
  clear,     ///< moves data: runs in what is around it
  unlisted,  ///< in float32; nothing spreads through it
};

/// "white", "gray", …: as in the enumeration.
std::string op_color_name(OpColor color);

/// The color of a name. Throws UsageError that lists the names for any other text.
OpColor parse_op_color(std::string_view name);

/// Writes the name.
std::ostream& operator<<(std::ostream& stream, OpColor color);

/// A tensor of a forward pass.
struct PlanValue {
  /// An input, parameter or buffer as the user knows it; empty for results. Unique.
  std::string name;
  /// Its dtype in the build as written, without a plan: "float32" is what a plan may change. With a
  /// device where that is not the plan's: "float32@cpu".
  std::string type;
  std::optional<size_t> producer = {};  ///< the node it is a result of

  bool operator==(const PlanValue&) const = default;
};

/// One op call of a forward pass, as it enters the dispatcher: linear, attention and cross entropy
/// are one each. A result of build is one, too, called "output".
struct PlanNode {
  /// A value that the call takes.
  struct Operand {
    size_t value = 0;
    bool stays_float32 = false;  ///< a batch norm's statistics, weight and bias
    bool operator==(const Operand&) const = default;
  };

  std::string op;  ///< "addmm", "softmax.int", "mylib::op"
  OpColor color = OpColor::unlisted;
  std::vector<Operand> operands = {};
  std::vector<size_t> results = {};
  std::string module = {};  ///< path of the module it belongs to; empty where that is unknown
  /// An earlier node it shares memory with that one of the two writes: they run in one dtype, as a
  /// cast between them would lose the write.
  std::optional<size_t> with = {};
  bool fixed = false;  ///< shares written memory with an input, parameter or buffer: float32

  bool operator==(const PlanNode&) const = default;
};

/// A forward pass: nodes in the order they ran.
struct OpGraph {
  std::vector<PlanValue> values;
  std::vector<PlanNode> nodes;

  bool operator==(const OpGraph&) const = default;
};

namespace detail {

inline constexpr std::string_view kPlanned = "float32";

/// Whether a plan decides on the dtype of a value.
inline bool is_planned(const PlanValue& value) {
  return value.type == kPlanned;
}

}  // namespace detail

}  // namespace halfstep
