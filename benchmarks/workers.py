"""The processes of the benchmarks, which answer what they are asked."""
import json
import os
import subprocess
import sys


class WorkerError(Exception):
    pass


class Worker:
    """A process that answers one JSON object a line. `side` is its name in messages: ours or Python."""

    def __init__(self, side, command, environment, log):
        self.side = side
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)

    def send(self, what, **arguments):
        try:
            print(json.dumps({"do": what} | arguments), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # receive() says it

    def receive(self, what, **arguments):
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"the {self.side} worker ended with status {self.process.wait()} while asked to {what} {arguments}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"the {self.side} worker could not {what} {arguments}: {reply['error']}")
        return reply

    def ask(self, what, **arguments):
        self.send(what, **arguments)
        return self.receive(what, **arguments)

    def cpu_seconds(self):
        """CPU time of all its threads so far."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def say_goodbye(self):
        try:
            print(json.dumps({"do": "quit"}), file=self.process.stdin, flush=True)
            self.process.stdin.close()
        except (BrokenPipeError, ValueError):
            pass  # it has ended, or has been told

    def close(self):
        self.say_goodbye()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Workers:
    """Both sides with the same environment; `python` None: ours alone."""

    # What would let one side wait for its threads in another way than the other, or than its users' programs do.
    DROPPED = ("OMP_", "GOMP_", "KMP_", "MKL_", "DNNL_", "ONEDNN_", "ATEN_", "TORCHINDUCTOR_", "LD_PRELOAD", "MALLOC_")

    def __init__(self, worker, python, threads, wait, log, flush_denormal=False):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(self.DROPPED)}
        environment["OMP_NUM_THREADS"] = str(threads)
        if wait == "passive":
            environment["OMP_WAIT_POLICY"] = wait
        folder = os.path.dirname(os.path.abspath(__file__))
        counter = os.path.join(os.path.dirname(os.path.abspath(worker)), "libhalfstep_tensor_bytes.so")
        self.sides = {"ours": Worker("ours", [worker], environment, log)}
        if python:
            command = [python, os.path.join(folder, "python_worker.py"), counter] + ["flush-denormal"] * flush_denormal
            self.sides["Python"] = Worker("Python", command, environment, log)
        try:
            self.hello = {side: worker.ask("hello") for side, worker in self.sides.items()}
            self._check(threads)
        except BaseException:
            self.close()
            raise

    def _check(self, threads):
        versions = {side: hello["torch"].split("+")[0] for side, hello in self.hello.items()}
        if len(set(versions.values())) > 1:
            raise WorkerError(f"both sides must use the same PyTorch, but got {versions}; remove .venv-bench to set it up anew")
        mega = 1 << 20
        for side, worker in self.sides.items():
            if self.hello[side]["threads"] != threads:
                raise WorkerError(f"{threads} threads were asked for, but the {side} worker uses {self.hello[side]['threads']}")
            counted = worker.ask("check_bytes")
            if counted != {"now": 2.5 * mega, "peak": 3 * mega}:
                raise WorkerError(f"the {side} worker counted {counted} bytes of a case of {2.5 * mega} now, {3 * mega} at the peak")

    def __getitem__(self, side):
        return self.sides[side]

    def sample(self, side, **arguments):
        """A sample, and the largest share of a core another worker used meanwhile: it should sleep."""
        before = {other: worker.cpu_seconds() for other, worker in self.sides.items() if other != side}
        reply = self.sides[side].ask("sample", **arguments)
        wall = reply["seconds"] * arguments["steps"]
        reply["idle_cpu"] = max((self.sides[other].cpu_seconds() - start for other, start in before.items()), default=0.0) / wall
        return reply

    def close(self):
        for worker in self.sides.values():
            worker.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
