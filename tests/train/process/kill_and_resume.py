#!/usr/bin/env python3
"""Kills training runs with kill -9 and checks that each, resumed, ends with the same bytes as the unbroken run.

usage: kill_and_resume.py --program BUILD/tests/train/process/halfstep_faulty [--kills 100] [--seed 0]

Two thirds of the kills come at random moments, a third at points inside the writing of a file. The runs train a
convolutional net with dropout and shuffling on bfloat16 autocast with a loss scale that overflows and grows on the way (one example
a step: gradients that are not averaged overflow more easily), and save every 3 steps. The last line says how many kills there were and where.
"""
import argparse
import collections
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tiny_data import write_idx

POINTS = ["begin", "half_written", "written", "synced", "renamed", "done"]
STEPS = 60

CONFIG = """
model: {{type: ConvNet}}
loss: {{type: CrossEntropyLoss}}
train_dataloader: {{batch_size: 1, shuffle: true, dataset: {{type: Mnist, root: {data}, split: train, limit: 30}}}}
test_dataloader: {{batch_size: 100, dataset: {{type: Mnist, root: {data}, split: test}}}}
optim_wrapper:
  type: AmpOptimWrapper
  loss_scale: {{init_scale: 3.0e+38, growth_interval: 4, growth_factor: 1024.0, backoff_factor: 0.0009765625}}
  optimizer: {{type: Adam, lr: 0.001}}
param_scheduler: [{{type: StepLR, step_size: 1, gamma: 0.5}}]
train_cfg: {{max_epochs: 2}}
default_hooks: {{checkpoint: {{step_interval: 3}}}}
"""


def run(program, config, work_dir, resume, fault=None, kill_after=None):
    """Runs the command; returns True if it was killed, else False. Any other end fails the test."""
    environment = dict(os.environ)
    if fault:
        environment["HALFSTEP_FAULT"] = fault
    command = [program, "train", str(config), "--work-dir", str(work_dir), "--device", "cpu"] + (["--resume"] if resume else [])
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    if process.returncode == -9:
        return True
    if process.returncode != 0:
        sys.exit(f"FAILED: {' '.join(command)} ended with {process.returncode}:\n{output}")
    return False


def final_bytes(work_dir):
    return (work_dir / "checkpoints" / f"step_{STEPS:08}.safetensors").read_bytes()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    counts = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="halfstep-kill-") as folder:
        folder = Path(folder)
        write_idx(folder / "data")
        config = folder / "run.yaml"
        config.write_text(CONFIG.format(data=folder / "data"))
        start = time.monotonic()
        run(arguments.program, config, folder / "whole", resume=False)
        seconds = time.monotonic() - start
        expected = final_bytes(folder / "whole")
        log = (folder / "whole" / "log.jsonl").read_text()
        if '"skipped_steps":0,' in log.splitlines()[-1]:
            sys.exit("FAILED: no step overflowed, so the runs prove less than they should")
        runs = 0
        while sum(counts.values()) < arguments.kills:
            work_dir = folder / f"run_{runs}"
            resume = False
            # One to four kills in a row, each on the run that the one before left behind.
            for _ in range(generator.randint(1, 4)):
                number = sum(counts.values())
                if number >= arguments.kills:
                    break
                if number % 3 == 0:
                    point = POINTS[number // 3 % len(POINTS)]
                    if not run(arguments.program, config, work_dir, resume, fault=f"{point}:{generator.randint(1, 8)}"):
                        break
                    counts[point] += 1
                else:
                    if not run(arguments.program, config, work_dir, resume, kill_after=generator.uniform(0.1, seconds)):
                        break
                    counts["a random moment"] += 1
                resume = True
            while run(arguments.program, config, work_dir, resume=True):
                pass
            if final_bytes(work_dir) != expected:
                sys.exit(f"FAILED: run {runs} ended with other bytes than the unbroken run after these kills: {dict(counts)}")
            stray = [str(p) for p in work_dir.rglob("*") if p.is_file() and not p.name.startswith("step_")
                     and p.name not in ("config.yaml", "log.jsonl", "scalars.json")]
            if stray:
                sys.exit(f"FAILED: run {runs} left files behind: {stray}")
            runs += 1
    print(f"{sum(counts.values())} kills in {runs} runs, each resumed to the same bytes: {dict(sorted(counts.items()))}")


if __name__ == "__main__":
    main()
