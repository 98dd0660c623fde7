#!/usr/bin/env python3
"""What TensorboardHook writes, read by TensorBoard itself.

usage: tensorboard_test.py --program BUILD/halfstep --source SOURCES [unittest arguments]
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tiny_data import write_idx

PROGRAM = ""
SOURCE = Path()
HOOK = "custom_hooks=[{type: TensorboardHook, interval: 5}]"

# Prints all that TensorBoard finds in a folder.
READER = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
tags = events.Tags()
print(json.dumps({"scalars": {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]},
                  "texts": {tag: [e.tensor_proto.string_val[0].decode() for e in events.Tensors(tag)] for tag in tags["tensors"]}}))
"""


def python():
    return os.environ.get("HALFSTEP_TEST_PYTHON") or str(SOURCE / ".venv/bin/python")


class TensorboardTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="halfstep-tensorboard-")
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)
        write_idx(self.dir / "data")

    def train(self, *arguments, options=(), status=0):
        result = subprocess.run([PROGRAM, "train", str(SOURCE / "configs/mnist_mlp.yaml"), "--amp", "--device", "cpu", "--work-dir", "w", *arguments,
                                 "--cfg-options", f"train_dataloader.dataset.root={self.dir}/data", f"test_dataloader.dataset.root={self.dir}/data",
                                 "default_hooks.logger.interval=5", "train_dataloader.batch_size=16", HOOK, *options],
                                cwd=self.dir, capture_output=True, text=True, timeout=300)
        self.assertEqual(result.returncode, status, result.stdout + result.stderr)
        return result.stdout + result.stderr

    def read(self, folder="w"):
        result = subprocess.run([python(), "-c", READER, str(self.dir / folder)], capture_output=True, text=True, timeout=120)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def lines(self):
        return [json.loads(line) for line in (self.dir / "w/vis_data/scalars.json").read_text().splitlines()]

    def test_tensorboard_reads_what_the_log_says(self):
        self.train("--seed", "3", options=["optim_wrapper.dtype=float16"])
        found = self.read("w/vis_data")
        scalars = found["scalars"]
        train = [line for line in self.lines() if "lr" in line]
        self.assertEqual([step for step, _ in scalars["train/loss"]], list(range(5, 61, 5)))
        for name in ("loss", "lr", "loss_scale", "skipped"):
            for (step, value), line in zip(scalars[f"train/{name}"], train, strict=True):
                self.assertEqual(step, line["step"])
                self.assertAlmostEqual(value, line[name], delta=1e-6 * abs(line[name]))
        self.assertGreater(scalars["train/loss_scale"][0][1], 1)
        validations = [line for line in self.lines() if "accuracy" in line]
        self.assertEqual([step for step, _ in scalars["val/accuracy"]], [30, 60])
        for (_, value), line in zip(scalars["val/accuracy"], validations, strict=True):
            self.assertAlmostEqual(value, line["accuracy"], places=6)
        self.assertNotIn("train/step", scalars)
        [config] = found["texts"]["config/text_summary"]
        self.assertIn("    type: Mlp", config.replace("      ", "    "))

    def test_a_resumed_run_takes_the_place_of_what_was_lost(self):
        self.train(options=["default_hooks.checkpoint.by_epoch=false", "default_hooks.checkpoint.interval=30"])
        first = self.read("w/vis_data")["scalars"]["train/loss"]
        (self.dir / "w/checkpoints/step_00000060.safetensors").unlink()
        self.train("--resume", options=["default_hooks.checkpoint.by_epoch=false", "default_hooks.checkpoint.interval=30"])
        files = list((self.dir / "w/vis_data").glob("events.out.tfevents.*"))
        self.assertEqual(len(files), 2)
        both = self.read("w/vis_data")["scalars"]
        self.assertEqual([step for step, _ in both["train/loss"]], list(range(5, 61, 5)), "no step may be there twice")
        # The validation of the step that was saved is made again, with the same result.
        self.assertEqual([step for step, _ in both["val/accuracy"]], [30, 30, 60])
        self.assertEqual(both["val/accuracy"][0], both["val/accuracy"][1])
        self.assertEqual(both["train/loss"][:6], first[:6])

    def test_a_wrong_interval_is_an_error(self):
        output = self.train(options=["custom_hooks=[{type: TensorboardHook, interval: 0}]"], status=2)
        self.assertIn("must be at least 1 step", output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--source", type=Path, required=True)
    options, rest = parser.parse_known_args()
    PROGRAM, SOURCE = options.program, options.source
    if subprocess.run([python(), "-c", "import tensorboard"], capture_output=True).returncode != 0:
        print("SKIPPED, NOTHING WAS TESTED: this needs tensorboard in .venv or in HALFSTEP_TEST_PYTHON")
        sys.exit(1 if os.environ.get("HALFSTEP_REQUIRE_PYTHON") == "1" else 77)
    unittest.main(argv=[sys.argv[0], *rest])
