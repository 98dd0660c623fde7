#pragma once
#include "halfstep/train/config/node.h"

#include <filesystem>
#include <string>
#include <vector>

namespace halfstep::train::detail {

/// One {{…}} of a text.
struct Expression {
  size_t begin;   // of {{, in bytes
  size_t length;  // with {{ and }}
  std::string content;
};

/// Stands for every byte of an expression while YAML reads the text around it: a character that no
/// config has as it is.
constexpr char hidden = '\x01';

/// Finds the expressions of a text and hides them in it.
std::vector<Expression> hide_expressions(std::string& text);

/// What expressions can name.
struct Substitutions {
  std::filesystem::path file;         // empty for a text, which has none
  const ConfigNode* bases = nullptr;  // what a file inherits, or null
  size_t* copies = nullptr;           // values copied so far, of all files together
};

/// Puts values in the place of the {{…}} of a value and of all below it:
///
///   {{$NAME}} {{$NAME:default}}            of the environment; set to nothing is an error
///   {{fileDirname}} {{fileBasename}} {{fileBasenameNoExtension}} {{fileExtname}}
///   {{_base_.key.key}}                     of what the file inherits; alone it copies any value
///   {{'{{'}}                               the two characters
///
/// A plain scalar takes its type after that, a quoted one stays text. Throws UsageError with the
/// place.
void substitute(ConfigNode& node, const Substitutions& values);

}  // namespace halfstep::train::detail
