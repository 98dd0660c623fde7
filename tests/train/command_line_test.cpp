#include "halfstep/train/command_line.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"

namespace halfstep::train::detail {

namespace {
using Words = std::vector<std::string>;
}  // namespace

TEST(CommandLine, NeitherResumeNorCfgOptionsTakeTheConfig) {
  const Words cases[] = {
      {"train", "c.yaml", "--resume", "a.safetensors", "--cfg-options", "a=1", "b=[1, 2]"},
      {"train", "--resume", "a.safetensors", "c.yaml", "--cfg-options", "a=1", "b=[1, 2]"},
      {"train", "--cfg-options", "a=1", "b=[1, 2]", "c.yaml", "--resume", "a.safetensors"},
      {"train", "--cfg-options", "a=1", "--resume", "a.safetensors", "c.yaml", "--cfg-options",
       "b=[1, 2]"},
  };
  for (const auto& words : cases)
    EXPECT_EQ(arrange_arguments(words), (Words{"train", "c.yaml", "--resume", "a.safetensors",
                                               "--cfg-options", "a=1", "b=[1, 2]"}));
  EXPECT_EQ(arrange_arguments({"train", "--resume", "c.yaml", "--amp"}),
            (Words{"train", "c.yaml", "--amp", "--resume"}));
  EXPECT_EQ(arrange_arguments({"train", "--cfg-options", "c.yaml"}),
            (Words{"train", "c.yaml", "--cfg-options"}));
}

TEST(CommandLine, SeedIsAWholeNumberThatAConfigCanHold) {
  EXPECT_EQ(parse_seed("0"), 0u);
  EXPECT_EQ(parse_seed("9223372036854775807"), 9223372036854775807u);
  for (const char* text : {"-1", "9223372036854775808", "1.5", "x", "", "1 "})
    EXPECT_ERROR(parse_seed(text), UsageError,
                 "[command line] --seed must be a whole number from 0 to 2^63 - 1, but got '", text,
                 "leave --seed out");
}

}  // namespace halfstep::train::detail
