// Masters whose weights somebody else has changed, and what is refused.
#include "halfstep/core/error.h"

#include <limits>

#include <torch/types.h>
#include <torch/utils.h>

#include "tests/optim/make_optimizer.h"
#include "tests/optim/master_case.h"
#include "tests/optim/optimizer_archive.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using optim::AdamOptions;
using optim::FusedState;
using optim::Kernel;
using optim::MasterWeights;

namespace {

constexpr float kSmall = 0.0009765625;  // an eighth of the distance from 1 to the next bfloat16

}  // namespace

class ChangedMasters : public MasterTest {
 protected:
  static void set_gradient(const at::Tensor& parameter, float value) {
    parameter.mutable_grad() = torch::full_like(parameter.detach(), value);
  }
};
HALFSTEP_ON_EACH_DEVICE(ChangedMasters);

// As flat buffers of parameters are made: all parts have one version counter.
TEST_P(ChangedMasters, PartsOfOneTensorKeepTheirs) {
  for (const auto kernel : kKernels) {
    for (const auto kind : kKinds) {
      SCOPED_TRACE(name_of(kernel, kind));
      const auto flat = torch::ones({12}, here());
      std::vector<at::Tensor> parts;
      for (int i = 0; i < 3; ++i)
        parts.push_back(flat.slice(0, 4 * i, 4 * i + 4).detach().requires_grad_());
      ASSERT_EQ(parts[0]._version(), parts[2]._version());
      optim::SGD sgd(parts, optim::SGDOptions(1).kernel(kernel).master_weights(kind));
      for (int step = 0; step < 20; ++step) {
        for (const auto& part : parts) set_gradient(part, kSmall);
        if (step >= 10) parts[1].mutable_grad().reset();  // rests while the others move
        sgd.step();
      }
      for (size_t i = 0; i < 3; ++i)
        expect_same_bits(sgd.master_of(parts[i]),
                         torch::full({4}, 1 - (i == 1 ? 10 : 20) * kSmall, here(torch::kFloat)));
      EXPECT_LT(parts[0][0].item<float>(), 1);
      // And only a weight that was changed is looked at again.
      const auto before = state_of(sgd, parts[1]).master;
      set_gradient(parts[1], 0);
      sgd.step();
      EXPECT_TRUE(state_of(sgd, parts[1]).master.is_same(before));
    }
  }
}

// A freed piece of memory is handed out again; its address then says nothing.
TEST_P(ChangedMasters, WeightsGivenTwiceAreSeen) {
  for (const auto kernel : kKernels) {
    for (const int64_t size : {16, 1000, 40000}) {
      SCOPED_TRACE(c10::str(name_of(kernel, MasterWeights::float32), " ", size));
      const auto low = torch::ones({size}, here()).requires_grad_();
      optim::SGD sgd({low},
                     optim::SGDOptions(1).kernel(kernel).master_weights(MasterWeights::float32));
      set_gradient(low, 0.25);
      sgd.step();
      const auto* address = low.const_data_ptr();
      bool again = false;
      for (int i = 0; i < 64 && !again; ++i) {
        low.set_data(torch::full({size}, 5, here()));
        low.set_data(torch::full({size}, 7, here()));
        again = low.const_data_ptr() == address;
      }
      set_gradient(low, 0);
      sgd.step();
      EXPECT_EQ(low[0].item<float>(), 7);
      RecordProperty(c10::str("again", size), again);
    }
  }
}

