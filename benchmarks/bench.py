#!/usr/bin/env python3
"""Times training steps of halfstep beside those of Python PyTorch of the same version: `make bench`, or

    benchmarks/bench.py [--workloads gpt,…] [--variants REGEX] [--samples 9] [--seconds 0.25] [--output FOLDER] [--docs]
    benchmarks/bench.py --quick              a minute, nothing compiled: that everything runs; its times mean nothing
    benchmarks/bench.py --budget-mib 512     the largest batch of gpt and resnet18 whose tensors fit, ours and theirs

Both sides are processes with the same environment that hold all variants of a workload and take turns; before and after each
sample a 1024³ bfloat16 product is timed, and a sample beside a product below 80 % of the best rate is dropped and counted. Nothing is timed
before the first losses of all variants agree. Writes results.json and results.md into --output (build/bench); --docs puts the table
into docs/benchmarks.md too.
"""
import argparse
import datetime
import json
import os
import pathlib
import random
import re
import sys
import tempfile
import time

import budget
import report
import statistics_of
import workers as processes

ROOT = pathlib.Path(__file__).resolve().parents[1]
PRECISIONS = ("bf16", "fp32")
QUICK_BATCH = {"mlp_small": 64, "mlp_large": 16, "resnet18": 1, "gpt": 1}
# A first loss is a mean over the batch; later ones come after optimizer steps, which rounding changes by more.
FIRST_LOSS = {"fp32": 1e-4, "bf16": 1e-2}
THIRD_LOSS = 0.15


def has_bfloat16_convolutions():
    """Without AVX-512 a CPU's convolutions in bfloat16 take minutes a step."""
    return "avx512bw" in pathlib.Path("/proc/cpuinfo").read_text()


def entries_of(workload, hello, pattern, quick):
    """What is timed: (side, variant, precision)."""
    precisions, chosen = PRECISIONS, set()
    if quick and workload == "resnet18" and not has_bfloat16_convolutions():
        print("[bench] resnet18 in bf16 is LEFT OUT of this quick run: this CPU has no AVX-512", file=sys.stderr)
        precisions = ("fp32",)
    for side, answer in hello.items():
        for variant in answer["variants"]:
            if variant["images_only"] and workload != "resnet18":
                continue
            for precision in precisions:
                if (precision == "fp32" and variant["float32"]) or (quick and "compiled" in variant["name"]):
                    continue
                if re.search(pattern, f"{side}/{variant['name']}/{precision}"):
                    chosen.add(precision)
                    yield side, variant["name"], precision
    if "bf16" not in chosen:
        return  # nothing to compare them with
    yield "ours", "products", "bf16"
    if workload == "resnet18":
        yield "ours", "products, channels_last", "bf16"


def check_losses(workload, prepared):
    """The networks are the same, each variant trains, and bf16 is not float32 in disguise."""
    trained = {key: reply["losses"] for key, reply in prepared.items() if "losses" in reply}
    first = {p: next((losses for key, losses in trained.items() if key[2] == p), None) for p in PRECISIONS}
    for key, losses in trained.items():
        name, precision = "/".join(key), key[2]
        expected = first[precision]
        if abs(losses[0] - expected[0]) > FIRST_LOSS[precision] * expected[0]:
            sys.exit(f"FAILED: {workload} {name} has a first loss of {losses[0]}, others {expected[0]}")
        if abs(losses[2] - expected[2]) > THIRD_LOSS * expected[0]:
            sys.exit(f"FAILED: {workload} {name} has a third loss of {losses[2]}, others {expected[2]}")
        if len(set(losses)) < 3:
            sys.exit(f"FAILED: {workload} {name} does not train: {losses}")
        if precision == "bf16" and first["fp32"] and losses[0] == first["fp32"][0]:
            sys.exit(f"FAILED: {workload} {name} has float32's loss to the bit: was anything cast?")
        if "compiled" in key[1] and not prepared[key]["graphs"]:
            sys.exit(f"FAILED: {workload} {name} was not compiled")


