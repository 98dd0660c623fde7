"""The Markdown of the benchmark's results."""
import os
import pathlib
import platform
import re
import shlex
import sys

from statistics_of import verdict

MIB = 1 << 20
# workload, wanted ratio, of what
GOALS = [
    ("mlp_small", 1.8, "best"), ("mlp_small", 2.3, "default"), ("mlp_large", 1.1, "best"), ("mlp_large", 1.6, "default"),
    ("resnet18", 0.95, "eager"), ("gpt", 0.95, "eager"),
    ("mlp_large", 2.0, "float32"), ("gpt", 2.0, "float32"), ("resnet18", 2.0, "float32"), *((w, 1.0, "bytes") for w in
                                                                                           ("mlp_small", "mlp_large", "resnet18", "gpt")),
    ("mlp_small", 2.0, "graph"), ("mlp_large", 1.15, "graph"), ("gpt", 1.5, "graph"), ("resnet18", 1.2, "graph"),
    ("mlp_small", 1.6, "graph products"), ("mlp_large", 1.15, "graph products"), ("gpt", 1.6, "graph products"),
]
AT_MOST = ("bytes", "graph products")
GOAL_TEXT = {"best": "times as fast as the best Python variant", "default": "times as fast as Python's default AMP",
             "eager": "times as fast as the best eager Python variant", "float32": "times as fast as our own float32",
             "bytes": "of the fewest peak bytes of a Python variant, at most",
             "graph": "a Graph, times as fast as the best Python variant", "graph products": "a Graph, times the products, at most"}
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", info)
    flags = re.search(r"flags\s*: (.*)", info)
    return {"cpu": name.group(1) if name else platform.processor(), "cores": os.cpu_count(),
            "extensions": [f for f in FLAGS if flags and f in flags.group(1).split()],
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)}


def portable(arguments):
    """The words without the places of this machine."""
    arguments = list(arguments)
    for option in ("--python", "--worker", "--output"):
        while option in arguments:
            at = arguments.index(option)
            del arguments[at:at + 2]
    return arguments


def command(arguments):
    """As one would type it anywhere."""
    arguments = portable(arguments)
    return "make bench" + (f" BENCH_ARGS={shlex.quote(shlex.join(arguments))}" if arguments else "")


class Rows:
    """Looks up rows of one workload."""

    def __init__(self, measured):
        self.rows = measured["rows"]

    def timed(self, side=None, precision=None):
        return [r for r in self.rows if "median" in r and not r["variant"].startswith("products")
                and side in (None, r["side"]) and precision in (None, r["precision"])]

    def best(self, rows, key="median"):
        return min(rows, key=lambda r: r[key], default=None)

    def python(self, kind):
        rows = self.timed("Python", "bf16")
        if kind == "default":
            rows = [r for r in rows if r["variant"] == "default"]
        if kind == "eager":
            rows = [r for r in rows if "compiled" not in r["variant"]]
        return self.best(rows)

    def float32_of(self, row):
        return next((r for r in self.timed(row["side"], "fp32") if r["variant"] == row["float32"]), None)

    def products(self):
        return self.best([r for r in self.rows if r["variant"].startswith("products") and "median" in r])


def ratio(other, row, digits=2):
    return f"{other['median'] / row['median']:.{digits}f}" if other and row else ""


def milliseconds(row):
    return f"{row['median'] * 1e3:.{3 if row['median'] < 1e-2 else 1}f}"


def table(measured):
    rows = Rows(measured)
    best, products = rows.python("best"), rows.products()
    lines = [f"### {measured['workload']}", "",
             "| | variant | ms a step | spread | beside the best Python | against own float32 | times the products | peak MiB | samples |",
             "|---|---|---:|---:|---|---:|---:|---:|---:|"]
    for precision in ("bf16", "fp32"):
        for row in rows.timed(precision=precision):
            beside = ""
            if best and precision == "bf16":
                speed = best["median"] / row["median"]
                beside = "is the best" if row is best else f"{speed:.2f} × ({verdict(speed)})"
            lines.append(
                f"| {row['side']} | {row['variant']}, {precision} | {milliseconds(row)} | {row['spread']:.0%} | {beside} | "
                f"{ratio(rows.float32_of(row), row) + ' ×' if precision == 'bf16' and rows.float32_of(row) else ''} | "
                f"{ratio(row, products)} | "
                f"{row['peak_bytes'] / MIB:.1f} | {row['kept']} of {row['kept'] + row['dropped']} |".replace("|  |", "| |"))
    for row in measured["rows"]:
        if row["variant"].startswith("products") and "median" in row:
            lines.append(f"| | {row['variant']} alone, bf16 | {milliseconds(row)} | {row['spread']:.0%} | | | | | "
                         f"{row['kept']} of {row['kept'] + row['dropped']} |")
    for row in measured["rows"]:
        if "median" not in row:
            lines.append(f"| {row['side']} | {row['variant']}, {row['precision']} | no quiet sample | | | | | | 0 of {row['dropped']} |")
    return lines + [""]


