#include "halfstep/train/data/text_file.h"

#include "halfstep/core/error.h"
#include "halfstep/train/data/gzip_file.h"

#include <cmath>
#include <string>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

namespace halfstep::train {
namespace {

constexpr const char* kTextFileWhere = "TextFile";
constexpr size_t kMaxText = size_t{4} << 30;

std::string read_text(const std::filesystem::path& file) {
  GzipFile in(file, "a text");
  constexpr size_t chunk = size_t{1} << 20;
  std::string text;
  size_t read = chunk;
  while (read == chunk) {
    HALFSTEP_CHECK_ENVIRONMENT(text.size() < kMaxText, kTextFileWhere, file.string(),
                               " must have at most ", kMaxText,
                               " characters, but has more; take a part of it");
    text.resize(text.size() + chunk);
    read = in.read_some(text.data() + text.size() - chunk, chunk);
  }
  text.resize(text.size() - chunk + read);
  return text;
}

}  // namespace

TextFile::TextFile(const TextFileOptions& options)
    : context_(options.context), shift_(options.split != TextSplit::test) {
  HALFSTEP_CHECK_USAGE(context_ >= 1, kTextFileWhere, "context must be at least 1, but got ",
                       context_, "; take the model's");
  HALFSTEP_CHECK_USAGE(options.test_share > 0 && options.test_share < 1, kTextFileWhere,
                       "test_share must be between 0 and 1, but got ", options.test_share,
                       "; 0.1 is the default");
  const auto text = read_text(options.file);
  const auto whole = static_cast<int64_t>(text.size());
  const auto test =
      static_cast<int64_t>(std::ceil(static_cast<double>(whole) * options.test_share));
  const auto begin = options.split == TextSplit::test ? whole - test : 0;
  const auto length = options.split == TextSplit::all    ? whole
                      : options.split == TextSplit::test ? test
                                                         : whole - test;
  HALFSTEP_CHECK_ENVIRONMENT(length >= 2 * context_, kTextFileWhere, options.file.string(),
                             " must have at least 2 examples of ", context_,
                             " characters in the part that is used, but that has ", length,
                             "; take a longer text or a shorter context");
  text_ = at::empty({length}, at::kByte);
  text.copy(static_cast<char*>(text_.mutable_data_ptr()), static_cast<size_t>(length),
            static_cast<size_t>(begin));
}

Batch TextFile::get_batch(const at::Tensor& indices) const {
  return batch_from(indices, 0);
}

Batch TextFile::draw_batch(const at::Tensor& indices, uint64_t draw) const {
  return batch_from(indices,
                    shift_ ? static_cast<int64_t>(draw % static_cast<uint64_t>(context_)) : 0);
}

Batch TextFile::batch_from(const at::Tensor& indices, int64_t begin) const {
  HALFSTEP_CHECK_USAGE(
      indices.dim() == 1 && indices.scalar_type() == at::kLong && indices.is_cpu() &&
          indices.numel() > 0 && indices.min().item<int64_t>() >= 0 &&
          indices.max().item<int64_t>() < size(),
      "TextFile::get_batch", "indices must be an int64 CPU tensor of numbers from 0 to ",
      size() - 1, ", but got ", indices.toString(), " ", indices.sizes(),
      "; take them from a Loader");
  const auto places =
      indices.mul(context_).add(begin).unsqueeze(1).add(at::arange(context_ + 1, at::kLong));
  const auto tokens = text_.index_select(0, places.flatten()).to(at::kLong).view(places.sizes());
  return {tokens.narrow(1, 0, context_).contiguous(), tokens.narrow(1, 1, context_).contiguous()};
}

std::shared_ptr<Dataset> make_text_file(Config& config) {
  TextFileOptions options;
  options.file = config.get<std::string>("file");
  options.context = config.get<int64_t>("context", options.context);
  if (options.context < 1) config.fail("context", "must be at least 1");
  const auto split = config.get<std::string>("split", "all");
  if (split != "all" && split != "train" && split != "test")
    config.fail("split", "must be all, train or test");
  options.split = split == "all"     ? TextSplit::all
                  : split == "train" ? TextSplit::train
                                     : TextSplit::test;
  options.test_share = config.get<double>("test_share", options.test_share);
  if (!(options.test_share > 0 && options.test_share < 1))
    config.fail("test_share", "must be between 0 and 1");
  return std::make_shared<TextFile>(options);
}

}  // namespace halfstep::train
