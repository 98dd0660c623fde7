#pragma once

namespace halfstep::detail {

/// The object of a module, whether given as itself, a pointer or a module holder.
template <class Module>
decltype(auto) module_object(Module& module) {
  if constexpr (requires { *module; })
    return *module;
  else
    return (module);
}

}  // namespace halfstep::detail