// In a new optimizer, before its first step too, and in any layout.
TEST_P(ChangedMasters, GivenOnesComeBackToTheBit) {
  for (const auto kernel : kKernels) {
    for (const auto kind : kKinds) {
      SCOPED_TRACE(name_of(kernel, kind));
      const auto adam_of = [&](const at::Tensor& parameter) {
        return optim::Adam({parameter}, AdamOptions(0.01).kernel(kernel).master_weights(kind));
      };
      const auto low = torch::ones({6, 4}, here()).requires_grad_();
      auto adam = adam_of(low);
      for (int step = 0; step < 3; ++step) {
        set_gradient(low, 0.1F);
        adam.step();
      }
      const auto master = adam.master_of(low).clone();
      EXPECT_FALSE(master.equal(low.detach().to(torch::kFloat)));
      auto other = torch::zeros({4, 6}, here()).t().requires_grad_();
      auto loaded = adam_of(other);
      const auto version = other._version();
      loaded.set_master(other, master);
      EXPECT_GT(other._version(), version);
      expect_same_bits(other.detach().contiguous(), low.detach());
      expect_same_bits(loaded.master_of(other).contiguous(), master);
      // It is what the first step begins with.
      set_gradient(other, 0);
      loaded.step();
      expect_same_bits(loaded.master_of(other).contiguous(), master);
      EXPECT_ERROR(loaded.set_master(low, master), UsageError, "[Adam]", "but got another one");
      EXPECT_ERROR(loaded.set_master(other, torch::ones({3})), UsageError, "[Adam]",
                   "shape [6, 4], but has [3]");
    }
  }
  const auto full = torch::ones({2}, here(torch::kFloat)).requires_grad_();
  optim::SGD none({full}, optim::SGDOptions(1).master_weights(MasterWeights::float32));
  EXPECT_ERROR(none.set_master(full, full.detach()), UsageError, "[SGD]", "a 16-bit parameter");
}

TEST_P(ChangedMasters, ATransposedWeightIsSeen) {
  for (const auto kind : kKinds) {
    SCOPED_TRACE(name_of(Kernel::automatic, kind));
    const auto low = torch::tensor({1.0F, 2.0F, 3.0F, 4.0F}, here()).view({2, 2}).requires_grad_();
    optim::SGD sgd({low}, optim::SGDOptions(1).master_weights(kind));
    set_gradient(low, kSmall);
    sgd.step();
    low.set_data(low.detach().t());  // the same memory
    set_gradient(low, 0);
    sgd.step();
    expect_same_bits(low.detach().to(torch::kFloat),
                     torch::tensor({1.0F, 3.0F, 2.0F, 4.0F}, here(torch::kFloat)).view({2, 2}));
  }
}

TEST_P(ChangedMasters, MovingKeepsThem) {
  for (const auto kernel : kKernels) {
    for (const auto kind : kKinds) {
      SCOPED_TRACE(name_of(kernel, kind));
      const auto low = torch::ones({2, 4, 3, 3}, here()).requires_grad_();
      optim::SGD sgd({low}, optim::SGDOptions(1).kernel(kernel).master_weights(kind));
      for (int step = 0; step < 2; ++step) {
        set_gradient(low, kSmall);
        sgd.step();
        low.set_data(low.detach().contiguous(at::MemoryFormat::ChannelsLast).clone());
      }
      expect_same_bits(sgd.master_of(low).contiguous(),
                       torch::full({2, 4, 3, 3}, 1 - 2 * kSmall, here(torch::kFloat)));
    }
  }
}

// One made from float32 later has a copy for autocast, and a master beside it.
TEST_P(ChangedMasters, AMasterAndACopyForAutocast) {
  for (const auto kernel : kKernels) {
    for (const auto kind : kKinds) {
      SCOPED_TRACE(name_of(kernel, kind));
      const auto weight = one({1, 2, 4}, torch::kFloat);
      optim::SGD sgd({weight},
                     optim::SGDOptions(1).kernel(kernel).master_weights(kind).shadow_weights(
                         torch::kBFloat16));
      weight.set_data(weight.detach().to(torch::kBFloat16));
      set_gradient(weight, 0.5);
      sgd.step();
      const auto expected = torch::tensor({0.5F, 1.5F, 3.5F}, here());
      expect_same_bits(weight.detach(), expected);
      expect_same_bits(sgd.shadow_of(weight), expected);
    }
  }
}

