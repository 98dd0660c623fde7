// The recipes of docs/recipes.md, as they stand there: each between `// recipe: name` and `// end`.
#include "halfstep/halfstep.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <vector>

#include <torch/torch.h>

#include "tests/support/devices.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

namespace F = torch::nn::functional;
using halfstep::Autocast;
using halfstep::GradScaler;
using halfstep::GradScalerOptions;

/// 20 batches of a problem that a linear layer solves.
class Recipes : public halfstep::testing::DeviceTest {
 protected:
  struct Batch {
    torch::Tensor data, target;
  };

  void SetUp() override {
    halfstep::testing::DeviceTest::SetUp();
    if (IsSkipped()) return;
    net = torch::nn::Sequential(torch::nn::Linear(8, 16), torch::nn::ReLU(),
                                torch::nn::Linear(16, 1));
    net->to(device());
    const auto weights = torch::randn({8, 1});
    for (int i = 0; i < 20; ++i) {
      const auto data = torch::randn({16, 8});
      batches.push_back({data.to(device()), data.mm(weights).to(device())});
    }
    before_ = loss_of_all();
  }

  /// The recipe learned something.
  void TearDown() override {
    if (IsSkipped() || !learns_) return;
    EXPECT_LT(loss_of_all(), 0.8 * before_);
  }

  double loss_of_all() {
    const torch::NoGradGuard no_grad;
    double sum = 0;
    for (const auto& batch : batches)
      sum += F::mse_loss(net->forward(batch.data), batch.target).item<double>();
    return sum;
  }

  /// The loss scale of a GPU in float16; the CPU's autocast is in bfloat16, which needs none.
  GradScaler new_scaler() { return GradScaler(GradScalerOptions(device().type())); }

  torch::nn::Sequential net = nullptr;
  std::vector<Batch> batches;
  bool learns_ = true;

 private:
  double before_ = 0;
};
HALFSTEP_ON_EACH_DEVICE(Recipes);

TEST_P(Recipes, TypicalLoop) {
  const auto device = this->device();
  // recipe: typical loop
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  GradScaler scaler(device.type());

  for (const auto& [data, target] : batches) {
    optimizer.zero_grad();
    torch::Tensor loss;
    {
      const Autocast autocast(device.type());
      loss = F::mse_loss(net->forward(data), target);
    }
    scaler.scale(loss).backward();  // outside of the region: backward follows the forward's dtypes
    scaler.step(optimizer);         // skipped where a gradient overflowed
    scaler.update();
  }
  // end
}

TEST_P(Recipes, Clipping) {
  const auto device = this->device();
  torch::optim::SGD optimizer(net->parameters(), 0.2);
  GradScaler scaler(device.type());
  double largest = 0;
  for (const auto& [data, target] : batches) {
    optimizer.zero_grad();
    torch::Tensor loss;
    {
      const Autocast autocast(device.type());
      loss = F::mse_loss(net->forward(data), target);
    }
    // recipe: clipping
    scaler.scale(loss).backward();
    scaler.unscale_(optimizer);  // gradients are what they would be without a scale
    halfstep::optim::clip_grad_norm_(net->parameters(), /*max_norm=*/1.0);
    scaler.step(optimizer);  // knows that they were unscaled
    scaler.update();
    // end
    double squares = 0;
    for (const auto& weight : net->parameters())
      squares += weight.grad().square().sum().item<double>();
    largest = std::max(largest, std::sqrt(squares));
  }
  EXPECT_NEAR(largest, 1, 1e-3) << "nothing was clipped";
}

TEST_P(Recipes, ClippingInTheOptimizer) {
  const auto device = this->device();
  // recipe: clipping in the optimizer
  halfstep::optim::Adam optimizer(net->parameters(),
                                  halfstep::optim::AdamOptions(0.02).clip_norm(1.0));
  // end
  GradScaler scaler(device.type());
  for (int epoch = 0; epoch < 3; ++epoch) {
    for (const auto& [data, target] : batches) {
      optimizer.zero_grad();
      const auto loss = [&, &data = data, &target = target] {
        const Autocast autocast(device.type());
        return F::mse_loss(net->forward(data), target);
      }();
      scaler.scale(loss).backward();
      scaler.step(optimizer);
      scaler.update();
    }
  }
}

