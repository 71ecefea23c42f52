#!/usr/bin/env python3
"""Reads the metrics of `reef serve` with prometheus_client from PyPI, while requests run.

Every family must parse, be of the kind and have the labels that docs/METRICS.md lists, histograms must add up, and
counters must only rise and agree with what was sent.
"""

import argparse
import http.client
import json
import pathlib
import re
import sys
import tempfile
import threading

from prometheus_client.parser import text_string_to_metric_families

import oracle
from triton_client import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
REQUESTS = 40


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--start-timeout-s", type=float, default=180.0)
    args = parser.parse_args()
    args.serve_arg = []
    with tempfile.TemporaryDirectory(prefix="reef-exposition-") as temporary:
        work = pathlib.Path(temporary)
        for path in oracle.write_zoo(args.reef, work / "serve", ["control", "resnet18"], tiny=True):
            print(f"serving {path.name}")
        (work / "serve" / "reef.toml").write_text('[model.control]\nclass = "real-time"\n')
        try:
            with Server(args, work) as server:
                check(server)
        except (oracle.OracleError, AssertionError) as error:
            sys.exit(f"exposition: {error}")
    print("ok")


def check(server):
    documented = documentation()
    first = scrape(server, server.metrics_port)
    senders = [threading.Thread(target=send, args=(server, name)) for name in ("control", "resnet18")]
    for sender in senders:
        sender.start()
    between = [scrape(server, server.metrics_port) for _ in range(5)]
    for sender in senders:
        sender.join()
    last = scrape(server, server.http_port)
    for before, after in zip([first, *between], [*between, last]):
        only_rises(before, after)
    check_families(last, documented)
    check_counts(last)
    print(f"{len(last)} families, {sum(len(family.samples) for family in last.values())} samples")


def documentation():
    """By name, counters without their suffix as prometheus_client has them: kind and labels."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\|", (ROOT / "docs/METRICS.md").read_text(), re.MULTILINE)
    return {name.removesuffix("_total") if kind == "counter" else name: (kind, {label.strip() for label in labels.split(",") if label.strip()}) for name, kind, labels in rows}


def scrape(server, port):
    status, text = server.get(port, "/metrics")
    assert status == 200, f"/metrics answers {status}"
    families = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in families, f"{family.name} stands in two places"
        families[family.name] = family
    return families


def check_families(families, documented):
    assert families.keys() == documented.keys(), f"not in both: {families.keys() ^ documented.keys()}"
    for name, family in families.items():
        kind, labels = documented[name]
        assert family.type == kind, f"{name} is a {family.type}, documented as {kind}"
        assert family.documentation, f"{name} has no HELP"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels, f"{sample}: documented labels {labels}"
        if kind == "histogram":
            check_histogram(family)


def check_histogram(family):
    """By labels: buckets rise to the count."""
    series = {}
    for sample in family.samples:
        labels = {key: value for key, value in sample.labels.items() if key != "le"}
        series.setdefault(json.dumps(labels, sort_keys=True), []).append(sample)
    for labels, samples in series.items():
        buckets = [(float(sample.labels["le"]), sample.value) for sample in samples if sample.name.endswith("_bucket")]
        count = next(sample.value for sample in samples if sample.name.endswith("_count"))
        total = next(sample.value for sample in samples if sample.name.endswith("_sum"))
        assert buckets == sorted(buckets) and len({bound for bound, _ in buckets}) == len(buckets), f"{labels}: {buckets}"
        assert buckets[-1] == (float("inf"), count), f"{labels}: {buckets[-1]}, count {count}"
        counts = [value for _, value in buckets]
        assert counts == sorted(counts), f"{labels}: {counts}"
        least = sum(bound * (here - below) for (bound, _), here, below in zip([(0, 0), *buckets], counts, [0, *counts]))
        assert total >= least * (1 - 1e-9), f"{labels}: the sum {total} is below that of the buckets {least}"


def samples(families, kinds):
    return {(sample.name, json.dumps(sample.labels, sort_keys=True)): sample.value
            for family in families.values() if family.type in kinds for sample in family.samples}


def only_rises(before, after):
    later = samples(after, ("counter", "histogram"))
    for key, value in samples(before, ("counter", "histogram")).items():
        assert later[key] >= value, f"{key} fell from {value} to {later[key]}"


def check_counts(families):
    values = samples(families, ("counter", "gauge", "histogram"))

    def total(name, **wanted):
        found = [value for (sample, labels), value in values.items()
                 if sample in (name, f"{name}_total") and wanted.items() <= json.loads(labels).items()]
        assert found, f"no {name} {wanted}"
        return sum(found)

    for model, kind in [("control", "real-time"), ("resnet18", "best-effort")]:
        assert total("nv_inference_request_success", model=model) == REQUESTS, model
        assert total("reef_request_duration_seconds_count", model=model, **{"class": kind}) == REQUESTS, model
        assert total("reef_request_failures_total", model=model, reason="DEADLINE") == 1, model
        assert total("reef_deadline_misses_total", model=model) == 1, model
        assert total("nv_inference_request_failure", model=model) == 1, model
        assert total("reef_time_alone_seconds_total", model=model) > 0, model
    assert total("reef_http_responses_total", code="504") == 2
    assert total("reef_models") == 2
    assert total("process_resident_memory_bytes") > 1 << 20


def send(server, model):
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    connection.request("GET", f"/v2/models/{model}")
    inputs = json.loads(connection.getresponse().read())["inputs"]
    tensors = []
    for tensor in inputs:
        count = 1
        for extent in tensor["shape"]:
            count *= extent
        tensors.append({**tensor, "data": [0] * count})
    for index in range(REQUESTS + 1):
        parameters = {"deadline_us": 1} if index == REQUESTS else {}
        connection.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": tensors, "parameters": parameters}))
        answer = connection.getresponse()
        answer.read()
        assert answer.status == (504 if parameters else 200), f"{model}: {answer.status}"


if __name__ == "__main__":
    main()
