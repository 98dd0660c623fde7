#include "halfstep/dist/gloo_backend.h"

#include "halfstep/core/error.h"
#include "halfstep/dist/network_interfaces.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

// What the wheel was built with; without it the header is empty.
#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

namespace halfstep::detail {

namespace {

constexpr const char* kGlooBackendWhere = "ProcessGroup";

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

void check_interface(const std::string& name,
                     const std::vector<dist::NetworkInterface>& interfaces) {
  const bool known = std::any_of(interfaces.begin(), interfaces.end(),
                                 [&](const auto& each) { return each.name == name; });
  HALFSTEP_CHECK_ENVIRONMENT(known, kGlooBackendWhere,
                             "GLOO_SOCKET_IFNAME must name network interfaces of this machine "
                             "that are up, but got '",
                             name, "'; it has ", dist::describe(interfaces));
}

/// The address that the other ranks reach this one by.
std::string own_address(const dist::LaunchEnvironment& launch) {
  std::string why;
  const auto address = dist::local_address_towards(launch.master_addr, why);
  const auto candidates = [] { return dist::describe(dist::list_network_interfaces()); };
  HALFSTEP_CHECK_ENVIRONMENT(
      address.has_value(), kGlooBackendWhere, "MASTER_ADDR must be reached from here, ",
      "but no interface leads to '", launch.master_addr, "' (", why,
      "); correct it, or name one in GLOO_SOCKET_IFNAME: this machine has ", candidates());
  // Debian's name for a machine is 127.0.1.1 on the machine itself, and its address on others. Who
  // says 127.0.0.1 outright has one machine, or hears that there is no rank 0 there.
  const bool outright =
      launch.master_addr == "localhost" || dist::is_loopback_address(launch.master_addr);
  HALFSTEP_CHECK_ENVIRONMENT(
      outright || launch.local_world_size == launch.world_size ||
          !dist::is_loopback_address(*address),
      kGlooBackendWhere, "ranks on several machines must reach each other, but MASTER_ADDR '",
      launch.master_addr, "' leads to ", *address,
      ", which only this machine reaches; give the address of rank 0's machine, or name an "
      "interface in GLOO_SOCKET_IFNAME (this machine has ",
      candidates(), "), or, if there is one machine, set LOCAL_WORLD_SIZE");
  return *address;
}

std::vector<std::string> named_interfaces() {
  const char* names = std::getenv("GLOO_SOCKET_IFNAME");
  return split(names == nullptr ? "" : names);
}

}  // namespace

void check_interfaces(const dist::LaunchEnvironment& launch) {
  const auto names = named_interfaces();
  for (const auto& name : names) check_interface(name, dist::list_network_interfaces());
  if (names.empty()) own_address(launch);
}

c10::intrusive_ptr<c10d::Backend> make_gloo_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                                    const dist::LaunchEnvironment& launch,
                                                    std::chrono::milliseconds join_timeout,
                                                    std::chrono::milliseconds timeout) {
  using Gloo = c10d::ProcessGroupGloo;
  auto options = Gloo::Options::create(join_timeout);
  const auto interfaces = named_interfaces();
  try {
    check_interfaces(launch);
    for (const auto& name : interfaces)
      options->devices.push_back(Gloo::createDeviceForInterface(name));
    if (interfaces.empty())
      options->devices.push_back(Gloo::createDeviceForHostname(own_address(launch)));
    // As in Python: two threads for each interface, so that exchanges overlap.
    options->threads = static_cast<int>(2 * options->devices.size());
    c10::intrusive_ptr<c10d::Backend> backend =
        c10::make_intrusive<Gloo>(store, launch.rank, launch.world_size, options);
    backend->setTimeout(timeout);
    return backend;
  } catch (const Error&) {
    throw;
  } catch (const c10::Error& error) {
    raise<EnvironmentError>(kGlooBackendWhere, "rank ", launch.rank, " of ", launch.world_size,
                            " must be connected with the others by Gloo, but that fails (",
                            error.what_without_backtrace(),
                            "); look for a rank that did not start, or for a firewall");
  } catch (const std::exception& error) {
    raise<EnvironmentError>(kGlooBackendWhere, "rank ", launch.rank, " of ", launch.world_size,
                            " must be connected with the others by Gloo, but that fails (",
                            error.what(),
                            "); look for a rank that did not start, or for a firewall");
  }
}

bool is_gloo_error(const std::exception& error) {
  return dynamic_cast<const ::gloo::Exception*>(&error) != nullptr;
}

}  // namespace halfstep::detail