TEST_P(ChangedMasters, AFailedStepLeavesNoTrace) {
  for (const auto kind : {MasterWeights::none, MasterWeights::float32, MasterWeights::remainder}) {
    const auto p = one({1, 1}), q = one({1, 1});
    optim::SGD sgd({p, q}, optim::SGDOptions(1).momentum(0.9).dampening(0.5).master_weights(kind));
    set_gradient(q, 0);
    sgd.step();
    q.set_data(torch::ones({3}, here()));
    q.mutable_grad() = torch::ones({3}, here());
    set_gradient(p, 1);
    EXPECT_ERROR(sgd.step(), UsageError, "must have its parameter's shape [3], but has [2]");
    EXPECT_EQ(p[0].item<float>(), 1);
    EXPECT_EQ(sgd.state().count(p.unsafeGetTensorImpl()), 0U);
    q.mutable_grad().reset();
    sgd.step();
    EXPECT_EQ(p[0].item<float>(), 0) << "without dampening at a first step";
  }
}

// float64 gradients go to ATen's kernel, in the same step as the others'.
TEST_P(ChangedMasters, BesideAGradientInFloat64) {
  for (const auto kind : kKinds) {
    const auto p = one({1, 1}), q = one({1, 1});
    optim::set_gradient_dtype({q}, torch::kDouble);
    optim::SGD sgd({p, q}, optim::SGDOptions(1).master_weights(kind).maximize(true));
    for (int step = 0; step < 3; ++step) {
      set_gradient(p, kSmall);
      q.mutable_grad() = torch::full({2}, kSmall, here(torch::kDouble));
      sgd.step();
    }
    for (const auto& parameter : {p, q}) {
      EXPECT_GT(parameter._version(), 2);
      expect_same_bits(sgd.master_of(parameter),
                       torch::full({2}, 1 + 3 * kSmall, here(torch::kFloat)));
    }
  }
}

TEST_P(ChangedMasters, AChangedWeightWins) {
  for (const auto kernel : kKernels) {
    for (const auto kind : kKinds) {
      SCOPED_TRACE(name_of(kernel, kind));
      const auto low = one({1, 1, 1});
      optim::SGD sgd({low}, optim::SGDOptions(1).kernel(kernel).master_weights(kind));
      const auto step = [&] {
        low.mutable_grad() = torch::full_like(low.detach(), 0.0009765625);  // 2^-10
        sgd.step();
      };
      step();
      EXPECT_EQ(low[0].item<float>(), 1) << "less than half a unit";
      const auto moved = torch::full({3}, 0.9990234375, here(torch::kFloat));
      expect_same_bits(sgd.master_of(low), moved);
      {
        const torch::NoGradGuard off;
        low[1] = 3;
      }
      // A remainder is a quarter of a unit of 1 here, and stays one of 3, and of 5.
      const auto off_by = [&](float unit) {
        return kind == MasterWeights::remainder ? -unit / 4 : 0;
      };
      auto expected = moved.clone();
      expected[1] = 3 + off_by(0.015625);
      expect_same_bits(sgd.master_of(low), expected);
      step();
      expect_same_bits(sgd.master_of(low), expected - 0.0009765625);
      EXPECT_EQ(low[1].item<float>(), 3);

      low.set_data(torch::full({3}, 5, here()));  // no new version, but other memory
      expected.fill_(5);
      expected[1] += off_by(0.03125) - (kind == MasterWeights::remainder ? 0.001953125F : 0);
      expected[0] += off_by(0.03125) * 2;
      expected[2] += off_by(0.03125) * 2;
      expect_same_bits(sgd.master_of(low), expected);
      step();
      expect_same_bits(sgd.master_of(low), expected - 0.0009765625);
      low.set_data(low.detach().view({3, 1}).clone());
      EXPECT_ERROR((low.mutable_grad() = torch::ones({3, 1}, here()), sgd.step()), UsageError,
                   "master must have its parameter's shape [3, 1], but has [3]");
    }
  }
}

