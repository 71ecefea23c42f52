#!/usr/bin/env python3
"""Random programs: `reef serve` beside ONNX Runtime, several inputs each.

The models come from `program_random.py`, one per seed; arithmetic is exact, so answers must be equal. What ONNX Runtime
does not load or run is passed over, and counted. A failure repeats with `--seed N --count 1`, which keeps the model.
Exit status 1 where an answer differs or is refused, or where the server does not end well.
"""

import argparse
import collections
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import numpy as np
import onnx
import onnxruntime as ort

import oracle
from program_random import generate

START_S, LIMIT_S, END_S = 120, 60, 60
NAMES = {np.dtype("float32"): "FP32", np.dtype("int64"): "INT64", np.dtype("bool"): "BOOL"}
TYPES = {name: dtype for dtype, name in NAMES.items()}
BATCH = 100  # models of one server: it has room for 256


def main():
    args = parse_args()
    ort.set_default_logger_severity(4)
    counts, faults = collections.Counter(), []
    for first in range(args.seed, args.seed + args.count, BATCH):
        seeds = range(first, min(first + BATCH, args.seed + args.count))
        with tempfile.TemporaryDirectory(prefix="reef-fuzz-") as work:
            faults += batch(args.reef, seeds, pathlib.Path(work), counts)
    if args.count == 1:
        onnx.save(generate(args.seed)[0], f"program_{args.seed}.onnx")
    print("\n".join([*faults, ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts))]))
    sys.exit(1 if faults or not counts["same"] else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--seed", type=int, default=1, help="of the first model")
    parser.add_argument("--count", type=int, default=60, help="models")
    return parser.parse_args()


def batch(reef, seeds, work, counts):
    """Serves the models of `seeds`, and says what is wrong, a line each."""
    cases, faults = [], []
    for seed in seeds:
        model, feeds = generate(seed)
        answers = expected(model, feeds)
        if answers is None:
            counts["not loaded by ONNX Runtime"] += 1
            continue
        onnx.save(model, work / f"m{seed}.onnx")
        cases += [(seed, *case) for case in zip(feeds, answers)]
    port = free_port()
    command = [str(reef), "serve", str(work), "--http-port", str(port), "--metrics-port", "0",
               "--grpc-port", "off", "--cus", "1"]
    with open(work / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until_ready(server, port, work / "log")
        for seed, feeds, answer in cases:
            if answer is None:
                counts["not run by ONNX Runtime"] += 1
                continue
            words = difference(infer(port, f"m{seed}", feeds), answer)
            counts["wrong" if words else "same"] += 1
            if words:
                faults.append(f"WRONG: seed {seed}: {words[:300]}")
        server.terminate()
        if server.wait(END_S) != 0:
            faults.append(f"CRASH: the server of {seeds} ended with {server.returncode}")
    finally:
        server.kill()
    if "panick" in (work / "log").read_text():
        faults.append(f"PANIC: the server of {seeds}")
    return faults


def expected(model, feeds):
    """ONNX Runtime's outputs, None where it does not run; None altogether where it does not load."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # it raises many types of its own
        return None
    names = [output.name for output in session.get_outputs()]
    answers = []
    for feed in feeds:
        try:
            answers.append(dict(zip(names, session.run(names, feed))))
        except Exception:
            answers.append(None)
    return answers


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(server, port, log):
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise oracle.OracleError(f"the server does not get ready: {log.read_text()[-2000:]}")


def infer(port, model, feeds):
    """The outputs, or what the server says instead."""
    inputs = [{"name": name, "shape": list(array.shape), "datatype": NAMES[array.dtype], "data": array.ravel().tolist()}
              for name, array in feeds.items()]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/{model}/infer",
                                     json.dumps({"inputs": inputs}).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
            outputs = json.loads(response.read())["outputs"]
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except (OSError, urllib.error.URLError) as error:
        return f"no answer: {error}"
    return {out["name"]: np.array(out["data"], TYPES[out["datatype"]]).reshape(out["shape"]) for out in outputs}


def difference(got, want):
    """What differs, or nothing. Tensors without elements have as many axes: see `programs.py`."""
    if isinstance(got, str):
        return got
    for name, array in want.items():
        array, given = np.asarray(array), got[name]
        if given.dtype != array.dtype or given.ndim != array.ndim:
            return f"{name}: {given.dtype}{list(given.shape)}, not {array.dtype}{list(array.shape)}"
        if (given.size or array.size) and not np.array_equal(given, array):
            return f"{name}: {given.ravel()[:6]} of {list(given.shape)}, not {array.ravel()[:6]} of {list(array.shape)}"
    return ""


if __name__ == "__main__":
    try:
        main()
    except oracle.OracleError as error:
        sys.exit(f"program_fuzz: {error}")
