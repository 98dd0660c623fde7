#pragma once
#include "halfstep/train/launch/supervisor.h"

#include <cstdint>
#include <string>
#include <vector>

namespace halfstep::train::detail {

/// One node's share of a job: what dist_train.sh reads from its words and from NNODES, NODE_RANK,
/// PORT and MASTER_ADDR.
struct NodeShare {
  int ranks = 1;  ///< on this node
  int nodes = 1;
  int node_rank = 0;
  std::string master_addr = "127.0.0.1";
  uint16_t port = 0;  ///< 0: any free one
  int threads = 0;    ///< OMP_NUM_THREADS of each rank; 0: left as it is

  int first_rank() const { return node_rank * ranks; }
  int world_size() const { return nodes * ranks; }
};

/// Reads the share from the number of ranks in `text` (as typed) and the variables. `cores`, those
/// this process may use, are divided among the ranks unless OMP_NUM_THREADS is set or there is but
/// one rank. Throws UsageError for what is no number or contradicts the rest.
///
/// Difference from dist_train.sh: on one node without PORT a free port is taken, not 29500, so two
/// jobs can share a machine; several nodes must be told MASTER_ADDR; torchrun gives each rank one
/// thread.
NodeShare read_node_share(const std::string& text, const dist::Variables& variables, int cores);

/// The variables of torchrun for each rank of the share.
std::vector<dist::Variables> rank_variables(const NodeShare& share);

/// The cores this process may use.
int usable_cores();

/// Whether a server on this machine could listen at the port now.
bool is_port_free(uint16_t port);

/// A port that is free now, taken from those of outgoing connections. Throws EnvironmentError.
uint16_t find_free_port();

}  // namespace halfstep::train::detail
