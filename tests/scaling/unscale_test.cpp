// What unscaling does to gradients of every dtype, layout and place; with Python's
// test_grad_scaling_unscale, _unscale_sparse and _update_scale (test_torch.py).
#include "halfstep/scaling/unscale.h"

#include "halfstep/core/error.h"

#include <torch/optim/sgd.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/special_values.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using detail::Float16Gradients;
using detail::unscale_gradients;

namespace {

class Unscale : public DeviceTest {
 protected:
  at::Tensor quarter() const { return torch::full({}, 0.25, torch::device(device())); }
  at::Tensor fours(c10::ScalarType dtype) const {
    return torch::full({20, 20}, 4.0, torch::device(device()).dtype(dtype));
  }
  at::Tensor fours_with(c10::ScalarType dtype, float value) const {
    auto tensor = fours(dtype);
    tensor[2][2] = value;
    return tensor;
  }
};
HALFSTEP_ON_EACH_DEVICE(Unscale);

at::Tensor left(const at::Tensor& tensor) {
  return tensor.slice(1, 0, 5);
}

torch::optim::SGD optimizer_with(const std::vector<at::Tensor>& gradients) {
  std::vector<at::Tensor> parameters;
  for (const auto& gradient : gradients) {
    parameters.push_back(torch::empty_like(gradient));
    parameters.back().mutable_grad() = gradient;
  }
  return torch::optim::SGD(parameters, torch::optim::SGDOptions(1.0));
}

float total(const FoundInfs& found_infs) {
  float sum = 0;
  for (const auto& [device, flag] : found_infs) sum += flag.item<float>();
  return sum;
}

void expect_ones(const at::Tensor& tensor) {
  expect_same_bits(tensor, torch::ones_like(tensor));
}

}  // namespace

TEST_P(Unscale, GradScalingUnscale) {
  for (const auto dtype : {torch::kFloat, torch::kDouble}) {
    const auto good = [&] { return fours(dtype); };
    const auto inf = [&] { return fours_with(dtype, kInf); };
    const auto nan = [&] { return fours_with(dtype, kNan); };
    // Dense without gaps, dense but transposed, and with gaps: on CUDA these take different
    // kernels.
    const std::vector<std::pair<std::vector<at::Tensor>, bool>> cases{
        {{good(), good()}, false},       {{good(), good().t()}, false},
        {{good(), left(good())}, false}, {{left(good()), left(good())}, false},
        {{good(), inf()}, true},         {{good(), nan()}, true},
        {{good(), left(inf())}, true},   {{good(), left(nan())}, true},
        {{inf(), left(good())}, true},   {{left(inf()), left(good())}, true},
    };
    for (const auto& [gradients, overflows] : cases) {
      auto optimizer = optimizer_with(gradients);
      const auto found = unscale_gradients(optimizer, quarter(), Float16Gradients::refuse, "test");
      ASSERT_EQ(found.size(), 1U);
      EXPECT_EQ(found.at(quarter().device()).item<float>(), overflows ? 1 : 0);
      if (overflows) continue;
      for (const auto& gradient : gradients) expect_ones(gradient);
    }
  }
}

TEST_P(Unscale, GradScalingUnscaleMixed) {
  const auto gradients_with = [&](int place, float value) {
    std::vector<at::Tensor> gradients{fours(torch::kFloat),    left(fours(torch::kFloat)),
                                      fours(torch::kHalf),     fours(torch::kHalf),
                                      fours(torch::kBFloat16), fours(torch::kDouble)};
    if (GetParam() == c10::kCUDA && has_cuda_devices(2)) {
      const c10::Device second(c10::kCUDA, 1);
      for (int i = 0; i < 4; ++i) gradients.push_back(gradients[i].to(second));
    }
    if (place >= 0) gradients[place][2][2] = value;
    return gradients;
  };
  const int count = static_cast<int>(gradients_with(-1, 0).size());
  for (const float value : {kInf, -kInf, kNan}) {
    for (int place = -1; place < count; ++place) {
      const auto gradients = gradients_with(place, value);
      auto optimizer = optimizer_with(gradients);
      const auto found = unscale_gradients(optimizer, quarter(), Float16Gradients::allow, "test");
      EXPECT_EQ(total(found), place < 0 ? 0 : 1) << "gradient " << place;
      for (int i = 0; i < count; ++i)
        if (i != place) expect_ones(gradients[i]);
    }
  }
}

