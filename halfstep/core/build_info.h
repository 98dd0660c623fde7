#pragma once
#include <iosfwd>
#include <string>

namespace halfstep {

/// What the linked halfstep was built with and runs on, as `halfstep --version` prints it.
struct BuildInfo {
  std::string version;  ///< of halfstep: "0.1.0"
  /// The git commit at which the build folder was configured, in full. Known to the `halfstep`
  /// command alone, so that a new commit links nothing else anew; "unknown" in other programs and
  /// where halfstep's folder was no git clone.
  std::string commit;
  std::string libtorch;          ///< that halfstep was compiled with: "2.15.0"
  std::string running_libtorch;  ///< that the process has loaded; another one is a mistake
  std::string compiler;          ///< "g++ 12.2.0"
  std::string build_type;        ///< CMake's: "Release"
  std::string cuda;              ///< version of CUDA's headers: "13.2"; empty in a CPU build
  std::string nccl;              ///< version of NCCL's header: "2.29.3"; empty without
  std::string highway;           ///< version of Highway: "1.0.3"
  int openmp = 0;                ///< year and month of the OpenMP standard: 201511; 0 without
  int threads = 1;               ///< that LibTorch's operations use in this process
  std::string sanitizer;         ///< "address" (and undefined behaviour), "thread", or empty
};

/// Those of this process. Cheap but for the first call, which asks LibTorch. Thread-safe.
BuildInfo build_info();

/// One line for each but the version: "compiler   g++ 12.2.0, Release".
std::ostream& operator<<(std::ostream& stream, const BuildInfo& info);

namespace detail {

/// What CMake knows (build_options.cpp, which it writes).
struct BuildOptions {
  const char* build_type;
  const char* cuda;
  const char* nccl;
  const char* highway;
  const char* sanitizer;
};
extern const BuildOptions kBuildOptions;

/// Tells build_info() the commit. Before main() only; always returns true.
bool set_commit(const char* commit);

}  // namespace detail
}  // namespace halfstep
