#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/operator_name.h>

namespace halfstep::detail {

/// The name users read and write: "softmax.int", "mm", "mylib::op"; "aten::" is left out.
std::string op_name(const c10::OperatorName& name);

/// The op of such a name, where the running LibTorch (or a library loaded into it) has it.
std::optional<c10::OperatorHandle> find_op(const std::string& name);

/// The ops meant by `written`: all overloads of an op ("softmax"), one ("softmax.int",
/// "conv1d.default" for the one without a name), or a family: `linear`, `matmul`, `conv`, which
/// reach every op a program may enter by. Overloads that write an argument or take no tensor are
/// left out. Throws UsageError with the nearest known name where none is left.
std::vector<c10::OperatorHandle> ops_named(const std::string& written);

/// Which argument of the op is a dtype that may be missing.
std::optional<size_t> dtype_argument(const c10::OperatorHandle& op);

/// The overload that takes the op's arguments and then a dtype (norm.Scalar: norm.ScalarOpt_dtype).
std::optional<c10::OperatorHandle> overload_with_dtype(const c10::OperatorHandle& op);

/// The op names of a family, or none.
std::vector<std::string> family(std::string_view name);

}  // namespace halfstep::detail