def reached(measured, kind):
    """The measured ratio of a goal, or None where a side is missing."""
    rows = Rows(measured)
    ours = rows.best([r for r in rows.timed("ours", "bf16") if not kind.startswith("graph") or "Graph" in r["variant"]])
    if not ours:
        return None
    if kind == "graph products":
        return ours["median"] / rows.products()["median"] if rows.products() else None
    if kind == "bytes":
        theirs = rows.best(rows.timed("Python", "bf16"), "peak_bytes")
        # Of those that count as equally fast.
        ours = rows.best([r for r in rows.timed("ours", "bf16") if r["median"] <= 1.05 * ours["median"]], "peak_bytes")
        return ours["peak_bytes"] / theirs["peak_bytes"] if theirs else None
    other = rows.float32_of(ours) if kind == "float32" else rows.python("best" if kind == "graph" else kind)
    return other["median"] / ours["median"] if other else None


def goals(results):
    measured = {m["workload"]: m for m in results["workloads"]}
    lines = ["| goal | wanted | measured | |", "|---|---:|---:|---|"]
    for workload, wanted, kind in GOALS:
        got = reached(measured[workload], kind) if workload in measured else None
        if got is not None:
            yes = got <= wanted * 1.001 if kind in AT_MOST else got >= wanted
            lines.append(f"| {workload}: {GOAL_TEXT[kind]} | {wanted} | {got:.2f} | {'reached' if yes else 'not reached'} |")
    return lines + [""] if len(lines) > 2 else []


def recordings(results):
    """How long a Graph's recorded first steps took in all, against three of its steps and a second."""
    lines = ["| recording | seconds | at most | |", "|---|---:|---:|---|"]
    for measured in results["workloads"]:
        for row in measured["rows"]:
            if "recording_seconds" in row and "median" in row:
                took, limit = row["recording_seconds"], 3 * row["median"] + 1
                lines.append(f"| {measured['workload']}: {row['variant']}, {row['precision']} | {took:.3f} | {limit:.3f} | "
                             f"{'within' if took < limit else 'beyond'} |")
    return lines + [""] if len(lines) > 2 else []


def budget_table(budget):
    lines = [f"Largest batch whose tensors fit {budget['mib']} MiB:", "", "| workload | | variant | bf16 | float32 |", "|---|---|---|---:|---:|"]
    found = {}
    for row in budget["rows"]:
        found.setdefault((row["workload"], row["side"], row["variant"]), {})[row["precision"]] = row["batch"]
    lines += [f"| {w} | {s} | {v} | {b.get('bf16', '')} | {b.get('fp32', '')} |" for (w, s, v), b in found.items()]
    return lines + [""]


def markdown(results):
    m, versions = results["machine"], results["versions"]
    lines = [f"Measured {results['date']} on {m['cpu']}, {m['cores']} cores ({', '.join(m['extensions'])}), {results['threads']} threads, with "
             + ", ".join(f"{name} {hello[key]}" for side, hello in versions.items()
                         for name, key in ([("LibTorch", "torch")] if side == "ours" else [("Python", "python"), ("PyTorch", "torch")]))
             + f", by `{results['command']}`.", ""]
    if results["quick"]:
        lines += ["**A quick run: that everything runs; these times mean nothing.**", ""]
    for measured in results["workloads"]:
        lines += table(measured)
    if "budget" in results:
        lines += budget_table(results["budget"])
    elif not results["quick"]:
        lines += goals(results) + recordings(results)
    if results["workloads"]:
        idle = max(w["idle_cpu"] for w in results["workloads"])
        lines += [f"While one side ran, the other used at most {idle:.1%} of a core; the reference product reached "
                  + ", ".join(f"{w['best_reference_gflops']:.0f}" for w in results["workloads"]) + " GFLOP/s; the run took "
                  + f"{sum(w['wall_seconds'] for w in results['workloads']) / 60:.0f} minutes."]
    return "\n".join(lines).rstrip() + "\n"


def update_docs(page, name, text):
    """Replaces what stands between <!-- NAME --> and <!-- end of NAME -->."""
    old = page.read_text()
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    if not re.search(pattern, old, re.S):
        sys.exit(f"[bench] {page} must have the lines <!-- {name} --> and <!-- end of {name} -->, but it has not")
    page.write_text(re.sub(pattern, lambda match: match[1] + "\n" + text + "\n" + match[2], old, flags=re.S))
