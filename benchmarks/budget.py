"""The largest batch whose tensors fit a budget, counted like the peak bytes of the table: weights, batch, optimizer state, gradients
and activations of the first two steps: the second has everything."""
import os
import re
import tempfile

import workers as processes

MIB = 1 << 20
WORKLOADS = ("resnet18", "gpt")


def total_bytes(workers, file, workload, side, variant, precision, batch):
    if file:
        workers["Python"].ask("export", workload=workload, file=file, batch=batch)
    reply = workers[side].ask("prepare", id="budget", workload=workload, variant=variant, precision=precision, file=file, batch=batch,
                                steps=2)
    workers[side].ask("forget", id="budget")
    return reply["state_bytes"] + reply["peak_bytes"]


def largest_batch(bytes_of, budget):
    """The largest n with bytes_of(n) <= budget, for a rising function that is nearly a line; 0 where not even 1 fits."""
    low, low_bytes = 1, bytes_of(1)
    if low_bytes > budget:
        return 0
    other, other_bytes = 8, bytes_of(8)
    high = None  # the smallest known not to fit
    while high is None or high - low > 1:
        if other > low and other_bytes <= budget:
            low, low_bytes, other, other_bytes = other, other_bytes, low, low_bytes
        elif other > low:
            high = min(other, high or other)
        if high is not None and high - low <= 1:
            break
        slope = (other_bytes - low_bytes) / (other - low)
        guess = low + int((budget - low_bytes) / slope) if slope > 0 else low + 1
        guess = max(low + 1, min(guess, 16 * low if high is None else high - 1))
        other, other_bytes = guess, bytes_of(guess)
    return low


def largest_batches(arguments, log):
    rows = []
    with processes.Workers(arguments.worker, arguments.python, arguments.threads, arguments.wait, log) as workers, \
            tempfile.TemporaryDirectory(prefix="halfstep-bench-") as folder:
        file = os.path.join(folder, "start.safetensors") if "Python" in workers.sides else ""
        for workload in (w for w in WORKLOADS if w in arguments.workloads):
            for side, hello in workers.hello.items():
                for variant in hello["variants"]:
                    if variant["images_only"] and workload != "resnet18":
                        continue
                    for precision in ("bf16",) if variant["float32"] else ("bf16", "fp32"):
                        name = variant["name"]
                        if not re.search(arguments.variants, f"{side}/{name}/{precision}"):
                            continue
                        batch = largest_batch(
                            lambda n: total_bytes(workers, file, workload, side, name, precision, n), arguments.budget_mib * MIB)
                        rows.append({"workload": workload, "side": side, "variant": name, "precision": precision, "batch": batch})
        return {"mib": arguments.budget_mib, "rows": rows}, workers.hello
