#pragma once
#include <string>

#define HALFSTEP_VERSION "0.1.0"

namespace halfstep {

/// The version of halfstep this program was compiled with, e.g. "0.1.0".
const char* version();

/// The version of the LibTorch this program was compiled with, e.g. "2.15.0".
std::string torch_version();

}  // namespace halfstep
