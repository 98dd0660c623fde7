#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/models/base_gan.h"

#include <memory>

namespace halfstep::train {

/// DCGAN: a GAN with the plain loss, the binary cross-entropy of the discriminator's scores with
/// "real" or "made". Logs loss_disc_fake, loss_disc_real and loss_gen.
class Dcgan : public BaseGan {
 public:
  using BaseGan::BaseGan;

  Losses disc_loss(const torch::Tensor& pred_fake, const torch::Tensor& pred_real) override;
  Losses gen_loss(const torch::Tensor& pred_fake) override;
};

/// Keys: generator and discriminator, mappings with a `type` of the models; noise_size (the
/// generator's, which takes it where it has none of its own), generator_steps (1),
/// discriminator_steps (1).
std::shared_ptr<BaseModel> make_dcgan(Config& config);

}  // namespace halfstep::train
