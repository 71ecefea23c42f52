#!/usr/bin/env python3
"""Every element-wise operator over every type that it allows: computed natively, and as ONNX Runtime does.

The operators and their types come from the schemas of the onnx package (operator set 24). For each type there is a
model of one node, whose inputs have what is special about the type: both zeros, infinities, no number, subnormal
numbers, the ends of what integers hold. `reef inspect` must show no host kernel, and the answers must be those of ONNX
Runtime, or of the onnx package's own evaluator where ONNX Runtime has no kernel for the type. Exit status 1 where
something differs, is refused or is left to the host.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import defs, helper
from onnx.reference import ReferenceEvaluator

import oracle

OPSET = 24
TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(bfloat16)": ml_dtypes.bfloat16, "tensor(int64)": np.int64, "tensor(int32)": np.int32,
    "tensor(int16)": np.int16, "tensor(int8)": np.int8, "tensor(uint64)": np.uint64, "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_,
}
ONE = ("Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish "
       "Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus "
       "Softsign Sqrt Swish Tan Tanh ThresholdedRelu").split()
TWO = ("Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod "
       "Mul Or PRelu Pow Sub Sum Xor").split()
ATTRIBUTES = {"BitShift": [{"direction": "LEFT"}, {"direction": "RIGHT"}], "Mod": [{"fmod": 1}, {}],
              "IsInf": [{}, {"detect_negative": 0}, {"detect_positive": 0}], "Gelu": [{}, {"approximate": "tanh"}]}


# Functions that the reference approximates, of f64 in single precision, or whose error is relative to the operand: what
# they may be off, relative to the operand.
LOOSE = {"Celu", "Erf", "Gelu", "HardSwish", "Mish", "Selu", "Shrink", "Sigmoid", "Softplus", "Swish", "Tanh"}
# Where the sign of a zero is promised: it is moved, not computed.
SIGNED_ZEROS = {"Abs", "Acos", "Asin", "Asinh", "Atan", "Atanh", "Cast", "Ceil", "Floor", "Identity", "Neg", "Reciprocal",
                "Round", "Sin", "Sinh", "Sqrt", "Tan", "Where"}


# Where the reference departs from the function, by operator and type: why.
DEPARTS = {
    ("Erf", "float64"): "a subnormal result is 0",
    ("Shrink", "float64"): "it computes in single precision, in which the largest numbers are infinite",
    ("Sign", "float16"): "no number gives 0, in half precision only",
    ("Tanh", "float32"): "the least normal number is not its own",
}


def kind(dtype):
    return dtype == ml_dtypes.bfloat16 or np.issubdtype(dtype, np.floating)


def values(dtype, operand=0):
    """What is special about a type; the second operand's has no zeros and few large numbers."""
    if dtype == np.bool_:
        return np.array([True, False, True, True, False, False, True, False][operand:operand + 7])
    if not kind(dtype):
        ends = np.iinfo(dtype)
        first = [ends.min, ends.max, ends.min + 1, ends.max - 1, 0, 1, 2, 3, 7, 11, 100, ends.max // 2, ends.max // 3]
        second = [3, 7, 1, 2, 5, 4, 3, 2, 6, 1, 3, 5, 7]
        return np.array([first, second][operand], dtype)
    numbers = ml_dtypes.finfo(dtype)
    tiny = float(numbers.smallest_subnormal)
    first = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -2.5, 3.7, -3.7, 0.1, -0.1, 8.25, -8.25, 30.0, -30.0, np.inf, -np.inf,
             np.nan, tiny, -tiny, float(numbers.tiny), float(numbers.max), float(numbers.min), 0.9990234375, 1.0078125]
    second = [1.0, 2.0, -0.5, 3.0, 0.25, 2.0, -1.0, 2.5, 0.5, 2.0, 3.0, 0.3, -2.0, 1.5, 2.0, 2.0, 2.0, 3.0, 1.0, 2.0, 0.5,
              1.0, 0.5, 0.5, np.inf, np.nan]
    with np.errstate(over="ignore"):
        return np.array([first, second][operand], np.float64).astype(dtype)


