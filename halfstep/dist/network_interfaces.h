#pragma once
#include <optional>
#include <string>
#include <vector>

namespace halfstep::dist {

/// A network address of this machine.
struct NetworkInterface {
  std::string name;     ///< "eth0"
  std::string address;  ///< "10.0.0.5", "fd00::5"
  bool loopback = false;

  friend bool operator==(const NetworkInterface&, const NetworkInterface&) = default;
};

/// The addresses of the interfaces that are up, loopback last; link-local IPv6 ones, which only
/// mean something with an interface, are left out. Throws EnvironmentError where the system does
/// not tell.
std::vector<NetworkInterface> list_network_interfaces();

/// "eth0 (10.0.0.5), lo (127.0.0.1)"; "none" for none.
std::string describe(const std::vector<NetworkInterface>& interfaces);

/// Those that NCCL_SOCKET_IFNAME fits, by NCCL's rules: names, or beginnings of names, parted by
/// commas; after "=" whole names only; after "^" all others; loopback only where it is named.
std::vector<NetworkInterface> fitting_nccl(const std::string& names,
                                           const std::vector<NetworkInterface>& interfaces);

/// The address of this machine from which packets to `host` (a name or an address) leave; the same
/// address again for one of this machine's own. Sends nothing. Nothing where the name is unknown
/// or no route leads there; `why` then says it.
std::optional<std::string> local_address_towards(const std::string& host, std::string& why);

/// Whether an address, as text, is one that only this machine reaches: 127.0.0.0/8 or ::1.
bool is_loopback_address(const std::string& address);

}  // namespace halfstep::dist
