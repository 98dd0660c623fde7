// Saving, loading and going on.
#include "halfstep/core/error.h"
#include "halfstep/optim.h"

#include <torch/serialize.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/optim/make_optimizer.h"
#include "tests/optim/optimizer_archive.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using optim::FusedState;

class FusedSaved : public DeviceTest {
 protected:
  std::vector<at::Tensor> parameters() {
    torch::manual_seed(1);
    const auto here = torch::device(device());
    return {torch::randn({3, 5}, here).requires_grad_(), torch::randn({7}, here).requires_grad_(),
            torch::randn({2, 4, 3, 3}, here)
                .contiguous(at::MemoryFormat::ChannelsLast)
                .requires_grad_()};
  }
};
HALFSTEP_ON_EACH_DEVICE(FusedSaved);

namespace {

void train(torch::optim::Optimizer& optimizer, int from, int to) {
  for (int step = from; step < to; ++step) {
    torch::manual_seed(100 + step);
    for (const auto& p : optimizer.param_groups()[0].params())
      p.mutable_grad() = torch::randn(p.sizes(), p.options().requires_grad(false));
    optimizer.step();
  }
}

}  // namespace

TEST_P(FusedSaved, ALoadedOptimizerGoesOnToTheBit) {
  for (const auto& name : kFusedClasses) {
    SCOPED_TRACE(name);
    const auto whole = parameters();
    const auto optimizer = make_fused(name, whole);
    train(*optimizer, 0, 5);
    static_cast<optim::FusedOptions&>(optimizer->param_groups()[0].options()).set_lr(0.03);
    const auto archive = saved(*optimizer);
    const auto resumed = clones(whole);
    train(*optimizer, 5, 10);

    const auto second = make_fused(name, resumed);
    train(*second, 50, 51);  // what it had before must be gone
    {
      const torch::NoGradGuard off;
      for (size_t i = 0; i < resumed.size(); ++i) resumed[i].zero_();
    }
    const auto fresh = clones(parameters());
    const auto third = make_fused(name, fresh);
    train(*third, 0, 5);
    load(*third, archive);
    EXPECT_EQ(third->param_groups()[0].options().get_lr(), 0.03);
    train(*third, 5, 10);
    for (size_t i = 0; i < whole.size(); ++i) expect_same_bits(fresh[i], whole[i]);
    const auto& state =
        static_cast<FusedState&>(*third->state().at(fresh[0].unsafeGetTensorImpl()));
    if (name != "SGD") {
      EXPECT_EQ(state.step.item<float>(), 10);
    }

    // A loaded state replaces the old one.
    load(*second, archive);
    EXPECT_EQ(second->state().size(), 3U);
  }
}

TEST_P(FusedSaved, StateComesBackInTheLayoutOfTheNewParameter) {
  for (const auto& name : kFusedClasses) {
    SCOPED_TRACE(name);
    const auto first = parameters();
    const auto optimizer = make_fused(name, first);
    train(*optimizer, 0, 3);
    auto other = clones(first);
    other[0] = first[0].detach().t().contiguous().t().clone(at::MemoryFormat::Preserve);
    other[2] = first[2].detach().contiguous().clone();
    ASSERT_NE(other[2].strides(), first[2].strides());
    const auto second = make_fused(name, other);
    load(*second, saved(*optimizer));
    for (size_t i = 0; i < other.size(); ++i) {
      const auto& got =
          static_cast<FusedState&>(*second->state().at(other[i].unsafeGetTensorImpl()));
      for (const auto& buffer : got.buffers) {
        if (buffer.defined()) {
          EXPECT_EQ(buffer.strides(), other[i].strides());
        }
      }
    }
    train(*optimizer, 3, 6);
    train(*second, 3, 6);
    for (size_t i = 0; i < other.size(); ++i) {
      if (device().is_cpu())
        expect_same_bits(other[i], first[i]);
      else
        expect_close(other[i], first[i], tolerance(torch::kFloat, "update"));
    }
  }
}

TEST_P(FusedSaved, ArchivesOfTheStockOptimizerCanBeRead) {
  for (const auto& name : kFusedClasses) {
    SCOPED_TRACE(name);
    const auto first = parameters();
    const auto stock = make_stock(name, first);
    train(*stock, 0, 4);
    const auto second = clones(first);
    const auto fused = make_fused(name, second);
    load(*fused, saved(*stock));
    train(*stock, 4, 8);
    train(*fused, 4, 8);
    for (size_t i = 0; i < first.size(); ++i)
      expect_close(second[i], first[i], tolerance(torch::kFloat, "step"));
    if (name == "SGD") continue;
    const auto& state =
        static_cast<FusedState&>(*fused->state().at(second[0].unsafeGetTensorImpl()));
    EXPECT_EQ(state.step.item<float>(), 8);
    EXPECT_EQ(state.step.device(), second[0].device());
  }
}

// A state put in by hand that fits no more: float32 comes before float64, which ATen steps.
TEST_P(FusedSaved, AStepThatThrowsHasChangedNothing) {
  for (const auto last : {torch::kFloat, torch::kDouble}) {
    const auto here = torch::device(device());
    const auto first = torch::ones({3}, here).requires_grad_();
    const auto second = torch::ones({3}, here.dtype(last)).requires_grad_();
    optim::Adam adam({first, second}, optim::AdamOptions(0.1));
    for (const auto& p : {first, second}) p.mutable_grad() = torch::ones_like(p);
    adam.step();
    const auto& state_of = [&](const at::Tensor& p) -> FusedState& {
      return static_cast<FusedState&>(*adam.state().at(p.unsafeGetTensorImpl()));
    };
    state_of(second).buffers[0] = torch::ones({8}, here);
    const auto before = first.detach().clone();
    EXPECT_ERROR(adam.step(), UsageError, "must have its parameter's shape");
    expect_same_bits(first, before);
    EXPECT_EQ(state_of(first).step.item<float>(), 1);
  }
}

TEST_P(FusedSaved, AnArchiveOfAnotherModelChangesNothing) {
  for (const auto& name : kFusedClasses) {
    SCOPED_TRACE(name);
    const auto first = parameters();
    const auto optimizer = make_fused(name, first);
    train(*optimizer, 0, 2);
    auto wrong = clones(first);
    wrong[1] = torch::ones({8}, torch::device(device()));
    const auto other = make_fused(name, wrong);
    train(*other, 0, 1);
    static_cast<optim::FusedOptions&>(other->param_groups()[0].options()).set_lr(7);
    const auto before = saved(*optimizer);
    EXPECT_ERROR(load(*optimizer, saved(*other)), UsageError, "must have its parameter's shape [7]",
                 "but has [8]");
    EXPECT_EQ(optimizer->param_groups()[0].options().get_lr(), 0.1);
    EXPECT_EQ(optimizer->state().size(), 3U);
    const auto twins = clones(first);
    const auto control = make_fused(name, twins);
    load(*control, before);
    train(*optimizer, 2, 4);
    train(*control, 2, 4);
    for (size_t i = 0; i < first.size(); ++i) expect_same_bits(first[i], twins[i]);
  }
}

}  // namespace halfstep::testing
