#pragma once
/// A training step recorded once and replayed.

#include "halfstep/graph/graph.h"
#include "halfstep/graph/graph_config.h"
#include "halfstep/graph/plan/op_graph.h"
#include "halfstep/graph/plan/precision_plan.h"
