#!/usr/bin/env python3
"""Runs the MNIST examples and shows that mixed precision changed at most six lines of the program."""
import argparse
import difflib
import re
import subprocess
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--float32", required=True)
parser.add_argument("--amp", required=True)
parser.add_argument("--sources", type=Path, required=True)
arguments = parser.parse_args()

lines = [(arguments.sources / f"mnist_{name}.cpp").read_text().splitlines() for name in ("float32", "amp")]
diff = list(difflib.unified_diff(*lines, "mnist_float32.cpp", "mnist_amp.cpp", lineterm="", n=1))
print("\n".join(diff))
changed = [line for line in diff if line.startswith("+") and not line.startswith("+++")]
removed = [line for line in diff if line.startswith("-") and not line.startswith("---")]
print(f"{len(changed)} lines changed or added")
if not 1 <= len(changed) <= 6 or len(removed) > len(changed):
    sys.exit("FAILED: at most 6 lines may differ")

final = {}
for name, program in (("float32", arguments.float32), ("amp", arguments.amp)):
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    losses = [float(x) for x in re.findall(r"^Train Epoch: [12] \[\d+/60000\] Loss: (\d+\.\d{6})$", output, re.M)]
    print(f"{name}: {len(losses)} lines, loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last")
    if len(losses) != 10 or not losses[0] > 2 > 0.7 > losses[-1]:
        sys.exit(f"FAILED: {program} did not learn:\n{output}")
    final[name] = losses
if final["amp"] == final["float32"]:
    sys.exit("FAILED: both programs printed the same losses: nothing was cast")
