#pragma once

namespace halfstep::train {

/// The whole `halfstep` command: `halfstep train CONFIG …`, `halfstep test CONFIG CHECKPOINT …`. A
/// program that registers classes of its own and calls this is a trainer for them. Returns the exit
/// status: 0, 1 where the environment failed, 2 for a mistake in arguments or config and for a run
/// whose numbers went wrong, 128 + N after signal N (state saved).
///
///   int main(int argc, char** argv) {
///     halfstep::train::models().add("MyNet", [](halfstep::train::Config& c) { … });
///     return halfstep::train::main(argc, argv);
///   }
int main(int argc, char** argv);

}  // namespace halfstep::train
