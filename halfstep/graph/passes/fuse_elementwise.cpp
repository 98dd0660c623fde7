#include "halfstep/graph/kernels/elementwise_kernels.h"
#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/passes/program_uses.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

namespace halfstep::detail {

namespace {

bool is_narrow_or_wide(c10::ScalarType dtype) {
  return dtype == c10::kFloat || dtype == c10::kBFloat16;
}

bool is_one(const c10::IValue& value) {
  return value.isScalar() && value.toScalar().equal(1);
}

/// _to_copy that changes the dtype alone.
bool only_casts(const Instruction& call) {
  const auto& device = call.arguments[3];
  const auto& format = call.arguments[6];
  return call.arguments[2].isNone() && (device.isNone() || device.toDevice().is_cpu()) &&
         (call.arguments[4].isNone() || !call.arguments[4].toBool()) &&
         (format.isNone() || format.toMemoryFormat() == c10::MemoryFormat::Preserve);
}

/// What a call computes, by its name and the arguments that are no tensors.
std::optional<ElementwiseKind> kind_of(const Instruction& call) {
  const std::string_view name = call.op.schema().name();
  const std::string_view overload = call.op.schema().overload_name();
  if (overload == "Tensor") {
    if ((name == "aten::add" || name == "aten::add_") && is_one(call.arguments[2]))
      return ElementwiseKind::add;
    if (name == "aten::mul" || name == "aten::mul_") return ElementwiseKind::multiply;
  }
  if (!overload.empty()) return std::nullopt;
  if (name == "aten::relu" || name == "aten::relu_") return ElementwiseKind::relu;
  if (name == "aten::_to_copy" && only_casts(call)) return ElementwiseKind::copy;
  if (name == "aten::threshold_backward" && call.arguments[2].toScalar().equal(0))
    return ElementwiseKind::mask;
  return std::nullopt;
}

class ElementwiseFuser {
 public:
  explicit ElementwiseFuser(Program& program)
      : program_(program), calls_(program), joined_(program.code.size(), false) {
    for (const auto& call : program.code) kinds_.push_back(supported(call));
  }

  int64_t run() {
    int64_t count = 0;
    auto& code = program_.code;
    for (size_t i = 0; i < code.size(); ++i) {
      if (!kinds_[i] || joined_[i]) continue;
      Steps run{i};
      while (const auto next = next_call(run)) run.push_back(*next);
      if (run.size() == 1 && !casts_beside(code[i])) continue;
      join(run);
      ++count;
    }
    std::vector<Instruction> kept;
    for (size_t i = 0; i < code.size(); ++i) {
      if (!joined_[i] || code[i].op == elementwise_op()) kept.push_back(std::move(code[i]));
    }
    code = std::move(kept);
    return count;
  }

 private:
  using Steps = std::vector<size_t>;  // indices of calls

  const Geometry& geometry(ValueId id) const { return program_.value(id).geometry; }

  std::optional<ElementwiseKind> supported(const Instruction& call) const {
    if (call.rehearsed || call.is_alias || call.results.size() != 1 || call.operands.empty())
      return std::nullopt;
    const auto& result = geometry(call.results[0].value);
    if (!result.device.is_cpu() || !is_narrow_or_wide(result.dtype) || !result.is_dense())
      return std::nullopt;
    for (const auto& operand : call.operands) {
      const auto& x = geometry(operand.value);
      if (!lie_alike(x, result) || !is_narrow_or_wide(x.dtype)) return std::nullopt;
    }
    const auto kind = kind_of(call);
    const size_t operands =
        !kind || *kind == ElementwiseKind::copy || *kind == ElementwiseKind::relu ? 1 : 2;
    if (!kind || call.operands.size() != operands || !elementwise_has_same_bits(*kind))
      return std::nullopt;
    // In place: into a value of the program's own, all of it.
    if (!call.writes.empty()) {
      const auto written = call.operands[0].value;
      if (call.writes != std::vector{written} || call.results[0].value != written ||
          calls_.lives_on(written))
        return std::nullopt;
    }
    if (*kind == ElementwiseKind::mask &&
        geometry(call.operands[0].value).dtype != geometry(call.operands[1].value).dtype)
      return std::nullopt;
    return kind;
  }

  /// LibTorch makes a copy of the operand that has another dtype.
  bool casts_beside(const Instruction& call) const {
    return call.operands.size() == 2 && can_end(Steps{size_t(&call - program_.code.data())}) &&
           geometry(call.operands[0].value).dtype != geometry(call.operands[1].value).dtype;
  }

