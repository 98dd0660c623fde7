#!/usr/bin/env python3
"""What it costs to average the gradients of a step over n GPUs, by arithmetic: nothing here is measured.

    tools/gradient_traffic.py                                          the table of docs/scaling.md
    tools/gradient_traffic.py --check docs/scaling.md                  fails unless the page has that table
    tools/gradient_traffic.py --parameters 350e6 --bytes 2 --gpus 64 --gigabytes-a-second 12.5 --microseconds 5

Gradients travel in buckets of s bytes. A ring of n takes 2(n-1) rounds of s/n bytes; a tree passes s up and down, in 2 log2(n) rounds:

    ring(s) = 2(n-1)/n * s/B + 2(n-1) * a         tree(s) = 2 * s/B + 2 ceil(log2(n)) * a

B is what a node sends (all its network cards together; a GPU, where all are in one node), a is what a round costs whatever its size. A step's
exchange is the sum over its buckets of the smaller of the two; NCCL chooses between them in this way. Needs Python 3 alone.
"""
import argparse
import math
import sys
from pathlib import Path

BUCKET = 25 * 2**20  # bucket_cap_mb
MODELS = (("25 M", 25e6), ("350 M", 350e6), ("7 B", 7e9))
DTYPES = (("float32", 4), ("bfloat16", 2))
# GPUs, name of the link, bytes a second, seconds a round. Data sheets' rates, none of which is reached whole; rounds are assumed.
NVLINK = (8, "NVLink", 450e9, 2e-6)
NETWORKS = (("100 Gb/s Ethernet", 12.5e9, 30e-6), ("200 Gb/s InfiniBand", 25e9, 5e-6), ("8 x 400 Gb/s InfiniBand", 400e9, 5e-6))
LINKS = (NVLINK, *((gpus, *network) for gpus in (64, 1024) for network in NETWORKS))


def bucket_seconds(size, gpus, rate, latency):
    ring = 2 * (gpus - 1) / gpus * size / rate + 2 * (gpus - 1) * latency
    tree = 2 * size / rate + 2 * math.ceil(math.log2(gpus)) * latency
    return min(ring, tree)


def step_seconds(total, gpus, rate, latency, bucket=BUCKET):
    """Of `total` bytes of gradients. One GPU exchanges nothing."""
    if gpus == 1:
        return 0.0
    full, rest = divmod(total, bucket)
    return full * bucket_seconds(bucket, gpus, rate, latency) + (bucket_seconds(rest, gpus, rate, latency) if rest else 0)


def in_words(seconds):
    """Two digits that count."""
    value, unit = (seconds, "s") if seconds >= 0.9995 else (seconds * 1e3, "ms")
    digits = max(0, 1 - math.floor(math.log10(value)))
    return f"{round(value, 1 - math.floor(math.log10(value))):.{digits}f} {unit}"


def table():
    head = "| GPUs | each node sends by | " + " | ".join(f"{model}, {dtype}" for model, _ in MODELS for dtype, _ in DTYPES) + " |"
    lines = [head, "|---:|---|" + "---:|" * (len(MODELS) * len(DTYPES))]
    for gpus, name, rate, latency in LINKS:
        cells = [in_words(step_seconds(parameters * size, gpus, rate, latency)) for _, parameters in MODELS for _, size in DTYPES]
        lines.append(f"| {gpus:,} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", metavar="PAGE")
    parser.add_argument("--parameters", type=float)
    parser.add_argument("--bytes", type=float, default=4, help="of each gradient on its way (gradient_compression)")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--gigabytes-a-second", type=float, default=12.5, help="that a node sends")
    parser.add_argument("--microseconds", type=float, default=5, help="of a round")
    arguments = parser.parse_args()
    if arguments.check:
        if table() not in Path(arguments.check).read_text():
            sys.exit(f"{arguments.check} must have the table that {sys.argv[0]} prints, but it has not:\n\n{table()}")
    elif arguments.parameters:
        print(in_words(step_seconds(arguments.parameters * arguments.bytes, arguments.gpus, arguments.gigabytes_a_second * 1e9,
                                    arguments.microseconds * 1e-6)))
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
