#!/usr/bin/env python3
"""Does mixed precision cost accuracy? Trains each config with each seed in float32 and with --amp and compares the pairs.

usage: accuracy.py [--program build/release/halfstep] [--seeds 10] [--limit 0.3] [CONFIG …]

Prints every pair, and per config the mean difference (AMP - float32) in points with its 95 % confidence interval (Student's t).
Fails where a run with --amp left a linear layer or a convolution in float32, a run without it cast one, or the interval does not
lie within the limit.
"""
import argparse
import math
import re
import statistics
import subprocess
import sys
import tempfile

# Student's t, two-sided 95 %, by degrees of freedom.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 14: 2.145, 19: 2.093, 29: 2.045}


def accuracy(program, config, seed, amp):
    with tempfile.TemporaryDirectory(prefix="halfstep-accuracy-") as folder:
        command = [program, "train", config, "--seed", str(seed), "--work-dir", folder] + (["--amp"] if amp else [])
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    dtypes = next(line for line in output.splitlines() if line.startswith("dtypes, counted from the dispatcher"))
    layers = re.findall(r"(linear|convolution) (\S+)", dtypes)
    if not layers or any((dtype in ("bfloat16", "float16")) != amp for _, dtype in layers):
        sys.exit(f"FAILED: {' '.join(command)} ran in the wrong precision: {dtypes}")
    return 100 * float(re.findall(r"^Epoch\(val\) .* accuracy: (\S+)", output, re.M)[-1]), {kind for kind, _ in layers}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("configs", nargs="*", default=["configs/mnist_mlp.yaml", "configs/mnist_cnn.yaml"])
    parser.add_argument("--program", default="build/release/halfstep")
    parser.add_argument("--seeds", type=int, default=10, choices=[n + 1 for n in T95])
    parser.add_argument("--limit", type=float, default=0.3, help="points")
    arguments = parser.parse_args()
    failed = False
    for config in arguments.configs:
        differences, floats, amps = [], [], []
        for seed in range(arguments.seeds):
            (float32, kinds), (amp, cast_kinds) = (accuracy(arguments.program, config, seed, on) for on in (False, True))
            if cast_kinds != kinds:
                sys.exit(f"FAILED: {config} has {sorted(kinds)} in float32, but with --amp {sorted(cast_kinds)}")
            print(f"{config} seed {seed}: float32 {float32:.2f} %, AMP {amp:.2f} %", flush=True)
            floats.append(float32)
            amps.append(amp)
            differences.append(amp - float32)
        mean = statistics.mean(differences)
        half = T95[len(differences) - 1] * statistics.stdev(differences) / math.sqrt(len(differences))
        inside = abs(mean) + half < arguments.limit
        failed = failed or not inside
        print(f"{config}: float32 {statistics.mean(floats):.2f} %, AMP {statistics.mean(amps):.2f} %, difference {mean:+.2f} points, "
              f"95 % interval [{mean - half:+.2f}, {mean + half:+.2f}], {'within' if inside else 'NOT within'} {arguments.limit} points",
              flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
