#!/usr/bin/env python3
"""Runs the example for real on this machine: 1, then 2, then 1 replica under load, and one replica killed.

Clients ask without a pause, more of them for a while; every answer has to be right. Nothing may fail, and requests are
asked twice only where a replica was killed.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

# A loaded machine takes its time to start processes; read when Ray is imported.
for variable in ("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"):
    os.environ.setdefault(variable, "120")

import ray
from ray import serve

import reef_serve

PATIENCE_S = 240.0
SETTINGS = '[model.control]\nclass = "real-time"\n'
MODELS = ["control", "resnet18"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, required=True, help="the binary")
    parser.add_argument("--clients", type=int, default=24, help="clients while there is load")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reef-ray-") as folder:
        models = pathlib.Path(folder) / "models"
        subprocess.run([args.reef, "zoo", "--tiny", "--out", models, "--model", *MODELS], check=True,
                       stdout=subprocess.DEVNULL)
        (models / "reef.toml").write_text(SETTINGS)
        # What workers import: the module of the example.
        os.environ["PYTHONPATH"] = str(pathlib.Path(__file__).resolve().parent)
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False,
                 configure_logging=False)
        try:
            run(args, models)
        finally:
            serve.shutdown()
            ray.shutdown()


def run(args, models):
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": PATIENCE_S})
    application = reef_serve.build(str(models), str(args.reef.resolve()), ["control"], delays_s=(1.0, 3.0))
    serve.run(application, name="reef", route_prefix="/", blocking=False)
    url = f"http://127.0.0.1:{port}"
    requests = {model: request_of(url, model) for model in MODELS}
    expected = {model: ask(url, model, body)[0] for model, body in requests.items()}
    assert replicas() == 1, replicas()
    with Clients(url, requests, expected) as clients:
        clients.add(2)
        clients.more(20)
        clients.add(args.clients - 2)
        wait("two replicas under load", lambda: replicas() == 2)
        print(f"1 -> 2 replicas after {clients.count()} answers", flush=True)
        wait("both replicas answer", lambda: len(clients.seen) == 2)
        kill_one()
        wait("a request was asked again", lambda: clients.retried() > 0)
        clients.more(100)
        wait("two replicas again", lambda: replicas() == 2)
        print(f"one killed: {clients.retried()} requests asked again, none failed", flush=True)
        clients.remove(args.clients - 2)
        wait("one replica without load", lambda: replicas() == 1)
        clients.more(20)
        print(f"2 -> 1 replica; {clients.count()} answers, {clients.retried()} asked again, 0 failed", flush=True)
    assert not clients.errors, clients.errors[:3]


def request_of(url, model):
    # The shape as the server says it: the zoo's tiny models may change.
    with urllib.request.urlopen(f"{url}/v2/models/{model}", timeout=PATIENCE_S) as answer:
        (described,) = json.load(answer)["inputs"]
    shape = described["shape"]
    size = 1
    for extent in shape:
        size *= extent
    data = [(index * 37 % 101) / 101 for index in range(size)]
    tensor = {"name": described["name"], "shape": shape, "datatype": described["datatype"], "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def ask(url, model, body):
    """The outputs, how often the request was asked, and which replica answered."""
    request = urllib.request.Request(f"{url}/v2/models/{model}/infer", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)["outputs"], int(answer.headers["reef-attempts"]), answer.headers["reef-replica"]


def status():
    return serve.status().applications["reef"].deployments["Reef"]


def replicas():
    return status().replica_states.get("RUNNING", 0)


def reef_pids():
    """Processes `reef serve` of this check, by the replica that started them."""
    own = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if len(words) > 2 and words[0].endswith(b"reef") and words[1] == b"serve" and b"reef-ray-" in words[2]:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                own[int(entry.name)] = int(stat[1])
        except OSError:
            continue
    return own


def kill_one():
    """Kills the whole replica, its reef with it."""
    victim = next(iter(reef_pids().values()))
    os.kill(victim, signal.SIGKILL)


class Clients:
    """Threads that ask until they are told to stop."""

    def __init__(self, url, requests, expected):
        self.url, self.requests, self.expected = url, requests, expected
        self.lock, self.threads = threading.Lock(), []
        self.answers, self.again, self.errors, self.seen = 0, 0, [], set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove(len(self.threads))

    def add(self, count):
        for _ in range(count):
            stop = threading.Event()
            model = list(self.requests)[len(self.threads) % len(self.requests)]
            thread = threading.Thread(target=self.work, args=(model, stop), daemon=True)
            self.threads.append((thread, stop))
            thread.start()

    def remove(self, count):
        gone = [self.threads.pop() for _ in range(count)]
        [stop.set() for _, stop in gone]
        [thread.join(PATIENCE_S) for thread, _ in gone]

    def work(self, model, stop):
        while not stop.is_set():
            try:
                outputs, attempts, replica = ask(self.url, model, self.requests[model])
                assert outputs == self.expected[model], f"{model}: another answer"
                with self.lock:
                    self.answers += 1
                    self.again += attempts > 1
                    self.seen.add(replica)
            except (OSError, AssertionError, KeyError, ValueError) as error:
                detail = error.read()[:500] if isinstance(error, urllib.error.HTTPError) else b""
                with self.lock:
                    self.errors.append(f"{model}: {error} {detail.decode(errors='replace')}")
                return

    def count(self):
        assert not self.errors, self.errors[:3]
        return self.answers

    def retried(self):
        return self.again

    def more(self, count):
        wanted = self.answers + count
        wait(f"{count} more answers", lambda: self.count() >= wanted)


def wait(what, holds):
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}; {status()}")
        time.sleep(0.1)


def free_port():
    import socket
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"check: {error}")
