#!/usr/bin/env python3
"""Times training on N ranks of this machine, with one thread each, beside training on one rank with one thread.

    benchmarks/scaling.py [--workloads mlp_large,gpt] [--precisions fp32,bf16] [--ranks 2] [--samples 9] [--seconds 0.5] [--output FOLDER] [--docs]
    benchmarks/scaling.py --compression bfloat16 --bucket-cap-mb 10 --views      other ways to exchange
    benchmarks/scaling.py --quick              seconds: that everything runs; its times mean nothing

Every rank has a whole batch, so N ranks do N times the work. A process that trains alone and the N ranks take turns; a sample is of
    alone      steps of the one process
    train      steps of the ranks
    compute    the same without the exchange of gradients
    exchange   an exchange of as many bytes, in one piece and with nothing beside it
Before and after each a 1024^3 float32 product is timed on every rank, and a sample beside one below 80 % of the best rate of its kind is dropped
and counted. Speed-up is N * alone / train. The exposed part of the exchange is train - compute: what it adds to a step. Writes scaling.json and
scaling.md into --output (build/bench).
"""
import argparse
import json
import os
import pathlib
import random
import shlex
import socket
import sys
import time

import report
import statistics_of
import workers

ROOT = pathlib.Path(__file__).resolve().parents[1]
KINDS = ("alone", "train", "compute", "exchange")
WANTED_SPEEDUP, WANTED_EXPOSED = 1.7, 0.3


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Job:
    """The processes of a job, which are asked all at once."""

    def __init__(self, worker, ranks, log):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(workers.Workers.DROPPED + ("SLURM_", "OMPI_"))}
        environment |= {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": str(free_port())}
        self.ranks = [workers.Worker(f"rank {rank} of {ranks}", [worker], environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, log)
                      for rank in range(ranks)]

    def ask(self, what, **arguments):
        """The answers of all ranks."""
        for rank in self.ranks:
            rank.send(what, **arguments)
        return [rank.receive(what, **arguments) for rank in self.ranks]

    def cpu_seconds(self):
        return sum(rank.cpu_seconds() for rank in self.ranks)

    def close(self):
        for rank in self.ranks:  # all are told first: rank 0 waits for the others
            rank.say_goodbye()
        for rank in self.ranks:
            rank.close()


def check_losses(name, alone, ranks):
    """The network trains, and on all ranks the same: each has the same batch."""
    losses = [reply["losses"] for reply in (*alone, *ranks)]
    for other in losses[1:]:
        if any(abs(a - b) > 0.02 * losses[0][0] for a, b in zip(losses[0], other)):
            sys.exit(f"FAILED: {name} has losses {losses}, which must be the same on one rank and on all")
    if len(set(losses[0])) < len(losses[0]):
        sys.exit(f"FAILED: {name} does not train: {losses[0]}")


def measure(workload, precision, arguments, jobs):
    name = f"{workload}, {precision}"
    request = {"workload": workload, "precision": precision, "batch": 4 if arguments.quick else 0, "compression": arguments.compression,
               "bucket_cap_mb": arguments.bucket_cap_mb, "views": arguments.views}
    prepared = {job: jobs[job].ask("prepare", **request) for job in jobs}
    check_losses(name, prepared["alone"], prepared["ranks"])
    usual = {kind: max(reply["seconds"] for reply in prepared["alone" if kind == "alone" else "ranks"]) for kind in KINDS}
    samples = {kind: [] for kind in KINDS}
    order, shuffle = list(KINDS), random.Random(0)
    for _ in range(arguments.samples):
        shuffle.shuffle(order)
        for kind in order:
            job, other = ("alone", "ranks") if kind == "alone" else ("ranks", "alone")
            steps = max(1, min(200, round(arguments.seconds / usual[kind])))
            before, start = jobs[other].cpu_seconds(), time.monotonic()
            replies = jobs[job].ask("sample", kind="train" if kind == "alone" else kind, steps=steps)
            idle = (jobs[other].cpu_seconds() - before) / (time.monotonic() - start)
            samples[kind].append({"seconds": max(reply["seconds"] for reply in replies), "reference": min(reply["reference"] for reply in replies),
                                  "idle_cpu": idle})
    rows = {}
    for kind, taken in samples.items():
        best = 0 if arguments.quick else max(s["reference"] for s in taken)
        rows[kind] = statistics_of.summarize(taken, best) | {"best_reference_gflops": max(s["reference"] for s in taken)}
    return {"workload": workload, "precision": precision, "gradient_bytes": prepared["ranks"][0]["gradient_bytes"], "rows": rows}


def shares(measured, ranks):
    """Speed-up, and what of the exchange is exposed: of the time it takes alone, and of a step. Nothing where no sample was quiet."""
    medians = {kind: row.get("median") for kind, row in measured["rows"].items()}
    if None in medians.values():
        return None
    exposed = max(0.0, medians["train"] - medians["compute"])
    return {"speedup": ranks * medians["alone"] / medians["train"], "exposed": exposed / medians["exchange"], "of_step": exposed / medians["train"]}


def milliseconds(row):
    return f"{row['median'] * 1e3:.1f} ± {row['spread'] / 2:.0%}" if "median" in row else "no quiet sample"


def markdown(results):
    m, ranks = results["machine"], results["ranks"]
    lines = [f"Measured {results['date']} on {m['cpu']}, {m['cores']} cores ({', '.join(m['extensions'])}), with LibTorch {results['torch']}, by "
             f"`{results['command'].strip()}`: {ranks} ranks of one thread beside one.", ""]
    if results["quick"]:
        lines += ["**A quick run: that everything runs; these times mean nothing.**", ""]
    lines += ["| | gradients | " + " | ".join(f"{kind}, ms" for kind in KINDS) + " | speed-up | exposed of the exchange | of the step | samples |",
              "|---|---:|" + "---:|" * (len(KINDS) + 4)]
    for measured in results["measured"]:
        share = shares(measured, ranks)
        cells = [f"{share['speedup']:.2f} ×", f"{share['exposed']:.0%}", f"{share['of_step']:.0%}"] if share else ["", "", ""]
        rows = measured["rows"].values()
        lines.append(f"| {measured['workload']}, {measured['precision']} | {measured['gradient_bytes'] / 2**20:.1f} MiB | "
                     + " | ".join(milliseconds(measured["rows"][kind]) for kind in KINDS) + " | " + " | ".join(cells)
                     + f" | {sum(row['kept'] for row in rows)} of {sum(row['kept'] + row['dropped'] for row in rows)} |")
    if not results["quick"]:
        lines += ["", f"Wanted: {WANTED_SPEEDUP} ×, and at most {WANTED_EXPOSED:.0%} exposed."]
    return "\n".join(lines) + "\n"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", default=str(ROOT / "build/release/benchmarks/halfstep_bench_rank"))
    parser.add_argument("--workloads", help="default: mlp_large,gpt; with --quick mlp_large")
    parser.add_argument("--precisions", help="default: fp32,bf16; with --quick fp32")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--samples", type=int, default=9, help="of each kind")
    parser.add_argument("--seconds", type=float, default=0.5, help="at least one step, about this long, is a sample")
    parser.add_argument("--compression", choices=("none", "float16", "bfloat16"), default="none")
    parser.add_argument("--bucket-cap-mb", type=float, default=25)
    parser.add_argument("--views", action="store_true", help="gradient_as_bucket_view")
    parser.add_argument("--output", default=str(ROOT / "build/bench"))
    parser.add_argument("--docs", action="store_true", help="also update the table of docs/scaling.md")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.samples, arguments.seconds = 1, 0.01
    arguments.precisions = arguments.precisions or ("fp32" if arguments.quick else "fp32,bf16")
    arguments.workloads = arguments.workloads or ("mlp_large" if arguments.quick else "mlp_large,gpt")
    if not os.access(arguments.worker, os.X_OK):
        sys.exit(f"[scaling] {arguments.worker} is not built; run scripts/build release halfstep_bench_rank")
    if arguments.ranks > len(os.sched_getaffinity(0)):
        print(f"[scaling] {arguments.ranks} ranks share {len(os.sched_getaffinity(0))} cores: times say little", file=sys.stderr)
    return arguments


def main():
    arguments = parse()
    output = pathlib.Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    results = {"date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()), "machine": report.machine(), "ranks": arguments.ranks,
               "command": "benchmarks/scaling.py " + shlex.join(report.portable(sys.argv[1:])),
               "quick": arguments.quick, "load_before": os.getloadavg()[0], "measured": []}
    with open(output / "ranks.log", "w") as log:
        jobs = {"alone": Job(arguments.worker, 1, log), "ranks": Job(arguments.worker, arguments.ranks, log)}
        try:
            hello = [reply for job in jobs.values() for reply in job.ask("hello")]
            if any(reply["threads"] != 1 for reply in hello):
                sys.exit(f"[scaling] each rank must have one thread, but they have {[reply['threads'] for reply in hello]}")
            results["torch"] = hello[0]["torch"]
            for workload in arguments.workloads.split(","):
                for precision in arguments.precisions.split(","):
                    results["measured"].append(measure(workload, precision, arguments, jobs))
                    print(f"  {workload}, {precision}: {shares(results['measured'][-1], arguments.ranks)}", file=sys.stderr)
        except workers.WorkerError as error:
            sys.exit(f"[scaling] {error}; what the ranks printed is in {output}/ranks.log")
        finally:
            for job in jobs.values():
                job.close()
    (output / "scaling.json").write_text(json.dumps(results, indent=1) + "\n")
    text = markdown(results)
    (output / "scaling.md").write_text(text)
    print(text)
    if arguments.docs:
        report.update_docs(ROOT / "docs/scaling.md", "scaling", text)


if __name__ == "__main__":
    main()
