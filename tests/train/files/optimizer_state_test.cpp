#include "halfstep/train/files/optimizer_state.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/adam.h"
#include "halfstep/train/files/module_state.h"

#include <limits>

#include <torch/torch.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

using halfstep::testing::expect_same_bits;
using halfstep::testing::read_file;
using halfstep::testing::TempFolder;
namespace optim = torch::optim;

// An optimizer as a user's program may have it, with each kind of field a state can hold.
struct OddOptions : optim::OptimizerCloneableOptions<OddOptions> {
  explicit OddOptions(double lr = 0.1) : lr_(lr) {}
  TORCH_ARG(double, lr);
  TORCH_ARG(bool, nesterov) = true;
  TORCH_ARG(std::vector<double>, decays) = {0.5, std::numeric_limits<double>::infinity()};

 public:
  void serialize(torch::serialize::InputArchive& archive) override {
    _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, lr);
    _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(bool, nesterov);
    _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(std::vector<double>, decays);
  }
  void serialize(torch::serialize::OutputArchive& archive) const override {
    _TORCH_OPTIM_SERIALIZE_TORCH_ARG(lr);
    _TORCH_OPTIM_SERIALIZE_TORCH_ARG(nesterov);
    _TORCH_OPTIM_SERIALIZE_TORCH_ARG(decays);
  }
  double get_lr() const override { return lr(); }
  void set_lr(const double value) override { lr(value); }
};

struct OddState : optim::OptimizerCloneableParamState<OddState> {
  TORCH_ARG(torch::Tensor, step_count);
  TORCH_ARG(std::vector<torch::Tensor>, history);
  TORCH_ARG(std::vector<int64_t>, places);
  TORCH_ARG(double, worst) = -std::numeric_limits<double>::infinity();
  TORCH_ARG(std::string, phase) = "warm up";

 public:
  void serialize(torch::serialize::InputArchive& archive) override {
    _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(torch::Tensor, step_count);
    _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(std::vector<torch::Tensor>, history);
    _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(std::vector<int64_t>, places);
    _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, worst);
    _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(std::string, phase);
  }
  void serialize(torch::serialize::OutputArchive& archive) const override {
    _TORCH_OPTIM_SERIALIZE_TORCH_ARG(step_count);
    _TORCH_OPTIM_SERIALIZE_TORCH_ARG(history);
    _TORCH_OPTIM_SERIALIZE_TORCH_ARG(places);
    _TORCH_OPTIM_SERIALIZE_TORCH_ARG(worst);
    _TORCH_OPTIM_SERIALIZE_TORCH_ARG(phase);
  }
};

class Odd : public optim::Optimizer {
 public:
  explicit Odd(const std::vector<optim::OptimizerParamGroup>& groups)
      : Optimizer(groups, std::make_unique<OddOptions>()) {}

  torch::Tensor step(LossClosure closure = nullptr) override {
    const torch::Tensor loss = closure ? closure() : torch::Tensor();
    const torch::NoGradGuard no_grad;
    for (auto& group : param_groups_) {
      for (auto& param : group.params()) {
        auto& slot = state_[param.unsafeGetTensorImpl()];
        if (!slot) {
          slot = std::make_unique<OddState>();
          // On the CPU whatever the parameter's device is.
          static_cast<OddState&>(*slot).step_count(torch::zeros({}));
        }
        auto& state = static_cast<OddState&>(*slot);
        state.step_count().add_(1);
        state.history().push_back(param.grad().clone());
        if (state.history().size() > 2) state.history().erase(state.history().begin());
        state.places().push_back(static_cast<int64_t>(state.places().size()));
        if (state.places().size() > 4) state.phase("late");
        for (const auto& old : state.history()) {
          param.sub_(old, group.options().get_lr() / state.step_count().item<double>());
        }
        if (state.phase() == "late") param.mul_(0.5);
      }
    }
    own_steps_ += 1;
    return loss;
  }

  void save(torch::serialize::OutputArchive& archive) const override {
    optim::serialize<OddState, OddOptions>(archive, *this);
    archive.write("own_steps", torch::IValue(own_steps_));
  }
  void load(torch::serialize::InputArchive& archive) override {
    optim::serialize<OddState, OddOptions>(archive, *this);
    torch::IValue value;
    archive.read("own_steps", value);
    own_steps_ = value.toInt();
  }
  int64_t own_steps() const { return own_steps_; }

