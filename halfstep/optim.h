#pragma once
#include "halfstep/optim/lr_scheduler.h"
#include "halfstep/optim/momentum.h"
#include "halfstep/optim/one_cycle.h"
#include "halfstep/optim/schedule.h"
