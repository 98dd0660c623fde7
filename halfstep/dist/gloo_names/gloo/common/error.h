// See gloo/context.h.
#pragma once
#include <stdexcept>

namespace gloo {

/// What Gloo throws: connections that break, exchanges that take too long.
struct Exception : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace gloo
