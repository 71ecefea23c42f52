"""tritonclient's four clients, method by method, for `conformance.py`.

A recipe is a function of [`Call`], which hides whether a client blocks. It returns nothing, or raises what is then the
table's reason. Methods that do not speak to the server are listed with the reason why they have no recipe.
"""

import asyncio
import base64
import inspect
import json
import os
import queue
import re

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

import oracle

CLIENTS = {"T.http": tritonclient.http, "T.http.aio": tritonclient.http.aio, "T.grpc": tritonclient.grpc,
           "T.grpc.aio": tritonclient.grpc.aio}
# These speak to no server.
LOCAL = {"close", "generate_request_body", "parse_response_body", "plugin", "register_plugin", "unregister_plugin"}
# A stream is one call of several methods.
WITHIN_STREAM = {"start_stream", "stop_stream", "async_stream_infer"}
REGION = "reef_conformance"


def rows(server, reference):
    found = []
    for name, module in CLIENTS.items():
        address = server.grpc if "grpc" in name else server.http
        if address:
            found += Call(name, module, f"{address[0]}:{address[1]}", reference).rows()
    return found


class Call:
    """One client, and a good request."""

    def __init__(self, name, module, url, reference):
        self.name, self.module, self.url, self.model = name, module, url, reference.name
        self.is_grpc, self.is_async = "grpc" in name, name.endswith("aio")
        self.feeds = reference.feeds(oracle.Case("fixed"), seed=3)
        self.want = reference.run(self.feeds)
        self.output = reference.outputs[0].name
        self.loop = asyncio.new_event_loop() if self.is_async else None

    def rows(self):
        methods = {name for name, _ in inspect.getmembers(self.module.InferenceServerClient, callable)
                   if not name.startswith("_")} - LOCAL - WITHIN_STREAM
        recipes = {name.removeprefix("call_"): recipe for name, recipe in vars(Call).items()
                   if name.startswith("call_")}
        known = {name.split("__")[0] for name in recipes}
        missing = methods - known
        if missing:
            raise oracle.OracleError(f"{self.name}: no recipe for {', '.join(sorted(missing))}")
        rows = []
        for name, recipe in recipes.items():
            method = name.split("__")[0]
            stream = method == "stream" and self.is_grpc and not self.is_async
            if (method in methods or stream) and not (name.endswith("__http") and self.is_grpc):
                label = name.removesuffix("__http").replace("__", ", ").replace("_is_", "=")
                rows.append((self.name, label, self.attempt(recipe)))
        return rows

    def attempt(self, recipe):
        self.client = self.done(self.open())
        try:
            recipe(self)
            return "works"
        except (InferenceServerException, AssertionError, TypeError, ValueError, OSError) as error:
            return reason(error)
        finally:
            self.done(self.client.close())

    async def opened(self):
        return self.module.InferenceServerClient(self.url)

    def open(self):
        return self.opened() if self.is_async else self.module.InferenceServerClient(self.url)

    def done(self, value):
        return self.loop.run_until_complete(value) if inspect.isawaitable(value) else value

    def ask(self, method, *args, **options):
        """The answer as plain data."""
        if self.is_grpc and "infer" not in method.replace("inference", "") and not method.startswith("is_"):
            options["as_json"] = True
        try:
            return self.done(getattr(self.client, method)(*args, **options))
        except TypeError as error:
            if "as_json" not in str(error):
                raise
            del options["as_json"]
            return self.done(getattr(self.client, method)(*args, **options))

    def inputs(self, binary=True):
        ((name, array),) = self.feeds.items()
        tensor = self.module.InferInput(name, list(array.shape), "FP32")
        tensor.set_data_from_numpy(array, **({} if self.is_grpc else {"binary_data": binary}))
        return [tensor]

    def infer(self, **options):
        inputs = options.pop("inputs", None) or self.inputs()
        return self.ask("infer", self.model, inputs, **options)

    def check(self, result, output=None):
        got = result.as_numpy(self.output) if output is None else output
        want = self.want[self.output]
        assert got is not None, "no output"
        assert oracle.within(*oracle.compare(got, want), want), "another answer than ONNX Runtime's"

    # Health and metadata.

    def call_is_server_live(self):
        assert self.ask("is_server_live") is True

    def call_is_server_ready(self):
        assert self.ask("is_server_ready") is True

    def call_is_model_ready(self):
        assert self.ask("is_model_ready", self.model) is True
        assert self.ask("is_model_ready", self.model, "1") is True
        assert self.ask("is_model_ready", "no_such_model") is False

    def call_get_server_metadata(self):
        metadata = self.ask("get_server_metadata")
        assert metadata["name"] and metadata["version"] and metadata["extensions"], metadata

    def call_get_model_metadata(self):
        metadata = self.ask("get_model_metadata", self.model)
        assert metadata["inputs"][0]["name"] in self.feeds, metadata
        assert [int(extent) for extent in metadata["inputs"][0]["shape"]] == [1, 3, 24, 24], metadata

    def call_get_model_config(self):
        config = self.ask("get_model_config", self.model)
        assert config.get("config", config)["name"] == self.model, config

    def call_get_inference_statistics(self):
        def count(kind):
            stats = self.ask("get_inference_statistics", self.model)["model_stats"][0]
            return int(stats["inference_stats"].get(kind, {}).get("count", 0))
        before = [count(kind) for kind in ("success", "queue", "compute_infer")]
        self.infer()
        after = [count(kind) for kind in ("success", "queue", "compute_infer")]
        assert [b - a for a, b in zip(before, after)] == [1, 1, 1], f"success, queue, compute: {before}, then {after}"

    def call_get_inference_statistics__all_models(self):
        assert len(self.ask("get_inference_statistics")["model_stats"]) >= 2

    def call_get_model_repository_index(self):
        index = self.ask("get_model_repository_index")
        entries = index.get("models", []) if isinstance(index, dict) else index
        assert {"name", "state"} <= entries[0].keys(), entries
        assert self.model in {entry["name"] for entry in entries}, entries

    # Model control.

    def call_load_model(self):
        self.ask("load_model", self.model)
        self.check(self.infer())

    def call_load_model__unknown(self):
        self.refused("no_such_model", "load_model", "no_such_model")

    def call_unload_model(self):
        self.ask("unload_model", self.model)
        try:
            assert self.ask("is_model_ready", self.model) is False, "still ready"
        finally:
            self.ask("load_model", self.model)
        self.check(self.infer())

    def refused(self, mentions, method, *args, **options):
        try:
            self.ask(method, *args, **options)
        except InferenceServerException as error:
            if "there is nothing at" in str(error):
                raise
            assert mentions in str(error), f"the error does not name {mentions}: {error}"
            return
        raise AssertionError("it was not refused")

    # Trace and log.

    def call_get_trace_settings(self):
        assert "trace_level" in str(self.ask("get_trace_settings"))

    def call_get_trace_settings__model(self):
        assert "trace_level" in str(self.ask("get_trace_settings", self.model))

    def call_update_trace_settings(self):
        self.ask("update_trace_settings", None, settings={"trace_file": "conformance.json",
                                                         "trace_level": ["TIMESTAMPS"]})
        try:
            assert "TIMESTAMPS" in str(self.ask("get_trace_settings"))
        finally:
            self.ask("update_trace_settings", None, settings={"trace_level": ["OFF"]})

    def call_get_log_settings(self):
        assert "log_info" in str(self.ask("get_log_settings"))

    def call_update_log_settings(self):
        self.ask("update_log_settings", {"log_verbose_level": 0})

    # Shared memory.

    def call_get_system_shared_memory_status(self):
        self.ask("get_system_shared_memory_status")

    def call_register_system_shared_memory(self):
        with self.region() as handle:
            assert REGION in str(self.ask("get_system_shared_memory_status"))
            del handle

    def call_unregister_system_shared_memory(self):
        with self.region():
            self.ask("unregister_system_shared_memory", REGION)
            assert REGION not in str(self.ask("get_system_shared_memory_status"))

    def call_unregister_system_shared_memory__all(self):
        with self.region():
            self.ask("unregister_system_shared_memory")
            assert REGION not in str(self.ask("get_system_shared_memory_status"))

    def region(self):
        return Region(self)

    def call_get_cuda_shared_memory_status(self):
        self.ask("get_cuda_shared_memory_status")

    def call_register_cuda_shared_memory(self):
        self.ask("register_cuda_shared_memory", REGION, base64.b64encode(bytes(64)), 0, 4)

    def call_unregister_cuda_shared_memory(self):
        self.ask("unregister_cuda_shared_memory")

    # Inference.

    def call_infer(self):
        result = self.infer(request_id="seven")
        response = result.get_response(**({"as_json": True} if self.is_grpc else {}))
        assert response["id"] == "seven" and response["model_name"] == self.model, response
        self.check(result)

    def call_infer__version(self):
        self.check(self.infer(model_version="1"))

    def call_infer__unknown_model(self):
        self.refused("no_such_model", "infer", "no_such_model", self.inputs())

    def call_infer__wrong_shape(self):
        tensor = self.module.InferInput(self.inputs()[0].name(), [1, 2], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 2), np.float32))
        self.refused(tensor.name(), "infer", self.model, [tensor])

    def call_infer__json_in_and_out__http(self):
        outputs = [self.module.InferRequestedOutput(self.output, binary_data=False)]
        self.check(self.infer(inputs=self.inputs(binary=False), outputs=outputs))

    def call_infer__priority_and_timeout(self):
        self.check(self.infer(priority=1, timeout=60_000_000))

    def call_infer__parameters(self):
        result = self.infer(parameters={"class": "real-time", "deadline_us": 60_000_000})
        assert "real-time" in str(result.get_response()), "the effective class is not echoed"
        self.check(result)

    def call_infer__class_count_is_2(self):
        result = self.infer(outputs=[self.module.InferRequestedOutput(self.output, class_count=2)])
        got = [entry.decode() for entry in result.as_numpy(self.output).ravel()]
        want = self.want[self.output].ravel()
        order = np.argsort(-want, kind="stable")[:2]
        assert [int(entry.split(":")[1]) for entry in got] == order.tolist(), f"{got}, not the indices {order}"

    def call_infer__sequence_id(self):
        self.check(self.infer(sequence_id=7, sequence_start=True, sequence_end=True))

    def call_infer__request_gzip(self):
        self.compressed("gzip", None)

    def call_infer__request_deflate(self):
        self.compressed("deflate", None)

    def call_infer__response_gzip__http(self):
        self.compressed(None, "gzip")

    def call_infer__response_deflate__http(self):
        self.compressed(None, "deflate")

    def compressed(self, request, response):
        if self.is_grpc:
            return self.check(self.infer(compression_algorithm=request))
        options = {"request_compression_algorithm": request, "response_compression_algorithm": response}
        return self.check(self.infer(**options))

    def call_infer__shared_memory_input(self):
        with self.region() as handle:
            ((_, array),) = self.feeds.items()
            shm.set_shared_memory_region(handle, [array])
            inputs = self.inputs()
            inputs[0].set_shared_memory(REGION, array.nbytes)
            self.check(self.infer(inputs=inputs))

    def call_infer__shared_memory_output(self):
        with self.region() as handle:
            want = self.want[self.output]
            output = self.module.InferRequestedOutput(self.output)
            output.set_shared_memory(REGION, want.nbytes)
            self.infer(outputs=[output])
            self.check(None, shm.get_contents_as_numpy(handle, want.dtype, want.shape))

    def call_infer__shared_memory_out_of_bounds(self):
        with self.region():
            inputs = self.inputs()
            inputs[0].set_shared_memory(REGION, inputs[0].shape()[1] * 2304, offset=1 << 40)
            self.refused(REGION, "infer", self.model, inputs)

    def call_async_infer(self):
        if not self.is_grpc:
            return self.check(self.client.async_infer(self.model, self.inputs()).get_result())
        answers = queue.Queue()
        self.client.async_infer(self.model, self.inputs(), lambda result, error: answers.put((result, error)))
        return self.answered(answers)

    def answered(self, answers):
        result, error = answers.get(timeout=60)
        if error:
            raise error
        self.check(result)

    def call_stream(self):
        answers = queue.Queue()
        self.client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(5):
            self.client.async_stream_infer(self.model, self.inputs(), request_id=str(number))
        [self.answered(answers) for _ in range(5)]
        self.client.stop_stream()

    def call_stream_infer(self):
        async def requests():
            for number in range(5):
                yield {"model_name": self.model, "inputs": self.inputs(), "request_id": str(number)}

        async def run():
            count = 0
            async for result, error in self.client.stream_infer(requests()):
                if error:
                    raise error
                self.check(result)
                count += 1
            assert count == 5, f"{count} answers to 5 requests"

        self.done(run())


class Region:
    """A region of one page and more, registered while the block runs."""

    def __init__(self, call):
        self.call = call

    def __enter__(self):
        size = 64 << 10
        key = f"/{REGION}_{os.getpid()}"
        self.handle = shm.create_shared_memory_region(REGION, key, size)
        try:
            self.call.ask("register_system_shared_memory", REGION, key, size)
        except BaseException:
            shm.destroy_shared_memory_region(self.handle)
            raise
        return self.handle

    def __exit__(self, *_):
        try:
            self.call.ask("unregister_system_shared_memory", REGION)
        finally:
            shm.destroy_shared_memory_region(self.handle)


def reason(error):
    """An error in one line that is the same in each run."""
    text = error.message() if isinstance(error, InferenceServerException) else str(error)
    status = error.status() if isinstance(error, InferenceServerException) else None
    text = re.sub(r"\s+", " ", text or type(error).__name__)
    text = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", re.sub(rf"{REGION}_\d+", REGION, text))
    if text.startswith("{"):
        text = json.loads(text).get("error", text)
    return f"{status}: {text}"[:160] if status else text[:160]
