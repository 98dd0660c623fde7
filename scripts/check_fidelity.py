#!/usr/bin/env python3
"""Checks that every test of a reference system is answered for in tests/fidelity.csv.

    scripts/check_fidelity.py --build build/release

Fails where
  - a name in tests/reference_tests/<system>.txt has no row, or a row names no such test;
  - a row of status "later" or "n/a" gives no reason;
  - a row of status "test" names a test that no test program of the build folder has.

A test of ours is written Suite.Case, as --gtest_list_tests shows it without instantiation prefix and parameter.
Needs Python 3 alone.
"""
import argparse
import csv
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
COLUMNS = ["system", "reference_test", "ours", "status", "reason"]
STATUSES = ("test", "later", "n/a")


def reference_tests(folder):
    """(system, name) of each line that is neither empty nor a comment; the file's name is the system's."""
    names = []
    for path in sorted(folder.glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                names.append((path.stem, line.strip()))
    return names


def cases_in_listing(listing):
    """Suite.Case of what --gtest_list_tests prints: 'On/Suite.' then '  Case/CPU  # GetParam() = cpu'."""
    cases = set()
    suite = ""
    for line in listing.splitlines():
        name = line.split("#")[0].rstrip()
        if re.fullmatch(r"[\w/]+\.", name):
            parts = [part for part in name[:-1].split("/") if not part.isdigit()]
            suite = parts[-1]
        elif re.fullmatch(r"  [\w/]+", name):
            case = name.strip().split("/")[0]
            if not suite.startswith("DISABLED_") and not case.startswith("DISABLED_"):
                cases.add(f"{suite}.{case}")
    return cases


def test_programs(build):
    """The programs CMake made test entries for, and of them those that are built."""
    programs = []
    for script in sorted(build.rglob("*_suites.cmake")):
        found = re.search(r'^set\(_program "(.*)"\)$', script.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            programs.append(pathlib.Path(found.group(1)))
    return programs, [program for program in programs if program.exists()]


def check(rows, references, cases):
    """Every complaint, one a line."""
    complaints = []
    known = set(references)
    seen = set()
    for line, row in enumerate(rows, start=2):
        where = f"fidelity.csv:{line}: {row['reference_test']}"
        key = (row["system"].lower(), row["reference_test"])
        if key not in known:
            complaints.append(f"{where}: {row['system']} has no such test in tests/reference_tests")
        if key in seen:
            complaints.append(f"{where}: mapped twice")
        seen.add(key)
        if row["status"] not in STATUSES:
            complaints.append(f"{where}: the status must be one of {', '.join(STATUSES)}, but is '{row['status']}'")
        elif row["status"] == "test":
            if row["ours"] not in cases:
                complaints.append(f"{where}: no test program has a test '{row['ours']}'")
        elif not row["reason"].strip():
            complaints.append(f"{where}: the status '{row['status']}' needs a reason")
        elif row["ours"]:
            complaints.append(f"{where}: the status '{row['status']}' names a test of ours: '{row['ours']}'")
    for system, name in references:
        if (system, name) not in seen:
            complaints.append(f"{system}: {name}: not in fidelity.csv; give it a test, a later topic or a reason why not")
    return complaints


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--build", type=pathlib.Path, required=True, help="a build folder with the test programs")
    arguments.add_argument("--csv", type=pathlib.Path, default=ROOT / "tests/fidelity.csv")
    arguments.add_argument("--references", type=pathlib.Path, default=ROOT / "tests/reference_tests")
    given = arguments.parse_args()

    with given.csv.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            sys.exit(f"{given.csv}: the first line must be {','.join(COLUMNS)}")
        rows = list(reader)
        for line, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                sys.exit(f"{given.csv}:{line}: needs {len(COLUMNS)} columns")
    references = reference_tests(given.references)
    if not references or not rows:
        sys.exit("nothing to compare: no reference tests or no rows")
    programs, built = test_programs(given.build)
    if not built:
        sys.exit(f"{given.build}: no test program is built there")
    cases = set()
    for program in built:
        listing = subprocess.run([program, "--gtest_list_tests"], check=True, capture_output=True, text=True).stdout
        cases |= cases_in_listing(listing)

    complaints = check(rows, references, cases)
    for complaint in complaints:
        print(complaint)
    counts = ", ".join(f"{sum(row['status'] == status for row in rows)} {status}" for status in STATUSES)
    print(f"{len(references)} reference tests; {len(rows)} rows: {counts}; {len(cases)} tests in {len(built)} programs")
    if complaints:
        for program in programs:
            if program not in built:
                print(f"not built: {program}")
        sys.exit(f"{len(complaints)} complaints")


if __name__ == "__main__":
    main()
