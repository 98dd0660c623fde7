#pragma once
/// The trainer: config, registries, loop, hooks, and the whole command as a function.

#include "halfstep/train/config/config.h"
#include "halfstep/train/hooks/hook.h"
#include "halfstep/train/loop/trainer.h"
#include "halfstep/train/main.h"
#include "halfstep/train/metrics/metric.h"
#include "halfstep/train/optim/constructors.h"
#include "halfstep/train/registry/registry.h"
