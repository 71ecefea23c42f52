#!/usr/bin/env python3
"""Soak: mixed traffic for as long as wanted, with reloads where the server has them.

Real-time requests at a fixed rate, best-effort ones back to back, a model that many shapes are asked of, and every
minute each model is loaded anew. No request may fail but refused ones, and memory is flat. Prints one table and ends
with 1 if a target is missed. `--minutes 30` is the acceptance run; the default only shows that everything works.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import oracle
from serving import CONTROL, RESNET, Connection, Request, Server, arrange, example
from traffic import ID, Traffic, Stream, errors, json_of, percentile, stream, table

SHAPES = "distilbert"
GROWTH_MAX = 0.02
# From so many minutes on memory is judged: before, caches of shapes and of the allocator still fill.
JUDGED_FROM_MIN = 10.0
RELOAD_S = 60.0


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="reef-soak-") as folder:
        work = pathlib.Path(folder)
        models = arrange(args.reef, work / "serve", models=(CONTROL, RESNET))
        any_shape = arrange(args.reef, work / "any", settings="", models=(SHAPES,), dynamic=True)
        (any_shape / f"{SHAPES}.onnx").rename(models / f"{SHAPES}.onnx")
        flags = reload_flags(args.reef)
        with Server(args.reef, models, *flags, *args.serve_arg) as server:
            rows = soak(args, server, models, bool(flags))
            assert server.stop() == 0, "the server did not end in order"
    met = table(rows)
    if args.json:
        args.json.write_text(json_of(rows))
    sys.exit(0 if met else 1)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--minutes", type=float, default=0.1)
    parser.add_argument("--serve-arg", action="append", default=[], help="one more argument for `reef serve`")
    parser.add_argument("--json", type=pathlib.Path, help="write the table as JSON too")
    return parser.parse_args()


def reload_flags(reef):
    shown = subprocess.run([str(reef), "serve", "--help"], capture_output=True, text=True).stdout
    if "--model-control-mode" not in shown:
        return []
    return ["--model-control-mode", "explicit", *(["--load-model", "*"] if "--load-model" in shown else [])]


def soak(args, server, models, reloads):
    seconds = args.minutes * 60
    own = {"request_id": ID.decode()}
    reference = oracle.Reference(models / f"{SHAPES}.onnx", threads=1)
    shapes = [Request(SHAPES, reference.feeds(case, 1), **own) for case in reference.cases([1, 2], [4, 7, 16])]
    # The lengths of the JSON parts are the same only by chance: a stream for each shape.
    streams = [
        stream("real-time", example(models, CONTROL, **own), rate_hz=50.0, connections=8),
        stream("best-effort", example(models, RESNET, **own), connections=2),
        *(Stream(f"shape {at}", one.path, [one.body], one.headers, rate_hz=2.0, poisson=True, connections=4)
          for at, one in enumerate(shapes)),
    ]
    traffic = Traffic(server.http, streams, seconds)
    samples, reloaded, failed = watch(server, traffic, reloads)
    answers = traffic.wait()
    return judge(args, answers, traffic, samples, reloaded, failed, reloads)


def watch(server, traffic, reloads):
    """Memory by time, and reloads on the way."""
    samples, reloaded, failed = [], 0, []
    begin = time.monotonic()
    period = min(RELOAD_S, max(1.0, (traffic.end - begin) / 4))
    next_reload = begin + period
    while time.monotonic() < traffic.end:
        samples.append((time.monotonic() - begin, server.rss_bytes()))
        if reloads and time.monotonic() >= next_reload:
            next_reload += period
            for model in (CONTROL, RESNET, SHAPES):
                with Connection(server.http) as connection:
                    status, _, body = connection.ask("POST", f"/v2/repository/models/{model}/load", "{}")
                reloaded += 1
                if status != 200:
                    failed.append(f"{model}: {status} {body[:100]}")
        threading.Event().wait(0.5)
    return samples, reloaded, failed


def judge(args, answers, traffic, samples, reloaded, failed, reloads):
    length = samples[-1][0]
    early = [rss for at, rss in samples if length * 0.3 <= at < length * 0.45]
    late = [rss for at, rss in samples if at >= length * 0.85]
    growth = percentile(late, 0.5) / percentile(early, 0.5) - 1
    tenths = [[rss for at, rss in samples if length * part / 10 <= at <= length * (part + 1) / 10] for part in range(10)]
    judged = args.minutes >= JUDGED_FROM_MIN
    other = errors(answers)
    refused = sum(answer.status == 503 for answer in answers)
    urgent = [answer for answer in answers if answer.stream == "real-time"]
    latency = [answer.done - answer.due for answer in urgent if answer.status == 200]
    wrong = sum(not answer.id_is_right for answer in answers) + traffic.stray
    return [
        ("minutes", f"{length / 60:.1f}", "", None),
        ("requests answered", str(sum(answer.status == 200 for answer in answers)), "> 0",
         any(answer.status == 200 for answer in answers)),
        ("requests refused", str(refused), "", None),
        ("real-time refused", str(sum(answer.status == 503 for answer in urgent)), "0",
         not any(answer.status == 503 for answer in urgent)),
        ("real-time p50", f"{percentile(latency, 0.5) * 1e3:.3f} ms", "", None),
        ("real-time p99", f"{percentile(latency, 0.99) * 1e3:.3f} ms", "", None),
        ("reloads", str(reloaded) if reloads else "not supported", "", None),
        ("reloads failed", "; ".join(failed)[:200] or "0", "0", not failed),
        ("memory by tenths of the time", " ".join(f"{percentile(one, 0.5) / 2**20:.1f}" for one in tenths if one) + " MiB",
         "", None),
        ("memory, late to early", f"{growth * 100:+.2f} %", f"<= {GROWTH_MAX * 100:.0f} %",
         growth <= GROWTH_MAX if judged else None),
        ("ids not answered exactly once", str(wrong), "0", wrong == 0),
        ("neither answered nor refused", "; ".join(other)[:300] or "0", "0", not other),
    ]


if __name__ == "__main__":
    main()
