#pragma once
/// What ran in which dtype, and where numbers stopped being finite.

#include "halfstep/inspect/dtype_counter.h"
#include "halfstep/inspect/dtype_report.h"
#include "halfstep/inspect/gradient_exponents.h"
#include "halfstep/inspect/overflow_finding.h"
#include "halfstep/inspect/overflow_tracer.h"
#include "halfstep/inspect/precision_recorder.h"
#include "halfstep/inspect/precision_report.h"
