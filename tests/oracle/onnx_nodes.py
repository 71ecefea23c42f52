#!/usr/bin/env python3
"""ONNX's own node tests: `reef run` must give the outputs that come with them, or refuse the model.

The cases are those of the onnx package. What reef refuses stands in `onnx_nodes_refused.txt`, a case a line with the
reason; the list may only shrink. Exit status 1 where a case that is not in the list is refused, where one that is in it
passes, and where an output is wrong or reef crashes or does not come to an end; also where an entry of DEPARTS is
needed by no case.
"""

import argparse
import collections
import concurrent.futures
import fnmatch
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

import oracle

LIST = pathlib.Path(__file__).with_name("onnx_nodes_refused.txt")
LIMIT_S = 60  # of one run; the slowest case takes a tenth of a second

# Cases whose data cannot be met as they stand, as patterns of their names: why, and what is asked instead, which is a
# tolerance relative to the largest element, only the type and the shape, or ONNX Runtime's answer.
SHAPE = "type and shape"
PEER = "ONNX Runtime's answer"
DEPARTS = {
    "test_bernoulli*": ("random numbers: every implementation draws its own", SHAPE),
    "test_dft*": ("zeros that are a sum of numbers up to 90, to 1e-7: ONNX Runtime misses them by 1e-4", 1e-6),
    "test_resize_downsample_scales_*_align_corners": (
        "corners are aligned over the output's extent before it is cut to a whole number; ONNX Runtime takes it after", PEER),
}

# Of half precision: a result is rounded more than once, and where is not laid down.
TOLERANCES = {"float16": (4e-3, 1e-3), "bfloat16": (1.6e-2, 4e-3)}
# What reef says of its own faults.
PANIC = re.compile(r"panick|internal (failure|error)|please report")
BOUNDARY = "sequence or optional at the model's boundary"
FAULTS = ("wrong", "panic", "crash", "hang")


@dataclass
class Run:
    """One case in its folder, and what came out."""

    name: str
    folder: pathlib.Path
    rtol: float
    atol: float
    inputs: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)
    barred: str = ""  # why it cannot be given to `reef run`
    result: str = ""  # passed, refused, wrong, panic, crash, hang
    why: str = ""
    departs: str = ""  # the entry of DEPARTS that it needed


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="reef-nodes-") as temporary:
        runs = dump(args.work_dir or pathlib.Path(temporary), args.only)
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda run: check(run, args.reef), runs))
    listed = read_list()
    faults = verdict(runs, listed, whole=args.only == "*")
    if args.update:
        faults = [line for line in faults if not line.startswith("LIST")] + update(runs, listed, args)
    counts = collections.Counter(run.result for run in runs)
    counts = {kind: counts[kind] for kind in ("passed", "refused", *FAULTS)}
    if args.json:
        rows = [{"case": run.name, "result": run.result, "why": run.why} for run in runs]
        print(json.dumps({"counts": counts, "faults": faults, "results": rows}, indent=2))
    else:
        for run in runs:
            if args.verbose and run.result == "refused":
                print(f"refused: {run.name}: {run.why}")
        print("\n".join(faults + [", ".join(f"{count} {kind}" for kind, count in counts.items()) + f" of {len(runs)}"]))
    sys.exit(1 if faults or not runs else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--only", default="*", help="pattern of case names")
    parser.add_argument("--work-dir", type=pathlib.Path, help="keep models and tensors here")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="write the results as JSON")
    parser.add_argument("--verbose", action="store_true", help="also what is refused as listed")
    parser.add_argument("--update", action="store_true", help="rewrite the list of what is refused, if it shrinks")
    parser.add_argument("--grow", action="store_true", help="with --update: it may grow")
    return parser.parse_args()


def dump(work, pattern):
    """Writes models and tensors, one folder a case."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow on purpose
        cases = [case for case in collect_testcases(None) if fnmatch.fnmatchcase(case.name, pattern)]
    runs = []
    for case in sorted(cases, key=lambda case: case.name):
        for number, (inputs, outputs) in enumerate(case.data_sets or []):
            run = Run(case.name + (f".{number}" if number else ""), work / case.name / str(number), case.rtol, case.atol)
            run.folder.mkdir(parents=True, exist_ok=True)
            onnx.save(case.model, run.folder / "model.onnx")
            values = [*case.model.graph.input, *case.model.graph.output]
            if any(value.type.WhichOneof("value") != "tensor_type" for value in values):
                run.barred = BOUNDARY
            else:
                run.inputs = {info.name: array_of(value) for info, value in zip(case.model.graph.input, inputs)}
                run.outputs = {info.name: array_of(value) for info, value in zip(case.model.graph.output, outputs)}
                run.barred = unheld({**run.inputs, **run.outputs})
            runs.append(run)
    return runs


def array_of(value):
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def unheld(arrays):
    """The element types that no .npy file holds, in words."""
    types = {array.dtype.name for array in arrays.values()
             if array.dtype.kind not in "fiubcOUS" and array.dtype.name not in ("bfloat16", *oracle.NARROW)}
    return f"no .npy file holds {', '.join(sorted(types))}" if types else ""


def check(run, reef):
    """Fills in `result` and `why`."""
    out = run.folder / "out"
    command = [str(reef), "run", str(run.folder / "model.onnx"), "--output-dir", str(out), "--cus", "1"]
    if run.barred:
        command += ["--random", "1"]  # whether the model loads
    else:
        for index, (name, array) in enumerate(run.inputs.items()):
            np.save(run.folder / f"{index}.npy", oracle.held(array))
            command += ["--input", f"{name}={run.folder / f'{index}.npy'}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        run.result, run.why = "hang", f"still running after {LIMIT_S} s"
        return
    text = re.sub(r"\s+", " ", done.stderr + done.stdout).strip()
    if PANIC.search(text):
        run.result, run.why = "panic", text[:600]
    elif done.returncode not in (0, 1):
        run.result, run.why = "crash", f"exit status {done.returncode}: {text[:600]}"
    elif run.barred == BOUNDARY or (run.barred and done.returncode == 0):
        run.result, run.why = "refused", run.barred
    elif done.returncode:
        run.result, run.why = "refused", reason(text)
    else:
        run.result, run.why = judge(run, out)


def reason(text):
    """Reef's message without what depends on the case: paths, names, numbers and shapes."""
    text = re.sub(r"^reef: |; this is for .*", "", text)
    text = re.sub(r"cannot (read|load) the model \S+: ", "", text)
    text = re.sub(r"^model \S+ for( \[[^\]]*\])*: ", "", text)
    node = re.search(r"node \S+ \((\w+)\)(?: of [^:]*)?: (.*)", text)
    if node:
        text = f"{node[1]}: {node[2]}"
    text = re.sub(r"`?\w*_test_\w+`?|\binput \w+(?=: its element type)", "an input", text)
    text = re.sub(r": only `.*` (is|are) supported", "", text)
    return re.sub(r"(?<![A-Za-z0-9])(?<!code )(?<! is `)\d+", "N", text)[:120].strip()


