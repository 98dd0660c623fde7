// What the four fused optimizers have in common, on CPU and CUDA.
#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/core/libtorch.h"
#include "halfstep/optim.h"

#include <torch/nn/functional/embedding.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/optim/make_optimizer.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using optim::FusedOptimizer;
using optim::FusedState;

class Fused : public DeviceTest {
 protected:
  at::Tensor random(at::IntArrayRef sizes, c10::ScalarType dtype = torch::kFloat) {
    return torch::randn(sizes, torch::device(device())).to(dtype);
  }
  at::Tensor parameter(at::IntArrayRef sizes, c10::ScalarType dtype = torch::kFloat) {
    return random(sizes, dtype).requires_grad_();
  }
  void SetUp() override {
    DeviceTest::SetUp();
    torch::manual_seed(0);
  }
};
HALFSTEP_ON_EACH_DEVICE(Fused);

namespace {

at::Tensor twin(const at::Tensor& parameter) {
  return parameter.detach().clone().requires_grad_();
}

FusedState& state_of(const OptimizerPtr& optimizer, const at::Tensor& parameter) {
  return static_cast<FusedState&>(*optimizer->state().at(parameter.unsafeGetTensorImpl()));
}

}  // namespace

TEST_P(Fused, AgreesWithTheStockOptimizer) {
  for (const auto& name : kFusedClasses) {
    SCOPED_TRACE(name);
    std::vector<at::Tensor> fused_parameters{parameter({37, 5}), parameter({3})}, stock_parameters;
    for (const auto& p : fused_parameters) stock_parameters.push_back(twin(p));
    const auto fused = make_fused(name, fused_parameters);
    const auto stock = make_stock(name, stock_parameters);
    for (int step = 0; step < 10; ++step) {
      for (size_t i = 0; i < 2; ++i) {
        fused_parameters[i].mutable_grad() = random(fused_parameters[i].sizes());
        stock_parameters[i].mutable_grad() = fused_parameters[i].grad().clone();
      }
      fused->step();
      stock->step();
    }
    for (size_t i = 0; i < 2; ++i)
      expect_close(fused_parameters[i], stock_parameters[i], tolerance(torch::kFloat, "step"));
  }
}

TEST_P(Fused, MaximizeClimbsWhereTheOtherDescends) {
  for (const auto& name : kFusedClasses) {
    SCOPED_TRACE(name);
    const auto up = torch::zeros({20}, torch::device(device())).requires_grad_();
    const auto down = twin(up);
    const auto climbing = make_fused(name, {up}, true);
    const auto descending = make_fused(name, {down});
    for (int step = 0; step < 3; ++step) {
      up.mutable_grad() = random({20});
      down.mutable_grad() = up.grad().clone();
      climbing->step();
      descending->step();
    }
    ASSERT_GT(up.abs().min().item<float>(), 0);
    expect_same_bits(up, -down.detach());
  }
}

TEST_P(Fused, EveryDtypeMovesAndKeepsItsStateInIt) {
  if (halfstep::detail::kFused16BitIsWrong) {
    HALFSTEP_REQUIRE_TRUE_CUDA("right kernels of 16-bit steps in this LibTorch");
  }
  for (const auto& name : kFusedClasses) {
    for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf}) {
      SCOPED_TRACE(c10::str(name, " ", dtype));
      const auto p = parameter({40}, dtype);
      const auto wide = p.detach().to(torch::kDouble).requires_grad_();
      const auto low = make_fused(name, {p});
      const auto reference = make_stock(name, {wide});
      p.mutable_grad() = random({40}, dtype);
      wide.mutable_grad() = p.grad().to(torch::kDouble);
      low->step();
      reference->step();
      expect_close(p, wide, tolerance(dtype, "step"));
      for (const auto& buffer : state_of(low, p).buffers) {
        if (buffer.defined()) {
          EXPECT_EQ(buffer.scalar_type(), dtype);
        }
      }
    }
  }
}

TEST_P(Fused, DevicesAndDtypesMayBeMixedInAGroup) {
  std::vector<at::Tensor> mixed{parameter({8}), parameter({8}, torch::kDouble),
                                parameter({8}, torch::kBFloat16), parameter({8})};
  if (device().is_cuda()) mixed.push_back(torch::randn({8}).requires_grad_());
  for (const auto& name : kFusedClasses) {
    std::vector<at::Tensor> together, alone;
    for (const auto& p : mixed) {
      together.push_back(twin(p));
      alone.push_back(twin(p));
      together.back().mutable_grad() = torch::ones_like(p);
      alone.back().mutable_grad() = torch::ones_like(p);
    }
    make_fused(name, together)->step();
    for (const auto& p : alone) make_fused(name, {p})->step();
    for (size_t i = 0; i < mixed.size(); ++i) {
      expect_same_bits(together[i], alone[i]);
      EXPECT_FALSE(together[i].equal(mixed[i]));
    }
  }
}

