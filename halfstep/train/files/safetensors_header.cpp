#include "halfstep/train/files/safetensors_header.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

namespace halfstep::train {
namespace {

using nlohmann::json;
using Dtype = SafetensorsDtype;

struct DtypeRow {
  Dtype dtype;
  std::string_view name;
  uint64_t size;
};

constexpr std::array<DtypeRow, 15> kDtypes{{{Dtype::BOOL, "BOOL", 1},
                                            {Dtype::U8, "U8", 1},
                                            {Dtype::I8, "I8", 1},
                                            {Dtype::F8_E4M3, "F8_E4M3", 1},
                                            {Dtype::F8_E5M2, "F8_E5M2", 1},
                                            {Dtype::U16, "U16", 2},
                                            {Dtype::I16, "I16", 2},
                                            {Dtype::F16, "F16", 2},
                                            {Dtype::BF16, "BF16", 2},
                                            {Dtype::U32, "U32", 4},
                                            {Dtype::I32, "I32", 4},
                                            {Dtype::F32, "F32", 4},
                                            {Dtype::U64, "U64", 8},
                                            {Dtype::I64, "I64", 8},
                                            {Dtype::F64, "F64", 8}}};

const DtypeRow& row(Dtype dtype) {
  return kDtypes.at(static_cast<size_t>(dtype));
}

template <class... Parts>
void check(bool condition, const std::string& file, const Parts&... parts) {
  HALFSTEP_CHECK_ENVIRONMENT(condition, "safetensors", file, ": ", parts...,
                             "; the file is damaged or not a safetensors file: get it again");
}

std::string shorten(const std::string& text) {
  return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

// JSON of a known small depth, every key of an object at most once.
json parse_json(std::string_view text, const std::string& file) {
  std::vector<std::set<std::string>> keys;
  const auto callback = [&](int depth, json::parse_event_t event, json& parsed) {
    check(depth <= 3, file, "the header must nest at most 3 deep, but goes deeper");
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      check(keys.back().insert(key).second, file, "a name must be given once, but '", shorten(key),
            "' is given twice");
    }
    return true;
  };
  try {
    return json::parse(text, callback);
  } catch (const json::exception& error) {
    check(false, file, "the header must be JSON, but ", shorten(error.what()));
    throw;
  }
}

// JSON numbers of the header are sizes: whole, not negative, below 2^63.
uint64_t parse_size(const json& value, const std::string& file, const std::string& name) {
  const bool whole = value.is_number_unsigned();
  const uint64_t size = whole ? value.get<uint64_t>() : 0;
  check(whole && size <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()), file,
        "sizes and offsets of '", shorten(name), "' must be whole numbers from 0 to 2^63 - 1");
  return size;
}

SafetensorsEntry parse_entry(const std::string& name, const json& value, const std::string& file) {
  const bool right_keys = value.is_object() && value.size() == 3 && value.contains("dtype") &&
                          value.contains("shape") && value.contains("data_offsets");
  check(right_keys, file, "'", shorten(name), "' must have dtype, shape and data_offsets only");
  const json& dtype = value["dtype"];
  const json& shape = value["shape"];
  const json& offsets = value["data_offsets"];
  check(dtype.is_string() && shape.is_array() && offsets.is_array() && offsets.size() == 2, file,
        "'", shorten(name), "' must have a text, a list and a list of two numbers");

  SafetensorsEntry entry;
  entry.name = name;
  const auto& word = dtype.get_ref<const std::string&>();
  const auto known = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeRow& candidate) {
    return candidate.name == word;
  });
  check(known != kDtypes.end(), file, "the dtype of '", shorten(name),
        "' must be one that LibTorch has, but got '", shorten(word), "'");
  entry.dtype = known->dtype;
  entry.begin = parse_size(offsets[0], file, name);
  entry.end = parse_size(offsets[1], file, name);

  uint64_t bytes = known->size;
  bool overflow = false;
  bool empty = false;
  for (const json& dimension : shape) {
    const uint64_t size = parse_size(dimension, file, name);
    entry.shape.push_back(static_cast<int64_t>(size));
    // LibTorch multiplies the other sizes of an empty tensor too, so they may not overflow either.
    overflow = overflow || __builtin_mul_overflow(bytes, std::max<uint64_t>(size, 1), &bytes) ||
               bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    empty = empty || size == 0;
  }
  check(!overflow, file, "the size of '", shorten(name), "' must be below 2^63 bytes");
  if (empty) bytes = 0;
  check(entry.begin <= entry.end && entry.end - entry.begin == bytes, file, "'", shorten(name),
        "' must have ", bytes, " bytes by its shape and dtype, but its offsets are ", entry.begin,
        " and ", entry.end);
  return entry;
}

}  // namespace

