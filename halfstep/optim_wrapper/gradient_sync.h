#pragma once

namespace halfstep {

/// Mark of a module that exchanges its gradients with other ranks during backward, as a
/// DistributedDataParallel does. Derive the module from it beside torch::nn::Module; the wrappers'
/// `optim_context` finds it by dynamic_cast and switches the exchange off for iterations that only
/// accumulate. What Python finds by asking for a method `no_sync`.
///
/// The forward must note `requires_sync()` for the backward that belongs to it, which runs after
/// the context has ended. Not for use by two threads at once.
class GradientSync {
 public:
  virtual ~GradientSync();

  /// Whether the backward of what is computed from now on exchanges gradients. Default: true.
  bool requires_sync() const { return requires_sync_; }
  void set_requires_sync(bool value) { requires_sync_ = value; }

 protected:
  GradientSync() = default;
  GradientSync(const GradientSync&) = default;
  GradientSync& operator=(const GradientSync&) = default;

 private:
  bool requires_sync_ = true;
};

/// While it lives, gradients are not exchanged: each rank adds to its own. Nothing for null. The
/// module must outlive it.
///
///   { const NoSync no_sync(&ddp); loss = loss_of(ddp.forward(x)); }
class [[nodiscard]] NoSync {
 public:
  /// Switches the module's exchange off; the destructor puts it back as it was.
  explicit NoSync(GradientSync* module);
  ~NoSync();
  NoSync(const NoSync&) = delete;
  NoSync& operator=(const NoSync&) = delete;

 private:
  GradientSync* module_;
  bool required_ = false;
};

}  // namespace halfstep
