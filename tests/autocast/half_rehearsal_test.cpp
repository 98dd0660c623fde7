#include "halfstep/autocast/half_rehearsal.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/propagate.h"
#include "halfstep/core/low_precision_support.h"
#include "halfstep/inspect/dtype_counter.h"
#include "halfstep/nn/attention.h"

#include <thread>

#include <torch/torch.h>

#include "tests/autocast/deep_backward.h"
#include "tests/support/devices.h"
#include "tests/support/tolerance.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfstep {

namespace {

/// Rehearsed operations while `work` ran.
template <class Work>
int64_t uses_of(const Work& work) {
  const auto before = HalfRehearsal::uses();
  work();
  return HalfRehearsal::uses() - before;
}

torch::Tensor half(at::IntArrayRef sizes) {
  return torch::randn(sizes).to(torch::kHalf);
}

torch::Tensor leaf(at::IntArrayRef sizes) {
  return half(sizes).requires_grad_();
}

TEST(HalfRehearsal, HasTheRangeOfFloat16) {
  const HalfRehearsal rehearsal;
  const auto big = [](at::IntArrayRef sizes) { return torch::full(sizes, 300.0, torch::kHalf); };
  EXPECT_TRUE(at::mm(big({2, 2}), big({2, 2})).isinf().all().item<bool>());
  EXPECT_EQ(at::mm(big({2, 1}), big({1, 2}).div(2)).max().item<double>(), 44992);
  EXPECT_TRUE(at::conv2d(big({1, 1, 3, 3}), big({1, 1, 3, 3})).isinf().all().item<bool>());
  // The scores are 720000 / √8 in float32, as a GPU's kernel has them: only results are rounded.
  const auto q = big({1, 1, 4, 8});
  EXPECT_EQ(at::scaled_dot_product_attention(q, q, q).max().item<double>(), 300);
  const auto tiny = torch::full({2, 2}, 1e-5, torch::kHalf);
  EXPECT_EQ(at::mm(tiny, tiny).abs().max().item<double>(), 0);
}

TEST(HalfRehearsal, OverflowsInBackward) {
  const auto x = torch::full({2, 2}, 300.0, torch::kHalf);
  const auto weight = torch::full({2, 2}, 0.001, torch::kHalf).requires_grad_();
  {
    const HalfRehearsal rehearsal;
    const auto y = at::mm(x, weight);
    EXPECT_TRUE(y.isfinite().all().item<bool>());
    y.backward(torch::full({2, 2}, 300.0, torch::kHalf));
  }
  EXPECT_TRUE(weight.grad().isinf().all().item<bool>());
}

TEST(HalfRehearsal, LeavesOtherDtypesAlone) {
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kDouble}) {
    const auto a = torch::randn({8, 8}).to(dtype), b = torch::randn({8, 8}).to(dtype);
    const auto image = torch::randn({1, 2, 6, 6}).to(dtype),
               kernel = torch::randn({3, 2, 3, 3}).to(dtype);
    const auto outside_mm = at::mm(a, b), outside_conv = at::conv2d(image, kernel);
    const HalfRehearsal rehearsal;
    EXPECT_EQ(uses_of([&] {
                testing::expect_same_bits(at::mm(a, b), outside_mm);
                testing::expect_same_bits(at::conv2d(image, kernel), outside_conv);
              }),
              0);
  }
}

TEST(HalfRehearsal, LeavesLibTorchToRefuseMixedDtypes) {
  const HalfRehearsal rehearsal;
  EXPECT_THROW(at::mm(half({2, 2}), torch::randn({2, 2})), c10::Error);
  EXPECT_THROW(at::addmm(torch::randn({2}), half({2, 2}), half({2, 2})), c10::Error);
  auto out = torch::empty({2, 2});
  EXPECT_THROW(at::mm_out(out, half({2, 2}), half({2, 2})), c10::Error);
  EXPECT_THROW(at::mm(half({2, 3}), half({2, 3})), c10::Error);
  auto small = half({1, 2});
  EXPECT_THROW(small.addmm_(half({2, 2}), half({2, 2})), c10::Error);
}

TEST(HalfRehearsal, IsOffUnlessAskedForAndWhereToldSo) {
  const auto a = half({4, 4});
  { const HalfRehearsal rehearsal; }
  EXPECT_FALSE(HalfRehearsal::is_enabled());
  EXPECT_EQ(uses_of([&] { at::mm(a, a); }), 0);
  const HalfRehearsal rehearsal;
  EXPECT_TRUE(HalfRehearsal::is_enabled());
  {
    const HalfRehearsal off(false);
    EXPECT_FALSE(HalfRehearsal::is_enabled());
    EXPECT_EQ(uses_of([&] { at::mm(a, a); }), 0);
    const HalfRehearsal on;
    EXPECT_EQ(uses_of([&] { at::mm(a, a); }), 1);
  }
  EXPECT_EQ(uses_of([&] { at::mm(a, a); }), 1);
}

