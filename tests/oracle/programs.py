#!/usr/bin/env python3
"""Control flow, sequences, optional values, functions and shapes that depend on data: `reef run` beside ONNX Runtime.

The models stand in `program_models.py`, `program_values.py` and `program_data.py`, each with several inputs. Every
answer must agree within the tolerance of `compare.py`; where a loop runs no round, the results that it stacks have no
elements, and only as many axes must be there: ONNX Runtime gives an extent that the body does not declare as 0, reef
gives that of the rows there would be. What has to fail (loops without end, absurd shapes, wrong types)
must do so by a message, with exit status 1 and in bounded time; such a program counts only when its good inputs work.
REFUSED lists what reef does not run; it may only shrink. Exit status 1 where anything else is refused, where an entry
works, and where an answer is wrong, reef crashes or does not come to an end.
"""

import argparse
import collections
import concurrent.futures
import fnmatch
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort

import oracle
import program_models
from onnx_nodes import PANIC, reason

LIMIT_S = 60  # of a run; the longest loop has a thousand iterations
BAD_LIMIT_S = 60  # of a run that has to fail
DEADLINE_S = 10  # which such a run is given: a loop without end meets it
BAD_MEMORY = 6 << 30  # bytes of its address space, so that a fault does not take the machine along
BAD_ARENAS_MIB = 1024

# Programs that reef refuses, and why.
REFUSED = {
    "scan_of_form_8": "Scan: of operator set N, it is not supported: N or a newer one is needed",
}


def main():
    args = parse_args()
    programs = [each for each in program_models.collect() if fnmatch.fnmatchcase(each.name, args.only)]
    if args.dump:
        dump(programs, args.dump)
        return
    with tempfile.TemporaryDirectory(prefix="reef-programs-") as temporary:
        work = args.work_dir or pathlib.Path(temporary)
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            rows = list(pool.map(lambda program: check(program, args.reef, work / program.name), programs))
    faults = settle(rows, whole=args.only == "*")
    counts = collections.Counter(row["verdict"] for row in rows)
    if args.json:
        print(json.dumps({"counts": counts, "faults": faults, "results": rows}, indent=2))
    elif args.list:
        print("".join(f'    "{row["name"]}": {json.dumps(row["reason"])},\n' for row in rows if row["verdict"] == "refused"), end="")
    else:
        shown = [row for row in rows if not args.quiet or row["verdict"] not in ("same", "refused")]
        oracle.print_table(["name", "cases", "verdict", "reason"],
                           [[row["name"], row["cases"], row["verdict"], row["reason"][:args.width]] for row in shown])
        print("\n".join(["", *faults, ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts)) + f" of {len(rows)} programs"]))
    sys.exit(1 if faults or not rows else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--only", default="*", help="pattern of program names")
    parser.add_argument("--work-dir", type=pathlib.Path, help="keep models and tensors here")
    parser.add_argument("--dump", type=pathlib.Path, metavar="DIR",
                        help="run nothing: write NAME.onnx, NAME.K.INPUT.npy and the expected NAME.K.expected.OUTPUT.npy")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="write the results as JSON")
    parser.add_argument("--list", action="store_true", help="print the entries of REFUSED as they should be")
    parser.add_argument("--quiet", action="store_true", help="of the table only what is at fault")
    parser.add_argument("--width", type=int, default=150, help="columns of a reason")
    return parser.parse_args()


def check(program, reef, folder):
    """Runs a program with all its inputs; the first that is not as it should be decides."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {"name": program.name, "cases": len(program.feeds) + len(program.bad), "verdict": "same", "reason": ""}
    model = folder / "model.onnx"
    onnx.save(program.model(), model)
    for number, (feeds, want) in enumerate(zip(program.feeds, answers(program))):
        verdict, words = run(reef, model, feeds, folder / str(number), LIMIT_S, bool(program.bad))
        if verdict == "done":
            verdict, words = compare(words, want)
        if verdict != "same":
            return {**row, "verdict": verdict, "reason": words if verdict == "refused" else f"input {number}: {words}"}
    model = folder / "bad.onnx"
    if program.bad:
        model.write_bytes(program.bad_file())
    for number, feeds in enumerate(program.bad):
        verdict, words = run(reef, model, feeds, folder / f"bad{number}", BAD_LIMIT_S, True)
        if verdict == "done":
            verdict, words = "wrong", "it has to fail and gives an answer"
        if verdict != "refused":
            return {**row, "verdict": verdict, "reason": f"bad input {number}: {words}"}
    return row


def answers(program):
    """ONNX Runtime's outputs for each of the good inputs."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(program.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feeds))) for feeds in program.feeds]


