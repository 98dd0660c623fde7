#pragma once
#include "halfstep/optim/schedule.h"
#include "halfstep/train/config/config.h"

namespace halfstep::train {

/// The built-in schedules of `param_scheduler`, under the names of Python's classes. Keys are
/// Python's; ranges are those of the functions of halfstep/optim/schedule.h that they call. Each
/// throws UsageError with file and line.

/// Keys: step_size, gamma (0.1).
optim::Schedule make_step_lr(Config& config);
/// Keys: milestones, gamma (0.1).
optim::Schedule make_multi_step_lr(Config& config);
/// Key: gamma.
optim::Schedule make_exponential_lr(Config& config);
/// Keys: factor (1/3), total_iters (5).
optim::Schedule make_constant_lr(Config& config);
/// Keys: start_factor (1/3), end_factor (1.0), total_iters (5).
optim::Schedule make_linear_lr(Config& config);
/// Keys: total_iters (5), power (1.0), eta_min (0.0).
optim::Schedule make_polynomial_lr(Config& config);
/// Keys: T_max, eta_min (0.0).
optim::Schedule make_cosine_annealing_lr(Config& config);
/// Keys: T_0, T_mult (1), eta_min (0.0).
optim::Schedule make_cosine_annealing_warm_restarts(Config& config);
/// MMEngine's PolyLR: PolynomialLR under its name, which needs an `end`.
optim::Schedule make_poly_lr(Config& config);
/// MMEngine's: the cosine from lr · restart_weights[i] to eta_min over periods[i], one after the
/// other; after the last the rate stays. Keys: periods, restart_weights ([1.0]), eta_min (0.0).
optim::Schedule make_cosine_restart_lr(Config& config);
/// Fails: ReduceOnPlateauLR (see Plateau) stands in param_scheduler itself, in no other schedule.
optim::Schedule make_reduce_on_plateau_lr(Config& config);
/// Keys: max_lr, total_steps, pct_start (0.3), anneal_strategy (cos), cycle_momentum (true),
/// base_momentum (0.85), max_momentum (0.95), div_factor (25), final_div_factor (1e4),
/// three_phase (false). With MMEngine's `eta_max` in the place of max_lr the momentum stays, as it
/// does there.
optim::Schedule make_one_cycle_lr(Config& config);
/// Keys: schedulers (a list of mappings like this one), milestones.
optim::Schedule make_sequential_lr(Config& config);
/// Key: schedulers (likewise).
optim::Schedule make_chained_scheduler(Config& config);

}  // namespace halfstep::train
