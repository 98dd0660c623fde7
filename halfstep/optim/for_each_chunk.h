#pragma once
#include "halfstep/optim/kernel_span.h"

#include <algorithm>
#include <functional>
#include <vector>

#include <ATen/Parallel.h>

namespace halfstep::optim::detail {

/// Elements one call of a CPU kernel works on at most. A parallel region splits between chunks.
inline constexpr std::int64_t kChunk = 8192;

/// Chunks below which another thread costs more than it gains: ATen's grain of 32768 elements.
inline constexpr std::int64_t kGrain = 4;

/// Where the chunks of each span begin, counted over all spans, and at last their number.
template <class Spans, class Size>
std::vector<std::int64_t> chunk_offsets(const Spans& spans, const Size& size_of) {
  std::vector<std::int64_t> offsets{0};
  for (const auto& span : spans)
    offsets.push_back(offsets.back() + (size_of(span) + kChunk - 1) / kChunk);
  return offsets;
}

/// Calls `body(span, chunk, begin, end)` for all chunks of all spans, in parallel over the whole:
/// many small tensors cost one parallel region, and few enough elements none. `chunk` counts over
/// all spans.
template <class Body>
void for_each_chunk(const std::vector<std::int64_t>& offsets,
                    const std::function<std::int64_t(std::size_t)>& size_of, const Body& body) {
  at::parallel_for(0, offsets.back(), kGrain, [&](std::int64_t first, std::int64_t last) {
    auto span = static_cast<std::size_t>(std::upper_bound(offsets.begin(), offsets.end(), first) -
                                         offsets.begin() - 1);
    for (auto chunk = first; chunk < last; ++chunk) {
      while (offsets[span + 1] <= chunk) ++span;
      const auto begin = (chunk - offsets[span]) * kChunk;
      body(span, chunk, begin, std::min(begin + kChunk, size_of(span)));
    }
  });
}

}  // namespace halfstep::optim::detail
