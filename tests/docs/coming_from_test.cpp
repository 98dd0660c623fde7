// The C++ of docs/coming-from.md, docs/fp16-or-bf16.md and docs/loss-scaling.md: blocks as they
// stand there, each between `// recipe: name` and `// end`, and the lines of their tables, anywhere
// in here or in examples/.
#include "halfstep/halfstep.h"

#include <cmath>
#include <iostream>
#include <limits>
#include <sstream>
#include <vector>

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include "tests/support/devices.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

namespace F = torch::nn::functional;

/// Batches of a problem that a linear layer solves, in the words of one framework a test.
class ComingFrom : public halfstep::testing::DeviceTest {
 protected:
  void SetUp() override {
    halfstep::testing::DeviceTest::SetUp();
    if (IsSkipped()) return;
    torch::manual_seed(0);
    net = torch::nn::Sequential(torch::nn::Linear(8, 16), torch::nn::ReLU(),
                                torch::nn::Linear(16, 1));
    net->to(device());
    data = torch::randn({16, 8}).to(device());
    target = data.sum(1, /*keepdim=*/true);
  }

  double first_weight() { return net->parameters()[0].sum().item<double>(); }

  torch::nn::Sequential net = nullptr;
  torch::Tensor data, target;
};
HALFSTEP_ON_EACH_DEVICE(ComingFrom);

TEST_P(ComingFrom, PyTorch) {
  const auto device = this->device();
  target = net->forward(data).detach() + 0.01;  // gradients that fit float16 times 65536
  const bool use_amp = true;
  halfstep::optim::Adam optimizer(net->parameters(), halfstep::optim::AdamOptions(1e-3));
  halfstep::GradScaler scaler(device.type());
  torch::Tensor loss;
  {
    const halfstep::Autocast autocast(device.type());
    EXPECT_TRUE(autocast.enabled());
    EXPECT_TRUE(at::autocast::is_autocast_enabled(device.type()));
    loss = F::mse_loss(net->forward(data), target);
    {
      const halfstep::Autocast off(halfstep::AutocastOptions(device.type()).enabled(false));
      EXPECT_EQ(net->forward(data).scalar_type(), torch::kFloat);
    }
  }
  {
    const halfstep::Autocast autocast(halfstep::AutocastOptions(device.type())
                                          .dtype(torch::kBFloat16)
                                          .enabled(use_amp)
                                          .cache_enabled(false));
    EXPECT_EQ(autocast.dtype(), torch::kBFloat16);
    EXPECT_EQ(net->forward(data).scalar_type(), torch::kBFloat16);
  }
  const auto before = first_weight();
  optimizer.zero_grad();
  scaler.scale(loss).backward();
  scaler.unscale_(optimizer);
  halfstep::optim::clip_grad_norm_(net->parameters(), 1.0);
  const auto result = scaler.step(optimizer);
  EXPECT_TRUE(result.stepped());
  scaler.update();
  EXPECT_NE(first_weight(), before);

  const auto options = halfstep::GradScalerOptions(device.type())
                           .init_scale(1024)
                           .growth_interval(100)
                           .enabled(use_amp);
  halfstep::GradScaler other(options);
  EXPECT_EQ(other.get_scale(), 1024);
  const auto state = scaler.state();
  other.load_state(state);
  EXPECT_EQ(other.get_scale(), 65536);
}

TEST_P(ComingFrom, Fabric) {
  const auto device = this->device();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  EXPECT_TRUE(halfstep::fabric_policy("16-mixed").needs_loss_scale());
  const auto policy = halfstep::fabric_policy("bf16-mixed");
  halfstep::GradScaler scaler(
      halfstep::GradScalerOptions(device.type()).enabled(policy.needs_loss_scale()));
  EXPECT_FALSE(scaler.is_enabled());
  const auto before = first_weight();
  torch::Tensor loss;
  {
    const halfstep::Autocast autocast(policy.autocast(device.type()));
    const auto output = policy.cast_to_output(net->forward(data));
    EXPECT_EQ(output.scalar_type(), torch::kFloat);
    loss = F::mse_loss(output, target);
  }
  scaler.scale(loss).backward();
  scaler.step(optimizer);
  scaler.update();
  EXPECT_NE(first_weight(), before);
}

// recipe: MMCV's head
struct HeadImpl : torch::nn::Module, halfstep::Fp16Enabled {  // self.fp16_enabled = False
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(8, 1));

  torch::Tensor predict(torch::Tensor x) { return fc(x); }
  torch::Tensor loss(torch::Tensor pred, torch::Tensor target) { return F::mse_loss(pred, target); }
};
TORCH_MODULE(Head);

