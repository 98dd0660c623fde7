#include "halfstep/train/models/dcgan.h"

#include "halfstep/train/registry/registry.h"

#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/full_like.h>

namespace halfstep::train {

namespace {

// In float32 also where autocast gave 16-bit scores and does not list the op.
torch::Tensor cross_entropy(const torch::Tensor& scores, double answer) {
  const auto wide = scores.to(torch::kFloat);
  return at::binary_cross_entropy_with_logits(wide, at::full_like(wide, answer));
}

}  // namespace

Losses Dcgan::disc_loss(const torch::Tensor& pred_fake, const torch::Tensor& pred_real) {
  return {{"loss_disc_fake", cross_entropy(pred_fake, 0)},
          {"loss_disc_real", cross_entropy(pred_real, 1)}};
}

Losses Dcgan::gen_loss(const torch::Tensor& pred_fake) {
  return {{"loss_gen", cross_entropy(pred_fake, 1)}};
}

std::shared_ptr<BaseModel> make_dcgan(Config& config) {
  GanOptions options;
  auto generator = config.child("generator");
  if (generator.has("noise_size"))
    options.noise_size = generator.get_count("noise_size", options.noise_size);
  const auto of_the_generator = options.noise_size;
  options.noise_size = config.get_count("noise_size", options.noise_size);
  if (!generator.has("noise_size")) {
    generator.set("noise_size", std::to_string(options.noise_size), config.where("noise_size"));
  } else if (options.noise_size != of_the_generator) {
    config.fail("noise_size", "must be the generator's, " + std::to_string(of_the_generator));
  }
  options.generator_steps = config.get_count("generator_steps", options.generator_steps);
  options.discriminator_steps =
      config.get_count("discriminator_steps", options.discriminator_steps);
  auto discriminator = config.child("discriminator");
  return std::make_shared<Dcgan>(models().build(generator), models().build(discriminator), options);
}

}  // namespace halfstep::train
