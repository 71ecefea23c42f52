#!/usr/bin/env python3
"""Asks a running `reef serve` for one inference: pip install 'tritonclient[http]' numpy

    python client.py MODEL [--url localhost:8000] [--class real-time] [--deadline-us 20000]

Class and deadline are ordinary request parameters, so any Open Inference Protocol client can send them. A request may
ask for at most the class and level that the server's configuration gives the model.
"""

import argparse

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--url", default="localhost:8000")
    parser.add_argument("--class", dest="klass", choices=["real-time", "best-effort"])
    parser.add_argument("--deadline-us", type=int, help="from arrival to the end of execution")
    parser.add_argument("--timeout-us", type=int, help="the longest wait in the queue")
    args = parser.parse_args()

    client = triton.InferenceServerClient(args.url)
    metadata = client.get_model_metadata(args.model)
    inputs = [example_input(tensor) for tensor in metadata["inputs"]]

    parameters = {}
    if args.klass:
        parameters["class"] = args.klass
    if args.deadline_us:
        parameters["deadline_us"] = args.deadline_us
    try:
        result = client.infer(args.model, inputs, timeout=args.timeout_us, parameters=parameters)
    except InferenceServerException as error:
        # 503: refused early, because the queue is full or the deadline cannot be met. Retry elsewhere or later.
        raise SystemExit(f"refused with status {error.status()}: {error.message()}") from None

    response = result.get_response()
    print("parameters of the answer:", response.get("parameters", {}))
    for output in response["outputs"]:
        array = result.as_numpy(output["name"])
        print(f"{output['name']}: {array.dtype}{list(array.shape)}, first values {array.ravel()[:4]}")


def example_input(tensor):
    """Random numbers of the right shape and type; 1 for each dimension that the model leaves open."""
    shape = [max(1, int(dim)) for dim in tensor["shape"]]
    dtype = triton_to_np_dtype(tensor["datatype"])
    if np.issubdtype(dtype, np.floating):
        data = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    else:
        data = np.ones(shape, dtype)
    value = triton.InferInput(tensor["name"], shape, tensor["datatype"])
    value.set_data_from_numpy(data)
    return value


if __name__ == "__main__":
    main()
