#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/data/dataset.h"

#include <filesystem>
#include <memory>

namespace halfstep::train {

/// Which part of a text is used.
enum class TextSplit { all, train, test };

/// What of the text is read, and how.
struct TextFileOptions {
  std::filesystem::path file;
  int64_t context = 128;  ///< characters an example; at least 1
  TextSplit split = TextSplit::all;
  double test_share = 0.1;  ///< of the text, at its end, that is the test part; in (0, 1)
};

/// A text, plain or gzipped, for a model that predicts the next character. Characters are the
/// file's bytes, tokens 0 to 255, so any file will do; a character that UTF-8 writes in several
/// bytes is several tokens.
///
/// Examples lie one after the other: data holds `context` tokens, target the same moved on by one,
/// both int64 (n, context). What is left at the end is not used, but each epoch of draw_batch
/// begins elsewhere in the first `context` characters, so that none is always cut at the same
/// place.
class TextFile : public Dataset {
 public:
  /// Reads the file. Throws UsageError for wrong options; EnvironmentError where it can't be read
  /// or is shorter than two examples.
  explicit TextFile(const TextFileOptions& options);

  int64_t size() const override { return (text_.numel() - context_) / context_; }
  /// From the beginning of the text on.
  Batch get_batch(const at::Tensor& indices) const override;
  /// From `draw` % context on.
  Batch draw_batch(const at::Tensor& indices, uint64_t draw) const override;

 private:
  Batch batch_from(const at::Tensor& indices, int64_t begin) const;

  int64_t context_;
  bool shift_;
  at::Tensor text_;  // uint8
};

/// Builds a TextFile from a config with the keys file, context, split (all, train or test) and
/// test_share.
std::shared_ptr<Dataset> make_text_file(Config& config);

}  // namespace halfstep::train
