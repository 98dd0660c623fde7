#pragma once
#include "halfstep/train/data/loader.h"
#include "halfstep/train/loop/amp_settings.h"
#include "halfstep/train/registry/registry.h"

#include <functional>
#include <optional>

namespace halfstep::train {

struct Evaluation {
  double loss = 0;  ///< mean over the examples
  std::optional<double>
      accuracy;  ///< share of examples whose largest output is the target; classification only
};

/// Runs the model in evaluation mode, without gradients, over a whole loader, in autocast where
/// `amp` says so. Gives each submodule its own mode back, also where something throws. `stop` is
/// asked before each batch; nothing is returned where it said so. Syncs once at the end.
std::optional<Evaluation> evaluate(Model& model, const Loss& loss, Loader& loader,
                                   c10::Device device, const AmpSettings& amp,
                                   const std::function<bool()>& stop = {});

}  // namespace halfstep::train
