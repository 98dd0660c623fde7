#include "halfstep/autocast/stock_rules.h"

#include "halfstep/autocast/op_names.h"

#include <mutex>
#include <optional>

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/ScopeExit.h>

namespace halfstep::detail {

namespace {

// Above all keys an op call can have by itself, and without kernels.
constexpr auto kTrapKey = c10::DispatchKey::TESTING_ONLY_GenericMode;

using Stack = torch::jit::Stack;

/// What a kernel called in the end: the op and its arguments.
struct Trapped {
  c10::OperatorName op;
  std::vector<c10::IValue> arguments;
};

/// A tensor with a device and a dtype and nothing else.
at::Tensor hollow(c10::DeviceType device_type, c10::ScalarType dtype) {
  const c10::Device device(device_type, device_type == c10::kCPU ? -1 : 0);
  const auto backend = c10::computeDispatchKey(dtype, c10::kStrided, device);
  return at::detail::make_tensor<c10::TensorImpl>(c10::DispatchKeySet(backend),
                                                  c10::scalarTypeToTypeMeta(dtype), device);
}

/// Answers casts and throws the first other call.
void trap(const c10::OperatorHandle& op, Stack* stack) {
  const auto count = op.schema().arguments().size();
  auto* arguments = stack->data() + (stack->size() - count);
  if (op.operator_name().name == "aten::to" || op.operator_name().name == "aten::_to_copy") {
    auto cast = hollow(arguments[0].toTensor().device().type(), arguments[1].toScalarType());
    stack->resize(stack->size() - count);
    stack->emplace_back(std::move(cast));
    return;
  }
  throw Trapped{op.operator_name(), std::vector<c10::IValue>(arguments, arguments + count)};
}

/// Some value of an argument's type; the kernel looks at tensors only.
c10::IValue some_value(const c10::Argument& argument, c10::DeviceType device_type,
                       c10::ScalarType dtype) {
  const auto& type = argument.real_type();
  const auto text = type->str();
  if (text == "Tensor" || text == "Tensor?") return hollow(device_type, dtype);
  if (text == "Tensor[]") return std::vector{hollow(device_type, dtype)};
  if (text == "Tensor?[]")
    return c10::List<std::optional<at::Tensor>>({std::optional(hollow(device_type, dtype))});
  if (argument.default_value()) return *argument.default_value();
  if (type->kind() == c10::TypeKind::OptionalType) return {};
  if (const auto list = type->cast<c10::ListType>()) {
    switch (list->getElementType()->kind()) {
      case c10::TypeKind::StringType:
        return c10::List<std::string>({"dimname::a"});
      case c10::TypeKind::BoolType:
        return c10::List<bool>({false});
      case c10::TypeKind::FloatType:
        return c10::List<double>({1.});
      default:
        return c10::List<int64_t>({1});
    }
  }
  switch (type->kind()) {
    case c10::TypeKind::StringType:
      return "dimname::a";
    case c10::TypeKind::BoolType:
      return false;
    case c10::TypeKind::FloatType:
      return 1.;
    default:
      return 1;
  }
}

/// The call the kernel makes with inputs of `dtype`, or none where it throws instead.
std::optional<Trapped> call(const c10::OperatorHandle& op, const c10::SafeKernelFunction& kernel,
                            c10::DispatchKey key, c10::DeviceType device_type,
                            c10::ScalarType dtype) {
  Stack stack;
  for (const auto& argument : op.schema().arguments())
    stack.push_back(some_value(argument, device_type, dtype));
  const c10::impl::IncludeDispatchKeyGuard trapping(kTrapKey);
  try {
    kernel.callBoxed(op, c10::DispatchKeySet(key), &stack);
  } catch (Trapped& trapped) {
    return std::move(trapped);
  } catch (const c10::Error&) {
    return std::nullopt;
  }
  TORCH_INTERNAL_ASSERT(false, op.operator_name(), " returned without a call");
}

/// The dtype of all tensors of a call; none where they differ.
std::optional<c10::ScalarType> dtype_of(const Trapped& call) {
  std::optional<c10::ScalarType> dtype;
  bool same = true;
  const auto see = [&](const at::Tensor& tensor) {
    same = same && dtype.value_or(tensor.scalar_type()) == tensor.scalar_type();
    dtype = tensor.scalar_type();
  };
  for (const auto& argument : call.arguments) {
    if (argument.isTensor()) see(argument.toTensor());
    if (argument.isTensorList()) {
      for (const at::Tensor& tensor : argument.toTensorVector()) see(tensor);
    }
  }
  return same ? dtype : std::nullopt;
}

/// Kernels that other libraries registered for their own ops follow no rule one could read.
bool is_aten(const c10::OperatorName& name) {
  return name.name.rfind("aten::", 0) == 0;
}

/// Whether a dtype argument that the op was called without is float32 in the kernel's call.
bool fills_dtype(const c10::OperatorHandle& op, const Trapped& call) {
  const auto& arguments = op.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].real_type()->str() == "ScalarType?" && call.arguments[i].isInt() &&
        call.arguments[i].toScalarType() == c10::kFloat)
      return true;
  }
  return false;
}

