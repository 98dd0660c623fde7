#include "halfstep/apex/amp.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/clip_grad.h"
#include "halfstep/optim/gradient_dtype.h"
#include "halfstep/optim/sgd.h"

#include <cmath>
#include <limits>
#include <sstream>

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include "tests/apex/two_weights.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using apex::AmpOptions, apex::OptLevel, apex::ScaleLossOptions;

namespace {

constexpr auto f32 = torch::kFloat, f16 = torch::kHalf, bf16 = torch::kBFloat16;

/// The network of Apex's test_checkpointing.py.
struct ConvNetImpl : torch::nn::Module {
  torch::nn::Conv2d conv1 =
      register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 6, 3).padding(1)));
  torch::nn::BatchNorm2d bn1 = register_module("bn1", torch::nn::BatchNorm2d(6));
  at::Tensor param = register_parameter("param", torch::randn(1));

  at::Tensor forward(at::Tensor x) {
    seen = x.scalar_type();
    return bn1(torch::relu(conv1(x * param)));
  }
  c10::ScalarType seen = torch::kLong;
};
TORCH_MODULE(ConvNet);

torch::optim::SGD sgd(const std::vector<at::Tensor>& parameters, double lr, double momentum = 0) {
  return torch::optim::SGD(parameters, torch::optim::SGDOptions(lr).momentum(momentum));
}

}  // namespace

class ApexAmp : public DeviceTest {
 protected:
  ConvNet conv_net() const {
    torch::manual_seed(2809);
    ConvNet net;
    net->to(device());
    return net;
  }
  at::Tensor images() const { return torch::randn({4, 3, 8, 8}).to(device()); }
  at::Tensor x() const { return torch::ones({2}, torch::device(device())); }

  static void backward(apex::Amp& amp, const at::Tensor& loss, torch::optim::Optimizer& optimizer,
                       const ScaleLossOptions& options = ScaleLossOptions(),
                       bool retain_graph = false) {
    auto scaled = amp.scale_loss(loss, optimizer, options);
    scaled->backward({}, retain_graph);
  }
};
HALFSTEP_ON_EACH_DEVICE(ApexAmp);

TEST_P(ApexAmp, AddParamGroup) {
  struct Way {
    bool zero_before, accumulate;
  };
  for (const auto& [zero_before, accumulate] :
       {Way{true, true}, {true, false}, {false, true}, {false, false}}) {
    const auto train = [&](TwoWeights& first, TwoWeights& second, auto&& zero, auto&& back,
                           auto&& step, auto&& add) {
      zero();
      back(first.forward(x()), false);
      step();
      if (zero_before) zero();
      add();
      if (!zero_before) zero();
      for (int i = 0; i < 2; ++i) {
        if (i > 0) zero();
        const auto loss = first.forward(x()) + second.forward(x());
        back(loss, accumulate);
        if (accumulate) back(loss, false);
        step();
      }
    };
    const auto group_of = [](TwoWeights& model) {
      return torch::optim::OptimizerParamGroup(model.parameters(),
                                               std::make_unique<torch::optim::SGDOptions>(
                                                   torch::optim::SGDOptions(0.5).momentum(0.125)));
    };
    TwoWeights first(1, device()), second(2, device());
    auto plain = sgd(first.parameters(), 0.25, 0.125);
    train(
        first, second, [&] { plain.zero_grad(); },
        [](const at::Tensor& loss, bool retain) { loss.backward({}, retain); },
        [&] { plain.step(); }, [&] { plain.add_param_group(group_of(second)); });
    for (const auto level : kLevels) {
      for (const auto zero : kWaysToZero) {
        TwoWeights first_amp(1, device()), second_amp(2, device());
        auto optimizer = sgd(first_amp.parameters(), 0.25, 0.125);
        auto amp =
            apex::initialize({first_amp, second_amp}, apex::Optimizers{optimizer}, as_is(level));
        if (!amp.properties().loss_scale) set_scale(amp.scaler(), 4);
        train(
            first_amp, second_amp,
            [&] {
              zero_gradients(zero, {first_amp, second_amp}, {optimizer});
            },
            [&](const at::Tensor& loss, bool retain) {
              backward(amp, loss, optimizer, {}, retain);
            },
            [&] { EXPECT_TRUE(amp.step(optimizer).stepped()); },
            [&] { amp.add_param_group(optimizer, group_of(second_amp)); });
        EXPECT_TRUE(torch::allclose(first_amp.weight0, first.weight0));
        EXPECT_TRUE(torch::allclose(first_amp.weight1, first.weight1));
        EXPECT_TRUE(torch::allclose(second_amp.weight0, second.weight0));
        EXPECT_TRUE(torch::allclose(second_amp.weight1, second.weight1));
      }
    }
  }
}

