"""What the oracle scripts share: models, seeded inputs, the reference and the comparison.

The reference is ONNX Runtime on the CPU with its default graph optimisations. Nothing here knows the names or the
shapes of the models: they are read from the ONNX files that `reef zoo` writes.
"""

import itertools
import pathlib
import shutil
import subprocess
import zlib
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEFAULT_REEF = ROOT / "target" / "release" / "reef"

# Relative l2 error that every output must keep, and the largest element error, relative to the largest element of
# the reference (or to 1 where that is smaller: activations of the benchmark models are of order 1).
MAX_REL_L2 = 1e-5
MAX_ELEMENT = 1e-4

# Types of at most 8 bits that reef's tensors do not have: its models declare the type that holds them, an element a
# byte, integers as such and floats as their code.
NARROW = {"int4": "int8", "int2": "int8", "uint4": "uint8", "uint2": "uint8"} | {
    name: "code" for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
                              "float4_e2m1fn")}
DTYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64, "tensor(uint32)": np.uint32, "tensor(uint16)": np.uint16, "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OracleError(Exception):
    """Something that a reader of the output can act on without a stack trace."""


@dataclass
class Tensor:
    """An input or output of a model; a dimension is an int, or the name of a symbol."""

    name: str
    dtype: type
    dims: list
    id_limit: int | None = None  # token ids must stay below this


@dataclass
class Case:
    """One shape to run: a value for each symbolic dimension."""

    label: str
    symbols: dict = field(default_factory=dict)


class Reference:
    """A model in ONNX Runtime."""

    def __init__(self, path, threads=None):
        options = ort.SessionOptions()
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        self.path = pathlib.Path(path)
        self.name = model_name(self.path)
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        integers = any("int" in arg.type for arg in self.session.get_inputs())
        limits = id_limits(self.path) if integers else {}
        self.inputs = [tensor(arg, limits.get(arg.name)) for arg in self.session.get_inputs()]
        self.outputs = [tensor(arg) for arg in self.session.get_outputs()]

    def run(self, feeds):
        names = [output.name for output in self.outputs]
        return dict(zip(names, self.session.run(names, feeds)))

    def cases(self, batches, lengths):
        """All combinations of the symbolic dimensions; one empty case for a model without any."""
        symbols = list(dict.fromkeys(dim for input in self.inputs for dim in input.dims if isinstance(dim, str)))
        if not symbols:
            return [Case("fixed")]
        first = {input.dims[0] for input in self.inputs if input.dims}
        choices = [batches if "batch" in symbol.lower() or symbol in first else lengths for symbol in symbols]
        combined = [dict(zip(symbols, values)) for values in itertools.product(*choices)]
        return [Case(" ".join(f"{name}={value}" for name, value in case.items()), case) for case in combined]

    def feeds(self, case, seed):
        return {input.name: random_input(input, case, seed) for input in self.inputs}


def tensor(arg, id_limit=None):
    if arg.type not in DTYPES:
        raise OracleError(f"tensor {arg.name}: type {arg.type} has no numpy equivalent here")
    dims = [dim if isinstance(dim, int) else str(dim or f"{arg.name}.{axis}") for axis, dim in enumerate(arg.shape)]
    return Tensor(arg.name, DTYPES[arg.type], dims, id_limit)


def id_limits(path):
    """For each integer input that indexes a table of constants: the number of rows of the smallest such table."""
    graph = onnx.load(str(path)).graph
    rows = {init.name: init.dims[0] for init in graph.initializer if init.dims}
    alias = {input.name: input.name for input in graph.input}
    limits = {}
    for node in graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze") and node.input[0] in alias:
            alias[node.output[0]] = alias[node.input[0]]
        if node.op_type == "Gather" and node.input[0] in rows and node.input[1] in alias:
            name = alias[node.input[1]]
            limits[name] = min(rows[node.input[0]], limits.get(name, rows[node.input[0]]))
    return limits


