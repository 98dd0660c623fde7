#pragma once
#include <string>
#include <string_view>

#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>

namespace halfstep {

/// True for the two 16-bit types mixed precision computes in: float16 and bfloat16.
bool is_low_precision(c10::ScalarType dtype);

/// The name users write, as Python prints it without "torch.": "float32", "bfloat16", "float16",
/// "int64", …
std::string dtype_name(c10::ScalarType dtype);

/// The floating-point type of a name. Takes float32|fp32|float, float16|fp16|half, bfloat16|bf16,
/// float64|fp64|double. Throws UsageError that lists the names for any other text.
c10::ScalarType parse_dtype(std::string_view name);

}  // namespace halfstep
