#pragma once
#include <array>
#include <cstdint>

namespace halfstep::optim::detail {

/// Types the CPU kernels read and write; they compute in float32.
enum class Element : std::uint8_t { float32, bfloat16, float16 };

/// The memory of one parameter for the CPU kernels. Everything is dense and laid out alike.
struct KernelSpan {
  void* parameter = nullptr;
  const void* gradient = nullptr;
  std::array<void*, 3> buffers{};  // nullptr where not used
  void* low = nullptr;             // gets the new parameter, rounded; nullptr: nobody wants it
  // Not nullptr: the parameter, in bfloat16, is the upper half of a float32, rounded, and this what
  // remains in the lower one.
  std::int16_t* remainder = nullptr;
  Element element = Element::float32;
  Element buffer_element = Element::float32;
  Element gradient_element = Element::float32;
  Element low_element = Element::bfloat16;
  std::int64_t size = 0;
};

}  // namespace halfstep::optim::detail
