// Ports of Apex's test_basic_casts.py, test_promotion.py, test_cache.py and test_rnn.py: what O1
// runs in which dtype.
#include "halfstep/core/error.h"

#include <functional>

#include <torch/nn/functional.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/modules/rnn.h>
#include <torch/nn/utils/rnn.h>

#include "tests/apex/amp_case.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep::testing {

namespace F = torch::nn::functional;

namespace {

enum class Expect { low, float32, as_input };

}  // namespace

class ApexCasts : public AmpTest {
 protected:
  using Function = std::function<at::Tensor(const at::Tensor&)>;

  at::TensorOptions here(c10::ScalarType dtype) const {
    return torch::device(device()).dtype(dtype);
  }
  at::Tensor random(at::IntArrayRef sizes, c10::ScalarType dtype = torch::kFloat) const {
    return torch::randn(sizes).to(here(dtype));
  }
  template <class Module>
  Module here(Module module) const {
    module->to(device());
    return module;
  }

  /// Runs `body` in O1's region, for both 16-bit types.
  static void in_each_region(const std::function<void(c10::ScalarType low)>& body) {
    for (const auto low : {f16, bf16}) {
      const auto amp = apex::initialize({}, {}, AmpOptions(OptLevel::O1).half_dtype(low));
      const Autocast region(amp.autocast(GetParam()));
      SCOPED_TRACE(low);
      body(low);
    }
  }

  /// For inputs of either type: the output's dtype, and that the gradient has the input's.
  void expect_dtypes(Expect expected, at::IntArrayRef sizes, const std::vector<Function>& functions,
                     bool backward = true) const {
    in_each_region([&](c10::ScalarType low) {
      for (const auto& function : functions) {
        for (const auto dtype : {f32, low}) {
          const auto input = random(sizes, dtype).requires_grad_();
          const auto output = function(input);
          EXPECT_EQ(output.scalar_type(), expected == Expect::low       ? low
                                          : expected == Expect::float32 ? f32
                                                                        : dtype)
              << "of " << dtype;
          if (!backward) continue;
          output.to(f32).sum().backward();
          EXPECT_EQ(input.grad().scalar_type(), dtype);
        }
      }
    });
  }
};
HALFSTEP_ON_EACH_DEVICE(ApexCasts);

TEST_P(ApexCasts, LinearIsLow) {
  auto layer = here(torch::nn::Linear(8, 8));
  expect_dtypes(Expect::low, {4, 8},
                {[&](const auto& x) { return layer(x); },
                 [&](const auto& x) { return F::linear(x, layer->weight, layer->bias); }});
}

TEST_P(ApexCasts, Conv2dIsLow) {
  auto layer = here(torch::nn::Conv2d(3, 3, 3));
  expect_dtypes(Expect::low, {2, 3, 8, 8},
                {[&](const auto& x) { return layer(x); },
                 [&](const auto& x) {
                   return F::conv2d(x, layer->weight, F::Conv2dFuncOptions().bias(layer->bias));
                 }});
}

TEST_P(ApexCasts, SoftmaxIsFloat32) {
  expect_dtypes(Expect::float32, {4, 8}, {[](const auto& x) { return F::softmax(x, 1); }});
}

TEST_P(ApexCasts, GroupNormIsFloat32) {
  auto layer = here(torch::nn::GroupNorm(4, 8));
  expect_dtypes(Expect::float32, {2, 8, 4, 4}, {[&](const auto& x) { return layer(x); }});
}

TEST_P(ApexCasts, MseLossIsFloat32) {
  const auto target = random({4, 8});
  expect_dtypes(Expect::float32, {4, 8}, {[&](const auto& x) { return F::mse_loss(x, target); }});
}

TEST_P(ApexCasts, ReluMatchesItsInput) {
  expect_dtypes(Expect::as_input, {4, 8}, {[](const auto& x) { return F::relu(x); }});
}

TEST_P(ApexCasts, BatchNormMatchesItsInput) {
  auto layer = here(torch::nn::BatchNorm2d(3));
  const auto run = [&](const at::Tensor& x) { return layer(x); };
  expect_dtypes(Expect::as_input, {4, 3, 8, 8}, {run});
  layer->eval();
  expect_dtypes(Expect::as_input, {4, 3, 8, 8}, {run}, /*backward=*/false);
}

