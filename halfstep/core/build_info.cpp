#include "halfstep/core/build_info.h"

#include "halfstep/core/version.h"

#include <iomanip>
#include <ostream>

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/util/StringUtil.h>

namespace halfstep {
namespace {

// A pointer: it is set before main(), in any order with other globals.
const char* known_commit = nullptr;

std::string compiler_name() {
#ifdef __clang__
  return c10::str("clang++ ", __clang_major__, ".", __clang_minor__, ".", __clang_patchlevel__);
#else
  return c10::str("g++ ", __GNUC__, ".", __GNUC_MINOR__, ".", __GNUC_PATCHLEVEL__);
#endif
}

// LibTorch's headers are those of the build; only this text comes from the library.
std::string loaded_libtorch() {
  const auto config = at::show_config();
  constexpr std::string_view kKey = "TORCH_VERSION=";
  const auto begin = config.find(kKey);
  if (begin == config.npos) return "unknown";
  const auto version = begin + kKey.size();
  return config.substr(version, config.find_first_of(", \n", version) - version);
}

int openmp_of_build() {
#ifdef _OPENMP
  return _OPENMP;
#else
  return 0;
#endif
}

const char* or_no(const std::string& text) {
  return text.empty() ? "no" : text.c_str();
}

}  // namespace

BuildInfo build_info() {
  static const std::string running = loaded_libtorch();
  const auto& options = detail::kBuildOptions;
  BuildInfo info;
  info.version = version();
  info.commit = known_commit ? known_commit : "unknown";
  info.libtorch = torch_version();
  info.running_libtorch = running;
  info.compiler = compiler_name();
  info.build_type = options.build_type;
  info.cuda = options.cuda;
  info.nccl = options.nccl;
  info.highway = options.highway;
  info.openmp = openmp_of_build();
  info.threads = at::get_num_threads();
  info.sanitizer = options.sanitizer;
  return info;
}

std::ostream& operator<<(std::ostream& stream, const BuildInfo& info) {
  const auto line = [&](const char* name, const std::string& value) {
    stream << name << std::string(11 - std::string_view(name).size(), ' ') << value << "\n";
  };
  line("commit", info.commit);
  line("compiler", info.compiler + ", " + info.build_type);
  line("LibTorch", info.running_libtorch == info.libtorch
                       ? info.libtorch
                       : info.libtorch + ", but running " + info.running_libtorch);
  line("CUDA", or_no(info.cuda));
  line("NCCL", or_no(info.nccl));
  line("Highway", info.highway);
  line("OpenMP", info.openmp ? c10::str(info.openmp, ", ", info.threads, " threads") : "no");
  line("sanitizer", or_no(info.sanitizer));
  return stream;
}

namespace detail {

bool set_commit(const char* commit) {
  known_commit = commit;
  return true;
}

}  // namespace detail
}  // namespace halfstep