def judge(run, out):
    for name, want in run.outputs.items():
        file = out / f"{name}.npy"
        if not file.exists():
            return "wrong", f"no file for the output {name}"
        got = np.load(file)
        if want.dtype.name == "bfloat16" and got.dtype == np.uint16:
            got = got.view(want.dtype)  # NumPy has no name for it
        rtol, atol = TOLERANCES.get(want.dtype.name, (run.rtol, run.atol))
        if oracle.NARROW.get(want.dtype.name) == "code" and got.dtype == np.uint8:
            got, want = got.view(want.dtype).astype("f4"), want.astype("f4")  # there are many NaNs
        want = oracle.held(want)
        words = difference(got, want, rtol, atol)
        if not words:
            continue
        run.departs = next((pattern for pattern in DEPARTS if fnmatch.fnmatchcase(run.name, pattern)), "")
        if run.departs and met(DEPARTS[run.departs][1], got, want, lambda: answer(run, name)):
            continue
        return "wrong", f"output {name}: {words}; ONNX Runtime: {peer(run, name, rtol, atol)}"
    return "passed", ""


def met(asked, got, want, peers):
    """Whether an output is what DEPARTS asks for."""
    if asked == SHAPE:
        return got.dtype == want.dtype and got.shape == want.shape
    if asked == PEER:
        return not difference(got, peers(), 1e-5, 1e-6)
    return not difference(got, want, 0, asked * np.abs(want.astype("f8")).max(initial=0.0))


def difference(got, want, rtol, atol):
    """What differs, or None."""
    same = got.dtype.kind == "U" if want.dtype.kind == "U" else got.dtype == want.dtype
    if not same or got.shape != want.shape:
        return f"{got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
    if want.dtype.kind not in "fc" and want.dtype.name != "bfloat16":
        wrong = got != want
    else:
        wrong = ~np.isclose(got.astype("c16"), want.astype("c16"), rtol=rtol, atol=atol, equal_nan=True)
    return f"{got[wrong][:5]}, not {want[wrong][:5]}" if wrong.any() else None


def peer(run, name, rtol, atol):
    """Whom ONNX Runtime agrees with."""
    try:
        given = answer(run, name)
    except Exception as error:  # it raises many types of its own
        return "cannot say: " + str(error).splitlines()[0][:100]
    return difference(given, run.outputs[name], rtol, atol) or "as expected"


def answer(run, name):
    """What ONNX Runtime gives for an output."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(run.folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return session.run([name], run.inputs)[0]


def verdict(runs, listed, whole):
    """What is wrong, a line each."""
    faults = []
    for run in runs:
        if run.result in FAULTS:
            faults.append(f"{run.result.upper()}: {run.name}: {run.why}")
        elif run.result == "refused" and run.name not in listed:
            faults.append(f"LIST: {run.name} is refused and not in {LIST.name}: {run.why}")
        elif run.result == "passed" and run.name in listed:
            faults.append(f"LIST: {run.name} passes: take it off {LIST.name}, or run with --update")
    if whole:
        gone = sorted(set(listed) - {run.name for run in runs})
        faults += [f"LIST: {name} in {LIST.name} is no case" for name in gone]
        needed = {run.departs for run in runs}
        faults += [f"DEPARTS: no case needs the entry {entry}" for entry in DEPARTS if entry not in needed]
    return faults


def read_list():
    lines = LIST.read_text().splitlines() if LIST.exists() else []
    return dict(line.split("  ", 1) for line in lines if line and not line.startswith("#"))


def update(runs, listed, args):
    """Rewrites the list; returns why it did not."""
    if args.only != "*":
        return ["LIST: --update needs every case"]
    refused = {run.name: run.why for run in runs if run.result == "refused"}
    new = sorted(set(refused) - set(listed))
    if new and not args.grow:
        return [f"LIST: {name} is refused and was not before: {refused[name]} (--grow takes it in)" for name in new]
    head = "# What reef refuses of ONNX's node tests, and why: written by `onnx_nodes.py --update`. It only shrinks.\n"
    LIST.write_text(head + "".join(f"{name}  {refused[name]}\n" for name in sorted(refused)))
    return []


if __name__ == "__main__":
    main()
