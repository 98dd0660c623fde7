// Masters of 16-bit parameters: the run is that of float32 parameters, to the bit.
#include "halfstep/core/error.h"
#include "halfstep/scaling/grad_scaler.h"

#include <limits>

#include <torch/serialize.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/optim/make_optimizer.h"
#include "tests/optim/master_case.h"
#include "tests/optim/optimizer_archive.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using optim::AdamOptions;
using optim::FusedOptimizer;
using optim::FusedState;
using optim::Kernel;
using optim::MasterWeights;

namespace {

constexpr std::pair<MasterWeights, c10::ScalarType> kKindsAndDtypes[] = {
    {MasterWeights::float32, torch::kBFloat16},
    {MasterWeights::float32, torch::kHalf},
    {MasterWeights::remainder, torch::kBFloat16}};

std::string name_of(const std::string& name, Kernel kernel, MasterWeights kind) {
  return name + ", " + testing::name_of(kernel, kind);
}

const FusedOptimizer& fused(const OptimizerPtr& optimizer) {
  return dynamic_cast<const FusedOptimizer&>(*optimizer);
}

/// A float32 parameter of the weight's value, in the layout its master would have.
at::Tensor float32_twin(const at::Tensor& weight) {
  auto twin = torch::empty_like(weight.detach(), torch::dtype(torch::kFloat));
  return twin.copy_(weight.detach()).requires_grad_();
}

/// The upper half of float32 numbers, to nearest, from the middle away from zero.
at::Tensor rounded_away(const at::Tensor& numbers) {
  const auto bits = numbers.detach().contiguous().view(torch::kInt).to(torch::kLong);
  return bits.add(0x8000).bitwise_right_shift(16).to(torch::kShort).view(torch::kBFloat16);
}

}  // namespace

