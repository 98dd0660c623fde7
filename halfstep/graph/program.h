#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

namespace halfstep::detail {

/// A tensor of a Program: an index into Program::values.
using ValueId = int32_t;

/// Where a value comes from.
enum class ValueKind {
  input,     ///< an argument of the call, another tensor each time
  external,  ///< a tensor that lives on outside: parameter, buffer, loss scale, …
  constant,  ///< a number that LibTorch made a tensor of
  computed,  ///< a result of an instruction
};

/// How the elements of a tensor lie: sizes and strides, where in its memory it begins, and what
/// lies there.
struct Geometry {
  std::vector<int64_t> sizes, strides;
  int64_t offset = 0;
  c10::ScalarType dtype = c10::kFloat;
  c10::Device device = c10::kCPU;
  bool is_conj = false, is_neg = false;  ///< its elements are the conjugate, the negative

  static Geometry of(const at::Tensor& tensor);
  int64_t numel() const;
  /// Elements lie one after the other, the last dimension the fastest.
  bool is_contiguous() const;
  /// Elements fill one piece of memory, each once; false where there are none.
  bool is_dense() const;
  bool operator==(const Geometry& other) const = default;
  /// As "bfloat16[64, 256]".
  std::string to_string() const;
};

struct Value {
  ValueKind kind = ValueKind::computed;
  std::string name;     ///< as a user knows it; empty for computed ones
  Geometry geometry;    ///< when it was recorded
  at::Tensor tensor;    ///< external and constant: read anew at each replay
  bool writes = false;  ///< external and input: an instruction changes its memory
  int32_t memory = 0;   ///< values with the same number share memory
};

/// One op call with its arguments, tensors' places empty.
struct Instruction {
  /// A tensor among the arguments, or in a list (`element`, else -1) among them; and for results.
  struct Place {
    int32_t argument;
    int32_t element;
    ValueId value;
    bool operator==(const Place&) const = default;
  };

  /// How results are written into tensors that stay: by `op`, which is given `more` after the
  /// arguments, and then those tensors.
  struct Placed {
    c10::OperatorHandle op;
    std::vector<c10::IValue> more;
  };

  c10::OperatorHandle op;
  c10::DispatchKeySet keys;  ///< below autograd and below the recorder
  std::vector<c10::IValue> arguments = {};
  std::vector<Place> operands = {};
  std::vector<Place> results = {};
  std::vector<ValueId> writes = {};  ///< operands it changes
  bool rehearsed = false;            ///< inside a HalfRehearsal
  bool backward = false;             ///< called by autograd's backward
  /// Set by a pass that put it there for a call of which it does not have all bits: it computes the
  /// same, but sums or rounds in another order.
  bool reorders = false;
  /// The first operand's memory seen with the geometry of the result, which no recorded op made:
  /// autograd unpacks saved tensors so. `op` is as_strided; the offset counts from the operand's.
  bool is_alias = false;
  std::optional<Placed> placed = {};
  /// The results are the same tensors in each run: views of one that lives on or is placed, or
  /// numbers that depend on nothing.
  bool once = false;
};

/// What a recorded step did, as a flat list of op calls below autograd.
struct Program {
  std::vector<Value> values;
  std::vector<Instruction> code;
  std::vector<ValueId> inputs;                  ///< by position
  std::vector<std::optional<ValueId>> outputs;  ///< by position; none: undefined
  /// The gradient that backward made of each parameter, by the caller's position; none: no
  /// gradient.
  std::vector<std::optional<ValueId>> gradients;
  /// An instruction names places in the memory of an input by their absolute offset.
  bool fixed_offsets = false;

  const Value& value(ValueId id) const { return values[static_cast<size_t>(id)]; }

  /// One line an instruction: `%7 = aten::mm(%3, %5)  bfloat16[64, 10]`, inputs and what is read
  /// besides first, outputs last.
  std::string to_string() const;
};

/// One instruction as Program::to_string prints it.
std::string to_string(const Program& program, const Instruction& instruction);

}  // namespace halfstep::detail