 private:
  int64_t own_steps_ = 0;
};

// Keeps state but never overrides save() and load().
class Forgetful : public optim::SGD {
 public:
  using SGD::SGD;
  void save(torch::serialize::OutputArchive& archive) const override { Optimizer::save(archive); }
};

using Groups = std::vector<optim::OptimizerParamGroup>;
using Factory = std::function<std::unique_ptr<optim::Optimizer>(const Groups&)>;

struct Kind {
  const char* name;
  bool one_group;
  const char* field;  // of the state, to see that there is some
  Factory make;
  c10::ScalarType dtype = torch::kFloat;
};

template <class Optimizer, class Options>
Factory factory(Options options) {
  return [=](const Groups& groups) { return std::make_unique<Optimizer>(groups, options); };
}

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{
      {"SGD", false, "momentum_buffer", factory<optim::SGD>(optim::SGDOptions(0.05).momentum(0.9))},
      {"Adam", false, "max_exp_avg_sq",
       factory<optim::Adam>(optim::AdamOptions(1e-2).amsgrad(true).betas({0.8, 0.99}))},
      {"AdamW", false, "exp_avg", factory<optim::AdamW>(optim::AdamWOptions(1e-2))},
      {"Adagrad", false, "sum", factory<optim::Adagrad>(optim::AdagradOptions(1e-2).lr_decay(0.1))},
      {"RMSprop", false, "grad_avg",
       factory<optim::RMSprop>(optim::RMSpropOptions(1e-2).centered(true).momentum(0.5))},
      {"LBFGS", true, "old_dirs.0",
       factory<optim::LBFGS>(
           optim::LBFGSOptions(0.5).max_iter(4).history_size(3).line_search_fn("strong_wolfe"))},
      {"Odd", false, "history.1",
       [](const Groups& groups) { return std::make_unique<Odd>(groups); }},
      {"masters", false, "master",
       factory<halfstep::optim::Adam>(halfstep::optim::AdamOptions(1e-3).master_weights(
           halfstep::optim::MasterWeights::float32)),
       torch::kHalf},
      {"masters as remainders", false, "master",
       factory<halfstep::optim::Adam>(halfstep::optim::AdamOptions(1e-3).master_weights(
           halfstep::optim::MasterWeights::remainder)),
       torch::kBFloat16},
  };
  return all;
}

struct Training {
  torch::nn::Sequential net{torch::nn::Linear(6, 5), torch::nn::Tanh(), torch::nn::Linear(5, 2)};
  std::unique_ptr<optim::Optimizer> optimizer;
  torch::Tensor input;

  Training(const Kind& kind, c10::Device device) {
    torch::manual_seed(1);
    for (auto& parameter : net->parameters())
      parameter.set_data(torch::randn(parameter.sizes()).mul_(0.3));
    net->to(device, kind.dtype);
    input = torch::linspace(-1, 1, 48).view({8, 6}).to(device, kind.dtype);
    auto parameters = net->parameters();
    Groups groups;
    if (kind.one_group) {
      groups.emplace_back(parameters);
    } else {
      groups.emplace_back(std::vector<torch::Tensor>{parameters[2], parameters[0]});
      groups.emplace_back(std::vector<torch::Tensor>{parameters[1], parameters[3]});
    }
    optimizer = kind.make(groups);
  }

  void steps(int count) {
    for (int i = 0; i < count; ++i) {
      optimizer->step([&] {
        optimizer->zero_grad();
        const auto loss = net->forward(input).sub(0.7).square().sum();
        loss.backward();
        return loss;
      });
    }
  }

  std::vector<std::string> names() const { return parameter_names(*optimizer, *net); }

  Checkpoint checkpoint() const {
    Checkpoint result;
    save_module(*net, result);
    save_optimizer(*optimizer, names(), result);
    return result;
  }

  void load(const Checkpoint& checkpoint) {
    load_module(checkpoint, *net);
    load_optimizer(checkpoint, names(), *optimizer);
  }
};

const Kind& kind(const std::string& name) {
  for (const auto& candidate : kinds()) {
    if (name == candidate.name) return candidate;
  }
  throw std::out_of_range(name);
}

}  // namespace

class OptimizerState : public halfstep::testing::DeviceTest {};

