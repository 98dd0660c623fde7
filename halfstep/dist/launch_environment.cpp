#include "halfstep/dist/launch_environment.h"

#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"
#include "halfstep/dist/slurm_nodelist.h"

#include <charconv>
#include <limits>
#include <string_view>

#include <unistd.h>

namespace halfstep::dist {

namespace {

// Below the ports Linux gives to outgoing connections (32768 on) and off torchrun's 29500.
constexpr uint64_t first_port = 10000;
constexpr uint64_t number_of_ports = 19500;

// Reads the variables one launcher sets.
class Reader {
 public:
  Reader(const char* launcher, const Variables& variables)
      : launcher_(launcher), variables_(variables) {}

  const std::string* find(const std::string& name) const {
    const auto found = variables_.find(name);
    return found == variables_.end() || found->second.empty() ? nullptr : &found->second;
  }

  const std::string& text(const std::string& name) const {
    const auto* value = find(name);
    HALFSTEP_CHECK_USAGE(value != nullptr, "launch", name, " must be set for the launcher ",
                         launcher_, ", but is not; set it, or train in one process with ",
                         "--launcher none");
    return *value;
  }

  // A whole number from `least` to `most`.
  int64_t number(const std::string& name, int64_t least, int64_t most) const {
    const auto& value = text(name);
    int64_t number = -1;
    const auto end = value.data() + value.size();
    const auto result = std::from_chars(value.data(), end, number);
    HALFSTEP_CHECK_USAGE(
        result.ec == std::errc() && result.ptr == end && number >= least && number <= most,
        "launch", name, " must be a whole number from ", least, " to ", most, ", but is '", value,
        "'; the launcher ", launcher_, " sets it, and so must whoever starts processes by hand");
    return number;
  }

  int size(const std::string& name) const {
    return static_cast<int>(number(name, 1, std::numeric_limits<int>::max()));
  }

  int rank(const std::string& name, int size) const {
    return static_cast<int>(number(name, 0, int64_t{size} - 1));
  }

  uint16_t port(const std::string& name) const {
    return static_cast<uint16_t>(number(name, 1, 65535));
  }

