#include "halfstep/graph/kernels/batch_norm_kernels.h"
#include "halfstep/graph/kernels/batch_norm_rows.h"
#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/passes/program_uses.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

namespace halfstep::detail {

namespace {

bool is_op(const Instruction& call, std::string_view name) {
  return call.op.schema().name() == name && call.op.schema().overload_name().empty() &&
         !call.rehearsed && !call.is_alias;
}

bool is_batch_norm(const Instruction& call) {
  return is_op(call, "aten::native_batch_norm") || is_op(call, "aten::_native_batch_norm_legit");
}

/// Images that lie channels-last and in no other format.
bool is_image(const Geometry& x) {
  if (!x.device.is_cpu() || x.dtype != c10::kBFloat16 || x.sizes.size() != 4) return false;
  const auto n = x.sizes[0], c = x.sizes[1], h = x.sizes[2], w = x.sizes[3];
  return c > 0 && c % kChannelMultiple == 0 && n > 0 && h * w > 1 &&
         x.strides == std::vector<int64_t>{h * w * c, 1, w * c, c};
}

bool is_row(const Geometry& x, int64_t channels) {
  return x.device.is_cpu() && x.dtype == c10::kFloat && x.sizes == std::vector{channels} &&
         x.strides == std::vector<int64_t>{1};
}

bool are_alike(const Geometry& a, const Geometry& b) {
  return lie_alike(a, b) && a.dtype == b.dtype;
}

/// a + b or a += b.
bool is_sum(const Instruction& call) {
  const auto& schema = call.op.schema();
  return (schema.name() == "aten::add" || schema.name() == "aten::add_") &&
         schema.overload_name() == "Tensor" && !call.rehearsed && call.operands.size() == 2 &&
         call.arguments[2].isScalar() && call.arguments[2].toScalar().equal(1);
}

bool is_in_place(const Instruction& call) {
  return !call.writes.empty();
}

class BatchNormFuser {
 public:
  explicit BatchNormFuser(Program& program)
      : program_(program),
        calls_(program),
        replaced_(program.code.size(), false),
        made_by_(program.values.size(), 0) {
    for (size_t i = program.code.size(); i-- > 0;) {
      for (const auto& place : program.code[i].results) made_by_[size_t(place.value)] = i;
    }
  }

  int64_t run() {
    int64_t count = 0;
    auto& code = program_.code;
    for (size_t i = 0; i < code.size(); ++i) count += fuse_forward(i) ? 1 : 0;
    for (size_t i = 0; i < code.size(); ++i) count += fuse_backward(i) ? 1 : 0;
    std::vector<Instruction> kept;
    for (size_t i = 0; i < code.size(); ++i) {
      if (!replaced_[i]) kept.push_back(std::move(code[i]));
    }
    code = std::move(kept);
    return count;
  }

 private:
  const Geometry& geometry(ValueId id) const { return program_.value(id).geometry; }

  bool is_row_operand(const Instruction& call, int32_t argument, int64_t channels) const {
    const auto id = operand_of(call, argument);
    return id && is_row(geometry(*id), channels);
  }

  /// A batch norm, what is added to its result and the relu of that, as far as they are there.
  struct Chain {
    std::vector<size_t> calls;
    ValueId result;
    std::optional<ValueId> other;
    bool relu = false;
  };

