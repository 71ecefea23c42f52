"""Meaningful inputs and attribute values for every operator that reef may load.

A recipe says how a node is built without anything optional (`inputs`, `base`), which values other than the default
show that an attribute is honoured (`values`), and what each optional input may be (`optional`). Operators whose form
changed have one recipe for each form, told apart by the schema's version (`since`).
"""

import zlib
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RECIPES = {}


@dataclass
class Const:
    """An input that an initializer provides."""

    array: np.ndarray


@dataclass
class Value:
    """A value of an attribute, with what else of the node it needs."""

    value: object
    attrs: dict = field(default_factory=dict)  # None removes one
    inputs: dict = field(default_factory=dict)  # None removes one
    outputs: int | None = None
    same: str = ""  # why the answer does not change
    opsets: tuple = (0, 99)
    judge: str = ""  # instead of the recipe's


@dataclass
class Recipe:
    inputs: list
    base: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    optional: dict = field(default_factory=dict)  # index -> array, Const, or (array, {other index: array})
    outputs: int = 1
    since: tuple = (0, 99)
    judge: str = "close"  # or "sorted" where any order is right; of random values "moments" or "shape"
    free: dict = field(default_factory=dict)  # inputs that only graphs within read


def recipe(operators, *args, **kwargs):
    for operator in operators.split():
        RECIPES.setdefault(operator, []).append(Recipe(*args, **kwargs))


def floats(*shape, low=None, high=None, dtype=np.float32):
    rng = np.random.default_rng(zlib.crc32(repr((shape, low, high)).encode()))
    if low is None:
        return np.asarray(rng.standard_normal(shape), dtype)
    return np.asarray(rng.uniform(low, high, shape), dtype)


def ints(*shape, low=0, high=10, dtype=np.int64):
    return np.asarray(np.random.default_rng(zlib.crc32(repr(shape).encode())).integers(low, high, shape), dtype)


def bools(*shape):
    return ints(*shape, high=2).astype(np.bool_)


def i64(*values):
    return Const(np.array(values, np.int64))


def scalar(value, dtype=np.float32):
    return Const(np.array(value, dtype))


def vector(*values, dtype=np.float32):
    return Const(np.array(values, dtype))


def tensor(value, dtype):
    return numpy_helper.from_array(np.array([value], dtype))


# Element-wise operators and others without attributes.

X = floats(2, 3, 4)
recipe("Abs Atan Asinh Ceil Cos Cosh Erf Exp Floor HardSwish Identity IsNaN Mish Neg Relu Round Sigmoid Sign Sin Sinh "
       "Size Softplus Softsign Tan Tanh", [X])
recipe("Acos Asin Atanh", [floats(2, 3, low=-0.9, high=0.9)])
recipe("Acosh", [floats(2, 3, low=1.1, high=4)])
recipe("Log Sqrt Reciprocal", [floats(2, 3, low=0.2, high=4)])
recipe("Equal", [ints(3, 4), ints(4)])
recipe("Add Sub Mul Greater Less GreaterOrEqual LessOrEqual", [X, floats(3, 4)])
recipe("Div", [X, floats(3, 4, low=0.5, high=2)])
recipe("Pow", [floats(2, 3, low=0.2, high=4), floats(2, 3)])
recipe("And Or Xor", [bools(3, 4), bools(2, 3, 4)])
recipe("Not", [bools(3, 4)])
recipe("BitwiseAnd BitwiseOr BitwiseXor", [ints(3, 4, high=99, dtype=np.int32), ints(4, high=99, dtype=np.int32)])
recipe("BitwiseNot", [ints(3, 4, high=99, dtype=np.int32)])
recipe("Max Min Mean Sum", [X, floats(2, 3, 4, low=-1, high=1), floats(2, 3, 4, low=0, high=1)])
recipe("Expand", [floats(3, 1), i64(2, 3, 4)])
recipe("MatMul", [floats(2, 3, 4), floats(4, 5)])
recipe("PRelu", [X, floats(3, 1)])
recipe("Tile", [floats(2, 3), i64(2, 1)])
recipe("Where", [bools(3, 4), X, floats(4)])
recipe("GlobalAveragePool GlobalMaxPool", [floats(2, 3, 4, 5)])
recipe("NonZero", [floats(2, 3)])
recipe("Range", [scalar(1), scalar(9), scalar(2)], values={
    "stash_type": [Value(11, same="the sum is exact in both types")]})
recipe("BitShift", [ints(3, 4, high=200, dtype=np.uint8), ints(3, 4, high=4, dtype=np.uint8)],
       {"direction": "LEFT"}, {"direction": ["RIGHT"]})
recipe("IsInf", [np.array([[1, np.inf, -np.inf], [np.nan, 0, np.inf]], np.float32)], values={
    "detect_negative": [0], "detect_positive": [0]})
recipe("Mod", [ints(3, 4, low=-9, high=9), ints(4, low=1, high=5)], values={"fmod": [
    1, Value(1, inputs={0: floats(3, 4), 1: floats(4, low=0.3, high=0.9)}, same="needed for floats")]})

# Activations.

recipe("Celu Elu Selu Swish LeakyRelu ThresholdedRelu HardSigmoid", [X], values={
    "alpha": [0.5, 2.0], "beta": [0.1], "gamma": [0.7]})
