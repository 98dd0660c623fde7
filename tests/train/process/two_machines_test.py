#!/usr/bin/env python3
"""Tests of jobs on two machines, which are network namespaces here: what they reach, and what becomes of a rank, a cable or an address that fails.

usage: two_machines_test.py --program BUILD/halfstep --configs CONFIGS [unittest arguments]
"""
import os
import shutil
import signal
import subprocess
import time

import jobs
from two_machines import TwoMachines

PORT = "29517"
LEARNS = ("train_cfg.max_epochs=6", "optim_wrapper.optimizer.lr=0.01")
ENDLESS = "train_cfg.max_epochs=100000"


class TwoMachinesTest(jobs.JobTest):
    def setUp(self):
        super().setUp()
        self.machines = TwoMachines()
        self.machines.__enter__()
        self.addCleanup(self.machines.remove)
        self.master = self.machines.a.address

    def start_node(self, node, *options, ranks=1, **variables):
        """The line of tools/dist_train.sh, typed on one of the machines."""
        machine = (self.machines.a, self.machines.b)[node]
        environment = {"NNODES": "2", "NODE_RANK": str(node), "MASTER_ADDR": self.master, "PORT": PORT} | variables
        return self.start(machine.command("bash", "tools/dist_train.sh", "configs/mnist_mlp.yaml", str(ranks), *options), **environment)

    def start_both(self, *options, **keywords):
        return [self.start_node(node, *options, **keywords) for node in (0, 1)]

    def finish_both(self, processes, statuses, began=None):
        outputs = [process.communicate(timeout=120)[0] for process in processes]
        seconds = time.monotonic() - (began or 0)
        if began:
            self.assertLess(seconds, jobs.LIMIT, outputs)
        for process, status, output in zip(processes, statuses, outputs):
            if status is None:
                self.assertNotEqual(process.returncode, 0, output)
            else:
                self.assertEqual(process.returncode, status, output)
        self.assertEqual(self.marked.wait_for_end(), {}, outputs)
        return outputs

    def test_trains(self):
        first, second = self.finish_both(self.start_both("--amp", *self.small(*LEARNS)), (0, 0))
        self.assertIn(f"ranks 0 to 0 of 2 on this machine, which meet at {self.master}:{PORT}", first)
        self.assertIn("ranks 1 to 1 of 2 on this machine", second)
        self.assertIn("process 0 of 2 (gloo)", first)
        self.check_trained()

    def test_two_ranks_on_each(self):
        first, _ = self.finish_both(self.start_both(*self.small(), ranks=2), (0, 0))
        self.assertIn("480 training examples in 2 batches of 256 (4 x 64)", first)
        self.assertIn("process 3 of 4 (gloo)", self.log_of(3))

    def test_killed_rank_ends_the_job_on_both(self):
        for rank in (0, 1):
            with self.subTest(rank):
                shutil.rmtree(self.dir / "run", ignore_errors=True)
                processes = self.start_both(*self.small(ENDLESS))
                self.wait_for_checkpoint(processes[0])
                victim = self.ranks_alive(2)[rank]
                began = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                statuses = [None, None]
                statuses[rank] = 128 + signal.SIGKILL
                outputs = self.finish_both(processes, statuses, began)
                self.assertIn(f"rank {rank} (process {victim}) was killed by SIGKILL", outputs[rank])
                self.assertRegex(outputs[1 - rank], rf"all ranks must go on together, but rank {rank} failed: it (gives no sign|does not answer)")
                self.checkpoint_opens()

    def test_cut_cable_ends_the_job_on_both(self):
        processes = self.start_both(*self.small(ENDLESS))
        self.wait_for_checkpoint(processes[0])
        began = time.monotonic()
        self.machines.b.cut_cable()
        outputs = self.finish_both(processes, (None, None), began)
        # Each sees that the other is gone.
        self.assertRegex(outputs[0], r"all ranks must go on together, but rank 1 failed: it gives no sign of life for \d+ s")
        self.assertRegex(outputs[1], r"all ranks must go on together, but rank 0 failed: it does not answer any more")
        self.checkpoint_opens()

    def test_address_of_nobody(self):
        self.master = self.machines.a.address[:-1] + "9"
        process = self.start_node(1, *self.small("env_cfg={dist_cfg: {join_timeout: 3}}"))
        output = self.finish(process, 1)
        self.assertRegex(output + self.log_of(1), rf"rank 1 must reach rank 0 at {self.master}:{PORT}, but does not within 3 s .*; check MASTER_ADDR, MASTER_PORT")

    def test_address_that_no_route_leads_to(self):
        self.master = "192.0.2.1"
        output = self.finish(self.start_node(1, *self.small()), 1)
        self.assertIn("MASTER_ADDR must be reached from here, but no interface leads to '192.0.2.1' (Network is unreachable)", output)
        self.assertIn(f"this machine has {self.machines.b.link} ({self.machines.b.address}), lo (127.0.0.1)", output)

    def test_loopback_is_no_address_for_two_machines(self):
        self.master = "127.0.0.1"
        processes = self.start_both(*self.small("env_cfg={dist_cfg: {join_timeout: 3}}"))
        first, second = self.finish_both(processes, (1, 1))
        self.assertIn(f"rank 1 must reach rank 0 at 127.0.0.1:{PORT}, but does not within 3 s", second)

    def test_interface_that_is_not_there(self):
        processes = self.start_both(*self.small("env_cfg={dist_cfg: {join_timeout: 5}}"), GLOO_SOCKET_IFNAME="eth7")
        for output, machine in zip(self.finish_both(processes, (None, None)), (self.machines.a, self.machines.b)):
            self.assertIn(f"GLOO_SOCKET_IFNAME must name network interfaces of this machine that are up, but got 'eth7'; it has {machine.link}", output)

    def test_busy_port(self):
        busy = subprocess.Popen(self.machines.a.command("python3", "-c", "import socket, sys; s = socket.create_server(('', " + PORT + ")); "
                                                        "print('listens', flush=True); sys.stdin.read()"), stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)
        self.addCleanup(busy.wait)
        self.addCleanup(busy.communicate)
        self.assertEqual(busy.stdout.readline(), "listens\n")
        output = self.finish(self.start_node(0, *self.small()), 1)
        self.assertIn(f"error: [dist-train] PORT must be free where rank 0 runs, but {PORT} is taken; name another in PORT", output)

    def test_one_machine_that_does_not_start(self):
        output = self.finish(self.start_node(0, *self.small("env_cfg={dist_cfg: {join_timeout: 3}}")), 1)
        self.assertIn("rank 1", output)

    def test_numbers_of_machines_that_differ(self):
        processes = [self.start_node(0, *self.small("env_cfg={dist_cfg: {join_timeout: 5}}")),
                     self.start_node(1, *self.small("env_cfg={dist_cfg: {join_timeout: 5}}"), NNODES="3")]
        first, second = self.finish_both(processes, (None, None))
        self.assertIn("all ranks must be of one job", first + second)


if __name__ == "__main__":
    why = TwoMachines.why_not()
    if why:
        jobs.skip_all(why)
    jobs.main()
