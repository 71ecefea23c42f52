#!/usr/bin/env python3
"""Latency of `reef run` beside ONNX Runtime on the same cores, in one run.

Short bursts of both alternate, so that a machine that slows down slows both. A model's ratio is the median over the
rounds of (p50 of our burst / p50 of the ONNX Runtime burst next to it); below 1 we are faster.

Both times are what the caller of the respective library waits for: for reef from the call to the return of a session's
`run` in Rust, with the inputs in the session's buffers already; for ONNX Runtime from the call to the return of `run`
in Python, which takes the NumPy arrays as they are and allocates the outputs. Python's own share, some microseconds,
is in ONNX Runtime's time only: it flatters us with models that take less than a millisecond.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import tempfile
import time

import oracle


def main():
    args = parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="reef-speed-") as temporary:
            zoo = pathlib.Path(temporary) / "zoo"
            files = args.onnx or oracle.write_zoo(args.reef, zoo, args.models, args.tiny)
            results = [measure(args, path) for path in files]
    except oracle.OracleError as error:
        sys.exit(f"speed: {error}")
    mean = math.exp(statistics.fmean(math.log(result["ratio"]) for result in results))
    if args.json:
        print(json.dumps({"threads": args.threads, "geometric_mean": mean, "models": results}, indent=2))
    else:
        show(results, mean)
    over = [result["model"] for result in results if args.max_ratio and result["ratio"] > args.max_ratio]
    if over:
        print(f"speed: above {args.max_ratio}: {', '.join(over)}", file=sys.stderr)
    if args.max_mean and mean > args.max_mean:
        print(f"speed: the geometric mean is above {args.max_mean}", file=sys.stderr)
    sys.exit(1 if over or (args.max_mean and mean > args.max_mean) else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to measure")
    parser.add_argument("--reef-arg", action="append", default=[], help="one more argument for `reef run`; repeatable")
    parser.add_argument("--models", type=oracle.names, default=[], help="names that `reef zoo` knows; all by default")
    parser.add_argument("--onnx", type=pathlib.Path, nargs="+", help="these files instead of models of the zoo")
    parser.add_argument("--tiny", action="store_true", help="the small variants")
    parser.add_argument("--threads", type=int, default=2, help="ONNX Runtime's intra-op threads")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of bursts")
    parser.add_argument("--burst-s", type=float, default=2.0, help="about how long one burst takes")
    parser.add_argument("--max-mean", type=float, help="fail above this geometric mean")
    parser.add_argument("--max-ratio", type=float, help="fail where one model is above this")
    parser.add_argument("--json", action="store_true", help="write the results as JSON")
    return parser.parse_args()


def measure(args, path):
    reference = oracle.Reference(path, threads=args.threads)
    case = reference.cases([1], [128])[0]
    feeds = reference.feeds(case, seed=1)
    if case.symbols:
        raise oracle.OracleError(f"{reference.name} has symbolic dimensions: measure a model with fixed ones")
    once_ns = statistics.median(ort_burst(reference, feeds, 3))
    count = max(5, min(2000, round(args.burst_s * 1e9 / once_ns)))
    rounds = []
    for number in range(args.rounds):
        print(f"{reference.name}: round {number + 1} of {args.rounds}, {count} runs each", file=sys.stderr)
        bursts = [lambda: reef_burst(args, path, count), lambda: ort_p50(reference, feeds, count)]
        # Who goes first alternates too, so that neither always runs on the warmer core.
        order = (0, 1) if number % 2 == 0 else (1, 0)
        p50 = {which: bursts[which]() for which in order}
        rounds.append({"reef_p50_ns": p50[0], "ort_p50_ns": p50[1], "ratio": p50[0] / p50[1]})
    ratios = [entry["ratio"] for entry in rounds]
    return {
        "model": reference.name, "count_per_burst": count, "ratio": statistics.median(ratios),
        "ratio_min": min(ratios), "ratio_max": max(ratios),
        "reef_p50_ns": statistics.median(entry["reef_p50_ns"] for entry in rounds),
        "ort_p50_ns": statistics.median(entry["ort_p50_ns"] for entry in rounds), "rounds": rounds,
    }


def reef_burst(args, path, count):
    command = [str(args.reef), "run", str(path), "--random", "1", "--repeat", str(count), "--json", *args.reef_arg]
    output = oracle.run(command)
    try:
        return json.loads(output)["latency_ns"]["p50"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise oracle.OracleError(f"`{' '.join(command)}` printed no latency_ns.p50:\n{output[-500:]}") from None


def ort_p50(reference, feeds, count):
    ort_burst(reference, feeds, 2)
    return statistics.median(ort_burst(reference, feeds, count))


def ort_burst(reference, feeds, count):
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        reference.session.run(None, feeds)
        times.append(time.perf_counter_ns() - start)
    return times


def show(results, mean):
    rows = [[
        result["model"], f"{result['reef_p50_ns'] / 1e6:.3f}", f"{result['ort_p50_ns'] / 1e6:.3f}",
        f"{result['ratio']:.3f}", f"{result['ratio_min']:.3f}-{result['ratio_max']:.3f}",
    ] for result in results]
    oracle.print_table(["model", "reef p50 ms", "ORT p50 ms", "ratio", "over the rounds"], rows)
    print(f"\ngeometric mean of the ratios: {mean:.3f}")


if __name__ == "__main__":
    main()