recipe("Gelu", [X], values={"approximate": ["tanh"]})
recipe("SwiGLU", [X, floats(2, 3, 4, low=-1, high=1)], values={"alpha": [0.5]})
recipe("Shrink", [X], values={"bias": [0.3], "lambd": [0.2]})
recipe("Softmax LogSoftmax", [X], values={"axis": [0, 2, Value(-3, opsets=(11, 99))]}, since=(1, 12))
recipe("Softmax LogSoftmax", [X], values={"axis": [0, 1, -2]}, since=(13, 99))
PEAKS = np.array([[[1, 5], [7, 2], [3, 3]], [[9, 0], [1, 8], [4, 4]]], np.float32)
recipe("Hardmax", [PEAKS], values={"axis": [0, 2, Value(-3, opsets=(11, 99))]}, since=(1, 12))
recipe("Hardmax", [PEAKS], values={"axis": [0, 1, -2]}, since=(13, 99))
recipe("Clip", [X], values={"min": [-0.5], "max": [0.5]}, since=(6, 10))
recipe("Clip", [X], optional={1: scalar(-0.5), 2: scalar(0.5)}, since=(11, 99))

# Casts and constants.

CASTS = [TensorProto.INT32, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT8,
         TensorProto.STRING, TensorProto.INT16]  # NumPy has no bfloat16: the node tests have it
NO_FLOAT8 = "it says something of 8-bit floats only"
recipe("Cast", [floats(3, 4, low=0.1, high=90)], {"to": TensorProto.INT64}, {
    "to": CASTS, "saturate": [Value(0, {"to": TensorProto.FLOAT8E4M3FN}, {0: floats(3, 4, low=100, high=9000)})],
    # The others are of FLOAT8E8M0, which ONNX Runtime does not give out.
    "round_mode": [Value("up", same="the default")]})
recipe("BitCast", [floats(3, 4)], {"to": TensorProto.INT32}, {"to": [TensorProto.UINT32]})
SPARSE = helper.make_sparse_tensor(
    helper.make_tensor("values", TensorProto.FLOAT, [2], [3.0, 4.0]),
    helper.make_tensor("indices", TensorProto.INT64, [2], [1, 4]), [6])
ONE = {"value": None}
recipe("Constant", [], {"value": numpy_helper.from_array(floats(2, 3))}, {
    "value": [numpy_helper.from_array(ints(4)), tensor(True, np.bool_), tensor(1.5, np.float64),
              tensor(2, np.uint8)],
    "sparse_value": [Value(SPARSE, ONE)], "value_float": [Value(1.5, ONE)], "value_floats": [Value([1.5, 2.5], ONE)],
    "value_int": [Value(7, ONE)], "value_ints": [Value([7, 8], ONE)], "value_string": [Value("a", ONE)],
    "value_strings": [Value(["a", "b"], ONE)]})
recipe("ConstantOfShape", [i64(2, 3)], values={"value": [
    tensor(1.5, np.float32), tensor(7, np.int64), tensor(True, np.bool_), tensor(2.5, np.float64),
    tensor(3, np.uint8), tensor(0.5, np.float16), tensor(-4, np.int32)]})
recipe("EyeLike", [floats(3, 4)], values={"dtype": [TensorProto.INT64, TensorProto.DOUBLE], "k": [1, -1]})

# Shapes and indices.

recipe("ArgMax ArgMin", [np.array([[3, 1, 3, 1], [0, 0, 2, 2], [3, 1, 2, 1]], np.float32)], values={
    "axis": [1, -1], "keepdims": [0], "select_last_index": [1, Value(1, {"axis": 1})]})
recipe("Unique", [np.array([[1, 2], [1, 2], [0, 1]], np.float32)], values={"axis": [0, -1], "sorted": [0]})
recipe("Compress", [floats(3, 4), Const(np.array([False, True, True]))], values={"axis": [0, 1, -1]})
recipe("Concat", [floats(2, 2), floats(2, 2, low=0, high=1)], {"axis": 0}, {"axis": [1, -1]})
recipe("DepthToSpace", [floats(1, 16, 2, 2)], {"blocksize": 2}, {"blocksize": [4], "mode": ["CRD"]})
recipe("SpaceToDepth", [floats(1, 2, 4, 4)], {"blocksize": 2}, {"blocksize": [4], "mode": ["CRD"]})
recipe("Flatten", [X], values={"axis": [0, 2, Value(-1, opsets=(11, 99))]})
recipe("Gather", [floats(3, 4), ints(2, 2, high=3)], values={"axis": [1, -1]})
recipe("GatherElements", [floats(3, 3), ints(2, 2, high=2)], values={"axis": [1, -1]})
recipe("GatherND", [floats(2, 2, 2), Const(np.array([[1], [0]]))], values={"batch_dims": [1]})
recipe("OneHot", [ints(3, high=4), scalar(4, np.int64), vector(-1, 2)], values={"axis": [0]})
recipe("Reshape", [X, i64(0, -1)], values={"allowzero": [
    Value(1, inputs={0: np.zeros((2, 0, 3), np.float32), 1: i64(0, 0, 4)}),
    Value(1, inputs={1: i64(4, -1)}, same="there is no zero")]})
recipe("Scatter", [floats(3, 3), ints(2, 2, high=2), floats(2, 2)], values={"axis": [1, -1]})
DISTINCT = Const(np.array([[0, 1], [2, 0]]))
recipe("ScatterElements", [floats(3, 3), DISTINCT, floats(2, 2)], values={
    "axis": [1, -1], "reduction": ["add", "mul", Value("min", opsets=(18, 99)), Value("max", opsets=(18, 99))]})
recipe("ScatterND", [floats(4, 3), Const(np.array([[1], [3]])), floats(2, 3)], values={
    "reduction": ["add", "mul", Value("min", opsets=(18, 99)), Value("max", opsets=(18, 99))]})
recipe("Shape", [X], values={"start": [1, -1, Value(-9, same="clamped"), 9], "end": [2, -1, Value(9, same="clamped")]})
recipe("Slice", [X], {"starts": [0, 1], "ends": [1, 3]}, {
    "starts": [[1, 0], [-1, -2]], "ends": [[2, 2], [-1, -1]], "axes": [[1, 2], [2, 0], [-1, -2]]}, since=(1, 9))
