#pragma once
/// Training on several processes and machines: ProcessGroup, DistributedDataParallel.

#include "halfstep/dist/ddp_options.h"
#include "halfstep/dist/distributed_data_parallel.h"
#include "halfstep/dist/gradient_reducer.h"
#include "halfstep/dist/launch_environment.h"
#include "halfstep/dist/network_interfaces.h"
#include "halfstep/dist/process_group.h"
#include "halfstep/dist/same_model.h"
