#include "halfstep/train/hooks/runtime_info_hook.h"

#include "halfstep/train/loop/trainer.h"

namespace halfstep::train {

void RuntimeInfoHook::after_train_iter(Trainer& trainer, const Batch&) {
  for (const auto& item : trainer.log_vars())
    trainer.message_hub().update_scalar("train/" + item.key(), item.value());
}

void RuntimeInfoHook::after_val_epoch(Trainer& trainer, const Metrics& metrics) {
  for (const auto& [name, value] : metrics)
    trainer.message_hub().update_scalar("val/" + name, value);
}

}  // namespace halfstep::train
