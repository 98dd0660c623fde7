#pragma once
/// Mixed precision in the words of NVIDIA Apex's amp.

#include "halfstep/apex/amp.h"
#include "halfstep/apex/options.h"
#include "halfstep/apex/scaled_loss.h"
