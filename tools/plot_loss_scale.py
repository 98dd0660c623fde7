#!/usr/bin/env python3
"""Draws the loss scale of a run, and the steps it skipped, as an SVG file.

    halfstep train configs/mnist_mlp_fp16.yaml --device cpu --cfg-options default_hooks.logger.interval=1
    tools/plot_loss_scale.py work_dirs/mnist_mlp_fp16 -o scale.svg

RUN_DIR is the work dir of a run with a loss scale, or its log.jsonl. Each line of the log is a point, so `interval: 1` of the logger shows every
step. Of several optimizers --name chooses one. Needs Python 3 alone.
"""
import argparse
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT = 480, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 44, 46  # margins around the plot
SCALE_COLOR, SKIP_COLOR = "#0b57a4", "#c8201e"


class Point(NamedTuple):
    step: int
    scale: float
    skipped: int  # so far


def read_points(log, name=""):
    """The lines of a training step, in order; of a step that a resumed run made again, the later one."""
    key = f"{name}.loss_scale" if name else "loss_scale"
    skipped = f"{name}.skipped_steps" if name else "skipped_steps"
    points, others = {}, set()
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry.get("event") != "train":
            continue
        others |= {other.rpartition(".")[0] for other in entry if other.endswith(".loss_scale")}
        if key in entry:
            points[entry["step"]] = Point(entry["step"], entry[key], entry.get(skipped, 0))
    if not points:
        advice = f"--name may be {', '.join(sorted(others))}" if others else "a run in float16 with a dynamic loss scale has one"
        raise ValueError(f"{log} must have lines of training with '{key}', but it has none; {advice}")
    return [points[step] for step in sorted(points)]


def skips(points):
    """The points before which, since the point before them, a step was skipped."""
    before = 0
    for point in points:
        if point.skipped > before:
            yield point
        before = point.skipped


def tick_step(span, at_most):
    """1, 2 or 5 times a power of ten, at most so many of which fit."""
    for exponent in range(12):
        for factor in (1, 2, 5):
            step = factor * 10**exponent
            if span / step <= at_most:
                return step
    raise ValueError(f"{span} steps are too many")


def svg(points):
    last = max(points[-1].step, 1)
    low = math.floor(min(math.log2(point.scale) for point in points) - 0.5)
    high = math.ceil(max(math.log2(point.scale) for point in points) + 0.5)

    def x(step):
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / last, 1)

    def y(scale):
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log2(scale) - low) / (high - low), 1)

    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    marked = list(skips(points))
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * 4 // 3}" height="{HEIGHT * 4 // 3}" viewBox="0 0 {WIDTH} {HEIGHT}" '
             'font-family="sans-serif" font-size="14" fill="#222">',
             f"<title>Loss scale over {last} steps, {points[-1].skipped} of them skipped</title>",
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    # What is what, above the plot.
    lines += [f'<path d="M{LEFT} 20h24" stroke="{SCALE_COLOR}" stroke-width="2"/>', f'<text x="{LEFT + 30}" y="25">loss scale</text>',
              f'<circle cx="{LEFT + 130}" cy="20" r="3.5" fill="{SKIP_COLOR}"/>',
              f'<text x="{LEFT + 140}" y="25">skipped step ({points[-1].skipped} of {last})</text>']
    between = max(1, math.ceil((high - low) / 7))
    for exponent in range(low + -low % between, high + 1, between):
        at = y(2.0**exponent)
        lines += [f'<path d="M{LEFT} {at}H{right}" stroke="#ddd"/>',
                  f'<text x="{LEFT - 8}" y="{at + 5}" text-anchor="end">2<tspan dy="-6" font-size="11">{exponent}</tspan></text>']
    every = tick_step(last, 5)
    for step in range(0, last + 1, every):
        at = x(step)
        lines += [f'<path d="M{at} {bottom}v5" stroke="#222"/>',
                  f'<text x="{at}" y="{bottom + 20}" text-anchor="middle">{step}</text>']
    lines += [f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#222"/>',
              f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>']
    path = f"M{x(points[0].step)} {y(points[0].scale)}"
    for before, point in zip(points, points[1:]):
        if point.scale != before.scale:
            path += f"H{x(point.step)}V{y(point.scale)}"
    path += f"H{x(last)}"
    lines.append(f'<path d="{path}" fill="none" stroke="{SCALE_COLOR}" stroke-width="2"/>')
    lines += [f'<circle cx="{x(point.step)}" cy="{y(point.scale)}" r="3.5" fill="{SKIP_COLOR}"/>' for point in marked]
    return "\n".join([*lines, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    parser.add_argument("-o", "--output", metavar="FILE.svg", type=Path, required=True)
    parser.add_argument("--name", default="", help="of an optimizer, where there are several")
    arguments = parser.parse_args()
    log = arguments.run_dir / "log.jsonl" if arguments.run_dir.is_dir() else arguments.run_dir
    try:
        arguments.output.write_text(svg(read_points(log, arguments.name)), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"plot_loss_scale.py: {error}")


if __name__ == "__main__":
    main()