def cases():
    """Operator, attributes, inputs."""
    for operator in ONE + TWO + ["Clip", "Where"]:
        schema = defs.get_schema(operator, OPSET, "")
        constraints = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
        allowed = {name: [TYPES[one] for one in strings if one in TYPES] for name, strings in constraints.items()}
        first = schema.inputs[0].type_str if operator != "Where" else schema.inputs[1].type_str
        for dtype in sorted(allowed.get(first) or [TYPES[first]], key=str):
            inputs = [values(dtype)]
            if operator in TWO:
                inputs.append(values(dtype, 1))
            elif operator == "Clip":
                inputs += [np.array(1, dtype), np.array(5, dtype)]
            elif operator == "Where":
                inputs = [np.arange(inputs[0].size) % 3 == 0, inputs[0], values(dtype, 1)]
            others = allowed["T1"] if operator == "Pow" else [dtype]
            for other in sorted(others, key=str):
                for attributes in ATTRIBUTES.get(operator, [{}]):
                    if operator == "Mod" and kind(dtype) and not attributes:
                        continue  # ONNX Runtime has it of integers only; the node tests have it
                    if operator == "Pow":
                        inputs[1] = power(dtype, other, inputs[0].size)
                        inputs[0] = bases(dtype)
                    if operator == "Mod" and attributes and np.dtype(dtype).itemsize == 8 and not kind(dtype):
                        # ONNX Runtime computes the remainder in double precision.
                        inputs[0] = np.clip(inputs[0], 0, 2**50).astype(dtype)
                    if operator == "Shrink" and not kind(dtype):
                        inputs[0] = np.clip(inputs[0], -100, 100) if np.iinfo(dtype).min else np.minimum(inputs[0], 100)
                        inputs[0] = inputs[0].astype(dtype)  # of more ONNX Runtime rounds
                    yield operator, attributes, list(inputs)
    for source in sorted(TYPES.values(), key=str):
        for target in sorted(TYPES.values(), key=str):
            code = helper.np_dtype_to_tensor_dtype(np.dtype(target))
            yield "Cast", {"to": code}, [castable(source, target)]


def bases(dtype):
    if kind(dtype):
        return values(dtype)
    signed = np.iinfo(dtype).min < 0
    return np.array([0, 1, 2, 3, 4, 5, 6, 7, 9, 10, -1 if signed else 1, -2 if signed else 2, -3 if signed else 3], dtype)


def power(dtype, other, size):
    """Exponents so that a power of integers is one."""
    if kind(dtype):
        some = [1, 2, 3, 0, 2, 2, 1, 2, 1, 3, 2, 2, 1]
    else:
        some = [3, 5, 2, 1, 0, 2, 1, 2, 1, 1, 3, 2, 1]
    return np.resize(np.array(some), size).astype(other)


def castable(source, target):
    """Values that the target has a number for: of others nothing is promised."""
    array = values(source)
    if source == np.bool_ or target == np.bool_ or kind(target):
        return array
    ends = np.iinfo(target)
    if not kind(source):
        return array
    wide = array.astype(np.float64)
    limit = min(float(ends.max), 2.0**31 - 129)
    inside = np.isfinite(wide) & (wide > max(float(ends.min), -limit) - 1) & (wide < limit)
    return array[inside & ((wide >= 0) | (ends.min < 0))]