TEST_P(Fused, NothingToDo) {
  for (const auto& name : kFusedClasses) {
    SCOPED_TRACE(name);
    make_fused(name, {})->step();
    const auto without = parameter({4}), with = parameter({4});
    const auto empty = torch::empty({0}, torch::device(device())).requires_grad_();
    const auto before = without.detach().clone(), moved = with.detach().clone();
    const auto optimizer = make_fused(name, {without, with, empty});
    optimizer->step();
    EXPECT_TRUE(optimizer->state().empty());
    expect_same_bits(with, moved);
    with.mutable_grad() = torch::ones_like(with);
    empty.mutable_grad() = torch::ones_like(empty);
    optimizer->step();
    expect_same_bits(without, before);
    EXPECT_FALSE(with.equal(moved));
    EXPECT_EQ(optimizer->state().count(without.unsafeGetTensorImpl()), 0U);
  }
}

TEST_P(Fused, AnyLayoutGivesTheValuesOfContiguousMemory) {
  struct Case {
    const char* what;
    at::Tensor parameter, gradient;
  };
  const auto at_device = torch::device(device());
  const auto image = torch::randn({2, 8, 4, 4}, at_device),
             grad = torch::randn({2, 8, 4, 4}, at_device);
  const auto matrix = torch::randn({6, 10}, at_device),
             matrix_grad = torch::randn({6, 10}, at_device);
  const auto last = at::MemoryFormat::ChannelsLast;
  const auto strided = [&](const at::Tensor& values) {
    auto wide = torch::zeros({6, 20}, at_device);
    wide.slice(1, 0, 20, 2).copy_(values);
    return wide.slice(1, 0, 20, 2);
  };
  const auto transposed = [](const at::Tensor& values) { return values.t().contiguous().t(); };
  const Case cases[] = {
      {"contiguous gradient of channels_last", image.contiguous(last), grad},
      {"channels_last gradient of contiguous", image, grad.contiguous(last)},
      {"both channels_last", image.contiguous(last), grad.contiguous(last)},
      {"transposed parameter", transposed(matrix), matrix_grad},
      {"parameter with gaps", strided(matrix), matrix_grad},
      {"gradient with gaps", matrix, strided(matrix_grad)},
      {"both with gaps", strided(matrix), strided(matrix_grad)},
      {"expanded gradient", matrix, matrix_grad.slice(1, 0, 1).expand({6, 10})},
  };
  for (const auto& name : kFusedClasses) {
    for (const auto& c : cases) {
      SCOPED_TRACE(name + ": " + c.what);
      const auto odd = c.parameter.detach().as_strided(c.parameter.sizes(), c.parameter.strides());
      const auto memory = c.parameter.clone(at::MemoryFormat::Preserve);
      const auto plain = c.parameter.contiguous().clone();
      const auto odd_optimizer = make_fused(name, {odd});
      const auto plain_optimizer = make_fused(name, {plain});
      for (int step = 0; step < 3; ++step) {
        odd.mutable_grad() = c.gradient * 1;
        if (!c.gradient.is_non_overlapping_and_dense()) odd.mutable_grad() = c.gradient;
        plain.mutable_grad() = c.gradient.contiguous().clone();
        odd_optimizer->step();
        plain_optimizer->step();
      }
      if (device().is_cpu())
        expect_same_bits(odd, plain);  // wherever in memory and in a vector an element lies
      else
        expect_close(odd, plain, tolerance(torch::kFloat, "update"));
      EXPECT_FALSE(odd.equal(memory));
      c.parameter.copy_(memory);
    }
  }
}

TEST_P(Fused, UnscaledGradientsComeBackInTheirOwnLayout) {
  const auto p = torch::zeros({2, 8, 4, 4}, torch::device(device()))
                     .contiguous(at::MemoryFormat::ChannelsLast);
  const auto gradient = random({2, 8, 4, 4});
  for (const auto& name : kFusedClasses) {
    const auto optimizer = make_fused(name, {p}, false, optim::Kernel::aten);
    p.mutable_grad() = gradient * 8;
    auto& fused = dynamic_cast<FusedOptimizer&>(*optimizer);
    fused.grad_scale = torch::full({}, 8.0F, torch::device(device()));
    fused.found_inf = torch::zeros({}, torch::device(device()));
    optimizer->step();
    expect_same_bits(p.grad(), gradient);
  }
}

TEST_P(Fused, GradientsOfAnotherDtype) {
  for (const auto& name : kFusedClasses) {
    const auto p = parameter({33});
    const auto same = twin(p);
    const auto low = random({33}, torch::kBFloat16);
    const auto optimizer = make_fused(name, {p}), plain = make_fused(name, {same});
    p.mutable_grad() = low;
    same.mutable_grad() = low.to(torch::kFloat);
    optimizer->step();
    plain->step();
    expect_same_bits(p, same);
  }
}

