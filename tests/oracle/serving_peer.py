#!/usr/bin/env python3
"""A tiny model behind tritonclient: `reef serve` beside MLServer, in alternating bursts.

Both serve the same file to the same client library in the same process; only one of them works at a time. Prints p50 and
p99 of each way and the ratio of the medians, MLServer's over reef's. MLServer needs an environment of its own:

    python3 -m venv target/mlserver-venv
    target/mlserver-venv/bin/pip install mlserver==1.7.1 onnxruntime==1.31.1
    python tests/oracle/serving_peer.py --mlserver target/mlserver-venv/bin/mlserver
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import numpy as np
import tritonclient.grpc
import tritonclient.http

import oracle
from serving import CONTROL, PATIENCE_S, Server, arrange
from traffic import percentile

WAYS = ("HTTP", "gRPC")
PEERS = pathlib.Path(__file__).parents[2] / "scripts/peers"


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="reef-peer-") as folder:
        folder = pathlib.Path(folder)
        models = arrange(args.reef, folder / "serve", models=(CONTROL,))
        reference = oracle.Reference(models / f"{CONTROL}.onnx", threads=1)
        feeds = reference.feeds(reference.cases([1], [4])[0], 0)
        expected = reference.run(feeds)
        with Server(args.reef, models, "--grpc-port", "0") as reef, MlServer(args, folder, models) as peer:
            servers = {"reef": (reef.http, reef.grpc), "MLServer": (peer.http, peer.grpc)}
            ways = {(server, way): client(way, address, feeds, expected)
                    for server, addresses in servers.items()
                    for way, address in zip(WAYS, addresses)}
            times = measure(ways, args.bursts, args.count)
    report(times)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--mlserver", type=pathlib.Path, required=True, help="the peer's command")
    parser.add_argument("--bursts", type=int, default=20, help="of each way")
    parser.add_argument("--count", type=int, default=200, help="requests of a burst")
    return parser.parse_args()


class MlServer:
    """MLServer with one model, as its documentation starts it; no parallel workers, which add a hop."""

    def __init__(self, args, folder, models):
        self.folder = folder / "mlserver"
        self.folder.mkdir()
        shutil.copy(PEERS / "mlserver_onnx.py", self.folder)
        ports = [free_port() for _ in range(3)]
        self.http, self.grpc = (("127.0.0.1", port) for port in ports[:2])
        settings = {"http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2], "host": "127.0.0.1",
                    "parallel_workers": 0, "debug": False}
        model = {"name": CONTROL, "implementation": "mlserver_onnx.OnnxModel",
                 "parameters": {"uri": str(models / f"{CONTROL}.onnx")}}
        (self.folder / "settings.json").write_text(json.dumps(settings))
        (self.folder / "model-settings.json").write_text(json.dumps(model))
        self.command = [str(args.mlserver.absolute()), "start", str(self.folder)]

    def __enter__(self):
        env = {**os.environ, "PYTHONPATH": str(self.folder)}
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(self.command, env=env, stdout=self.log, stderr=self.log)
        end = time.monotonic() + PATIENCE_S
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise oracle.OracleError("MLServer did not start: " + (self.folder / "log").read_text()[-2000:])
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.log.close()

    def ready(self):
        with contextlib.suppress(Exception):
            address = "%s:%d" % self.http
            return tritonclient.http.InferenceServerClient(address).is_model_ready(CONTROL)
        return False


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def client(way, address, feeds, expected):
    """One request, its answer checked."""
    # MLServer reads no binary tensors over HTTP: JSON for both.
    library, options = (tritonclient.http, {"binary_data": False}) if way == "HTTP" else (tritonclient.grpc, {})
    connection = library.InferenceServerClient("%s:%d" % address)
    inputs = []
    for name, array in feeds.items():
        tensor = library.InferInput(name, list(array.shape), tritonclient.utils.np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, **options)
        inputs.append(tensor)
    outputs = [library.InferRequestedOutput(name, **options) for name in expected]

    def ask():
        answer = connection.infer(CONTROL, inputs, outputs=outputs)
        for name, array in expected.items():
            np.testing.assert_allclose(answer.as_numpy(name), array, rtol=1e-4, atol=1e-5)

    def timed():
        start = time.perf_counter()
        connection.infer(CONTROL, inputs, outputs=outputs)
        return time.perf_counter() - start

    ask()
    return timed


def measure(ways, bursts, count):
    times = {key: [] for key in ways}
    for _ in range(bursts):
        for key, timed in ways.items():
            timed()
            times[key] += [timed() for _ in range(count)]
    return times


def report(times):
    print(f"{'':8}{'':6}{'p50 µs':>10}{'p99 µs':>10}")
    for (server, way), own in times.items():
        print(f"{server:10}{way:6}{percentile(own, 0.5) * 1e6:8.0f}{percentile(own, 0.99) * 1e6:10.0f}")
    for way in WAYS:
        ratio = percentile(times["MLServer", way], 0.5) / percentile(times["reef", way], 0.5)
        print(f"{way}: MLServer takes {ratio:.1f} times reef's median")


if __name__ == "__main__":
    main()
