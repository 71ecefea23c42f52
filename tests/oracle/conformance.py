#!/usr/bin/env python3
"""Clients that nobody here wrote against `reef serve`: every call of each, and whether it works.

tritonclient (HTTP and gRPC, blocking and asyncio), kserve's inference clients, and perf_analyzer. Every call has a
recipe; a method of a client without one is a failure. What comes out is the table of docs/CONFORMANCE.md: a call works,
which means that its answer is what ONNX Runtime gives or what the protocol says, or the table says why not. `--check`
fails where the table says anything else, `--update` writes it anew. gRPC and shared memory are tried where the server
has them; `--grpc` fails where it has no gRPC.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import conformance_triton
import oracle
import perf_analyzer
from serving import CONTROL, Server, arrange

DOCUMENT = oracle.ROOT / "docs" / "CONFORMANCE.md"
HEAD = """# Conformance

What clients from PyPI get from `reef serve`, call by call. Written by `tests/oracle/conformance.py --update`; `--check`
finds what has changed. "works" means that the answer is ONNX Runtime's, or what the protocol says.

The server of the table runs as `{flags}`. `T.http` stands for `tritonclient.http`, and so on.
"""
# Options that are used where the binary has them.
WANTED = {"--allow-client-shm": [], "--model-control-mode": ["explicit"], "--trace-dir": ["/tmp"]}


def main():
    args = parse_args()
    try:
        rows, flags = collect(args)
    except oracle.OracleError as error:
        sys.exit(f"conformance: {error}")
    text = document(rows, flags)
    for client, call, result in rows:
        print(f"{client:24} {call:56} {result}", flush=True)
    works = sum(result == "works" for _, _, result in rows)
    print(f"{works} of {len(rows)} calls work")
    if args.update:
        DOCUMENT.write_text(text)
    if args.check:
        sys.exit(differences(text))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--serve-arg", action="append", default=[], help="one more argument for `reef serve`")
    parser.add_argument("--grpc", action="store_true", help="the server must have gRPC")
    parser.add_argument("--kserve-python", type=pathlib.Path, help="a Python with requirements-kserve.txt installed")
    parser.add_argument("--cache", type=pathlib.Path, default=oracle.ROOT / "target" / "perf-analyzer",
                        help="where perf_analyzer is unpacked, and fetched to if it is not there")
    parser.add_argument("--without", type=oracle.names, default=[], help="of tritonclient, kserve, perf_analyzer")
    parser.add_argument("--check", action="store_true", help="fail where docs/CONFORMANCE.md says anything else")
    parser.add_argument("--update", action="store_true", help="write docs/CONFORMANCE.md")
    return parser.parse_args()


def collect(args):
    """Rows of client, call and result; the flags that the server was started with."""
    shown = subprocess.run([str(args.reef), "serve", "--help"], capture_output=True, text=True).stdout
    flags = [word for flag, values in WANTED.items() if flag in shown for word in (flag, *values)]
    if "--model-control-mode" in flags and "--load-model" in shown:
        flags += ["--load-model", "*"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="reef-conformance-") as folder:
        models = arrange(args.reef, pathlib.Path(folder) / "serve")
        reference = oracle.Reference(models / f"{CONTROL}.onnx", threads=1)
        with Server(args.reef, models, *flags, *args.serve_arg) as server:
            if args.grpc and not server.grpc:
                raise oracle.OracleError(f"the server has no gRPC port; it said: {server.said}")
            if "tritonclient" not in args.without:
                rows += conformance_triton.rows(server, reference)
            if "kserve" not in args.without:
                rows += kserve(args, server, reference)
            if "perf_analyzer" not in args.without:
                rows += perf_analyzer.rows(args.cache, server, CONTROL, pathlib.Path(folder))
            if not server.lives():
                raise oracle.OracleError(f"the server died:\n{server.tail()}")
    return rows, " ".join(["reef serve models/", *flags])


def kserve(args, server, reference):
    """kserve's clients run in a Python of their own: what they depend on is a lot, and pinned by them."""
    if not args.kserve_python:
        raise oracle.OracleError("--kserve-python is needed, or --without kserve")
    feeds = reference.feeds(oracle.Case("fixed"), seed=11)
    ((name, array),) = feeds.items()
    want = reference.run(feeds)
    task = {"model": reference.name, "input": name, "shape": list(array.shape), "data": array.ravel().tolist(),
            "want": {key: value.ravel().tolist() for key, value in want.items()},
            "http": server.http, "grpc": server.grpc}
    script = pathlib.Path(__file__).with_name("conformance_kserve.py")
    done = subprocess.run([str(args.kserve_python), str(script)], input=json.dumps(task), capture_output=True,
                          text=True, timeout=300)
    if done.returncode:
        raise oracle.OracleError(f"{script.name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return [tuple(row) for row in json.loads(done.stdout)]


def document(rows, flags):
    lines = [HEAD.format(flags=flags), "| client | call | |", "|---|---|---|"]
    lines += [f"| {client} | `{call}` | {result.replace('|', '/')} |" for client, call, result in rows]
    works = sum(result == "works" for _, _, result in rows)
    return "\n".join([*lines, "", f"{works} of {len(rows)} calls work.", ""])


def differences(text):
    """Prints what is not as the document says; 1 if something is."""
    known = DOCUMENT.read_text().splitlines() if DOCUMENT.exists() else []
    new = text.splitlines()
    for line in [line for line in known if line not in new]:
        print(f"only in {DOCUMENT.name}: {line}")
    for line in [line for line in new if line not in known]:
        print(f"only now: {line}")
    return int(set(known) != set(new))


if __name__ == "__main__":
    main()