 private:
  const char* launcher_;
  const Variables& variables_;
};

uint16_t port_from(uint64_t number) {
  return static_cast<uint16_t>(first_port + number % number_of_ports);
}

// FNV-1a.
uint64_t hash_of(std::string_view text) {
  uint64_t hash = 14695981039346656037ULL;
  for (const unsigned char c : text) hash = (hash ^ c) * 1099511628211ULL;
  return hash ^ (hash >> 32);
}

LaunchEnvironment from_torchrun(const Reader& reader) {
  LaunchEnvironment launch;
  launch.world_size = reader.size("WORLD_SIZE");
  launch.rank = reader.rank("RANK", launch.world_size);
  // Where it is missing, what the local rank proves.
  if (reader.find("LOCAL_WORLD_SIZE")) {
    launch.local_world_size = reader.size("LOCAL_WORLD_SIZE");
    launch.local_rank = reader.rank("LOCAL_RANK", launch.local_world_size);
  } else {
    launch.local_rank = reader.rank("LOCAL_RANK", launch.world_size);
    launch.local_world_size = launch.local_rank + 1;
  }
  launch.master_addr = reader.text("MASTER_ADDR");
  launch.master_port = reader.port("MASTER_PORT");
  const auto* served = reader.find("TORCHELASTIC_USE_AGENT_STORE");
  launch.store_is_served = served && *served == "True";
  return launch;
}

// How many tasks this node has; where Slurm does not say it, what the local rank proves.
int slurm_local_size(const Reader& reader, int local_rank) {
  for (const auto* name : {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"}) {
    if (!reader.find(name)) continue;
    const auto tasks = expand_tasks_per_node(reader.text(name));
    const auto node = reader.number("SLURM_NODEID", 0, static_cast<int64_t>(tasks.size()) - 1);
    return tasks[static_cast<size_t>(node)];
  }
  return local_rank + 1;
}

LaunchEnvironment from_slurm(const Reader& reader) {
  HALFSTEP_CHECK_USAGE(reader.find("SLURM_STEP_ID"), "launch",
                       "the launcher slurm must be srun, which numbers its steps, but ",
                       "SLURM_STEP_ID is not set; start with srun (in a batch script, too), or "
                       "train in one process with --launcher none");
  LaunchEnvironment launch;
  launch.world_size = reader.size("SLURM_NTASKS");
  launch.rank = reader.rank("SLURM_PROCID", launch.world_size);
  launch.local_rank = reader.rank("SLURM_LOCALID", launch.world_size);
  launch.local_world_size = slurm_local_size(reader, launch.local_rank);
  HALFSTEP_CHECK_USAGE(launch.local_rank < launch.local_world_size, "launch",
                       "SLURM_LOCALID must be below the number of this node's tasks, but is ",
                       launch.local_rank, " of ", launch.local_world_size, "; start with srun");
  if (reader.find("MASTER_ADDR")) {
    launch.master_addr = reader.text("MASTER_ADDR");
  } else if (launch.world_size > 1) {
    // The step's own list where there is one: a job's steps need not use all its nodes.
    const auto* list = reader.find("SLURM_STEP_NODELIST");
    if (!list) list = reader.find("SLURM_NODELIST");
    const auto hosts = expand_nodelist(list ? *list : reader.text("SLURM_JOB_NODELIST"));
    // A machine's own name needs no entry in its name service then.
    if (hosts.size() > 1) launch.master_addr = hosts.front();
  }
  if (reader.find("MASTER_PORT")) {
    launch.master_port = reader.port("MASTER_PORT");
  } else {
    // Jobs with neighbouring ids share machines; eight steps of each get ports of their own.
    constexpr int64_t most = std::numeric_limits<uint32_t>::max();
    const auto job = static_cast<uint64_t>(reader.number("SLURM_JOB_ID", 0, most));
    const auto step = static_cast<uint64_t>(reader.number("SLURM_STEP_ID", 0, most));
    launch.master_port = port_from(8 * job + step);
  }
  return launch;
}

LaunchEnvironment from_open_mpi(const Reader& reader) {
  LaunchEnvironment launch;
  launch.world_size = reader.size("OMPI_COMM_WORLD_SIZE");
  launch.rank = reader.rank("OMPI_COMM_WORLD_RANK", launch.world_size);
  launch.local_world_size = reader.size("OMPI_COMM_WORLD_LOCAL_SIZE");
  launch.local_rank = reader.rank("OMPI_COMM_WORLD_LOCAL_RANK", launch.local_world_size);
  if (reader.find("MASTER_ADDR") || launch.local_world_size < launch.world_size) {
    HALFSTEP_CHECK_USAGE(reader.find("MASTER_ADDR"), "launch",
                         "MASTER_ADDR must be set where mpirun starts processes on several ",
                         "machines, but is not; add -x MASTER_ADDR=HOST, the machine of rank 0");
    launch.master_addr = reader.text("MASTER_ADDR");
  }
  if (reader.find("MASTER_PORT")) {
    launch.master_port = reader.port("MASTER_PORT");
  } else if (const auto* job = reader.find("PMIX_NAMESPACE")) {
    launch.master_port = port_from(hash_of(*job));
  }
  return launch;
}

Launcher find_launcher(const Variables& variables) {
  const Reader reader("auto", variables);
  if (reader.find("RANK") || reader.find("WORLD_SIZE")) return Launcher::pytorch;
  if (reader.find("OMPI_COMM_WORLD_RANK") || reader.find("OMPI_COMM_WORLD_SIZE"))
    return Launcher::mpi;
  if (reader.find("SLURM_PROCID") && reader.find("SLURM_STEP_ID")) return Launcher::slurm;
  return Launcher::none;
}

}  // namespace

Launcher parse_launcher(const std::string& name) {
  const std::vector<std::string> names{"auto", "none", "pytorch", "slurm", "mpi"};
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return static_cast<Launcher>(i);
  const auto suggestion = suggest(name, names);
  halfstep::detail::raise<UsageError>("launch",
                                      "a launcher must be one of auto, none, pytorch, slurm and "
                                      "mpi, but got '",
                                      name, "'; ",
                                      suggestion.empty() ? "take one of these" : suggestion);
}

Variables process_variables() {
  Variables variables;
  for (char** entry = environ; entry && *entry; ++entry) {
    const std::string_view text = *entry;
    const auto equals = text.find('=');
    if (equals != text.npos) variables.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

LaunchEnvironment launch_environment(Launcher launcher, const Variables& variables) {
  if (launcher == Launcher::automatic) launcher = find_launcher(variables);
  switch (launcher) {
    case Launcher::pytorch:
      return from_torchrun(Reader("pytorch", variables));
    case Launcher::slurm:
      return from_slurm(Reader("slurm", variables));
    case Launcher::mpi:
      return from_open_mpi(Reader("mpi", variables));
    case Launcher::automatic:
    case Launcher::none:
      break;
  }
  return {};
}

}  // namespace halfstep::dist
