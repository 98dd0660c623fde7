#pragma once
#include <string>
#include <vector>

#include <sys/types.h>

namespace halfstep::train::detail {

/// How a rank of a job ended.
struct RankEnding {
  int rank = 0;
  pid_t pid = 0;
  int wait_status = 0;     ///< as waitpid gives it
  bool suspended = false;  ///< it was found suspended and then killed
  bool outlived = false;   ///< it did not end with the others and was killed for that
  std::vector<std::string> last_lines = {};  ///< of its standard error

  bool is_failure() const { return wait_status != 0; }
  bool was_ended() const { return suspended || outlived; }
};

/// The status a shell would give: the program's own, or 128 + N for signal N.
int exit_status(int wait_status);

/// Whether these lines say only that another rank was lost or kept it waiting too long.
bool is_loss_of_a_peer(const std::vector<std::string>& lines);

/// The ending that explains the others, of `endings` in the order they came, of which at least one
/// is a failure. When one rank goes, the others lose their connections to it and fail, too, some
/// before it has ended itself; when one hangs, the others time out and it must be killed.
const RankEnding& find_cause(const std::vector<RankEnding>& endings);

/// "rank 1 (process 1234) was killed by SIGKILL, …", without the lines.
std::string describe(const RankEnding& ending);

}  // namespace halfstep::train::detail
