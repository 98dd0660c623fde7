#include "tests/autocast/op_cases.h"

#include <torch/types.h>

namespace halfstep::testing {

at::Tensor Input::make(c10::Device device) const {
  const auto floats = torch::dtype(torch::kFloat).device(device);
  switch (kind) {
    case Kind::normal:
      return torch::randn(shape, floats);
    case Kind::unit:
      return torch::rand(shape, floats) * 0.8 + 0.1;
    case Kind::sign:
      return torch::randint(0, 2, shape, floats) * 2 - 1;
    case Kind::definite: {
      const auto root = torch::randn(shape, floats);
      return at::mm(root, root.t()) + 8 * torch::eye(shape[0], floats);
    }
    case Kind::whole:
      return torch::randint(0, high, shape, torch::dtype(torch::kLong).device(device));
  }
  TORCH_INTERNAL_ASSERT(false);
}

Input normal(std::vector<int64_t> shape) {
  return {Input::Kind::normal, std::move(shape)};
}
Input unit(std::vector<int64_t> shape) {
  return {Input::Kind::unit, std::move(shape)};
}
Input sign(std::vector<int64_t> shape) {
  return {Input::Kind::sign, std::move(shape)};
}
Input definite(int64_t n) {
  return {Input::Kind::definite, {n, n}};
}
Input whole(std::vector<int64_t> shape, int64_t high) {
  return {Input::Kind::whole, std::move(shape), high};
}

const std::vector<OpCase>& op_cases() {
  static const auto cases = [] {
    std::vector<OpCase> all;
    for (auto&& family :
         {product_cases(), loss_cases(), pointwise_cases(), image_cases(), linalg_cases()})
      all.insert(all.end(), family.begin(), family.end());
    return all;
  }();
  return cases;
}

}  // namespace halfstep::testing
