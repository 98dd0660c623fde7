// What is saved of an Amp and its models, and how it comes back.
#include "halfstep/core/error.h"
#include "halfstep/optim/sgd.h"

#include <cmath>
#include <limits>
#include <sstream>

#include <torch/serialize.h>

#include "tests/apex/amp_case.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

class ApexState : public AmpTest {};
HALFSTEP_ON_EACH_DEVICE(ApexState);

TEST_P(ApexState, LossScaleDecrease) {
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
TEST_P(ApexState, StateIsFloat32) {
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

TEST_P(ApexState, WeightsLoadedLaterBecomeTheMasters) {
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

TEST_P(ApexState, WeightsLoadedLaterCountAtOnce) {
  for (const bool own_masters : {false, true}) {
    TwoWeights model(1, device());
    auto options = optim::SGDOptions(0.25);
    if (own_masters) options.master_weights(optim::MasterWeights::float32);
    optim::SGD optimizer(model.parameters(), options);
    auto amp = apex::initialize(model, optimizer, as_is(OptLevel::O2));
    backward(amp, model.forward(x()), optimizer);
    amp.step(optimizer);
    const auto values = torch::tensor({7.0, 9.0}).to(device());
    {
      const torch::NoGradGuard no_grad;
      model.weight1.copy_(values);
    }
    expect_same_bits(amp.float32_state(model)["weight1"], values.to(f32));
  }
}

namespace {

enum class Masters { stock, own, remainder };

std::unique_ptr<torch::optim::Optimizer> optimizer_with(Masters masters, const ConvNet& net) {
  if (masters == Masters::stock)
    return std::make_unique<torch::optim::SGD>(net->parameters(), torch::optim::SGDOptions(0.01));
  return std::make_unique<optim::SGD>(
      net->parameters(), optim::SGDOptions(0.01).master_weights(
                             masters == Masters::own ? optim::MasterWeights::float32
                                                     : optim::MasterWeights::remainder));
}

void expect_same_state(const torch::OrderedDict<std::string, at::Tensor>& got,
                       const torch::OrderedDict<std::string, at::Tensor>& expected) {
  ASSERT_EQ(got.keys(), expected.keys());
  for (const auto& item : expected) {
    SCOPED_TRACE(item.key());
    expect_same_bits(got[item.key()], item.value());
  }
}

}  // namespace

// A model that was saved and loaded goes on as one that was not, to the bit.
TEST_P(ApexState, RoundTripIsExact) {
  for (const auto from : {Masters::stock, Masters::own, Masters::remainder}) {
    for (const auto to : {Masters::stock, Masters::own, Masters::remainder}) {
      SCOPED_TRACE(c10::str(static_cast<int>(from), " to ", static_cast<int>(to)));
      const auto options = AmpOptions(OptLevel::O2).half_dtype(bf16).loss_scale(1);
      auto net = conv_net(), loaded = conv_net();
      const auto optimizer = optimizer_with(from, net), other = optimizer_with(to, loaded);
      auto amp = apex::initialize(*net, *optimizer, options);
      auto amp_loaded = apex::initialize(*loaded, *other, options);
      const auto batch = images();
      const auto train = [&](apex::Amp& run, ConvNet& model, torch::optim::Optimizer& steps) {
        for (int i = 0; i < 3; ++i) {
          run.zero_grad(steps);
          backward(run, run.forward(model, batch).square().mean(), steps);
          EXPECT_TRUE(run.step(steps).stepped());
        }
      };
      train(amp, net, *optimizer);
      torch::OrderedDict<std::string, at::Tensor> saved;
      for (const auto& item : amp.float32_state(*net))
        saved.insert(item.key(), item.value().clone());
      EXPECT_FALSE(saved["conv1.weight"].equal(net->conv1->weight.to(f32))) << "masters";
      amp_loaded.load_float32_state(*loaded, saved);
      expect_same_state(amp_loaded.float32_state(*loaded), saved);
      train(amp, net, *optimizer);
      train(amp_loaded, loaded, *other);
      expect_same_state(amp_loaded.float32_state(*loaded), amp.float32_state(*net));
    }
  }
}

TEST_P(ApexState, LoadsIntoAnyLevel) {
  auto net = conv_net();
  auto optimizer = sgd(net->parameters(), 0.01);
  auto amp = apex::initialize(*net, optimizer, OptLevel::O2);
  backward(amp, amp.forward(net, images()).square().mean(), optimizer);
  amp.step(optimizer);
  const auto saved = amp.float32_state(*net);
  for (const auto level : kLevels) {
    torch::manual_seed(3);
    ConvNet other;
    other->to(device());
    auto other_optimizer = sgd(other->parameters(), 0.01);
    auto other_amp = apex::initialize(*other, other_optimizer, level);
    other_amp.load_float32_state(*other, saved);
    const auto& weight = other->conv1->weight;
    expect_same_bits(weight.detach(), saved["conv1.weight"].to(weight.scalar_type()));
    expect_same_bits(other->bn1->num_batches_tracked, net->bn1->num_batches_tracked);
  }
}

TEST_P(ApexState, LoadsAllOrNothing) {
  auto net = conv_net();
  auto optimizer = sgd(net->parameters(), 0.01);
  auto amp = apex::initialize(*net, optimizer, OptLevel::O2);
  const auto state = [&] {
    torch::OrderedDict<std::string, at::Tensor> changed;
    for (const auto& item : amp.float32_state(*net))
      changed.insert(item.key(), item.value().clone().fill_(3));
    return changed;
  };
  const auto before = amp.float32_state(*net)["param"].clone();
  const auto refused = [&](const torch::OrderedDict<std::string, at::Tensor>& bad,
                           const char* what) {
    EXPECT_ERROR(amp.load_float32_state(*net, bad), UsageError, "[apex::Amp::load_float32_state]",
                 what);
    expect_same_bits(amp.float32_state(*net)["param"], before);
  };
  auto more = state();
  more.insert("conv9.weight", torch::ones({1}));
  refused(more, "has 'conv9.weight', which the model has not");
  auto less = state();
  less.erase("bn1.running_var");
  refused(less, "lacks 'bn1.running_var'");
  auto other_shape = state();
  other_shape["bn1.bias"] = torch::ones({7});
  refused(other_shape, "'bn1.bias' must have the shape [6], but has [7]");
}

TEST_P(ApexState, ScalesAreLoadedAllOrNone) {
  const auto saved_as = [](apex::Amp& amp, const auto& change) {
    torch::serialize::OutputArchive out;
    for (int64_t id = 0; id < 2; ++id) {
      torch::serialize::OutputArchive inner(out.compilation_unit());
      auto state = amp.scaler(id).state();
      change(id, *state);
      write_grad_scaler_state(state, inner);
      out.write("loss_scaler" + std::to_string(id), inner);
    }
    std::ostringstream bytes;
    out.save_to(bytes);
    std::istringstream in(bytes.str());
    torch::serialize::InputArchive archive;
    archive.load_from(in);
    return archive;
  };
  auto amp = apex::initialize({}, {}, AmpOptions(OptLevel::O2).num_losses(2));
  auto bad = saved_as(amp, [](int64_t id, GradScalerState& state) {
    state.scale = 8;
    if (id == 1) state.growth_factor = -1;
  });
  EXPECT_ERROR(amp.load(bad), UsageError, "[GradScaler::load_state]", "growth_factor");
  EXPECT_EQ(amp.scaler(0).get_scale(), 65536) << "nothing was changed";
  auto good = saved_as(amp, [](int64_t, GradScalerState& state) { state.scale = 8; });
  amp.load(good);
  EXPECT_EQ(amp.scaler(0).get_scale(), 8);
  EXPECT_EQ(amp.scaler(1).get_scale(), 8);
  TwoWeights model(1, device());
  auto optimizer = sgd(model.parameters(), 1);
  auto open = apex::initialize(model, optimizer, as_is(OptLevel::O2).num_losses(2));
  auto scaled = open.scale_loss(model.forward(x()), optimizer, ScaleLossOptions().loss_id(1));
  EXPECT_ERROR(open.load(good), UsageError, "[apex::Amp::load]", "of loss 1 is still open");
  scaled->backward();
}

}  // namespace halfstep::testing
