#include "halfstep/core/error.h"
#include "halfstep/optim/clip_grad.h"
#include "halfstep/optim/gradient_dtype.h"
#include "halfstep/optim/sgd.h"

#include <cmath>
#include <sstream>

#include <torch/nn/modules/linear.h>
#include <torch/optim/lbfgs.h>
#include <torch/serialize.h>

#include "tests/apex/amp_case.h"
#include "tests/support/errors.h"

namespace halfstep::testing {

class ApexAmp : public AmpTest {};
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

static_assert(std::is_move_constructible_v<apex::Amp> && !std::is_copy_constructible_v<apex::Amp>);

// An optimizer that has stepped before goes on from there: its state is the master's.
TEST_P(ApexAmp, MastersTakeOverTheOptimizersState) {
  const auto train = [&](bool late) {
    auto net = conv_net();
    auto optimizer = sgd(net->parameters(), 0.01, /*momentum=*/0.9);
    std::optional<apex::Amp> amp;
    const auto batch = torch::ones({2, 3, 8, 8}, device());
    const auto step = [&] {
      net->zero_grad();
      const auto loss = (amp ? amp->forward(net, batch) : net->forward(batch)).square().mean();
      if (amp) {
        backward(*amp, loss, optimizer);
        amp->step(optimizer);
      } else {
        loss.backward();
        optimizer.step();
      }
    };
    const auto initialize = [&] {
      net->zero_grad();
      amp.emplace(apex::initialize(*net, optimizer, AmpOptions(OptLevel::O2).half_dtype(bf16)));
    };
    if (!late) initialize();
    step();
    if (late) initialize();
    net->zero_grad();
    // A step without gradients of its own is the momentum's alone.
    for (auto& master : amp->master_params(optimizer))
      master.mutable_grad() = torch::zeros_like(master);
    const auto before = amp->float32_state(*net)["conv1.weight"].clone();
    amp->step(optimizer);
    return (before - amp->float32_state(*net)["conv1.weight"]).abs().max().item<double>();
  };
  const double moved = train(/*late=*/false);
  EXPECT_GT(moved, 1e-5);
  EXPECT_NEAR(train(/*late=*/true), moved, 0.3 * moved) << "the first step was in float32";
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

// Apex: "renders all Amp calls no-ops".
TEST_P(ApexAmp, DisabledAccessorsAreThoseOfAProgramWithoutApex) {
  auto net = conv_net();
  auto optimizer = sgd(net->parameters(), 1e-3);
  auto amp =
      apex::initialize(*net, optimizer, AmpOptions(OptLevel::O2).enabled(false).num_losses(2));
  EXPECT_EQ(amp.properties().cast_model_type, std::nullopt);
  EXPECT_EQ(amp.properties().master_weights, std::nullopt);
  EXPECT_EQ(amp.properties().loss_scale, 1);
  EXPECT_FALSE(amp.scaler(1).is_enabled());
  EXPECT_EQ(amp.scaler(1).get_scale(), 1);
  EXPECT_ERROR(amp.scaler(2), UsageError, "[apex::Amp::scaler]", "from 0 to 1, but got 2");
  EXPECT_FALSE(amp.autocast(GetParam()).enabled());
  EXPECT_TRUE(amp.master_params(optimizer)[0].is_same(optimizer.param_groups()[0].params()[0]));
  net->bn1->to(f16);
  EXPECT_EQ(amp.float32_state(*net)["bn1.weight"].scalar_type(), f16) << "as it is";
  // Nothing is written, and nothing read: also not what an enabled one wrote.
  auto enabled = apex::initialize({}, {}, AmpOptions(OptLevel::O2));
  for (auto* writer : {&amp, &enabled}) {
    torch::serialize::OutputArchive saved;
    writer->save(saved);
    std::ostringstream out;
    saved.save_to(out);
    std::istringstream in(out.str());
    torch::serialize::InputArchive archive;
    archive.load_from(in);
    EXPECT_EQ(archive.keys().empty(), writer == &amp);
    EXPECT_NO_THROW(amp.load(archive));
  }
}

// Whatever the arguments are: a model that makes its own input.
TEST_P(ApexAmp, ForwardWithoutTensorsRunsOnTheModelsDevice) {
  struct OwnInput : torch::nn::Module {
    explicit OwnInput(c10::Device device)
        : weight(register_parameter("weight", torch::ones({4, 4}, torch::device(device)))) {}
    at::Tensor forward(int64_t rows) { return torch::ones({rows, 4}, weight.device()).mm(weight); }
    at::Tensor weight;
  } model(device());
  auto optimizer = sgd(model.parameters(), 1);
  auto amp = apex::initialize(model, optimizer, AmpOptions().half_dtype(bf16));
  EXPECT_EQ(amp.forward(model, 3).scalar_type(), bf16);
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
