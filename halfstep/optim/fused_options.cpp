#include "halfstep/optim/fused_options.h"

namespace halfstep::optim::detail {

void check_at_least_zero(double value, const char* field, const char* where) {
  // Written so that NaN fails too.
  HALFSTEP_CHECK_USAGE(value >= 0, where, field, " must be at least 0, but got ", value,
                       "; set it in the options of the optimizer or of the group");
}

}  // namespace halfstep::optim::detail