TEST_P(ApexCasts, BinaryCrossEntropyIsBanned) {
  const auto target = torch::rand({4, 8}).to(device());
  in_each_region([&](c10::ScalarType low) {
    const auto input = torch::rand({4, 8}).to(here(low));
    if (GetParam() == c10::kCUDA) {  // whose list bans it too, in its own words
      EXPECT_ERROR(F::binary_cross_entropy(input, target), c10::Error, "unsafe to autocast");
    } else {
      EXPECT_ERROR(F::binary_cross_entropy(input, target), UsageError, "[OpPolicy]",
                   "bans binary_cross_entropy", "binary_cross_entropy_with_logits");
    }
    // Apex's allow_banned.
    auto policy = OpPolicy::apex().set("binary_cross_entropy", CastRule::float32);
    const Autocast region(AutocastOptions(GetParam()).policy(policy));
    EXPECT_EQ(F::binary_cross_entropy(input, target).scalar_type(), f32);
  });
}

TEST_P(ApexCasts, MatmulIsLow) {
  const auto other = random({8, 8});
  expect_dtypes(Expect::low, {8, 8},
                {[&](const auto& x) { return x.matmul(other); },
                 [&](const auto& x) { return other.matmul(x); }});
}

TEST_P(ApexCasts, PowAndSumAreFloat32) {
  expect_dtypes(Expect::float32, {4, 8},
                {[](const auto& x) { return x.pow(2.); }, [](const auto& x) { return x.sum(); }});
}

TEST_P(ApexCasts, Atan2AndMulMatchTheWidest) {
  for (const auto& function : {std::function<at::Tensor(at::Tensor, at::Tensor)>(
                                   [](const auto&x, const auto&y) { return at::atan2(x, y); }),
                               {[](const auto&x, const auto&y) { return at::mul(x, y); }}}) {
    in_each_region([&](c10::ScalarType low) {
      for (const auto first : {f32, low}) {
        for (const auto second : {f32, low}) {
          const auto input = random({8}, first).requires_grad_();
          const auto output = function(input, random({8}, second));
          EXPECT_EQ(output.scalar_type(), first == low && second == low ? low : f32);
          output.to(f32).sum().backward();
          EXPECT_EQ(input.grad().scalar_type(), first);
        }
      }
    });
  }
}

TEST_P(ApexCasts, CatMatchesTheWidest) {
  in_each_region([&](c10::ScalarType low) {
    std::vector<at::Tensor> all(5, random({8}, low));
    all.push_back(random({8}));
    EXPECT_EQ(at::cat(all).scalar_type(), f32);
    all.back() = random({8}, low);
    EXPECT_EQ(at::cat(all).scalar_type(), low);
  });
}

TEST_P(ApexCasts, AddInPlaceMatchesItself) {
  in_each_region([&](c10::ScalarType low) {
    for (const auto first : {f32, low}) {
      for (const auto second : {f32, low}) {
        const auto input = random({8}, first).requires_grad_();
        const auto output = input.clone().add_(random({8}, second));
        EXPECT_EQ(output.scalar_type(), first);
        output.to(f32).sum().backward();
        EXPECT_EQ(input.grad().scalar_type(), first);
      }
    }
  });
}

// A weight changed between regions, and used without gradients before: its cast is of its value.
TEST_P(ApexCasts, TrainEvaluateTrain) {
  using Ops = std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>;
  struct Model : torch::nn::Module {
    Model(at::Tensor value, Ops computes)
        : weight(register_parameter("weight", std::move(value))), ops(std::move(computes)) {}
    at::Tensor forward(const at::Tensor& input) { return ops(input, weight); }
    at::Tensor weight;
    Ops ops;
  };
  const std::pair<Ops, int64_t> kinds[] = {
      {[](const auto& x, const auto& w) { return x.mm(w).mm(w).sum(); }, 8},
      {[](const auto& x, const auto& w) { return (x + w.pow(2) + w.pow(2)).sum(); }, 2},
      {[](const auto& x, const auto& w) { return ((x * w) * w).sum(); }, 2}};
  const auto input = torch::ones({2, 8}, here(f32));
  for (const auto& [ops, rows] : kinds) {
    for (const auto dtype : {f16, f32}) {
      Model model(torch::arange(rows * 8).view({rows, 8}).to(here(dtype)), ops);
      auto optimizer = sgd(model.parameters(), 1);
      auto amp = apex::initialize(model, optimizer,
                                  AmpOptions(OptLevel::O1).allow_incoming_model_not_fp32(true));
      const auto train = [&] {
        model.zero_grad();
        set_scale(amp.scaler(), 4);
        backward(amp, amp.forward(model, input), optimizer);
        const auto twin = model.weight.detach().to(f32).clone().requires_grad_();
        ops(input, twin).backward();
        EXPECT_EQ(model.weight.grad().scalar_type(), dtype);
        EXPECT_TRUE(torch::allclose(model.weight.grad().to(f32), twin.grad(), 1e-3));
        model.weight.detach().sub_(1);
      };
      train();
      {
        const torch::NoGradGuard no_grad;
        amp.forward(model, input);
      }
      train();
    }
  }
}