TEST_P(Recipes, Accumulation) {
  const auto device = this->device();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  GradScaler scaler(device.type());
  // recipe: accumulation
  const int64_t counts = 2;
  for (size_t i = 0; i < batches.size(); ++i) {
    torch::Tensor loss;
    {
      const Autocast autocast(device.type());
      loss = F::mse_loss(net->forward(batches[i].data), batches[i].target) / counts;
    }
    scaler.scale(loss).backward();  // all of a step are scaled alike: update() comes after the step
    if ((i + 1) % counts != 0) continue;
    scaler.step(optimizer);
    scaler.update();
    optimizer.zero_grad();
  }
  // end
}

TEST_P(Recipes, AccumulationByTheWrapper) {
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  // recipe: accumulation by the wrapper
  halfstep::AmpOptimWrapper wrapper(optimizer,
                                    halfstep::AmpOptimWrapperOptions().accumulative_counts(2));
  for (const auto& [data, target] : batches) {
    torch::Tensor loss;
    {
      const auto context = wrapper.optim_context(*net);
      loss = F::mse_loss(net->forward(data), target);
    }
    wrapper.update_params(loss);  // divides, scales, steps every second time
  }
  // end
}

TEST_P(Recipes, GradientPenalty) {
  const auto device = this->device();
  torch::optim::SGD optimizer(net->parameters(), 0.02);
  GradScaler scaler(device.type());
  double penalties = 0;
  for (const auto& [data, target] : batches) {
    optimizer.zero_grad();
    // recipe: gradient penalty
    torch::Tensor loss;
    {
      const Autocast autocast(device.type());
      loss = F::mse_loss(net->forward(data), target);
    }
    // Of the scaled loss, so that small gradients don't vanish; then without the scale.
    auto gradients = torch::autograd::grad({scaler.scale(loss)}, net->parameters(), {},
                                           /*retain_graph=*/true, /*create_graph=*/true);
    torch::Tensor squares = torch::zeros({}, device);
    for (const auto& gradient : gradients)
      squares = squares + (gradient / scaler.get_scale()).square().sum();
    loss = loss + 0.01 * squares.sqrt();
    scaler.scale(loss).backward();
    scaler.step(optimizer);
    scaler.update();
    // end
    penalties += squares.item<double>();
  }
  EXPECT_GT(penalties, 0);
}

TEST_P(Recipes, SeveralModelsLossesAndOptimizers) {
  const auto device = this->device();
  torch::nn::Linear other(8, 1);
  other->to(device);
  // recipe: several models, losses and optimizers
  torch::optim::SGD first(net->parameters(), 0.005);
  torch::optim::SGD second(other->parameters(), 0.005);
  GradScaler scaler(device.type());

  for (const auto& [data, target] : batches) {
    first.zero_grad();
    second.zero_grad();
    torch::Tensor loss_a, loss_b;
    {
      const Autocast autocast(device.type());
      const auto a = net->forward(data), b = other->forward(data);
      loss_a = F::mse_loss(2 * a + 3 * b, 5 * target);
      loss_b = F::mse_loss(3 * a - 5 * b, -2 * target);
    }
    scaler.scale(loss_a).backward({}, /*retain_graph=*/true);
    scaler.scale(loss_b).backward();
    scaler.unscale_(first);  // either, both or none
    scaler.step(first);      // each is skipped for its own overflow
    scaler.step(second);
    scaler.update();  // once, after the last step
  }
  // end
}

// recipe: functions of your own
struct Product : halfstep::CustomFunction<Product> {
  static torch::Tensor forward(torch::autograd::AutogradContext* context, const torch::Tensor& a,
                               const torch::Tensor& b) {
    context->save_for_backward({a, b});
    return a.mm(b);  // by the rules of the region it is called in
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    // In the same region again, wherever backward() is called.
    return {grads[0].mm(saved[1].t()), saved[0].t().mm(grads[0])};
  }
};
// end

