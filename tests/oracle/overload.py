#!/usr/bin/env python3
"""Overload: best-effort requests at many times the rate that can be held, beside a real-time client.

Measures what the server holds of best-effort work, and a real-time client alone; then both, best-effort requests as a
Poisson process of `--times` that rate; then the real-time client alone again, for what the machine did meanwhile. Memory
is looked at all the time, and the server's own count of requests is compared with the clients'. Prints one table and ends
with 1 if a target is missed. Short by default, when figures say little and only what must not depend on time is judged;
`--seconds 60` on a machine that does nothing else is the measurement.
"""

import argparse
import pathlib
import sys
import tempfile
import threading
import time

import oracle
from serving import CONTROL, Request, Server, arrange, example, until
from traffic import ID, Traffic, errors, json_of, percentile, stream, table, work_model

SETTINGS = f"""[model.{CONTROL}]
class = "real-time"

[model.work]
queue_len = 16
"""
P99_RATIO, REFUSED_S, MEMORY_GROWTH = 1.2, 0.005, 0.02
# Of the rate that is asked for, what has to be sent at least.
SENT_SHARE = 0.9
# From so many seconds on times are judged.
JUDGED_FROM_S = 30.0
REAL_TIME_HZ, CONNECTIONS = 100.0, 64


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="reef-overload-") as folder:
        models = arrange(args.reef, pathlib.Path(folder) / "serve", settings=SETTINGS, models=(CONTROL,))
        feeds = work_model(models / "work.onnx", args.layers)
        with Server(args.reef, models, *args.serve_arg) as server:
            rows = measure(args, server, example(models, CONTROL, request_id=ID.decode()),
                           Request("work", feeds, request_id=ID.decode()))
            assert server.stop() == 0, "the server did not end in order"
    met = table(rows)
    if args.json:
        args.json.write_text(json_of(rows))
    sys.exit(0 if met else 1)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--seconds", type=float, default=4.0, help="of overload")
    parser.add_argument("--times", type=float, default=20.0, help="the sustainable rate")
    parser.add_argument("--layers", type=int, default=300, help="how long a best-effort request takes")
    parser.add_argument("--processes", type=int, default=2, help="that send best-effort requests")
    parser.add_argument("--serve-arg", action="append", default=[], help="one more argument for `reef serve`")
    parser.add_argument("--json", type=pathlib.Path, help="write the table as JSON too")
    return parser.parse_args()


def measure(args, server, urgent, work):
    short = max(2.0, args.seconds / 4)
    held = Traffic(server.http, [stream("work", work, connections=4)], short).wait()
    sustainable = sum(answer.status == 200 for answer in held) / short
    assert sustainable > 0, errors(held)
    real_time = stream("real-time", urgent, rate_hz=REAL_TIME_HZ, connections=16)
    alone = Traffic(server.http, [real_time], short).wait()
    each = args.times * sustainable / args.processes
    flood = [stream("work", work, rate_hz=each, poisson=True, connections=CONNECTIONS)
             for _ in range(args.processes)]
    counted = counts(server)
    traffic = Traffic(server.http, [real_time, *flood], args.seconds)
    with Memory(server) as memory:
        answers = traffic.wait()
    until("no request is pending", lambda: server.metric("nv_inference_pending_request_count") == 0)
    counted = counts(server) - counted
    alone += Traffic(server.http, [real_time], short).wait()
    return judge(args, sustainable, alone, answers, traffic, memory, counted)


def counts(server):
    """Requests that the server has answered or refused."""
    return sum(map(server.metric, ("nv_inference_request_success", "nv_inference_request_failure")))


class Memory:
    """Resident bytes of a server, looked at while there is overload."""

    def __init__(self, server):
        self.server, self.samples, self.stopping = server, [], threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def look(self):
        while not self.stopping.wait(0.25):
            self.samples.append(self.server.rss_bytes())

    def growth(self):
        """From when the queues have been full for a while to the most there was since."""
        at = len(self.samples) * 3 // 10
        return max(self.samples[at:]) / self.samples[at] - 1


def judge(args, sustainable, alone, answers, traffic, memory, counted):
    def latency(found):
        return [a.done - a.due for a in found if a.stream == "real-time" and a.status == 200]
    def p99(found):
        return percentile(latency(found), 0.99)
    work = [answer for answer in answers if answer.stream == "work"]
    refused = [answer.done - answer.sent for answer in work if answer.status == 503]
    held = sum(answer.status == 200 for answer in work) / args.seconds
    real_time = [answer for answer in answers if answer.stream == "real-time"]
    lost = sum(answer.status != 200 for answer in real_time) + traffic.unsent_of["real-time"]
    other = errors(answers)
    wrong = sum(not answer.id_is_right for answer in answers) + traffic.stray
    judged = args.seconds >= JUDGED_FROM_S
    ratio, growth = p99(answers) / p99(alone), memory.growth()
    times = len(work) / args.seconds / sustainable
    before, after = alone[:len(alone) // 2], alone[len(alone) // 2:]
    def timed(met):
        return met if judged else None
    return [
        ("best-effort, sustainable", f"{sustainable:.1f}/s", "", None),
        ("best-effort, sent", f"{len(work) / args.seconds:.1f}/s", "", None),
        ("best-effort, sent / sustainable", f"{times:.1f}", f">= {SENT_SHARE * args.times:.1f}",
         timed(times >= SENT_SHARE * args.times)),
        ("best-effort, answered", f"{held:.1f}/s", "> 0", held > 0),
        ("best-effort, refused", f"{len(refused) / args.seconds:.1f}/s", "> 0", len(refused) > 0),
        ("best-effort, not sent for want of a connection", str(traffic.unsent_of["work"]), "", None),
        ("real-time p50 alone", f"{percentile(latency(alone), 0.5) * 1e3:.3f} ms", "", None),
        ("real-time p99 alone, before", f"{p99(before) * 1e3:.3f} ms", "", None),
        ("real-time p99 alone, after", f"{p99(after) * 1e3:.3f} ms", "", None),
        ("real-time p99 alone", f"{p99(alone) * 1e3:.3f} ms", "", None),
        ("real-time p99 in overload", f"{p99(answers) * 1e3:.3f} ms", "", None),
        ("real-time p99, ratio", f"{ratio:.3f}", f"<= {P99_RATIO}", timed(ratio <= P99_RATIO)),
        ("real-time not answered, or not sent", f"{lost} of {len(real_time)}", "0", lost == 0),
        ("refused within, p99", f"{percentile(refused, 0.99) * 1e3:.3f} ms", f"<= {REFUSED_S * 1e3:.0f} ms",
         timed(percentile(refused, 0.99) <= REFUSED_S)),
        ("refused within, all", f"{max(refused, default=0.0) * 1e3:.3f} ms", "", None),
        ("memory, most since 30 %", f"{growth * 100:+.2f} %", f"<= {MEMORY_GROWTH * 100:.0f} %",
         timed(growth <= MEMORY_GROWTH)),
        ("ids not answered exactly once", str(wrong), "0", wrong == 0),
        ("requests that the server counted - those sent", f"{counted - len(answers):+.0f}", "0",
         counted == len(answers)),
        ("neither answered nor refused", "; ".join(other)[:200] or "0", "0", not other),
    ]


if __name__ == "__main__":
    main()
