#include "halfstep/core/error.h"

#include <exception>
#include <iostream>

namespace halfstep::detail {

void die(const char* where, const char* message) noexcept {
  std::cerr << "[" << where << "] " << message << std::endl;
  std::terminate();
}

}  // namespace halfstep::detail