CastRule rule_of(const c10::OperatorHandle& op, const c10::SafeKernelFunction& kernel,
                 c10::DispatchKey key, c10::DeviceType device_type) {
  const auto narrow = call(op, kernel, key, device_type, c10::kHalf);
  const auto wide = call(op, kernel, key, device_type, c10::kFloat);
  if (!narrow || !wide) return CastRule::banned;
  if (narrow->op != op.operator_name()) return CastRule::float32_append_dtype;
  if (fills_dtype(op, *narrow)) return CastRule::float32_set_dtype;
  const auto of_narrow = dtype_of(*narrow);
  const auto of_wide = dtype_of(*wide);
  TORCH_INTERNAL_ASSERT(of_narrow && of_wide, op.operator_name(), " casts some inputs only");
  if (of_narrow == c10::kFloat) return CastRule::float32;
  return of_wide == c10::kHalf ? CastRule::lower_precision : CastRule::promote;
}

std::map<std::string, StockRule> read(c10::DeviceType device_type) {
  auto& dispatcher = c10::Dispatcher::singleton();
  const auto key = at::autocast::get_autocast_dispatch_key_from_device_type(device_type);
  const auto trapped = dispatcher.registerFallback(
      kTrapKey, c10::KernelFunction::makeFromBoxedFunction<&trap>(), "halfstep");
  const auto dtype = at::autocast::get_autocast_dtype(device_type);
  const auto restore =
      c10::make_scope_exit([&] { at::autocast::set_autocast_dtype(device_type, dtype); });
  at::autocast::set_autocast_dtype(device_type, c10::kHalf);
  std::map<std::string, StockRule> rules;
  for (const auto& name : dispatcher.getRegistrationsForDispatchKey(key)) {
    const auto op = dispatcher.findSchema(name);
    if (!op || !is_aten(name)) continue;
    StockRule stock{.rule = CastRule::lower_precision,
                    .only_itself = name.name == "aten::_cudnn_rnn"};
    if (!stock.only_itself)
      stock.rule = rule_of(*op, op->getComputedKernelForDispatchKey(key), key, device_type);
    rules.emplace(op_name(name), stock);
  }
  return rules;
}

}  // namespace

const std::map<std::string, StockRule>& stock_rules(c10::DeviceType device_type) {
  static std::mutex mutex;
  static auto& of_type = *new std::map<c10::DeviceType, std::map<std::string, StockRule>>();
  const std::lock_guard lock(mutex);
  auto found = of_type.find(device_type);
  if (found == of_type.end()) found = of_type.emplace(device_type, read(device_type)).first;
  return found->second;
}

}  // namespace halfstep::detail