  bool fuse_forward(size_t i) {
    const auto call = program_.code[i];
    if (!is_batch_norm(call)) return false;
    const auto input = operand_of(call, 0), result = result_of(call, 0);
    if (!input || !result || !is_image(geometry(*input)) ||
        !are_alike(geometry(*input), geometry(*result)) || !call.arguments[5].toBool())
      return false;
    for (int32_t k = 1; k < 5; ++k) {
      if (!is_row_operand(call, k, geometry(*input).sizes[1])) return false;
    }
    Chain chain{{i}, *result, {}};
    if (auto longer = with_sum(chain); longer && can_move(i, *longer)) chain = *longer;
    if (auto longer = with_relu(chain); longer && can_move(i, *longer)) chain = *longer;
    const auto last = chain.calls.back();
    Instruction fused{batch_norm_op(), call.keys};
    fused.arguments.resize(9);
    for (int32_t k = 0; k < 5; ++k) fused.operands.push_back({k, -1, *operand_of(call, k)});
    fused.arguments[5] = call.arguments[6];
    fused.arguments[6] = call.arguments[7];
    if (chain.other) fused.operands.push_back({7, -1, *chain.other});
    fused.arguments[8] = chain.relu;
    fused.results = call.results;
    for (auto& place : fused.results) {
      if (place.argument == 0) place.value = chain.result;
      made_by_[size_t(place.value)] = last;
    }
    fused.writes = call.writes;
    fused.backward = call.backward;
    for (const auto k : chain.calls) replaced_[k] = true;
    replaced_[last] = false;
    program_.code[last] = std::move(fused);
    return true;
  }

  /// The next call that names the chain's result, if it can be made part of the chain: one that
  /// writes into it, or the only one that reads it.
  std::optional<size_t> next_call(const Chain& chain) const {
    const auto& users = calls_.of(chain.result);
    const auto next = std::upper_bound(users.begin(), users.end(), chain.calls.back());
    if (next == users.end() || replaced_[*next]) return std::nullopt;
    const auto& call = program_.code[*next];
    const auto result = result_of(call, 0);
    if (!result || !are_alike(geometry(*result), geometry(chain.result))) return std::nullopt;
    if (is_in_place(call)) return *result == chain.result ? std::optional(*next) : std::nullopt;
    const bool alone = std::next(next) == users.end() && !calls_.handed_out(chain.result);
    return alone ? std::optional(*next) : std::nullopt;
  }

  std::optional<Chain> with_sum(Chain chain) const {
    const auto next = next_call(chain);
    if (!next || !is_sum(program_.code[*next])) return std::nullopt;
    const auto& call = program_.code[*next];
    auto a = *operand_of(call, 0), b = *operand_of(call, 1);
    if (a != chain.result && !is_in_place(call)) std::swap(a, b);
    if (a != chain.result || calls_.same(a, b) || !are_alike(geometry(a), geometry(b)))
      return std::nullopt;
    chain.other = b;
    chain.result = *result_of(call, 0);
    chain.calls.push_back(*next);
    return chain;
  }

  std::optional<Chain> with_relu(Chain chain) const {
    const auto next = next_call(chain);
    if (!next) return std::nullopt;
    const auto& call = program_.code[*next];
    if (!is_op(call, "aten::relu") && !is_op(call, "aten::relu_")) return std::nullopt;
    chain.relu = true;
    chain.result = *result_of(call, 0);
    chain.calls.push_back(*next);
    return chain;
  }

  /// Whether the batch norm can be computed where the chain ends: it reads and writes the same
  /// there, and nobody misses its statistics before.
  bool can_move(size_t i, const Chain& chain) const {
    const auto& call = program_.code[i];
    const auto last = chain.calls.back();
    for (const auto& place : call.operands) {
      const bool statistics = place.argument == 3 || place.argument == 4;
      if (statistics ? calls_.touched(place.value, i, last) : calls_.written(place.value, i, last))
        return false;
    }
    for (const int32_t k : {1, 2}) {
      const auto result = result_of(call, k);
      if (result && calls_.touched(*result, i, last + 1)) return false;
    }
    return !chain.other || !calls_.written(*chain.other, chain.calls[1], last);
  }

