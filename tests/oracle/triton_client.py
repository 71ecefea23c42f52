#!/usr/bin/env python3
"""Drives `reef serve` with tritonclient from PyPI and compares every answer with ONNX Runtime.

Serves the small models of the zoo and the dynamic ones, some as DIR/NAME.onnx and some as DIR/NAME/1/model.onnx, on
free loopback ports. Checks health, metadata, inference with JSON and binary tensors, compressed and in shared memory,
and over gRPC (streams and asyncio too), request parameters, classes, trace and log settings, bad requests, parallel
clients, metrics on both ports, and that SIGTERM ends the server with status 0.
"""

import argparse
import concurrent.futures
import contextlib
import gzip
import http.client
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import numpy as np
import onnx.parser
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shared_memory
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import oracle
from triton_grpc import ENDLESS, ENDLESS_TEXT, GrpcChecks

METRICS = [
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_pending_request_count", "nv_inference_request_duration_us", "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us", "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
]


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="reef-triton-") as temporary:
        work = pathlib.Path(temporary)
        try:
            references = arrange(args, work)
            with Server(args, work) as server:
                failures = run_checks(Checks(args, references, server))
        except oracle.OracleError as error:
            sys.exit(f"triton_client: {error}")
        if failures:
            print(f"\nthe server's last lines:\n{server.tail()}")
        sys.exit(1 if failures else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--models", type=oracle.names, default=[], help="fixed-shape models; all by default")
    parser.add_argument("--dynamic-models", type=oracle.names, default=["distilbert"], help="models with symbols")
    parser.add_argument("--full", action="store_true", help="the full models instead of the tiny ones")
    parser.add_argument("--batches", type=oracle.numbers, default=[1, 2, 3])
    parser.add_argument("--lengths", type=oracle.numbers, default=[4, 9, 16])
    parser.add_argument("--serve-arg", action="append", default=[], help="one more argument for `reef serve`")
    parser.add_argument("--start-timeout-s", type=float, default=180.0)
    return parser.parse_args()


def arrange(args, work):
    """Fills the folder to serve; returns a reference per served name."""
    files = [(oracle.model_name(path), path)
             for path in oracle.write_zoo(args.reef, work / "fixed", args.models, tiny=not args.full)]
    if args.dynamic_models:
        dynamic = oracle.write_zoo(args.reef, work / "dynamic", args.dynamic_models, not args.full, dynamic=True)
        fixed = {name for name, _ in files}
        names = [oracle.model_name(path) for path in dynamic]
        files += [(f"{name}_any" if name in fixed else name, path) for name, path in zip(names, dynamic)]
    references = {}
    for index, (name, path) in enumerate(files):
        plain, nested = work / "serve" / f"{name}.onnx", work / "serve" / name / "1" / "model.onnx"
        target = plain if index % 2 == 0 else nested
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
        references[name] = oracle.Reference(target)
    model = onnx.parser.parse_model(ENDLESS_TEXT)
    (work / "serve" / f"{ENDLESS}.onnx").write_bytes(model.SerializeToString())
    (work / "serve" / "reef.toml").write_text(f'[model.{victim(references)}]\nclass = "real-time"\n')
    return references


def victim(references):
    """The model that single requests go to: one with fixed shapes if there is one."""
    return next((name for name, ref in references.items() if is_fixed(ref)), next(iter(references)))


class Server:
    """`reef serve` as a child process; killed on the way out if it still runs."""

    def __init__(self, args, work):
        self.args, self.folder, self.log = args, work / "serve", work / "server.log"
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.traces = work / "traces"
        self.traces.mkdir()

    def __enter__(self):
        command = [str(self.args.reef), "serve", str(self.folder), "--http-port", str(self.http_port),
                   "--grpc-port", str(self.grpc_port), "--metrics-port", str(self.metrics_port),
                   "--allow-client-shm", "--trace-dir", str(self.traces), *self.args.serve_arg]
        with self.log.open("wb") as log:
            try:
                self.process = subprocess.Popen(command, stdout=log, stderr=log)
            except FileNotFoundError:
                raise oracle.OracleError(f"{self.args.reef} does not exist: build it first") from None
        try:
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait_until_ready(self):
        end = time.monotonic() + self.args.start_timeout_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise oracle.OracleError(f"the server ended with {self.process.returncode}:\n{self.tail()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get(self.http_port, "/v2/health/ready")[0] == 200:
                    return
            time.sleep(0.05)
        raise oracle.OracleError(f"not ready after {self.args.start_timeout_s} s:\n{self.tail()}")

    def grpc_url(self):
        return f"127.0.0.1:{self.grpc_port}"

    def get(self, port, path):
        return self.request(port, "GET", path)

    def request(self, port, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def tail(self):
        return self.log.read_text(errors="replace")[-4000:]


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def run_checks(checks):
    """Every `check_*` method in the order it is written; returns how many failed."""
    failures = 0
    for name in [name for name in (*vars(GrpcChecks), *vars(Checks)) if name.startswith("check_")]:
        start = time.monotonic()
        try:
            note, verdict = getattr(checks, name)() or "", "ok"
        except Exception as error:
            failures += 1
            note, verdict = f"{type(error).__name__}: {error}", "FAILED"
            if not isinstance(error, (AssertionError, InferenceServerException)):
                traceback.print_exc()
        label = name.removeprefix("check_").replace("_", " ")
        print(f"{verdict:6}  {label:32}  {time.monotonic() - start:6.2f} s  {note}", flush=True)
    return failures


class Checks(GrpcChecks):
    """One method per behaviour; a method returns a note for the report."""

    def __init__(self, args, references, server):
        self.args, self.references, self.server = args, references, server
        self.client = triton.InferenceServerClient(f"127.0.0.1:{server.http_port}", network_timeout=300.0)
        # Every request that was answered with tensors, whoever sent it: the server has to count the same.
        self.successes = dict.fromkeys(references, 0)
        self.counting = threading.Lock()
        # A fixed-shape model with an image, to send bad requests to.
        self.victim = victim(references)

    # Good requests.

    def check_health_and_server_metadata(self):
        assert self.client.is_server_live(), "not live"
        assert self.client.is_server_ready(), "not ready"
        metadata = self.client.get_server_metadata()
        assert metadata["name"] and metadata["version"], metadata
        assert "binary_tensor_data" in metadata["extensions"], metadata["extensions"]
        return f"{metadata['name']} {metadata['version']}"

    def check_model_metadata(self):
        for name, reference in self.references.items():
            assert self.client.is_model_ready(name), f"{name} is not ready"
            metadata = self.client.get_model_metadata(name)
            assert metadata["name"] == name, metadata
            for ours, theirs in [(metadata["inputs"], reference.inputs), (metadata["outputs"], reference.outputs)]:
                got = {t["name"]: (t["datatype"], [int(dim) for dim in t["shape"]]) for t in ours}
                assert got.keys() == {t.name for t in theirs}, f"{name}: {got}"
                for tensor in theirs:
                    datatype, shape = got[tensor.name]
                    assert datatype == np_to_triton_dtype(tensor.dtype), f"{name} {tensor.name}: {datatype}"
                    want = [-1 if isinstance(dim, str) else dim for dim in tensor.dims]
                    fits = len(shape) == len(want) and all(a == b or b == -1 for a, b in zip(shape, want))
                    fixed = is_fixed(reference) and shape != want
                    assert fits and not fixed, f"{name} {tensor.name}: {shape}, expected {want}"
        return f"{len(self.references)} models"

    def check_infer_binary(self):
        return self.sweep(binary_in=True, binary_out=True)

    def check_infer_json(self):
        return self.sweep(binary_in=False, binary_out=False)

    def check_infer_mixed(self):
        return self.sweep(binary_in=True, binary_out=False)

    def check_defaults_and_id(self):
        reference, feeds, want = self.example()
        inputs = self.inputs(feeds, binary=True)
        result = self.infer(reference.name, inputs, request_id="answer-42")
        assert result.get_response()["id"] == "answer-42", result.get_response().get("id")
        assert result.get_response()["model_name"] == reference.name
        self.expect_close(reference, result, want)

    def check_one_of_the_outputs(self):
        reference, feeds, want = self.example()
        name = reference.outputs[-1].name
        result = self.infer(reference.name, self.inputs(feeds, True), outputs=[triton.InferRequestedOutput(name)])
        assert [output["name"] for output in result.get_response()["outputs"]] == [name]
        rel_l2, element = oracle.compare(result.as_numpy(name), want[name])
        assert oracle.within(rel_l2, element, want[name]), f"{name}: {rel_l2:.2e} {element:.2e}"

    def check_compression(self):
        reference, feeds, want = self.example()
        count = 0
        for binary in (True, False):
            outputs = [triton.InferRequestedOutput(t.name, binary_data=binary) for t in reference.outputs]
            for request in (None, "gzip", "deflate"):
                for response in (None, "gzip", "deflate"):
                    result = self.infer(reference.name, self.inputs(feeds, binary), outputs=outputs,
                                        request_compression_algorithm=request,
                                        response_compression_algorithm=response)
                    self.expect_close(reference, result, want, f"{request} {response}")
                    count += 1
        for encoding, expected in (("br", 415), ("gzip, gzip", 415), ("gzip", 400), ("deflate", 400)):
            status, text = self.server.request(self.server.http_port, "POST", f"/v2/models/{self.victim}/infer",
                                               b"nothing of the kind", {"Content-Encoding": encoding})
            assert status == expected and json.loads(text)["error"], f"{encoding}: {status} {text}"
        # Small answers are not worth it: a large one shows that it is done at all.
        connection = http.client.HTTPConnection("127.0.0.1", self.server.http_port, timeout=60)
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        assert response.getheader("Content-Encoding") == "gzip", response.getheaders()
        assert b"nv_inference_count" in gzip.decompress(body)
        return f"{count} combinations"

    def check_system_shared_memory(self):
        reference, feeds, want = self.example()
        name = f"reef_{self.server.process.pid}"
        sizes = [array.nbytes for array in feeds.values()] + [array.nbytes for array in want.values()]
        # One region for all, each tensor from a multiple of 64 bytes on, the file longer at both ends.
        offsets = [sum(-(-size // 64) * 64 for size in sizes[:index]) for index in range(len(sizes))]
        total = offsets[-1] + sizes[-1]
        handle = shared_memory.create_shared_memory_region(name, f"/{name}", total + 4096)
        try:
            self.client.unregister_system_shared_memory()
            self.client.unregister_cuda_shared_memory()
            self.client.register_system_shared_memory(name, f"/{name}", total, offset=128)
            status = self.client.get_system_shared_memory_status()
            row = {"name": name, "key": f"/{name}", "offset": 128, "byte_size": total}
            assert status == [row], status
            inputs, outputs = [], []
            for (tensor, array), offset in zip(feeds.items(), offsets):
                shared_memory.set_shared_memory_region(handle, [array], offset=128 + offset)
                inputs.append(triton.InferInput(tensor, list(array.shape), np_to_triton_dtype(array.dtype)))
                inputs[-1].set_shared_memory(name, array.nbytes, offset=offset)
            for (tensor, array), offset in zip(want.items(), offsets[len(feeds):]):
                outputs.append(triton.InferRequestedOutput(tensor))
                outputs[-1].set_shared_memory(name, array.nbytes, offset=offset)
            result = self.infer(reference.name, inputs, outputs=outputs)
            for (tensor, array), offset in zip(want.items(), offsets[len(feeds):]):
                shape = result.get_output(tensor)["shape"]
                got = shared_memory.get_contents_as_numpy(handle, array.dtype, shape, offset=128 + offset)
                rel_l2, element = oracle.compare(got, array)
                assert oracle.within(rel_l2, element, array), f"{tensor}: {rel_l2:.2e} {element:.2e}"
            inputs[0].set_shared_memory(name, sizes[0], offset=total)
            self.expect_error("400", reference.name, inputs, "within", outputs=outputs)
            self.client.unregister_system_shared_memory(name)
            self.expect_error("404", reference.name, inputs, name, outputs=outputs)
            assert self.client.get_system_shared_memory_status() == []
        finally:
            shared_memory.destroy_shared_memory_region(handle)
        return f"{len(sizes)} tensors in {total} bytes"

    def check_class_and_deadline(self):
        reference, feeds, want = self.example()
        parameters = {"class": "best-effort", "deadline_us": 60_000_000}
        result = self.infer(reference.name, self.inputs(feeds, True), parameters=parameters)
        self.expect_close(reference, result, want)
        echoed = result.get_response().get("parameters", {})
        assert echoed.get("class") == "best-effort", f"the response says {echoed}"
        # Real-time at level 0 by the settings that `arrange` wrote: priority 1 is level 0.
        result = self.infer(reference.name, self.inputs(feeds, True), priority=1, timeout=60_000_000)
        self.expect_close(reference, result, want)
        urgent = result.get_response().get("parameters", {})
        assert urgent.get("class") == "real-time", f"the response says {urgent}"
        return f"{echoed['class']}, then {urgent['class']}"

    def check_parallel_clients(self):
        examples = [self.example(name) for name in self.references]

        def worker(number):
            with triton.InferenceServerClient(self.client_url(), network_timeout=300.0) as client:
                for step in range(6):
                    reference, feeds, want = examples[(number + step) % len(examples)]
                    result = self.infer(reference.name, self.inputs(feeds, True), client=client)
                    self.expect_close(reference, result, want)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(worker, number) for number in range(4)]:
                done.result()
        return "4 clients, 24 requests"

    # Bad requests: each is refused with a clear message, and the server goes on.

    def check_unknown_model(self):
        _, feeds, _ = self.example()
        self.expect_error("404", "no_such_model", self.inputs(feeds, True), "no_such_model")
        assert not self.client.is_model_ready("no_such_model")

    def check_wrong_shape(self):
        reference, feeds, _ = self.example()
        name = reference.inputs[0].name
        feeds = {**feeds, name: np.concatenate([feeds[name]] * 2, axis=-1)}
        self.expect_error("400", reference.name, self.inputs(feeds, True), name)

    def check_wrong_rank(self):
        reference, feeds, _ = self.example()
        name = reference.inputs[0].name
        self.expect_error("400", reference.name, self.inputs({**feeds, name: feeds[name][..., None]}, True), name)

    def check_wrong_datatype(self):
        reference, feeds, _ = self.example()
        name = reference.inputs[0].name
        feeds = {**feeds, name: feeds[name].astype(np.float64)}
        self.expect_error("400", reference.name, self.inputs(feeds, True), name)

    def check_unknown_and_missing_input(self):
        reference, feeds, _ = self.example()
        name = reference.inputs[0].name
        renamed = {("no_such_input" if key == name else key): value for key, value in feeds.items()}
        self.expect_error("400", reference.name, self.inputs(renamed, True), "input")

    def check_unknown_output(self):
        reference, feeds, _ = self.example()
        outputs = [triton.InferRequestedOutput("no_such_output")]
        self.expect_error("400", reference.name, self.inputs(feeds, True), "no_such_output", outputs=outputs)

    def check_bad_class(self):
        reference, feeds, _ = self.example()
        self.expect_error("400", reference.name, self.inputs(feeds, True), "class", parameters={"class": "royal"})

    def check_deadline_that_cannot_be_met(self):
        reference, feeds, _ = self.example()
        try:
            self.infer(reference.name, self.inputs(feeds, True), parameters={"deadline_us": 1})
        except InferenceServerException as error:
            assert error.status() in ("503", "504"), f"status {error.status()}: {error}"
            return f"{error.status()}: {error.message()}"
        raise AssertionError("a deadline of 1 us was accepted")

    def check_malformed_bodies(self):
        path = f"/v2/models/{self.victim}/infer"
        header = "Inference-Header-Content-Length"
        for what, body, headers in [
            ("cut JSON", b'{"inputs": [', {}),
            ("no JSON", b"\xff\xfe\x00", {}),
            ("empty body", b"", {}),
            ("JSON of another shape", b"[1, 2]", {}),
            ("header beyond the body", b"{}", {header: "1000"}),
            ("header that is no number", b"{}", {header: "many"}),
            ("more bytes promised than sent", *self.short_request(header)),
        ]:
            status, text = self.server.request(self.server.http_port, "POST", path, body, headers)
            self.count(self.victim, status == 200)
            assert status == 400, f"{what}: {status} {text}"
            assert json.loads(text)["error"], f"{what}: {text}"
        return "7 kinds"

    def check_still_serving(self):
        return self.sweep(binary_in=True, binary_out=True)

    # The end.

    def check_metrics_on_both_ports(self):
        for port in (self.server.http_port, self.server.metrics_port):
            status, text = self.server.get(port, "/metrics")
            assert status == 200, f"port {port}: {status}"
            missing = [name for name in METRICS if f"# TYPE {name} " not in text]
            assert not missing, f"port {port}: missing {missing}"
            for model, sent in self.successes.items():
                counted = sample(text, "nv_inference_request_success", model)
                assert counted == sent, f"{model}: {counted} successes counted, {sent} requests answered"
            assert sample(text, "nv_inference_request_failure", self.victim) >= 1, "no failure was counted"
            ours = sorted({line.split()[2] for line in text.splitlines() if line.startswith("# TYPE reef_")})
        return f"{len(METRICS)} of Triton's and {len(ours)} of ours"

    def check_sigterm_exits_0(self):
        self.client.close()
        self.server.process.send_signal(signal.SIGTERM)
        try:
            status = self.server.process.wait(60)
        except subprocess.TimeoutExpired:
            raise AssertionError("still running 60 s after SIGTERM") from None
        assert status == 0, f"status {status}"

    # What the checks are made of.

    def client_url(self):
        return f"127.0.0.1:{self.server.http_port}"

    def sweep(self, binary_in, binary_out):
        """Every model at every shape."""
        worst, count = 0.0, 0
        for name, reference in self.references.items():
            for case in reference.cases(self.args.batches, self.args.lengths):
                feeds = reference.feeds(case, seed=count + 7)
                outputs = [triton.InferRequestedOutput(t.name, binary_data=binary_out) for t in reference.outputs]
                try:
                    result = self.infer(name, self.inputs(feeds, binary_in), outputs=outputs)
                except InferenceServerException as error:
                    raise AssertionError(f"{name} {case.label}: {error}") from None
                worst = max(worst, self.expect_close(reference, result, reference.run(feeds), case.label))
                count += 1
        return f"{count} requests, worst relative l2 {worst:.1e}"

    def infer(self, name, inputs, client=None, **options):
        result = (client or self.client).infer(name, inputs, **options)
        self.count(name, True)
        return result

    def count(self, name, answered):
        with self.counting:
            # A model that does not exist has no metrics.
            if answered and name in self.successes:
                self.successes[name] += 1

    def example(self, name=None):
        name = name or self.victim
        reference = self.references[name]
        feeds = reference.feeds(reference.cases(self.args.batches, self.args.lengths)[0], seed=3)
        return reference, feeds, reference.run(feeds)

    def inputs(self, feeds, binary):
        tensors = []
        for name, array in feeds.items():
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array, binary_data=binary)
            tensors.append(tensor)
        return tensors

    def expect_close(self, reference, result, want, label=""):
        worst = 0.0
        for output in reference.outputs:
            got = result.as_numpy(output.name)
            assert got is not None, f"{reference.name} {label}: no output {output.name}"
            rel_l2, element = oracle.compare(got, want[output.name])
            where = f"{reference.name} {label} {output.name}"
            assert oracle.within(rel_l2, element, want[output.name]), f"{where}: l2 {rel_l2:.2e}, max {element:.2e}"
            worst = max(worst, rel_l2)
        return worst

    def expect_error(self, status, model, inputs, mentions, **options):
        try:
            self.infer(model, inputs, **options)
        except InferenceServerException as error:
            assert error.status() == status, f"status {error.status()}, expected {status}: {error.message()}"
            assert mentions in error.message(), f"the message does not name `{mentions}`: {error.message()}"
            return
        raise AssertionError("the request was answered")

    def sample(self, text, name, model):
        return sample(text, name, model)

    def short_request(self, header):
        """A correct JSON header whose binary part is 4 bytes short."""
        reference, feeds, _ = self.example()
        tensors = [{"name": name, "shape": list(array.shape), "datatype": np_to_triton_dtype(array.dtype),
                    "parameters": {"binary_data_size": array.nbytes}} for name, array in feeds.items()]
        head = json.dumps({"inputs": tensors}).encode()
        data = b"".join(array.tobytes() for array in feeds.values())
        return head + data[:-4], {header: str(len(head))}


def is_fixed(reference):
    return not any(isinstance(dim, str) for tensor in reference.inputs for dim in tensor.dims)


def sample(text, metric, model):
    """The sum of a metric's samples for one model; other labels (the version, the reason) are added up."""
    values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
              if line.startswith(metric + "{") and f'model="{model}"' in line]
    return sum(values)


if __name__ == "__main__":
    main()
