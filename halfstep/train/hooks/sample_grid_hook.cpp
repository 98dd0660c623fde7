#include "halfstep/train/hooks/sample_grid_hook.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/png_file.h"
#include "halfstep/train/loop/trainer.h"
#include "halfstep/train/models/base_gan.h"
#include "halfstep/train/models/evaluation_mode.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>

#include <fmt/format.h>

namespace halfstep::train {

SampleGridHook::SampleGridHook(Config& config)
    : interval_(config.get_count("interval", 1)),
      count_(config.get_count("count", 64)),
      columns_(config.get_count("columns", 8)),
      seed_(config.get<int64_t>("seed", 0)) {
  if (seed_ < 0) config.fail("seed", "must be at least 0");
}

void SampleGridHook::before_run(Trainer& trainer) {
  const auto* gan = dynamic_cast<const BaseGan*>(trainer.parts().model.get());
  HALFSTEP_CHECK_USAGE(gan != nullptr, "SampleGridHook",
                       "the model must be a GAN, which makes images of noise, but is none; leave "
                       "the hook out of custom_hooks");
  noise_ = at::randn({count_, gan->options().noise_size},
                     at::detail::createCPUGenerator(static_cast<uint64_t>(seed_)), at::kFloat)
               .to(trainer.device());
}

void SampleGridHook::after_train_epoch(Trainer& trainer) {
  const auto epoch = trainer.progress().epoch;
  if (epoch % interval_ != 0 || !trainer.is_first()) return;
  auto& gan = static_cast<BaseGan&>(*trainer.parts().model);
  const EvaluationMode mode(gan);
  const at::NoGradGuard no_grad;
  const auto context = trainer.parts().optim_wrapper()["generator"].optim_context(gan.generator());
  const auto folder = trainer.work_dir().root() / "samples";
  std::filesystem::create_directories(folder);
  write_png_grid(folder / fmt::format("epoch_{}.png", epoch), gan.predict(noise_), columns_);
}

}  // namespace halfstep::train
