#pragma once
#include <string>
#include <vector>

namespace CLI {  // NOLINT(readability-identifier-naming): CLI11's name
class App;
class ParseError;
}  // namespace CLI

namespace halfstep::train::detail {

/// The arguments (without the program) in an order that CLI11 reads as meant: the words after
/// --cfg-options are its own as long as they hold a =, the word after --resume is its file only if
/// it ends in .safetensors, and neither takes the CONFIG that follows.
std::vector<std::string> arrange_arguments(const std::vector<std::string>& arguments);

/// The whole number in the text of --seed. Throws UsageError for any other text.
uint64_t parse_seed(const std::string& text);

/// What is wrong with the command line, in halfstep's form: "[command line] …".
std::string explain(const CLI::App& app, const CLI::ParseError& error);

/// Opens /dev/null in the place of standard streams that are closed, so that no file of the run
/// gets what is meant for them.
void open_closed_streams();

}  // namespace halfstep::train::detail
