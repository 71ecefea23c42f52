"""A client of a gRPC stream that asks without end, for `faults.py` to kill: ADDRESS MODEL SHAPE."""

import itertools
import sys

import numpy as np
import tritonclient.grpc as triton


def main():
    address, model, shape = sys.argv[1:]
    shape = [int(extent) for extent in shape.split(",")]
    tensor = triton.InferInput("input", shape, "FP32")
    tensor.set_data_from_numpy(np.zeros(shape, np.float32))
    client, answers = triton.InferenceServerClient(address), itertools.count(1)

    def answered(result, error):
        if error:
            sys.exit(f"grpc_victim: {error}")
        if next(answers) == 10:
            print("streaming", flush=True)

    client.start_stream(answered)
    while True:
        client.async_stream_infer(model, [tensor])


if __name__ == "__main__":
    main()
