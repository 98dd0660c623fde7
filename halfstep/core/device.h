#pragma once
#include <string>
#include <string_view>

#include <c10/core/Device.h>

namespace halfstep {

/// True where this program is linked with LibTorch's CUDA libraries and a CUDA device answers. Does
/// not sync.
bool cuda_works();

/// The device of a user's word: "auto" (CUDA if it works, else CPU), "cpu", "cuda" or "cuda:1".
/// Throws UsageError for another word, EnvironmentError where CUDA is asked for but does not work
/// or has no such device.
c10::Device parse_device(std::string_view word);

/// One line for a person: "cpu (2 threads)" or "cuda:0 (NVIDIA H200, compute capability 9.0)".
/// Throws EnvironmentError for a CUDA device in a build without CUDA.
std::string describe_device(c10::Device device);

namespace detail {
/// The words for `count` CUDA devices, as the end of a sentence: "'cuda:0' to 'cuda:3'".
std::string cuda_device_words(int count);
}  // namespace detail

}  // namespace halfstep