recipe("Slice", [X, i64(0, 2), i64(1, 4)], optional={
    3: (i64(1, 2), {}), 4: (i64(1, -1), {1: i64(0, 2), 2: i64(1, 0), 3: i64(1, 2)})}, since=(10, 99))
recipe("Split", [floats(4, 6)], {}, {"axis": [1, -1], "split": [[1, 3]]}, outputs=2, since=(2, 12))
recipe("Split", [floats(4, 6)], {}, {"axis": [1, -1]}, {1: i64(1, 3)}, outputs=2, since=(13, 17))
recipe("Split", [floats(4, 6), i64(1, 3)], {}, {
    "axis": [Value(1, inputs={1: i64(2, 4)}, attrs={}), Value(-1, inputs={1: i64(2, 4)})],
    "num_outputs": [Value(2, inputs={1: None}),
                    Value(2, {"axis": 1}, {0: floats(4, 5), 1: None})]},
       {1: i64(1, 3)}, outputs=2, since=(18, 99))
recipe("Squeeze", [floats(1, 3, 1)], {}, {"axes": [[0], [-1]]}, since=(1, 12))
recipe("Squeeze", [floats(1, 3, 1)], optional={1: i64(2)}, since=(13, 99))
recipe("Unsqueeze", [floats(2, 3)], {"axes": [0]}, {"axes": [[1], [0, 3], [-1]]}, since=(1, 12))
recipe("Unsqueeze", [floats(2, 3), i64(-1, 0)], since=(13, 99))
recipe("TopK", [floats(3, 5)], {"k": 2}, {"axis": [0], "k": [3]}, outputs=2, since=(1, 9))
recipe("TopK", [floats(3, 5), i64(2)], {}, {
    "axis": [0], "largest": [0], "sorted": [Value(0, same="any order is right", judge="sorted")]}, outputs=2, since=(10, 99))
recipe("Transpose", [X], values={"perm": [[1, 0, 2], [0, 2, 1]]})
recipe("Trilu", [floats(2, 4, 4)], values={"upper": [0]}, optional={1: scalar(1, np.int64)})
recipe("NonMaxSuppression", [floats(1, 6, 4, low=0, high=1), floats(1, 2, 6, low=0, high=1)], values={
    "center_point_box": [Value(1, inputs={2: i64(3)})]},
       optional={2: i64(3), 3: (vector(0.5), {2: i64(3)}), 4: (vector(0.3), {2: i64(3)})})
PADS = [1, 2, 1, 0]
recipe("Pad", [floats(3, 4)], {"pads": PADS}, {
    "mode": ["reflect", "edge"], "pads": [[0, 1, 2, 1], [-1, 0, 1, -1]], "value": [1.5]}, since=(2, 10))
recipe("Pad", [floats(3, 4), i64(*PADS)], {}, {"mode": ["reflect", "edge", Value("wrap", opsets=(19, 99))]}, {
    2: scalar(1.5), 3: (i64(1), {1: i64(1, 2)})}, since=(11, 99))

# Convolutions and pools.

POOLED = floats(1, 2, 8, 8)
AUTO_PAD = [Value("SAME_UPPER", {"strides": [2, 2]}), Value("SAME_LOWER", {"strides": [2, 2]}),
            Value("SAME_UPPER"), Value("VALID", same="no padding either way"),
            Value("SAME_UPPER", {"pads": [0, 0, 0, 0]}), Value("VALID", {"pads": [1, 1, 1, 1]}),
            Value("SAME_UPPER", {"dilations": [2, 2]}, opsets=(10, 99))]
PADDING = {"auto_pad": AUTO_PAD, "pads": [[1, 0, 0, 1], [1, 1, 1, 1]], "strides": [[2, 1], [2, 3]]}
CEIL = [Value(1, {"strides": [2, 2]}), Value(1, {"strides": [3, 3], "pads": [0, 1, 0, 1]}),
        Value(1, {"strides": [2, 2], "auto_pad": "VALID"}, same="the standard's extent is that of both modes")]
