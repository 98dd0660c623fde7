#pragma once
#include <cstdint>
#include <string>

namespace halfstep::dist {

/// Who this process is among the processes of a job, and where they meet: what a launcher
/// (torchrun, srun, mpirun) tells each process it starts. The default is a job of one process.
///
///   const LaunchEnvironment launch{.rank = 1, .world_size = 2, .local_rank = 1,
///                                  .local_world_size = 2};
struct LaunchEnvironment {
  /// Number of this process, from 0 to world_size - 1.
  int rank = 0;
  /// How many processes the job has.
  int world_size = 1;
  /// Number of this process on its machine, from 0 to local_world_size - 1. Also the index of its
  /// GPU.
  int local_rank = 0;
  /// How many processes of the job are on this machine.
  int local_world_size = 1;
  /// Name or address of the machine of rank 0, as all machines reach it.
  std::string master_addr = "127.0.0.1";
  /// Port of rank 0's store on that machine, not 0.
  uint16_t master_port = 29500;
};

}  // namespace halfstep::dist
