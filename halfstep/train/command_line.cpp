#include "halfstep/train/command_line.h"

#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"

#include <cerrno>
#include <charconv>

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

namespace halfstep::train::detail {

namespace {

bool is_option(const std::string& word) {
  return word.starts_with("-");
}

std::string list_of(const std::vector<std::string>& names) {
  std::string list;
  for (const auto& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const auto* option : command.get_options())
    if (!option->get_lnames().empty()) names.push_back("--" + option->get_lnames().front());
  return names;
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const auto* command : app.get_subcommands({})) names.push_back(command->get_name());
  return names;
}

std::string with_suggestion(const std::string& word, const std::vector<std::string>& known) {
  const auto suggestion = suggest(word, known);
  return list_of(known) + ", but got '" + word + "'" +
         (suggestion.empty() ? "" : "; " + suggestion);
}

}  // namespace

std::vector<std::string> arrange_arguments(const std::vector<std::string>& arguments) {
  std::vector<std::string> rest;
  std::vector<std::string> resume;
  std::vector<std::string> overrides;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto& word = arguments[i];
    const auto next_is = [&](auto&& fits) {
      return i + 1 < arguments.size() && !is_option(arguments[i + 1]) && fits(arguments[i + 1]);
    };
    if (word == "--resume") {
      resume.push_back(word);
      if (next_is([](const auto& next) { return next.ends_with(".safetensors"); }))
        resume.push_back(arguments[++i]);
    } else if (word == "--cfg-options") {
      if (overrides.empty()) overrides.push_back(word);
      while (next_is([](const auto& next) { return next.find('=') != next.npos; }))
        overrides.push_back(arguments[++i]);
    } else {
      rest.push_back(word);
    }
  }
  rest.insert(rest.end(), resume.begin(), resume.end());
  rest.insert(rest.end(), overrides.begin(), overrides.end());
  return rest;
}

uint64_t parse_seed(const std::string& text) {
  int64_t seed = -1;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), seed);
  HALFSTEP_CHECK_USAGE(
      result.ec == std::errc() && result.ptr == text.data() + text.size() && seed >= 0,
      "command line", "--seed must be a whole number from 0 to 2^63 - 1, but got '", text,
      "'; give such a number or leave --seed out");
  return static_cast<uint64_t>(seed);
}

std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const auto parsed = app.get_subcommands();
  const CLI::App& command = parsed.empty() ? app : *parsed.front();
  const std::string help =
      "see halfstep " + (parsed.empty() ? "" : command.get_name() + " ") + "--help";
  const std::string place = "[command line] ";
  for (const auto& word : app.remaining(/*recurse=*/true)) {
    if (is_option(word))
      return fmt::format("{}an option must be one of {}", place,
                         with_suggestion(word, option_names(command)));
    if (parsed.empty())
      return fmt::format("{}a command must be one of {}", place,
                         with_suggestion(word, command_names(app)));
    return fmt::format(
        "{}each argument must have a place, but got '{}' besides; what follows --cfg-options must "
        "hold a =, a file to --resume from must end in .safetensors: {}",
        place, word, help);
  }
  if (parsed.empty())
    return fmt::format("{}a command must be one of {}, but got none; {}", place,
                       list_of(command_names(app)), help);
  return place + "the arguments must be complete and readable, but got: " + error.what() + "; " +
         help;
}

void open_closed_streams() {
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; ++stream)
    if (::fcntl(stream, F_GETFD) < 0 && errno == EBADF && ::open("/dev/null", O_RDWR) != stream)
      halfstep::detail::raise<EnvironmentError>("command line", "stream ", stream,
                                                " must be open, but is closed, and /dev/null can't "
                                                "take its place; redirect it to a file");
}

}  // namespace halfstep::train::detail
