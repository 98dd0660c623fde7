#pragma once
/// Autocast regions and their op policies, and propagate for threads of your own.

#include "halfstep/autocast/amp_identity.h"
#include "halfstep/autocast/auto_fp16.h"
#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/cast_rule.h"
#include "halfstep/autocast/custom_function.h"
#include "halfstep/autocast/fp16_module.h"
#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/autocast/module_scope.h"
#include "halfstep/autocast/op_policy.h"
#include "halfstep/autocast/propagate.h"
#include "halfstep/autocast/register_autocast.h"
#include "halfstep/autocast/shadow_weights.h"
