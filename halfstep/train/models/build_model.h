#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/models/base_model.h"

#include <memory>

namespace halfstep::train {

/// Builds what a config's `model` names, on the CPU, with its data_preprocessor (`model`'s own, or
/// that of the config, as in MMEngine) and, where it is a Model, the config's `loss`.
///
///   auto config = Config::load("work_dirs/dcgan/config.yaml");
///   const auto model = build_model(config);
///   load_module(Checkpoint::load(file), *model);
///
/// Throws UsageError with file and line as the parts do, also for what LibTorch refuses to build
/// and for data to validate or test a Dcgan on.
std::shared_ptr<BaseModel> build_model(Config& config);

}  // namespace halfstep::train
