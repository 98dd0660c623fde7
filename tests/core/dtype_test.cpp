#include "halfstep/core/dtype.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"

namespace halfstep {

TEST(Dtype, NamesRoundTrip) {
  for (auto dtype : {c10::kFloat, c10::kDouble, c10::kHalf, c10::kBFloat16})
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
  EXPECT_EQ(dtype_name(c10::kLong), "int64");
  EXPECT_EQ(parse_dtype("bf16"), c10::kBFloat16);
  EXPECT_EQ(parse_dtype("half"), c10::kHalf);
}

TEST(Dtype, LowPrecisionIsSixteenBitFloats) {
  EXPECT_TRUE(is_low_precision(c10::kHalf));
  EXPECT_TRUE(is_low_precision(c10::kBFloat16));
  EXPECT_FALSE(is_low_precision(c10::kFloat));
  EXPECT_FALSE(is_low_precision(c10::kShort));
}

TEST(Dtype, UnknownNameListsTheKnownOnes) {
  EXPECT_ERROR(parse_dtype("int8"), UsageError, "[parse_dtype]", "float32, float16, bfloat16",
               "got 'int8'; use one of these or a short name: fp32, fp16, bf16, fp64");
}

}  // namespace halfstep
