#include "halfstep/dist/network_interfaces.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <sstream>

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace halfstep::dist {

namespace {

// Nothing for what is neither IPv4 nor IPv6.
std::optional<std::string> text_of(const sockaddr* address) {
  if (address == nullptr) return std::nullopt;
  char text[INET6_ADDRSTRLEN] = "";
  const void* bytes = nullptr;
  if (address->sa_family == AF_INET)
    bytes = &reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
  else if (address->sa_family == AF_INET6)
    bytes = &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  if (bytes == nullptr || ::inet_ntop(address->sa_family, bytes, text, sizeof(text)) == nullptr)
    return std::nullopt;
  return text;
}

bool is_link_local(const sockaddr* address) {
  return address->sa_family == AF_INET6 &&
         IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

}  // namespace

std::vector<NetworkInterface> list_network_interfaces() {
  ifaddrs* head = nullptr;
  HALFSTEP_CHECK_ENVIRONMENT(::getifaddrs(&head) == 0, "network interfaces",
                             "the system must list its network interfaces, but says: ",
                             std::strerror(errno), "; check the machine's network");
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> list(head, &::freeifaddrs);
  std::vector<NetworkInterface> result;
  for (const auto* each = list.get(); each != nullptr; each = each->ifa_next) {
    const auto address = text_of(each->ifa_addr);
    if (!address || (each->ifa_flags & IFF_UP) == 0 || is_link_local(each->ifa_addr)) continue;
    result.push_back({each->ifa_name, *address, (each->ifa_flags & IFF_LOOPBACK) != 0});
  }
  std::stable_partition(result.begin(), result.end(),
                        [](const NetworkInterface& each) { return !each.loopback; });
  return result;
}

std::string describe(const std::vector<NetworkInterface>& interfaces) {
  std::string text;
  for (const auto& each : interfaces)
    text += (text.empty() ? "" : ", ") + each.name + " (" + each.address + ")";
  return text.empty() ? "none" : text;
}

std::vector<NetworkInterface> fitting_nccl(const std::string& names,
                                           const std::vector<NetworkInterface>& interfaces) {
  const bool excludes = names.starts_with("^");
  const bool whole = names.substr(excludes ? 1 : 0).starts_with("=");
  std::istringstream words(names.substr((excludes ? 1 : 0) + (whole ? 1 : 0)));
  std::vector<std::string> wanted;
  for (std::string word; std::getline(words, word, ',');)
    if (!word.empty()) wanted.push_back(word);
  std::vector<NetworkInterface> result;
  for (const auto& each : interfaces) {
    const bool named = std::any_of(wanted.begin(), wanted.end(), [&](const std::string& word) {
      return whole ? each.name == word : each.name.starts_with(word);
    });
    if (excludes ? !named && !each.loopback : named) result.push_back(each);
  }
  return result;
}

std::optional<std::string> local_address_towards(const std::string& host, std::string& why) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(host.c_str(), "9", &hints, &found);
  if (failed != 0) {
    why = ::gai_strerror(failed);
    return std::nullopt;
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> list(found, &::freeaddrinfo);
  for (const auto* each = list.get(); each != nullptr; each = each->ai_next) {
    const int descriptor = ::socket(each->ai_family, each->ai_socktype, each->ai_protocol);
    if (descriptor < 0) {
      why = std::strerror(errno);
      continue;
    }
    // For datagrams this only chooses the route.
    sockaddr_storage own{};
    socklen_t size = sizeof(own);
    const bool chosen = ::connect(descriptor, each->ai_addr, each->ai_addrlen) == 0 &&
                        ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&own), &size) == 0;
    if (!chosen) why = std::strerror(errno);
    ::close(descriptor);
    if (chosen) return text_of(reinterpret_cast<const sockaddr*>(&own));
  }
  return std::nullopt;
}

bool is_loopback_address(const std::string& address) {
  return address.starts_with("127.") || address == "::1";
}

}  // namespace halfstep::dist
