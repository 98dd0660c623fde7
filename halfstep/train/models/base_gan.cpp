#include "halfstep/train/models/base_gan.h"

#include "halfstep/core/error.h"

#include <utility>
#include <vector>

#include <torch/types.h>

namespace halfstep::train {

namespace {

/// Parameters that take no gradients while it lives.
class Frozen {
 public:
  explicit Frozen(const torch::nn::Module& module) {
    for (auto& parameter : module.parameters()) {
      if (!parameter.requires_grad()) continue;
      parameters_.push_back(parameter);
      parameter.requires_grad_(false);
    }
  }
  ~Frozen() {
    for (auto& parameter : parameters_) parameter.requires_grad_(true);
  }
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

 private:
  std::vector<torch::Tensor> parameters_;
};

// The mean of each number over iterations, but for the sum of the losses.
LogVars averaged(const std::vector<LogVars>& iterations) {
  LogVars result;
  for (const auto& item : iterations.front()) {
    if (item.key() == "loss") continue;
    auto sum = item.value();
    for (size_t i = 1; i < iterations.size(); ++i) sum = sum + iterations[i][item.key()];
    result.insert(item.key(), sum / static_cast<double>(iterations.size()));
  }
  return result;
}

void check_at_least_one(int64_t value, const char* name) {
  HALFSTEP_CHECK_USAGE(value >= 1, "BaseGan", name, " must be at least 1, but got ", value,
                       "; change that option");
}

}  // namespace

BaseGan::BaseGan(std::shared_ptr<BaseModel> generator, std::shared_ptr<BaseModel> discriminator,
                 const GanOptions& options)
    : options_(options) {
  check_at_least_one(options_.noise_size, "noise_size");
  check_at_least_one(options_.generator_steps, "generator_steps");
  check_at_least_one(options_.discriminator_steps, "discriminator_steps");
  HALFSTEP_CHECK_USAGE(generator && discriminator, "BaseGan",
                       "generator and discriminator must be modules, but one is null; make both "
                       "first");
  generator_ = register_module("generator", std::move(generator));
  discriminator_ = register_module("discriminator", std::move(discriminator));
}

torch::Tensor BaseGan::make_noise(int64_t n) const {
  return torch::randn({n, options_.noise_size}, torch::device(data_preprocessor->device()));
}

torch::Tensor BaseGan::predict(const torch::Tensor& noise) {
  return data_preprocessor->denormalize(forward(noise));
}

torch::Tensor BaseGan::val_step(const Batch& data) {
  return predict(data.data.to(data_preprocessor->device()));
}

Losses BaseGan::loss(const Batch&) {
  halfstep::detail::raise<UsageError>(
      "BaseGan::loss",
      "a GAN must be trained by train_step and is measured by its images, but a single loss was "
      "asked for; call disc_loss or gen_loss, and leave test_dataloader out of a config");
}

LogVars BaseGan::train_step(const Batch& data, OptimWrapperBase& optim_wrapper) {
  const auto batch = data_preprocessor(data, /*training=*/true);
  auto& disc_wrapper = optim_wrapper["discriminator"];
  auto log_vars = train_discriminator(batch, disc_wrapper);
  const auto turn = options_.discriminator_steps * disc_wrapper.accumulative_counts();
  if (disc_wrapper.inner_count() % turn != 0) return log_vars;

  auto& gen_wrapper = optim_wrapper["generator"];
  const Frozen frozen(*discriminator_);
  std::vector<LogVars> iterations;
  for (int64_t i = 0; i < options_.generator_steps * gen_wrapper.accumulative_counts(); ++i)
    iterations.push_back(train_generator(batch, gen_wrapper));
  log_vars.update(averaged(iterations));
  return log_vars;
}

LogVars BaseGan::train_discriminator(const Batch& batch, OptimWrapper& optim_wrapper) {
  Losses losses;
  {
    const auto context = optim_wrapper.optim_context(*discriminator_);
    torch::Tensor fake;
    {
      const torch::NoGradGuard no_grad;
      fake = generator_->forward(make_noise(batch.data.size(0)));
    }
    const auto pred_fake = discriminator_->forward(fake);
    losses = disc_loss(pred_fake, discriminator_->forward(batch.data));
  }
  auto [total, log_vars] = parse_losses(losses);
  optim_wrapper.update_params(total);
  return std::move(log_vars);
}

LogVars BaseGan::train_generator(const Batch& batch, OptimWrapper& optim_wrapper) {
  Losses losses;
  {
    const auto context = optim_wrapper.optim_context(*generator_);
    const auto fake = generator_->forward(make_noise(batch.data.size(0)));
    losses = gen_loss(discriminator_->forward(fake));
  }
  auto [total, log_vars] = parse_losses(losses);
  optim_wrapper.update_params(total);
  return std::move(log_vars);
}

}  // namespace halfstep::train
