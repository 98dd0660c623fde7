"""Finding the processes a test has started, also those nobody waits for any more."""
import os
import time
import uuid
from pathlib import Path


class Marked:
    """Environment variables by which processes, and those they start, are found again."""

    def __init__(self):
        self.entry = ("HALFSTEP_TEST_MARK", uuid.uuid4().hex)
        self.environment = os.environ | dict([self.entry])

    def alive(self):
        """The marked processes that run (or are suspended): their ids and command lines."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if "=".join(self.entry).encode() in (folder / "environ").read_bytes().split(b"\0"):
                    if (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                        found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:
                pass  # it has ended, or is another user's
        return found

    def wait_for_end(self, seconds=3):
        """What is still there after so many seconds; empty as soon as nothing is."""
        end = time.monotonic() + seconds
        while self.alive() and time.monotonic() < end:
            time.sleep(0.02)
        return self.alive()