  bool fuse_backward(size_t i) {
    const auto call = program_.code[i];
    if (!is_op(call, "aten::native_batch_norm_backward")) return false;
    const auto grad = operand_of(call, 0), input = operand_of(call, 1);
    const auto result = result_of(call, 0);
    if (!grad || !input || !result || !is_image(geometry(*input)) ||
        !are_alike(geometry(*grad), geometry(*input)) ||
        !are_alike(geometry(*result), geometry(*input)) || !call.arguments[7].toBool() ||
        call.results.size() != 3)
      return false;
    for (const int32_t k : {2, 5, 6}) {
      if (!is_row_operand(call, k, geometry(*input).sizes[1])) return false;
    }
    Instruction fused{batch_norm_backward_op(), call.keys};
    fused.arguments.resize(8);
    fused.results = call.results;
    fused.backward = call.backward;
    const std::pair<int32_t, int32_t> moved[] = {{1, 3}, {2, 4}, {5, 5}, {6, 6}};
    for (const auto& [from, to] : moved)
      fused.operands.push_back({to, -1, *operand_of(call, from)});
    auto place = i;
    bool keeps = false;
    if (const auto mask = mask_before(i, fused)) {
      place = *mask;
      const auto& masking = program_.code[place];
      fused.operands.push_back({2, -1, *operand_of(masking, 1)});
      keeps = !calls_.only(*grad, place, i);
      if (keeps) fused.results.push_back({3, -1, *grad});
      add_gradient(fused, *operand_of(masking, 0), place);
      replaced_[i] = true;
    } else {
      fused.operands.push_back({0, -1, *grad});
    }
    fused.arguments[7] = keeps;
    program_.code[place] = std::move(fused);
    return true;
  }

  /// The threshold_backward that call `i` can be made part of, in its place.
  std::optional<size_t> mask_before(size_t i, const Instruction& fused) const {
    const auto grad = *operand_of(program_.code[i], 0);
    const auto place = made_by_[size_t(grad)];
    const auto& masking = program_.code[place];
    if (place >= i || !is_op(masking, "aten::threshold_backward") ||
        !masking.arguments[2].toScalar().equal(0) || result_of(masking, 0) != grad ||
        calls_.written(grad, place, i))
      return std::nullopt;
    const auto from = operand_of(masking, 0), output = operand_of(masking, 1);
    if (!from || !output || !are_alike(geometry(*from), geometry(grad)) ||
        !are_alike(geometry(*output), geometry(grad)))
      return std::nullopt;
    for (const auto& operand : fused.operands) {
      const bool computed = program_.value(operand.value).kind == ValueKind::computed;
      if ((computed && made_by_[size_t(operand.value)] >= place) ||
          calls_.written(operand.value, place, i))
        return std::nullopt;
    }
    return place;
  }

  /// The gradient that comes in at `place`: what it is the sum of, where nobody else needs that.
  void add_gradient(Instruction& fused, ValueId grad, size_t place) {
    const auto& users = calls_.of(grad);
    const auto self = std::lower_bound(users.begin(), users.end(), place);
    const bool last = self + 1 == users.end() && !calls_.handed_out(grad) && !calls_.lives_on(grad);
    const auto sum = self == users.begin() ? place : *(self - 1);
    const auto& call = program_.code[sum];
    const bool fits = last && sum != place && !replaced_[sum] && is_sum(call) &&
                      result_of(call, 0) == grad && (is_in_place(call) || users.front() == sum);
    const auto a = fits ? *operand_of(call, 0) : grad, b = fits ? *operand_of(call, 1) : grad;
    if (!fits || calls_.same(a, b) || !are_alike(geometry(a), geometry(grad)) ||
        !are_alike(geometry(b), geometry(grad)) || calls_.written(a, sum, place) ||
        calls_.written(b, sum, place)) {
      fused.operands.push_back({0, -1, grad});
      return;
    }
    fused.operands.push_back({0, -1, a});
    fused.operands.push_back({1, -1, b});
    replaced_[sum] = true;
  }

  Program& program_;
  MemoryCalls calls_;
  std::vector<bool> replaced_;
  std::vector<size_t> made_by_;  // the call that a value comes from
};

bool has_batch_norm(const Program& program) {
  return std::any_of(program.code.begin(), program.code.end(), is_batch_norm);
}

}  // namespace

int64_t fuse_batch_norm(Program& program) {
  return has_batch_norm(program) && batch_norm_has_same_bits() ? BatchNormFuser(program).run() : 0;
}

}  // namespace halfstep::detail
