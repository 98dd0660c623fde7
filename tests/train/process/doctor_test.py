#!/usr/bin/env python3
"""`halfstep doctor` as a user types it.

usage: doctor_test.py --program BUILD/halfstep --configs CONFIGS [unittest arguments]
"""
import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from processes import Marked
from tiny_data import write_idx

PROGRAM = ""
CONFIGS = Path()


class DoctorTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="halfstep-doctor-test-")
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)
        (self.dir / "tmp").mkdir()
        write_idx(self.dir / "data")
        self.marked = Marked()
        self.environment = self.marked.environment | {"TMPDIR": str(self.dir / "tmp")}
        self.command = [PROGRAM, "doctor", "--device", "cpu"]

    def doctor(self, *arguments, status=0):
        result = subprocess.run([*self.command, *map(str, arguments)], cwd=self.dir, capture_output=True, text=True, timeout=300, env=self.environment)
        self.assertEqual(result.returncode, status, f"{arguments}:\n{result.stdout}{result.stderr}")
        self.assertEqual(list((self.dir / "tmp").iterdir()), [], "nothing may be left behind")
        return result.stdout + result.stderr

    def config(self, *options, steps=4):
        return [CONFIGS / "mnist_mlp.yaml", "--steps", steps, "--cfg-options", f"train_dataloader.dataset.root={self.dir}/data",
                f"test_dataloader.dataset.root={self.dir}/data", "train_dataloader.batch_size=16", *options]

    def test_machine(self):
        output = self.doctor()
        self.assertRegex(output, r"^halfstep \d+\.\d+\.\d+, LibTorch \d+\.\d+\.\d+")
        self.assertRegex(output, r"(?m)^machine: .+, \d+ cores, \d+\.\d GiB; LibTorch computes with \w+ here$")
        self.assertRegex(output, r"(?m)^device cpu \(\d+ threads?\): instructions for bfloat16 products (yes|no), for float16 products (yes|no)$")
        for name in ("float32", "bfloat16", r"float16 \(rehearsed\)"):
            self.assertRegex(output, rf"(?m)^{name} +[\d.]+ [GT]FLOP/s +\d+\.\d\d x +[\d.]+ [GT]FLOP/s +\d+\.\d\d x$")
        self.assertRegex(output, r"(?m)^memory: \d+\.\d GB/s read and written by a copy$")
        self.assertRegex(output, r"\n\n(Train in|Products in) .*\.\n$")

    def test_config(self):
        # A scale that overflows at first, in float16 alone.
        output = self.doctor(*self.config("optim_wrapper.loss_scale={init_scale: 1e9}"))
        for name in ("float32", "bfloat16", r"float16 \(rehearsed\)"):
            self.assertRegex(output, rf"(?m)^{name} +[\d.]+ ms +\d+\.\d\d x +\d{{2,}} MiB +\d+$")
        self.assertRegex(output, r"\n\n(Train this config in|float32 and bfloat16 are equally fast for this config).*\.\n$")
        self.assertFalse((self.dir / "work_dirs").exists())
        self.assertRegex(output, r"(?m)^float16 \(rehearsed\).* MiB +[1-9]$")
        self.assertRegex(output, r"(?m)^float32.* MiB +0$")

    def test_a_run_shorter_than_the_trial(self):
        self.assertRegex(self.doctor(*self.config("train_cfg.max_epochs=1", "train_dataloader.batch_size=240")), r"(?m)^float32 +[\d.]+ ms")

    def test_several_optimizers(self):
        output = self.doctor(CONFIGS / "dcgan.yaml", "--steps", 1, "--cfg-options", f"train_dataloader.dataset.root={self.dir}/data",
                             "train_dataloader.batch_size=8")
        self.assertRegex(output, r"(?m)^bfloat16 +[\d.]+ ms +\d+\.\d\d x +\d+ MiB")

    def test_a_config_that_does_not_run(self):
        output = self.doctor(*self.config("train_dataloader.dataset.root=nowhere"), status=1)
        self.assertEqual(len(re.findall(r"(?m)^\w+.* failed: \[.*nowhere", output)), 3, output)
        self.assertIn("\nThe config ran in no precision.\n", output)
        output = self.doctor("missing.yaml", status=1)
        self.assertIn("missing.yaml", output)
        self.assertNotIn("machine:", output)
        self.assertIn("--steps must be at least 1, but got 0", self.doctor("--steps", 0, status=2))

    def test_trials_end_with_the_doctor(self):
        process = subprocess.Popen([*self.command, *map(str, self.config("train_cfg.max_epochs=100000", steps=1000000))],
                                   cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment)
        end = time.monotonic() + 120
        while not list((self.dir / "tmp").glob("halfstep-doctor-*/run/log.jsonl")):
            self.assertLess(time.monotonic(), end, "no trial began")
            time.sleep(0.05)
        self.assertGreater(len(self.marked.alive()), 1, "the trial must be a process of its own")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 128 + signal.SIGTERM)
        self.assertEqual(self.marked.wait_for_end(), {}, "processes were left behind")
        self.assertEqual(list((self.dir / "tmp").iterdir()), [], "nothing may be left behind")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--configs", type=Path, required=True)
    options, rest = parser.parse_known_args()
    PROGRAM, CONFIGS = options.program, options.configs
    unittest.main(argv=[sys.argv[0], *rest])
