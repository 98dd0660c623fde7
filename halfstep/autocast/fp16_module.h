#pragma once
#include "halfstep/autocast/auto_fp16.h"

namespace halfstep {

/// Base of models whose forward is wrapped by auto_fp16 already, so that a model needs nothing of
/// its own for mixed precision but wrap_fp16_model, as with MMCV's base classes. It writes
/// `forward_impl` and is called by `forward`:
///
///   struct NetImpl : halfstep::Fp16Module<torch::Tensor(torch::Tensor)> {
///     torch::Tensor forward_impl(torch::Tensor x) override { return fc2(torch::relu(fc1(x))); }
///     …
///   };
///   TORCH_MODULE(Net);
///   halfstep::wrap_fp16_model(*net);
///   auto output = net(x);
///
/// The signature is a template argument, because Sequential and AnyModule ask for a forward that is
/// no template. See auto_fp16 for what is cast by hand and what by autocast.
template <class Signature>
class Fp16Module;

/// The one that Fp16Module<Output(Arguments…)> names.
template <class Output, class... Arguments>
class Fp16Module<Output(Arguments...)> : public torch::nn::Module, public Fp16Enabled {
 public:
  using torch::nn::Module::Module;

  /// Which arguments are cast and how outputs leave. Default: all arguments, outputs as they are.
  /// Throws UsageError as auto_fp16 does.
  void set_fp16_options(const AutoFp16Options& options) {
    wrapped_ = auto_fp16(&Fp16Module::forward_impl, options);
  }

  /// forward_impl() on cast arguments, as set_fp16_options() says.
  Output forward(Arguments... arguments) {
    return wrapped_(*this, std::forward<Arguments>(arguments)...);
  }

 protected:
  /// What the module computes; forward() calls it.
  virtual Output forward_impl(Arguments... arguments) = 0;

 private:
  using Method = Output (Fp16Module::*)(Arguments...);
  detail::Fp16Wrapper<Method> wrapped_ = auto_fp16(&Fp16Module::forward_impl);
};

}  // namespace halfstep
