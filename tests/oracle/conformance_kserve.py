"""kserve's inference clients, for `conformance.py`: a task in JSON on standard input, rows in JSON on standard output."""

import asyncio
import json
import re
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def main():
    task = json.load(sys.stdin)
    rows = asyncio.run(collect(task))
    json.dump(rows, sys.stdout)


async def collect(task):
    rows = []
    host, port = task["http"]
    base = f"http://{host}:{port}"
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=60))
    v1 = InferenceRESTClient(RESTConfig(protocol="v1", retries=0, timeout=60))
    model = task["model"]
    await attempt(rows, "kserve REST", "is_server_live", lambda: true(rest.is_server_live(base)))
    await attempt(rows, "kserve REST", "is_server_ready", lambda: true(rest.is_server_ready(base)))
    await attempt(rows, "kserve REST", "is_model_ready", lambda: true(rest.is_model_ready(base, model)))
    for binary in (False, True):
        label = f"infer, {'binary' if binary else 'JSON'}"
        await attempt(rows, "kserve REST", label, lambda: right(task, rest.infer(base, request(task, binary), model_name=model)))
    await attempt(rows, "kserve REST", "is_model_ready, v1", lambda: true(v1.is_model_ready(base, model)))
    row = np.array(task["data"]).reshape(task["shape"])[0].tolist()
    body = {"instances": [row]}
    forms = {"instances": body, "named instances": {"instances": [{task["input"]: row}]}, "inputs": {"inputs": [row]}}
    for form, asked in forms.items():
        await attempt(rows, "kserve REST", f"infer, v1 :predict, {form}",
                      lambda: predicted(task, v1.infer(base, asked, model_name=model)))
    await attempt(rows, "kserve REST", "explain, v1 :explain", lambda: v1.explain(base, model, body))
    await rest.close()
    await v1.close()
    if task["grpc"]:
        grpc = InferenceGRPCClient(":".join(map(str, task["grpc"])), timeout=60, retries=0)
        await attempt(rows, "kserve gRPC", "is_server_live", lambda: true(grpc.is_server_live()))
        await attempt(rows, "kserve gRPC", "is_server_ready", lambda: true(grpc.is_server_ready()))
        await attempt(rows, "kserve gRPC", "is_model_ready", lambda: true(grpc.is_model_ready(model)))
        for raw in (False, True):
            label = f"infer, {'raw' if raw else 'typed'} contents"
            await attempt(rows, "kserve gRPC", label, lambda: right(task, grpc.infer(request(task, raw))))
        await grpc.close()
    return rows


def request(task, binary):
    tensor = InferInput(task["input"], task["shape"], "FP32")
    tensor.set_data_from_numpy(np.array(task["data"], np.float32).reshape(task["shape"]), binary_data=binary)
    return InferRequest(model_name=task["model"], infer_inputs=[tensor], request_id="seven")


async def true(answer):
    assert await answer is True


async def right(task, answer):
    answer = await answer
    assert answer.id == "seven" and answer.model_name == task["model"], (answer.id, answer.model_name)
    got = {output.name: output.as_numpy().ravel() for output in answer.outputs}
    assert got.keys() == task["want"].keys(), got.keys()
    for name, want in task["want"].items():
        want = np.array(want)
        assert np.linalg.norm(got[name] - want) <= 1e-5 * np.linalg.norm(want), f"{name}: another answer"


async def predicted(task, answer):
    """The rows of v1: of one output as they are, of several by name."""
    (row,) = (await answer)["predictions"]
    names = list(task["want"])
    for name in names:
        got = np.array(row if len(names) == 1 else row[name], np.float64).ravel()
        want = np.array(task["want"][name])
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want), f"{name}: another answer"


async def attempt(rows, client, call, ask):
    try:
        await ask()
        result = "works"
    except Exception as error:
        text = re.sub(r"\s+", " ", str(error)) or type(error).__name__
        result = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text)[:160]
    rows.append((client, call, result))


if __name__ == "__main__":
    main()
