#pragma once
#include <cstdint>
#include <map>
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
  /// The launcher itself serves the store there (torchrun's agent does): rank 0 is a client of it
  /// as the others are.
  bool store_is_served = false;
};

/// Who starts the processes of a job, by the names MMEngine gives them.
enum class Launcher {
  automatic,  ///< the first of pytorch, mpi and slurm whose variables are set, else none
  none,       ///< a job of one process, whatever is set
  pytorch,    ///< torchrun, `halfstep dist-train`, or RANK and so on set by hand
  slurm,      ///< srun
  mpi,        ///< Open MPI's mpirun
};

/// The launcher of that name: auto, none, pytorch, slurm or mpi. Throws UsageError for any other.
Launcher parse_launcher(const std::string& name);

/// Environment variables by name.
using Variables = std::map<std::string, std::string>;

/// The variables of this process.
Variables process_variables();

/// What the launcher told this process. Throws UsageError, "[launch] …", where variables of the
/// launcher are missing, are no numbers or contradict each other.
///
/// - pytorch: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; LOCAL_WORLD_SIZE may be
///   missing.
/// - slurm: SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID. The processes meet on the first host of the
///   step's node list, at a port made from the job's and the step's id, so that jobs that share a
///   machine don't collide; MASTER_ADDR and MASTER_PORT override both.
/// - mpi: OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK and _LOCAL_SIZE. On one machine nothing else is
///   needed; on several MASTER_ADDR is. The port is made from the job's name unless MASTER_PORT is
///   set.
///
/// torchrun goes before mpirun and mpirun before srun because that is how they are nested: each
/// leaves the variables of the one around it in place. A batch script or a shell of salloc has
/// Slurm's variables, too, but is no task of srun's: there `automatic` is a job of one process.
///
/// Difference from Python: MMEngine trains one process unless it is told --launcher, meets at port
/// 29500 under Slurm, asks scontrol for the node list, and takes mpirun's local rank for the rank.
LaunchEnvironment launch_environment(Launcher launcher = Launcher::automatic,
                                     const Variables& variables = process_variables());

}  // namespace halfstep::dist