const auto predict = halfstep::auto_fp16(&HeadImpl::predict);  // @auto_fp16()
const auto loss_of = halfstep::force_fp32(                     // @force_fp32(apply_to=('pred', ))
    &HeadImpl::loss,
    halfstep::ForceFp32Options().argument_names({"pred", "target"}).apply_to("pred"));
// end

TEST_P(ComingFrom, Mmcv) {
  const auto device = this->device();
  Head head;
  head->to(device);
  EXPECT_EQ(predict(head, data).scalar_type(), torch::kFloat) << "inert until it is switched on";
  // recipe: MMCV's switch
  halfstep::wrap_fp16_model(*head, torch::kBFloat16);
  const auto pred = predict(head, data);  // bfloat16
  const auto loss = loss_of(head, pred, target);
  std::cout << pred.scalar_type() << ", loss in " << loss.scalar_type() << "\n";
  // end
  EXPECT_EQ(pred.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(loss.scalar_type(), torch::kFloat);

  const auto half = halfstep::cast_tensor_type(data, torch::kFloat, torch::kHalf);
  EXPECT_EQ(half.scalar_type(), torch::kHalf);
  const auto wide = halfstep::auto_fp16(&HeadImpl::predict,
                                        halfstep::AutoFp16Options().apply_to(0).out_fp32(true));
  EXPECT_EQ(wide(head, data).scalar_type(), torch::kFloat);

  torch::optim::SGD optimizer(head->parameters(), 0.05);
  halfstep::AmpOptimWrapper hook(optimizer, halfstep::AmpOptimWrapperOptions().loss_scale(512));
  EXPECT_EQ(hook.get_scale(), 512);
  halfstep::GradScaler fixed(halfstep::dialects::mmcv_static(512).device_type(device.type()));
  EXPECT_FALSE(fixed.options().dynamic());
  EXPECT_TRUE(fixed.options().check_overflow());
  halfstep::GradScaler older(halfstep::dialects::mmcv_legacy().device_type(device.type()));
  EXPECT_EQ(older.get_scale(), std::ldexp(1.0, 32));

  const halfstep::Autocast autocast(
      halfstep::AutocastOptions(device.type()).policy(halfstep::OpPolicy::mmcv()));
  const auto both = torch::cat({data, data});
  EXPECT_EQ(both.scalar_type(), autocast.dtype()) << "16 bits, though all inputs are float32";
}

TEST_P(ComingFrom, MmEngine) {
  torch::optim::SGD optimizer(net->parameters(), 0.05), other(net->parameters(), 0.05);
  // recipe: MMEngine's loop
  halfstep::AmpOptimWrapper optim_wrapper(optimizer,
                                          halfstep::AmpOptimWrapperOptions()
                                              .dtype(torch::kBFloat16)
                                              .loss_scale("dynamic")  // of bfloat16: none
                                              .accumulative_counts(2)
                                              .clip_grad(halfstep::ClipGrad::norm(35)));
  optim_wrapper.initialize_count_status(*net, 0, 20);
  for (int i = 0; i < 20; ++i) {
    torch::Tensor loss;
    {
      const auto context = optim_wrapper.optim_context(*net);
      loss = F::mse_loss(net->forward(data), target);
    }
    const auto result = optim_wrapper.update_params(loss);  // each second time
    if (result && i % 6 == 1) std::cout << "loss " << loss.item<double>() << "\n";
  }
  // end
  EXPECT_EQ(optim_wrapper.inner_count(), 20);
  EXPECT_FALSE(optim_wrapper.scaler().is_enabled());
  const auto first = std::make_shared<halfstep::AmpOptimWrapper>(optimizer);
  const auto second = std::make_shared<halfstep::OptimWrapper>(other);
  halfstep::OptimWrapperDict wrappers({{"generator", first}, {"discriminator", second}});
  EXPECT_EQ(&wrappers["generator"], first.get());
  EXPECT_EQ(wrappers.get_lr().size(), 2);
}

struct PlannedGraph : halfstep::Graph<torch::Tensor(torch::Tensor, torch::Tensor)> {
  PlannedGraph(torch::nn::Sequential its_net, torch::optim::Optimizer& optimizer,
               halfstep::optim::LRScheduler& scheduler, halfstep::GradScaler& grad_scaler)
      : net(register_module("net", its_net)) {
    config().enable_amp(true, torch::kBFloat16).plan_precision();
    config().set_gradient_accumulation_steps(2);
    add_optimizer(optimizer, scheduler);
    set_grad_scaler(grad_scaler);
  }
  torch::Tensor build(const torch::Tensor& x, const torch::Tensor& y) override {
    const auto y_pred = net->forward(halfstep::amp_white_identity(x));
    const auto loss = F::mse_loss(y_pred, y);
    loss.backward();
    return loss;
  }
  torch::nn::Sequential net;
};

TEST_P(ComingFrom, OneFlow) {
  const auto device = this->device();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  halfstep::optim::LRScheduler scheduler(optimizer, halfstep::optim::step_lr(10, 0.5));
  halfstep::GradScaler grad_scaler(
      halfstep::dialects::oneflow_static(512).device_type(device.type()));
  PlannedGraph graph_model(net, optimizer, scheduler, grad_scaler);
  const auto first = graph_model(data, target).mean().item<double>();
  for (int i = 0; i < 9; ++i) graph_model(data, target);
  EXPECT_LT(graph_model(data, target).mean().item<double>(), first);
  EXPECT_GT(graph_model.replayed_steps(), 0);
  EXPECT_EQ(scheduler.steps(), 11);

  const halfstep::Autocast autocast(
      halfstep::AutocastOptions(device.type()).policy(halfstep::OpPolicy::oneflow()));
  EXPECT_NE(net->forward(data).scalar_type(), torch::kFloat);
}

TEST_P(ComingFrom, Keras) {
  const auto device = this->device();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  const auto global = halfstep::dtype_policy();
  halfstep::set_dtype_policy("mixed_float16");
  const auto policy = halfstep::dtype_policy();
  halfstep::set_dtype_policy(global);
  EXPECT_EQ(policy.compute_dtype(), torch::kHalf);
  EXPECT_EQ(policy.variable_dtype(), torch::kFloat);
  EXPECT_TRUE(policy.needs_loss_scale());

  const auto policies = halfstep::DtypePolicyMap("mixed_bfloat16").add("0.*", "float32");
  EXPECT_EQ(policies["2"].compute_dtype(), torch::kBFloat16);
  EXPECT_EQ(policies["0"].compute_dtype(), torch::kFloat);

  halfstep::GradScaler scaler(halfstep::dialects::keras().device_type(device.type()));
  EXPECT_EQ(scaler.get_scale(), 32768);
  const auto options = halfstep::dialects::keras().init_scale(32768).growth_interval(2000);
  EXPECT_EQ(options.growth_interval(), halfstep::dialects::keras().growth_interval());
  EXPECT_EQ(halfstep::dialects::tf_keras().min_scale(), 1);
  EXPECT_FALSE(halfstep::dialects::keras_static(128).check_overflow());

  const auto before = first_weight();
  const auto loss = F::mse_loss(net->forward(data), target);
  scaler.scale(loss).backward();
  scaler.unscale_(optimizer);
  scaler.step(optimizer);
  scaler.update();
  EXPECT_NE(first_weight(), before);
}

TEST_P(ComingFrom, Apex) {
  const auto device = this->device();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  auto amp = halfstep::apex::initialize(*net, optimizer,
                                        halfstep::apex::AmpOptions(halfstep::apex::OptLevel::O2)
                                            .half_dtype(torch::kBFloat16)
                                            .loss_scale(128)
                                            .keep_batchnorm_fp32(false)
                                            .num_losses(2));
  const auto loss = F::mse_loss(amp.forward(net, data), target);
  const auto before = first_weight();
  {
    auto scaled_loss =
        amp.scale_loss(loss, optimizer, halfstep::apex::ScaleLossOptions().loss_id(1));
    scaled_loss->backward();
  }
  halfstep::optim::clip_grad_norm_(amp.master_params(optimizer), 1.0);
  amp.step(optimizer);
  EXPECT_NE(first_weight(), before);
  EXPECT_EQ(amp.scaler(1).get_scale(), 128);
  torch::serialize::OutputArchive archive;
  amp.save(archive);
  EXPECT_EQ(amp.float32_state(*net).front().value().scalar_type(), torch::kFloat);

  const auto policy = halfstep::OpPolicy::apex().set("relu", halfstep::CastRule::float32);
  const halfstep::Autocast autocast(halfstep::AutocastOptions(device.type()).policy(policy));
  EXPECT_EQ(torch::relu(data.to(torch::kBFloat16)).scalar_type(), torch::kFloat);
}

TEST_P(ComingFrom, Jmp) {
  const auto device = this->device();
  // recipe: jmp's step
  const auto policy = halfstep::get_policy("params=float32,compute=bfloat16,output=float32");
  halfstep::GradScaler loss_scale(halfstep::dialects::jmp(32768).device_type(device.type()));
  torch::optim::SGD optimizer(net->parameters(), 0.05);

  for (int i = 0; i <= 20; ++i) {
    optimizer.zero_grad();
    torch::Tensor loss;
    {
      const halfstep::Autocast autocast(policy.autocast(device.type()));
      const auto output = net->forward(policy.cast_to_compute(data));
      loss = F::mse_loss(policy.cast_to_output(output), target);
    }
    loss_scale.scale(loss).backward();
    loss_scale.unscale_(optimizer);
    loss_scale.step(optimizer);  // the all_finite and select_tree of a step
    loss_scale.update();         // adjust
    if (i % 10 == 0) std::cout << "loss " << loss.item<double>() << "\n";
  }
  std::cout << "scale " << loss_scale.get_scale() << "\n";
  // end
  EXPECT_EQ(loss_scale.get_scale(), 32768);
  EXPECT_EQ(loss_scale.overflows().skipped_steps, 0);

  // The same by hand.
  std::vector<torch::Tensor> parameters = net->parameters(), gradients, stepped;
  for (const auto& parameter : parameters) {
    gradients.push_back(parameter.grad());
    stepped.push_back(parameter - 0.05 * parameter.grad());
  }
  const auto grads_finite = halfstep::all_finite(gradients);
  const auto chosen = halfstep::select_tree(grads_finite, stepped, parameters);
  EXPECT_TRUE(torch::equal(chosen[0], stepped[0]));
  EXPECT_EQ(policy.cast_to_param(data).scalar_type(), torch::kFloat);
  EXPECT_EQ(policy.with_output_dtype(torch::kBFloat16).output_dtype(), torch::kBFloat16);
  EXPECT_EQ(halfstep::cast_to_half(data).scalar_type(), torch::kHalf);
  EXPECT_EQ(halfstep::dialects::jmp_static(512).init_scale(), 512);
  EXPECT_FALSE(halfstep::dialects::jmp_no_op().enabled());
}

TEST_P(ComingFrom, WhichDtype) {
  const auto device = this->device();
  // recipe: which dtype
  const auto support = halfstep::low_precision_support(device);
  std::cout << support.device << ": float16 " << support.float16 << ", bfloat16 "
            << support.bfloat16 << "\n"
            << halfstep::missing_support_notice(device, torch::kBFloat16) << "\n";
  // end
  EXPECT_FALSE(support.device.empty());
  EXPECT_EQ(support.has(torch::kBFloat16),
            halfstep::missing_support_notice(device, torch::kBFloat16).empty());
}

/// A row of the table of docs/fp16-or-bf16.md, as snippets_test.py computes it.
template <class Half>
void expect_numbers(int exponent_bits, int fraction_bits) {
  using limits = std::numeric_limits<Half>;
  const int largest = (1 << (exponent_bits - 1)) - 1;
  EXPECT_EQ(double{limits::max()},
            (2 - std::ldexp(1.0, -fraction_bits)) * std::ldexp(1.0, largest));
  EXPECT_EQ(double{limits::min()}, std::ldexp(1.0, 1 - largest));
  EXPECT_EQ(double{limits::denorm_min()}, std::ldexp(1.0, 1 - largest - fraction_bits));
  EXPECT_EQ(double{limits::epsilon()}, std::ldexp(1.0, -fraction_bits));
}

TEST(ComingFromNumbers, AreThoseOfTheTypes) {
  expect_numbers<c10::Half>(5, 10);
  expect_numbers<c10::BFloat16>(8, 7);
  expect_numbers<float>(8, 23);
}

TEST_P(ComingFrom, ScaleThatFalls) {
  const auto device = this->device();
  // recipe: a scale that falls and grows
  halfstep::GradScaler scaler(
      halfstep::GradScalerOptions(device.type()).init_scale(1024).growth_interval(2));
  auto weight = torch::zeros({1}, device).requires_grad_();
  torch::optim::SGD optimizer({weight}, 1.0);
  for (const double gradient : {1.0, 1e36, 1.0, 1.0, 1.0}) {
    optimizer.zero_grad();
    scaler.scale((gradient * weight).sum()).backward();
    const bool stepped = scaler.step(optimizer).stepped();
    scaler.update();
    std::cout << (stepped ? "stepped" : "skipped") << ", scale " << scaler.get_scale() << "\n";
  }
  // end
  EXPECT_EQ(scaler.get_scale(), 1024);
  EXPECT_EQ(scaler.overflows().skipped_steps, 1);
  EXPECT_EQ(weight.item<double>(), -4);
}

}  // namespace
