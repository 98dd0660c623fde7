#include "halfstep/scaling/device_copies.h"

namespace halfstep::detail {

at::Tensor to_device(const at::Tensor& tensor, c10::Device device) {
  if (tensor.device() == device) return tensor;
  return tensor.to(tensor.options().device(device), /*non_blocking=*/!device.is_cpu());
}

at::Tensor& DeviceCopies::get(c10::Device device) {
  auto [place, absent] = made_.try_emplace(device);
  if (absent) place->second = to_device(master_, device);
  return place->second;
}

}  // namespace halfstep::detail
