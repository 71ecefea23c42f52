"""What of `tritonclient` goes over gRPC, and its asyncio clients: every method, each with what it should give."""

import asyncio
import base64
import json
import pathlib
import queue
import time

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import oracle

PATIENCE_S = 300.0

# A loop of as many rounds as the largest element says: for a thousand million of them nobody waits. A round looks
# at a million elements, so that no machine gets through the rounds that the server allows while a client waits.
ENDLESS = "endless"
ENDLESS_TEXT = """<ir_version: 8, opset_import: ["" : 17]>
endless (float[4] x) => (float[N] y) { s = ReduceMax<keepdims = 0>(x) m = Cast<to = 7>(s) y = Loop (m, , x)
    <body = b (int64 i, bool ci, float[A] a) => (bool co, float[B] ao) { co = Identity(ci) z = Abs(a)
        n = Constant<value_ints = [262144, 4]>() wide = Expand(z, n)
        top = ReduceMax<axes = [0], keepdims = 0>(wide) ao = Neg(top) }> }
"""


class GrpcChecks:
    """Mixed into the checks over HTTP; a method returns a note for the report."""

    def check_grpc_health_and_metadata(self):
        with self.grpc() as client:
            assert client.is_server_live() and client.is_server_ready()
            assert client.is_model_ready(self.victim) and client.is_model_ready(self.victim, "1")
            metadata = client.get_server_metadata(as_json=True)
            http = self.client.get_server_metadata()
            assert (metadata["name"], metadata["version"]) == (http["name"], http["version"]), metadata
            assert metadata["extensions"] == http["extensions"], metadata["extensions"]
            for name in self.references:
                ours = client.get_model_metadata(name, as_json=True)
                theirs = self.client.get_model_metadata(name)
                for kind in ("inputs", "outputs"):
                    pairs = [(t["name"], t["datatype"], [int(n) for n in t["shape"]]) for t in ours[kind]]
                    wanted = [(t["name"], t["datatype"], [int(n) for n in t["shape"]]) for t in theirs[kind]]
                    assert pairs == wanted, f"{name}: {pairs}, {wanted}"
                config = client.get_model_config(name, as_json=True)["config"]
                assert config["name"] == name and config["input"], config
        return f"{len(self.references)} models, {len(metadata['extensions'])} extensions"

    def check_grpc_infer(self):
        worst, count = 0.0, 0
        with self.grpc() as client:
            for name, reference in self.references.items():
                for case in reference.cases(self.args.batches, self.args.lengths):
                    feeds = reference.feeds(case, seed=count + 7)
                    result = client.infer(name, tensors(grpc_client, feeds), request_id=str(count))
                    self.count(name, True)
                    assert result.get_response().id == str(count)
                    worst = max(worst, self.expect_close(reference, result, reference.run(feeds), case.label))
                    count += 1
        return f"{count} requests, worst relative l2 {worst:.1e}"

    def check_grpc_parameters_and_classes(self):
        reference, feeds, want = self.example()
        with self.grpc() as client:
            def told(**options):
                result = client.infer(reference.name, tensors(grpc_client, feeds), **options)
                self.count(reference.name, True)
                self.expect_close(reference, result, want)
                return result.get_response().parameters["class"].string_param
            assert told(priority=1, timeout=60_000_000) == "real-time"
            for value in (60_000_000, "60000000"):
                assert told(parameters={"class": "best-effort", "deadline_us": value}) == "best-effort"
            name = reference.outputs[0].name
            outputs = [grpc_client.InferRequestedOutput(name, class_count=3)]
            result = client.infer(reference.name, tensors(grpc_client, feeds), outputs=outputs)
            self.count(reference.name, True)
            by_grpc = [text.decode() for text in result.as_numpy(name)]
        outputs = [http_client.InferRequestedOutput(name, class_count=3)]
        result = self.infer(reference.name, self.inputs(feeds, True), outputs=outputs)
        by_http = [text.decode() for text in result.as_numpy(name)]
        assert by_grpc == by_http, f"{by_grpc}, {by_http}"
        values = np.asarray(want[name]).reshape(-1)
        for text in by_grpc:
            value, index = text.split(":")[:2]
            assert abs(float(value) - values[int(index)]) <= 1e-3 * max(1.0, abs(values[int(index)])), text
        return ", ".join(by_grpc)

    def check_grpc_compression(self):
        reference, feeds, want = self.example()
        with self.grpc() as client:
            for algorithm in ("gzip", "deflate"):
                result = client.infer(reference.name, tensors(grpc_client, feeds), compression_algorithm=algorithm)
                self.count(reference.name, True)
                self.expect_close(reference, result, want)

    def check_grpc_async_infer(self):
        reference, feeds, want = self.example()
        done = queue.Queue()
        with self.grpc() as client:
            for index in range(8):
                client.async_infer(reference.name, tensors(grpc_client, feeds), request_id=str(index),
                                   callback=lambda result, error: done.put((result, error)))
            ids = set()
            for _ in range(8):
                result, error = done.get(timeout=PATIENCE_S)
                assert error is None, error
                self.count(reference.name, True)
                self.expect_close(reference, result, want)
                ids.add(result.get_response().id)
        assert ids == {str(index) for index in range(8)}, ids

    def check_grpc_stream(self):
        reference, feeds, want = self.example()
        done = queue.Queue()
        with self.grpc() as client:
            client.start_stream(callback=lambda result, error: done.put((result, error)))
            for index in range(40):
                client.async_stream_infer(reference.name, tensors(grpc_client, feeds), request_id=str(index))
            # Among them one that is refused: the stream goes on.
            client.async_stream_infer("no_such_model", tensors(grpc_client, feeds), request_id="wrong")
            ids, errors = set(), []
            for _ in range(41):
                result, error = done.get(timeout=PATIENCE_S)
                if error is not None:
                    errors.append(str(error))
                    continue
                self.count(reference.name, True)
                self.expect_close(reference, result, want)
                ids.add(result.get_response().id)
            client.stop_stream()
        assert ids == {str(index) for index in range(40)}, ids
        assert len(errors) == 1 and "no_such_model" in errors[0], errors
        return "40 answers and 1 error on one stream"

    def check_grpc_errors(self):
        reference, feeds, _ = self.example()
        name = reference.inputs[0].name
        with self.grpc() as client:
            def refused(code, mentions, model=reference.name, inputs=None, **options):
                try:
                    client.infer(model, inputs or tensors(grpc_client, feeds), **options)
                except InferenceServerException as error:
                    assert error.status() == f"StatusCode.{code}", f"{error.status()}, expected {code}: {error}"
                    assert mentions in error.message(), f"`{mentions}` is not in: {error.message()}"
                    return
                raise AssertionError(f"{code} was expected")
            refused("NOT_FOUND", "no_such_model", model="no_such_model")
            wide = {**feeds, name: np.concatenate([feeds[name]] * 2, axis=-1)}
            refused("INVALID_ARGUMENT", name, inputs=tensors(grpc_client, wide))
            double = {**feeds, name: feeds[name].astype(np.float64)}
            refused("INVALID_ARGUMENT", name, inputs=tensors(grpc_client, double))
            outputs = [grpc_client.InferRequestedOutput("no_such_output")]
            refused("INVALID_ARGUMENT", "no_such_output", outputs=outputs)
            refused("INVALID_ARGUMENT", "class", parameters={"class": "royal"})
            refused("DEADLINE_EXCEEDED", "deadline", parameters={"deadline_us": 1})
            refused("NOT_FOUND", "version", model_version="9")
            shared = grpc_client.InferInput(name, list(feeds[name].shape), np_to_triton_dtype(feeds[name].dtype))
            shared.set_shared_memory("no_region", feeds[name].nbytes)
            try:
                client.infer(reference.name, [shared])
                raise AssertionError("a region that does not exist was read")
            except InferenceServerException as error:
                assert "shared memory" in error.message() or "no_region" in error.message(), error.message()
        return "8 kinds"

    def check_grpc_cancel_and_timeout(self):
        reference, feeds, _ = self.example()
        with self.grpc() as client:
            try:
                # The client may find its answer before it looks at its clock.
                client.infer(reference.name, tensors(grpc_client, feeds), client_timeout=1e-6)
            except InferenceServerException as error:
                assert "deadline" in str(error).lower(), error
            done = queue.Queue()
            running = client.async_infer(reference.name, tensors(grpc_client, feeds),
                                         callback=lambda result, error: done.put((result, error)))
            running.cancel()
            result, error = done.get(timeout=PATIENCE_S)
            assert error is None or "CANCELLED" in str(error) or "Locally cancelled" in str(error), error
            assert client.is_server_ready()
        self.settle()

    def check_grpc_client_timeout_stops_the_work(self):
        def asked(rounds):
            return tensors(grpc_client, {"x": np.array([rounds, 1, 2, 3], np.float32)})

        def served(client):
            """Successes, failures and what is pending of the model, as the server counts them."""
            stats = client.get_inference_statistics(ENDLESS, as_json=True)["model_stats"][0]["inference_stats"]
            text = self.server.get(self.server.metrics_port, "/metrics")[1]
            pending = self.sample(text, "nv_inference_pending_request_count", ENDLESS)
            return tuple(int(stats[kind].get("count", 0)) for kind in ("success", "fail")) + (pending,)

        def runs(client):
            result = client.infer(ENDLESS, asked(3)).as_numpy("y")
            assert result.tolist() == [-3, -1, -2, -3], result

        def timed_out(client):
            try:
                client.infer(ENDLESS, asked(1e9), client_timeout=0.5)
            except InferenceServerException as error:
                assert "DEADLINE_EXCEEDED" in str(error.status()), error
                return
            raise AssertionError("a thousand million rounds in half a second")

        def stream_timed_out(client):
            done = queue.Queue()
            client.start_stream(callback=lambda result, error: done.put(error), stream_timeout=0.5)
            client.async_stream_infer(ENDLESS, asked(1e9))
            error = done.get(timeout=PATIENCE_S)
            assert error is not None and "deadline" in str(error).lower(), error
            client.stop_stream()

        with self.grpc() as client:
            runs(client)
            for number, wait in enumerate((timed_out, stream_timed_out), start=1):
                wait(client)
                # It would run for an hour: that it does not is the server's doing.
                wanted = (number, number, 0)
                wait_until(lambda: served(client) == wanted, f"{wait.__name__}: {served(client)}, not {wanted}")
                runs(client)
        return "one of each kind, counted once"

    def check_grpc_repository(self):
        with self.grpc() as client:
            index = client.get_model_repository_index(as_json=True)["models"]
            states = {model["name"]: model["state"] for model in index}
            assert all(states[name] == "READY" for name in self.references), states
            for call in (lambda: client.load_model(self.victim), lambda: client.unload_model(self.victim)):
                try:
                    call()
                    raise AssertionError("control of models is not off")
                except InferenceServerException as error:
                    assert error.status() == "StatusCode.UNAVAILABLE" and "control" in error.message(), str(error)

    def check_grpc_statistics(self):
        def queued(client):
            model = client.get_inference_statistics(self.victim, as_json=True)["model_stats"][0]
            return int(model["inference_stats"]["queue"]["count"])
        reference, feeds, _ = self.example()
        with self.grpc() as client:
            before = queued(client)
            client.infer(reference.name, tensors(grpc_client, feeds))
            self.count(reference.name, True)
            wait_until(lambda: queued(client) > before, "queue.count does not rise")
            assert len(client.get_inference_statistics(as_json=True)["model_stats"]) >= len(self.references)

    def check_trace_settings(self):
        with self.grpc() as client:
            for number, other in enumerate((client, self.client)):
                file = f"trace-{number}.json"
                settings = other.update_trace_settings(
                    settings={"trace_file": file, "trace_level": ["TIMESTAMPS"]})
                told = client.get_trace_settings(as_json=True)["settings"]
                assert told["trace_level"]["value"] == ["TIMESTAMPS"], f"{told} {settings}"
                assert self.client.get_trace_settings(model_name=self.victim)["trace_file"] == file
                reference, feeds, _ = self.example()
                self.infer(reference.name, self.inputs(feeds, True))
                other.update_trace_settings(settings={"trace_level": ["OFF"]})
                events = json.loads((pathlib.Path(self.server.traces) / file).read_text())
                assert reference.name in json.dumps(events), "the trace does not have the model"
                for wrong in ({"trace_file": "../elsewhere"}, {"trace_rate": "7"}, {"trace_level": ["TENSORS"]}):
                    try:
                        other.update_trace_settings(settings=wrong)
                        raise AssertionError(f"{wrong} was accepted")
                    except InferenceServerException as error:
                        assert "trace setting" in error.message(), error.message()

    def check_log_settings(self):
        with self.grpc() as client:
            before = self.client.get_log_settings()
            assert before["log_error"] is True, before
            for number, other in enumerate((client, self.client)):
                other.update_log_settings(settings={"log_verbose_level": 1})
                told = client.get_log_settings(as_json=True)["settings"]
                assert told["log_verbose_level"]["uint32_param"] == 1, told
                assert self.client.get_log_settings()["log_verbose_level"] == 1
                other.update_log_settings(settings={"log_verbose_level": 0})
                try:
                    other.update_log_settings(settings={"log_file": "/tmp/elsewhere"})
                    raise AssertionError("the log's file was changed")
                except InferenceServerException as error:
                    assert "log_file" in error.message(), error.message()
            assert self.client.get_log_settings() == before

    def check_shared_memory_methods(self):
        with self.grpc() as client:
            client.unregister_cuda_shared_memory()
            assert not client.get_cuda_shared_memory_status(as_json=True).get("regions")
            try:
                client.register_cuda_shared_memory("r", base64.b64encode(b"handle"), 0, 16)
                raise AssertionError("CUDA shared memory is there")
            except InferenceServerException as error:
                assert error.status() == "StatusCode.UNIMPLEMENTED" and "CUDA" in error.message(), str(error)
            self.infer_in_shared_memory(client)

    def infer_in_shared_memory(self, client):
        """One region with the input and, behind it, the output."""
        reference, feeds, want = self.example()
        (name, array), output = next(iter(feeds.items())), reference.outputs[0]
        assert len(feeds) == 1, "the model has one input"
        result_bytes = np.asarray(want[output.name]).nbytes
        handle = shm.create_shared_memory_region("grpc", "/reef_grpc", array.nbytes + result_bytes)
        try:
            shm.set_shared_memory_region(handle, [array])
            client.register_system_shared_memory("grpc", "/reef_grpc", array.nbytes + result_bytes)
            status = client.get_system_shared_memory_status(as_json=True)["regions"]["grpc"]
            assert status["key"] == "/reef_grpc", status
            tensor = grpc_client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_shared_memory("grpc", array.nbytes)
            wanted = grpc_client.InferRequestedOutput(output.name)
            wanted.set_shared_memory("grpc", result_bytes, offset=array.nbytes)
            client.infer(reference.name, [tensor], outputs=[wanted])
            self.count(reference.name, True)
            made = shm.get_contents_as_numpy(handle, output.dtype, np.asarray(want[output.name]).shape, array.nbytes)
            rel_l2, element = oracle.compare(made, want[output.name])
            assert oracle.within(rel_l2, element, want[output.name]), f"{rel_l2:.2e} {element:.2e}"
            client.unregister_system_shared_memory("grpc")
            assert not client.get_system_shared_memory_status(as_json=True).get("regions")
        finally:
            shm.destroy_shared_memory_region(handle)

    def check_asyncio_clients(self):
        return asyncio.run(self.with_asyncio())

    async def with_asyncio(self):
        reference, feeds, want = self.example()
        async with grpc_aio.InferenceServerClient(self.server.grpc_url()) as client:
            assert await client.is_server_live() and await client.is_model_ready(reference.name)
            requests = [client.infer(reference.name, tensors(grpc_aio, feeds)) for _ in range(6)]
            for result in await asyncio.gather(*requests):
                self.count(reference.name, True)
                self.expect_close(reference, result, want)

            async def asked():
                for index in range(10):
                    yield {"model_name": reference.name, "inputs": tensors(grpc_aio, feeds),
                           "request_id": str(index)}
            ids = set()
            async for result, error in client.stream_infer(asked()):
                assert error is None, error
                self.count(reference.name, True)
                self.expect_close(reference, result, want)
                ids.add(result.get_response().id)
            assert ids == {str(index) for index in range(10)}, ids
        async with http_aio.InferenceServerClient(self.client_url(), conn_timeout=PATIENCE_S) as client:
            assert await client.is_server_ready() and await client.is_model_ready(reference.name)
            assert (await client.get_model_metadata(reference.name))["name"] == reference.name
            requests = [client.infer(reference.name, tensors(http_aio, feeds)) for _ in range(6)]
            for result in await asyncio.gather(*requests):
                self.count(reference.name, True)
                self.expect_close(reference, result, want)
            assert (await client.get_inference_statistics(reference.name))["model_stats"]
            assert (await client.get_log_settings())["log_error"] is True
            assert await client.get_model_repository_index()
        return "gRPC, a stream, HTTP"

    def grpc(self):
        return grpc_client.InferenceServerClient(self.server.grpc_url())

    def settle(self):
        """What was cancelled may have been answered all the same: the server's count is taken over."""
        def done():
            stats = self.client.get_inference_statistics(self.victim)["model_stats"][0]
            return int(stats["inference_stats"]["success"]["count"])
        with self.counting:
            wait_until(lambda: done() >= self.successes[self.victim], "answers are missing in the statistics")
            last = -1
            while (now := done()) != last:
                last = now
                time.sleep(0.2)
            self.successes[self.victim] = last


def tensors(module, feeds):
    made = []
    for name, array in feeds.items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def wait_until(condition, otherwise):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)
