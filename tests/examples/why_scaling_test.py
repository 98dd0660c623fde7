#!/usr/bin/env python3
"""Runs examples/why_scaling: float16 alone stands still, with a scaler it learns as float32 does."""
import re
import subprocess
import sys

output = subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout
print(output)
runs = {name.strip(): (float(first), float(last), int(zeros)) for name, first, last, zeros in
        re.findall(r"^(.*) loss (\S+) at first, (\S+) at last; +(\d+) % of", output, re.M)}
if list(runs) != ["float32", "float16", "float16 and a scaler"]:
    sys.exit("FAILED: three lines were expected")
first, last, zeros = runs["float16"]
if zeros != 100 or first != last:
    sys.exit("FAILED: float16 without a scaler must lose all its gradients")
for name in ("float32", "float16 and a scaler"):
    first, last, zeros = runs[name]
    if zeros > 50 or not last < 0.2 * first:
        sys.exit(f"FAILED: {name} must learn")
