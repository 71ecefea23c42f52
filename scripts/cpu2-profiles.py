#!/usr/bin/env python3
"""Writes the profiles of the simulated CPU with two units: crates/reef-sim/data/cpu2/MODEL.json.

    scripts/cpu2-profiles.py [--reef target/release/reef] [--models DIR] [--latencies RESULTS.json]

Runs `reef profile --json` for DISB's five models (written by `reef zoo` unless DIR has them) on an otherwise
quiet machine with two cores, and keeps what the simulator reads: the stage, the number of blocks and the
median time of a block of each kernel, and the median latency. With --latencies this is that of the model alone
in a result of `reef bench disb`: what is simulated then takes as long as what was measured there, and a busy
machine spoils nothing but how blocks compare with each other.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

MODELS = ["resnet152", "densenet201", "vgg19", "inceptionv3", "distilbert"]
DATA = pathlib.Path(__file__).resolve().parent.parent / "crates/reef-sim/data/cpu2"


def alone(path):
    """Median latencies alone on our system, nanoseconds, and where they come from."""
    result = json.loads(path.read_text())
    ours = {model["name"]: model["alone"][0]["latency_us"]["p50"] * 1e3 for model in result["models"]}
    return {name: {"p50": round(ours[name]), "from": str(path)} for name in MODELS}


def profile(reef, models, name, latencies):
    command = [reef, "profile", str(models / f"{name}.onnx"), "--json", "--cus", "2", "--repeat", "30"]
    printed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    kernels = sorted(printed["kernels"], key=lambda kernel: kernel["stage"])
    keep = ("stage", "blocks", "block_ns")
    lines = ",\n".join(json.dumps({key: kernel[key] for key in keep}) for kernel in kernels)
    latency = json.dumps(latencies.get(name, printed["latency_ns"]))
    (DATA / f"{name}.json").write_text(f'{{"latency_ns": {latency}, "kernels": [\n{lines}\n]}}\n')
    print(name, latency, len(kernels), "kernels")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reef", default="target/release/reef")
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--latencies", type=pathlib.Path)
    args = parser.parse_args()
    latencies = alone(args.latencies) if args.latencies else {}
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        models = args.models
        if models is None:
            models = pathlib.Path(scratch)
            subprocess.run([args.reef, "zoo", "--out", str(models), "--model", *MODELS], check=True)
        for name in MODELS:
            profile(args.reef, models, name, latencies)


if __name__ == "__main__":
    main()