TEST_P(ApexCasts, RnnCellsAreLow) {
  HALFSTEP_REQUIRE_TRUE_CUDA("fused cells");
  auto rnn = here(torch::nn::RNNCell(8, 8));
  auto gru = here(torch::nn::GRUCell(8, 8));
  auto lstm = here(torch::nn::LSTMCell(8, 8));
  const auto hidden = [&](const at::Tensor& x) { return torch::zeros({4, 8}, x.options()); };
  expect_dtypes(Expect::low, {4, 8},
                {[&](const auto& x) { return rnn(x, rnn(x, hidden(x))); },
                 [&](const auto& x) { return gru(x, gru(x, hidden(x))); },
                 [&](const auto& x) {
                   return std::get<0>(lstm(x, lstm(x, std::tuple(hidden(x), hidden(x)))));
                 }});
}

// Difference from Apex: a GRU layer on a CPU gives the hidden state's dtype, as there it is made of
// single ops.
TEST_P(ApexCasts, RnnLayersAreLow) {
  HALFSTEP_REQUIRE_TRUE_CUDA("fused cells");
  HALFSTEP_REQUIRE_BFLOAT16_LSTM(GetParam());
  const auto amp = apex::initialize({}, {}, AmpOptions(OptLevel::O1).half_dtype(bf16));
  for (const auto& [layers, bidirectional] : {std::pair{1, false}, {2, false}, {2, true}}) {
    const auto configured = [&, layers = layers, both = bidirectional](auto options) {
      return options.num_layers(layers).bidirectional(both);
    };
    auto rnn =
        here(torch::nn::RNN(configured(torch::nn::RNNOptions(8, 8).nonlinearity(torch::kReLU))));
    auto gru = here(torch::nn::GRU(configured(torch::nn::GRUOptions(8, 8))));
    auto lstm = here(torch::nn::LSTM(configured(torch::nn::LSTMOptions(8, 8))));
    for (const auto dtype : {f32, bf16}) {
      const auto state = torch::zeros({layers * (bidirectional ? 2 : 1), 4, 8}, here(dtype));
      const auto run = [&](auto&& forward, c10::ScalarType expected) {
        const auto input = random({5, 4, 8}, dtype).requires_grad_();
        at::Tensor output;
        {
          const Autocast region(amp.autocast(GetParam()));
          output = forward(input);
        }
        EXPECT_EQ(output.scalar_type(), expected);
        output[-1].to(f32).sum().backward();
        EXPECT_EQ(input.grad().scalar_type(), dtype);
      };
      run([&](const auto& x) { return std::get<0>(rnn(x, state)); }, bf16);
      run([&](const auto& x) { return std::get<0>(gru(x, state)); },
          GetParam() == torch::kCPU ? dtype : bf16);
      run([&](const auto& x) { return std::get<0>(lstm(x, std::tuple(state, state))); }, bf16);
    }
  }
}

TEST_P(ApexCasts, PackedSequences) {
  auto rnn = here(torch::nn::RNN(torch::nn::RNNOptions(8, 8).num_layers(2)));
  const auto lengths = torch::tensor({7, 6, 5, 4}, torch::kLong);
  const auto amp = apex::initialize({}, {}, AmpOptions(OptLevel::O1).half_dtype(bf16));
  const auto input = random({7, 4, 8}, bf16).requires_grad_();
  at::Tensor output;
  {
    const Autocast region(amp.autocast(GetParam()));
    const auto packed = torch::nn::utils::rnn::pack_padded_sequence(input, lengths);
    output =
        std::get<0>(rnn->forward_with_packed_input(packed, torch::zeros({2, 4, 8}, here(bf16))))
            .data();
  }
  EXPECT_EQ(output.scalar_type(), bf16);
  output.to(f32).sum().backward();
  EXPECT_EQ(input.grad().scalar_type(), bf16);
  EXPECT_TRUE(rnn->parameters()[0].grad().defined());
}

}  // namespace halfstep::testing
