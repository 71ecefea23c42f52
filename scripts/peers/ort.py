#!/usr/bin/env python3
"""ONNX Runtime as a peer of the DISB benchmark: `reef bench disb --peer 'PYTHON scripts/peers/ort.py'`.

The protocol stands in README.md beside this file. Three processes hold models, and each runs them with one
worker, one request at a time on all cores, as a user of ONNX Runtime would: `real-time` holds the real-time
models, `best-effort` the others, `both` all of them. A condition says which of them take part, and with which
priority. Their parent, which the benchmark talks to, sleeps while they work.
"""

import argparse
import collections
import contextlib
import gc
import heapq
import json
import os
import queue
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import dataclass, field

PROTOCOL = 1
# From the order to start to the start: the processes have prepared everything by then.
LEAD_NS = 50_000_000
# How long after a failure a closed loop asks again.
BACK_OFF_NS = 10_000_000
# Runs of each model while it is loaded.
WARM_UP_RUNS = 2
# Passes over the threads of a process until all have their priority.
RESCHEDULE_TRIES = 10
# For symbolic dimensions: the first of a tensor, and others.
SYMBOL_FIRST, SYMBOL_OTHER = 1, 128


class PeerError(Exception):
    """Something that the benchmark should know; answered as `error`."""


# What the processes have in common: lines of JSON.


class Lines:
    """Requests on standard input, answers on standard output. The process ends when its input does."""

    def __init__(self):
        # What libraries print goes to standard error.
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.requests = queue.SimpleQueue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in sys.stdin:
            self.requests.put(line)
        os._exit(0)

    def serve(self, handlers):
        while (request := json.loads(self.requests.get()))["do"] != "quit":
            try:
                answer = handlers[request["do"]](request)
            except Exception as error:
                why = str(error) if isinstance(error, PeerError) else f"{type(error).__name__}: {error}"
                answer = {"error": why}
            self.answer(request, answer)
        self.answer(request, {})

    def answer(self, request, fields):
        self.out.write(json.dumps({"id": request["id"], **fields}, separators=(",", ":")) + "\n")
        self.out.flush()


def sleep_until(time_ns):
    while (left := time_ns - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)


# The parent.


@dataclass(frozen=True)
class Condition:
    title: str
    # The process of each class; None: does not take part.
    real_time: str = "real-time"
    best_effort: str | None = "best-effort"
    # Of the best-effort process.
    nice: int = 0
    policy: int = os.SCHED_OTHER

    def role(self, class_name):
        return self.real_time if class_name == "real-time" else self.best_effort

    def nice_here(self):
        """Where all of the benchmark has a lower priority than 0, the real-time process has it too."""
        return max(self.nice, os.nice(0))


CONDITIONS = {
    "rt-only": Condition("one process, only real-time clients, first come, first served", best_effort=None),
    "priority queue": Condition(
        "one process, real-time requests overtake best-effort ones that wait, no preemption", "both", "both"),
    "two processes": Condition("a process for each class"),
    "nice 19": Condition("a process for each class, the best-effort one at nice 19", nice=19),
    "SCHED_IDLE": Condition(
        "a process for each class, the best-effort one under SCHED_IDLE", policy=os.SCHED_IDLE),
}


