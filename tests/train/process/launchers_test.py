#!/usr/bin/env python3
"""Tests of `halfstep train` started by others: PyTorch's torchrun and Open MPI's mpirun.

usage: launchers_test.py --program BUILD/halfstep --configs CONFIGS [unittest arguments]
"""
import os
import shutil
import signal
import tempfile
import time
import unittest
from pathlib import Path

import jobs
import torch_without_cuda

TRAIN = ["halfstep", "train", "configs/mnist_mlp.yaml"]
LEARNS = ("train_cfg.max_epochs=6", "optim_wrapper.optimizer.lr=0.01")
ENDLESS = "train_cfg.max_epochs=100000"


class Launchers:
    """The tests of each launcher; `self.launch(N)` gives its words."""

    def test_documented_line_trains(self):
        line = self.documented(self.NAME)
        self.assertIn("configs/mnist_mlp.yaml --amp", line)
        output = self.run_job([*line.split(), *self.small(*LEARNS)])
        self.assertIn("process 0 of 2 (gloo)", output)
        self.assertIn("(2 x 64)", output)
        self.check_trained()

    def test_signal_saves(self):
        process = self.start([*self.launch(2), *TRAIN, *self.small(ENDLESS)])
        self.wait_for_checkpoint(process)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
        self.assertNotEqual(process.returncode, 0)
        self.assertEqual(self.marked.wait_for_end(), {}, output)
        # mpirun may put one stream's bytes into a line of the other.
        said = output.replace("\nstopping after this step; once more to end at once\n", "")
        self.assertRegex(said, r"stopped by SIGTERM after step \d+: saved")
        self.assertIn("was written by 2 processes", self.checkpoint_opens())

    def test_killed_rank_ends_the_job(self):
        process = self.start([*self.launch(2), *TRAIN, *self.small(ENDLESS)])
        self.wait_for_checkpoint(process)
        victim = self.ranks_alive(2)[1]
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        output = process.communicate(timeout=60)[0]
        self.assertLess(time.monotonic() - began, jobs.LIMIT, output)
        self.assertNotEqual(process.returncode, 0)
        self.assertRegex(output, self.KILLED)
        self.assertEqual(self.marked.wait_for_end(), {}, output)
        self.checkpoint_opens()


class TorchrunTest(Launchers, jobs.JobTest):
    NAME = "torchrun"
    KILLED = r"(?i)signal 9 \(SIGKILL\)|exitcode: -9"

    @classmethod
    def setUpClass(cls):
        cls.python = os.environ.get("HALFSTEP_TEST_PYTHON") or str(cls.configs.parent / ".venv/bin/python")
        folder = tempfile.TemporaryDirectory(prefix="halfstep-torchrun-")
        cls.addClassCleanup(folder.cleanup)
        cls.stand_ins = Path(folder.name)
        why = torch_without_cuda.why_no_torchrun(cls.python, cls.stand_ins)
        if why and os.environ.get("HALFSTEP_REQUIRE_PYTHON") == "1":
            raise RuntimeError(f"torchrun must be there (scripts/setup installs it), but {why}")
        if why:
            raise unittest.SkipTest(jobs.NOTHING + why)

    def setUp(self):
        super().setUp()
        self.marked.environment["PYTHONPATH"] = str(self.stand_ins)
        self.marked.environment["PATH"] += f":{Path(self.python).absolute().parent}"

    def launch(self, ranks):
        return ["torchrun", "--no-python", "--nproc-per-node", str(ranks)]

    # torchrun's own store, which it keeps, is the ranks'; a second attempt must not read what the first has left there.
    def test_restarts(self):
        (self.dir / "once").write_text("[ $RANK = 1 ] && [ $TORCHELASTIC_RESTART_COUNT = 0 ] && exit 3; exec \"$@\"\n")
        words = self.launch(2)
        words.insert(words.index("--no-python"), "--max-restarts=1")
        output = self.run_job([*words, "bash", "once", *TRAIN, "--amp", *self.small(*LEARNS)])
        self.assertIn("process 0 of 2 (gloo)", output)
        self.check_trained()


class MpirunTest(Launchers, jobs.JobTest):
    NAME = "mpirun"
    KILLED = r"exited on signal 9 \(Killed\)"

    def setUp(self):
        super().setUp()
        if not shutil.which("mpirun"):
            self.skipTest(jobs.NOTHING + "mpirun is missing (Debian: openmpi-bin; scripts/setup --ci installs it)")
        # root in a container, and machines of one core
        self.marked.environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                                    "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_plm_rsh_agent": "false"}

    def launch(self, ranks):
        return ["mpirun", "-n", str(ranks)]

    def test_two_jobs_share_a_machine(self):
        first = self.start([*self.launch(2), *TRAIN, *self.small(ENDLESS)])
        self.wait_for_checkpoint(first)
        second = self.start([*self.launch(2), *TRAIN, "--device", "cpu", "--work-dir", "other", *self.small_data()])
        output = second.communicate(timeout=60)[0]
        self.assertEqual(second.returncode, 0, output)
        self.assertIn("process 0 of 2 (gloo)", output)
        first.send_signal(signal.SIGTERM)
        self.assertRegex(first.communicate(timeout=60)[0], r"stopped by SIGTERM")


if __name__ == "__main__":
    jobs.main()