def held(array):
    """An array as reef takes and gives it: texts as NumPy's own."""
    if array.dtype.kind in "OSU":
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in array.reshape(-1)]
        return np.array(texts, "U").reshape(array.shape)
    by = NARROW.get(array.dtype.name)
    return array if not by else array.view("u1") if by == "code" else array.astype(by)


def random_input(tensor, case, seed):
    """Seeded by name and shape, so that an input does not depend on what else a script runs."""
    shape = [case.symbols[dim] if isinstance(dim, str) else dim for dim in tensor.dims]
    rng = np.random.default_rng([seed, zlib.crc32(repr((tensor.name, shape)).encode())])
    if "mask" in tensor.name.lower():
        return attention_mask(rng, shape).astype(tensor.dtype)
    if tensor.dtype is np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if np.issubdtype(tensor.dtype, np.integer):
        return rng.integers(0, tensor.id_limit or 2, shape).astype(tensor.dtype)
    return rng.standard_normal(shape).astype(tensor.dtype)


def attention_mask(rng, shape):
    """Ones, then zeros: every row keeps at least half of its positions and the first row all of them."""
    length = shape[-1]
    rows = int(np.prod(shape[:-1]))
    kept = rng.integers((length + 1) // 2, length + 1, rows)
    kept[:1] = length
    return (np.arange(length)[None, :] < kept[:, None]).reshape(shape)


def compare(got, want):
    """Relative l2 error and largest element error; infinite where shape, type or finiteness differ."""
    if got.shape != want.shape or got.dtype != want.dtype or not np.isfinite(got).all():
        return float("inf"), float("inf")
    if not np.issubdtype(want.dtype, np.floating):
        error = 0.0 if np.array_equal(got, want) else float("inf")
        return error, error
    a, b = got.astype(np.float64), want.astype(np.float64)
    if not b.size:
        return 0.0, 0.0
    norm, difference = np.linalg.norm(b), np.linalg.norm(a - b)
    rel_l2 = difference / norm if norm else (0.0 if difference == 0 else float("inf"))
    return float(rel_l2), float(np.abs(a - b).max())


def within(rel_l2, element, want, limits=(MAX_REL_L2, MAX_ELEMENT)):
    largest = float(np.abs(want.astype(np.float64)).max()) if want.size else 0.0
    return rel_l2 <= limits[0] and element <= limits[1] * max(1.0, largest)


def model_name(path):
    """`NAME.onnx`, or `NAME/1/model.onnx` in Triton's layout."""
    return path.parent.parent.name if path.name == "model.onnx" and path.parent.name.isdigit() else path.stem


def write_zoo(reef, out, models=(), tiny=False, dynamic=False):
    """Runs `reef zoo` into an empty folder and returns the ONNX files, sorted by name."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command = [str(reef), "zoo", "--out", str(out)]
    for model in models:
        command += ["--model", model]
    command += ["--tiny"] * tiny + ["--dynamic"] * dynamic
    run(command)
    files = sorted(out.rglob("*.onnx"), key=model_name)
    if not files:
        raise OracleError(f"`{' '.join(command)}` wrote no .onnx file")
    return files


def run(command, timeout_s=1800):
    """Runs a command; its output is shown only when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except FileNotFoundError:
        raise OracleError(f"{command[0]} does not exist: build it with `cargo build --release -p reef`") from None
    except subprocess.TimeoutExpired:
        raise OracleError(f"`{' '.join(command)}` was still running after {timeout_s} s") from None
    if done.returncode != 0:
        tail = (done.stdout[-2000:] + done.stderr[-4000:]).strip()
        raise OracleError(f"`{' '.join(command)}` exited with {done.returncode}:\n{tail}")
    return done.stdout


def numbers(text):
    """An argparse type: `1,3` as [1, 3]."""
    values = [int(part) for part in text.split(",") if part]
    if not values or min(values) < 1:
        raise ValueError(text)
    return values


def names(text):
    """An argparse type: `a,b` as ["a", "b"]."""
    return [part for part in text.split(",") if part]


def print_table(header, rows):
    widths = [max(len(str(cell)) for cell in column) for column in zip(header, *rows)]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