def model_of(operator, attributes, inputs, result=None):
    node = helper.make_node(operator, [f"x{i}" for i in range(len(inputs))], ["y"], name="node", **attributes)
    infos = [helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
             for i, x in enumerate(inputs)]
    if result is None:
        result = onnx.ValueInfoProto(name="y")
    graph = helper.make_graph([node], "one", infos, [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def reference(model, inputs):
    feeds = {f"x{i}": x for i, x in enumerate(inputs)}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not any(x.dtype == ml_dtypes.bfloat16 for x in inputs):
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return session.run(None, feeds)[0], "ONNX Runtime"
        except Exception:  # no kernel for the type
            pass
    with np.errstate(all="ignore"):
        return np.asarray(ReferenceEvaluator(model).run(None, feeds)[0]), "onnx"


def run_reef(reef, folder, inputs):
    """The answer and the host kernels, or why there is none."""
    shown = subprocess.run([reef, "inspect", folder / "model.onnx"], capture_output=True, text=True, timeout=60)
    if shown.returncode:
        return None, shown.stderr.strip().splitlines()[0]
    hosted = [line.strip() for line in shown.stdout.splitlines() if re.search(r"\bhost\b", line)]
    command = [reef, "run", folder / "model.onnx", "--json", "--cus", "1", "--output-dir", folder / "out"]
    (folder / "out").mkdir(exist_ok=True)
    for index, array in enumerate(inputs):
        np.save(folder / f"x{index}.npy", array)
        command += ["--input", f"x{index}={folder / f'x{index}.npy'}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    if done.returncode:
        return None, done.stderr.strip().splitlines()[0]
    return np.load(folder / "out" / json.loads(done.stdout)["outputs"]["y"]), hosted


def difference(operator, got, want, x):
    if want.dtype == ml_dtypes.bfloat16 and got.dtype != want.dtype:
        got = got.view(want.dtype) if got.dtype == np.uint16 else got  # as reef writes it
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{got.shape}, expected {want.dtype}{want.shape}"
    if not kind(want.dtype):
        wrong = got != want
    else:
        a, b = got.astype(np.float64), want.astype(np.float64)
        eps = float(ml_dtypes.finfo(want.dtype).eps)
        limit = 4 * eps * np.abs(b) + 4 * float(ml_dtypes.finfo(want.dtype).smallest_subnormal)
        if operator in LOOSE:
            size = np.abs(np.nan_to_num(x.astype(np.float64), posinf=0, neginf=0))
            limit = limit + max(4 * eps, 1e-7) * np.maximum(size, np.abs(b))
        finite = np.isfinite(b)
        near = np.abs(np.where(finite, a, 0) - np.where(finite, b, 0)) <= limit
        same = np.where(finite, near & np.isfinite(a), (a == b) | (np.isnan(a) & np.isnan(b)))
        zeros = (a == 0) & (b == 0) & (np.signbit(a) != np.signbit(b))
        wrong = ~same | (zeros & (operator in SIGNED_ZEROS))
    places = np.flatnonzero(wrong)[:3]
    return "; ".join(f"[{at}] {got[at]!r}, expected {want[at]!r}" for at in places)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--operators", type=oracle.names, default=[], help="only these")
    args = parser.parse_args()
    counts, failed = {"same": 0}, 0
    for operator, attributes, inputs in cases():
        if args.operators and operator not in args.operators:
            continue
        what = f"{operator} {attributes or ''} of {', '.join(str(x.dtype) for x in inputs)}"
        try:
            want, who = reference(model_of(operator, attributes, inputs), inputs)
        except Exception as error:  # neither has it
            counts["without a reference"] = counts.get("without a reference", 0) + 1
            print(f"no reference  {what}: {str(error).splitlines()[0][:100]}")
            continue
        code = helper.np_dtype_to_tensor_dtype(want.dtype)
        model = model_of(operator, attributes, inputs, helper.make_tensor_value_info("y", code, want.shape))
        with tempfile.TemporaryDirectory(prefix="reef-elements-") as work:
            folder = pathlib.Path(work)
            onnx.save(model, folder / "model.onnx")
            got, more = run_reef(args.reef, folder, inputs)
        if got is None:
            failed, why = failed + 1, f"refused: {more}"
        elif more:
            failed, why = failed + 1, f"on the host: {more[0]}"
        else:
            why = difference(operator, got, want, inputs[0])
            if why and (operator, str(want.dtype)) in DEPARTS:
                why, counts["departs"] = "", counts.get("departs", 0) + 1
                counts["same"] -= 1
            failed += bool(why)
            counts["same"] += not why
        if why:
            print(f"{what}: {why} ({who})", flush=True)
    print(f"{counts}, {failed} fail")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
