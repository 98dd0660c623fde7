#pragma once
#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/optim_wrapper/gradient_sync.h"

#include <optional>

namespace halfstep {

/// The region of one forward, made by a wrapper's `optim_context`: no exchange of gradients with
/// other ranks where the iteration only accumulates, and, with an AmpOptimWrapper, autocast.
///
///   torch::Tensor loss;
///   {
///     const auto context = wrapper.optim_context(*net);
///     loss = F::cross_entropy(net->forward(batch.data), batch.target);
///   }
///   wrapper.update_params(loss);
///
/// Lives on the thread that made it and ends before what was made before it (see Autocast); the
/// backward runs after it. The model must outlive it. Never syncs with the device.
class [[nodiscard]] OptimContext {
 public:
  /// `unsynced` may be null: nothing to switch off. No `autocast`: the region leaves precision as
  /// it is around it. `rehearses`: float16 on the CPU by HalfRehearsal.
  OptimContext(GradientSync* unsynced, const std::optional<AutocastOptions>& autocast,
               bool rehearses);
  ~OptimContext();
  OptimContext(const OptimContext&) = delete;
  OptimContext& operator=(const OptimContext&) = delete;

 private:
  NoSync no_sync_;
  std::optional<HalfRehearsal> rehearsal_;
  std::optional<Autocast> autocast_;
};

}  // namespace halfstep