TEST_P(Unscale, GradScalingUnscaleSparse) {
  HALFSTEP_REQUIRE_TRUE_CUDA("sparse tensors");
  const auto indices = torch::tensor({{0, 1, 1}, {2, 0, 2}}, torch::device(device()));
  const auto sparse = [&](float last, c10::ScalarType dtype) {
    const auto values = torch::tensor({16.0F, 32.0F, last}).to(device(), dtype);
    return torch::sparse_coo_tensor(indices, values, {2, 3});
  };
  const auto found_in = [&](const at::Tensor& gradient, Float16Gradients float16) {
    auto optimizer = optimizer_with({gradient});
    const float found = total(unscale_gradients(optimizer, quarter(), float16, "test"));
    return std::pair(found, optimizer.param_groups()[0].params()[0].grad().to_dense());
  };
  for (const auto dtype : {torch::kFloat, torch::kHalf}) {
    const auto float16 = dtype == torch::kHalf ? Float16Gradients::allow : Float16Gradients::refuse;
    const auto [found, dense] = found_in(sparse(64, dtype), float16);
    EXPECT_EQ(found, 0);
    expect_same_bits(dense, (sparse(64, dtype).to_dense() / 4));
    EXPECT_EQ(found_in(sparse(kInf, dtype), float16).first, 1);
    EXPECT_EQ(found_in(sparse(kNan, dtype), float16).first, 1);
  }
}

TEST_P(Unscale, GradScalingUnscaleSparseSumOverflows) {
  HALFSTEP_REQUIRE_TRUE_CUDA("sparse tensors");
  // Twice 64000 at one index: finite apart, past float16's range together.
  const auto indices = torch::tensor({{0, 1, 0}, {2, 0, 2}}, torch::device(device()));
  const auto values = torch::tensor({64000.0F, 32.0F, 64000.0F}).to(device(), torch::kHalf);
  const auto gradient = torch::sparse_coo_tensor(indices, values, {2, 3});
  ASSERT_TRUE(values.isfinite().all().item<bool>());
  ASSERT_FALSE(gradient.is_coalesced());
  auto optimizer = optimizer_with({gradient});
  EXPECT_EQ(total(unscale_gradients(optimizer, quarter(), Float16Gradients::allow, "test")), 1);
  EXPECT_TRUE(optimizer.param_groups()[0].params()[0].grad().is_coalesced()) << "not replaced";
}

TEST_P(Unscale, GradScalingUpdateScale) {
  auto scale = torch::full({}, 4.0, torch::device(device()));
  auto tracker = torch::zeros({}, torch::device(device()).dtype(torch::kInt));
  const auto update = [&](float found_inf) {
    at::_amp_update_scale_(scale, tracker, torch::full({}, found_inf, torch::device(device())), 2.0,
                           0.25, 2);
    return std::pair(scale.item<float>(), tracker.item<int>());
  };
  EXPECT_EQ(update(0), std::pair(4.0F, 1));
  EXPECT_EQ(update(0), std::pair(8.0F, 0));
  EXPECT_EQ(update(1), std::pair(2.0F, 0));
}

