#!/usr/bin/env python3
"""Texts over `reef serve`: tensors of BYTES in JSON and binary, over HTTP and gRPC, in shared memory and in batches.

The model gives texts back, in another order, chooses between them and some of its own, and encodes them. What it does
not know itself comes back as it was sent, whoever else asks at the same time.
"""

import argparse
import concurrent.futures
import json
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

import oracle
import serving

SETTINGS = "[model.words]\nmax_batch_size = 8\nmax_queue_delay_us = 2000\n"
ROW = [b"cat", b"\xc3\xa9t\xc3\xa9", b""]


def words(path):
    """`[n, 3]` texts reversed, each replaced by one of the model's where it is `cat`, and as numbers."""
    texts = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.STRING, shape)
    node = helper.make_node
    nodes = [
        node("Gather", ["x", "order"], ["turned"], axis=1),
        node("Equal", ["x", "known"], ["same"]),
        node("Where", ["same", "other", "x"], ["chosen"]),
        node("LabelEncoder", ["x"], ["codes"], domain="ai.onnx.ml", keys_strings=["cat", "dog"], values_int64s=[4, 5]),
    ]
    constants = [
        helper.make_tensor("order", TensorProto.INT64, [3], [2, 1, 0]),
        helper.make_tensor("known", TensorProto.STRING, [1], [b"cat"]),
        helper.make_tensor("other", TensorProto.STRING, [1], [b"lion"]),
    ]
    outputs = [texts("turned", "n", 3), texts("chosen", "n", 3),
               helper.make_tensor_value_info("codes", TensorProto.INT64, ["n", 3])]
    graph = helper.make_graph(nodes, "words", [texts("x", "n", 3)], outputs, constants)
    sets = [helper.make_opsetid("", 19), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=9), str(path))


def wanted(rows):
    codes = {b"cat": 4, b"dog": 5}
    return {"turned": rows[:, ::-1], "chosen": np.where(rows == b"cat", b"lion", rows),
            "codes": np.array([[codes.get(text, -1) for text in row] for row in rows])}


def rows_of(*rows):
    table = np.empty((len(rows), 3), object)
    table[:] = rows
    return table


def expect(result, rows):
    for name, want in wanted(rows).items():
        got = result.as_numpy(name)
        assert got.shape == want.shape and (got == want).all(), f"{name}: {got.tolist()}, not {want.tolist()}"


def ask(module, client, rows, **options):
    tensor = module.InferInput("x", list(rows.shape), "BYTES")
    if module is triton_http:
        tensor.set_data_from_numpy(rows, binary_data=options.pop("binary_in", True))
    else:
        tensor.set_data_from_numpy(rows)
    return client.infer("words", [tensor], **options)


def json_and_binary(http, grpc):
    rows = rows_of(ROW, [b"dog", b"cat", b"x" * 300])
    expect(ask(triton_http, http, rows), rows)
    binary = [triton_http.InferRequestedOutput(name, binary_data=False) for name in wanted(rows)]
    result = ask(triton_http, http, rows, binary_in=False, outputs=binary)
    got = {output["name"]: output["data"] for output in result.get_response()["outputs"]}
    assert got["turned"] == [text.decode() for text in rows[:, ::-1].reshape(-1)], got
    expect(ask(triton_grpc, grpc, rows), rows)


def typed_contents(http, grpc):
    request = triton_grpc.service_pb2.ModelInferRequest(model_name="words")
    tensor = request.inputs.add(name="x", datatype="BYTES", shape=[1, 3])
    tensor.contents.bytes_contents.extend(ROW)
    expect(triton_grpc.InferResult(grpc._client_stub.ModelInfer(request)), rows_of(ROW))


def metadata(http, grpc):
    told = http.get_model_metadata("words")
    assert [tensor["datatype"] for tensor in told["inputs"] + told["outputs"]] == ["BYTES", "BYTES", "BYTES", "INT64"], told
    kinds = [tensor["data_type"] for tensor in http.get_model_config("words")["output"]]
    assert kinds == ["TYPE_STRING", "TYPE_STRING", "TYPE_INT64"], kinds
    assert grpc.get_model_metadata("words").inputs[0].datatype == "BYTES"


