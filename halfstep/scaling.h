#pragma once
/// Loss scaling: GradScaler and what belongs to it.

#include "halfstep/scaling/dialects.h"
#include "halfstep/scaling/grad_scaler.h"
#include "halfstep/scaling/grad_scaler_options.h"
#include "halfstep/scaling/grad_scaler_state.h"
#include "halfstep/scaling/overflow_diagnosis.h"
#include "halfstep/scaling/overflow_report.h"
#include "halfstep/scaling/scale_rule.h"
#include "halfstep/scaling/step_result.h"
#include "halfstep/scaling/takes_grad_scale.h"
