#include "halfstep/core/device.h"

#include "halfstep/core/cuda_info.h"
#include "halfstep/core/error.h"

#include <ATen/Parallel.h>
#include <torch/cuda.h>

namespace halfstep {

bool cuda_works() {
  return torch::cuda::is_available();
}

namespace detail {
std::string cuda_device_words(int count) {
  return count == 1 ? "'cuda:0', the only one" : c10::str("'cuda:0' to 'cuda:", count - 1, "'");
}
}  // namespace detail

c10::Device parse_device(std::string_view word) {
  if (word == "auto") return cuda_works() ? c10::Device(c10::kCUDA, 0) : c10::Device(c10::kCPU);
  if (word == "cpu") return c10::Device(c10::kCPU);
  const bool cuda = word == "cuda" || word.starts_with("cuda:");
  const std::string_view index_text = word.size() > 5 ? word.substr(5) : std::string_view("0");
  const bool numeric = !index_text.empty() && index_text.size() <= 3 &&
                       index_text.find_first_not_of("0123456789") == std::string_view::npos;
  HALFSTEP_CHECK_USAGE(cuda && (word == "cuda" || (word.size() > 5 && numeric)), "device",
                       "a device must be auto, cpu, cuda or cuda:N, but got '", word,
                       "'; 'auto' takes CUDA where it works");
  HALFSTEP_CHECK_ENVIRONMENT(cuda_works(), "device", "'", word,
                             "' needs a working CUDA device, but ", detail::why_no_cuda(),
                             "; use 'cpu' or 'auto'");
  const int index = std::stoi(std::string(index_text));
  const auto count = static_cast<int>(torch::cuda::device_count());
  HALFSTEP_CHECK_ENVIRONMENT(index < count, "device",
                             "a CUDA device must be one that works here, but got '", word,
                             "'; use ", detail::cuda_device_words(count));
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

std::string describe_device(c10::Device device) {
  if (device.is_cuda())
    return c10::str(device, " (", detail::cuda_device_name(device.index()), ")");
  const int threads = at::get_num_threads();
  return c10::str(device, " (", threads, threads == 1 ? " thread)" : " threads)");
}

}  // namespace halfstep
