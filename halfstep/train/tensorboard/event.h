#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

/// TensorBoard's events as bytes. Its own part of the build: protobuf's headers and LibTorch's
/// folder, which has some of another version, don't go together.
namespace halfstep::train::detail {

/// An event's place: its step, and the time in seconds since 1970.
struct EventPlace {
  int64_t step = 0;
  double wall_time = 0;
};

/// The first event of each file.
std::string version_event(double wall_time);
/// A run goes on: what earlier files have from this step on counts no more.
std::string start_event(const EventPlace& place);
/// Numbers by tag; TensorBoard keeps float32.
std::string scalars_event(const EventPlace& place,
                          const std::vector<std::pair<std::string, double>>& scalars);
/// A text, in Markdown.
std::string text_event(const EventPlace& place, const std::string& tag, const std::string& text);

/// A record of an event file: length, a checksum of it, the bytes, a checksum of them (CRC-32C,
/// turned and shifted as the format has it).
std::string record(const std::string& bytes);

}  // namespace halfstep::train::detail