// Weights that were loaded after, or with, a state that does not belong to them.
TEST_P(ChangedMasters, AForeignStateDoesNotMoveWeights) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const auto kernel : kKernels) {
    for (const auto kind : kKinds) {
      for (const float direction : {1.0F, -1.0F}) {
        SCOPED_TRACE(name_of(kernel, kind));
        const auto options = optim::SGDOptions(1).kernel(kernel).master_weights(kind);
        const auto low = one(std::vector<float>(6, 2));
        optim::SGD first({low}, options);
        low.mutable_grad() = torch::full_like(low.detach(), direction * 0.0009765625);
        first.step();
        ASSERT_NE(first.master_of(low)[0].item<float>(), 2);
        const auto other = one({0, -0.0F, 1, -100, inf, -inf});
        optim::SGD second({other}, options);
        load(second, saved(first));
        const auto master = second.master_of(other);
        if (kind == MasterWeights::float32)
          expect_same_bits(master, other.detach().to(torch::kFloat));
        else
          expect_close(master.slice(0, 0, 4), other.detach().slice(0, 0, 4).to(torch::kFloat),
                       {0.00390625, 1e-38});
        EXPECT_FALSE(master.isnan().any().item<bool>());
        const auto before = other.detach().clone();
        other.mutable_grad() = torch::zeros_like(other.detach());
        second.step();
        expect_same_bits(other.detach(), before);
      }
    }
  }
}

TEST_P(ChangedMasters, Misuse) {
  const auto half = one({1}, torch::kHalf), low = one({1});
  const auto options = AdamOptions().master_weights(MasterWeights::remainder);
  EXPECT_ERROR(optim::Adam({half}, options), UsageError,
               "[Adam] parameters with MasterWeights::remainder must be bfloat16",
               "but got one in float16", "use MasterWeights::float32");
  optim::Adam adam({low}, options);
  EXPECT_FALSE(adam.master_of(low).defined()) << "before the first step";
  EXPECT_FALSE(adam.master_of(half).defined()) << "not a parameter of it";
  low.set_data(low.detach().to(torch::kHalf));
  low.mutable_grad() = torch::ones_like(low.detach());
  EXPECT_ERROR(adam.step(), UsageError, "but got one in float16");
  EXPECT_EQ(low.item<float>(), 1);

  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(std::vector{one({1})}, std::make_unique<AdamOptions>(options));
  EXPECT_ERROR(optim::Adam(groups, AdamOptions()), UsageError, "capturable hold for all groups",
               "group 0 sets other ones");

  const auto parameter = one({1, 2});
  optim::Adam broken({parameter}, AdamOptions().master_weights(MasterWeights::float32));
  parameter.mutable_grad() = torch::ones_like(parameter.detach());
  broken.step();
  state_of(broken, parameter).master = torch::ones({2}, here(torch::kDouble));
  EXPECT_ERROR(broken.step(), UsageError,
               "a master must be float32, or an int16 remainder of a bfloat16 parameter, but that "
               "of a bfloat16 parameter is float64");
}

TEST_P(ChangedMasters, ReadingOneChecksAsAStepDoes) {
  const auto low = one({0.75, 1});
  optim::SGD sgd({low}, optim::SGDOptions(1).master_weights(MasterWeights::remainder));
  set_gradient(low, 0);
  sgd.step();
  low.set_data(low.detach().to(torch::kHalf));
  EXPECT_ERROR(sgd.master_of(low), UsageError, "but got one in float16");
  low.set_data(torch::ones({3}, here()));
  EXPECT_ERROR(sgd.master_of(low), UsageError, "must have its parameter's shape [3]");
  low.set_data(torch::ones({2}, here()));
  state_of(sgd, low).step = torch::ones({2}, here(torch::kFloat));
  EXPECT_ERROR(sgd.master_of(low), UsageError, "step must be a tensor of one element");
}

}  // namespace halfstep::testing