def run(reef, model, feeds, folder, limit_s, bounded):
    """One of: done, with the outputs; refused, panic, crash or hang, in words."""
    (folder / "out").mkdir(parents=True, exist_ok=True)
    command = [str(reef), "run", str(model), "--json", "--cus", "1", "--output-dir", str(folder / "out")]
    for name, array in feeds.items():
        np.save(folder / f"{name}.npy", array)
        command += ["--input", f"{name}={folder / name}.npy"]
    if bounded:
        command = ["prlimit", f"--as={BAD_MEMORY}", *command, "--memory", str(BAD_ARENAS_MIB), "--deadline", str(DEADLINE_S)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return "hang", f"still running after {limit_s} s"
    text = " ".join((done.stderr or done.stdout).split())
    if PANIC.search(text):
        return "panic", text[:600]
    if done.returncode == 1 and text:
        return "refused", reason(text)
    if done.returncode:
        return "crash", f"exit status {done.returncode}: {text[:600]}"
    files = json.loads(done.stdout)["outputs"]
    return "done", {name: np.load(folder / "out" / file) for name, file in files.items()}


def compare(got, want):
    for name, expected in want.items():
        if name not in got:
            return "wrong", f"no output {name}"
        expected = np.asarray(expected)
        if not got[name].size and not expected.size and got[name].shape[:1] == expected.shape[:1] == (0,):
            expected = expected.reshape(got[name].shape) if expected.ndim == got[name].ndim else expected
        errors = oracle.compare(got[name], expected)
        if not oracle.within(*errors, expected):
            shapes = f"{got[name].dtype}{list(got[name].shape)}, expected {expected.dtype}{list(expected.shape)}"
            return "wrong", f"{name}: relative error {errors[0]:.1e}; {shapes}; {got[name].ravel()[:4]}, expected {expected.ravel()[:4]}"
    return "same", ""


def settle(rows, whole):
    """What is wrong, a line each."""
    faults = []
    for row in rows:
        listed = row["name"] in REFUSED
        if row["verdict"] not in ("same", "refused"):
            faults.append(f"{row['verdict'].upper()}: {row['name']}: {row['reason']}")
        elif row["verdict"] == "refused" and not listed:
            faults.append(f"REFUSED: {row['name']}: {row['reason']}")
        if row["verdict"] != "refused" and listed:
            faults.append(f"REFUSED: {row['name']} is refused no more: take it off the list")
    if whole:
        faults += [f"REFUSED: {name} is no program" for name in sorted(set(REFUSED) - {row["name"] for row in rows})]
    return faults


def dump(programs, folder):
    """Models, inputs and expected outputs, for other programs to use."""
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        onnx.save(program.model(), folder / f"{program.name}.onnx")
        for number, (feeds, want) in enumerate(zip(program.feeds, answers(program))):
            for name, array in feeds.items():
                np.save(folder / f"{program.name}.{number}.{name}.npy", array)
            for name, array in want.items():
                np.save(folder / f"{program.name}.{number}.expected.{name}.npy", array)
        if program.bad:
            (folder / f"{program.name}.bad.onnx").write_bytes(program.bad_file())
        for number, feeds in enumerate(program.bad):
            for name, array in feeds.items():
                np.save(folder / f"{program.name}.bad{number}.{name}.npy", array)
    print(f"{len(programs)} programs in {folder}")


if __name__ == "__main__":
    main()
