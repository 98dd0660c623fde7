#pragma once
#include <string>

/// The version of these headers, as a string literal; the build reads it from here.
#define HALFSTEP_VERSION "0.1.0"

namespace halfstep {

/// The version of the halfstep library that is linked, e.g. "0.1.0". HALFSTEP_VERSION is that of
/// the headers.
const char* version();

/// The version of the LibTorch that the halfstep library was compiled with, e.g. "2.15.0".
std::string torch_version();

}  // namespace halfstep