TEST_P(ApexAmp, LevelsCastWhatTheySay) {
  struct Row {
    OptLevel level;
    c10::ScalarType conv, batchnorm, input;
  };
  for (const auto& [level, conv, batchnorm, input] : {Row{OptLevel::O0, f32, f32, f32},
                                                      {OptLevel::O1, f32, f32, f32},
                                                      {OptLevel::O2, f16, f32, f16},
                                                      {OptLevel::O3, f16, f16, f16}}) {
    auto net = conv_net();
    auto optimizer = sgd(net->parameters(), 1e-3);
    auto amp = apex::initialize(*net, optimizer, level);
    EXPECT_EQ(net->conv1->weight.scalar_type(), conv);
    EXPECT_EQ(net->bn1->weight.scalar_type(), batchnorm);
    EXPECT_EQ(net->bn1->running_mean.scalar_type(), batchnorm);
    EXPECT_EQ(net->bn1->num_batches_tracked.scalar_type(), torch::kLong);
    const auto output = amp.forward(net, images());
    EXPECT_EQ(net->seen, input);
    EXPECT_EQ(output.scalar_type(), level == OptLevel::O1 ? f16 : f32);
    EXPECT_TRUE(output.ne(0).any().item<bool>());
    for (const auto& master : amp.master_params(optimizer))
      EXPECT_EQ(master.scalar_type(), level == OptLevel::O3 ? f16 : f32);
  }
}

TEST_P(ApexAmp, OverridesReachTheModel) {
  auto net = conv_net();
  auto optimizer = sgd(net->parameters(), 1e-3);
  auto amp = apex::initialize(*net, optimizer,
                              AmpOptions(OptLevel::O2)
                                  .half_dtype(bf16)
                                  .keep_batchnorm_fp32(false)
                                  .cast_model_outputs(torch::kDouble));
  EXPECT_EQ(net->conv1->weight.scalar_type(), bf16);
  EXPECT_EQ(net->bn1->weight.scalar_type(), bf16);
  EXPECT_EQ(amp.forward(net, images()).scalar_type(), torch::kDouble);
  auto other = conv_net();
  auto second = sgd(other->parameters(), 1e-3);
  auto o1 = apex::initialize(*other, second, AmpOptions(OptLevel::O1).half_dtype(bf16));
  EXPECT_EQ(o1.autocast(GetParam()).dtype(), bf16);
  EXPECT_FALSE(amp.autocast(GetParam()).enabled());
}

// The model learns as its float32 twin does: O2 and O1 within the dtype's precision.
TEST_P(ApexAmp, TrainsLikeFloat32) {
  const auto train = [&](OptLevel level, bool fused) {
    auto net = conv_net();
    std::unique_ptr<torch::optim::Optimizer> optimizer;
    if (fused)
      optimizer =
          std::make_unique<optim::SGD>(net->parameters(), optim::SGDOptions(0.1).momentum(0.9));
    else
      optimizer = std::make_unique<torch::optim::SGD>(net->parameters(),
                                                      torch::optim::SGDOptions(0.1).momentum(0.9));
    auto amp = apex::initialize(*net, *optimizer, AmpOptions(level).half_dtype(bf16));
    const auto batch = images();
    const auto target = torch::randn({4, 6, 8, 8}).to(device());
    double first = 0, last = 0;
    for (int i = 0; i < 20; ++i) {
      amp.zero_grad(*optimizer);
      const auto loss = torch::mse_loss(amp.forward(net, batch).to(f32), target);
      backward(amp, loss, *optimizer);
      EXPECT_TRUE(amp.step(*optimizer).stepped());
      last = loss.item<double>();
      if (i == 0) first = last;
    }
    EXPECT_LT(last, 0.9 * first) << "O" << static_cast<int>(level);
    return last;
  };
  const double reference = train(OptLevel::O0, false);
  for (const auto level : {OptLevel::O1, OptLevel::O2}) {
    for (const bool fused : {false, true})
      EXPECT_NEAR(train(level, fused), reference, 0.02 * reference) << static_cast<int>(level);
  }
}

