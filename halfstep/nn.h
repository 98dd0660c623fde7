#pragma once
#include "halfstep/nn/linear.h"
