#pragma once
#include "halfstep/train/doctor/rates.h"
#include "halfstep/train/doctor/trial.h"

#include <optional>
#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

namespace halfstep::train {

/// What was measured in one dtype.
struct PrecisionFigures {
  c10::ScalarType dtype = c10::kFloat;
  bool rehearsed = false;  ///< float16 on the CPU: it says what a GPU would compute, not how fast
  Rates rates = {};
  std::optional<Trial> trial = {};  ///< of the config, where there is one
};

/// Which dtype to train in, and what it brings, in one sentence: by the trials where there are
/// some, else by the rate of products. `figures` begins with float32; what is rehearsed is not
/// advised. bfloat16 goes before float16 unless that is faster by more than 5 %, since it needs no
/// loss scale. `dtype_options` are what stands before a dtype's name on the command line: of
/// several optimizers one each.
std::string advice(const std::vector<PrecisionFigures>& figures,
                   const std::vector<std::string>& dtype_options = {"optim_wrapper.dtype="});

}  // namespace halfstep::train
