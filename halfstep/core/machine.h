#pragma once
#include <cstdint>
#include <string>

namespace halfstep {

/// The computer a program runs on, as far as a log or a report should name it.
struct Machine {
  std::string
      cpu;  ///< as the system names it: "AMD EPYC 9654"; its architecture where it has no name
  std::string instructions;   ///< what LibTorch's kernels use of it: "AVX2", "AVX512", "DEFAULT"
  int cores = 0;              ///< those this process may use
  uint64_t memory_bytes = 0;  ///< of the whole machine; 0: unknown
};

/// Asks the system. Any thread, does not sync.
Machine this_machine();

/// The most memory this process had resident so far, in bytes, by the system's own count.
uint64_t peak_resident_bytes();

}  // namespace halfstep
