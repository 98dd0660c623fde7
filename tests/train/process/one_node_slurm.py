"""A Slurm cluster of one node, this machine, beside any that it is part of: its own folder, ports and munge. Needs root, and Debian's
packages slurm-wlm and munge."""
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

CPUS = 8  # as Slurm believes, whatever there are: two jobs of the tests run at once
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "squeue")


def _free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class OneNodeSlurm:
    """Runs while it lives as a context; `environment` are the variables by which srun and its like find it."""

    partition = "debug"

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="halfstep-slurm-")
        self.dir = Path(self.folder.name)
        self.dir.chmod(0o755)  # munged trusts no folder that others may write to
        self.environment = {"SLURM_CONF": str(self.dir / "slurm.conf")}
        self.servers = []

    @staticmethod
    def why_not():
        """Why it can't be started here, or nothing."""
        if os.getuid() != 0:
            return "a Slurm of the tests' own needs root"
        missing = [name for name in PROGRAMS if not shutil.which(name)]
        if missing:
            return f"{', '.join(missing)} are missing (Debian: slurm-wlm, munge; scripts/setup --ci installs them)"
        return ""

    def configure(self):
        host = socket.gethostname().split(".")[0]
        key = self.dir / "munge.key"
        key.touch(0o400)
        key.chmod(0o600)
        key.write_bytes(os.urandom(128))
        (self.dir / "state").mkdir()
        (self.dir / "spool").mkdir()
        # Credentials of a job live for two minutes unless told otherwise (5 s is the least), and so long a requeued job waits.
        (self.dir / "slurm.conf").write_text(f"""ClusterName=halfstep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={self.dir}/munge.socket,cred_expire=5
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={self.dir}/state
SlurmdSpoolDir={self.dir}/spool
SlurmctldPidFile={self.dir}/slurmctld.pid
SlurmdPidFile={self.dir}/slurmd.pid
SlurmctldLogFile={self.dir}/slurmctld.log
SlurmdLogFile={self.dir}/slurmd.log
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=1
ReturnToService=2
KillWait=30
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} State=UNKNOWN
PartitionName={self.partition} Nodes={host} Default=YES State=UP
""")

    def serve(self, *words):
        with open(self.dir / f"{words[0]}.out", "w") as log:
            self.servers.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.dir,
                                                 env=os.environ | self.environment))

    def __enter__(self):
        try:
            self.configure()
            self.serve("munged", "--foreground", f"--key-file={self.dir}/munge.key", f"--socket={self.dir}/munge.socket",
                       f"--pid-file={self.dir}/munged.pid", f"--log-file={self.dir}/munged.log", f"--seed-file={self.dir}/munged.seed",
                       "--num-threads=2", "--force")
            self.wait_until(lambda: (self.dir / "munge.socket").exists())
            self.serve("slurmctld", "-D", "-c")
            self.serve("slurmd", "-D", "-c")
            self.wait_until(lambda: self.ask("sinfo", "-h", "-o", "%T").strip() == "idle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_until(self, holds, seconds=60):
        end = time.monotonic() + seconds
        while not holds():
            for server in self.servers:
                if server.poll() is not None:
                    raise RuntimeError(f"{server.args[0]} has ended with {server.returncode}:\n{self.logs()}")
            if time.monotonic() > end:
                raise RuntimeError(f"Slurm does not answer:\n{self.logs()}")
            time.sleep(0.1)

    def logs(self):
        return "".join(f"--- {file.name}\n{file.read_text()[-2000:]}" for suffix in ("log", "out") for file in sorted(self.dir.glob(f"*.{suffix}")))

    def ask(self, *words):
        """What a command of Slurm's prints; empty where it fails."""
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=os.environ | self.environment).stdout

    def job_named(self, name):
        """The number of the job of that name, once there is one."""
        found = []
        self.wait_until(lambda: found.append(self.ask("squeue", "-h", "-o", "%A", "-n", name).split()) or found[-1])
        return int(found[-1][0])

    def stop(self):
        if len(self.servers) == 3:
            self.ask("scancel", "-p", self.partition, "--signal=KILL", "--full")
            self.ask("scancel", "-p", self.partition)
            end = time.monotonic() + 10
            while self.ask("squeue", "-h").strip() and time.monotonic() < end:
                time.sleep(0.1)
        for server in reversed(self.servers):
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        self.folder.cleanup()
