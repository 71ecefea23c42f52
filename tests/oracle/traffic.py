"""Open- and closed-loop clients in processes of their own, for `overload.py` and `soak.py`.

Each process runs an event loop with connections of its own. HTTP is written and read here in its plainest form: a
client library would take more of the processor than the server that is asked.
"""

import asyncio
import dataclasses
import json
import multiprocessing
import random
import time

ID = b"0000000000000000"
READY = "ready"


@dataclasses.dataclass
class Stream:
    """Requests of one kind. `bodies` alternate; each has `ID` in it, in whose place comes the request's own."""

    name: str
    path: str
    bodies: list
    headers: dict
    rate_hz: float | None = None  # None: a closed loop on each connection
    poisson: bool = False
    connections: int = 1


@dataclasses.dataclass
class Answer:
    """What came of one request; times in seconds on the machine's monotonic clock."""

    stream: str
    due: float
    sent: float
    done: float
    status: int  # 0: no answer
    id_is_right: bool
    error: str = ""


def stream(name, request, **options):
    """A stream of a `serving.Request` that was made with `request_id=ID`."""
    assert request.body.count(ID) == 1, "the request has no id to replace"
    return Stream(name, request.path, [request.body], request.headers, **options)


class Traffic:
    """Plays streams, each in a process, until it is told to stop or for so long."""

    def __init__(self, address, streams, seconds):
        context = multiprocessing.get_context("spawn")
        self.answers, self.stray, self.unsent_of = [], 0, {one.name: 0 for one in streams}
        self.results, self.starts = context.Queue(), context.Queue()
        self.processes = [context.Process(target=play, args=(address, one, number, self.results, self.starts),
                                          daemon=True)
                          for number, one in enumerate(streams)]
        [process.start() for process in self.processes]
        # All of them are there and connected when the time begins.
        assert all(self.results.get(timeout=120) == READY for _ in self.processes)
        begin = time.monotonic() + 0.2
        self.end = begin + seconds
        [self.starts.put((begin, self.end)) for _ in self.processes]

    def wait(self):
        """All answers, when all of them have come."""
        for _ in self.processes:
            name, answers, stray, unsent = self.results.get(timeout=self.end - time.monotonic() + 120)
            self.answers += answers
            self.stray += stray
            self.unsent_of[name] += unsent
        [process.join(60) for process in self.processes]
        return self.answers


def play(address, stream, number, results, starts):
    results.put(asyncio.run(Player(address, stream, number).run(results, starts)))


class Player:
    def __init__(self, address, stream, number):
        self.address, self.stream, self.begin, self.end = address, stream, None, None
        self.random, self.number, self.count = random.Random(number), number, 0
        self.answers, self.stray, self.unsent = [], 0, 0

    async def run(self, results, starts):
        pool = [await self.connect() for _ in range(self.stream.connections)]
        results.put(READY)
        self.begin, self.end = starts.get()
        await asyncio.sleep(max(0.0, self.begin - time.monotonic()))
        if self.stream.rate_hz is None:
            await asyncio.gather(*(self.closed_loop(connection) for connection in pool))
        else:
            await self.open_loop(pool)
        # A second answer to anything may still be on its way.
        await asyncio.sleep(0.2)
        for reader, writer in pool:
            # An answer to nothing would lie there now.
            self.stray += len(reader._buffer)
            writer.close()
        return self.stream.name, self.answers, self.stray, self.unsent

    async def connect(self):
        return await asyncio.open_connection(*self.address, limit=1 << 26)

    async def closed_loop(self, connection):
        while time.monotonic() < self.end:
            connection = await self.ask(connection, time.monotonic())

    async def open_loop(self, pool):
        free, under_way, due = list(pool), set(), self.begin
        pool.clear()

        async def one(connection, due):
            free.append(await self.ask(connection, due))

        while due < self.end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if free:
                task = asyncio.create_task(one(free.pop(), due))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            else:
                self.unsent += 1
            gap = self.random.expovariate(self.stream.rate_hz) if self.stream.poisson else 1 / self.stream.rate_hz
            due += gap
        await asyncio.gather(*under_way)
        pool += free

    async def ask(self, connection, due):
        """Asks once; the connection to use next."""
        self.count += 1
        own = f"{self.number:04d}{self.count:012d}".encode()
        body = self.stream.bodies[self.count % len(self.stream.bodies)].replace(ID, own)
        lines = [f"POST {self.stream.path} HTTP/1.1", "Host: reef", f"Content-Length: {len(body)}",
                 *(f"{name}: {value}" for name, value in self.stream.headers.items())]
        if connection[0].at_eof():
            # The server has closed it since: nobody asked on it for long.
            connection[1].close()
            connection = await self.connect()
        reader, writer = connection
        sent = time.monotonic()
        try:
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            status, answer, close = await asyncio.wait_for(read(reader), 120)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            now = time.monotonic()
            self.answers.append(Answer(self.stream.name, due, sent, now, 0, False, repr(error)))
            writer.close()
            return await self.connect()
        now = time.monotonic()
        # Refusals have no id of a request in them; on a connection of its own each is the answer to its request.
        right = own in answer if status == 200 else True
        error = "" if status == 200 else answer[:200].decode(errors="replace")
        self.answers.append(Answer(self.stream.name, due, sent, now, status, right, error))
        if close:
            writer.close()
            return await self.connect()
        return connection


async def read(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(lines[0].split(" ")[1]), body, headers.get("connection") == "close"


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def table(rows):
    """Prints rows of what, value, target and verdict; whether all are met."""
    for what, value, target, met in rows:
        verdict = "" if met is None else "met" if met else "NOT MET"
        print(f"{what:52} {value:>14} {target:>14}  {verdict}", flush=True)
    return all(met is not False for *_, met in rows)


def work_model(path, layers, rows=64, width=512):
    """A model with a small input and output and much between them: `layers` products of one matrix."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    matrix = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    constants = [numpy_helper.from_array(matrix, "w"),
                 numpy_helper.from_array(np.array([rows, width], np.int64), "shape")]
    nodes = [helper.make_node("Expand", ["x", "shape"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{at}", "w"], [f"h{at + 1}"]) for at in range(layers)]
    nodes.append(helper.make_node("ReduceMean", [f"h{layers}"], ["y"], axes=[0], keepdims=1))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "work", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return {"x": rng.standard_normal((1, width)).astype(np.float32)}


def errors(answers):
    """What was said of requests that were neither answered nor refused."""
    return sorted({f"{answer.stream}: {answer.status} {answer.error}" for answer in answers
                   if answer.status not in (200, 503)})


def json_of(rows):
    return json.dumps([{"what": what, "value": value, "target": target, "met": met}
                       for what, value, target, met in rows], indent=1)
