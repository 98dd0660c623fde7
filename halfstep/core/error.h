#pragma once
#include <stdexcept>
#include <string>

#include <c10/util/StringUtil.h>

/// Errors of halfstep.
///
/// Every message has one form: `[where] rule, but got value; what to do`. The two types tell whose
/// fault it is, so a program can report a caller's mistake and retry or clean up after a failing
/// disk.
namespace halfstep {

/// Base of all exceptions halfstep throws by itself. LibTorch's own errors (c10::Error) pass
/// through unchanged.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The caller's fault: an argument, a call order or a config file breaks a stated rule.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// The environment's fault: a file, a device, a disk or a library is not as it must be.
class EnvironmentError : public Error {
 public:
  using Error::Error;
};

namespace detail {
template <class ErrorType, class... Parts>
[[noreturn]] void raise(const char* where, const Parts&... parts) {
  throw ErrorType(c10::str("[", where, "] ", parts...));
}

/// For destructors, which can't throw: prints `[where] message` on standard error and ends the
/// program.
[[noreturn]] void die(const char* where, const char* message) noexcept;
}  // namespace detail

}  // namespace halfstep

/// Throws UsageError unless `condition` holds. The message parts are evaluated only then.
///
///   HALFSTEP_CHECK_USAGE(factor > 1, "GradScaler",
///                        "growth_factor must be above 1, but got ", factor, "; use 2.0");
#define HALFSTEP_CHECK_USAGE(condition, where, ...)                          \
  do {                                                                       \
    if (!(condition)) [[unlikely]]                                           \
      ::halfstep::detail::raise<::halfstep::UsageError>(where, __VA_ARGS__); \
  } while (false)

/// Throws EnvironmentError unless `condition` holds. The message parts are evaluated only then.
#define HALFSTEP_CHECK_ENVIRONMENT(condition, where, ...)                          \
  do {                                                                             \
    if (!(condition)) [[unlikely]]                                                 \
      ::halfstep::detail::raise<::halfstep::EnvironmentError>(where, __VA_ARGS__); \
  } while (false)
