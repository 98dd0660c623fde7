#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace halfstep::dist {

/// The host names of a Slurm node list, in its order, as `scontrol show hostnames` prints them:
/// "gpu[08-10,12],login" is gpu08, gpu09, gpu10, gpu12 and login. A name may hold several brackets
/// ("rack[0-1]node[0-3]"), whose last one counts fastest, and text behind them. A range is as wide
/// as its first number is written. Throws UsageError for text that is no such list or names more
/// than 65,536 hosts.
std::vector<std::string> expand_nodelist(std::string_view list);

/// How many tasks each node of a Slurm job runs, from SLURM_TASKS_PER_NODE: "2(x3),1" is 2, 2, 2
/// and 1. Throws UsageError as expand_nodelist does.
std::vector<int> expand_tasks_per_node(std::string_view list);

}  // namespace halfstep::dist
