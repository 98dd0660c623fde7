"""Runs an example program and fails unless what it prints holds some words and ends with a loss that fell to a third or less.

    loss_falls_test.py PROGRAM [ARGUMENT…] [--prints WORDS]…
"""
import argparse
import re
import subprocess


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", nargs="+")
    parser.add_argument("--prints", action="append", default=[])
    arguments = parser.parse_args()
    printed = subprocess.run(arguments.command, check=True, capture_output=True, text=True).stdout
    print(printed)
    for words in arguments.prints:
        assert words in printed, f"it must print '{words}'"
    losses = re.fullmatch(r"loss (\S+) -> (\S+)", printed.splitlines()[-1])
    assert losses, "the last line must be 'loss FIRST -> LAST'"
    first, last = (float(loss) for loss in losses.groups())
    assert 0 < last < first / 3, "it must learn"


main()
