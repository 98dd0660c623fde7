#pragma once
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace halfstep::optim::detail {

/// While it lives, unless `on` is false, float numbers below the least normal one (1.2e-38) count
/// as zero on this thread. A running average whose gradients stay away (a dead unit) ends among
/// them and, rounded there, never gets to zero: CPUs need some hundred cycles for each such number
/// in each step. Does nothing on CPUs other than x86-64 and AArch64.
class FlushSubnormals {
 public:
  explicit FlushSubnormals(bool on) : previous_(get()) {
    if (on) set(previous_ | kFlush);
  }
  ~FlushSubnormals() { set(previous_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
#if defined(__x86_64__) || defined(_M_X64)
  using Register = unsigned int;
  static constexpr Register kFlush = 0x8040;  // of results, and of operands
  static Register get() {
    return _mm_getcsr();
  }
  static void set(Register value) {
    _mm_setcsr(value);
  }
#elif defined(__aarch64__)
  using Register = std::uint64_t;
  static constexpr Register kFlush = Register{1} << 24;
  static Register get() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set(Register value) {
    asm volatile("msr fpcr, %0" : : "r"(value));
  }
#else
  using Register = unsigned int;
  static constexpr Register kFlush = 0;
  static Register get() {
    return 0;
  }
  static void set(Register) {}
#endif

  Register previous_;
};

}  // namespace halfstep::optim::detail
