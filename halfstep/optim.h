#pragma once
/// Fused optimizers (halfstep::optim::Adam and its like in place of torch::optim's) and
/// learning-rate schedules.

#include "halfstep/optim/adagrad.h"
#include "halfstep/optim/adam.h"
#include "halfstep/optim/clip_grad.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/optim/gradient_dtype.h"
#include "halfstep/optim/lr_scheduler.h"
#include "halfstep/optim/momentum.h"
#include "halfstep/optim/one_cycle.h"
#include "halfstep/optim/schedule.h"
#include "halfstep/optim/sgd.h"
#include "halfstep/optim/weight_dtype.h"
