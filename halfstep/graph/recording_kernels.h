#pragma once

namespace halfstep::detail {

/// Puts a kernel of ours on DispatchKey::Fake, between autograd and the devices' kernels, for each
/// op of the process that has none yet: it hands the call to the thread's Recorder. Only threads
/// that include that key ever call it. No other thread may compute while ops are added, since the
/// dispatcher's tables are read without a lock.
void register_recording_kernels();

}  // namespace halfstep::detail