TEST_P(ApexAmp, MastersKeepStepsTooSmallFor16Bits) {
  for (const bool own_masters : {false, true}) {
    const auto train = [&](OptLevel level) {
      torch::nn::Linear net(torch::nn::LinearOptions(1, 1).bias(false));
      net->to(device());
      net->weight.detach().fill_(1);
      auto options = optim::SGDOptions(1e-5);
      if (own_masters && level == OptLevel::O2)
        options.master_weights(optim::MasterWeights::float32);
      optim::SGD optimizer(net->parameters(), options);
      auto amp = apex::initialize(*net, optimizer, level);
      for (int i = 0; i < 200; ++i) {
        amp.zero_grad(optimizer);
        backward(amp, amp.forward(net, torch::ones({1, 1}, torch::device(device()))).sum(),
                 optimizer);
        amp.step(optimizer);
      }
      return net->weight.item<float>();
    };
    EXPECT_EQ(train(OptLevel::O3), 1) << "each step is lost";
    EXPECT_NEAR(train(OptLevel::O2), 1 - 200e-5, 5e-4);
  }
}

TEST_P(ApexAmp, GradientsOfMastersAreFloat32) {
  // 2^-26 in float16 is 0: unscaled in float16 it would vanish.
  torch::nn::Linear net(torch::nn::LinearOptions(1, 1).bias(false));
  net->to(device());
  auto optimizer = sgd(net->parameters(), 1);
  auto amp = apex::initialize(*net, optimizer, OptLevel::O2);
  const double tiny = std::pow(2.0, -26);
  backward(amp, amp.forward(net, torch::ones({1, 1}, torch::device(device()))).sum() * tiny,
           optimizer);
  EXPECT_EQ(optim::gradient_dtype(net->weight), f32);
  EXPECT_EQ(net->weight.grad().item<double>(), tiny);
  EXPECT_EQ(amp.master_params(optimizer)[0].grad().item<double>(), tiny);
}

TEST_P(ApexAmp, ClippingMasters) {
  TwoWeights model(1, device());
  auto optimizer = sgd(model.parameters(), 1);
  auto amp = apex::initialize(model, optimizer, as_is(OptLevel::O2));
  set_scale(amp.scaler(), 4);
  backward(amp, model.forward(x()), optimizer);
  const auto norm = optim::clip_grad_norm_(amp.master_params(optimizer), 1.0);
  EXPECT_GT(norm.item<double>(), 1);
  double squares = 0;
  for (const auto& master : amp.master_params(optimizer))
    squares += master.grad().square().sum().item<double>();
  EXPECT_NEAR(std::sqrt(squares), 1, 1e-5);
}

TEST_P(ApexAmp, DelayedUnscaling) {
  for (const auto level : {OptLevel::O1, OptLevel::O2}) {
    TwoWeights model(1, device());
    auto optimizer = sgd(model.parameters(), 1);
    auto amp = apex::initialize(model, optimizer, as_is(level).num_losses(2));
    set_scale(amp.scaler(), 4);
    backward(amp, model.forward(x()), optimizer);  // 1, unscaled
    const auto once = model.weight0.grad().clone();
    backward(amp, model.forward(x()), optimizer, ScaleLossOptions().delay_unscale(true));
    expect_same_bits(model.weight0.grad(), 4 * once);
    EXPECT_ERROR(amp.step(optimizer), UsageError, "[apex::Amp::step]", "those of loss 0");
    EXPECT_ERROR(backward(amp, model.forward(x()), optimizer, ScaleLossOptions().loss_id(1)),
                 UsageError, "[apex::Amp::scale_loss]", "they are of loss 0 and this is loss 1");
    backward(amp, model.forward(x()), optimizer);
    expect_same_bits(amp.master_params(optimizer)[0].grad(), 3 * once);
    const auto before = model.weight0.detach().clone();
    EXPECT_TRUE(amp.step(optimizer).stepped());
    expect_same_bits(model.weight0.detach(), before - 3 * once);
    EXPECT_EQ(amp.scaler().growth_tracker(), 2);
  }
}

TEST_P(ApexAmp, DelayForgottenWhenZeroed) {
  TwoWeights model(1, device());
  auto optimizer = sgd(model.parameters(), 1);
  auto amp = apex::initialize(model, optimizer, as_is(OptLevel::O2));
  set_scale(amp.scaler(), 4);
  backward(amp, model.forward(x()), optimizer, ScaleLossOptions().delay_unscale(true));
  model.zero_grad();
  backward(amp, model.forward(x()), optimizer);
  expect_same_bits(amp.master_params(optimizer)[0].grad(), model.weight1.detach().to(f32));
}

