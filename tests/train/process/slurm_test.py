#!/usr/bin/env python3
"""Tests of `tools/slurm_train.sh`, and so of `halfstep slurm-train`, by a real Slurm of one node.

usage: slurm_test.py --program BUILD/halfstep --configs CONFIGS [unittest arguments]
"""
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import jobs
from one_node_slurm import OneNodeSlurm

LEARNS = ("train_cfg.max_epochs=6", "optim_wrapper.optimizer.lr=0.01")
ENDLESS = "train_cfg.max_epochs=100000"
# A machine without GPUs, as in docs/scaling.md.
TWO_TASKS = {"GPUS": "2", "GPUS_PER_NODE": "0", "CPUS_PER_TASK": "1"}


def listening_ports():
    ports = set()
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(file).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


class SlurmTest(jobs.JobTest):
    slurm: OneNodeSlurm

    @classmethod
    def setUpClass(cls):
        cls.slurm = OneNodeSlurm()
        cls.slurm.__enter__()
        cls.addClassCleanup(cls.slurm.stop)

    def setUp(self):
        super().setUp()
        del self.marked.environment["OMP_NUM_THREADS"]
        self.marked.environment |= self.slurm.environment

    def slurm_train(self, name, *options, work_dir="run"):
        return ["bash", "tools/slurm_train.sh", "debug", name, "configs/mnist_mlp.yaml", work_dir, *options]

    def start_endless(self, name, *options, **keywords):
        process = self.start(self.slurm_train(name, "--device", "cpu", *options, *self.small_data(ENDLESS), **keywords), **TWO_TASKS)
        if keywords.get("work_dir", "run") == "run":
            self.wait_for_checkpoint(process)
        return process, self.slurm.job_named(name)

    def test_seeds_line_trains_two_ranks(self):
        line = "bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR --amp"
        for name, value in (("PARTITION", "debug"), ("JOB_NAME", "seed"), ("CONFIG", "configs/mnist_mlp.yaml"), ("WORK_DIR", "run")):
            line = line.replace(name, value)
        output = self.run_job([*line.split(), *self.small_data(*LEARNS)], **TWO_TASKS)
        self.assertIn("process 0 of 2 (gloo)", output)
        self.assertIn("(2 x 64)", output)
        self.assertRegex(output, r"(?m)^checkpoint run/checkpoints/step_")
        self.check_trained()
        # What srun was told, but for the job's own words.
        words = shlex.split(self.run_job([*line.split(), "--dry-run"], **TWO_TASKS))
        self.assertEqual(words[:7], ["OMP_NUM_THREADS=1", "srun", "-p", "debug", "--job-name=seed", "--ntasks=2", "--cpus-per-task=1"])

    def test_gpus_are_asked_for_unless_there_are_none_on_a_node(self):
        output = self.start(self.slurm_train("gpus", *self.small_data()), **TWO_TASKS | {"GPUS_PER_NODE": "2"}).communicate(timeout=60)[0]
        self.assertIn("Invalid generic resource (gres) specification", output)

    def test_srun_args_reach_srun(self):
        output = self.run_job(self.slurm_train("arguments", "--device", "cpu", *self.small_data()), SRUN_ARGS="--label --comment=of-mine", **TWO_TASKS)
        self.assertRegex(output, r"(?m)^0: process 0 of 2")

    # Told apart by job number, so that two on a node don't collide.
    def test_ports_come_from_the_job(self):
        running = [self.start_endless("one"), self.start_endless("two", work_dir="other")]
        end = time.monotonic() + 60
        while not (self.dir / "other/checkpoints").exists():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        ports = [10000 + 8 * job % 19500 for _, job in running]
        self.assertNotEqual(*ports)
        self.assertLessEqual(set(ports), listening_ports())
        for process, job in running:
            self.slurm.ask("scancel", str(job))
        for process, _ in running:
            self.assertIn("stopped by SIGTERM", process.communicate(timeout=60)[0])

    # As at the end of a job's time: SIGTERM, and KillWait later SIGKILL.
    def test_cancelled_job_saves(self):
        process, job = self.start_endless("cancelled")
        self.slurm.ask("scancel", str(job))
        output = process.communicate(timeout=60)[0]
        self.assertRegex(output, r"stopped by SIGTERM after step \d+: saved run/checkpoints/step_")
        self.assertIn("stopped by SIGTERM", self.log_of(1))
        self.assertNotEqual(process.returncode, 0)
        self.assertIn("was written by 2 processes", self.checkpoint_opens())

    def test_signal_ends_with_its_status(self):
        process, job = self.start_endless("warned")
        self.slurm.ask("scancel", "--signal=USR1", str(job))
        output = self.finish(process, 128 + signal.SIGUSR1)
        self.assertRegex(output, r"stopped by SIGUSR1 after step \d+: saved")
        self.assertIn("was written by 2 processes", self.checkpoint_opens())

    def test_requeue_submits_it_again(self):
        process, job = self.start_endless("again", "--requeue")
        self.slurm.ask("scancel", "--signal=USR1", str(job))
        end = time.monotonic() + 60
        again = job
        while again == job:
            self.assertLess(time.monotonic(), end)
            again = self.slurm.job_named("again")
        step = max(int(file.stem[5:]) for file in (self.dir / "run/checkpoints").glob("step_*.safetensors"))
        self.wait_for_checkpoint(process, after=step)
        self.slurm.ask("scancel", str(again))
        output = process.communicate(timeout=60)[0]
        stopped = int(re.search(r"stopped by SIGUSR1 after step (\d+): saved", output)[1])
        self.assertIn("saved and stopped by SIGUSR1: submitting the job again\n", output)
        self.assertRegex(output, rf"resumed from run/checkpoints/step_0*{stopped}\.safetensors after step {stopped}\n")
        self.assertRegex(output, r"stopped by SIGTERM")

    # A batch script as docs/scaling.md has it.
    def test_batch_job_goes_back_into_the_queue(self):
        (self.dir / "epochs").write_text("100000")
        options = shlex.join(str(word) for word in ("train", "configs/mnist_mlp.yaml", *self.small()))
        (self.dir / "job.sh").write_text(f"""#!/bin/bash
#SBATCH --partition=debug --job-name=batch --ntasks=2 --requeue --open-mode=append --output=job.log
srun {self.program} {options} train_cfg.max_epochs=$(cat epochs) --requeue
echo "status $? after restarts: ${{SLURM_RESTART_COUNT:-0}}" >> statuses
""")
        submitted = self.start(["sbatch", "--parsable", "job.sh"])
        job = submitted.communicate(timeout=60)[0].strip()
        step = self.wait_for_checkpoint()
        (self.dir / "epochs").write_text("1")
        self.slurm.ask("scancel", "--signal=USR1", job)
        end = time.monotonic() + 90
        log = ""
        while "resumed from" not in log or self.marked.alive():
            self.assertLess(time.monotonic(), end, log + self.slurm.ask("scontrol", "show", "job", job))
            time.sleep(0.2)
            log = (self.dir / "job.log").read_text()
        stopped = int(re.search(r"stopped by SIGUSR1 after step (\d+)", log)[1])
        self.assertGreaterEqual(stopped, step)
        self.assertIn("asking Slurm to put this job back into its queue\n", log)
        self.assertRegex(log, rf"resumed from run/checkpoints/step_0*{stopped}\.safetensors after step {stopped}\n")
        self.assertIn("status 0 after restarts: 1", (self.dir / "statuses").read_text(), log)

    def test_killed_rank_ends_the_job(self):
        process, _ = self.start_endless("killed")
        victim = self.ranks_alive(2)[1]
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        output = process.communicate(timeout=60)[0]
        self.assertLess(time.monotonic() - began, jobs.LIMIT, output)
        self.assertIn(process.returncode, (128 + signal.SIGKILL, 128 + signal.SIGTERM), output)  # srun ends the other by SIGTERM
        self.assertRegex(output, r"task 1: Killed")
        self.assertEqual(self.marked.wait_for_end(), {}, output)
        self.checkpoint_opens()

    def test_several_steps_in_one_allocation(self):
        script = f"srun -n 2 {shlex.join(str(w) for w in (self.program, 'train', 'configs/mnist_mlp.yaml', *self.small()))} && " \
                 f"{shlex.join(str(w) for w in (self.program, 'train', 'configs/mnist_mlp.yaml', '--device', 'cpu', '--work-dir', 'alone', *self.small_data()))}"
        output = self.run_job(["salloc", "-p", "debug", "-n", "2", "bash", "-c", script])
        self.assertIn("process 0 of 2", output)
        # In the shell of an allocation, which is no task: alone.
        self.assertIn("480 training examples in 8 batches of 64;", output)


if __name__ == "__main__":
    why = OneNodeSlurm.why_not()
    if why:
        jobs.skip_all(why)
    jobs.main()