TEST_P(Fused, WhatIsWrittenGetsANewVersion) {
  for (const auto& name : kFusedClasses) {
    SCOPED_TRACE(name);
    const auto p = parameter({8});
    const auto optimizer = make_fused(name, {p});
    p.mutable_grad() = random({8});
    optimizer->step();
    const auto& state = state_of(optimizer, p);
    auto versions = [&] {
      std::vector<int64_t> result{int64_t(p._version())};
      for (const auto& buffer : state.buffers)
        if (buffer.defined()) result.push_back(int64_t(buffer._version()));
      return result;
    };
    const auto before = versions();
    // A graph that needs the old weights must refuse to go backward.
    const auto loss = (p * p).sum();
    optimizer->step();
    const auto after = versions();
    for (size_t i = 0; i < before.size(); ++i) EXPECT_GT(after[i], before[i]) << i;
    EXPECT_THROW(loss.backward(), c10::Error);
  }
}

TEST_P(Fused, AStepInsideARegionOfAutocastIsSeen) {
  for (const auto& name : kFusedClasses) {
    const auto weight = parameter({4, 4});
    const auto optimizer = make_fused(name, {weight});
    const auto input = random({4, 4});
    const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kBFloat16));
    const auto before = torch::mm(input, weight);
    ASSERT_EQ(before.scalar_type(), torch::kBFloat16);
    weight.mutable_grad() = torch::ones_like(weight);
    optimizer->step();
    EXPECT_FALSE(torch::mm(input, weight).equal(before)) << name;
  }
}

TEST_P(Fused, TheClosureIsCalledWithGradients) {
  for (const auto& name : kFusedClasses) {
    const auto p = parameter({4});
    const auto before = p.detach().clone();
    const auto optimizer = make_fused(name, {p});
    const torch::NoGradGuard off;
    const auto loss = optimizer->step([&] {
      const auto value = (p * p).sum();
      value.backward();
      return value.detach();
    });
    EXPECT_GT(loss.item<float>(), 0);
    EXPECT_FALSE(p.equal(before)) << name;
  }
}

TEST_P(Fused, WhatTheKernelsCannotTakeIsRefusedBeforeAnythingChanges) {
  HALFSTEP_REQUIRE_TRUE_CUDA("sparse tensors");
  for (const auto& name : kFusedClasses) {
    SCOPED_TRACE(name);
    const auto good = parameter({4});
    good.mutable_grad() = torch::ones_like(good);
    const auto before = good.detach().clone();
    const auto expect_refused = [&](const at::Tensor& bad, const char* rule, const char* advice) {
      const auto optimizer = make_fused(name, {good, bad});
      const auto where = "[" + name + "]";
      EXPECT_ERROR(optimizer->step(), UsageError, where.c_str(), rule, "parameter 1 of group 0",
                   advice);
      expect_same_bits(good, before);
      EXPECT_TRUE(optimizer->state().empty());
    };
    const auto table = parameter({5, 3});
    torch::nn::functional::embedding(torch::zeros({2}, torch::device(device()).dtype(torch::kLong)),
                                     table,
                                     torch::nn::functional::EmbeddingFuncOptions().sparse(true))
        .sum()
        .backward();
    ASSERT_TRUE(table.grad().is_sparse());
    expect_refused(table, "gradients must be dense", "torch::optim::Adagrad");
    const auto complex =
        torch::ones({2}, torch::device(device()).dtype(torch::kComplexFloat)).requires_grad_();
    complex.mutable_grad() = torch::ones_like(complex);
    expect_refused(complex, "must be float32", "torch::optim class");
    const auto expanded = torch::ones({1}, torch::device(device())).expand({4});
    expanded.mutable_grad() = torch::ones({4}, torch::device(device()));
    expect_refused(expanded, "memory of their own", "expanded view");
    const auto shaped = torch::ones({4}, torch::device(device()));
    shaped.mutable_grad() = torch::ones({1}, torch::device(device()));
    expect_refused(shaped, "must have its parameter's shape", "reshape");
  }
}

TEST_P(Fused, AScaleOfAnotherTypeIsRefused) {
  const auto p = parameter({4});
  p.mutable_grad() = torch::ones_like(p);
  optim::Adam adam({p});
  adam.grad_scale = torch::ones({2});
  EXPECT_ERROR(adam.step(), UsageError, "[Adam] grad_scale must be a float32 tensor");
  adam.grad_scale.reset();
  adam.found_inf = torch::zeros({}, torch::kLong);
  EXPECT_ERROR(adam.step(), UsageError, "[Adam] found_inf must be");
}

}  // namespace halfstep::testing
