#include "halfstep/train/tensorboard/event.h"

#include <array>
#include <cstddef>

#include <events.pb.h>

namespace halfstep::train::detail {

namespace {

using tensorboard::Event;

constexpr int kTextDtype = 7;

Event event_at(const EventPlace& place) {
  Event event;
  event.set_wall_time(place.wall_time);
  event.set_step(place.step);
  return event;
}

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0);
    table[byte] = crc;
  }
  return table;
}

uint32_t masked_crc32c(const std::string& bytes) {
  static constexpr auto table = make_crc_table();
  uint32_t crc = ~0U;
  for (const char c : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

template <class Number>
std::string little_endian(Number number) {
  std::string bytes;
  for (size_t i = 0; i < sizeof(number); ++i)
    bytes.push_back(static_cast<char>(number >> (8 * i) & 0xff));
  return bytes;
}

}  // namespace

std::string version_event(double wall_time) {
  auto event = event_at({.step = 0, .wall_time = wall_time});
  event.set_file_version("brain.Event:2");
  return event.SerializeAsString();
}

std::string start_event(const EventPlace& place) {
  auto event = event_at(place);
  event.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  return event.SerializeAsString();
}

std::string scalars_event(const EventPlace& place,
                          const std::vector<std::pair<std::string, double>>& scalars) {
  auto event = event_at(place);
  for (const auto& [tag, number] : scalars) {
    auto* value = event.mutable_summary()->add_value();
    value->set_tag(tag);
    value->set_simple_value(static_cast<float>(number));
  }
  return event.SerializeAsString();
}

std::string text_event(const EventPlace& place, const std::string& tag, const std::string& text) {
  auto event = event_at(place);
  auto* value = event.mutable_summary()->add_value();
  value->set_tag(tag + "/text_summary");
  value->mutable_metadata()->mutable_plugin_data()->set_plugin_name("text");
  auto* tensor = value->mutable_tensor();
  tensor->set_dtype(kTextDtype);
  tensor->mutable_tensor_shape()->add_dim()->set_size(1);
  tensor->add_string_val(text);
  return event.SerializeAsString();
}

std::string record(const std::string& bytes) {
  const auto length = little_endian(static_cast<uint64_t>(bytes.size()));
  return length + little_endian(masked_crc32c(length)) + bytes +
         little_endian(masked_crc32c(bytes));
}

}  // namespace halfstep::train::detail