recipe("AveragePool", [POOLED], {"kernel_shape": [3, 3]}, {
    **PADDING, "kernel_shape": [[2, 3], [3, 2]], "ceil_mode": CEIL, "dilations": [[2, 2], [1, 2]],
    "count_include_pad": [Value(1, {"pads": [1, 1, 1, 0]}), Value(1, {"auto_pad": "SAME_UPPER"}),
                          Value(1, {"pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1}, opsets=(10, 99))]})
recipe("MaxPool", [POOLED], {"kernel_shape": [3, 3]}, {
    **PADDING, "kernel_shape": [[2, 3], [3, 2]], "ceil_mode": CEIL, "dilations": [[2, 2], [1, 2]],
    "storage_order": [Value(1, outputs=2)]})
UNPOOLED = [floats(1, 1, 2, 2), Const(np.array([[[[5, 7], [13, 15]]]]))]
recipe("MaxUnpool", UNPOOLED, {"kernel_shape": [2, 2], "strides": [2, 2]}, {
    "kernel_shape": [[3, 4]], "strides": [[3, 2]], "pads": [Value([0, 0, 1, 0], {"strides": [4, 2]})]},
       optional={2: i64(1, 1, 6, 4)})  # with more rows alone places mean the same to all
recipe("GlobalLpPool", [POOLED], values={"p": [1, 3]})
recipe("LpPool", [POOLED], {"kernel_shape": [3, 3]}, {
    **PADDING, "kernel_shape": [[2, 3], [3, 2]], "ceil_mode": CEIL, "dilations": [[2, 2], [1, 2]], "p": [1, 3]})
W = floats(6, 4, 3, 3)
GROUP = Value(2, inputs={1: floats(6, 2, 3, 3)})
CONV_X = floats(1, 4, 8, 8)
CONV = {**PADDING, "dilations": [[2, 1], [2, 2]], "kernel_shape": [Value([3, 3], same="that of the weights")]}
recipe("Conv", [CONV_X, W], values={
    **CONV, "group": [Value(2, inputs={0: floats(1, 8, 8, 8)}), Value(4, inputs={0: CONV_X, 1: floats(8, 1, 3, 3)})]},
       optional={2: floats(6)})
BYTES = ints(1, 4, 8, 8, high=255, dtype=np.uint8)
BYTE_W = ints(6, 4, 3, 3, high=255, dtype=np.uint8)
recipe("ConvInteger", [BYTES, BYTE_W], values={
    **CONV, "group": [Value(2, inputs={0: ints(1, 8, 8, 8, high=255, dtype=np.uint8)})]},
       optional={2: scalar(100, np.uint8), 3: scalar(120, np.uint8)})
recipe("QLinearConv", [BYTES, scalar(0.02), scalar(120, np.uint8), Const(BYTE_W), scalar(0.03), scalar(110, np.uint8),
                       scalar(0.5), scalar(100, np.uint8)], values={
    **CONV, "group": [Value(2, inputs={0: ints(1, 8, 8, 8, high=255, dtype=np.uint8)})]},
       optional={8: Const(ints(6, low=-500, high=500, dtype=np.int32))})
recipe("ConvTranspose", [floats(1, 6, 4, 4), W], values={
    "auto_pad": [Value("SAME_UPPER", {"strides": [2, 2]}), Value("SAME_LOWER", {"strides": [2, 2]}),
                 Value("VALID", same="no padding either way"), Value("SAME_UPPER")],
    "pads": [[1, 0, 0, 1]], "strides": [[2, 1]], "dilations": [[2, 1]],
    "kernel_shape": [Value([3, 3], same="that of the weights")], "group": [Value(2), Value(3)],
    "output_padding": [Value([1, 0], {"strides": [2, 2]})],
    "output_shape": [Value([9, 8], {"strides": [2, 2]}), Value([7, 8], {"strides": [2, 2], "auto_pad": "SAME_UPPER"})]},
       optional={2: floats(4)})

# Matrices and quantisation.

recipe("Gemm", [floats(3, 3), floats(3, 3, low=0, high=1), floats(3)], values={
    "alpha": [0.5], "beta": [0.5], "transA": [1], "transB": [1]}, since=(7, 10))
recipe("Gemm", [floats(3, 3), floats(3, 3, low=0, high=1)], values={
    "alpha": [0.5], "beta": [Value(0.5, inputs={2: floats(3)}), Value(0.0, inputs={2: floats(3, 3, low=5, high=6)})],
    "transA": [1], "transB": [1]}, optional={2: floats(3)}, since=(11, 99))
A8, B8 = ints(3, 4, high=255, dtype=np.uint8), ints(4, 3, high=255, dtype=np.uint8)
recipe("MatMulInteger", [A8, B8], optional={2: scalar(100, np.uint8), 3: scalar(120, np.uint8)})
recipe("QLinearMatMul", [A8, scalar(0.02), scalar(120, np.uint8), B8, scalar(0.03), scalar(110, np.uint8),
                         scalar(0.3), scalar(100, np.uint8)])
recipe("Einsum", [floats(3, 3), floats(3, 3, low=0, high=1)], {"equation": "ij,jk->ik"}, {
    "equation": ["ij,kj->ik", "ij,ij->ij", "ij,ij->", "ii,jk->ik", "ij,jk->ki", "...i,ij->...",
                 Value("ij,jk", same="the same, implied"), Value("...j,jk->...k", same="no more axes")]})
Q = ints(4, 4, high=255, dtype=np.uint8)
SCALES = Const(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
BLOCKS = Const(np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]], np.float32))
recipe("DequantizeLinear", [Q, scalar(0.1)], values={
    "axis": [Value(0, inputs={1: SCALES}), Value(-2, inputs={1: SCALES})],
    "block_size": [Value(2, {"axis": 0}, {1: BLOCKS})],
    "output_dtype": [Value(TensorProto.FLOAT16), Value(TensorProto.FLOAT, same="the type of the scale")]},
       optional={2: scalar(100, np.uint8)})
recipe("QuantizeLinear", [floats(4, 4, low=0, high=9), scalar(0.1)], values={
    "axis": [Value(0, inputs={1: SCALES}), Value(-2, inputs={1: SCALES})],
    "block_size": [Value(2, {"axis": 0}, {1: BLOCKS})],
    "output_dtype": [TensorProto.INT8, Value(TensorProto.UINT8, same="the default"), TensorProto.INT16],
    "saturate": [Value(0, same=NO_FLOAT8)], "precision": [Value(TensorProto.FLOAT, same="exact either way")]},
       optional={2: scalar(100, np.uint8)})
recipe("DynamicQuantizeLinear", [floats(3, 4)], outputs=3)

# Normalisations and reductions.

STASH = [Value(TensorProto.FLOAT16, same="ONNX Runtime does not look at it"),
         Value(TensorProto.DOUBLE, same="more digits only")]
recipe("BatchNormalization", [X, floats(3), floats(3, low=0, high=1), floats(3, low=-1, high=1),
                              floats(3, low=0.2, high=1)], values={
    "epsilon": [0.3], "momentum": [Value(0.5, same="training only"), Value(0.5, {"training_mode": 1}, outputs=3,
                                                                           opsets=(14, 99))],
    "spatial": [Value(0, inputs={1: floats(3, 4), 2: floats(3, 4, low=0, high=1), 3: floats(3, 4, low=-1, high=1),
                                 4: floats(3, 4, low=0.2, high=1)})],
    "training_mode": [Value(1, outputs=3)]})
recipe("InstanceNormalization", [X, floats(3), floats(3, low=0, high=1)], values={"epsilon": [0.3]})
recipe("GroupNormalization", [floats(2, 4, 3), floats(2), floats(2, low=0, high=1)], {"num_groups": 2}, {
    "epsilon": [0.3], "num_groups": [Value(4, inputs={1: floats(4), 2: floats(4, low=0, high=1)})]}, since=(18, 20))
recipe("GroupNormalization", [floats(2, 4, 3), floats(4), floats(4, low=0, high=1)], {"num_groups": 2}, {
    "epsilon": [0.3], "num_groups": [4, 1],
    "stash_type": STASH}, since=(21, 99))
recipe("LayerNormalization", [X, floats(4)], values={
    "epsilon": [0.3], "axis": [Value(1, inputs={1: floats(3, 4)}), Value(-3, inputs={1: X * 2})],
    "stash_type": STASH},
       optional={2: floats(4, low=0, high=1)})
recipe("RMSNormalization", [X, floats(4)], values={
    "epsilon": [0.3], "axis": [Value(1, inputs={1: floats(3, 4)}), Value(-3, inputs={1: X * 2})],
    "stash_type": STASH})
recipe("LRN", [floats(2, 5, 3, 2)], {"size": 3}, {"alpha": [0.5], "beta": [0.5], "bias": [2.0],
                                               "size": [Value(5, {"alpha": 0.5})]})
recipe("LpNormalization", [X], values={"axis": [0, 1], "p": [1]})
recipe("MeanVarianceNormalization", [floats(2, 3, 4, 2)], values={"axes": [[1, 2], [0, 1, 2, 3], [-2]]})
REDUCED = floats(2, 3, 4, low=0.2, high=2)
REDUCE = ("ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
          "ReduceSumSquare")
BY_ATTRIBUTE = {"axes": [[1], [0, 2], [-1]], "keepdims": [0, Value(0, {"axes": [1]})]}
BY_INPUT = {"keepdims": [0, Value(0, inputs={1: i64(1)})],
            "noop_with_empty_axes": [1, Value(1, inputs={1: i64()}), Value(1, inputs={1: i64(1)}, same="not empty")]}
recipe(REDUCE, [REDUCED], {}, BY_ATTRIBUTE, since=(1, 17))
recipe(REDUCE, [REDUCED], {}, BY_INPUT, {1: i64(-1)}, since=(18, 99))
recipe("ReduceSum", [REDUCED], {}, BY_ATTRIBUTE, since=(1, 12))
recipe("ReduceSum", [REDUCED], {}, BY_INPUT, {1: i64(-1)}, since=(13, 99))
recipe("CumSum CumProd", [floats(3, 4), scalar(0, np.int64)], values={
    "exclusive": [1, Value(1, {"reverse": 1})], "reverse": [1]})
LABELS = Const(np.array([1, 0, 4, 0, 2]))
LOSS = {"ignore_index": [0], "reduction": ["none", "sum"]}
recipe("NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss", [floats(5, 6), LABELS], values=LOSS,
       optional={2: floats(6, low=0.2, high=2)})
recipe("NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss", [floats(2, 6, 3), Const(np.array([[1, 0, 5], [2, 0, 3]]))],
       values=LOSS, optional={2: floats(6, low=0.2, high=2)})

# Attention, and what it keeps.

QKV = [floats(1, 2, 3, 4), floats(1, 2, 5, 4), floats(1, 2, 5, 4, low=-1, high=1)]
FLAT = {0: floats(1, 3, 8), 1: floats(1, 5, 8), 2: floats(1, 5, 8, low=-1, high=1)}
PAST = {4: floats(1, 2, 2, 4), 5: floats(1, 2, 2, 4, low=-1, high=1)}
BY_HEADS = Value(2, {"q_num_heads": 2, "kv_num_heads": 2}, FLAT)
recipe("Attention", QKV, values={
    "is_causal": [1, Value(1, inputs=PAST)], "scale": [0.3], "softcap": [0.5],
    "left_window_size": [Value(1, {"is_causal": 1})], "right_window_size": [1],
    "qk_matmul_output_mode": [Value(1, {"softcap": 0.5}, outputs=4), Value(2, {"softcap": 0.5}, outputs=4),
                              Value(3, {"softcap": 0.5, "is_causal": 1}, outputs=4)],
    "softmax_precision": [Value(kind, same="more or fewer digits only")
                          for kind in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)],
    "q_num_heads": [BY_HEADS], "kv_num_heads": [BY_HEADS]},
       optional={3: floats(3, 5), 4: (PAST[4], {5: PAST[5]}), 5: (PAST[5], {4: PAST[4]}),
                 6: (Const(np.array([3])), {3: None})}, outputs=3)
BY_KEY = -floats(2, 4, 4, low=0.1, high=0.5)
recipe("LinearAttention", [floats(2, 4, 4), floats(2, 4, 4, low=-0.5, high=0.5), floats(2, 4, 6), None, BY_KEY,
                           floats(2, 4, 2, low=0, high=1)], {"q_num_heads": 2, "kv_num_heads": 2}, {
    "update_rule": [Value("linear", inputs={4: None, 5: None}), Value("gated", inputs={5: None}),
                    Value("delta", inputs={4: None})],
    "scale": [0.3], "chunk_size": [Value(2, same="how it is computed, not what")],
    "q_num_heads": [Value(4, {"kv_num_heads": 2}, {0: floats(2, 4, 8)})],
    "kv_num_heads": [Value(1, {"q_num_heads": 2}, {1: floats(2, 4, 2, low=-0.5, high=0.5), 2: floats(2, 4, 3),
                                                   4: BY_KEY[:, :, :2], 5: floats(2, 4, 1, low=0, high=1)})]},
       {3: floats(2, 2, 2, 3), 4: BY_KEY, 5: floats(2, 4, 2, low=0, high=1)}, outputs=2)
recipe("CausalConvWithState", [floats(2, 4, 8), floats(4, 1, 3)], {}, {"activation": ["silu", "swish"]}, {
    2: floats(4), 3: floats(2, 4, 2)}, outputs=2)
recipe("TensorScatter", [floats(2, 6, 3), floats(2, 2, 3, low=0, high=1)], values={
    "axis": [Value(1, same="that of the default"), Value(1, inputs={0: floats(2, 6, 2, 3), 1: floats(2, 2, 2, 3)})],
    "mode": [Value("circular", inputs={2: i64(5, 1)})]}, optional={2: Const(np.array([3, 1]))})

# Images and signals.

IMAGE = floats(1, 2, 4, 5)
recipe("Upsample", [IMAGE], {"scales": [1.0, 1.0, 2.0, 1.5]},
       {"mode": ["linear"], "scales": [[1.0, 1.0, 2.0, 2.0]]}, since=(7, 8))
recipe("Upsample", [IMAGE, vector(1, 1, 2, 1.5)], values={"mode": ["linear"]}, since=(9, 9))
recipe("Resize", [IMAGE, vector(1, 1, 2, 1.5)], values={"mode": ["linear"]}, since=(10, 10))
UP, DOWN = vector(1, 1, 2, 1.6), vector(1, 1, 0.6, 0.7)
COORDINATES = ["asymmetric", "align_corners"]
LINEAR = {"mode": "linear"}


def resize(scales, **more):
    roi = vector(0, 0, 0.1, 0.2, 1, 1, 0.7, 0.8)
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear"}
    return {
        "mode": ["linear", "cubic", Value("linear", inputs={scales: DOWN}), Value("cubic", inputs={scales: DOWN})],
        "coordinate_transformation_mode": [
            *[Value(mode, attrs, {scales: by}) for mode in COORDINATES for attrs in ({}, LINEAR, {"mode": "cubic"})
              for by in (UP, DOWN) if attrs or by is DOWN],
            Value("pytorch_half_pixel", LINEAR, {scales: vector(1, 1, 0.25, 2)}),
            Value("tf_crop_and_resize", LINEAR, {1: roi}),
            Value("half_pixel_symmetric", LINEAR, {scales: vector(1, 1, 1.3, 0.7)}, opsets=(19, 99))],
        "cubic_coeff_a": [Value(-0.5, {"mode": "cubic"})],
        "exclude_outside": [Value(1, {"mode": "cubic"})],
        "extrapolation_value": [Value(3.5, crop, {1: vector(0, 0, -0.2, 0, 1, 1, 0.7, 1.2)})],
        "nearest_mode": [Value("round_prefer_ceil", {"coordinate_transformation_mode": "asymmetric"}), "floor", "ceil"],
        **more}


recipe("Resize", [IMAGE, vector(), UP], values=resize(2), optional={3: (i64(1, 2, 7, 3), {2: vector()})},
       since=(11, 12))
recipe("Resize", [IMAGE, None, UP], values=resize(2), optional={
    1: (vector(0, 0, 0.1, 0.2, 1, 1, 0.7, 0.8), {}), 3: (i64(1, 2, 7, 3), {2: None})}, since=(13, 17))
recipe("Resize", [IMAGE, None, UP], values=resize(
    2, antialias=[Value(1, LINEAR, {2: DOWN}), Value(1, {"mode": "cubic"}, {2: DOWN})],
    axes=[Value([2, 3], inputs={2: vector(2, 1.6)}, same="the others have scale 1"),
          Value([3, 2], inputs={2: vector(2, 1.6)}), Value([-1], inputs={2: vector(2)})],
    keep_aspect_ratio_policy=[Value("not_larger", inputs={2: None, 3: i64(1, 2, 9, 9)}, attrs={}),
                              Value("not_smaller", inputs={2: None, 3: i64(9, 9)}, attrs={"axes": [2, 3]})]),
       optional={1: (vector(0, 0, 0.1, 0.2, 1, 1, 0.7, 0.8), {}), 3: (i64(1, 2, 7, 3), {2: None})}, since=(18, 99))
GRID = [floats(1, 2, 4, 5), floats(1, 3, 3, 2, low=-1.3, high=1.3)]
GRID_VALUES = {"align_corners": [1], "padding_mode": ["border", "reflection"]}
recipe("GridSample", GRID, values={**GRID_VALUES, "mode": [
    "nearest", "bicubic", Value("bicubic", {"padding_mode": "border"}), Value("bicubic", {"padding_mode": "reflection"}),
    Value("bicubic", {"align_corners": 1})]}, since=(16, 19))
recipe("GridSample", GRID, values={**GRID_VALUES, "mode": [
    "nearest", "cubic", Value("cubic", {"padding_mode": "border"}), Value("cubic", {"padding_mode": "reflection"}),
    Value("cubic", {"align_corners": 1})]}, since=(20, 99))
recipe("AffineGrid", [floats(1, 2, 3), i64(1, 3, 4, 5)], values={"align_corners": [1]})
recipe("CenterCropPad", [floats(3, 5), i64(2, 8)], values={
    "axes": [[1, 0], Value([-1], inputs={1: i64(2)}), Value([0], inputs={1: i64(6)})]})
recipe("ReverseSequence", [floats(4, 3, 2), Const(np.array([2, 4, 1]))], values={
    "batch_axis": [Value(0, {"time_axis": 1}, {1: Const(np.array([2, 3, 1, 3]))})],
    "time_axis": [Value(1, {"batch_axis": 0}, {1: Const(np.array([2, 3, 1, 3]))})]})
REGIONS = [floats(2, 3, 8, 9), Const(np.array([[0, 0, 5, 4], [1.5, 2.25, 6, 7.5], [-1, -1, 9, 9]], np.float32)),
           i64(0, 1, 0)]
BINS = {"output_height": 3, "output_width": 2}
REGION_VALUES = {"mode": ["max", Value("max", {"sampling_ratio": 2})], "output_height": [1, 4], "output_width": [1, 5],
                 "sampling_ratio": [1, 2, 3], "spatial_scale": [0.6, Value(0.6, {"mode": "max"})]}
recipe("RoiAlign", REGIONS, BINS, REGION_VALUES, since=(10, 15))
recipe("RoiAlign", REGIONS, BINS, {**REGION_VALUES, "coordinate_transformation_mode": [
    "output_half_pixel", Value("output_half_pixel", {"mode": "max"})]}, since=(16, 99))
recipe("Col2Im", [floats(2, 18, 16), i64(5, 7), i64(2, 3)], {"strides": [1, 2], "pads": [0, 1, 0, 1]}, {
    "strides": [Value([2, 1], {"pads": [0, 0, 2, 0]}, {0: floats(2, 18, 15)})],
    "pads": [Value([1, 0, 1, 0], inputs={0: floats(2, 18, 18)})],
    "dilations": [Value([2, 1], {"pads": [1, 1, 0, 1]})]})
recipe("Det", [floats(2, 3, 4, 4)])
MOVED = [floats(1, 4, 6, 7), floats(4, 4, 3, 2), floats(1, 12, 4, 6, low=-2, high=2)]
recipe("DeformConv", MOVED, {"kernel_shape": [3, 2]}, {
    "dilations": [Value([1, 2], inputs={2: floats(1, 12, 4, 5, low=-2, high=2)})],
    "group": [Value(2, inputs={1: floats(4, 2, 3, 2)})],
    "kernel_shape": [Value(None, same="the weights say so")],
    "offset_group": [Value(2, inputs={2: floats(1, 24, 4, 6, low=-2, high=2)})],
    "pads": [Value([1, 0, 0, 1], inputs={2: floats(1, 12, 5, 7, low=-2, high=2)})],
    "strides": [Value([2, 1], inputs={2: floats(1, 12, 2, 6, low=-2, high=2)})]},
       optional={3: floats(4), 4: (floats(1, 6, 4, 6, low=0, high=1), {3: floats(4)})})
SIGNAL = floats(2, 6, 5, 1)
COMPLEX = floats(2, 6, 5, 2)
INVERSE = [1, Value(1, inputs={0: COMPLEX})]
ONESIDED = [1, Value(1, {"inverse": 1}, {0: COMPLEX})]
recipe("DFT", [SIGNAL], values={"axis": [2, -2], "inverse": INVERSE, "onesided": ONESIDED},
       optional={1: scalar(4, np.int64)}, since=(17, 19))
recipe("DFT", [SIGNAL], values={"inverse": INVERSE, "onesided": ONESIDED},
       optional={1: scalar(4, np.int64), 2: scalar(1, np.int64)}, since=(20, 99))
recipe("STFT", [floats(1, 32, 1), scalar(8, np.int64), None, scalar(16, np.int64)], values={"onesided": [0]},
       optional={2: Const(floats(16, low=0, high=1)), 3: (scalar(12, np.int64), {2: None})})
WINDOW = {"output_datatype": [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT32], "periodic": [0]}
recipe("BlackmanWindow HammingWindow HannWindow", [scalar(10, np.int64)], values=WINDOW)
recipe("MelWeightMatrix", [scalar(6, np.int64), scalar(32, np.int64), scalar(8000, np.int64), scalar(20.0),
                           scalar(4000.0)], values={"output_datatype": [TensorProto.DOUBLE]})

# Random values: types and shapes are compared, and the mean.

RANDOM = {"seed": [Value(3.0, same="other generators give other values")], "dtype": [TensorProto.DOUBLE]}
UNIFORM = {**RANDOM, "low": [-5.0], "high": [7.0]}
NORMAL = {**RANDOM, "mean": [4.0], "scale": [9.0]}
SHAPE = {"shape": [100, 40]}
recipe("RandomUniform", [], SHAPE, {**UNIFORM, "shape": [[7, 900]]}, judge="moments")
recipe("RandomNormal", [], SHAPE, {**NORMAL, "shape": [[7, 900]]}, judge="moments")
recipe("RandomUniformLike", [floats(100, 40)], {}, UNIFORM, judge="moments")
recipe("RandomNormalLike", [floats(100, 40)], {}, NORMAL, judge="moments")
recipe("Bernoulli", [floats(100, 40, low=0, high=1)], {}, {
    **RANDOM, "dtype": [TensorProto.DOUBLE, Value(TensorProto.BOOL, judge="shape")]}, judge="moments")
recipe("Multinomial", [floats(50, 3)], {}, {
    "dtype": [TensorProto.INT64], "sample_size": [40], "seed": [Value(3.0, same="other generators give other values")]},
       judge="shape")
recipe("Dropout", [X], {}, {"ratio": [Value(0.3, same="training only")]}, since=(7, 11))
recipe("Dropout", [X], {}, {"seed": [Value(3, same="training only")]}, {
    1: (scalar(0.3), {}), 2: (scalar(False, np.bool_), {1: scalar(0.3)})}, since=(12, 99))
recipe("Dropout", [X, scalar(0.3), scalar(True, np.bool_)], {}, {"seed": [Value(3, same="other generators")]},
       since=(12, 99), judge="shape")

# Recurrent layers.

HIDDEN, STEPS, BATCH, WIDTH = 3, 4, 2, 5


def recurrent(gates, directions=1):
    return {1: floats(directions, gates * HIDDEN, WIDTH), 2: floats(directions, gates * HIDDEN, HIDDEN)}


def recurrent_values(gates, both, singles, since):
    two = {"direction": "bidirectional"}
    values = {
        "direction": ["reverse", Value("bidirectional", inputs=recurrent(gates, 2))],
        "hidden_size": [Value(HIDDEN, same="that of the weights")],
        "clip": [0.4],
        "activations": [*singles, Value(both, two, recurrent(gates, 2))],
        "activation_alpha": [Value([0.3] * 3, {"activations": ["LeakyRelu"] * 3}),
                             Value([0.3] * 3, {"activations": ["Elu"] * 3})],
        "activation_beta": [Value([0.3] * 3, {"activations": ["HardSigmoid"] * 3, "activation_alpha": [0.2] * 3})],
    }
    count = len(singles[0])
    for name in ("activation_alpha", "activation_beta"):
        for value in values[name]:
            value.value = value.value[:count]
            value.attrs = {key: part[:count] for key, part in value.attrs.items()}
    if since >= 14:
        values["layout"] = [Value(1, outputs=None)]
    return values


STEP_COUNTS = Const(np.array([4, 2], np.int32))
for since in ((7, 13), (14, 99)):
    RNN_X = floats(STEPS, BATCH, WIDTH)
    H0 = floats(1, BATCH, HIDDEN)
    bias = lambda gates: floats(1, 2 * gates * HIDDEN)
    recipe("RNN", [RNN_X, *recurrent(1).values()], {"hidden_size": HIDDEN}, recurrent_values(
        1, ["Relu", "Sigmoid"], [["Relu"], ["Sigmoid"], ["Softsign"]], since[0]), {
        3: bias(1), 4: STEP_COUNTS, 5: H0}, outputs=2, since=since)
    recipe("GRU", [RNN_X, *recurrent(3).values()], {"hidden_size": HIDDEN}, {
        **recurrent_values(3, ["Relu", "Tanh", "Sigmoid", "Relu"], [["Relu", "Sigmoid"], ["HardSigmoid", "Softsign"]],
                           since[0]),
        "linear_before_reset": [1, Value(1, inputs={3: bias(3)})]}, {
        3: bias(3), 4: STEP_COUNTS, 5: H0}, outputs=2, since=since)
    recipe("LSTM", [RNN_X, *recurrent(4).values()], {"hidden_size": HIDDEN}, {
        **recurrent_values(4, ["Relu", "Tanh", "Sigmoid", "Sigmoid", "Tanh", "Relu"],
                           [["Relu", "Sigmoid", "Tanh"], ["Sigmoid", "Relu", "Softsign"]], since[0]),
        "input_forget": [1]}, {
        3: bias(4), 4: STEP_COUNTS, 5: H0, 6: floats(1, BATCH, HIDDEN, low=-1, high=1), 7: floats(1, 3 * HIDDEN)},
           outputs=3, since=since)

recipe("RotaryEmbedding", [floats(1, 2, 3, 4), floats(1, 3, 2), floats(1, 3, 2, low=0, high=1)], values={
    "interleaved": [1],
    "num_heads": [Value(2, inputs={0: floats(1, 3, 8)})],
    "rotary_embedding_dim": [Value(2, {}, {1: floats(1, 3, 1), 2: floats(1, 3, 1, low=0, high=1)})]},
       optional={3: (Const(np.array([[2, 0, 1]])), {1: floats(3, 2), 2: floats(3, 2, low=0, high=1)})})

# Graphs within.


def graph(nodes, inputs, outputs, name="body"):
    def info(entry):
        return helper.make_tensor_value_info(*entry)
    return helper.make_graph([helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes], name,
                             [info(entry) for entry in inputs], [info(entry) for entry in outputs])


def branch(operator):
    return graph([(operator, ["outer"], ["b"])], [], [("b", TensorProto.FLOAT, [2, 3])], operator)


FLOAT = TensorProto.FLOAT


def scan_body(operator):
    """The state is added to, and every step gives its sum with the state, or so."""
    return graph([(operator, ["s", "e"], ["t"]), ("Identity", ["t"], ["o"])],
                 [("s", FLOAT, [3]), ("e", FLOAT, [3])], [("t", FLOAT, [3]), ("o", FLOAT, [3])])


recipe("Scan", [None, floats(1, 3), floats(1, 4, 3)], {"body": scan_body("Add"), "num_scan_inputs": 1}, {
    "body": [scan_body("Sub")], "num_scan_inputs": "the body says how many there are", "directions": [[1]]}, {0: i64(3)}, outputs=2, since=(8, 8))
recipe("Scan", [floats(3), floats(3, 3)], {"body": scan_body("Add"), "num_scan_inputs": 1}, {
    "body": [scan_body("Sub")], "num_scan_inputs": "the body says how many there are", "scan_input_axes": [[1], [-1]],
    "scan_input_directions": [[1]], "scan_output_axes": [[1], [-1]], "scan_output_directions": [[1]]},
       outputs=2, since=(9, 99))


def loop_body(operator):
    """What is carried is put together with itself, and every round gives it."""
    return graph([(operator, ["s", "s"], ["t"]), ("Identity", ["t"], ["o"]), ("Identity", ["c"], ["d"])],
                 [("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("s", FLOAT, [3])],
                 [("d", TensorProto.BOOL, []), ("t", FLOAT, [3]), ("o", FLOAT, [3])])


# Without a number of rounds it would not end.
recipe("Loop", [scalar(3, np.int64), None, floats(3)], {"body": loop_body("Add")}, {"body": [loop_body("Mul")]},
       {0: (np.array(2), {}), 1: np.array(False)}, outputs=2)
recipe("If", [Const(np.array(True))], {"then_branch": branch("Neg"), "else_branch": branch("Exp")}, {
    "then_branch": [branch("Abs")], "else_branch": [Value(branch("Abs"), {}, {0: Const(np.array(False))})]},
       free={"outer": floats(2, 3)})