def shared_memory(http, grpc):
    rows = rows_of(ROW)
    data = triton_http.InferInput("x", [1, 3], "BYTES").set_data_from_numpy(rows)._get_binary_data()
    region = shm.create_shared_memory_region("texts", "/reef-texts", 4096)
    try:
        shm.set_shared_memory_region(region, [np.frombuffer(data, np.uint8)])
        http.register_system_shared_memory("texts", "/reef-texts", 4096)
        tensor = triton_http.InferInput("x", [1, 3], "BYTES")
        tensor.set_shared_memory("texts", len(data))
        expect(http.infer("words", [tensor]), rows)
        tensor.set_shared_memory("texts", len(data) - 1)
        refused(lambda: http.infer("words", [tensor]), "does not begin a text")
    finally:
        http.unregister_system_shared_memory("texts")
        shm.destroy_shared_memory_region(region)


def refused(call, mentions):
    try:
        call()
    except InferenceServerException as error:
        assert error.status() in ("400", "StatusCode.INVALID_ARGUMENT"), error
        assert mentions in error.message(), f"the message does not name `{mentions}`: {error.message()}"
        return
    raise AssertionError(f"it was answered; expected `{mentions}`")


def damaged(http, grpc):
    """Each is the client's fault, and the next request is answered."""
    def raw(data, shape=(1, 3), datatype="BYTES"):
        tensor = triton_http.InferInput("x", list(shape), datatype)
        tensor._raw_data, tensor._data = data, None
        tensor._parameters["binary_data_size"] = len(data)
        http.infer("words", [tensor])

    text = lambda text, length=None: (len(text) if length is None else length).to_bytes(4, "little") + text
    refused(lambda: raw(text(b"a") + text(b"b")), "3 texts, got 2")
    refused(lambda: raw(text(b"a") * 4), "3 texts, got 4")
    refused(lambda: raw(b"\1\0"), "does not begin a text")
    refused(lambda: raw(text(b"a") * 2 + text(b"a", 2**32 - 1)), "does not begin a text")
    refused(lambda: raw(text(b"a") * 3, (1 << 20, 1 << 20)), "elements")
    refused(lambda: raw(bytes(24), datatype="INT64"), "expected BYTES")
    refused(lambda: raw(text(b"a" * (17 << 20)) + text(b"") * 2), "at most")
    for data, mentions in (([1, 2, 3], "not of type BYTES"), (["a", "b"], "the shape needs 3"),
                           (["a"] * 4, "more than the 3"), ([["a", "b"], ["c"]], "an array of"), ([None] * 3, "")):
        body = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "BYTES", "data": data}]})
        status, told = http._post("v2/models/words/infer", body, {}, None), None
        told = status.read().decode()
        assert status.status_code == 400 and mentions in told, (status.status_code, told)
    no_utf8 = rows_of([b"\xff", b"", b""])
    expect(ask(triton_http, http, no_utf8), no_utf8)
    plain = [triton_http.InferRequestedOutput("turned", binary_data=False)]
    refused(lambda: ask(triton_http, http, no_utf8, outputs=plain), "UTF-8")
    classes = [triton_http.InferRequestedOutput("turned", class_count=1)]
    refused(lambda: ask(triton_http, http, rows_of(ROW), outputs=classes), "no largest elements")
    expect(ask(triton_http, http, rows_of(ROW)), rows_of(ROW))


def beside_each_other(http, grpc, address):
    """What one client sent reaches no other one, also where requests run as one batch."""
    def client(number):
        own = triton_http.InferenceServerClient(address)
        for turn in range(40):
            rows = rows_of(*([f"{number}.{turn}.{row}".encode(), b"cat", b"z" * number] for row in range(1 + number % 3)))
            expect(ask(triton_http, own, rows), rows)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(client, number) for number in range(6)]:
            done.result()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reef-texts-") as temporary:
        folder = pathlib.Path(temporary) / "models"
        folder.mkdir()
        words(folder / "words.onnx")
        (folder / "reef.toml").write_text(SETTINGS)
        with serving.Server(args.reef.resolve(), folder, "--grpc-port", 0, "--allow-client-shm") as server:
            address, grpc_address = (f"{host}:{port}" for host, port in (server.http, server.grpc))
            http = triton_http.InferenceServerClient(address)
            grpc = triton_grpc.InferenceServerClient(grpc_address)
            for check in (json_and_binary, typed_contents, metadata, shared_memory, damaged):
                check(http, grpc)
                print(f"ok {check.__name__}", flush=True)
            beside_each_other(http, grpc, address)
            print("ok beside_each_other")


if __name__ == "__main__":
    sys.exit(main())