// recipe: functions that need float32
struct SumOfSquares : halfstep::CustomFunction<SumOfSquares> {
  static constexpr auto cast_inputs = torch::kFloat;  // and autocast is off inside
  static torch::Tensor forward(torch::autograd::AutogradContext* context, const torch::Tensor& x) {
    context->save_for_backward({x});
    return x.square().sum();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    return {2 * grads[0] * context->get_saved_variables()[0]};
  }
};
// end

TEST_P(Recipes, OwnFunctions) {
  learns_ = false;
  const auto device = this->device();
  auto a = torch::rand({4, 4}, device).requires_grad_(), b = torch::rand({4, 4}, device);
  torch::Tensor product;
  {
    const Autocast autocast(device.type());
    product = Product::apply(a, b);
  }
  EXPECT_NE(product.scalar_type(), torch::kFloat);
  product.sum().backward();
  EXPECT_EQ(a.grad().scalar_type(), torch::kFloat);
  EXPECT_GT(a.grad().abs().sum().item<double>(), 0);
}

TEST_P(Recipes, FunctionsThatNeedFloat32) {
  learns_ = false;
  const auto device = this->device();
  const auto x = torch::rand({4, 4}, device).requires_grad_();
  torch::Tensor sum;
  {
    const Autocast autocast(device.type());
    sum = SumOfSquares::apply(x.mm(torch::eye(4, device)));
  }
  EXPECT_EQ(sum.scalar_type(), torch::kFloat);
  sum.backward();
  EXPECT_TRUE(torch::allclose(x.grad(), 2 * x, 1e-2, 1e-2));
}

TEST_P(Recipes, LearningRateSchedule) {
  const auto device = this->device();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  GradScaler scaler(device.type());
  // recipe: learning-rate schedule
  halfstep::optim::LRScheduler scheduler(optimizer, halfstep::optim::step_lr(10, 0.5));
  for (const auto& [data, target] : batches) {
    optimizer.zero_grad();
    torch::Tensor loss;
    {
      const Autocast autocast(device.type());
      loss = F::mse_loss(net->forward(data), target);
    }
    scaler.scale(loss).backward();
    const auto result = scaler.step(optimizer);
    scaler.update();
    scheduler.step(result);  // does not advance where the step was skipped
  }
  // end
  EXPECT_NEAR(optimizer.param_groups()[0].options().get_lr(), 0.0125, 1e-9);
}

void save(torch::nn::Sequential& net, torch::optim::Optimizer& optimizer, GradScaler& scaler,
          std::ostream& file) {
  // recipe: save
  torch::serialize::OutputArchive archive, weights, steps, scale;
  net->save(weights);
  optimizer.save(steps);
  scaler.save(scale);  // else a resumed run would look for its scale anew
  archive.write("net", weights);
  archive.write("optimizer", steps);
  archive.write("scaler", scale);
  archive.save_to(file);
  // end
}

void resume(torch::nn::Sequential& net, torch::optim::Optimizer& optimizer, GradScaler& scaler,
            std::istream& file) {
  // recipe: resume
  torch::serialize::InputArchive archive, weights, steps, scale;
  archive.load_from(file);
  archive.read("net", weights);
  archive.read("optimizer", steps);
  archive.read("scaler", scale);
  net->load(weights);
  optimizer.load(steps);
  scaler.load(scale);
  // end
}

TEST_P(Recipes, SaveAndResume) {
  learns_ = false;
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  GradScaler scaler(GradScalerOptions(device().type()).init_scale(1024));
  std::stringstream file;
  save(net, optimizer, scaler, file);
  const auto before = net->parameters()[0].clone();
  {
    const torch::NoGradGuard no_grad;
    net->parameters()[0].zero_();
  }
  GradScaler other(device().type());
  resume(net, optimizer, other, file);
  EXPECT_EQ(other.get_scale(), 1024);
  EXPECT_TRUE(torch::equal(net->parameters()[0], before));
}

}  // namespace
