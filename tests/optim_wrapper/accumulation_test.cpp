// Gradient accumulation and clipping in numbers: MMCV's tests of its cumulative optimizer hooks,
// clipping in and outside of a fused optimizer, and a restart in the middle.
#include "halfstep/core/error.h"
#include "halfstep/optim.h"
#include "halfstep/optim_wrapper.h"

#include <limits>
#include <memory>
#include <sstream>

#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include "tests/optim_wrapper/toy_model.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"
#include "tests/support/warnings.h"

namespace halfstep::testing {

namespace {

enum class Precision { full, bfloat16, float16 };

std::unique_ptr<OptimWrapper> make_wrapper(torch::optim::Optimizer& optimizer, Precision precision,
                                           int64_t counts,
                                           std::optional<ClipGrad> clip = ClipGrad::norm(0.2)) {
  if (precision == Precision::full)
    return std::make_unique<OptimWrapper>(
        optimizer, OptimWrapperOptions().accumulative_counts(counts).clip_grad(clip));
  const auto dtype = precision == Precision::float16 ? torch::kHalf : torch::kBFloat16;
  return std::make_unique<AmpOptimWrapper>(
      optimizer, AmpOptimWrapperOptions().accumulative_counts(counts).clip_grad(clip).dtype(dtype));
}

void train(OptimWrapper& wrapper, OnesModel& model, const std::vector<at::Tensor>& batches) {
  for (const auto& batch : batches) {
    at::Tensor loss;
    {
      const auto context = wrapper.optim_context(*model);
      loss = model->forward(batch).to(torch::kFloat).mean();
    }
    wrapper.update_params(loss);
  }
}

struct TrainingRun {
  OnesModel model;
  torch::optim::SGD optimizer;
  std::unique_ptr<OptimWrapper> wrapper;
  TrainingRun(c10::Device device, Precision precision, int64_t counts)
      : model(device),
        optimizer(model->parameters(), 0.02),
        wrapper(make_wrapper(optimizer, precision, counts)) {}
};

Tolerance tolerance_of(Precision precision) {
  if (precision == Precision::full) return tolerance(torch::kFloat, "step");
  // The gradients of the parts are rounded one by one.
  return tolerance(precision == Precision::float16 ? torch::kHalf : torch::kBFloat16, "step");
}

void expect_equal_and_trained(const TrainingRun& accumulated, const TrainingRun& whole,
                              Precision precision) {
  EXPECT_LT(accumulated.model->fc->weight.max().item<float>(), 1);
  EXPECT_LT(accumulated.model->fc->bias.max().item<float>(), 1);
  expect_close(accumulated.model->fc->weight, whole.model->fc->weight, tolerance_of(precision));
  expect_close(accumulated.model->fc->bias, whole.model->fc->bias, tolerance_of(precision));
}

}  // namespace

class Accumulation : public DeviceTest {
 protected:
  void check(Precision precision) {
    torch::manual_seed(0);
    {
      const auto data = torch::rand({6, 3}, torch::device(device()));
      TrainingRun accumulated(device(), precision, 3);
      TrainingRun whole(device(), precision, 1);
      accumulated.wrapper->initialize_count_status(*accumulated.model, 0, 18);
      for (int epoch = 0; epoch < 3; ++epoch) {
        train(*accumulated.wrapper, accumulated.model, data.split(1));
        train(*whole.wrapper, whole.model, data.split(3));
      }
      expect_equal_and_trained(accumulated, whole, precision);
      // MMCV clips what needs it: here all.
      EXPECT_GT(whole.wrapper->grad_norm().item<float>(), 0.2);
    }
    const auto data = torch::rand({8, 3}, torch::device(device()));
    TrainingRun accumulated(device(), precision, 3);
    TrainingRun whole(device(), precision, 1);
    accumulated.wrapper->initialize_count_status(*accumulated.model, 0, 8);
    train(*accumulated.wrapper, accumulated.model, data.split(1));
    train(*whole.wrapper, whole.model, data.split(3));  // 3, 3 and 2
    expect_equal_and_trained(accumulated, whole, precision);
    EXPECT_FALSE(accumulated.wrapper->is_accumulating());
  }
};
HALFSTEP_ON_EACH_DEVICE(Accumulation);

TEST_P(Accumulation, ThreeTimesOneIsThree) {
  check(Precision::full);
}

TEST_P(Accumulation, ThreeTimesOneIsThreeInBfloat16) {
  check(Precision::bfloat16);
}

TEST_P(Accumulation, ThreeTimesOneIsThreeInFloat16) {
  check(Precision::float16);
}

TEST(AccumulationFactors, DivideByWhatIsAccumulated) {
  OnesModel model;
  torch::optim::SGD optimizer(model->parameters(), 0.02);
  const auto factors = [&](int64_t init_counts, int64_t max_counts) {
    const Warnings quiet;
    OptimWrapper wrapper(optimizer, OptimWrapperOptions().accumulative_counts(3));
    wrapper.initialize_count_status(*model, init_counts, max_counts);
    std::vector<int64_t> result;
    while (wrapper.inner_count() < max_counts) {
      result.push_back(std::lround(1 / wrapper.scale_loss(torch::ones({})).item<double>()));
      wrapper.set_inner_count(wrapper.inner_count() + 1);
    }
    return result;
  };
  const auto list = [](size_t threes, std::vector<int64_t> rest) {
    std::vector<int64_t> result(threes, 3);
    result.insert(result.end(), rest.begin(), rest.end());
    return result;
  };
  EXPECT_EQ(factors(0, 6), list(6, {}));
  EXPECT_EQ(factors(0, 7), list(6, {1}));
  EXPECT_EQ(factors(0, 8), list(6, {2, 2}));
  EXPECT_EQ(factors(0, 10), list(9, {1}));
  EXPECT_EQ(factors(5, 10), list(4, {1}));
  EXPECT_EQ(factors(3, 6), list(3, {}));
  EXPECT_EQ(factors(3, 8), list(3, {2, 2}));
}

class WrapperClip : public DeviceTest {
 protected:
  struct Result {
    at::Tensor weight, norm;
  };
  /// One step of SGD from gradients of norm about 1, by hand or by a wrapper.
  template <class Optimizer, class Options>
  Result step(const Options& options, const ClipGrad& clip, bool amp) {
    OnesModel model(device());
    Optimizer optimizer(model->parameters(), options);
    const auto wrapper =
        make_wrapper(optimizer, amp ? Precision::float16 : Precision::full, 1, clip);
    wrapper->backward(loss(model));
    wrapper->step();
    gradient_ = model->fc->weight.grad().clone();
    return {model->fc->weight.detach().clone(), wrapper->grad_norm()};
  }
  at::Tensor loss(OnesModel& model) {
    return model->forward(torch::arange(6, torch::device(device())).view({2, 3}) / 6.0F).sum();
  }
  Result by_hand(const ClipGrad& clip) {
    OnesModel model(device());
    torch::optim::SGD optimizer(model->parameters(), 0.5);
    loss(model).backward();
    Result result;
    if (clip.is_norm())
      result.norm = torch::tensor(
          torch::nn::utils::clip_grad_norm_(model->parameters(), clip.limit(), clip.norm_type()),
          torch::device(device()).dtype(torch::kFloat));
    else
      torch::nn::utils::clip_grad_value_(model->parameters(), clip.limit());
    optimizer.step();
    result.weight = model->fc->weight.detach().clone();
    return result;
  }
  at::Tensor gradient_;
};
HALFSTEP_ON_EACH_DEVICE(WrapperClip);

TEST_P(WrapperClip, IsTheSameInAndOutsideOfTheOptimizer) {
  const auto close = tolerance(torch::kFloat, "step");
  const auto infinity = std::numeric_limits<double>::infinity();
  for (const auto& clip : {ClipGrad::norm(0.3), ClipGrad::norm(100), ClipGrad::norm(0.3, 1),
                           ClipGrad::norm(0.3, infinity), ClipGrad::value(0.4)}) {
    SCOPED_TRACE(clip.describe());
    const auto expected = by_hand(clip);
    for (const bool amp : {false, true}) {
      const auto stock = step<torch::optim::SGD>(torch::optim::SGDOptions(0.5), clip, amp);
      const auto fused = step<optim::SGD>(optim::SGDOptions(0.5), clip, amp);
      expect_close(stock.weight, expected.weight, close);
      expect_close(fused.weight, expected.weight, close);
      ASSERT_EQ(stock.norm.defined(), clip.is_norm());
      if (!clip.is_norm()) continue;
      expect_close(stock.norm, expected.norm, close);
      expect_close(fused.norm, expected.norm, close);
      EXPECT_EQ(fused.norm.device(), expected.norm.device());
    }
  }
}

// A pass over memory that the fused optimizers' own kernels don't need.
TEST(WrapperClipOnTheCpu, UnscalesOnlyWhereTheOptimizerDoesNotClip) {
  const auto gradient_after = [](auto&& optimizer, OnesModel& model, const ClipGrad& clip) {
    AmpOptimWrapper wrapper(
        optimizer, AmpOptimWrapperOptions().dtype(torch::kHalf).loss_scale(1024).clip_grad(clip));
    wrapper.backward(model->forward(torch::ones({1, 3})).sum());
    wrapper.step();
    return model->fc->bias.grad()[0].item<float>();
  };
  OnesModel model;
  EXPECT_EQ(gradient_after(optim::SGD(model->parameters(), 0.1), model, ClipGrad::norm(100)), 1024);
  model->zero_grad();
  EXPECT_EQ(gradient_after(optim::SGD(model->parameters(), 0.1), model, ClipGrad::value(5)), 1024);
  model->zero_grad();
  EXPECT_EQ(gradient_after(optim::SGD(model->parameters(), 0.1), model, ClipGrad::norm(100, 1)), 1);
  model->zero_grad();
  EXPECT_EQ(gradient_after(torch::optim::SGD(model->parameters(), 0.1), model, ClipGrad::norm(100)),
            1);
}

TEST(WrapperClipOnTheCpu, LeavesTheOptimizerAsItWas) {
  OnesModel model;
  optim::SGD optimizer(model->parameters(), 0.1);
  OptimWrapper wrapper(optimizer, OptimWrapperOptions().clip_grad(ClipGrad::norm(0.1)));
  wrapper.update_params(model->forward(torch::ones({1, 3})).sum());
  EXPECT_FALSE(optimizer.clips());
  const auto before = model->fc->bias.detach().clone();
  model->forward(torch::ones({1, 3})).sum().backward();
  optimizer.step();
  expect_close(model->fc->bias, before - 0.1, tolerance(torch::kFloat, "step"));
}

class WrapperState : public ::testing::TestWithParam<std::tuple<Precision, bool>> {};

// What was saved goes on as if nothing had happened, also between two parts of a batch.
TEST_P(WrapperState, GoesOnInTheMiddleOfAnAccumulation) {
  const auto [precision, fused] = GetParam();
  torch::manual_seed(0);
  const auto batches = torch::rand({10, 3}).split(1);
  const auto make_optimizer = [fused = fused](OnesModel& model) {
    std::unique_ptr<torch::optim::Optimizer> optimizer;
    if (fused)
      optimizer =
          std::make_unique<optim::SGD>(model->parameters(), optim::SGDOptions(0.1).momentum(0.9));
    else
      optimizer = std::make_unique<torch::optim::SGD>(model->parameters(),
                                                      torch::optim::SGDOptions(0.1).momentum(0.9));
    return optimizer;
  };
  for (const int64_t stop : {3, 4, 5}) {
    SCOPED_TRACE(stop);
    OnesModel unbroken, restarted;
    auto unbroken_optimizer = make_optimizer(unbroken);
    auto wrapper = make_wrapper(*unbroken_optimizer, precision, 3);
    std::stringstream model_file, wrapper_file;
    {
      OnesModel first;
      auto first_optimizer = make_optimizer(first);
      auto first_wrapper = make_wrapper(*first_optimizer, precision, 3);
      train(*first_wrapper, first, {batches.begin(), batches.begin() + stop});
      EXPECT_EQ(first_wrapper->is_accumulating(), stop != 3);
      torch::save(first, model_file);
      torch::save(*first_wrapper, wrapper_file);
    }
    torch::load(restarted, model_file);
    auto restarted_optimizer = make_optimizer(restarted);
    auto restarted_wrapper = make_wrapper(*restarted_optimizer, precision, 3);
    torch::load(*restarted_wrapper, wrapper_file);
    EXPECT_EQ(restarted_wrapper->inner_count(), stop);
    train(*restarted_wrapper, restarted, {batches.begin() + stop, batches.end()});
    train(*wrapper, unbroken, batches);
    expect_same_bits(restarted->fc->weight, unbroken->fc->weight);
    expect_same_bits(restarted->fc->bias, unbroken->fc->bias);
    EXPECT_LT(unbroken->fc->bias.max().item<float>(), 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Each, WrapperState,
                         ::testing::Combine(::testing::Values(Precision::full, Precision::bfloat16,
                                                              Precision::float16),
                                            ::testing::Bool()));

TEST(WrapperStateOf, APlainOptimizerLoads) {
  OnesModel model;
  torch::optim::SGD saved(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  model->forward(torch::ones({1, 3})).sum().backward();
  saved.step();
  std::stringstream file;
  torch::save(saved, file);

  for (const bool amp : {false, true}) {
    torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.7).momentum(0.9));
    const auto wrapper = make_wrapper(optimizer, amp ? Precision::float16 : Precision::full, 1);
    file.seekg(0);
    torch::load(*wrapper, file);
    EXPECT_EQ(wrapper->get_lr()["lr"], std::vector<double>{0.1});
    EXPECT_EQ(optimizer.state().size(), 2U);
    EXPECT_EQ(wrapper->inner_count(), 0);
  }
}

TEST(WrapperStateOf, AnythingElseIsRefused) {
  OnesModel model;
  torch::optim::SGD optimizer(model->parameters(), 0.1);
  OptimWrapper wrapper(optimizer);
  std::stringstream file;
  torch::save(model, file);
  EXPECT_ERROR(torch::load(wrapper, file), EnvironmentError, "[OptimWrapper::load]",
               "must be what save wrote", "but LibTorch says", "for the same model and optimizer");
}

TEST(WrapperStateOf, HoldsTheOptimizersState) {
  OnesModel model;
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  OptimWrapper wrapper(optimizer);
  wrapper.update_params(model->forward(torch::ones({1, 3})).sum());
  std::stringstream file;
  torch::save(wrapper, file);
  // So a plain optimizer can go on, too.
  torch::optim::SGD other(model->parameters(), torch::optim::SGDOptions(0.7).momentum(0.9));
  torch::load(other, file);
  EXPECT_EQ(other.param_groups()[0].options().get_lr(), 0.1);
  const auto momentum_of = [&](torch::optim::SGD& sgd) {
    auto& state = sgd.state().at(model->fc->weight.unsafeGetTensorImpl());
    return static_cast<torch::optim::SGDParamState&>(*state).momentum_buffer();
  };
  expect_same_bits(momentum_of(other), momentum_of(optimizer));
}

}  // namespace halfstep::testing
