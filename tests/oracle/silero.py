#!/usr/bin/env python3
"""A voice detector as it is used: the models of the PyPI package silero-vad over `reef serve` and through `reef run`,
state carried over.

Each of its ONNX files takes chunks of seeded sound, one after the other, through ONNX Runtime and through reef; each
keeps its own state; `reef run` gets all chunks at once and carries it over itself. Every output, over all chunks, has to agree within the tolerance of `compare.py`, at 16 kHz and,
where the file takes both, at 8 kHz. Exit status 1 where one does not or is refused.
"""

import argparse
import pathlib
import sys
import tempfile
import zipfile
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import oracle
from triton_client import Server

PACKAGE = "silero-vad==6.2.3"
START_TIMEOUT_S = 120
# Of a chunk, for each rate: new samples, and samples of the chunk before.
CHUNKS = {16000: (512, 64), 8000: (256, 32)}
# What goes out of one chunk and into the next.
STATES = {"stateN": "state", "hn": "h", "cn": "c"}


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="reef-silero-") as temporary:
        work = args.work_dir or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        try:
            rows = [row for file in models(args, work) for row in check(args, work, file)]
        except oracle.OracleError as error:
            sys.exit(f"silero: {error}")
    oracle.print_table(["model", "Hz", "through", "chunks", "rel l2", "max |a-b|", "speech", "verdict"], rows)
    bad = [row for row in rows if row[-1] != "ok"]
    print(f"\n{len(rows) - len(bad)} of {len(rows)} agree")
    sys.exit(1 if bad or not rows else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--wheel", type=pathlib.Path, help=f"the wheel of {PACKAGE}; fetched with pip by default")
    parser.add_argument("--only", default="", help="part of the names of the files")
    parser.add_argument("--through", choices=["serve", "run", "both"], default="both")
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work-dir", type=pathlib.Path, help="keep the wheel and the models here")
    return parser.parse_args()


def models(args, work):
    """The package's ONNX files, unpacked."""
    if not args.wheel:
        oracle.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(work), PACKAGE])
    wheel = zipfile.ZipFile(args.wheel or next(work.glob("silero_vad-*.whl")))
    names = [name for name in wheel.namelist() if name.endswith(".onnx") and args.only in name]
    if not names:
        raise oracle.OracleError("the wheel holds no such .onnx file")
    return [pathlib.Path(wheel.extract(name, work / "files")) for name in sorted(names)]