TEST_P(OptimizerState, AReloadedOptimizerStepsToEqualBits) {
  for (const auto& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    const TempFolder folder;
    Training whole(kind, device());
    whole.optimizer->param_groups()[0].options().set_lr(0.0625);  // as a scheduler does
    whole.steps(3);
    whole.checkpoint().save(folder.path() / "middle");

    Training resumed(kind, device());
    resumed.steps(1);  // state of its own must not survive
    const Checkpoint middle = Checkpoint::load(folder.path() / "middle");
    ASSERT_TRUE(middle.tensors.contains(std::string("optimizer.2.weight.") + kind.field) ||
                middle.tensors.contains(std::string("optimizer.0.weight.") + kind.field));
    resumed.load(middle);
    EXPECT_EQ(resumed.optimizer->param_groups()[0].options().get_lr(), 0.0625);
    resumed.checkpoint().save(folder.path() / "again");
    EXPECT_EQ(read_file(folder.path() / "middle"), read_file(folder.path() / "again"));

    const auto before = whole.net->parameters()[0].detach().clone();
    whole.steps(3);
    resumed.steps(3);
    ASSERT_FALSE(whole.net->parameters()[0].equal(before)) << "the last steps moved nothing";
    for (size_t i = 0; i < whole.net->parameters().size(); ++i)
      expect_same_bits(resumed.net->parameters()[i].detach(), whole.net->parameters()[i].detach());
    whole.checkpoint().save(folder.path() / "whole end");
    resumed.checkpoint().save(folder.path() / "resumed end");
    EXPECT_EQ(read_file(folder.path() / "whole end"), read_file(folder.path() / "resumed end"));
  }
}

TEST_P(OptimizerState, ALostStateWouldBeSeen) {
  // The test above proves something only where a fresh optimizer steps elsewhere.
  for (const auto& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    Training whole(kind, device());
    whole.steps(3);
    Training fresh(kind, device());
    load_module(whole.checkpoint(), *fresh.net);
    whole.steps(1);
    fresh.steps(1);
    EXPECT_FALSE(fresh.net->parameters()[0].equal(whole.net->parameters()[0]));
  }
}

