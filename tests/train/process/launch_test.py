#!/usr/bin/env python3
"""Tests of how dist-run, and with it dist-train, watches over the processes it starts: small shell scripts stand in for the ranks.

usage: launch_test.py --program BUILD/halfstep [unittest arguments]
"""
import argparse
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from processes import Marked

PROGRAM = ""
# The issue's: within so many seconds after a rank has failed, the job has ended.
LIMIT = 15


class LaunchTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="halfstep-launch-")
        self.addCleanup(self.folder.cleanup)
        self.dir = Path(self.folder.name)
        self.marked = Marked()
        self.addCleanup(self.kill_the_rest)

    def kill_the_rest(self):
        for process in self.marked.alive():
            os.kill(process, signal.SIGKILL)

    def start(self, script, ranks=2, **keywords):
        environment = self.marked.environment | keywords.pop("environment", {})
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | keywords
        return subprocess.Popen([PROGRAM, "dist-run", str(ranks), "bash", "-c", script], cwd=self.dir, text=True, env=environment, **streams)

    def finish(self, process, status):
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, status, output)
        self.assertEqual(self.marked.wait_for_end(), {}, "processes were left behind")
        return output

    def run_ranks(self, script, status=0, **keywords):
        process = self.start(script, **keywords)
        first = process.stdout.readline()  # it is about to start the ranks: a busy machine may take long to come here
        began = time.monotonic()
        output = first + self.finish(process, status)
        self.assertLess(time.monotonic() - began, LIMIT)
        return output

    def wait_for(self, *names):
        end = time.monotonic() + 20
        while not all((self.dir / name).exists() for name in names):
            self.assertLess(time.monotonic(), end, f"no {names}")
            time.sleep(0.01)

    # What the ranks are told

    def test_ranks_get_the_variables_of_torchrun(self):
        output = self.run_ranks('echo "I am $RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT, $OMP_NUM_THREADS"',
                                ranks=3, environment={"OMP_NUM_THREADS": ""})
        place = re.search(r"ranks 0 to 2 of 3 on this machine, which meet at (127\.0\.0\.1:\d+); 1 thread each, of", output)[1]
        for rank in range(3):
            self.assertIn(f"I am {rank} of 3, {rank} of 3 at {place}, 1\n", output)

    def test_a_nodes_share(self):
        environment = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "PORT": "12345", "OMP_NUM_THREADS": "7"}
        output = self.run_ranks('echo "I am $RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE at $MASTER_PORT, $OMP_NUM_THREADS"', environment=environment)
        self.assertIn("ranks 2 to 3 of 4 on this machine, which meet at 127.0.0.1:12345\n", output)
        for local_rank in range(2):
            self.assertIn(f"[rank {2 + local_rank}] I am {2 + local_rank} of 4, {local_rank} of 2 at 12345, 7\n", output)

    def test_a_taken_port(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            output = self.run_ranks("echo never", status=1, environment={"PORT": str(port)})
        self.assertIn(f"error: [dist-train] PORT must be free where rank 0 runs, but {port} is taken; name another in PORT, or unset it", output)
        self.assertNotIn("never", output)

    def test_usage(self):
        for words, parts in ((["dist-run"], ["[command line] dist-run must be given N and a PROGRAM"]),
                             (["dist-run", "0", "true"], ["[dist-train] N must be a whole number from 1 to 4096, but is '0'"]),
                             (["dist-train", "--amp", "x.yaml", "2"], ["[command line] dist-train must have its 2 arguments before all options"]),
                             (["dist-train", "x.yaml", "2", "--ampp"], ["but got '--ampp'", "did you mean '--amp'?"]),
                             (["dist-train", "x.yaml"], ["[command line]", "N is required"]),
                             (["slurm-train", "p", "j", "x.yaml"], ["[command line]", "WORK_DIR is required"]),
                             (["train", "x.yaml", "--launcher", "pytorhc"], ["[launch] a launcher must be one of", "did you mean 'pytorch'?"])):
            result = subprocess.run([PROGRAM, *words], cwd=self.dir, capture_output=True, text=True)
            self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
            for part in parts:
                self.assertIn(part, result.stderr)

    # What they print

    def test_lines_have_their_rank_and_what_several_print_is_shown_once(self):
        output = self.run_ranks("echo all >&2; [ $RANK = 2 ] && printf 'only %s\\nno end' $RANK; true", ranks=3)
        shown = re.findall(r"^(.*)all$", output, re.M)
        self.assertEqual(shown.count(""), 1, output)  # rank 0's own
        self.assertLessEqual(len(shown), 2, output)   # and another's, if that came before
        self.assertIn("[rank 2] only 2\n[rank 2] no end\n", output)

    def test_rank_0_has_the_terminal(self):
        master, slave = pty.openpty()
        process = self.start("test -t 1 && echo rank $RANK has it; true", stdout=slave, stderr=subprocess.PIPE)
        os.close(slave)
        output = b""
        while True:
            try:
                output += os.read(master, 65536)
            except OSError:
                break
        os.close(master)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0)
        self.assertIn("rank 0 has it\r\n", output.decode())
        self.assertNotIn("has it", errors)

    # A rank that fails

    def test_all_end_well(self):
        self.assertNotIn("error", self.run_ranks("sleep 0.$RANK"))

    def test_a_rank_with_an_error(self):
        output = self.run_ranks("[ $RANK = 1 ] && { echo 'error: [train] no such thing' >&2; exit 2; }; sleep 60", status=2)
        self.assertRegex(output, r"\nerror: \[dist-run\] all ranks must end well, but rank 1 \(process \d+\) ended with status 2; its last lines:\n"
                                 r"  error: \[train\] no such thing\n$")

    def test_the_last_lines_are_the_last(self):
        output = self.run_ranks("[ $RANK = 1 ] && { seq 100 >&2; exit 3; }; sleep 60", status=3)
        self.assertTrue(output.endswith("its last lines:\n" + "".join(f"  {i}\n" for i in range(81, 101))), output)

    def test_a_killed_rank(self):
        output = self.run_ranks("[ $RANK = 1 ] && kill -9 $$; sleep 60", status=137)
        self.assertRegex(output, r"rank 1 \(process \d+\) was killed by SIGKILL, as the system does where memory runs out and wrote no error\n$")

    def test_a_killed_rank_is_named_where_another_notices_first(self):
        output = self.run_ranks("[ $RANK = 1 ] && { sleep 1; kill -9 $$; }; echo 'Read error: Connection reset by peer' >&2; exit 1", status=137)
        self.assertIn("but rank 1 (process", output)

    def test_a_rank_that_hangs_while_the_others_lose_patience(self):
        output = self.run_ranks("[ $RANK = 1 ] && sleep 60; echo 'error: Timed out waiting 1000ms' >&2; exit 1", ranks=3, status=1)
        self.assertRegex(output, r"but rank 1 \(process \d+\) hung: it did not end with the others and wrote no error\n$")

    def test_a_suspended_rank(self):
        output = self.run_ranks("[ $RANK = 1 ] && kill -STOP $$; sleep 60", status=1)
        self.assertRegex(output, r"but rank 1 \(process \d+\) was suspended \(SIGSTOP\) and did not go on")

    def test_what_ranks_have_started_ends_with_them(self):
        self.run_ranks("sleep 100 & sleep 100 & [ $RANK = 1 ] && exit 4; wait", status=4)
        self.run_ranks("sleep 100 & exit 0")

    def test_a_program_that_is_not_there(self):
        result = subprocess.run([PROGRAM, "dist-run", "2", "./nowhere"], cwd=self.dir, capture_output=True, text=True)
        self.assertEqual(result.returncode, 127, result.stderr)
        self.assertIn("error: can't run ./nowhere: No such file or directory", result.stderr)

    # Signals

    def test_ranks_die_with_what_started_them(self):
        process = self.start("touch $RANK; sleep 60")
        self.wait_for("0", "1")
        process.kill()
        process.communicate()
        # bash's own child outlives it: nobody is left to end it. The ranks themselves must not.
        self.assertEqual([line for line in self.marked.wait_for_end(1).values() if not line.startswith("sleep")], [])

    SAVES = "trap 'echo saved $RANK >&2; exit $((128 + {0}))' {0}; touch $RANK; while true; do sleep 0.05; done"

    def test_signals_are_passed_on_and_the_status_says_which(self):
        for number, passed_on in ((signal.SIGTERM, 15), (signal.SIGINT, 2), (signal.SIGUSR1, 10), (signal.SIGHUP, 15)):
            with self.subTest(number):
                process = self.start(self.SAVES.format(passed_on))
                self.wait_for("0", "1")
                process.send_signal(number)
                output = self.finish(process, 128 + passed_on)
                self.assertIn("saved 0\n", output)
                self.assertIn("[rank 1] saved 1\n", output)
                self.assertNotIn("error", output)
                for rank in "01":
                    (self.dir / rank).unlink()

    def test_ranks_that_take_their_time_to_save_get_it(self):
        process = self.start("trap 'sleep $((7 * (1 - RANK))); exit 143' TERM; touch $RANK; while true; do sleep 0.05; done")
        self.wait_for("0", "1")
        process.send_signal(signal.SIGTERM)
        self.finish(process, 143)

    def test_a_second_signal_ends_ranks_that_do_not(self):
        process = self.start("trap 'echo told >&2' INT; touch $RANK; while true; do sleep 0.05; done")
        self.wait_for("0", "1")
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        self.assertIsNone(process.poll())
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        self.assertIn("told", self.finish(process, 1))
        self.assertLess(time.monotonic() - began, LIMIT)

    def test_a_signal_before_anything_could_be_saved(self):
        process = self.start("touch $RANK; sleep 60")
        self.wait_for("0", "1")
        process.send_signal(signal.SIGTERM)
        self.assertNotIn("error", self.finish(process, 143))

    def test_ctrl_c_of_a_terminal_comes_once(self):
        process, master = pty.fork()
        if process == 0:
            os.chdir(self.dir)
            script = "trap 'echo x >> told_$RANK' INT; touch $RANK; for i in $(seq 40); do sleep 0.05; done"
            os.execvpe(PROGRAM, [PROGRAM, "dist-run", "2", "bash", "-c", script], self.marked.environment)
        self.wait_for("0", "1")
        os.write(master, b"\x03")
        output = b""
        while True:
            try:
                output += os.read(master, 65536)
            except OSError:
                break
        os.waitpid(process, 0)
        os.close(master)
        self.assertEqual([(self.dir / f"told_{rank}").read_text() for rank in "01"], ["x\n", "x\n"], output)

    def test_suspending_suspends_the_ranks(self):
        process = self.start("touch $RANK; while true; do date +%N > time_$RANK; sleep 0.05; done")
        self.wait_for("time_0", "time_1")
        process.send_signal(signal.SIGTSTP)
        time.sleep(0.5)
        times = [(self.dir / f"time_{rank}").read_text() for rank in "01"]
        time.sleep(6)  # longer than a rank may be suspended on its own
        self.assertEqual([(self.dir / f"time_{rank}").read_text() for rank in "01"], times)
        process.send_signal(signal.SIGCONT)
        time.sleep(1)
        self.assertNotIn((self.dir / "time_1").read_text(), times)
        process.send_signal(signal.SIGTERM)
        self.finish(process, 143)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    arguments, rest = parser.parse_known_args()
    PROGRAM = os.path.abspath(arguments.program)
    unittest.main(argv=[sys.argv[0], "-v", *rest])
