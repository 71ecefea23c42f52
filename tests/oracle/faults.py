#!/usr/bin/env python3
"""Faults: what breaks around `reef serve`, and what must hold then. Each is a test with its outcome asserted.

Clients compare every answer with the bits of the first one, so an answer that a fault has damaged is found. Short by
default; `--long` repeats and lengthens what chance decides.
"""

import argparse
import concurrent.futures
import contextlib
import fnmatch
import os
import pathlib
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

import oracle
from serving import (CONTROL, PATIENCE_S, RESNET, Connection, Load, Server, arrange, big_output_model, error_of, example,
                     outputs, until)

# A machine may make us wait, a server may not: a kept connection is served this soon, whatever others do.
SERVED_WITHIN_S = 10.0
# Half-open connections that are held; how soon a new client is served beside them; what they may take of memory each.
HALF_OPEN = 10_000
NEW_CLIENT_WITHIN_S = 60.0
HALF_OPEN_BYTES_MAX = 32 << 10
SLOW_READERS, BIG_ELEMENTS, ANSWERS_BYTES_MAX = 16, 4 << 20, 64 << 20


class Skipped(Exception):
    """What cannot be tried here, and why."""


def main():
    args = parse_args()
    faults = {name.removeprefix("fault_"): fault for name, fault in globals().items() if name.startswith("fault_")}
    failures, skipped = 0, 0
    for name, fault in faults.items():
        if not fnmatch.fnmatch(name, args.only):
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="reef-faults-") as folder:
            try:
                note, verdict = fault(Context(args, pathlib.Path(folder))) or "", "ok"
            except Skipped as why:
                skipped += 1
                note, verdict = str(why), "skipped"
            except Exception as error:
                failures += 1
                note, verdict = f"{type(error).__name__}: {error}", "FAILED"
                if not isinstance(error, AssertionError):
                    traceback.print_exc()
                for log in pathlib.Path(folder).glob("*.log"):
                    print(f"the server's last lines:\n{log.read_text(errors='replace')[-1500:]}")
        print(f"{verdict:7}  {name:34}  {time.monotonic() - start:6.1f} s  {note}", flush=True)
    sys.exit(1 if failures or (skipped and args.no_skip) else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--serve-arg", action="append", default=[], help="one more argument for `reef serve`")
    parser.add_argument("--only", default="*", help="faults whose name matches")
    parser.add_argument("--long", action="store_true", help="more rounds, longer load")
    parser.add_argument("--no-skip", action="store_true", help="what cannot be tried here is a failure")
    parser.add_argument("--faketime", type=pathlib.Path, help="libfaketime.so.1, where it is not in its usual place")
    return parser.parse_args()


class Context:
    """Models, requests and the expected bits of one fault."""

    def __init__(self, args, work):
        self.args, self.work = args, work
        self.rounds = 10 if args.long else 2
        self.requests_per_round = 2000 if args.long else 60

    def models(self, name="serve", **options):
        return arrange(self.args.reef, self.work / name, **options)

    def server(self, folder, *args, **options):
        return Server(self.args.reef, folder, *args, *self.args.serve_arg, **options)


def requests_of(folder):
    return [(CONTROL, example(folder, CONTROL)), (RESNET, example(folder, RESNET))]


def expected_bits(server, requests):
    with Connection(server.http) as connection:
        return {name: outputs(connection.infer(request)) for name, request in requests}


def check_bits(load, expected):
    """No answer was wrong, and none came in part."""
    for name, _, _, outcome, _, data in load.records:
        assert outcome != "broken", f"{name}: an answer was cut"
        assert outcome != 200 or data == expected[name], f"{name}: {len(data)} bytes that are not the first answer's"


def check_serves(server, requests, expected):
    """Both models are served on a new connection, and nothing of others' requests is left."""
    with Connection(server.http) as connection:
        for name, request in requests:
            assert outputs(connection.infer(request)) == expected[name], name
    until("no request is pending", lambda: server.metric("nv_inference_pending_request_count") == 0)
    until("no task is on a board", lambda: server.metric("reef_tasks_on_board") == 0)


def fault_kill_9_and_restart_under_load(ctx):
    """Killed at any moment and started again on the same ports: clients that ask again get the same bits."""
    folder = ctx.models()
    requests = requests_of(folder)
    with ctx.server(folder) as server:
        ports, expected = (server.http[1], server.metrics_at[1]), expected_bits(server, requests)
        server.stop()
    with Load(server.http, requests) as load:
        for _ in range(ctx.rounds):
            with ctx.server(folder, ports=ports) as server:
                load.wait_for(ctx.requests_per_round)
                server.process.kill()
                assert server.process.wait(PATIENCE_S) == -signal.SIGKILL
        with ctx.server(folder, ports=ports) as server:
            load.wait_for(ctx.requests_per_round)
            load.__exit__()
            check_serves(server, requests, expected)
            assert server.stop() == 0
    # 503 is what a server says that still loads.
    cut = load.count("broken")
    good = [record for record in load.records if record[3] == 200]
    assert all(record[5] == expected[record[0]] for record in good), "an answer has other bits than the first"
    statuses = {record[3] for record in load.records}
    assert statuses <= {200, 503, "closed", "broken", "refused"}, statuses
    return f"{ctx.rounds} kills, {len(good)} answers, {load.count('closed') + cut} lost with the process"


def fault_sigterm_under_load(ctx):
    """Every request that the server had before the signal gets its result; who comes later is told so."""
    folder = ctx.models(settings="".join(f'[model.{name}]\nclass = "real-time"\n' for name in (CONTROL, RESNET)))
    requests = requests_of(folder)
    asked_before = late = 0
    accepted = sum(stop_with_accepted(ctx, folder, requests) for _ in range(ctx.rounds))
    for _ in range(ctx.rounds * 2):
        with ctx.server(folder) as server:
            expected = expected_bits(server, requests)
            with Load(server.http, requests, clients=6) as load:
                load.wait_for(ctx.requests_per_round)
                signalled = time.monotonic()
                assert server.stop() == 0, "SIGTERM under load is a normal end"
            check_bits(load, expected)
            for name, sent, _, outcome, kept, _ in load.records:
                if sent is None or sent > signalled or not kept:
                    late += outcome != 200
                    assert outcome in (200, 503, "closed", "refused"), f"{name} after the signal: {outcome}"
                else:
                    # One per client may still have been on its way: it is told so, not dropped.
                    asked_before += 1
                    assert outcome in (200, 503), f"{name}, sent {signalled - sent:.4f} s before the signal: {outcome}"
    return f"{accepted} accepted and all answered; {asked_before} sent before, none dropped, {late} turned away after"


def stop_with_accepted(ctx, folder, requests, clients=32):
    """Stops a server while it has requests, by its own count: each of them is answered with its result."""
    with ctx.server(folder) as server, contextlib.ExitStack() as stack:
        expected = expected_bits(server, requests)
        connections = [stack.enter_context(Connection(server.http)) for _ in range(clients)]
        asked = [requests[index % len(requests)] for index in range(clients)]
        done = server.metric("nv_inference_request_success")
        for connection, (_, request) in zip(connections, asked):
            connection.http.request("POST", request.path, request.body, request.headers)
        received = ("nv_inference_request_success", "nv_inference_pending_request_count")
        until("all have been accepted", lambda: sum(map(server.metric, received)) >= done + clients)
        server.process.send_signal(signal.SIGTERM)
        for connection, (name, _) in zip(connections, asked):
            answer = connection.http.getresponse()
            body = answer.read()
            assert answer.status == 200, f"{name} was accepted and lost: {answer.status} {body[:200]}"
            assert outputs((200, answer.headers, body)) == expected[name], f"{name}: other bits than the first answer's"
        assert server.process.wait(PATIENCE_S) == 0
    return clients


def fault_client_killed_in_a_body(ctx):
    """A client that goes away in the head, in the body, or while its request waits or runs, takes nothing along."""
    folder = ctx.models()
    requests = requests_of(folder)
    with ctx.server(folder) as server:
        expected = expected_bits(server, requests)
        fds = server.fd_count()
        with Load(server.http, requests, clients=2) as load:
            for turn in range(ctx.rounds * 20):
                whole = requests[turn % 2][1].bytes()
                cut = [10, whole.index(b"\r\n\r\n") + 4, len(whole) // 2, len(whole) - 1, len(whole)][turn % 5]
                with socket.create_connection(server.http) as victim:
                    victim.sendall(whole[:cut])
                    if turn % 2:
                        # Ends with a reset, as a killed process with unread bytes does.
                        victim.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            load.wait_for(ctx.requests_per_round)
        check_bits(load, expected)
        assert load.count() == len(load.records), "other clients' requests failed"
        until("their descriptors are closed", lambda: server.fd_count() <= fds)
        check_serves(server, requests, expected)
    return f"{ctx.rounds * 20} clients, {load.count()} answers to others"


def fault_model_replaced_by_garbage(ctx):
    """What is loaded goes on; a shape that is compiled later is right or refused, and takes nothing else along."""
    folder = ctx.models(models=(CONTROL, RESNET), dynamic=True)
    requests = requests_of(folder)
    reference = oracle.Reference(folder / f"{RESNET}.onnx", threads=1)
    other = reference.feeds(reference.cases([3], [4])[0], 5)
    want = reference.run(other)
    from serving import Request
    with ctx.server(folder) as server:
        expected = expected_bits(server, requests)
        with Load(server.http, requests, clients=2) as load:
            load.wait_for(20)
            for path in folder.glob("*.onnx"):
                # In place, as a careless copy does it: whoever has the file open sees the new bytes.
                with open(path, "r+b") as file:
                    file.write(os.urandom(4096))
                    file.truncate(5000)
            load.wait_for(ctx.requests_per_round)
            with Connection(server.http) as connection:
                answer = connection.infer(Request(RESNET, other))
            if answer[0] == 200:
                got, flat = outputs(answer), b"".join(want[t.name].tobytes() for t in reference.outputs)
                assert len(got) == len(flat), "an answer of another length"
                import numpy as np
                error = oracle.compare(np.frombuffer(got, np.float32), np.frombuffer(flat, np.float32))
                assert oracle.within(*error, np.frombuffer(flat, np.float32)), f"a wrong answer: {error}"
                note = "a new shape is right"
            else:
                assert answer[0] in (500, 503) and RESNET in error_of(answer), answer
                note = f"a new shape: {answer[0]} {error_of(answer)[:80]}"
            load.wait_for(ctx.requests_per_round)
        check_bits(load, expected)
        assert load.count() == len(load.records), "requests of a loaded shape failed"
        check_serves(server, requests, expected)
    return note


def fault_no_file_descriptors_left(ctx):
    """Without descriptors no connection is accepted; those there are go on, and when some are free, all is as before."""
    folder = ctx.models()
    requests = requests_of(folder)
    with ctx.server(folder) as server, Connection(server.http) as kept:
        expected = expected_bits(server, requests)
        outputs(kept.infer(requests[0][1]))
        limit = server.fd_count() + 8
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        crowd = []
        for _ in range(64):
            # The system makes connections that nobody accepts, up to the listener's backlog.
            crowd.append(socket.create_connection(server.http, timeout=PATIENCE_S))
        until("the descriptors are used up", lambda: server.fd_count() >= limit)
        for _ in range(ctx.requests_per_round):
            begin = time.monotonic()
            assert outputs(kept.infer(requests[0][1])) == expected[CONTROL]
            assert time.monotonic() - begin < SERVED_WITHIN_S, "a kept connection waits for others' descriptors"
        assert "cannot accept" in server.tail(), "the log does not say why nobody gets in"
        lines = server.tail(10 << 20).count("cannot accept")
        [client.close() for client in crowd]
        check_serves(server, requests, expected)
        assert server.stop() == 0
    return f"limit {limit}, {lines} lines of the log"


def fault_clock_step(ctx):
    """Steps of the wall clock, forth and back, change neither deadlines nor what runs: time is monotonic."""
    library = faketime(ctx)
    folder = ctx.models(settings=f'[model.{CONTROL}]\nclass = "real-time"\ndeadline_ms = 60000\n')
    requests = requests_of(folder)
    clock = ctx.work / "clock"

    def step(offset):
        # The library reads the file anew at each call.
        (ctx.work / "clock.new").write_text(offset)
        (ctx.work / "clock.new").rename(clock)

    step("+0")
    env = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
           "DONT_FAKE_MONOTONIC": "1", "REEF_LOG": "debug"}
    with ctx.server(folder, env=env) as server:
        expected = expected_bits(server, requests)
        with Load(server.http, requests, clients=4) as load:
            for offset in ["+3650d", "-20y", "+2h", "-1h", "+0"]:
                step(offset)
                load.wait_for(ctx.requests_per_round)
                # The step is seen: a log line is written with the new time.
                with socket.create_connection(server.http) as bad:
                    bad.sendall(b"no http at all\r\n\r\n")
                    bad.recv(1000)
        check_bits(load, expected)
        assert load.count() == len(load.records), f"{len(load.records) - load.count()} requests failed"
        years = {line[:4] for line in server.log_path.read_text().splitlines() if line[4:5] == "-"}
        assert len(years) >= 2, f"the log has only the years {years}: the steps were not seen"
        check_serves(server, requests, expected)
        assert server.stop() == 0
    return f"5 steps, {load.count()} answers, years in the log: {', '.join(sorted(years))}"


def faketime(ctx):
    places = [ctx.args.faketime, *pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    found = next((place for place in places if place and place.exists()), None)
    if not found:
        raise Skipped("libfaketime is not installed (Debian's package libfaketime, or --faketime)")
    return found.resolve()


def fault_half_open_connections(ctx):
    """Thousands that sent half a head and wait: who is connected is served, memory is bounded, new clients get in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HALF_OPEN + 500
    if hard < wanted:
        raise Skipped(f"{hard} descriptors are allowed, {wanted} needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    folder = ctx.models()
    requests = requests_of(folder)
    with ctx.server(folder) as server, Connection(server.http) as kept:
        expected = expected_bits(server, requests)
        outputs(kept.infer(requests[0][1]))
        rss = server.rss_bytes()
        crowd = []
        for _ in range(HALF_OPEN):
            client = socket.socket()
            client.setblocking(False)
            # What the backlog does not take stays half open in the system, which is what is wanted.
            with contextlib.suppress(BlockingIOError):
                client.connect(server.http)
            crowd.append(client)
        for client in crowd:
            with contextlib.suppress(OSError):
                client.send(b"POST /v2/models/control/infer HTTP/1.1\r\nHost: x\r\nContent-Le")
        for _ in range(ctx.requests_per_round):
            begin = time.monotonic()
            assert outputs(kept.infer(requests[0][1])) == expected[CONTROL]
            assert time.monotonic() - begin < SERVED_WITHIN_S, "a kept connection waits for half-open ones"
        grown = server.rss_bytes() - rss
        assert grown < HALF_OPEN * HALF_OPEN_BYTES_MAX, f"memory grew by {grown >> 20} MiB"
        begin = time.monotonic()
        waited = new_client(server, requests[0][1], expected[CONTROL], begin + NEW_CLIENT_WITHIN_S)
        held = server.fd_count()
        [client.close() for client in crowd]
        check_serves(server, requests, expected)
        assert server.stop() == 0
    return f"{len(crowd)} connections, {held} accepted, +{grown >> 20} MiB, a new client waited {waited:.1f} s"


def new_client(server, request, expected, end):
    """A client as they are: it tries again when it gets no connection or no answer."""
    begin = time.monotonic()
    while True:
        try:
            with Connection(server.http, timeout_s=max(0.1, end - time.monotonic())) as connection:
                assert outputs(connection.infer(request)) == expected
                return time.monotonic() - begin
        except OSError as error:
            assert time.monotonic() < end, f"a new client gets no answer beside half-open connections: {error}"
            time.sleep(0.05)


def fault_slow_readers(ctx):
    """Clients that ask for much and read nothing hold what the server allows them; their time is up one day."""
    folder = ctx.models()
    requests = requests_of(folder)
    big = big_output_model(folder / "big.onnx", BIG_ELEMENTS)
    limits = ("--max-answers", str(ANSWERS_BYTES_MAX), "--write-timeout", "5")
    with ctx.server(folder, *limits) as server, Connection(server.http) as kept:
        expected = expected_bits(server, requests)
        assert len(outputs(kept.infer(big))) == BIG_ELEMENTS * 4
        rss, fds = server.rss_bytes(), server.fd_count()
        readers = []
        for _ in range(SLOW_READERS):
            reader = socket.socket()
            # Before it connects, or the window has been promised.
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(server.http)
            reader.sendall(big.bytes())
            readers.append(reader)
        done = lambda: server.metric("nv_inference_request_success", model="big") >= SLOW_READERS + 1
        until("all of them are computed", done)
        # While it looks for room, an answer that will be refused is still there.
        bound = ANSWERS_BYTES_MAX + 2 * BIG_ELEMENTS * 4
        until("what they hold is bounded", lambda: server.rss_bytes() - rss < bound, patience_s=SERVED_WITHIN_S)
        for _ in range(ctx.requests_per_round):
            begin = time.monotonic()
            assert outputs(kept.infer(requests[0][1])) == expected[CONTROL]
            assert time.monotonic() - begin < SERVED_WITHIN_S, "a client waits for others that do not read"
        grown = server.rss_bytes() - rss
        assert grown < bound, f"memory grew by {grown >> 20} MiB"
        # Nobody closes anything but the server.
        until("those that read nothing are sent away", lambda: stuck(server, readers) == 0)
        left = 2 * BIG_ELEMENTS * 4
        until("their memory is given back", lambda: server.rss_bytes() < rss + left)
        assert len(outputs(kept.infer(big))) == BIG_ELEMENTS * 4
        answers = [everything(reader) for reader in readers]
        refused = sum(answer.startswith(b"HTTP/1.1 503") for answer in answers)
        cut = sum(answer.startswith(b"HTTP/1.1 200") and len(answer) < BIG_ELEMENTS * 4 for answer in answers)
        # An answer for which there was no room may have had its place taken, which is said by an end alone.
        assert refused + cut + sum(not answer for answer in answers) == SLOW_READERS, [a[:40] for a in answers]
        assert refused > 0 and cut > 0, (refused, cut)
        [reader.close() for reader in readers]
        until("their descriptors are closed", lambda: server.fd_count() <= fds)
        check_serves(server, requests, expected)
        assert server.stop() == 0
    return f"{SLOW_READERS} readers of {BIG_ELEMENTS >> 18} MiB, +{grown >> 20} MiB, {refused} refused, {cut} sent away"


def stuck(server, readers):
    """How many connections of these the server still has, with bytes in them that are not taken."""
    port = f":{server.http[1]:04X}"
    own = {f":{reader.getsockname()[1]:04X}" for reader in readers}
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows
              if row[1].endswith(port) and row[2][-5:] in own and int(row[4].split(":")[0], 16) > 0}
    held = set()
    for name in pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(os.readlink(name))
    return sum(f"socket:[{inode}]" in held for inode in inodes)


def everything(reader):
    """What lies in a connection until its end."""
    reader.settimeout(PATIENCE_S)
    parts = []
    with contextlib.suppress(OSError):
        while part := reader.recv(1 << 20):
            parts.append(part)
            if b"".join(parts[:1]).startswith(b"HTTP/1.1 503"):
                break
    return b"".join(parts)


def fault_disk_full(ctx):
    """No room for the trace or the log: everything is served, and the end says what could not be written."""
    folder = ctx.models()
    requests = requests_of(folder)
    with tiny_disk(ctx) as (trace, log):
        with ctx.server(folder, "--trace", trace, log=log) as server:
            expected = expected_bits(server, requests)
            with Load(server.http, requests) as load:
                load.wait_for(ctx.requests_per_round * 5)
            check_bits(load, expected)
            assert load.count() == len(load.records), "requests failed for want of disk"
            check_serves(server, requests, expected)
            status = server.stop()
            assert status == 0, f"the server was stopped in order, whatever became of its trace: {status}"
            said = server.tail()
            told = "trace" in said and ("No space left" in said or "cannot write" in said)
    with ctx.server(folder, log=pathlib.Path("/dev/full")) as server:
        with Load(server.http, requests) as load:
            load.wait_for(ctx.requests_per_round)
        assert load.count() == len(load.records), "requests failed for want of a log"
        assert server.stop() == 0
    assert told, f"the log does not say that the trace was not written: {said[-500:]}"
    return f"{load.count()} answers without a log"


@contextlib.contextmanager
def tiny_disk(ctx):
    """A file on a file system of 64 KiB, and one for the log elsewhere."""
    mount = ctx.work / "tiny"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        # A device that is always full.
        yield pathlib.Path("/dev/full"), ctx.work / "serve.log"
        return
    try:
        yield mount / "trace.json", ctx.work / "serve.log"
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)


def fault_grpc_stream_killed(ctx):
    """A client killed in the middle of a gRPC stream or call takes nothing along."""
    folder = ctx.models()
    requests = requests_of(folder)
    with ctx.server(folder) as server:
        if not server.grpc:
            raise Skipped("the server has no gRPC port")
        expected = expected_bits(server, requests)
        fds = server.fd_count()
        address = f"{server.grpc[0]}:{server.grpc[1]}"
        script = pathlib.Path(__file__).with_name("grpc_victim.py")
        with Load(server.http, requests, clients=2) as load:
            for _ in range(ctx.rounds):
                victim = subprocess.Popen([sys.executable, str(script), address, CONTROL, "1,3,24,24"],
                                          stdout=subprocess.PIPE)
                # It says when answers are coming; more are asked for and under way.
                assert victim.stdout.readline() == b"streaming\n"
                victim.kill()
                victim.wait()
                victim.stdout.close()
            load.wait_for(ctx.requests_per_round)
        check_bits(load, expected)
        assert load.count() == len(load.records), "other clients' requests failed"
        until("their descriptors are closed", lambda: server.fd_count() <= fds)
        check_serves(server, requests, expected)
    return f"{ctx.rounds} streams"


def fault_shared_memory_pulled_away(ctx):
    """A region whose file shrinks, or whose owner is killed, is an error of its requests and no crash."""
    folder = ctx.models()
    requests = requests_of(folder)
    shown = subprocess.run([str(ctx.args.reef), "serve", "--help"], capture_output=True, text=True).stdout
    if "--allow-client-shm" not in shown:
        raise Skipped("the server has no shared memory")
    import json
    key, size = f"/reef-faults-{os.getpid()}", 3 * 24 * 24 * 4
    path = pathlib.Path(f"/dev/shm{key}")
    tensor = {"name": "input", "shape": [1, 3, 24, 24], "datatype": "FP32",
              "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": size}}
    body = json.dumps({"inputs": [tensor]})
    register = json.dumps({"key": key, "offset": 0, "byte_size": size})
    try:
        path.write_bytes(bytes(size))
        with ctx.server(folder, "--allow-client-shm") as server, Connection(server.http) as connection:
            expected = expected_bits(server, requests)
            answer = connection.ask("POST", "/v2/systemsharedmemory/region/r/register", register)
            assert answer[0] == 200, answer
            good = connection.ask("POST", f"/v2/models/{CONTROL}/infer", body)
            assert good[0] == 200, good
            with Load(server.http, requests, clients=2) as load:
                for turn in range(ctx.rounds * 20):
                    os.truncate(path, size if turn % 2 else size // 2 if turn % 4 else 0)
                    answer = connection.ask("POST", f"/v2/models/{CONTROL}/infer", body)
                    assert answer[0] == 200 if turn % 2 else 400 <= answer[0] < 600, (turn, answer)
                # While requests run, from another thread.
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    asked = pool.submit(hammer, server.http, body, ctx.requests_per_round * 5)
                    while not asked.done():
                        os.truncate(path, 0)
                        os.truncate(path, size)
                    statuses = asked.result()
                load.wait_for(20)
            assert server.lives(), "the server died"
            check_bits(load, expected)
            assert load.count() == len(load.records), "other clients' requests failed"
            path.unlink()
            check_serves(server, requests, expected)
            assert server.stop() == 0
    finally:
        path.unlink(missing_ok=True)
    return f"answers while it shrank: {statuses}"


SHARED_VICTIM = """
import http.client, json, sys
host, port, key, size, body = sys.argv[1:]
open("/dev/shm" + key, "wb").write(bytes(int(size)))
connection = http.client.HTTPConnection(host, int(port))
register = json.dumps({"key": key, "offset": 0, "byte_size": int(size)})
for turn in range(1 << 30):
    path = "/v2/models/control/infer" if turn else "/v2/systemsharedmemory/region/r/register"
    connection.request("POST", path, body if turn else register)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    if turn == 10:
        print("asking", flush=True)
"""


def fault_shared_memory_client_killed(ctx):
    """A client killed while its tensors are read from and written to its memory: the region stays until it is let go."""
    folder = ctx.models()
    requests = requests_of(folder)
    import json
    key, size, half = f"/reef-victim-{os.getpid()}", 2 * 3 * 24 * 24 * 4, 3 * 24 * 24 * 4
    path = pathlib.Path(f"/dev/shm{key}")
    region = {"shared_memory_region": "r", "shared_memory_byte_size": half}
    tensor = {"name": "input", "shape": [1, 3, 24, 24], "datatype": "FP32", "parameters": region}
    try:
        with ctx.server(folder, "--allow-client-shm") as server, Connection(server.http) as connection:
            expected = expected_bits(server, requests)
            name = json.loads(connection.ask("GET", f"/v2/models/{CONTROL}")[2])["outputs"][0]["name"]
            output = {"name": name, "parameters": {**region, "shared_memory_offset": half}}
            body = json.dumps({"inputs": [tensor], "outputs": [output]})
            with Load(server.http, requests, clients=2) as load:
                for _ in range(ctx.rounds):
                    command = [sys.executable, "-c", SHARED_VICTIM, server.http[0], str(server.http[1]), key,
                               str(size), body]
                    with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
                        assert victim.stdout.readline() == b"asking\n"
                        time.sleep(0.003)
                        victim.kill()
                    # Its memory is not the process's: it is used until it is unregistered.
                    assert connection.ask("POST", f"/v2/models/{CONTROL}/infer", body)[0] == 200
                    path.unlink()
                    assert connection.ask("POST", f"/v2/models/{CONTROL}/infer", body)[0] == 200
                    answer = connection.ask("POST", "/v2/systemsharedmemory/region/r/unregister")
                    assert answer[0] == 200, answer
                    answer = connection.ask("POST", f"/v2/models/{CONTROL}/infer", body)
                    assert 400 <= answer[0] < 500 and "r" in error_of(answer), answer
                load.wait_for(20)
            check_bits(load, expected)
            assert load.count() == len(load.records), "other clients' requests failed"
            maps = pathlib.Path(f"/proc/{server.process.pid}/maps").read_text()
            assert key not in maps, "memory of a region that is gone is still mapped"
            check_serves(server, requests, expected)
            assert server.stop() == 0
    finally:
        path.unlink(missing_ok=True)
    return f"{ctx.rounds} clients"


def fault_disk_full_at_a_load(ctx):
    """No room for the files of a load: it is refused and said why, nothing stays behind, everything else goes on."""
    folder = ctx.models()
    requests = requests_of(folder)
    import base64
    import json
    with tiny_disk(ctx) as (trace, _):
        if trace.parent == pathlib.Path("/dev"):
            raise Skipped("no small file system can be mounted")
        tiny = trace.parent
        options = ("--model-control-mode", "explicit", "--load-model", "*")
        with ctx.server(folder, *options, env={"TMPDIR": str(tiny)}) as server:
            expected = expected_bits(server, requests)
            model = base64.b64encode((folder / f"{CONTROL}.onnx").read_bytes()).decode()
            parameters = {"config": json.dumps({"name": "other"}), "file:1/model.onnx": model,
                          "file:1/weights": base64.b64encode(os.urandom(256 << 10)).decode()}
            with Load(server.http, requests, clients=2) as load, Connection(server.http) as connection:
                for _ in range(ctx.rounds):
                    answer = connection.ask("POST", "/v2/repository/models/other/load",
                                            json.dumps({"parameters": parameters}))
                    assert 400 <= answer[0] < 600 and "cannot write" in error_of(answer), answer
                    assert not list(tiny.glob("reef-inline-*")), "files of a load that failed stay behind"
                load.wait_for(20)
            check_bits(load, expected)
            assert load.count() == len(load.records), "other clients' requests failed"
            check_serves(server, requests, expected)
            assert server.stop() == 0
    return f"{ctx.rounds} loads refused"


def hammer(address, body, count):
    """Statuses of so many requests."""
    statuses = {}
    with Connection(address) as connection:
        for _ in range(count):
            status = connection.ask("POST", f"/v2/models/{CONTROL}/infer", body)[0]
            statuses[status] = statuses.get(status, 0) + 1
    return statuses


if __name__ == "__main__":
    main()