class Masters : public MasterTest {
 protected:
  void SetUp() override {
    MasterTest::SetUp();
    torch::manual_seed(0);
  }
  /// Dense, transposed, channels-last and not dense.
  std::vector<at::Tensor> weights(c10::ScalarType dtype = torch::kBFloat16) const {
    torch::manual_seed(1);
    const auto random = [&](at::IntArrayRef sizes) { return torch::randn(sizes, here(dtype)); };
    return {random({3, 5}).requires_grad_(), random({7, 33}).t().requires_grad_(),
            random({2, 4, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast).requires_grad_(),
            random({6, 4}).slice(1, 0, 4, 2).requires_grad_()};
  }
  static void train(torch::optim::Optimizer& optimizer, int from, int to) {
    for (int step = from; step < to; ++step) {
      torch::manual_seed(100 + step);
      for (const auto& p : optimizer.param_groups()[0].params())
        p.mutable_grad() = torch::randn(p.sizes(), p.options().requires_grad(false));
      optimizer.step();
    }
  }
};
HALFSTEP_ON_EACH_DEVICE(Masters);

TEST_P(Masters, AreTheRunOfFloat32Parameters) {
  for (const auto& name : kFusedClasses) {
    for (const auto kernel : kKernels) {
      for (const auto& [kind, dtype] : kKindsAndDtypes) {
        SCOPED_TRACE(c10::str(name_of(name, kernel, kind), ", ", dtype));
        const bool maximize = dtype == torch::kHalf;
        const auto low = weights(dtype);
        std::vector<at::Tensor> full;
        for (const auto& weight : low) full.push_back(float32_twin(weight));
        const auto optimizer = make_fused(name, low, maximize, kernel, kind);
        const auto control = make_fused(name, full, maximize, kernel);
        const auto before = clones(low);
        for (int step = 0; step < 60; ++step) {
          for (size_t i = 0; i < low.size(); ++i) {
            low[i].mutable_grad() = torch::randn(low[i].sizes(), here(dtype));
            full[i].mutable_grad() = low[i].grad().to(torch::kFloat);
          }
          const auto version = low[0]._version();
          optimizer->step();
          control->step();
          EXPECT_GT(low[0]._version(), version) << "autograd must see that the weight changed";
          for (size_t i = 0; i < low.size(); ++i) {
            expect_same_bits(fused(optimizer).master_of(low[i]), full[i].detach());
            expect_same_bits(low[i].detach().contiguous(),
                             kind == MasterWeights::remainder
                                 ? rounded_away(full[i])
                                 : full[i].detach().to(dtype).contiguous());
          }
          if (HasFailure()) return;
        }
        for (size_t i = 0; i < low.size(); ++i) {
          EXPECT_GT((low[i] - before[i]).abs().mean().item<float>(), 0.01) << "it stands still";
          const auto& state = state_of(*optimizer, low[i]);
          for (const auto& buffer : state.buffers) {
            if (buffer.defined()) {
              EXPECT_EQ(buffer.scalar_type(), torch::kFloat);
            }
          }
        }
      }
    }
  }
}

TEST_P(Masters, OfPlainSgdAndBesideFloat32Parameters) {
  for (const auto kernel : kKernels) {
    for (const auto kind : kKinds) {
      const auto low = one({1, 2, -3}), full = one({1, 2, -3}, torch::kFloat);
      optim::SGD sgd({low, full}, optim::SGDOptions(1e-3).kernel(kernel).master_weights(kind));
      for (int step = 0; step < 50; ++step) {
        low.mutable_grad() = torch::ones_like(low.detach());
        full.mutable_grad() = torch::ones_like(full.detach());
        sgd.step();
      }
      expect_same_bits(sgd.master_of(low), full.detach());
      EXPECT_NEAR(full[0].item<double>(), 0.95, 1e-5);
      EXPECT_FALSE(sgd.master_of(full).defined());
      EXPECT_EQ(sgd.state().size(), 1U) << "a float32 parameter of plain SGD has no state";
    }
  }
}

// Scaled, clipped, in groups, with overflows.
TEST_P(Masters, UnderAGradScaler) {
  for (const auto& name : kFusedClasses) {
    for (const auto kernel : kKernels) {
      for (const auto& [kind, dtype] : kKindsAndDtypes) {
        SCOPED_TRACE(c10::str(name_of(name, kernel, kind), ", ", dtype));
        const auto low = weights(dtype);
        std::vector<at::Tensor> full;
        for (const auto& weight : low) full.push_back(float32_twin(weight));
        const auto ours = make_fused(name, {low[0], low[1]}, false, kernel, kind);
        const auto theirs = make_fused(name, {full[0], full[1]}, false, kernel);
        const auto add = [](const OptimizerPtr& to, const at::Tensor& a, const at::Tensor& b) {
          auto options = to->defaults().clone();
          options->set_lr(0.02);
          dynamic_cast<FusedOptimizer&>(*to).add_param_group(
              torch::optim::OptimizerParamGroup({a, b}, std::move(options)));
        };
        add(ours, low[2], low[3]);
        add(theirs, full[2], full[3]);
        GradScaler scaler(GradScalerOptions(GetParam()).init_scale(8));
        GradScaler control(GradScalerOptions(GetParam()).init_scale(8));
        int skipped = 0;
        for (int step = 0; step < 12; ++step) {
          const bool overflow = step % 4 == 0;  // the first step too
          std::vector<at::Tensor> goals;
          for (const auto& weight : low)
            goals.push_back(torch::randn(weight.sizes(), here(dtype)).to(torch::kFloat));
          if (overflow) goals[2].view(-1)[1] = std::numeric_limits<float>::infinity();
          const auto run = [&](const std::vector<at::Tensor>& parameters, GradScaler& with,
                               torch::optim::Optimizer& optimizer) {
            optimizer.zero_grad();
            at::Tensor loss = torch::zeros({}, here(torch::kFloat));
            for (size_t i = 0; i < parameters.size(); ++i)
              loss = loss + (parameters[i].to(torch::kFloat) * goals[i]).sum();
            with.scale(loss).backward();
            const bool stepped = with.step(optimizer).stepped();
            with.update();
            return stepped;
          };
          std::vector<at::Tensor> before;
          for (const auto& weight : low) before.push_back(weight.detach().clone());
          skipped += run(low, scaler, *ours) ? 0 : 1;
          EXPECT_EQ(low[0].grad().scalar_type(), dtype);
          run(full, control, *theirs);
          for (size_t i = 0; i < low.size(); ++i) {
            if (overflow)
              expect_same_bits(low[i].detach(), before[i]);
            else
              EXPECT_FALSE(low[i].equal(before[i]));
            const auto master = fused(ours).master_of(low[i]);
            if (master.defined()) expect_same_bits(master, full[i].detach());
            EXPECT_TRUE(master.defined() || step == 0);
          }
        }
        EXPECT_EQ(skipped, 3);
      }
    }
  }
}

TEST_P(Masters, Clipped) {
  for (const auto kernel : kKernels) {
    for (const auto kind : kKinds) {
      for (const bool by_norm : {true, false}) {
        const auto low = weights();
        std::vector<at::Tensor> full;
        for (const auto& weight : low) full.push_back(float32_twin(weight));
        auto options = AdamOptions(0.1).kernel(kernel);
        by_norm ? options.clip_norm(0.5) : options.clip_value(0.3);
        optim::Adam control(full, options);
        optim::Adam adam(low, options.master_weights(kind));
        for (int step = 0; step < 5; ++step) {
          for (size_t i = 0; i < low.size(); ++i) {
            low[i].mutable_grad() = torch::randn(low[i].sizes(), here());
            full[i].mutable_grad() = low[i].grad().to(torch::kFloat);
          }
          adam.step();
          control.step();
        }
        for (size_t i = 0; i < low.size(); ++i)
          expect_close(adam.master_of(low[i]), full[i].detach(),
                       tolerance(torch::kFloat, "step"));  // the norm's sum may go another way
      }
    }
  }
}

TEST_P(Masters, ALoadedOptimizerGoesOnToTheBit) {
  for (const auto& name : kFusedClasses) {
    for (const auto kind : kKinds) {
      for (const bool weights_first : {true, false}) {
        SCOPED_TRACE(name_of(name, Kernel::automatic, kind));
        const auto whole = weights();
        const auto optimizer = make_fused(name, whole, false, Kernel::automatic, kind);
        train(*optimizer, 0, 5);
        const auto archive = saved(*optimizer);
        const auto model = clones(whole);
        train(*optimizer, 5, 55);

        const auto fresh = clones(weights());
        const auto second = make_fused(name, fresh, false, Kernel::automatic, kind);
        train(*second, 50, 52);  // what it had before must be gone
        const auto load_weights = [&] {
          const torch::NoGradGuard off;
          for (size_t i = 0; i < fresh.size(); ++i) fresh[i].copy_(model[i]);
        };
        if (weights_first) load_weights();
        load(*second, archive);
        if (!weights_first) load_weights();
        train(*second, 5, 55);
        for (size_t i = 0; i < whole.size(); ++i) {
          expect_same_bits(fresh[i].detach(), whole[i].detach());
          expect_same_bits(fused(second).master_of(fresh[i]), fused(optimizer).master_of(whole[i]));
        }
        // Without its master, the run would have gone another way.
        const auto without = clones(model);
        const auto third = make_fused(name, without, false, Kernel::automatic, kind);
        load(*third, archive);
        for (const auto& p : without) state_of(*third, p).master.reset();
        train(*third, 5, 55);
        EXPECT_FALSE(fused(third).master_of(without[0]).equal(fused(second).master_of(fresh[0])));
      }
    }
  }
}

TEST_P(Masters, AStateOfAnotherKindIsTakenOver) {
  using Kinds = std::pair<MasterWeights, MasterWeights>;
  for (const auto& [from, to] : {Kinds{MasterWeights::float32, MasterWeights::remainder},
                                 Kinds{MasterWeights::remainder, MasterWeights::float32}}) {
    const auto low = weights();
    const auto first = make_fused("AdamW", low, false, Kernel::automatic, from);
    train(*first, 0, 3);
    const auto same = clones(low);
    const auto second = make_fused("AdamW", same, false, Kernel::automatic, to);
    load(*second, saved(*first));
    for (size_t i = 0; i < low.size(); ++i)
      expect_same_bits(fused(second).master_of(same[i]), fused(first).master_of(low[i]));
    train(*first, 3, 6);
    train(*second, 3, 6);
    for (size_t i = 0; i < low.size(); ++i)
      expect_same_bits(fused(second).master_of(same[i]), fused(first).master_of(low[i]));

    const auto none = make_fused("AdamW", same);
    load(*none, saved(*first));
    EXPECT_FALSE(fused(none).master_of(same[0]).defined());
    EXPECT_FALSE(state_of(*none, same[0]).master.defined());
    EXPECT_EQ(state_of(*none, same[0]).buffers[0].scalar_type(), torch::kBFloat16);
    load(*second, saved(*none));  // no masters in it: from the weights
    expect_same_bits(state_of(*second, same[0]).buffers[0],
                     state_of(*none, same[0]).buffers[0].to(torch::kFloat));
    EXPECT_FALSE(fused(second).master_of(same[0]).defined());
  }
}

// A master in the middle between two bfloat16 numbers belongs to the even one, as float32 rounds,
// and still to that weight when its remainder is taken.
TEST_P(Masters, ATieIsTakenOverToo) {
  const auto low = one({1});
  optim::SGD sgd({low}, optim::SGDOptions(1).master_weights(MasterWeights::float32));
  low.mutable_grad() = torch::full_like(low.detach(), -0.00390625);
  sgd.step();
  EXPECT_EQ(low.item<float>(), 1);
  EXPECT_EQ(sgd.master_of(low).item<float>(), 1.00390625F);
  optim::SGD halves({low}, optim::SGDOptions(1).master_weights(MasterWeights::remainder));
  load(halves, saved(sgd));
  EXPECT_FLOAT_EQ(halves.master_of(low).item<float>(), 1.00390625F);
  EXPECT_EQ(low.item<float>(), 1);
}

}  // namespace halfstep::testing
