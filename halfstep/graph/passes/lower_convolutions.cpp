#include "halfstep/core/low_precision_support.h"
#include "halfstep/graph/kernels/weight_gradient.h"
#include "halfstep/graph/passes/pass.h"
#include "halfstep/graph/passes/program_uses.h"

#include <optional>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <c10/core/MemoryFormat.h>
#include <c10/util/accumulate.h>
#include <c10/util/strides.h>

namespace halfstep::detail {

namespace {

/// Of the patches of bfloat16 images, which are all there at once.
constexpr int64_t kMostPatchBytes = int64_t{64} << 20;

/// One that LibTorch may compute for itself and we may, too.
bool takes(const Geometry& x) {
  static const bool multiplies_bfloat16 = low_precision_support(c10::kCPU).bfloat16;
  return x.device.is_cpu() && x.sizes.size() == 4 && x.is_dense() &&
         (x.dtype == c10::kFloat || (x.dtype == c10::kBFloat16 && multiplies_bfloat16));
}

/// A number for both dimensions, or one for each.
std::vector<int64_t> both(const c10::IValue& numbers) {
  auto list = numbers.toIntVector();
  if (list.size() == 1) list.push_back(list.front());
  return list;
}

/// How a gradient lies: channels-last or not; none: in another way.
std::optional<bool> channels_last(const Geometry& x) {
  if (at::IntArrayRef(x.strides) == c10::contiguous_strides(x.sizes)) return false;
  if (x.strides == c10::get_channels_last_strides_2d(x.sizes)) return true;
  return std::nullopt;
}

/// What aten::convolution_backward(grad_output, input, weight, bias_sizes, stride, padding,
/// dilation, transposed, output_padding, groups, output_mask) computes, if it is a weight gradient
/// that ours can.
std::optional<ConvolutionBackward> weight_gradient_of(const Program& program,
                                                      const Instruction& call) {
  if (call.op.schema().name() != "aten::convolution_backward" || call.rehearsed || !is_pure(call))
    return std::nullopt;
  const auto weight_gradient = result_of(call, 1);
  const auto grad = operand_of(call, 0), input = operand_of(call, 1), weight = operand_of(call, 2);
  if (!weight_gradient || !grad || !input || !weight || call.arguments[7].toBool() ||
      call.arguments[9].toInt() != 1)
    return std::nullopt;
  const auto& made = program.value(*weight_gradient).geometry;
  ConvolutionBackward found{program.value(*grad).geometry,   program.value(*input).geometry,
                            program.value(*weight).geometry, both(call.arguments[4]),
                            both(call.arguments[5]),         both(call.arguments[6])};
  const auto dtype = found.grad.dtype;
  for (const Geometry& x : {found.grad, found.input, found.weight, made}) {
    if (!takes(x) || x.dtype != dtype) return std::nullopt;
  }
  const auto lies = channels_last(made);
  if (!lies) return std::nullopt;
  const auto patch = c10::multiply_integers(at::IntArrayRef(found.weight.sizes).slice(1));
  const auto pixels = found.grad.numel() / found.grad.sizes[1];
  if (dtype == c10::kBFloat16 && pixels * patch * 2 > kMostPatchBytes) return std::nullopt;
  // What lies elsewhere in its memory takes no other time.
  for (auto* x : {&found.grad, &found.input, &found.weight}) x->offset = 0;
  found.channels_last = *lies;
  found.threads = at::get_num_threads();
  return found;
}

/// The call that computes the weight's gradient alone.
Instruction lowered(const Instruction& call, const ConvolutionBackward& found) {
  Instruction own{convolution_weight_gradient_op(), call.keys};
  own.arguments = {c10::IValue(),
                   c10::IValue(),
                   std::vector<int64_t>(found.weight.sizes.begin() + 2, found.weight.sizes.end()),
                   found.stride,
                   found.padding,
                   found.dilation,
                   found.channels_last};
  own.operands = {{0, -1, *operand_of(call, 0)}, {1, -1, *operand_of(call, 1)}};
  own.results = {{0, -1, *result_of(call, 1)}};
  own.backward = call.backward;
  own.reorders = true;
  return own;
}

/// The bias's: oneDNN would compute the weight's with it.
Instruction bias_gradient(const Instruction& call, ValueId result) {
  static const auto sum =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::sum", "dim_IntList");
  Instruction own{sum, call.keys};
  own.arguments = {c10::IValue(), std::vector<int64_t>{0, 2, 3}, false, c10::IValue()};
  own.operands = {{0, -1, *operand_of(call, 0)}};
  own.results = {{0, -1, result}};
  own.backward = call.backward;
  own.reorders = true;
  return own;
}

}  // namespace

int64_t lower_convolutions(Program& program) {
  int64_t count = 0;
  std::vector<Instruction> code;
  for (auto& call : program.code) {
    const auto found = weight_gradient_of(program, call);
    if (!found || !weight_gradient_choice()(*found)) {
      code.push_back(std::move(call));
      continue;
    }
    ++count;
    auto own = lowered(call, *found);
    const auto bias = result_of(call, 2);
    if (bias) code.push_back(bias_gradient(call, *bias));
    std::erase_if(call.results, [](const auto& place) { return place.argument != 0; });
    if (!call.results.empty()) {
      call.arguments[10] = std::vector<bool>{true, false, false};
      code.push_back(std::move(call));
    }
    code.push_back(std::move(own));
  }
  program.code = std::move(code);
  return count;
}

}  // namespace halfstep::detail
