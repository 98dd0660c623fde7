#pragma once
/// Optimizers with what belongs around their step, in MMEngine's words: accumulation, clipping,
/// mixed precision, several optimizers.

#include "halfstep/optim_wrapper/amp_optim_wrapper.h"
#include "halfstep/optim_wrapper/clip_grad.h"
#include "halfstep/optim_wrapper/gradient_sync.h"
#include "halfstep/optim_wrapper/optim_context.h"
#include "halfstep/optim_wrapper/optim_wrapper.h"
#include "halfstep/optim_wrapper/optim_wrapper_base.h"
#include "halfstep/optim_wrapper/optim_wrapper_dict.h"
#include "halfstep/optim_wrapper/optim_wrapper_options.h"
