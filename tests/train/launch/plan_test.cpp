// What dist-train and slurm-train will start, from their words and the environment.
#include "halfstep/core/error.h"
#include "halfstep/train/launch/dist_train.h"
#include "halfstep/train/launch/requeue.h"
#include "halfstep/train/launch/slurm_train.h"

#include "tests/support/errors.h"
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace halfstep::train::detail {

namespace {

using Words = std::vector<std::string>;

TEST(DistTrain, OneNode) {
  const auto share = read_node_share("2", {}, 8);
  EXPECT_EQ(share.port, 0);
  EXPECT_EQ(share.threads, 4);
  const auto variables = rank_variables(share);
  ASSERT_EQ(variables.size(), 2u);
  const auto launch = dist::launch_environment(dist::Launcher::automatic, [&] {
    auto one = variables[1];
    one["MASTER_PORT"] = "7";
    return one;
  }());
  EXPECT_EQ(launch.rank, 1);
  EXPECT_EQ(launch.world_size, 2);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.local_world_size, 2);
  EXPECT_EQ(launch.master_addr, "127.0.0.1");
  EXPECT_FALSE(launch.store_is_served);
  EXPECT_EQ(variables[0].at("OMP_NUM_THREADS"), "4");
}

TEST(DistTrain, ANodesShareOfSeveral) {
  const dist::Variables variables{
      {"NNODES", "3"}, {"NODE_RANK", "2"}, {"MASTER_ADDR", "head"}, {"PORT", "1234"}};
  const auto share = read_node_share("4", variables, 2);
  const auto last = rank_variables(share).back();
  EXPECT_EQ(last.at("RANK"), "11");
  EXPECT_EQ(last.at("WORLD_SIZE"), "12");
  EXPECT_EQ(last.at("LOCAL_RANK"), "3");
  EXPECT_EQ(last.at("LOCAL_WORLD_SIZE"), "4");
  EXPECT_EQ(last.at("MASTER_ADDR"), "head");
  EXPECT_EQ(last.at("MASTER_PORT"), "1234");
  EXPECT_EQ(last.at("OMP_NUM_THREADS"), "1");
  EXPECT_EQ(read_node_share("4", {{"NNODES", "2"}, {"MASTER_ADDR", "head"}}, 2).port, 29500);
}

TEST(DistTrain, ThreadsAreLeftToTheUserAndToOneRank) {
  EXPECT_EQ(read_node_share("2", {{"OMP_NUM_THREADS", "3"}}, 8).threads, 0);
  EXPECT_EQ(read_node_share("1", {}, 8).threads, 0);
  EXPECT_EQ(rank_variables(read_node_share("1", {}, 8)).front().count("OMP_NUM_THREADS"), 0u);
}

TEST(DistTrain, WhatDoesNotFitIsNamed) {
  for (const char* text : {"0", "-1", "two", "", "4097", "2.0"})
    EXPECT_ERROR(read_node_share(text, {}, 1), UsageError,
                 "[dist-train] N must be a whole number from 1 to 4096, but is '", text);
  EXPECT_ERROR(read_node_share("2", {{"NNODES", "2"}}, 1), UsageError,
               "[dist-train] MASTER_ADDR must be set where NNODES is above 1, but is not");
  EXPECT_ERROR(read_node_share("2", {{"NODE_RANK", "1"}}, 1), UsageError,
               "NODE_RANK must be a whole number from 0 to 0, but is '1'");
  EXPECT_ERROR(read_node_share("2", {{"PORT", "0"}}, 1), UsageError, "PORT", "from 1 to 65535");
}

TEST(DistTrain, ATakenPortIsNotFree) {
  const int server = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(server, reinterpret_cast<const sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(server, 1), 0);
  ASSERT_EQ(::getsockname(server, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const uint16_t port = ntohs(address.sin_port);
  EXPECT_FALSE(is_port_free(port));
  EXPECT_NE(find_free_port(), port);
  ::close(server);
  EXPECT_TRUE(is_port_free(port));
}

const SlurmTrain train{.partition = "debug",
                       .job_name = "my job",
                       .config = "c.yaml",
                       .work_dir = "w",
                       .more = {"--amp"}};

TEST(SlurmTrain, AsksAsTheScriptDoes) {
  EXPECT_EQ(srun_command(train, "/bin/halfstep",
                         {{"GPUS", "16"}, {"GPUS_PER_NODE", "4"}, {"SRUN_ARGS", "-x  n1\t-v"}}),
            (Words{"srun",
                   "-p",
                   "debug",
                   "--job-name=my job",
                   "--gres=gpu:4",
                   "--ntasks=16",
                   "--ntasks-per-node=4",
                   "--cpus-per-task=5",
                   "--kill-on-bad-exit=1",
                   "-x",
                   "n1",
                   "-v",
                   "/bin/halfstep",
                   "train",
                   "c.yaml",
                   "--work-dir",
                   "w",
                   "--launcher",
                   "slurm",
                   "--amp"}));
}

TEST(SlurmTrain, WithoutGpus) {
  const auto words =
      srun_command(train, "h", {{"GPUS", "2"}, {"GPUS_PER_NODE", "0"}, {"CPUS_PER_TASK", "1"}});
  EXPECT_EQ(Words(words.begin(), words.begin() + 7),
            (Words{"srun", "-p", "debug", "--job-name=my job", "--ntasks=2", "--cpus-per-task=1",
                   "--kill-on-bad-exit=1"}));
}

TEST(SlurmTrain, AsksForNoMoreGpusThanItUses) {
  const auto words = srun_command(train, "h", {{"GPUS", "2"}});
  EXPECT_EQ(words[4], "--gres=gpu:2");
  EXPECT_EQ(words[6], "--ntasks-per-node=2");
  EXPECT_EQ(srun_command(train, "h", {{"GPUS", "32"}})[4], "--gres=gpu:8");
}

TEST(SlurmTrain, Threads) {
  EXPECT_EQ(srun_threads({}), "5");
  EXPECT_EQ(srun_threads({{"CPUS_PER_TASK", "3"}}), "3");
  EXPECT_EQ(srun_threads({{"CPUS_PER_TASK", "3"}, {"OMP_NUM_THREADS", "2"}}), "");
}

TEST(SlurmTrain, WhatIsNoNumberIsNamed) {
  for (const char* name : {"GPUS", "GPUS_PER_NODE", "CPUS_PER_TASK"})
    EXPECT_ERROR(srun_command(train, "h", {{name, "many"}}), UsageError, "[slurm-train] ", name,
                 "must be a whole number", "'many'");
  EXPECT_ERROR(srun_command(train, "h", {{"GPUS", "0"}}), UsageError, "GPUS", "from 1");
}

TEST(SlurmTrain, ShellLine) {
  EXPECT_EQ(shell_line({"a", "--b=c,d", "e f", "", "it's", "$x"}),
            "a --b=c,d 'e f' '' 'it'\\''s' '$x'");
}

TEST(Requeue, OnlyWhatSlurmStartedAgainIsRequeued) {
  EXPECT_FALSE(is_requeued_job({}));
  EXPECT_FALSE(is_requeued_job({{"SLURM_RESTART_COUNT", "0"}}));
  EXPECT_TRUE(is_requeued_job({{"SLURM_RESTART_COUNT", "1"}}));
  EXPECT_EQ(requeue_job({}),
            "--requeue: this is no Slurm job, so nothing was put back into a queue");
}

}  // namespace

}  // namespace halfstep::train::detail
