#include "halfstep/train/launch/slurm_train.h"

#include "halfstep/train/launch/variables.h"

#include <algorithm>
#include <sstream>

namespace halfstep::train::detail {

namespace {
constexpr const char* where = "slurm-train";
constexpr int most = 1'000'000;

int cpus_per_task(const dist::Variables& variables) {
  return read_number(where, variables, "CPUS_PER_TASK", 1, most, 5);
}
}  // namespace

std::vector<std::string> srun_command(const SlurmTrain& train, const std::string& program,
                                      const dist::Variables& variables) {
  const int gpus = read_number(where, variables, "GPUS", 1, most, 8);
  const int per_node = read_number(where, variables, "GPUS_PER_NODE", 0, most, std::min(gpus, 8));
  std::vector<std::string> words{"srun", "-p", train.partition, "--job-name=" + train.job_name};
  if (per_node > 0) words.push_back("--gres=gpu:" + std::to_string(per_node));
  words.push_back("--ntasks=" + std::to_string(gpus));
  if (per_node > 0) words.push_back("--ntasks-per-node=" + std::to_string(per_node));
  words.push_back("--cpus-per-task=" + std::to_string(cpus_per_task(variables)));
  words.push_back("--kill-on-bad-exit=1");
  if (const auto* arguments = find_variable(variables, "SRUN_ARGS")) {
    std::istringstream stream(*arguments);
    for (std::string word; stream >> word;) words.push_back(word);
  }
  for (const auto& word : {program, std::string("train"), train.config, std::string("--work-dir"),
                           train.work_dir, std::string("--launcher"), std::string("slurm")})
    words.push_back(word);
  words.insert(words.end(), train.more.begin(), train.more.end());
  return words;
}

std::string srun_threads(const dist::Variables& variables) {
  if (find_variable(variables, "OMP_NUM_THREADS")) return "";
  return std::to_string(cpus_per_task(variables));
}

std::string shell_line(const std::vector<std::string>& words) {
  constexpr const char* plain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./=:+,@%";
  std::string line;
  for (const auto& word : words) {
    if (!line.empty()) line += ' ';
    if (!word.empty() && word.find_first_not_of(plain) == word.npos) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

}  // namespace halfstep::train::detail