TEST(HalfRehearsal, BackwardAfterItIsRehearsed) {
  const auto x = half({8, 16}), gradient = half({8, 4});
  const auto image = half({2, 3, 8, 8});
  const auto run = [&](bool backward_inside) {
    torch::manual_seed(0);
    const auto weight = leaf({16, 4}), bias = leaf({4}), kernel = leaf({4, 3, 3, 3}),
               q = leaf({1, 2, 5, 8});
    torch::Tensor loss;
    {
      const HalfRehearsal rehearsal;
      loss = (at::addmm(bias, x, weight) * gradient).sum() + at::conv2d(image, kernel).sum() +
             at::scaled_dot_product_attention(q, q, q).sum();
      if (backward_inside) loss.backward();
    }
    if (!backward_inside) {
      EXPECT_EQ(uses_of([&] { loss.backward(); }), 3);
    }
    return std::vector<torch::Tensor>{weight.grad(), bias.grad(), kernel.grad(), q.grad()};
  };
  const auto inside = run(true), after = run(false);
  for (size_t i = 0; i < inside.size(); ++i) {
    EXPECT_TRUE(inside[i].any().item<bool>());
    testing::expect_same_bits(after[i], inside[i]);
  }
}

TEST(HalfRehearsal, BackwardInsideItIsRehearsedWhereverTheForwardWas) {
  const auto weight = leaf({16, 4});
  const auto y = at::mm(half({8, 16}), weight);
  const HalfRehearsal rehearsal;
  EXPECT_EQ(uses_of([&] { y.sum().backward(); }), 1);
}

TEST(HalfRehearsal, BackwardOfOtherOpsIsNot) {
  const auto weight = leaf({16, 4});
  { const HalfRehearsal rehearsal; }
  const auto y = at::mm(half({8, 16}), weight);
  EXPECT_EQ(uses_of([&] { y.sum().backward(); }), 0);
}

TEST(HalfRehearsal, DoubleBackwardAfterItIsRehearsed) {
  const auto a = leaf({4, 4}), b = leaf({4, 4});
  torch::Tensor y;
  {
    const HalfRehearsal rehearsal;
    y = at::mm(a, b);
  }
  const auto gradient =
      torch::autograd::grad({y.pow(2).sum()}, {a}, {}, true, /*create_graph=*/true);
  EXPECT_GE(uses_of([&] { gradient[0].sum().backward(); }), 2);
}

TEST(HalfRehearsal, ProductsInPlaceOnAViewAreRehearsedBackwards) {
  const auto a = leaf({2, 3}), b = leaf({3, 4});
  auto base = leaf({5, 4}).mul(2);
  {
    const HalfRehearsal rehearsal;
    auto rows = base.narrow(0, 1, 2);
    rows.addmm_(a, b);
    auto whole = leaf({2, 4}).mul(2);
    whole.addmm_(a, b);
    base = base + whole.sum();
  }
  EXPECT_EQ(uses_of([&] { base.sum().backward(); }), 4);
  EXPECT_TRUE(a.grad().any().item<bool>());
}

TEST(HalfRehearsal, MarksNothingWhereNoGradientIsRecorded) {
  auto y = at::mm(leaf({2, 3}), half({3, 4}));
  {
    const HalfRehearsal rehearsal;
    const torch::NoGradGuard no_grad;
    y.addmm_(half({2, 3}), half({3, 4}));
    EXPECT_FALSE(at::mm(leaf({2, 3}), half({3, 4})).requires_grad());
  }
  EXPECT_EQ(uses_of([&] { y.sum().backward(); }), 0);
}

TEST(HalfRehearsal, WorksInInferenceMode) {
  const HalfRehearsal rehearsal;
  const c10::InferenceMode inference;
  EXPECT_EQ(uses_of([&] { at::conv2d(half({1, 2, 6, 6}), half({3, 2, 3, 3})); }), 1);
}

TEST(HalfRehearsal, ReachesAutogradsThreads) {
  const HalfRehearsal rehearsal;
  std::thread::id thread;
  EXPECT_EQ(uses_of([&] {
              thread = testing::DeepBackward::run([] { at::mm(half({2, 2}), half({2, 2})); });
            }),
            1);
  EXPECT_NE(thread, std::this_thread::get_id());
}

TEST(HalfRehearsal, ReachesThreadsThroughPropagateOnly) {
  const auto a = half({4, 4});
  const HalfRehearsal rehearsal;
  EXPECT_EQ(uses_of([&] { std::thread([&] { at::mm(a, a); }).join(); }), 0);
  EXPECT_EQ(uses_of([&] { std::thread(propagate([&] { at::mm(a, a); })).join(); }), 1);
}

TEST(HalfRehearsalDeathTest, EndsInOrder) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        auto first = std::make_unique<HalfRehearsal>();
        const HalfRehearsal second;
        first.reset();
      },
      "\\[HalfRehearsal\\] a guard must end .* keep it on the stack");
}

