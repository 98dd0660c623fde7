"""The largest batch whose tensors fit a budget, counted like the peak bytes of the table: weights, batch, optimizer state, gradients
and activations of the first three steps."""
import os
import re
import tempfile

import workers as processes

MIB = 1 << 20
WORKLOADS = ("resnet18", "gpt")


def total_bytes(workers, file, workload, side, variant, precision, batch):
    if file:
        workers["Python"].ask("export", workload=workload, file=file, batch=batch)
    reply = workers[side].ask("prepare", id="budget", workload=workload, variant=variant, precision=precision, file=file, batch=batch)
    workers[side].ask("forget", id="budget")
    return reply["state_bytes"] + reply["peak_bytes"]


def largest_batch(bytes_of, budget):
    """The largest n with bytes_of(n) <= budget, for a rising function that is nearly a line; 0 where not even 1 fits."""
    low, low_bytes = 1, bytes_of(1)
    if low_bytes > budget:
        return 0
    high = 4
    while (high_bytes := bytes_of(high)) <= budget:
        low, low_bytes, high = high, high_bytes, high * 4
    while high - low > 1:
        slope = (high_bytes - low_bytes) / (high - low)
        middle = min(high - 1, max(low + 1, low + int((budget - low_bytes) / slope)))
        middle_bytes = bytes_of(middle)
        if middle_bytes <= budget:
            low, low_bytes = middle, middle_bytes
            # The line's next guess is often this one again: look just above it.
            if high - low > 1 and (above := bytes_of(low + 1)) > budget:
                return low
            elif high - low > 1:
                low, low_bytes = low + 1, above
        else:
            high, high_bytes = middle, middle_bytes
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
                    for precision in ("bf16", "fp32"):
                        name = variant["name"]
                        if not re.search(arguments.variants, f"{side}/{name}/{precision}"):
                            continue
                        batch = largest_batch(
                            lambda n: total_bytes(workers, file, workload, side, name, precision, n), arguments.budget_mib * MIB)
                        rows.append({"workload": workload, "side": side, "variant": name, "precision": precision, "batch": batch})
        return {"mib": arguments.budget_mib, "rows": rows}, workers.hello
