#pragma once
#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/propagate.h"
#include "halfstep/autocast/shadow_weights.h"