def measure(workload, arguments, log):
    """The rows of one workload."""
    started = time.monotonic()
    batch = QUICK_BATCH[workload] if arguments.quick else 0
    with processes.Workers(arguments.worker, arguments.python, arguments.threads, arguments.wait, log,
                           arguments.flush_denormal) as workers, \
            tempfile.TemporaryDirectory(prefix="halfstep-bench-") as folder:
        file = ""
        if "Python" in workers.sides:
            file = os.path.join(folder, "start.safetensors")
            workers["Python"].ask("export", workload=workload, file=file, batch=batch)
        prepared = {}
        for key in entries_of(workload, workers.hello, arguments.variants, arguments.quick):
            side, variant, precision = key
            prepared[key] = workers[side].ask("prepare", id="/".join(key), workload=workload, variant=variant,
                                              precision=precision, file=file, batch=batch)
            print(f"  {workload}: {'/'.join(key)} prepared, {min(prepared[key]['seconds']) * 1e3:.2f} ms", file=sys.stderr)
        check_losses(workload, prepared)

        samples = {key: [] for key in prepared}
        order = list(prepared)
        shuffle = random.Random(0)
        for _ in range(arguments.samples):
            shuffle.shuffle(order)
            for key in order:
                steps = max(1, min(2000, round(arguments.seconds / min(prepared[key]["seconds"]))))
                samples[key].append(workers.sample(key[0], id="/".join(key), steps=steps))
        hello = workers.hello

    float32 = {(side, v["name"]): v["float32"] or v["name"] for side, answer in hello.items() for v in answer["variants"]}
    best = max(s["reference"] for taken in samples.values() for s in taken)
    rows = []
    for (side, variant, precision), taken in samples.items():
        row = {"side": side, "variant": variant, "precision": precision,
               "float32": float32.get((side, variant))} | statistics_of.summarize(taken, 0 if arguments.quick else best)
        reply = prepared[side, variant, precision]
        row |= {name: reply[name] for name in ("losses", "state_bytes", "peak_bytes", "recording_seconds") if name in reply}
        rows.append(row)
    return {"workload": workload, "rows": rows, "best_reference_gflops": best, "wall_seconds": time.monotonic() - started,
            "idle_cpu": max(s["idle_cpu"] for taken in samples.values() for s in taken)}, hello


def find_python(arguments):
    """The Python with PyTorch, or None where ours alone is asked for."""
    if arguments.no_python:
        return None
    python = arguments.python or ROOT / ".venv-bench/bin/python"
    if os.access(python, os.X_OK):
        return str(python)
    if arguments.quick and not arguments.python:
        return None
    sys.exit(f"[bench] a Python with PyTorch is needed, but {python} is not there; run scripts/setup-bench (make bench does)")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", default=str(ROOT / "build/release/benchmarks/halfstep_bench_worker"))
    parser.add_argument("--python", help="a Python with PyTorch of the same version (default: .venv-bench)")
    parser.add_argument("--no-python", action="store_true", help="our side alone")
    parser.add_argument("--workloads", default="mlp_small,mlp_large,resnet18,gpt")
    parser.add_argument("--variants", default="", help="regular expression over SIDE/VARIANT/PRECISION")
    parser.add_argument("--samples", type=int, default=9, help="of each variant")
    parser.add_argument("--seconds", type=float, default=0.25, help="at least one step, about this long, is a sample")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--wait", choices=("default", "passive"), default="default",
                        help="how OpenMP threads wait: spinning briefly, as in programs that set nothing, or asleep")
    parser.add_argument("--flush-denormal", action="store_true",
                        help="Python calls torch.set_flush_denormal(True), as our optimizer kernels do for themselves")
    parser.add_argument("--output", default=str(ROOT / "build/bench"))
    parser.add_argument("--docs", action="store_true", help="also update the table of docs/benchmarks.md")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--budget-mib", type=int)
    arguments = parser.parse_args()
    arguments.workloads = dict.fromkeys(arguments.workloads.split(",")).keys()
    if arguments.workloads - QUICK_BATCH.keys():
        parser.error(f"workloads must be some of {', '.join(QUICK_BATCH)}, but got {', '.join(arguments.workloads)}")
    if arguments.quick:
        # Asleep: the tests run it on busy machines.
        arguments.samples, arguments.seconds, arguments.wait = 1, 0.01, "passive"
    arguments.python = find_python(arguments)
    if not os.access(arguments.worker, os.X_OK):
        sys.exit(f"[bench] {arguments.worker} is not built; run scripts/build release halfstep_bench_worker (make bench does)")
    return arguments


def main():
    arguments = parse()
    if not arguments.python:
        print("[bench] NOTHING IS COMPARED: there is no Python PyTorch here, so our side runs alone", file=sys.stderr)
    output = pathlib.Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    results = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
               "command": report.command(sys.argv[1:]), "machine": report.machine(), "threads": arguments.threads, "wait": arguments.wait,
               "load_before": os.getloadavg()[0], "quick": arguments.quick, "workloads": []}
    with open(output / "workers.log", "w") as log:
        try:
            if arguments.budget_mib:
                results["budget"], results["versions"] = budget.largest_batches(arguments, log)
            else:
                for workload in arguments.workloads:
                    measured, results["versions"] = measure(workload, arguments, log)
                    results["workloads"].append(measured)
        except processes.WorkerError as error:
            sys.exit(f"[bench] {error}; what the workers printed is in {output}/workers.log")
    stem = "budget" if arguments.budget_mib else "results"
    (output / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.markdown(results)
    (output / f"{stem}.md").write_text(text)
    print(text)
    if arguments.docs:
        report.update_docs(ROOT / "docs/benchmarks.md", stem, text)


if __name__ == "__main__":
    main()