std::string_view name_of(SafetensorsDtype dtype) {
  return row(dtype).name;
}

uint64_t size_of(SafetensorsDtype dtype) {
  return row(dtype).size;
}

uint64_t parse_safetensors_length(std::string_view bytes, uint64_t file_size,
                                  const std::string& file) {
  check(file_size >= 10, file, "a safetensors file must have at least 10 bytes, but got ",
        file_size);
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes.at(i));
  check(length >= 2 && length <= kMaxSafetensorsHeader, file,
        "the first 8 bytes must be the header's length, from 2 to ", kMaxSafetensorsHeader,
        ", but got ", length);
  check(length <= file_size - 8, file, "the header must have ", length,
        " bytes, but the file has only ", file_size);
  return length;
}

SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t file_size,
                                           const std::string& file) {
  check(text.size() <= kMaxSafetensorsHeader && file_size >= 8 && text.size() <= file_size - 8,
        file, "the header must fit in the file, but has ", text.size(), " of ", file_size,
        " bytes");
  check(text.starts_with('{'), file, "the header must begin with '{'");
  const json parsed = parse_json(text, file);

  SafetensorsHeader header;
  for (const auto& [name, value] : parsed.items()) {
    if (name == "__metadata__") {
      check(value.is_object(), file, "__metadata__ must be an object of texts");
      for (const auto& [key, metadata] : value.items()) {
        check(metadata.is_string(), file, "__metadata__ must hold texts only, but '", shorten(key),
              "' is none");
        header.metadata[key] = metadata.get<std::string>();
      }
    } else {
      header.entries.push_back(parse_entry(name, value, file));
    }
  }
  std::stable_sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t position = 0;
  for (const auto& entry : header.entries) {
    check(entry.begin == position, file,
          "tensors must follow each other without gap or overlap, "
          "but '",
          shorten(entry.name), "' begins at ", entry.begin, ", not at ", position);
    position = entry.end;
  }
  const uint64_t data_size = file_size - 8 - text.size();
  check(position == data_size, file, "the tensors must have ", position,
        " bytes as the header says, but the file has ", data_size, " for them",
        data_size < position ? " (it was cut off)" : "");
  return header;
}

std::string write_safetensors_header(const SafetensorsHeader& header) {
  json object = json::object();
  if (!header.metadata.empty()) object["__metadata__"] = header.metadata;
  for (const auto& entry : header.entries) {
    HALFSTEP_CHECK_USAGE(entry.name != "__metadata__" && !object.contains(entry.name),
                         "safetensors",
                         "a tensor's name must be its own and not __metadata__, "
                         "but got '",
                         entry.name, "'");
    object[entry.name] = {{"dtype", name_of(entry.dtype)},
                          {"shape", entry.shape},
                          {"data_offsets", {entry.begin, entry.end}}};
  }
  std::string text;
  try {
    text = object.dump();
  } catch (const json::exception& error) {
    halfstep::detail::raise<UsageError>("safetensors", "names and metadata must be UTF-8, but ",
                                        error.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  HALFSTEP_CHECK_USAGE(text.size() <= kMaxSafetensorsHeader, "safetensors",
                       "names and metadata must fit in ", kMaxSafetensorsHeader,
                       " bytes, but take ", text.size());
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  return bytes + text;
}

}  // namespace halfstep::train