class Server:
    """A process that holds models."""

    def __init__(self, role, threads):
        self.role, self.threads = role, threads
        self.loaded = {}
        self.start()

    def start(self):
        command = [sys.executable, __file__, "--serve", self.role, "--threads", str(self.threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.last_id = 0

    def send(self, what, **fields):
        self.last_id += 1
        try:
            self.process.stdin.write(json.dumps({"id": self.last_id, "do": what, **fields}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(self.how_it_ended()) from None

    def receive(self):
        """The answer to the last request. Earlier ones, left when another process failed, are skipped."""
        while line := self.process.stdout.readline():
            answer = json.loads(line)
            if answer["id"] != self.last_id:
                continue
            if "error" in answer:
                raise PeerError(f"the {self.role} process: {answer['error']}")
            return answer
        raise PeerError(self.how_it_ended())

    def ask(self, what, **fields):
        self.send(what, **fields)
        return self.receive()

    def how_it_ended(self):
        return f"the {self.role} process ended with status {self.process.wait()}"

    def load(self, models):
        new = {name: path for name, path in models.items() if self.loaded.get(name) != path}
        self.ask("load", models=new)
        self.loaded |= new

    def schedule(self, nice, policy):
        """Gives all threads this priority; where that is not permitted, starts the process anew before."""
        try:
            self.reschedule(nice, policy)
        except PermissionError:
            self.process.kill()
            self.process.wait()
            self.start()
            models, self.loaded = self.loaded, {}
            self.load(models)
            self.reschedule(nice, policy)

    def reschedule(self, nice, policy):
        # A thread that starts meanwhile has its creator's priority, maybe the old one: until all are right.
        for _ in range(RESCHEDULE_TRIES):
            wrong = self.wrongly_scheduled(nice, policy)
            if not wrong:
                return
            for thread in wrong:
                with contextlib.suppress(ProcessLookupError):  # It has ended.
                    os.sched_setscheduler(thread, policy, os.sched_param(0))
                    os.setpriority(os.PRIO_PROCESS, thread, nice)
        raise PeerError(f"{len(wrong)} threads of the {self.role} process keep another priority")

    def wrongly_scheduled(self, nice, policy):
        """Threads with another priority, as the system tells: nice is field 19 of `stat`, policy field 41."""
        wrong = []
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            try:
                with open(f"/proc/{self.process.pid}/task/{thread}/stat") as stat:
                    fields = stat.read().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # It has ended.
            if (int(fields[19 - 3]), int(fields[41 - 3])) != (nice, policy):
                wrong.append(int(thread))
        return wrong

    def cpu_ns(self):
        """Processor time of all threads so far, by the clock of the process (clock_getcpuclockid)."""
        return time.clock_gettime_ns((~self.process.pid << 3) | 2)

    def memory_bytes(self):
        with open(f"/proc/{self.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Parent:
    def __init__(self, threads):
        self.threads = threads
        self.servers = {}
        self.paths = {}

    def hello(self, request):
        if request["protocol"] != PROTOCOL:
            raise PeerError(f"only version {PROTOCOL} of the protocol is known here")
        from importlib.metadata import version
        conditions = [
            {"name": name, "title": condition.title, "best_effort": condition.best_effort is not None}
            for name, condition in CONDITIONS.items()
        ]
        return {"name": "ONNX Runtime", "version": version("onnxruntime"), "conditions": conditions}

    def load(self, request):
        paths = {real_time: {model["name"]: model["path"] for model in request["models"]
                             if model["real_time"] == real_time} for real_time in (True, False)}
        self.paths |= paths[True] | paths[False]
        self.server("real-time").load(paths[True])
        self.server("best-effort").load(paths[False])
        self.server("both").load(paths[True] | paths[False])
        return {}

    def server(self, role):
        if role not in self.servers:
            self.servers[role] = Server(role, self.threads)
        return self.servers[role]

    def play(self, request):
        condition, run = CONDITIONS[request["condition"]], request["run"]
        clients = run["clients"]
        parts = {}
        for index, client in enumerate(clients):
            if (role := condition.role(client["class"])) is not None:
                parts.setdefault(role, []).append(index)
        servers = {self.server(role): indices for role, indices in parts.items()}
        for server, indices in servers.items():
            server.load({clients[index]["model"]: self.path(clients[index]["model"]) for index in indices})
            if server.role == "best-effort":
                server.schedule(condition.nice_here(), condition.policy)
            server.ask("prepare", run={**run, "clients": part_of(clients, indices)})
        return self.measure(servers, condition, run)

    def path(self, model):
        if model not in self.paths:
            raise PeerError(f"model {model} has not been loaded")
        return self.paths[model]

    def measure(self, servers, condition, run):
        start = time.monotonic_ns() + LEAD_NS
        for server in servers:
            server.send("go", start_ns=start)
        sleep_until(start + run["warm_up_ns"])
        before = sum(server.cpu_ns() for server in servers)
        wrong = [thread for server in servers if server.role == "best-effort"
                 for thread in server.wrongly_scheduled(condition.nice_here(), condition.policy)]
        sleep_until(start + run["warm_up_ns"] + run["measured_ns"])
        cpu_ns = sum(server.cpu_ns() for server in servers) - before
        memory_bytes = sum(server.memory_bytes() for server in servers)
        nothing = {"due_ns": [], "sent_ns": [], "done_ns": []}
        played = [nothing] * len(run["clients"])
        for server, indices in servers.items():
            for index, columns in zip(indices, server.receive()["clients"]):
                played[index] = columns
        if wrong:
            raise PeerError(f"{len(wrong)} best-effort threads had another priority while they were measured")
        return {"clients": played, "cpu_ns": cpu_ns, "memory_bytes": memory_bytes}


def part_of(clients, indices):
    """The clients of one process; those that wait for others get their new indices."""
    part = []
    for index in indices:
        client = clients[index]
        arrivals = client["arrivals"]
        if arrivals["kind"] == "after":
            if arrivals["client"] not in indices:
                raise PeerError(f"client {client['name']} waits for one of another process")
            arrivals = {**arrivals, "client": indices.index(arrivals["client"])}
        part.append({**client, "arrivals": arrivals})
    return part


# A process that holds models.


class Models:
    """Sessions and the inputs that they are asked with; imports what takes long."""

    def __init__(self, threads):
        import numpy
        import onnxruntime
        self.numpy, self.onnxruntime = numpy, onnxruntime
        self.threads = threads
        self.loaded = {}

    def load(self, request):
        for name, path in request["models"].items():
            options = self.onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads
            session = self.onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            feeds = {input.name: self.random_input(input) for input in session.get_inputs()}
            for _ in range(WARM_UP_RUNS):
                session.run(None, feeds)
            self.loaded[name] = (session, feeds)
        return {}

    def random_input(self, input):
        """Seeded by name and shape. Masks are ones; integers are 0 or 1, which every table of ids has."""
        numpy = self.numpy
        symbols = [SYMBOL_FIRST] + [SYMBOL_OTHER] * len(input.shape)
        shape = [dim if isinstance(dim, int) else symbol for dim, symbol in zip(input.shape, symbols)]
        generator = numpy.random.default_rng(zlib.crc32(repr((input.name, shape)).encode()))
        name = input.type.removeprefix("tensor(").removesuffix(")")
        dtype = numpy.dtype({"float": "float32", "double": "float64"}.get(name, name))
        if "mask" in input.name.lower():
            return numpy.ones(shape, dtype)
        if dtype.kind in "iub":
            return generator.integers(0, 2, shape).astype(dtype)
        return generator.standard_normal(shape).astype(dtype)


@dataclass
class Client:
    name: str
    model: str
    urgent: bool
    in_flight: int
    arrivals: dict
    # Due times that wait because too many requests are under way.
    waiting: collections.deque = field(default_factory=collections.deque)
    under_way: int = 0
    # Clients that ask after its answers, and how long after.
    followers: list = field(default_factory=list)
    due_ns: list = field(default_factory=list)
    sent_ns: list = field(default_factory=list)
    began_ns: list = field(default_factory=list)
    done_ns: list = field(default_factory=list)
    failed_ns: list = field(default_factory=list)
    unsent_ns: list = field(default_factory=list)
    dropped: int = 0
    first_error: str | None = None

    def columns(self):
        times = ("due_ns", "sent_ns", "began_ns", "done_ns", "failed_ns", "unsent_ns")
        return {name: getattr(self, name) for name in (*times, "dropped", "first_error")}


class Player:
    """A run in one process: the main thread keeps the schedule, the worker answers; both block until needed.

    One lock guards everything; nobody holds it while a model runs. Times are nanoseconds from the start.
    """

    def __init__(self, models, run):
        self.models = models
        self.clients = [client_of(client) for client in run["clients"]]
        for client in self.clients:
            if client.arrivals["kind"] == "after":
                leader = self.clients[client.arrivals["client"]]
                leader.followers.append((client, client.arrivals["think_ns"]))
        self.window = range(run["warm_up_ns"], run["warm_up_ns"] + run["measured_ns"])
        self.end = self.window.stop
        self.give_up = self.end + run["grace_ns"]
        self.cool = self.end + run["cool_down_ns"]
        lock = threading.Lock()
        self.timer, self.work = threading.Condition(lock), threading.Condition(lock)
        # Requests that have been sent, of real-time and of best-effort clients: (client, due, sent).
        self.urgent, self.rest = collections.deque(), collections.deque()
        self.busy = self.over = False
        # (due, number, client): what is going to arrive.
        self.events = []
        self.numbers = 0
        for client in self.clients:
            self.schedule(client)
        self.worker = threading.Thread(target=self.answer)

    def schedule(self, client):
        if client.arrivals["kind"] == "open":
            for due in client.arrivals["times_ns"]:
                self.expect(due, client)
        elif client.arrivals["kind"] == "closed":
            for _ in range(client.in_flight):
                self.expect(0, client)

    def expect(self, due, client):
        self.numbers += 1
        heapq.heappush(self.events, (due, self.numbers, client))

    def play(self, start):
        """Returns when every request has ended and the run is over."""
        self.start = start
        self.worker.start()
        sleep_until(start)
        wake_on_time()
        with self.timer:
            while self.events or self.urgent or self.rest or self.busy:
                left = self.events[0][0] - self.now() if self.events else None
                if left is None or left > 0:
                    self.timer.wait(left and left / 1e9)
                else:
                    due, _, client = heapq.heappop(self.events)
                    self.arrive(client, due)
            self.over = True
            self.work.notify()
        self.worker.join()
        sleep_until(start + self.end)
        return {"clients": [client.columns() for client in self.clients]}

    def now(self):
        return time.monotonic_ns() - self.start

    def arrive(self, client, due):
        if client.under_way < client.in_flight:
            self.send(client, due, self.now())
        else:
            if client.waiting and client.arrivals.get("newest_only"):
                client.dropped += client.waiting.pop() in self.window
            client.waiting.append(due)

    def send(self, client, due, now):
        if now > self.give_up:
            client.unsent_ns.append(due)
            return
        client.under_way += 1
        (self.urgent if client.urgent else self.rest).append((client, due, now))
        self.work.notify()

    def answer(self):
        """The worker: one request at a time, the urgent ones first."""
        wake_on_time()
        while True:
            with self.work:
                while not (self.urgent or self.rest or self.over):
                    self.work.wait()
                if self.over:
                    return
                client, due, sent = (self.urgent or self.rest).popleft()
                self.busy = True
            began, error = self.now(), None
            if began <= self.give_up:
                error = self.run(client)
            done = self.now()
            with self.work:
                self.busy = False
                self.record(client, (due, sent, began, done), error)
                self.ask_next(client, done, error)

    def run(self, client):
        """The error, if there is one."""
        try:
            session, feeds = self.models[client.model]
            session.run(None, feeds)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def record(self, client, times, error):
        due, sent, began, done = times
        client.under_way -= 1
        if began > self.give_up:
            client.unsent_ns.append(due)
        elif error:
            client.failed_ns.append(due)
            client.first_error = client.first_error or error
        else:
            client.due_ns.append(due)
            client.sent_ns.append(sent)
            client.began_ns.append(began)
            client.done_ns.append(done)

    def ask_next(self, client, done, error):
        while client.waiting and client.under_way < client.in_flight:
            self.send(client, client.waiting.popleft(), done)
        if client.arrivals["kind"] == "closed":
            self.ask_again(client, done, client.arrivals["think_ns"] + (BACK_OFF_NS if error else 0))
        for follower, think in client.followers:
            if not error:
                self.ask_again(follower, done, think)
        if not (self.urgent or self.rest):
            self.timer.notify()

    def ask_again(self, client, done, think):
        due = done + think
        # Best-effort closed loops go on for a while, so that the last real-time requests are not answered alone.
        rests = client.arrivals["kind"] == "closed" and not client.urgent
        if due >= (self.cool if rests else self.end):
            return
        if think:
            self.expect(due, client)
            self.timer.notify()
        else:
            self.arrive(client, due)


def client_of(client):
    urgent = client["class"] == "real-time"
    return Client(client["name"], client["model"], urgent, client["in_flight"], client["arrivals"])


def wake_on_time():
    """Asks the system to wake this thread when it said, not up to 50 µs later. Best effort."""
    try:
        with open(f"/proc/{threading.get_native_id()}/timerslack_ns", "w") as slack:
            slack.write("1")
    except OSError:
        pass


class Role:
    """The requests of the parent to a process that holds models."""

    def __init__(self, threads):
        self.models = Models(threads)

    def prepare(self, request):
        gc.collect()
        gc.disable()
        self.player = Player(self.models.loaded, request["run"])
        return {}

    def go(self, request):
        played = self.player.play(request["start_ns"])
        gc.enable()
        return played


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="of each model; default: allowed cores")
    parser.add_argument("--serve", metavar="ROLE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    lines = Lines()
    if args.serve:
        role = Role(args.threads)
        lines.serve({"load": role.models.load, "prepare": role.prepare, "go": role.go})
    else:
        parent = Parent(args.threads)
        lines.serve({"hello": parent.hello, "load": parent.load, "play": parent.play})


if __name__ == "__main__":
    main()
