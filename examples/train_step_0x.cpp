// A GAN in the style of MMEditing 0.x: forwards wrapped by auto_fp16, and the calls of the loss
// scaler, and of the reducer that averages gradients over processes, written out in train_step.
// configs/dcgan.yaml is the same in the style of MMagic 1.x.
//
// usage: train_step_0x [scaler | apex | float32]
//        halfstep dist-run 2 train_step_0x scaler     (or torchrun --no-python, mpirun, srun)
#include "halfstep/apex.h"
#include "halfstep/autocast.h"
#include "halfstep/dist.h"
#include "halfstep/scaling.h"
#include "halfstep/train/data/loader.h"
#include "halfstep/train/data/mnist.h"
#include "halfstep/train/registry/registry.h"

#include <cstdio>
#include <map>
#include <string>

#include <torch/torch.h>

namespace F = torch::nn::functional;
namespace train = halfstep::train;

constexpr const char* config_text = R"(
runner: {fp16_loss_scaler: {init_scale: 512}}
model:
  generator: {type: DcganGenerator}
  discriminator: {type: DcganDiscriminator}
)";

/// @auto_fp16() on the forward.
struct DemoModuleImpl : halfstep::Fp16Module<torch::Tensor(torch::Tensor)> {
  explicit DemoModuleImpl(train::Config cfg)
      : net(register_module("net", train::models().build(cfg))) {}
  torch::Tensor forward_impl(torch::Tensor x) override { return net->forward(x); }

  std::shared_ptr<train::BaseModel> net;
};
TORCH_MODULE(DemoModule);

torch::Tensor get_loss(const torch::Tensor& pred, double answer) {
  const auto wide = pred.to(torch::kFloat);
  return F::binary_cross_entropy_with_logits(wide, torch::full_like(wide, answer));
}

struct DemoModel : torch::nn::Module {
  explicit DemoModel(train::Config cfg)
      : generator(register_module("generator", DemoModule(cfg.child("generator")))),
        discriminator(register_module("discriminator", DemoModule(cfg.child("discriminator")))) {}

  using Optimizers = std::map<std::string, torch::optim::Optimizer*>;

  std::map<std::string, double> train_step(const train::Batch& data_batch, Optimizers optimizer,
                                           halfstep::dist::GradientReducer* ddp_reducer = nullptr,
                                           halfstep::GradScaler* loss_scaler = nullptr,
                                           halfstep::apex::Amp* apex_amp = nullptr) {
    const auto real = data_batch.data * 2 - 1;
    const auto noise = torch::randn({real.size(0), 64}, real.device());
    const auto run = [&](DemoModule& module, const torch::Tensor& x) {
      return apex_amp ? apex_amp->forward(module, x) : module->forward(x);
    };

    const auto fake = run(generator, noise).to(torch::kFloat);
    optimizer["discriminator"]->zero_grad();
    const auto loss_disc =
        get_loss(run(discriminator, fake.detach()), 0) + get_loss(run(discriminator, real), 1);
    update(loss_disc, *optimizer["discriminator"], ddp_reducer, loss_scaler, apex_amp);

    optimizer["generator"]->zero_grad();
    const auto loss_gen = get_loss(run(discriminator, fake), 1);
    update(loss_gen, *optimizer["generator"], ddp_reducer, loss_scaler, apex_amp);
    return {{"loss_disc", loss_disc.item<double>()},
            {"loss_gen", loss_gen.item<double>()},
            {"made", fake.mean().item<double>()},
            {"real", real.mean().item<double>()}};
  }

  static void update(const torch::Tensor& loss, torch::optim::Optimizer& optimizer,
                     halfstep::dist::GradientReducer* ddp_reducer,
                     halfstep::GradScaler* loss_scaler, halfstep::apex::Amp* apex_amp) {
    if (ddp_reducer) ddp_reducer->prepare_for_backward({loss});

    if (loss_scaler) {
      loss_scaler->scale(loss).backward();
    } else if (apex_amp) {
      auto scaled_loss = apex_amp->scale_loss(loss, optimizer);
      scaled_loss->backward();
    } else {
      loss.backward();
    }

    if (loss_scaler) {
      loss_scaler->unscale_(optimizer);
      loss_scaler->step(optimizer);
    } else if (apex_amp) {
      apex_amp->step(optimizer);
    } else {
      optimizer.step();
    }
  }

  DemoModule generator, discriminator;
};

void train_in(halfstep::dist::ProcessGroup& group, const std::string& style) {
  torch::manual_seed(0);
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  // A CPU computes float16 as a GPU would round it.
  const halfstep::HalfRehearsal rehearsal(device.is_cpu());
  auto config = train::Config::parse(config_text);
  DemoModel model(config.child("model"));
  model.to(device);
  torch::optim::Adam generator(model.generator->parameters(),
                               torch::optim::AdamOptions(2e-4).betas({0.5, 0.999}));
  torch::optim::Adam discriminator(model.discriminator->parameters(),
                                   torch::optim::AdamOptions(2e-4).betas({0.5, 0.999}));

  // What the runner of 0.x does with fp16_loss_scaler: it makes the scaler, and calls update().
  auto scaler_cfg = config.child("runner").child("fp16_loss_scaler");
  halfstep::GradScaler scaler(halfstep::GradScalerOptions(device.type())
                                  .init_scale(scaler_cfg.get<double>("init_scale"))
                                  .process_group(group.handle()));
  config.finish();
  std::optional<halfstep::apex::Amp> amp;
  if (style == "apex")
    amp.emplace(halfstep::apex::initialize(
        {*model.generator, *model.discriminator}, {generator, discriminator},
        halfstep::apex::AmpOptions(halfstep::apex::OptLevel::O1).loss_scale(512)));
  if (style == "scaler") halfstep::wrap_fp16_model(model);

  // One for both networks: what a loss does not depend on counts as done.
  std::optional<halfstep::dist::GradientReducer> ddp_reducer;
  if (group.world_size() > 1) {
    halfstep::dist::DistributedDataParallelOptions options;
    ddp_reducer.emplace(model.named_parameters(), group, options.find_unused_parameters(true));
    torch::manual_seed(static_cast<uint64_t>(group.rank()));
  }

  const auto images = std::make_shared<train::Mnist>(train::MnistOptions());
  train::Loader loader(images, {.batch_size = 32 / group.world_size(),
                                .shuffle = true,
                                .rank = group.rank(),
                                .ranks = group.world_size()});
  for (int64_t i = 0; i < 150; ++i) {
    auto [data, target] = loader.batch(i);
    const auto log = model.train_step(
        {data.to(device), target}, {{"generator", &generator}, {"discriminator", &discriminator}},
        ddp_reducer ? &*ddp_reducer : nullptr, style == "scaler" ? &scaler : nullptr,
        amp ? &*amp : nullptr);
    if (style == "scaler") scaler.update();
    if (i % 50 == 49 && group.is_first())
      std::printf("%ld: loss_disc %.3f, loss_gen %.3f, mean of the images made %.2f, real %.2f\n",
                  i + 1, log.at("loss_disc"), log.at("loss_gen"), log.at("made"), log.at("real"));
  }
  halfstep::dist::check_same_values(group, model.named_parameters(), "the weights");
  if (group.is_first())
    std::printf("%d ranks with the same weights, scale %g, skipped %ld\n", group.world_size(),
                scaler.get_scale(), scaler.overflows().skipped_steps);
}

int main(int argc, char** argv) {
  halfstep::dist::ProcessGroup group(halfstep::dist::launch_environment());
  group.run([&] { train_in(group, argc > 1 ? argv[1] : "scaler"); });
}