TEST_P(ApexAmp, ExceptionsLeaveGradientsAsTheyWere) {
  TwoWeights model(1, device());
  auto optimizer = sgd(model.parameters(), 1);
  auto amp = apex::initialize(model, optimizer, as_is(OptLevel::O2));
  set_scale(amp.scaler(), 4);
  backward(amp, model.forward(x()), optimizer);
  const auto before0 = model.weight0.grad().clone(), before1 = model.weight1.grad().clone();
  const auto fail = [&] {
    auto scaled = amp.scale_loss(model.forward(x()), optimizer);
    scaled->backward();
    throw std::runtime_error("in the scope");
  };
  EXPECT_THROW(fail(), std::runtime_error);
  expect_same_bits(model.weight0.grad(), before0);
  expect_same_bits(amp.master_params(optimizer)[1].grad(), before1);
  EXPECT_TRUE(amp.step(optimizer).stepped());
}

TEST_P(ApexAmp, LossScaleDecrease) {
  for (const auto level : {OptLevel::O1, OptLevel::O2}) {
    auto net = conv_net();
    auto optimizer = sgd(net->parameters(), 1e-3);
    auto amp = apex::initialize(*net, optimizer, AmpOptions(level).num_losses(3));
    std::vector<int> left{0, 1, 2};
    for (int round = 0; round < 2; ++round) {
      amp.zero_grad(optimizer);
      const auto batch = images();
      for (int64_t id = 0; id < 3; ++id) {
        auto& overflows = left[static_cast<std::size_t>(id)];
        auto loss = amp.forward(net, batch).to(f32).mean();
        if (overflows-- > 0) loss = loss * std::numeric_limits<float>::infinity();
        backward(amp, loss, optimizer, ScaleLossOptions().loss_id(id));
      }
      EXPECT_FALSE(amp.step(optimizer).stepped());
    }
    for (int64_t id = 0; id < 3; ++id) {
      EXPECT_EQ(amp.scaler(id).get_scale(), 65536 / std::pow(2, id));
      EXPECT_EQ(amp.scaler(id).growth_tracker(), 2 - id);
    }
    std::ostringstream out;
    torch::serialize::OutputArchive saved;
    amp.save(saved);
    saved.save_to(out);
    auto other = apex::initialize({}, {}, AmpOptions(level).num_losses(3));
    torch::serialize::InputArchive archive;
    std::istringstream in(out.str());
    archive.load_from(in);
    other.load(archive);
    EXPECT_EQ(other.scaler(2).state(), amp.scaler(2).state());
    auto fewer = apex::initialize({}, {}, AmpOptions(level));
    EXPECT_ERROR(fewer.load(archive), UsageError, "[apex::Amp::load]", "it holds 3 for 1");
  }
}

// Apex's test_state_dict: what an O2 or O3 model saves is float32.
TEST_P(ApexAmp, StateIsFloat32) {
  for (const auto level : {OptLevel::O0, OptLevel::O2, OptLevel::O3}) {
    auto net = conv_net();
    auto optimizer = sgd(net->parameters(), 1e-3);
    auto amp = apex::initialize(*net, optimizer, level);
    backward(amp, amp.forward(net, images()).square().mean(), optimizer);
    amp.step(optimizer);
    const auto state = amp.float32_state(*net);
    EXPECT_EQ(state.size(), 8U);
    for (const auto& item : state) {
      if (item.key() != "bn1.num_batches_tracked") {
        EXPECT_EQ(item.value().scalar_type(), f32) << item.key();
      }
    }
    const auto rounded = state["conv1.weight"].to(net->conv1->weight.scalar_type());
    expect_same_bits(rounded, net->conv1->weight.detach());
    if (level == OptLevel::O2) {
      EXPECT_FALSE(state["conv1.weight"].equal(rounded.to(f32))) << "the master";
    }
  }
}

TEST_P(ApexAmp, WeightsLoadedLaterBecomeTheMasters) {
  TwoWeights model(1, device());
  auto optimizer = sgd(model.parameters(), 0.25);
  auto amp = apex::initialize(model, optimizer, as_is(OptLevel::O2));
  set_scale(amp.scaler(), 4);
  amp.master_params(optimizer)[1].detach().copy_(torch::tensor({2.0001, 3.0001}));
  model.weight1.detach()[0] = 7;  // the other one is its rounded master still
  model.weight1.detach().add_(0);
  backward(amp, model.forward(x()), optimizer);
  const auto step = 0.25 * model.weight0.detach();
  amp.step(optimizer);
  const auto expected = torch::tensor({7.0, 3.0001}).to(device()).to(f32) - step;
  EXPECT_TRUE(torch::allclose(amp.master_params(optimizer)[1].detach(), expected, 0, 1e-6));
}