/// Every product and convolution that ran in float16 was rehearsed.
void expect_all_rehearsed(const inspect::DtypeReport& report, int64_t uses) {
  int64_t half_operations = 0;
  for (const char* op :
       {"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "mv", "dot", "convolution",
        "mkldnn_rnn_layer", "_scaled_dot_product_flash_attention_for_cpu"}) {
    const auto found = report.ops.find(op);
    if (found == report.ops.end()) continue;
    const auto in_half = found->second.find(torch::kHalf);
    if (in_half != found->second.end()) half_operations += in_half->second;
  }
  EXPECT_GT(uses, 0);
  EXPECT_EQ(half_operations, uses);
}

struct Model {
  const char* name;
  std::function<torch::Tensor(const torch::Tensor&)> forward;
};

TEST(HalfRehearsalEntries, RunUnderAutocast) {
  torch::manual_seed(0);
  torch::nn::Linear linear(16, 8);
  torch::nn::Conv2d conv(3, 4, 3);
  torch::nn::LSTM lstm(torch::nn::LSTMOptions(16, 8).num_layers(2));
  torch::nn::GRUCell gru(16, 8);
  const auto weight = torch::randn({8, 16}).requires_grad_();
  const auto x2 = torch::randn({4, 16}), x3 = torch::randn({4, 5, 16});
  const Model models[] = {
      {"nn::Linear 2-D", [&](const auto&) { return linear(x2); }},
      {"nn::Linear 3-D", [&](const auto&) { return linear(x3); }},
      {"linear 2-D", [&](const auto&) { return at::linear(x2, weight); }},
      {"linear 3-D", [&](const auto&) { return at::linear(x3, weight, linear->bias); }},
      {"matmul 2-D by 1-D", [&](const auto&) { return at::matmul(x2, weight[0]); }},
      {"matmul 1-D by 1-D", [&](const auto&) { return at::matmul(x2[0], weight[0]); }},
      {"matmul 3-D", [&](const auto&) { return at::matmul(x3, weight.t()); }},
      {"matmul 4-D",
       [&](const auto&) { return at::matmul(x3.unsqueeze(1), x3.unsqueeze(1).mT()); }},
      {"einsum",
       [&](const auto&) {
         return at::einsum("bti,oi->bto", {x3, weight});
       }},
      {"conv2d",
       [&](const auto&) {
         return conv(torch::randn({2, 3, 8, 8}));
       }},
      {"LSTM", [&](const auto&) { return std::get<0>(lstm(x3)); }},
      {"GRUCell", [&](const auto&) { return gru(x2); }},
      {"attention",
       [&](const auto&) {
         auto q = x3.unsqueeze(1);
         return nn::scaled_dot_product_attention(q, q, q, true);
       }},
  };
  for (const auto& model : models) {
    SCOPED_TRACE(model.name);
    const auto exact = model.forward({});
    torch::Tensor y;
    {
      const HalfRehearsal rehearsal;
      const Autocast autocast(AutocastOptions(torch::kCPU).dtype(torch::kHalf));
      const inspect::DtypeCounter counter;
      const auto uses = uses_of([&] { y = model.forward({}); });
      expect_all_rehearsed(counter.report(), uses);
    }
    if (model.name != std::string("conv2d")) {
      EXPECT_LT((y.to(torch::kFloat) - exact).abs().max().item<double>(), 0.02);
    }
    // The backward of dot is no product.
    if (!y.requires_grad() || model.name == std::string("matmul 1-D by 1-D")) continue;
    EXPECT_GT(uses_of([&] { y.to(torch::kFloat).sum().backward(); }), 0);
  }
}

// What a product costs is asked of the hardware: the surroundings don't count.
TEST(HalfRehearsal, IsNoPartOfAProductsCost) {
  const auto products = [](const inspect::DtypeReport& report, c10::ScalarType dtype) {
    const auto& found = report.ops.at("mm");
    return found.contains(dtype) ? found.at(dtype) : 0;
  };
  const HalfRehearsal rehearsal;
  const Autocast autocast(AutocastOptions(torch::kCPU)
                              .dtype(torch::kBFloat16)
                              .policy(OpPolicy().set("mm", CastRule::lower_precision)));
  const inspect::DtypeCounter counter;
  EXPECT_EQ(uses_of([] { measure_product_cost(torch::kCPU, torch::kHalf); }), 0);
  const auto report = counter.report();
  EXPECT_GT(products(report, torch::kHalf), 0);
  EXPECT_EQ(products(report, torch::kFloat), products(report, torch::kHalf));
  EXPECT_EQ(products(report, torch::kBFloat16), 0);
  EXPECT_TRUE(HalfRehearsal::is_enabled()) << "and all is as before";
}

TEST(HalfRehearsalOnCuda, DoesNothing) {
  HALFSTEP_REQUIRE_CUDA(1);
  const auto a = half({8, 8}).to(torch::kCUDA);
  const auto outside = at::mm(a, a);
  const HalfRehearsal rehearsal;
  EXPECT_EQ(uses_of([&] { testing::expect_same_bits(at::mm(a, a), outside); }), 0);
}

}  // namespace

}  // namespace halfstep
