#include "halfstep/core/error.h"

#include "tests/support/errors.h"

namespace halfstep {

TEST(ErrorTypes, TellCallerFromEnvironment) {
  EXPECT_ERROR(HALFSTEP_CHECK_USAGE(false, "here", "x must be 1, but got ", 2), UsageError,
               "[here] x must be 1, but got 2");
  EXPECT_ERROR(HALFSTEP_CHECK_ENVIRONMENT(false, "disk", "full"), EnvironmentError, "[disk] full");
  EXPECT_THROW(HALFSTEP_CHECK_USAGE(false, "here", "no"), Error);
}

TEST(ErrorDeathTest, DieSaysWhyAndEndsTheProgram) {
  EXPECT_DEATH(detail::die("Here", "a rule is broken; keep it"),
               "\\[Here\\] a rule is broken; keep it");
}

TEST(ErrorTypes, MessagePartsAreEvaluatedOnlyOnFailure) {
  int evaluated = 0;
  HALFSTEP_CHECK_USAGE(true, "here", ++evaluated);
  EXPECT_EQ(evaluated, 0);
}

}  // namespace halfstep
