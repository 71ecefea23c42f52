#!/usr/bin/env python3
"""What a mechanism of the CPU executor costs, or a change: this build beside one without it.

  scripts/cost-of.py polls    poll points in best-effort work
  scripts/cost-of.py trace    the recording of events, while it is off
  scripts/cost-of.py change --before PATH    what was changed since PATH was built, the example `bursts` of a checkout

Builds the example `bursts`, and again with the mechanism compiled out, loads the models in both processes, and lets
them run a model back to back for a moment in turns; who goes first changes from pair to pair. A machine that slows down
for longer than a burst hits both. Prints for every model the median over the pairs of what the mechanism costs in
throughput, with the interval that holds the true median with 95 % confidence.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = {
    "polls": ["resnet152", "distilbert", "control"],
    "trace": ["resnet152", "tiny-resnet152", "control"],
    "change": ["resnet152", "tiny-resnet152", "distilbert", "control"],
}


def main():
    args = parse_args()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    models = args.models or MODELS[args.what]
    # Only the crates behind reef-cpu are built twice. The plain build comes last: it stays in the target folder.
    without = args.before or build(target, "without", ["--features", f"reef-cpu/no-{args.what}"])
    having = build(target, "with", [])
    with Bursts(having, args.burst_s, models) as a, Bursts(without, args.burst_s, models) as b:
        results = [measure(model, a, b, args.pairs) for model in models]
    if args.json:
        print(json.dumps({"what": args.what, "burst_s": args.burst_s, "models": results}, indent=2))
        return
    print(f"cost of {args.what}, {args.pairs} pairs of bursts of {args.burst_s} s")
    for result in results:
        low, high = result["interval"]
        print(f"{result['model']:16} {result['cost'] * 100:+6.2f} %   (95 %: {low * 100:+.2f} to {high * 100:+.2f} %)   "
              f"{result['with_per_s']:.4g} inferences/s with, {result['without_per_s']:.4g} without")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(MODELS))
    parser.add_argument("--before", type=pathlib.Path, help="the program to compare a change with")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--burst-s", type=float, default=0.5)
    parser.add_argument("--models", nargs="+", help="names of the zoo, or tiny-NAME")
    parser.add_argument("--json", action="store_true", help="write the results as JSON, with every pair")
    args = parser.parse_args()
    if (args.what == "change") != bool(args.before):
        parser.error("--before belongs to `change`")
    if args.pairs < 8 or args.burst_s <= 0:
        parser.error("at least 8 pairs of bursts that take time are needed")
    return args


def build(target, name, features):
    command = ["cargo", "build", "--release", "--quiet", "--package", "reef", "--example", "bursts", *features]
    subprocess.run(command, cwd=ROOT, check=True)
    path = target / "cost-of" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(target / "release" / "examples" / "bursts", path)
    return path


class Bursts(contextlib.AbstractContextManager):
    """One of the two processes."""

    def __init__(self, path, burst_s, models):
        command = [str(path), str(burst_s), *models]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.read()

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def run(self, model):
        self.process.stdin.write(model + "\n")
        self.process.stdin.flush()
        return float(self.read())

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"cost-of: the measured program ended with {self.process.wait()}")
        return line


def measure(model, having, without, count):
    having.run(model), without.run(model)
    pairs = []
    for number in range(count):
        order = [having, without] if number % 2 == 0 else [without, having]
        rates = {which: which.run(model) for which in order}
        pairs.append((rates[having], rates[without]))
        print(f"{model}: pair {number + 1} of {count}", file=sys.stderr, end="\r")
    print(file=sys.stderr)
    costs = sorted(1 - a / b for a, b in pairs)
    # Order statistics around the median: the sign test's interval, which assumes nothing of the distribution.
    reach = math.ceil(0.98 * math.sqrt(count))
    middle = count // 2
    return {
        "model": model, "cost": statistics.median(costs),
        "interval": [costs[max(0, middle - reach)], costs[min(count - 1, middle + reach)]],
        "with_per_s": statistics.median(a for a, _ in pairs), "without_per_s": statistics.median(b for _, b in pairs),
        "pairs": pairs,
    }


if __name__ == "__main__":
    main()
