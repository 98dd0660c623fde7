"""Two machines on this one: network namespaces joined by a cable that can be cut. Needs root."""
import os
import shutil
import subprocess

BITS = os.getpid() % 250  # of the addresses, so that two tests do not meet


class Machine:
    def __init__(self, name, address):
        self.namespace = f"halfstep-{os.getpid()}-{name}"
        self.link = f"hs{os.getpid() % 100000}{name}"
        self.address = address

    def ip(self, *words):
        subprocess.run(["ip", "-n", self.namespace, *words], check=True, capture_output=True, text=True)

    def command(self, *words):
        return ["ip", "netns", "exec", self.namespace, *words]

    def cut_cable(self):
        self.ip("link", "set", self.link, "down")


class TwoMachines:
    """As a context: `a` and `b`, each with loopback and one interface to the other."""

    def __init__(self):
        self.a = Machine("a", f"10.213.{BITS}.1")
        self.b = Machine("b", f"10.213.{BITS}.2")

    @staticmethod
    def why_not():
        """Why they can't be made here, or nothing."""
        if not shutil.which("ip"):
            return "the command ip is missing (Debian: iproute2; scripts/setup --ci installs it)"
        try:
            with TwoMachines():
                return ""
        except subprocess.CalledProcessError as error:
            return f"network namespaces can't be made here: {error.stderr.strip()}"

    def __enter__(self):
        try:
            for machine in (self.a, self.b):
                subprocess.run(["ip", "netns", "add", machine.namespace], check=True, capture_output=True, text=True)
            self.a.ip("link", "add", self.a.link, "type", "veth", "peer", "name", self.b.link, "netns", self.b.namespace)
            for machine in (self.a, self.b):
                machine.ip("address", "add", f"{machine.address}/24", "dev", machine.link)
                for link in ("lo", machine.link):
                    machine.ip("link", "set", link, "up")
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def remove(self):
        for machine in (self.a, self.b):
            subprocess.run(["ip", "netns", "delete", machine.namespace], capture_output=True)