// The CPU has both ways to unscale bfloat16; CUDA only the one through float.
TEST(UnscaleThroughFloat, HasTheKernelsBits) {
  torch::manual_seed(5);
  const auto factor = torch::full({}, 1.0 / 3.0);
  const std::vector<at::Tensor> direct{torch::randn({257}).to(torch::kBFloat16),
                                       torch::randn({33, 7}).to(torch::kBFloat16).t()};
  const std::vector<at::Tensor> copied{direct[0].clone(), direct[1].clone()};
  auto found_direct = torch::zeros({}), found_copied = torch::zeros({});
  at::_amp_foreach_non_finite_check_and_unscale_(direct, found_direct, factor);
  detail::unscale_through_float(copied, found_copied, factor);
  for (int i = 0; i < 2; ++i) expect_same_bits(copied[i], direct[i]);
  EXPECT_EQ(found_copied.item<float>(), 0);
  copied[1][0][0] = kNan;
  detail::unscale_through_float(copied, found_copied, factor);
  EXPECT_EQ(found_copied.item<float>(), 1);
}

TEST_P(Unscale, BFloat16IsTaken) {
  auto optimizer = optimizer_with({fours(torch::kBFloat16), fours_with(torch::kBFloat16, kInf)});
  EXPECT_EQ(total(unscale_gradients(optimizer, quarter(), Float16Gradients::refuse, "test")), 1);
  expect_ones(optimizer.param_groups()[0].params()[0].grad());
}

TEST_P(Unscale, ParameterListedTwiceIsUnscaledOnce) {
  // C++ modules list a shared weight once per use, and optimizers take it so.
  auto parameter = torch::zeros({3}, torch::device(device()));
  parameter.mutable_grad() = torch::full({3}, 4.0, torch::device(device()));
  torch::optim::SGD optimizer(std::vector<at::Tensor>{parameter, parameter},
                              torch::optim::SGDOptions(1.0));
  unscale_gradients(optimizer, quarter(), Float16Gradients::refuse, "test");
  expect_ones(parameter.grad());
}

TEST_P(Unscale, ParametersWithoutGradientStayWithout) {
  auto optimizer = optimizer_with({fours(torch::kFloat), fours(torch::kFloat)});
  auto& unused = optimizer.param_groups()[0].params()[1];
  unused.mutable_grad() = at::Tensor();
  EXPECT_EQ(unscale_gradients(optimizer, quarter(), Float16Gradients::refuse, "test").size(), 1U);
  EXPECT_FALSE(unused.grad().defined());
}

TEST_P(Unscale, NoGradientsGiveNoFlags) {
  auto optimizer = optimizer_with({at::Tensor(torch::zeros({2}, torch::device(device())))});
  optimizer.zero_grad(/*set_to_none=*/true);
  EXPECT_TRUE(unscale_gradients(optimizer, quarter(), Float16Gradients::refuse, "test").empty());
}

TEST_P(Unscale, RefusesWhatItCannotTakeBeforeAnyChange) {
  HALFSTEP_REQUIRE_TRUE_CUDA("sparse tensors");
  auto bad = [&](const at::Tensor& gradient) {
    return optimizer_with({fours(torch::kFloat), gradient});
  };
  auto half = bad(fours(torch::kHalf));
  EXPECT_ERROR(unscale_gradients(half, quarter(), Float16Gradients::refuse, "here"), UsageError,
               "[here]", "parameter 1 of group 0 has a float16 gradient",
               "keep the parameters in float32");
  auto complex = bad(torch::zeros({2}, torch::device(device()).dtype(torch::kComplexFloat)));
  EXPECT_ERROR(unscale_gradients(complex, quarter(), Float16Gradients::allow, "here"), UsageError,
               "must be floating-point", "ComplexFloat", "of its own");
  auto rows = bad(torch::eye(3, torch::device(device())).to_sparse_csr());
  EXPECT_ERROR(unscale_gradients(rows, quarter(), Float16Gradients::refuse, "here"), UsageError,
               "[here] gradients must be dense or COO sparse, but parameter 1 of group 0",
               "layout SparseCsr; convert it");
  for (auto* optimizer : {&half, &complex, &rows})
    EXPECT_TRUE(optimizer->param_groups()[0].params()[0].grad().eq(4).all().item<bool>());
}

}  // namespace halfstep::testing
