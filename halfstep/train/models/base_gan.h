#pragma once
#include "halfstep/optim_wrapper/optim_wrapper.h"
#include "halfstep/train/models/base_model.h"

#include <memory>

namespace halfstep::train {

/// How a GAN is trained.
struct GanOptions {
  int64_t noise_size = 64;          ///< numbers in a sample of the generator's input
  int64_t generator_steps = 1;      ///< updates of the generator in a row
  int64_t discriminator_steps = 1;  ///< updates of the discriminator before those
};

/// A generator and a discriminator that are trained against each other, in MMagic's words. A class
/// derived from it says what their losses are.
///
/// One train_step takes a batch of real images and an OptimWrapperDict with "generator" and
/// "discriminator": it makes one iteration of the discriminator, and, where that completed
/// discriminator_steps updates, generator_steps updates of the generator. With
/// accumulative_counts an update is that many iterations, each with noise of its own.
///
/// Differences from MMagic: backward and update come after the autocast region, not within; which
/// iteration it is follows from the discriminator's wrapper, so a model knows no global counter.
class BaseGan : public BaseModel {
 public:
  /// The parts become the submodules "generator" (noise (n, noise_size) → images as
  /// data_preprocessor gives them) and "discriminator" (images → scores). Throws UsageError for an
  /// option below 1 and for null.
  BaseGan(std::shared_ptr<BaseModel> generator, std::shared_ptr<BaseModel> discriminator,
          const GanOptions& options = {});

  /// The parts, and how they are trained.
  BaseModel& generator() { return *generator_; }
  BaseModel& discriminator() { return *discriminator_; }
  const GanOptions& options() const { return options_; }

  /// Noise (n, noise_size) → images as the generator makes them.
  torch::Tensor forward(const torch::Tensor& noise) override { return generator_->forward(noise); }
  /// Noise (n, noise_size) → images as the data set has them: data_preprocessor's denormalize.
  torch::Tensor predict(const torch::Tensor& noise) override;
  /// The predictions for a batch of noise.
  torch::Tensor val_step(const Batch& data) override;

  LogVars train_step(const Batch& data, OptimWrapperBase& optim_wrapper) override;

  /// Throws UsageError: which of the two?
  Losses loss(const Batch& batch) override;
  /// What the discriminator is trained with: its scores of made and of real images.
  virtual Losses disc_loss(const torch::Tensor& pred_fake, const torch::Tensor& pred_real) = 0;
  /// What the generator is trained with: the discriminator's scores of what it made.
  virtual Losses gen_loss(const torch::Tensor& pred_fake) = 0;

  /// n samples of standard normal noise on the model's device, from LibTorch's default generator.
  torch::Tensor make_noise(int64_t n) const;

 protected:
  /// One iteration of either, batch as data_preprocessor gives it. The discriminator's takes no
  /// gradients during the generator's.
  virtual LogVars train_discriminator(const Batch& batch, OptimWrapper& optim_wrapper);
  virtual LogVars train_generator(const Batch& batch, OptimWrapper& optim_wrapper);

 private:
  GanOptions options_;
  std::shared_ptr<BaseModel> generator_, discriminator_;
};

}  // namespace halfstep::train
