#include "halfstep/dist/launch_environment.h"

#include "halfstep/core/error.h"

#include <set>

#include "tests/support/errors.h"
#include <stdlib.h>

namespace halfstep::dist {

namespace {

const Variables torchrun{{"RANK", "3"},
                         {"WORLD_SIZE", "4"},
                         {"LOCAL_RANK", "1"},
                         {"LOCAL_WORLD_SIZE", "2"},
                         {"MASTER_ADDR", "node7"},
                         {"MASTER_PORT", "1234"}};
const Variables srun{{"SLURM_PROCID", "5"},
                     {"SLURM_NTASKS", "7"},
                     {"SLURM_LOCALID", "1"},
                     {"SLURM_NODEID", "2"},
                     {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"},
                     {"SLURM_STEP_NODELIST", "gpu[03-06]"},
                     {"SLURM_NODELIST", "gpu[01-06]"},
                     {"SLURM_JOB_ID", "100"},
                     {"SLURM_STEP_ID", "2"}};
const Variables mpirun{{"OMPI_COMM_WORLD_RANK", "1"},
                       {"OMPI_COMM_WORLD_SIZE", "2"},
                       {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                       {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                       {"PMIX_NAMESPACE", "1590558721"}};

Variables with(Variables variables, const Variables& changes) {
  for (const auto& [name, value] : changes) variables[name] = value;
  return variables;
}

Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

LaunchEnvironment read(const Variables& variables, Launcher launcher = Launcher::automatic) {
  return launch_environment(launcher, variables);
}

TEST(LaunchEnvironment, NothingSetIsOneProcess) {
  for (const auto& variables :
       {Variables{}, Variables{{"MASTER_ADDR", "x"}, {"MASTER_PORT", "1"}, {"LOCAL_RANK", "0"}},
        Variables{{"RANK", ""}}}) {
    const auto launch = read(variables);
    EXPECT_EQ(launch.rank, 0);
    EXPECT_EQ(launch.world_size, 1);
    EXPECT_EQ(launch.local_world_size, 1);
  }
}

TEST(LaunchEnvironment, Torchrun) {
  auto launch = read(torchrun);
  EXPECT_EQ(launch.rank, 3);
  EXPECT_EQ(launch.world_size, 4);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.local_world_size, 2);
  EXPECT_EQ(launch.master_addr, "node7");
  EXPECT_EQ(launch.master_port, 1234);
  EXPECT_FALSE(launch.store_is_served);
  launch =
      read(with(without(torchrun, "LOCAL_WORLD_SIZE"), {{"TORCHELASTIC_USE_AGENT_STORE", "True"}}));
  EXPECT_EQ(launch.local_world_size, 2);
  EXPECT_TRUE(launch.store_is_served);
}

TEST(LaunchEnvironment, SlurmMeetsOnTheFirstHostOfItsStep) {
  auto launch = read(srun);
  EXPECT_EQ(launch.rank, 5);
  EXPECT_EQ(launch.world_size, 7);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.local_world_size, 2);
  EXPECT_EQ(launch.master_addr, "gpu03");
  EXPECT_EQ(launch.master_port, 10802);
  launch = read(without(srun, "SLURM_STEP_NODELIST"));
  EXPECT_EQ(launch.master_addr, "gpu01");
  launch = read(with(srun, {{"SLURM_STEP_NODELIST", "gpu04"}}));
  EXPECT_EQ(launch.master_addr, "127.0.0.1");
  launch = read(with(srun, {{"MASTER_ADDR", "head"}, {"MASTER_PORT", "77"}}));
  EXPECT_EQ(launch.master_addr, "head");
  EXPECT_EQ(launch.master_port, 77);
}

TEST(LaunchEnvironment, SlurmWithoutTasksPerNode) {
  const auto launch = read(without(srun, "SLURM_STEP_TASKS_PER_NODE"));
  EXPECT_EQ(launch.local_world_size, 2);
}

TEST(LaunchEnvironment, SlurmJobsOnOneMachineHaveDifferentPorts) {
  std::set<int> ports;
  for (int job = 4'000'000; job < 4'000'100; ++job)
    for (int step = 0; step < 8; ++step)
      ports.insert(read(with(srun, {{"SLURM_JOB_ID", std::to_string(job)},
                                    {"SLURM_STEP_ID", std::to_string(step)}}))
                       .master_port);
  EXPECT_EQ(ports.size(), 800u);
  EXPECT_GE(*ports.begin(), 10000);
  EXPECT_LT(*ports.rbegin(), 29500);
}

TEST(LaunchEnvironment, ABatchScriptIsOneProcess) {
  const auto batch = without(srun, "SLURM_STEP_ID");
  EXPECT_EQ(read(batch).world_size, 1);
  EXPECT_ERROR(read(batch, Launcher::slurm), UsageError, "[launch]", "SLURM_STEP_ID is not set",
               "start with srun");
}

TEST(LaunchEnvironment, OpenMpi) {
  auto launch = read(mpirun);
  EXPECT_EQ(launch.rank, 1);
  EXPECT_EQ(launch.world_size, 2);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.local_world_size, 2);
  EXPECT_EQ(launch.master_addr, "127.0.0.1");
  const auto port = launch.master_port;
  EXPECT_GE(port, 10000);
  EXPECT_LT(port, 29500);
  EXPECT_NE(read(with(mpirun, {{"PMIX_NAMESPACE", "1590558722"}})).master_port, port);
  EXPECT_EQ(read(without(mpirun, "PMIX_NAMESPACE")).master_port, 29500);
  EXPECT_EQ(read(with(mpirun, {{"MASTER_PORT", "77"}})).master_port, 77);
}

TEST(LaunchEnvironment, OpenMpiOnSeveralMachinesNeedsAnAddress) {
  const auto several = with(mpirun, {{"OMPI_COMM_WORLD_SIZE", "4"}});
  EXPECT_ERROR(read(several), UsageError, "[launch] MASTER_ADDR must be set", "but is not",
               "-x MASTER_ADDR=HOST");
  EXPECT_EQ(read(with(several, {{"MASTER_ADDR", "node1"}})).master_addr, "node1");
}

TEST(LaunchEnvironment, TheInnerLauncherCounts) {
  const auto both = with(srun, mpirun);
  EXPECT_EQ(read(both).world_size, 2);
  EXPECT_EQ(read(with(both, torchrun)).world_size, 4);
  EXPECT_EQ(read(with(both, torchrun), Launcher::slurm).world_size, 7);
  EXPECT_EQ(read(with(both, torchrun), Launcher::mpi).world_size, 2);
  EXPECT_EQ(read(with(both, torchrun), Launcher::none).world_size, 1);
}

TEST(LaunchEnvironment, WhatIsMissingIsNamed) {
  for (const char* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"})
    EXPECT_ERROR(read(without(torchrun, name)), UsageError, "[launch] ", name,
                 "must be set for the launcher pytorch, but is not", "--launcher none");
  for (const char* name : {"SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID"})
    EXPECT_ERROR(read(without(srun, name)), UsageError, name, "must be set", "slurm");
  EXPECT_ERROR(read(without(without(srun, "SLURM_STEP_NODELIST"), "SLURM_NODELIST")), UsageError,
               "SLURM_JOB_NODELIST must be set");
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK",
                           "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"})
    EXPECT_ERROR(read(without(mpirun, name)), UsageError, name, "must be set", "mpi");
  EXPECT_ERROR(read({}, Launcher::pytorch), UsageError, "WORLD_SIZE must be set");
}

TEST(LaunchEnvironment, WhatIsNoNumberOrOutOfRangeIsNamed) {
  const auto fails = [](const char* name, const char* value, const char* range) {
    EXPECT_ERROR(read(with(torchrun, {{name, value}})), UsageError, "[launch]", name, range, value);
  };
  fails("RANK", "4", "from 0 to 3");
  fails("RANK", "-1", "from 0 to 3");
  fails("RANK", "1x", "from 0 to 3");
  fails("WORLD_SIZE", "0", "from 1 to 2147483647");
  fails("WORLD_SIZE", "two", "from 1 to 2147483647");
  fails("LOCAL_RANK", "2", "from 0 to 1");
  fails("MASTER_PORT", "0", "from 1 to 65535");
  fails("MASTER_PORT", "65536", "from 1 to 65535");
  EXPECT_ERROR(read(with(srun, {{"SLURM_LOCALID", "2"}})), UsageError, "SLURM_LOCALID", "2 of 2");
  EXPECT_ERROR(read(with(srun, {{"SLURM_NODEID", "4"}})), UsageError, "SLURM_NODEID", "0 to 3");
}

TEST(LaunchEnvironment, Names) {
  EXPECT_EQ(parse_launcher("auto"), Launcher::automatic);
  EXPECT_EQ(parse_launcher("none"), Launcher::none);
  EXPECT_EQ(parse_launcher("pytorch"), Launcher::pytorch);
  EXPECT_EQ(parse_launcher("slurm"), Launcher::slurm);
  EXPECT_EQ(parse_launcher("mpi"), Launcher::mpi);
  EXPECT_ERROR(parse_launcher("pytorhc"), UsageError,
               "[launch] a launcher must be one of auto, none, pytorch, slurm and mpi, but got "
               "'pytorhc'; did you mean 'pytorch'?");
}

TEST(LaunchEnvironment, ReadsTheProcessesOwnVariables) {
  ::setenv("HALFSTEP_LAUNCH_TEST", "a=b", 1);
  EXPECT_EQ(process_variables().at("HALFSTEP_LAUNCH_TEST"), "a=b");
  ::unsetenv("HALFSTEP_LAUNCH_TEST");
}

}  // namespace

}  // namespace halfstep::dist
