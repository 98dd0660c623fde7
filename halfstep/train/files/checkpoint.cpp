#include "halfstep/train/files/checkpoint.h"

#include "halfstep/core/error.h"
#include "halfstep/core/version.h"

namespace halfstep::train {
namespace {

using nlohmann::json;
constexpr const char* kMetadataKey = "halfstep";

// dump() writes NaN and infinity as null, in silence.
bool all_finite(const json& value) {
  if (value.is_number_float()) return std::isfinite(value.get<double>());
  return !value.is_structured() || std::all_of(value.begin(), value.end(), all_finite);
}

}  // namespace

void Checkpoint::save(const std::filesystem::path& file) const {
  HALFSTEP_CHECK_USAGE(
      all_finite(state), "checkpoint",
      "numbers of a checkpoint's state must be finite, but one is NaN or infinite; "
      "keep it in a tensor");
  const json document = {{"format_version", format_version},
                         {"halfstep", version()},
                         {"torch", torch_version()},
                         {"state", state}};
  std::string text;
  try {
    text = document.dump();
  } catch (const json::exception& error) {
    halfstep::detail::raise<UsageError>(
        "checkpoint", "texts of a checkpoint's state must be UTF-8, but ", error.what());
  }
  // "format": "pt" is what Python's loaders of safetensors ask for.
  save_safetensors(file, {tensors, {{"format", "pt"}, {kMetadataKey, text}}});
}

Checkpoint Checkpoint::load(const std::filesystem::path& file) {
  std::error_code ignored;
  HALFSTEP_CHECK_ENVIRONMENT(std::filesystem::exists(file, ignored), "checkpoint", file.string(),
                             " must be a checkpoint, but there is no such file; check the path");
  Safetensors content = load_safetensors(file);
  const auto text = content.metadata.find(kMetadataKey);
  HALFSTEP_CHECK_ENVIRONMENT(text != content.metadata.end(), "checkpoint", file.string(),
                             " must have halfstep's state in its metadata, but has none; it is "
                             "another program's safetensors file: give a checkpoint of halfstep");
  const json document = json::parse(text->second, nullptr, /*allow_exceptions=*/false);
  const bool readable = document.is_object() && document.contains("format_version") &&
                        document["format_version"].is_number_integer();
  HALFSTEP_CHECK_ENVIRONMENT(readable, "checkpoint", file.string(),
                             " must have JSON with a format_version in its metadata, but its state "
                             "can't be read; the file is damaged: use an older checkpoint");
  const auto found = document["format_version"].get<int64_t>();
  const std::string writer = document.value("halfstep", json()).dump();
  HALFSTEP_CHECK_ENVIRONMENT(found >= 1 && found <= format_version, "checkpoint", file.string(),
                             " must have a format version from 1 to ", format_version, ", but got ",
                             found, " (written by halfstep ", writer,
                             "); use a halfstep at least that new");
  HALFSTEP_CHECK_ENVIRONMENT(document.contains("state"), "checkpoint", file.string(),
                             " must have a state in its metadata, but has none; the file is "
                             "damaged: use an older checkpoint");
  return {std::move(content.tensors), document["state"]};
}

bool Checkpoint::is_one(const std::map<std::string, std::string>& metadata) {
  return metadata.contains(kMetadataKey);
}

}  // namespace halfstep::train
