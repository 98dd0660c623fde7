#pragma once
/// The whole library. Narrower headers compile faster: halfstep/autocast.h, halfstep/scaling.h, …

#include "halfstep/apex.h"
#include "halfstep/autocast.h"
#include "halfstep/core.h"
#include "halfstep/dist.h"
#include "halfstep/graph.h"
#include "halfstep/inspect.h"
#include "halfstep/nn.h"
#include "halfstep/optim.h"
#include "halfstep/optim_wrapper.h"
#include "halfstep/precision.h"
#include "halfstep/scaling.h"