def check(args, work, file):
    """A row for each rate."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    inputs = [value.name for value in session.get_inputs()]
    rates = CHUNKS if "sr" in inputs and "16k" not in file.name else [16000]
    folder = work / file.stem
    rows = []
    if args.through != "run":
        rows += served(args, folder, file, session, rates)
    if args.through != "serve":
        rows += [at_once(args, folder, file, session, rate) for rate in rates]
    return rows


def served(args, folder, file, session, rates):
    (folder / "serve").mkdir(parents=True, exist_ok=True)
    (folder / "serve" / file.name).write_bytes(file.read_bytes())
    settings = SimpleNamespace(reef=args.reef, serve_arg=["--cus", "1"], start_timeout_s=START_TIMEOUT_S)
    try:
        with Server(settings, folder) as server:
            return [stream(args, file, session, server, rate) for rate in rates]
    except oracle.OracleError as error:
        return [[file.name, rate, "serve", 0, "", "", "", first_line(error)] for rate in rates]


def at_once(args, folder, file, session, rate):
    """All chunks through one call of `reef run`."""
    names = [output.name for output in session.get_outputs()]
    feeds = list(chunks(args, session, rate))
    place = folder / f"run-{rate}"
    place.mkdir(parents=True, exist_ok=True)
    command = [str(args.reef), "run", str(file), "--cus", "1", "--output-dir", str(place / "out")]
    for name, first in feeds[0].items():
        changes = name == "input"
        np.save(place / f"{name}.npy", np.stack([feed[name] for feed in feeds]) if changes else first)
        command += ["--each" if changes else "--input", f"{name}={place / name}.npy"]
    for output, state in STATES.items():
        command += ["--carry", f"{output}={state}"] if state in feeds[0] else []
    state, want = {}, []
    for number, feed in enumerate(feeds):
        state.update({name: value for name, value in feed.items() if number == 0 or name not in STATES.values()})
        want.append(dict(zip(names, session.run(names, state))))
        state.update({STATES[name]: value for name, value in want[-1].items() if name in STATES})
    try:
        oracle.run(command)
    except oracle.OracleError as error:
        return [file.name, rate, "run", 0, "", "", "", first_line(error)]
    stacks = {name: np.load(place / "out" / f"{name}.npy") for name in names}
    got = [{name: stack[number] for name, stack in stacks.items()} for number in range(len(feeds))]
    return [file.name, rate, "run", args.chunks, *judge(names, want, got)]


def stream(args, file, session, server, rate):
    """Both programs over all chunks, each with its own state; ends where reef refuses."""
    client = triton.InferenceServerClient(f"127.0.0.1:{server.http_port}")
    names = [output.name for output in session.get_outputs()]
    states, answers = [{}, {}], [[], []]
    for number, feeds in enumerate(chunks(args, session, rate)):
        for state in states:
            state.update({name: value for name, value in feeds.items() if number == 0 or name not in STATES.values()})
        want = dict(zip(names, session.run(names, states[0])))
        try:
            got = infer(client, file.stem, states[1], names)
        except InferenceServerException as error:
            return [file.name, rate, "serve", number, "", "", "", first_line(error)]
        for state, answer, outputs in zip(states, answers, (want, got)):
            answer.append(outputs)
            state.update({STATES[name]: value for name, value in outputs.items() if name in STATES})
    return [file.name, rate, "serve", args.chunks, *judge(names, *answers)]


def judge(names, want, got):
    """Each output over all chunks, as one tensor: a probability near 0 has no relative error of its own."""
    worst, verdict = [0.0, 0.0], "ok"
    for name in names:
        whole, other = (np.stack([outputs[name] for outputs in answer]) for answer in (want, got))
        errors = oracle.compare(other, whole)
        worst = [max(pair) for pair in zip(worst, errors)]
        if not oracle.within(*errors, whole):
            verdict = f"{name} differs: {errors[0]:.1e}"
    speech = max(float(outputs[names[0]].max()) for outputs in want)
    return [*(f"{error:.1e}" for error in worst), f"{speech:.3f}", verdict]


def infer(client, model, feeds, names):
    tensors = []
    for name, array in feeds.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensors.append(tensor.set_data_from_numpy(array))
    result = client.infer(model, tensors)
    return {name: result.as_numpy(name) for name in names}


def chunks(args, session, rate):
    """The inputs of each run, with the first state. A file that takes a sequence gets ten chunks a run."""
    shapes = {value.name: value.shape for value in session.get_inputs()}
    new, kept = CHUNKS[rate]
    audio = np.concatenate([np.zeros(kept, "f4"), sound(args.seed, args.chunks * new, rate)])
    windows = np.stack([audio[at * new:at * new + new + kept] for at in range(args.chunks)])
    step = 10 if "h" in shapes else 1
    first = {name: np.zeros((2 if name == "state" else 1, 1, 128), "f4") for name in STATES.values() if name in shapes}
    first |= {"sr": np.array(rate, "i8")} if "sr" in shapes else {}
    for at in range(0, args.chunks, step):
        yield {"input": windows[at:at + step], **first}


def sound(seed, count, rate):
    """Vowels and pauses: harmonics of a wandering pitch under a few formants, with noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(count) / rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * time) + 10 * np.sin(2 * np.pi * 2.3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = np.zeros(count)
    for harmonic in range(1, 25):
        frequency = harmonic * pitch
        formants = ((600, 150), (1200, 200), (2500, 300))
        level = sum(np.exp(-((frequency - center) / width) ** 2) for center, width in formants)
        voice += (level + 0.02) * np.sin(harmonic * phase) * (frequency < rate / 2)
    envelope = np.clip(3 * np.sin(2 * np.pi * 1.5 * time) + 0.5, 0, 1) * (np.sin(2 * np.pi * 0.4 * time) > -0.5)
    return (0.2 * voice * envelope + 0.005 * rng.standard_normal(count)).astype("f4")


def first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "node" in line), lines[0])[:200]


if __name__ == "__main__":
    main()
