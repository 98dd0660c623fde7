"""Numbers from samples: which to keep, their median and spread."""
import statistics

KEEP_ABOVE = 0.8  # of the reference product's best rate


def summarize(samples, best_reference):
    """`samples`: dicts with seconds and reference. Seconds per step over those taken in quiet moments, and how many were not."""
    kept = sorted(s["seconds"] for s in samples if s["reference"] >= KEEP_ABOVE * best_reference)
    result = {"kept": len(kept), "dropped": len(samples) - len(kept), "samples": samples}
    if kept:
        quarter = statistics.quantiles(kept, n=4, method="inclusive") if len(kept) > 1 else [kept[0]] * 3
        result |= {"median": statistics.median(kept), "min": kept[0], "max": kept[-1], "spread": (quarter[2] - quarter[0]) / quarter[1]}
    return result


def verdict(ratio, equal=0.05):
    """`ratio`: how many times as fast as the other; within 5 % it counts as equal."""
    return "equal" if abs(ratio - 1) <= equal else "faster" if ratio > 1 else "slower"
