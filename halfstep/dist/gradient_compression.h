#pragma once
#include <memory>

#include <c10/util/intrusive_ptr.h>

namespace c10d {
class CommHookInterface;
class ProcessGroup;
}  // namespace c10d

namespace halfstep::detail {

/// What Python calls bf16_compress_hook: a bucket is rounded to bfloat16, divided by the number of
/// ranks, summed, and cast back.
std::unique_ptr<c10d::CommHookInterface> make_bfloat16_hook(
    const c10::intrusive_ptr<c10d::ProcessGroup>& group);

}  // namespace halfstep::detail
