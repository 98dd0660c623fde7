#include "halfstep/train/launch/dist_train.h"

#include "halfstep/core/error.h"
#include "halfstep/train/launch/variables.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

namespace halfstep::train::detail {

namespace {

constexpr const char* where = "dist-train";
constexpr int most_ranks = 4096;

// A socket bound to the port on all interfaces; -1 where it is taken.
int bind_to(uint16_t port) {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  HALFSTEP_CHECK_ENVIRONMENT(descriptor >= 0, where,
                             "a socket must open, but LibC says: ", std::strerror(errno),
                             "; raise ulimit -n");
  const int on = 1;  // as the store does: a port whose last user has ended is free
  ::setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
    return descriptor;
  ::close(descriptor);
  return -1;
}

}  // namespace

NodeShare read_node_share(const std::string& text, const dist::Variables& variables, int cores) {
  NodeShare share;
  share.ranks = read_number(where, "N", text, 1, most_ranks);
  share.nodes = read_number(where, variables, "NNODES", 1, most_ranks, 1);
  share.node_rank = read_number(where, variables, "NODE_RANK", 0, share.nodes - 1, 0);
  const auto* address = find_variable(variables, "MASTER_ADDR");
  HALFSTEP_CHECK_USAGE(share.nodes == 1 || address, where,
                       "MASTER_ADDR must be set where NNODES is above 1, but is not; set it to the "
                       "machine of NODE_RANK 0, as all machines reach it");
  if (address) share.master_addr = *address;
  share.port = static_cast<uint16_t>(
      read_number(where, variables, "PORT", 1, 65535, share.nodes == 1 ? 0 : 29500));
  if (share.ranks > 1 && !find_variable(variables, "OMP_NUM_THREADS"))
    share.threads = std::max(1, cores / share.ranks);
  return share;
}

std::vector<dist::Variables> rank_variables(const NodeShare& share) {
  std::vector<dist::Variables> all;
  for (int local_rank = 0; local_rank < share.ranks; ++local_rank) {
    dist::Variables variables{
        {"RANK", std::to_string(share.first_rank() + local_rank)},
        {"WORLD_SIZE", std::to_string(share.world_size())},
        {"LOCAL_RANK", std::to_string(local_rank)},
        {"LOCAL_WORLD_SIZE", std::to_string(share.ranks)},
        {"MASTER_ADDR", share.master_addr},
        {"MASTER_PORT", std::to_string(share.port)},
        {"TORCHELASTIC_USE_AGENT_STORE", ""}};  // of a torchrun around this one
    if (share.threads > 0) variables["OMP_NUM_THREADS"] = std::to_string(share.threads);
    all.push_back(std::move(variables));
  }
  return all;
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

bool is_port_free(uint16_t port) {
  const int descriptor = bind_to(port);
  if (descriptor < 0) return false;
  // Two sockets that both reuse addresses may be bound to one port, but not both listen.
  const bool free = ::listen(descriptor, 1) == 0;
  ::close(descriptor);
  return free;
}

uint16_t find_free_port() {
  const int descriptor = bind_to(0);
  sockaddr_in address{};
  socklen_t size = sizeof address;
  const bool found = descriptor >= 0 &&
                     ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (descriptor >= 0) ::close(descriptor);
  HALFSTEP_CHECK_ENVIRONMENT(found, where,
                             "a port must be free, but LibC says: ", std::strerror(errno),
                             "; name one in PORT");
  return ntohs(address.sin_port);
}

}  // namespace halfstep::train::detail
