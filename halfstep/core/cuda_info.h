#pragma once
#include <string>

/// What only LibTorch's CUDA libraries can tell. Two sources implement it: cuda_info.cpp in a CUDA
/// build, no_cuda_info.cpp in a CPU build.
namespace halfstep::detail {

/// Why CUDA does not work here, as the middle of a sentence: "this halfstep was built without
/// CUDA".
std::string why_no_cuda();

/// "NVIDIA H200, compute capability 9.0". Throws where there is no such device; EnvironmentError
/// in a CPU build.
std::string cuda_device_name(int index);

/// 9 for compute capability 9.0. Throws as cuda_device_name does.
int cuda_major_capability(int index);

/// Whether the thread's current CUDA device computes in bfloat16, by itself or emulated: as
/// torch.cuda.is_bf16_supported. Asks a device once, with a small tensor where it is older than
/// capability 8. Throws EnvironmentError in a CPU build.
bool current_cuda_device_holds_bfloat16();

}  // namespace halfstep::detail
