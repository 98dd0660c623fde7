#!/usr/bin/env python3
"""Runs examples/demo_model, a model with a training step of its own, in mixed precision and in float32: it must learn."""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--program", required=True)
parser.add_argument("--config", type=Path, required=True)
arguments = parser.parse_args()

for dtype, options in (("bfloat16", []), ("float32", ["--cfg-options", "optim_wrapper.type=OptimWrapper"])):
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run([arguments.program, "train", arguments.config, "--work-dir", folder, "--device", "cpu", *options],
                             check=True, capture_output=True, text=True)
        print(run.stdout, run.stderr)
        if dtype not in run.stdout:
            sys.exit(f"FAILED: it must run in {dtype}")
        end = json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[-1])
        scalars = (Path(folder) / "vis_data" / "scalars.json").read_text()
        if '"loss_cls"' not in scalars or '"accuracy"' not in scalars:
            sys.exit("FAILED: each term must be logged")
        if not end["test_accuracy"] > 0.65:
            sys.exit("FAILED: it must learn")
