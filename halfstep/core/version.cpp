#include "halfstep/core/version.h"

#include <c10/util/StringUtil.h>
#include <torch/version.h>

namespace halfstep {

const char* version() {
  return HALFSTEP_VERSION;
}

std::string torch_version() {
  return c10::str(TORCH_VERSION_MAJOR, ".", TORCH_VERSION_MINOR, ".", TORCH_VERSION_PATCH);
}

}  // namespace halfstep
