"""A `reef serve` for scripts to attack: a child process on free ports, its log, its memory, and plain requests to it.

Requests are made with the standard library alone, so that a script can break the protocol where a client library would
not, and can say of every request how it ended.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import numpy as np

import oracle

# Bounds every wait: far above what a loaded machine takes, reached only by a hang.
PATIENCE_S = 120.0
CONTROL, RESNET = "control", "resnet18"
SETTINGS = f'[model.{CONTROL}]\nclass = "real-time"\n'


def arrange(reef, folder, settings=SETTINGS, models=(CONTROL, RESNET), **options):
    """Fills `folder` with tiny models of the zoo: one real-time, one best-effort."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in oracle.write_zoo(reef, folder.parent / f"{folder.name}-zoo", list(models), tiny=True, **options):
        shutil.copy(path, folder / pathlib.Path(path).name)
    (folder / "reef.toml").write_text(settings)
    return folder


class Server:
    """`reef serve FOLDER` as a child process; killed on the way out if it still runs."""

    def __init__(self, reef, folder, *args, ports=(0, 0), env=None, log=None, extra=()):
        self.command = [str(reef), "serve", str(folder), "--http-port", str(ports[0]), "--metrics-port",
                        str(ports[1]), *map(str, args)]
        self.env = {**os.environ, "REEF_LOG": "info", **(env or {})}
        self.log_path = log or folder.parent / f"{folder.name}.log"
        self.extra = list(extra)
        self.process = None

    def __enter__(self):
        try:
            self.process = subprocess.Popen([*self.extra, *self.command], env=self.env, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=open(self.log_path, "ab"))
        except FileNotFoundError as error:
            raise oracle.OracleError(f"{error.filename} does not exist: build it first") from None
        self.said = self.process.stdout.readline().decode()
        if not self.said.startswith("serving "):
            self.__exit__()
            raise oracle.OracleError(f"the server did not start: {self.said}\n{self.tail()}")
        self.http, self.metrics_at, self.grpc = (self.address(key) for key in ("http", "metrics", "grpc"))
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def address(self, key):
        """`(host, port)` as the line on standard output says, or None."""
        found = re.search(rf"\b{key}=(?:https?://)?([^\s:]+):(\d+)", self.said)
        return found and (found[1], int(found[2]))

    def stop(self, sig=signal.SIGTERM):
        """Asks to stop; the exit status."""
        self.process.send_signal(sig)
        return self.process.wait(PATIENCE_S)

    def lives(self):
        return self.process.poll() is None

    def tail(self, characters=4000):
        return self.log_path.read_text(errors="replace")[-characters:]

    def rss_bytes(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024

    def fd_count(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def get(self, path, timeout_s=PATIENCE_S):
        with Connection(self.http, timeout_s) as connection:
            return connection.ask("GET", path)

    def metrics(self):
        """Samples by name and labels, from the port of the metrics."""
        with Connection(self.metrics_at) as connection:
            status, _, body = connection.ask("GET", "/metrics")
        assert status == 200, status
        lines = (line.rsplit(" ", 1) for line in body.decode().splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def metric(self, name, **labels):
        """The sum of the samples that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        samples = self.metrics().items()
        return sum(value for key, value in samples
                   if key.split("{")[0] == name and all(label in key for label in wanted))


class Connection:
    """One kept connection."""

    def __init__(self, address, timeout_s=PATIENCE_S):
        self.http = http.client.HTTPConnection(*address, timeout=timeout_s)

    def __enter__(self):
        self.http.connect()
        self.http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_):
        self.http.close()

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and body of the answer."""
        self.http.request(method, path, body, headers or {})
        answer = self.http.getresponse()
        return answer.status, answer.headers, answer.read()

    def infer(self, request):
        return self.ask("POST", request.path, request.body, request.headers)


class Request:
    """A binary inference of a model with seeded inputs, and how it looks on the wire."""

    def __init__(self, model, inputs, parameters=None, request_id=""):
        tensors = [{"name": name, "shape": list(array.shape), "datatype": datatype(array),
                    "parameters": {"binary_data_size": array.nbytes}} for name, array in inputs.items()]
        asked = {"binary_data_output": True, **(parameters or {})}
        head = json.dumps({"id": request_id, "inputs": tensors, "parameters": asked}).encode()
        self.path = f"/v2/models/{model}/infer"
        self.body = head + b"".join(array.tobytes() for array in inputs.values())
        self.headers = {"Inference-Header-Content-Length": str(len(head)),
                        "Content-Type": "application/octet-stream"}

    def bytes(self):
        lines = [f"POST {self.path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(self.body)}",
                 *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


def datatype(array):
    return {"float32": "FP32", "int64": "INT64", "int32": "INT32", "bool": "BOOL"}[array.dtype.name]


def example(folder, model, seed=0, **options):
    """A request for a model of `folder`, its inputs from ONNX Runtime's reading of the file."""
    reference = oracle.Reference(folder / f"{model}.onnx", threads=1)
    case = reference.cases([1], [4])[0]
    return Request(model, reference.feeds(case, seed), **options)


def outputs(answer):
    """The binary part of an answer: the bits of all outputs."""
    status, headers, body = answer
    assert status == 200, (status, body[:300])
    return body[int(headers["Inference-Header-Content-Length"]):]


def error_of(answer):
    with contextlib.suppress(ValueError):
        return json.loads(answer[2])["error"]
    return answer[2].decode(errors="replace")


class Load:
    """Closed-loop clients on kept connections until told to stop. Every request has one record: when it was sent whole,
    and the status, `closed` (without a byte of an answer), `broken` (within one) or `refused` (no connection)."""

    def __init__(self, address, requests, clients=4, pause_s=0.0):
        self.address, self.requests, self.pause_s = address, requests, pause_s
        self.records, self.lock, self.stopping = [], threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.client, args=(index,), daemon=True) for index in range(clients)]

    def __enter__(self):
        [thread.start() for thread in self.threads]
        return self

    def __exit__(self, *_):
        self.stopping.set()
        [thread.join(PATIENCE_S) for thread in self.threads]
        assert not any(thread.is_alive() for thread in self.threads), "a client waits for ever"

    def client(self, index):
        name, request = self.requests[index % len(self.requests)]
        connection = None
        while not self.stopping.is_set():
            kept = connection is not None
            outcome, sent, data = "refused", None, b""
            try:
                connection = connection or Connection(self.address).__enter__()
                connection.http.request("POST", request.path, request.body, request.headers)
                sent, outcome = time.monotonic(), "closed"
                answer = connection.http.getresponse()
                outcome = "broken"
                data = answer.read()
                outcome = answer.status
                if answer.status == 200:
                    data = data[int(answer.headers["Inference-Header-Content-Length"]):]
                if answer.will_close:
                    connection.__exit__()
                    connection = None
            except (OSError, http.client.HTTPException):
                if connection:
                    connection.__exit__()
                connection = None
                self.stopping.wait(0.01)
            with self.lock:
                self.records.append((name, sent, time.monotonic(), outcome, kept, data))
            if self.pause_s:
                self.stopping.wait(self.pause_s)
        if connection:
            connection.__exit__()

    def count(self, outcome=200, name=None):
        with self.lock:
            return sum(record[3] == outcome and name in (None, record[0]) for record in self.records)

    def wait_for(self, more, outcome=200):
        """Until so many more requests ended so."""
        wanted, end = self.count(outcome) + more, time.monotonic() + PATIENCE_S
        while self.count(outcome) < wanted:
            assert time.monotonic() < end, f"only {self.count(outcome)} of {wanted} requests ended {outcome}"
            time.sleep(0.005)


def until(what, holds, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end, f"not within {patience_s:.0f} s: {what}"
        time.sleep(0.01)


def big_output_model(path, elements):
    """A model whose output is `elements` floats, whatever small input it gets."""
    import onnx
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, elements])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, elements])
    graph = helper.make_graph([helper.make_node("Expand", ["x", "shape"], ["y"])], "big", [x], [y], [shape])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return Request(path.stem, {"x": np.ones((1, 1), np.float32)})