TEST_P(OptimizerState, StateGoesWhereItWas) {
  Training run(kind("Odd"), device());
  run.steps(1);
  Training other(kind("Odd"), device());
  other.load(run.checkpoint());
  const auto& parameter = other.optimizer->param_groups()[0].params()[0];
  const auto& state =
      static_cast<OddState&>(*other.optimizer->state().at(parameter.unsafeGetTensorImpl()));
  EXPECT_TRUE(state.step_count().is_cpu());
  EXPECT_EQ(state.history()[0].device(), parameter.device());
  EXPECT_EQ(state.worst(), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(static_cast<Odd&>(*other.optimizer).own_steps(), 1);
}
HALFSTEP_ON_EACH_DEVICE(OptimizerState);

TEST(OptimizerStateFormat, NamesTensorsAfterParametersAndCountersInJson) {
  Training run(kind("Adam"), c10::kCPU);
  run.steps(2);
  const Checkpoint checkpoint = run.checkpoint();
  EXPECT_EQ(checkpoint.tensors.at("optimizer.2.bias.exp_avg").sizes(), c10::IntArrayRef{2});
  const auto& state = checkpoint.state["optimizer"];
  EXPECT_EQ(state["type"], "torch::optim::Adam");
  EXPECT_EQ(state["state"]["2.bias"]["step"], 2);
  EXPECT_EQ(state["groups"][0]["params"][0]["name"], "2.weight");
  EXPECT_EQ(state["groups"][1]["options"]["lr"], 1e-2);
  EXPECT_EQ(state["groups"][1]["options"]["betas"]["tuple"][1], 0.99);
}

TEST(OptimizerStateFormat, TakesAnOptimizerThatNeverStepped) {
  Training run(kind("Adam"), c10::kCPU);
  const Checkpoint checkpoint = run.checkpoint();
  Training other(kind("Adam"), c10::kCPU);
  other.steps(2);
  other.load(checkpoint);
  EXPECT_TRUE(other.optimizer->state().empty());
}

TEST(OptimizerStateFormat, ALoadedStateIsACopy) {
  Training run(kind("Adam"), c10::kCPU);
  run.steps(2);
  const TempFolder folder;
  run.checkpoint().save(folder.path() / "a");
  const Checkpoint checkpoint = Checkpoint::load(folder.path() / "a");
  Training other(kind("Adam"), c10::kCPU);
  other.load(checkpoint);
  other.steps(2);
  checkpoint.save(folder.path() / "b");
  EXPECT_EQ(read_file(folder.path() / "a"), read_file(folder.path() / "b"));
}

TEST(OptimizerStateErrors, ACheckpointOfAnotherModel) {
  Training run(kind("Adam"), c10::kCPU);
  run.steps(1);
  const Checkpoint checkpoint = run.checkpoint();
  torch::nn::Linear narrow(6, 4);
  optim::Adam adam(narrow->parameters(), optim::AdamOptions(0.5));
  EXPECT_ERROR(load_optimizer(checkpoint, {"0.weight", "new.bias"}, adam), EnvironmentError,
               "[checkpoint]", "must be of this optimizer, but is of another model",
               "it lacks new.bias", "it has besides 0.bias, 2.bias, 2.weight",
               "0.weight (here [4,6], there [5,6])");
  EXPECT_TRUE(adam.state().empty());
  EXPECT_EQ(adam.param_groups()[0].options().get_lr(), 0.5);

  optim::Adam one_group(run.net->parameters(), optim::AdamOptions(0.5));
  EXPECT_ERROR(load_optimizer(checkpoint, parameter_names(one_group, *run.net), one_group),
               EnvironmentError, "has 1 group(s) and the checkpoint 2", "use the config");
}

TEST(OptimizerStateErrors, ACheckpointOfAnotherOptimizer) {
  Training run(kind("Adam"), c10::kCPU);
  Training other(kind("AdamW"), c10::kCPU);
  EXPECT_ERROR(other.load(run.checkpoint()), EnvironmentError,
               "of this run's optimizer torch::optim::AdamW, but is of torch::optim::Adam;");
  EXPECT_ERROR(load_optimizer(Checkpoint(), other.names(), *other.optimizer), EnvironmentError,
               "must have the optimizer's state", "has none");
}

TEST(OptimizerStateErrors, DamagedState) {
  Training run(kind("Adam"), c10::kCPU);
  run.steps(1);
  const Checkpoint whole = run.checkpoint();
  Training other(kind("Adam"), c10::kCPU);
  other.steps(2);
  Checkpoint damaged = whole;
  damaged.tensors.erase("optimizer.2.bias.exp_avg");
  EXPECT_ERROR(other.load(damaged), EnvironmentError, "lacks 'optimizer.2.bias.exp_avg'");
  damaged = whole;
  damaged.state["optimizer"].erase("groups");
  EXPECT_ERROR(other.load(damaged), EnvironmentError, "as halfstep wrote it, but", "groups");
  damaged = whole;
  damaged.state["optimizer"]["groups"][0]["options"].erase("eps");
  EXPECT_ERROR(other.load(damaged), EnvironmentError, "has the options amsgrad, betas, eps",
               "but the checkpoint has");
  damaged = whole;
  damaged.state["optimizer"]["state"]["2.bias"]["step"] = "two";
  EXPECT_ERROR(other.load(damaged), EnvironmentError, "LibTorch says");
  // What was there before still is.
  const auto& parameter = other.optimizer->param_groups()[0].params()[0];
  const auto& state = static_cast<optim::AdamParamState&>(
      *other.optimizer->state().at(parameter.unsafeGetTensorImpl()));
  EXPECT_EQ(state.step(), 2);
}

TEST(OptimizerStateErrors, WrongUse) {
  Training run(kind("Adam"), c10::kCPU);
  run.steps(1);
  Checkpoint checkpoint;
  EXPECT_ERROR(save_optimizer(*run.optimizer, {"a", "b"}, checkpoint), UsageError,
               "there are only 2 names");
  EXPECT_ERROR(save_optimizer(*run.optimizer, {"a", "b", "c", "d", "e"}, checkpoint), UsageError,
               "has 4 parameters", "but got 5");
  EXPECT_ERROR(save_optimizer(*run.optimizer, {"a", "b", "a", "d"}, checkpoint), UsageError,
               "'a' names two");
  EXPECT_ERROR(parameter_names(*run.optimizer, *torch::nn::Linear(2, 2)), UsageError,
               "must be one of the model's, but number 0", "make the optimizer after");
  Forgetful forgetful(run.net->parameters(), optim::SGDOptions(0.1));
  EXPECT_ERROR(save_optimizer(forgetful, parameter_names(forgetful, *run.net), checkpoint),
               UsageError, "Forgetful must write its state", "override save() and load()");
}

}  // namespace halfstep::train