TEST_P(ApexAmp, StaticScalesAreNotChecked) {
  TwoWeights model(1, device());
  auto optimizer = sgd(model.parameters(), 0);
  auto amp = apex::initialize(model, optimizer, as_is(OptLevel::O3).loss_scale(128));
  backward(amp, model.forward(x()) * std::numeric_limits<float>::infinity(), optimizer);
  EXPECT_TRUE(amp.step(optimizer).stepped());
  optimizer.zero_grad();
  {
    auto scope = amp.scale_loss(model.forward(x()).detach().fill_(2).requires_grad_(), optimizer);
    EXPECT_EQ(scope->item<double>(), 256);
    model.weight0.mutable_grad() = torch::full_like(model.weight0, 256);
    model.weight1.mutable_grad() = torch::full_like(model.weight1, 256);
  }
  EXPECT_EQ(model.weight0.grad()[0].item<float>(), 2);
  EXPECT_EQ(model.weight1.grad()[0].item<float>(), 2) << "in float16";
}

TEST_P(ApexAmp, DisabledPassesThrough) {
  auto net = conv_net();
  auto optimizer = sgd(net->parameters(), 1e-3);
  auto amp = apex::initialize(*net, optimizer, AmpOptions(OptLevel::O2).enabled(false));
  EXPECT_EQ(net->conv1->weight.scalar_type(), f32);
  const auto loss = amp.forward(net, images()).mean();
  {
    auto scaled = amp.scale_loss(loss, optimizer);
    EXPECT_TRUE((*scaled).is_same(loss));
    scaled->backward();
  }
  const auto before = net->bn1->bias.detach().clone();
  EXPECT_TRUE(amp.step(optimizer).stepped());
  EXPECT_FALSE(net->bn1->bias.detach().equal(before));
}

TEST_P(ApexAmp, Misuse) {
  auto net = conv_net();
  auto optimizer = sgd(net->parameters(), 1e-3), other = sgd({torch::ones({1})}, 1e-3);
  const auto refused = [&](auto&& call, const char* where, const char* rule) {
    EXPECT_ERROR(call(), UsageError, where, rule);
  };
  const auto init = "[apex::initialize]";
  refused([&] { apex::initialize({*net}, {optimizer, optimizer}); }, init, "given once");
  torch::optim::LBFGS lbfgs(net->parameters());
  refused([&] { apex::initialize(*net, lbfgs); }, init, "without a closure, but got LBFGS");
  optim::SGD shadowing(net->parameters(), optim::SGDOptions(0.1).shadow_weights(bf16));
  refused([&] { apex::initialize(*net, shadowing); }, init, "no shadow weights");
  shadowing.drop_shadow_weights();
  auto low = conv_net();
  low->conv1->to(f16);
  refused([&] { apex::initialize(*low, other); }, init, "parameter conv1.weight is in float16");
  net->param.mutable_grad() = torch::ones_like(net->param);
  refused([&] { apex::initialize(*net, optimizer); }, init, "no gradients yet");
  net->zero_grad();
  EXPECT_EQ(net->conv1->weight.scalar_type(), f32) << "nothing was changed";

  auto amp = apex::initialize(*net, optimizer, OptLevel::O2);
  const auto loss = torch::ones({}, torch::requires_grad());
  const auto scale = "[apex::Amp::scale_loss]";
  refused([&] { auto scope = amp.scale_loss(loss, other); }, scale, "given to initialize");
  refused([&] { auto scope = amp.scale_loss(at::Tensor(), optimizer); }, scale, "undefined");
  refused([&] { auto scope = amp.scale_loss(loss, apex::Optimizers{}); }, scale, "got none");
  refused([&] { auto scope = amp.scale_loss(loss, optimizer); }, scale, "there is none");
  refused([&] { auto scope = amp.scale_loss(loss, optimizer, ScaleLossOptions().loss_id(1)); },
          "[apex::Amp::scaler]", "from 0 to 0, but got 1");
  refused([&] { amp.step(other); }, "[apex::Amp::step]", "this one was not");
}

}  // namespace halfstep::testing
