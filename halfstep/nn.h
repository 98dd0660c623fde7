#pragma once
/// Modules and functions that run well under autocast.

#include "halfstep/nn/attention.h"
#include "halfstep/nn/linear.h"