  /// The next call on the result of the last one, if the run can go on with it.
  std::optional<size_t> next_call(const Steps& run) const {
    const auto result = program_.code[run.back()].results[0].value;
    const auto& users = calls_.of(result);
    const auto next = std::upper_bound(users.begin(), users.end(), run.back());
    if (next == users.end() || !kinds_[*next] || joined_[*next]) return std::nullopt;
    const auto& call = program_.code[*next];
    if (!lie_alike(geometry(call.results[0].value), geometry(result))) return std::nullopt;
    const bool reads = std::any_of(call.operands.begin(), call.operands.end(),
                                   [&](const auto& operand) { return operand.value == result; });
    Steps longer = run;
    longer.push_back(*next);
    return reads && can_end(longer) ? std::optional(*next) : std::nullopt;
  }

  /// Whether all calls of a run can be made where the last one is: what they read is the same
  /// there, nobody misses their results before, and they are few enough.
  bool can_end(const Steps& run) const {
    const auto is_in_run = [&](size_t call) {
      return std::find(run.begin(), run.end(), call) != run.end();
    };
    size_t values = run.size();
    for (const auto i : run) {
      const auto& call = program_.code[i];
      values += call.operands.size();
      const auto result = call.results[0].value;
      for (const auto user : calls_.of(result)) {
        if (user > i && user < run.back() && !is_in_run(user)) return false;
      }
      if (!call.writes.empty() && !is_seen_alone(result, run.back())) return false;
      for (size_t k = i + 1; k < run.back(); ++k) {
        if (is_in_run(k)) continue;
        for (const auto& operand : call.operands) {
          for (const auto written : program_.code[k].writes) {
            if (calls_.same(operand.value, written)) return false;
          }
        }
      }
    }
    return values <= static_cast<size_t>(kMostElementwiseValues);
  }

  /// Whether calls after `last` find what is in a memory by this value alone: it will lie
  /// elsewhere.
  bool is_seen_alone(ValueId id, size_t last) const {
    std::vector<ValueId> others;  // made before, in the same memory
    for (const auto user : calls_.of(id)) {
      const auto& call = program_.code[user];
      for (const auto* places : {&call.operands, &call.results}) {
        for (const auto& place : *places) {
          if (place.value == id || !calls_.same(place.value, id)) continue;
          if (user <= last) others.push_back(place.value);
          if (std::find(others.begin(), others.end(), place.value) != others.end() && user > last)
            return false;
        }
      }
    }
    for (const auto* ids : {&program_.outputs, &program_.gradients}) {
      for (const auto& given : *ids) {
        if (given && std::find(others.begin(), others.end(), *given) != others.end()) return false;
      }
    }
    return true;
  }

  bool is_used_after(ValueId id, size_t last) const {
    return calls_.handed_out(id) || calls_.of(id).back() > last;
  }

  void join(const Steps& run) {
    const auto last = run.back();
    std::vector<ValueId> inputs;
    for (const auto i : run) {
      const auto& call = program_.code[i];
      for (const auto& operand : call.operands) {
        const bool from_run = std::any_of(run.begin(), run.end(), [&](size_t k) {
          return k < i && program_.code[k].results[0].value == operand.value;
        });
        if (!from_run && std::find(inputs.begin(), inputs.end(), operand.value) == inputs.end())
          inputs.push_back(operand.value);
      }
    }
    auto numbered = inputs;  // of each number of the run, the value it is now
    std::vector<ElementwiseStep> steps;
    const auto number_of = [&](ValueId id) {
      const auto found = std::find(numbered.rbegin(), numbered.rend(), id);
      return int64_t(numbered.rend() - found) - 1;
    };
    for (const auto i : run) {
      const auto& call = program_.code[i];
      const auto result = call.results[0].value;
      steps.push_back({*kinds_[i], number_of(call.operands[0].value),
                       call.operands.size() == 2 ? number_of(call.operands[1].value) : -1,
                       geometry(result).dtype});
      numbered.push_back(result);
    }
    Instruction joined{elementwise_op(), c10::DispatchKeySet(c10::DispatchKey::CPU)};
    joined.backward = program_.code[last].backward;
    std::vector<int64_t> outputs;
    for (size_t i = inputs.size(); i < numbered.size(); ++i) {
      const auto id = numbered[i];
      if (number_of(id) != int64_t(i) || !is_used_after(id, last)) continue;
      joined.results.push_back({0, int32_t(outputs.size()), id});
      outputs.push_back(int64_t(i));
    }
    for (size_t i = 0; i < inputs.size(); ++i)
      joined.operands.push_back({0, int32_t(i), inputs[i]});
    const std::vector<at::Tensor> places(inputs.size());
    joined.arguments = {places, packed(steps), outputs};
    for (const auto i : run) joined_[i] = true;
    if (outputs.empty()) return;  // all of it was dead
    program_.code[last] = std::move(joined);
  }

  Program& program_;
  MemoryCalls calls_;
  std::vector<bool> joined_;
  std::vector<std::optional<ElementwiseKind>> kinds_;
};

}  // namespace

int64_t fuse_elementwise(Program& program) {
  return ElementwiseFuser(program).run();
}

}  // namespace halfstep::detail
