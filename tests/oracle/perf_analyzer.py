"""perf_analyzer, Triton's load generator, for `conformance.py`: gets it, runs it, and reads what it measured.

It is inside the wheel tritonclient 2.50.0, as a program for Linux on x86-64; newer wheels and PyPI's package of its name
have none. It needs libb64 from Debian and the CUDA runtime from PyPI, which it loads and does not use.
"""

import csv
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import oracle

WHEELS = ["tritonclient==2.50.0", "nvidia-cuda-runtime-cu12==12.9.79"]
PACKAGE = "libb64-0d"
RUNS = {
    "concurrency 1 to 4": ["--concurrency-range", "1:4:3"],
    "constant rate": ["--request-rate-range", "50"],
    "Poisson rate": ["--request-rate-range", "50", "--request-distribution", "poisson", "--percentile", "99"],
    "intervals from a file": ["--request-intervals", "{intervals}"],
    "request parameters (gRPC alone has them)": ["--concurrency-range", "1", "--request-parameter", "priority:1:int"],
    "shared memory": ["--concurrency-range", "2", "--shared-memory", "system", "--output-shared-memory-size", "4096"],
}


def rows(cache, server, model, work):
    program, libraries = fetch(cache)
    intervals = work / "intervals.txt"
    intervals.write_text("20000\n5000\n30000\n")
    found = []
    for protocol, address in [("http", server.http), ("grpc", server.grpc)]:
        if address:
            for label, args in RUNS.items():
                if protocol != "grpc" and "gRPC alone" in label:
                    continue
                args = [arg.format(intervals=intervals) for arg in args]
                result = run(program, libraries, protocol, address, model, args, work)
                found.append((f"perf_analyzer {protocol}", label, result))
    return found


def fetch(cache):
    """The program and the folders of its libraries; what is not in `cache` is fetched."""
    program = cache / "wheels" / "tritonclient-2.50.0.data" / "data" / "bin" / "perf_analyzer"
    libraries = [cache / "wheels" / "nvidia" / "cuda_runtime" / "lib", cache / "usr/lib/x86_64-linux-gnu"]
    if not (program.exists() and all(folder.exists() for folder in libraries)):
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        oracle.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d",
                    str(cache), *WHEELS])
        for wheel in cache.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(cache / "wheels")
            wheel.unlink()
        # Unpacked here, so that nothing is installed and no privilege is needed.
        download(cache)
        for package in cache.glob("*.deb"):
            oracle.run(["dpkg", "-x", str(package), str(cache)])
    program.chmod(0o755)
    return program, libraries


def download(cache):
    """The Debian package, after a look at what there is where the lists are not here yet."""
    command = ["apt-get", "download", "-q", PACKAGE]
    if subprocess.run(command, cwd=cache, capture_output=True).returncode:
        update = ["apt-get", "update", "-q"]
        oracle.run(update if os.geteuid() == 0 else ["sudo", "-n", *update])
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True)
        if done.returncode:
            raise oracle.OracleError(f"{PACKAGE} cannot be fetched: {done.stderr[-500:]}")


def run(program, libraries, protocol, address, model, args, work):
    """`works` if it measured what the server counted; otherwise what it said last."""
    table = work / "perf_analyzer.csv"
    table.unlink(missing_ok=True)
    command = [str(program), "-m", model, "-i", protocol, "-u", f"{address[0]}:{address[1]}", "-f", str(table),
               # Its numbers mean nothing here, so they need not be stable.
               "--measurement-mode", "count_windows", "--measurement-request-count", "30", "-s", "999", "-r", "3", *args]
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    counts = [int(count) for count in re.findall(r"Inference count: (\d+)", said)]
    measured = list(csv.DictReader(table.open())) if table.exists() else []
    rates = [float(row["Inferences/Second"]) for row in measured]
    if done.returncode == 0 and rates and all(rate > 0 for rate in rates) and counts and all(counts):
        return "works"
    lines = [line.strip() for line in said.splitlines() if re.search(r"error|fail|unable|invalid", line, re.I)]
    text = lines[0] if lines else f"status {done.returncode}, server's counts {counts}"
    return re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text)[:160]


def main():
    """Fetches it alone: for a run without a network later."""
    print(fetch(pathlib.Path(sys.argv[1]))[0])


if __name__ == "__main__":
    main()
