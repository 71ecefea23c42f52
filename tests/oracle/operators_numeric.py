#!/usr/bin/env python3
"""Numeric operators, one small model each: `reef run` must give ONNX Runtime's numbers or refuse the model by name.

A difference, a failure that is not a refusal at load, and a refusal that REFUSED does not list end with exit code 1;
so does an entry of REFUSED that no case needs any more. What ONNX Runtime itself cannot run is counted and skipped.
"""

import argparse
import concurrent.futures
import fnmatch
import itertools
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper, numpy_helper

import oracle

# Cases that reef may refuse, as patterns of their names, and why.
REFUSED = {
    "*Pool [2-6] *": "where a window does not fit its image: ONNX Runtime gives a result without elements",
}

# Cases in which ONNX Runtime's own answer is not the standard's, or in which the standard leaves it open, as patterns
# of their names, and why. Types and shapes have to be ONNX Runtime's even so.
UNSPECIFIED = {
    "ReduceM?? f? odd": "whether it sees a NaN depends on its place; reef's result is NaN wherever it is",
    "ReduceLogSumExp i4 *": "it cuts the fraction off every exponential; reef off the logarithm of their sum only",
    "ReduceLogSumExp f2 large": "its exponentials overflow in half precision; reef's result is the finite one",
    "ReduceSum wide i4": "a sum that does not fit: it saturates, reef wraps, and the standard does not say",
    "ReduceL[12] wide i4": "a sum that does not fit: it saturates, reef wraps, and the standard does not say",
    "ReduceSumSquare wide i?": "a sum that does not fit: it saturates, reef wraps, and the standard does not say",
    "ReduceProd wide i?": "a product that does not fit: it saturates, reef wraps, and the standard does not say",
    "ReduceLogSum wide i4": "the logarithm of 0 as an integer; the standard does not say",
    "Sign f2 odd": "0 for NaN in half precision only; reef's result is NaN in every type",
    "LogSoftmax f8 odd": "of infinities neither it nor the formula; reef's result is the formula's, NaN",
}

# What it computes of f64 in single precision, as patterns of their names: how far it may be off.
SINGLE = {"Shrink f8*": 1e-6, "Gelu f8 tanh": 1e-6}

FLOATS = ["f4", "f8", "f2"]
SIGNED = ["i1", "i2", "i4", "i8"]
UNSIGNED = ["u1", "u2", "u4", "u8"]
INTS = SIGNED + UNSIGNED
INF, NAN = np.inf, np.nan


class K:
    """An initializer; anything else in a list of inputs is given at run time."""

    def __init__(self, value):
        self.value = np.asarray(value)


class Case:
    def __init__(self, name, op, inputs, attrs, opset, outputs, within):
        self.name, self.op, self.inputs, self.attrs = name, op, inputs, attrs
        self.opset, self.outputs, self.within = opset, outputs, within

    def model(self, results=None):
        """The model; without `results` its outputs have no types, which only ONNX Runtime takes."""
        names, values, initializers, self.feeds = [], [], [], {}
        for at, x in enumerate(self.inputs):
            if x is None:
                names.append("")
                continue
            names.append(f"x{at}")
            if isinstance(x, K):
                initializers.append(numpy_helper.from_array(x.value, names[-1]))
            else:
                x = np.asarray(x)
                self.feeds[names[-1]] = x
                values.append(helper.make_tensor_value_info(names[-1], dtype_code(x.dtype), x.shape))
        outs = [f"y{at}" for at in range(self.outputs)]
        node = helper.make_node(self.op, names, outs, name=f"the_{self.op}", **self.attrs)
        if results is None:
            declared = [onnx.ValueInfoProto(name=name) for name in outs]
        else:
            declared = [helper.make_tensor_value_info(n, dtype_code(r.dtype), r.shape) for n, r in zip(outs, results)]
        graph = helper.make_graph([node], "case", values, declared, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8 if self.opset <= 18 else 10
        return model


def dtype_code(dtype):
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


CASES = []


def case(name, op, *inputs, opset=17, outputs=1, within=None, **attrs):
    """`within`: of random results, the least and the greatest number that is right."""
    CASES.append(Case(name, op, list(inputs), attrs, opset, outputs, within))


def rng(*key):
    return np.random.default_rng([sum(map(ord, str(k))) for k in key])


def data(dtype, shape, low=-4, high=5, key="x"):
    r, dtype = rng(key, dtype, *shape), np.dtype(dtype)
    if dtype.kind == "u":
        low = max(low, 0)
    if dtype.kind in "iu":
        return r.integers(low, high, shape).astype(dtype)
    if dtype.kind == "b":
        return r.integers(0, 2, shape).astype(dtype)
    return (r.random(shape) * (high - low) + low).astype(dtype)


def big(dtype):
    """Values at the ends of an integer type."""
    i = np.iinfo(dtype)
    return np.array([i.max, i.max - 1, i.min, i.min + 1, i.max // 2 + 1, 3], dtype)


def einsum_cases():
    shapes = {
        "ij->": ["2,3"], "ij,ij->": ["2,3", "2,3"], "i,i->": ["4", "4"], "ijk->": ["2,3,4"], "i->": ["5"],
        "ij->j": ["2,3"], "ij->i": ["2,3"], "ij->ji": ["2,3"], "ij": ["2,3"], "ji": ["2,3"], "ba": ["2,3"],
        "ii": ["3,3"], "ii->i": ["3,3"], "ii->": ["3,3"], "iij->j": ["3,3,2"], "iji->j": ["3,2,3"],
        "iij->ij": ["3,3,2"], "ijij->ij": ["2,3,2,3"], "ii,ij->j": ["3,3", "3,2"], "iii->i": ["3,3,3"],
        "ij,jk->ik": ["2,3", "3,4"], "ij,jk": ["2,3", "3,4"], "ij,jk->ki": ["2,3", "3,4"], "i,j->ij": ["2", "3"],
        "ij,jk->": ["2,3", "3,4"], "ij,kl->": ["2,3", "3,4"], "ij,kl->ik": ["2,3", "3,4"], "i,i->i": ["3", "3"],
        "bij,bjk->bik": ["2,3,4", "2,4,5"], "bhid,bhjd->bhij": ["1,2,3,4", "1,2,5,4"], "bij,bij->b": ["2,3,4", "2,3,4"],
        "...ij->...ji": ["2,3,4"], "...->...": ["2,3"], "...ij,...jk->...ik": ["2,3,4", "2,4,5"], "i...->...": ["2,3,4"],
        "...i->...": ["2,3,4"], "...i,...i": ["2,3,4", "2,3,4"], "...ij,jk->...ik": ["2,3,4", "4,5"], "...": ["2,3"],
        "ij...,j...->i...": ["2,3,4", "3,4"], "...ii->...i": ["2,3,3"], "...ii": ["2,3,3"], "b...,b...->b": ["2,3", "2,3"],
        " i j , j k -> i k ": ["2,3", "3,4"], "IJ,JK->IK": ["2,3", "3,4"], "aA,Ab->ab": ["2,3", "3,4"], "bA": ["2,3"],
        "Aa": ["2,3"], "ij,jk,kl->il": ["2,3", "3,4", "4,2"], "ij,ij,ij->": ["2,3", "2,3", "2,3"], "i,j,k->ijk": ["2", "3", "4"],
        "ij,jk,ki->": ["2,3", "3,4", "4,2"], "a,ab,abc->abc": ["2", "2,3", "2,3,4"], "ij,jk,kl,lm->im": ["2,3", "3,4", "4,2", "2,3"],
        "ij,->ij": ["2,3", ""], ",->": ["", ""], ",ij->ij": ["", "2,3"], "->": [""], "ij,ij->ij": ["2,3", "2,3"],
        "...ij,...jk->...ik#broadcast": ["2,1,3,4", "5,4,2"], "ij,ij->ij#unit": ["1,3", "2,3"],
        "abc,cd->abd": ["2,3,4", "4,5"], "bsnh,btnh->bnts": ["1,3,2,4", "1,5,2,4"], "abcd,acd->abd": ["2,3,4,2", "2,4,2"],
        "nchw,oc->nohw": ["1,2,3,4", "3,2"], "ab,ab->ba": ["2,3", "2,3"], "abc,ad->cd": ["2,3,4", "2,3"],
    }
    for equation, parts in shapes.items():
        for dtype in ["f4", "f8", "i4", "i8"]:
            inputs = [data(dtype, [int(n) for n in p.split(",") if n], key=at) for at, p in enumerate(parts)]
            case(f"einsum {equation} {dtype}", "Einsum", *inputs, equation=equation.split("#")[0])
    wide = np.array([[2**40, 1], [3, 2**33 + 1]], "i8")
    case("einsum ij->i wide", "Einsum", wide, equation="ij->i")
    case("einsum ij,jk->ik wide", "Einsum", wide, np.array([[1, 3], [5, 7]], "i8"), equation="ij,jk->ik")


REDUCES = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]


def reduce_cases():
    for kind, dtype in itertools.product(REDUCES, ["f4", "f8", "f2", "i4", "i8", "i1", "u1"]):
        op, positive = f"Reduce{kind}", kind == "LogSum"
        x = data(dtype, (2, 3, 4), 1 if positive else -4, 6)
        for axes, keep in itertools.product([None, [1], [-1], [0, 2], [-1, 0], [0, 1, 2]], [0, 1]):
            attrs = {"keepdims": keep} | ({} if axes is None else {"axes": axes})
            if kind == "Sum":
                extra = [] if axes is None else [K(np.array(axes, "i8"))]
                case(f"{op} {dtype} axes {axes} keep {keep} 13", op, x, *extra, keepdims=keep, opset=13)
                case(f"{op} {dtype} axes {axes} keep {keep} 11", op, x, opset=11, **attrs)
            else:
                case(f"{op} {dtype} axes {axes} keep {keep} 13", op, x, opset=13, **attrs)
                extra = [] if axes is None else [K(np.array(axes, "i8"))]
                case(f"{op} {dtype} axes {axes} keep {keep} 18", op, x, *extra, keepdims=keep, opset=18)
        for noop in [0, 1]:
            empty = K(np.array([], "i8"))
            case(f"{op} {dtype} empty axes noop {noop}", op, x, empty, noop_with_empty_axes=noop, opset=18)
            case(f"{op} {dtype} no axes noop {noop}", op, x, noop_with_empty_axes=noop, opset=18)
            case(f"{op} {dtype} skipped axes noop {noop}", op, x, None, noop_with_empty_axes=noop, opset=18)
        nothing = np.zeros((2, 0, 3), dtype)
        for keep in [0, 1]:
            case(f"{op} {dtype} of nothing keep {keep}", op, nothing, K(np.array([1], "i8")), keepdims=keep, opset=18)
        case(f"{op} {dtype} all of nothing", op, nothing, opset=18)
        case(f"{op} {dtype} nothing of nothing", op, nothing, K(np.array([0], "i8")), opset=18)
        case(f"{op} {dtype} of a scalar", op, np.array(3, dtype), opset=18)
        case(f"{op} {dtype} of a scalar noop", op, np.array(3, dtype), opset=18, noop_with_empty_axes=1)
        if dtype[0] == "f":
            odd = np.array([[1, NAN, 2], [INF, 1, 2], [-INF, 1, 2], [-INF, -INF, -INF], [INF, -INF, 0]], dtype)
            case(f"{op} {dtype} odd", op, odd, K(np.array([1], "i8")), opset=18)
            case(f"{op} {dtype} odd across", op, odd, K(np.array([0], "i8")), opset=18)
    large = np.array([[1, 2, 3], [100, 99, 98], [-1000, -1001, -999], [3e4, -3e4, 0]], "f4")
    for dtype in FLOATS:
        case(f"ReduceLogSumExp {dtype} large", "ReduceLogSumExp", large.astype(dtype), K(np.array([1], "i8")), opset=18)
        case(f"ReduceLogSumExp {dtype} large 13", "ReduceLogSumExp", large.astype(dtype), axes=[1], opset=13)
    for kind in REDUCES:
        wide = np.array([[2**40 + 1, 2**33, 5], [2**31, 2**31, -7]], "i8")
        case(f"Reduce{kind} wide i8", f"Reduce{kind}", wide, K(np.array([1], "i8")), opset=18)
        high = np.array([[2**30, 2**30, 2**30], [-2**31, 7, -9]], "i4")
        case(f"Reduce{kind} wide i4", f"Reduce{kind}", high, K(np.array([1], "i8")), opset=18)
    for op, dtype in itertools.product(["ArgMax", "ArgMin"], ["f4", "f8", "f2", "i4", "i8", "i1", "u1"]):
        x = data(dtype, (3, 4, 5), 0, 3)
        for axis, keep, last in itertools.product([None, 0, 1, -1], [0, 1], [0, 1]):
            attrs = {} if axis is None else {"axis": axis}
            case(f"{op} {dtype} axis {axis} keep {keep} last {last}", op, x, keepdims=keep, select_last_index=last, **attrs)
        case(f"{op} {dtype} 11", op, x, axis=1, opset=11)
    for op in ["ArgMax", "ArgMin"]:
        case(f"{op} infinite", op, np.array([[-INF, -INF], [INF, INF], [-INF, 0], [INF, 0]], "f4"), axis=1)
        case(f"{op} wide", op, np.array([[2**53, 2**53 + 1, 2**53]], "i8"), axis=1)
        ends = np.array([[np.iinfo("i8").min] * 3, [np.iinfo("i8").max] * 3], "i8")
        case(f"{op} ends", op, ends, axis=1)


def quantize_cases():
    values = np.array([[1e8, 2.2e8, 1e9, 3.4e38, INF], [-1e9, -3.4e38, -INF, 0.25, 0.15], [0.05, -0.05, 0.35, 12.65, -12.75]], "f4")
    for zt in ["u1", "i1", "u2", "i2"]:
        opset = 21 if zt[1] == "2" else 13
        zero = np.array(np.iinfo(zt).max // 2 - 3, zt)
        case(f"QuantizeLinear {zt}", "QuantizeLinear", values, K(np.float32(0.1)), K(zero), opset=opset)
        case(f"QuantizeLinear {zt} at run time", "QuantizeLinear", values, np.float32(0.1), zero, opset=opset)
        for axis, n in [(0, 3), (1, 5), (-1, 5)]:
            scales = (np.arange(n) * 0.25 + 0.1).astype("f4")
            zeros = (np.arange(n) * 3).astype(zt)
            case(f"QuantizeLinear {zt} axis {axis}", "QuantizeLinear", values, K(scales), K(zeros), axis=axis, opset=opset)
            q = data(zt, (3, 5), -100, 100)
            case(f"DequantizeLinear {zt} axis {axis}", "DequantizeLinear", q, K(scales), K(zeros), axis=axis, opset=opset)
            case(f"DequantizeLinear {zt} axis {axis} no zero", "DequantizeLinear", q, K(scales), axis=axis, opset=opset)
        q = np.concatenate([big(zt), data(zt, (5,), -100, 100)])
        case(f"DequantizeLinear {zt}", "DequantizeLinear", q, K(np.float32(0.1)), K(zero), opset=opset)
        case(f"DequantizeLinear {zt} at run time", "DequantizeLinear", q, np.float32(0.1), zero, opset=opset)
        case(f"DequantizeLinear {zt} no zero", "DequantizeLinear", q, K(np.float32(0.1)), opset=opset)
        case(f"DequantizeLinear {zt} vector of one", "DequantizeLinear", q, K(np.float32([0.1])), K(zero.reshape(1)), axis=0, opset=opset)
        case(f"QuantizeLinear {zt} output_dtype", "QuantizeLinear", values, K(np.float32(0.1)), output_dtype=dtype_code(zt), opset=21)
        blocks = data("f4", (2, 6), -9, 9)
        scales = np.array([[0.1, 0.2], [0.3, 0.7]], "f4")
        zeros = np.array([[1, 2], [3, 4]], zt)
        case(f"QuantizeLinear {zt} blocks", "QuantizeLinear", blocks, K(scales), K(zeros), axis=1, block_size=3, opset=21)
        case(f"DequantizeLinear {zt} blocks", "DequantizeLinear", data(zt, (2, 6)), K(scales), K(zeros), axis=1, block_size=3, opset=21)
    case("QuantizeLinear no zero", "QuantizeLinear", values, K(np.float32(0.1)), opset=13)
    case("QuantizeLinear 10", "QuantizeLinear", values, K(np.float32(0.1)), K(np.uint8(128)), opset=10)
    half = (np.arange(-8, 9) * 0.5).astype("f4")
    case("QuantizeLinear halves", "QuantizeLinear", half, K(np.float32(1)), K(np.int8(0)), opset=13)
    case("QuantizeLinear halves and one", "QuantizeLinear", half, K(np.float32(1)), K(np.int8(1)), opset=13)
    case("QuantizeLinear thirds", "QuantizeLinear", (np.arange(-99, 99) * 0.15).astype("f4"), K(np.float32(0.3)), K(np.int8(0)), opset=13)
    case("QuantizeLinear i4", "QuantizeLinear", np.array([1, 2, 300], "i4"), K(np.float32(0.5)), K(np.uint8(3)), opset=13)
    case("QuantizeLinear f2", "QuantizeLinear", half.astype("f2"), K(np.float16(0.5)), K(np.uint8(3)), opset=19)
    case("DequantizeLinear i4", "DequantizeLinear", big("i4"), K(np.float32(0.5)), opset=13)
    case("DequantizeLinear i4 zero", "DequantizeLinear", np.array([5, -7, 2**24 + 1], "i4"), K(np.float32(0.5)), K(np.int32(0)), opset=13)
    case("DequantizeLinear f2", "DequantizeLinear", data("u1", (5,), 0, 255), K(np.float16(0.5)), K(np.uint8(3)), opset=19)
    for key, x in {"plain": data("f4", (3, 4)), "positive": data("f4", (3, 4), 1, 5), "negative": data("f4", (3, 4), -5, -1),
                   "zeros": np.zeros((2, 2), "f4"), "wide": np.array([0, 1e30, -1e30, 3e30], "f4")}.items():
        case(f"DynamicQuantizeLinear {key}", "DynamicQuantizeLinear", x, outputs=3)


def integer_product_cases():
    for ta, tb in itertools.product(["u1", "i1"], ["u1", "i1"]):
        a, b = data(ta, (2, 3, 4), -128, 256 if ta == "u1" else 128), data(tb, (4, 5), -128, 256 if tb == "u1" else 128, "b")
        za, zb = np.array(7, ta), np.array(5, tb)
        key = f"{ta} {tb}"
        case(f"MatMulInteger {key}", "MatMulInteger", a, b)
        case(f"MatMulInteger {key} zeros", "MatMulInteger", a, b, K(za), K(zb))
        case(f"MatMulInteger {key} zeros at run time", "MatMulInteger", a, b, za, zb)
        case(f"MatMulInteger {key} constant", "MatMulInteger", a, K(b), K(za), K(zb))
        case(f"MatMulInteger {key} no a", "MatMulInteger", a, b, None, K(zb))
        case(f"MatMulInteger {key} columns", "MatMulInteger", a[0], b, K(za), K(data(tb, (5,), 0, 9)))
        case(f"MatMulInteger {key} rows", "MatMulInteger", a[0], b, K(data(ta, (2,), 0, 9)), K(zb))
        case(f"MatMulInteger {key} batches", "MatMulInteger", a, data(tb, (2, 4, 5), -9, 9, "c"), K(za), K(zb))
        q = [a, K(np.float32(0.02)), K(za), b, K(np.float32(0.03)), K(zb), K(np.float32(0.4)), K(np.array(3, ta))]
        case(f"QLinearMatMul {key}", "QLinearMatMul", *q)
        q2 = [a[0], K(np.float32(0.02)), K(za), b, K((np.arange(5) * 0.01 + 0.01).astype("f4")), K(np.arange(5).astype(tb)), K(np.float32(0.4)), K(np.array(3, ta))]
        case(f"QLinearMatMul {key} columns", "QLinearMatMul", *q2)
        q3 = list(q)
        q3[6] = K(np.float32(1e-6))
        case(f"QLinearMatMul {key} saturates", "QLinearMatMul", *q3)
        x, w = data(ta, (1, 4, 6, 5), -128, 256 if ta == "u1" else 128), data(tb, (4, 2, 3, 3), -128, 256 if tb == "u1" else 128, "w")
        for name, attrs in {"plain": {}, "pads": {"pads": [1, 1, 1, 1]}, "strided": {"strides": [2, 1], "pads": [0, 1, 2, 1]},
                            "same": {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, "lower": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
                            "dilated": {"dilations": [2, 1]}}.items():
            case(f"ConvInteger {key} {name}", "ConvInteger", x, K(w), K(za), K(zb), group=2, **attrs)
            q = [x, K(np.float32(0.02)), K(za), K(w), K(np.float32(0.03)), K(zb), K(np.float32(0.9)), K(np.array(3, ta))]
            case(f"QLinearConv {key} {name}", "QLinearConv", *q, group=2, **attrs)
        case(f"ConvInteger {key} no zeros", "ConvInteger", x, K(w), group=2)
        case(f"ConvInteger {key} channels", "ConvInteger", x, K(w), K(za), K(np.arange(4).astype(tb)), group=2)
        case(f"ConvInteger {key} one axis", "ConvInteger", data(ta, (2, 3, 8), 0, 100), K(data(tb, (4, 3, 3), 0, 100)), K(za), K(zb), pads=[1, 1])
        scales = (np.arange(4) * 0.01 + 0.01).astype("f4")
        q = [x, K(np.float32(0.02)), K(za), K(w), K(scales), K(np.zeros(4, tb)), K(np.float32(0.9)), K(np.array(3, ta)), K(np.array([100, -200, 3000, 0], "i4"))]
        case(f"QLinearConv {key} channels bias", "QLinearConv", *q, group=2, pads=[1, 1, 1, 1])


def shape_value_cases():
    for dtype in FLOATS + INTS + ["?"]:
        value = helper.make_tensor("v", dtype_code(dtype), [1], [1])
        case(f"ConstantOfShape {dtype}", "ConstantOfShape", K(np.array([2, 3], "i8")), value=value)
        case(f"EyeLike {dtype}", "EyeLike", data("f4", (3, 4)), dtype=dtype_code(dtype), k=1)
    value = helper.make_tensor("v", T.INT64, [1], [2**40 + 3])
    case("ConstantOfShape wide", "ConstantOfShape", K(np.array([2], "i8")), value=value)
    case("ConstantOfShape default", "ConstantOfShape", K(np.array([2, 3], "i8")))
    case("ConstantOfShape scalar", "ConstantOfShape", K(np.array([], "i8")))
    for k, dtype in itertools.product([-5, -1, 0, 2, 9], ["f4", "i8", "u1", "f8"]):
        case(f"EyeLike of {dtype} k {k}", "EyeLike", data(dtype, (3, 4)), k=k)
    for dtype in ["f4", "f8", "i2", "i4", "i8"]:
        for a, b, c in [(0, 5, 1), (10, 1, -3), (1, 1, 1), (5, 1, 1), (-3, 4, 2)]:
            case(f"Range {dtype} {a} {b} {c}", "Range", *[K(np.array(v, dtype)) for v in (a, b, c)])
    for a, b, c in [(0, 1, 0.1), (1, 0, -0.3), (0.5, 3.7, 0.8), (0, 0.95, 0.1)]:
        case(f"Range f4 {a} {b} {c}", "Range", *[K(np.array(v, "f4")) for v in (a, b, c)])
        case(f"Range f8 {a} {b} {c}", "Range", *[K(np.array(v, "f8")) for v in (a, b, c)])
    case("Range wide", "Range", *[K(np.array(v, "i8")) for v in (2**40, 2**40 + 9, 4)])
    for dtype in ["f4", "f8", "i4", "i8", "u4", "u8"]:
        for axis, exclusive, reverse in itertools.product([0, 1, -1], [0, 1], [0, 1]):
            case(f"CumSum {dtype} axis {axis} exclusive {exclusive} reverse {reverse}", "CumSum", data(dtype, (3, 4)),
                 K(np.array(axis, "i8")), exclusive=exclusive, reverse=reverse)
    case("CumSum wide", "CumSum", np.array([2**40, 2**41, 1], "i8"), K(np.array(0, "i4")))
    case("CumSum axis of one", "CumSum", np.array([1, 2, 3], "i8"), K(np.array([0], "i8")))
    for upper, k in itertools.product([0, 1], [None, -9, -1, 0, 1, 2, 9]):
        for dtype in ["f4", "i8", "f8", "?", "u1"]:
            extra = [] if k is None else [K(np.array(k, "i8"))]
            case(f"Trilu {dtype} upper {upper} k {k}", "Trilu", data(dtype, (2, 3, 4)), *extra, upper=upper)
    for axis in [None, -1, 0, 1, 2, -2, -3]:
        for t, v in itertools.product(["i8", "i4", "f4"], ["f4", "i8", "i4"]):
            attrs = {} if axis is None else {"axis": axis}
            case(f"OneHot {t} {v} axis {axis}", "OneHot", np.floor(data(t, (2, 3), 0, 4)).astype(t), K(np.array(5, "i8")), K(np.array([2, 7], v)), **attrs)
    case("OneHot negative", "OneHot", np.array([0, -1, -5, 3], "i8"), K(np.array([5], "i8")), K(np.array([0, 1], "f4")))
    case("OneHot depth f4", "OneHot", np.array([0, 2], "i8"), K(np.array(5, "f4")), K(np.array([0, 1], "f4")))
    case("OneHot fractions", "OneHot", np.array([0.5, 1.0, 1.9, -0.5, -1.0, 3.2], "f4"), K(np.array([4], "f4")), K(np.array([0, 1], "f4")))
    # Places that are named twice, from the end, and in either integer type.
    for dtype in FLOATS + INTS + ["?"]:
        x, some = data(dtype, (4, 3, 5)), data(dtype, (4, 2, 3))
        for axis, of in itertools.product([0, 1, 2, -1], ["i8", "i4"]):
            extent = x.shape[axis]
            where = rng(dtype, axis, of).integers(-extent, extent, some.shape).astype(of)
            case(f"GatherElements {dtype} axis {axis} by {of}", "GatherElements", x, where, axis=axis)
            case(f"ScatterElements {dtype} axis {axis} by {of}", "ScatterElements", x, where, some, axis=axis, opset=18)
        rows = np.array([[0, 1], [-1, -3], [0, 1], [3, 2]], "i8")
        batch = np.array([[[1]], [[-1]], [[0]], [[2]]], "i8")
        case(f"GatherND {dtype}", "GatherND", x, rows)
        case(f"GatherND {dtype} in batches", "GatherND", x, batch, batch_dims=1)
        case(f"ScatterND {dtype}", "ScatterND", x, rows, data(dtype, (4, 5)), opset=18)
        for reduction in ["add", "mul", "min", "max"]:
            case(f"ScatterND {dtype} {reduction}", "ScatterND", x, rows, data(dtype, (4, 5)), opset=18, reduction=reduction)
            where = rng(dtype, reduction).integers(-3, 3, some.shape).astype("i8")
            case(f"ScatterElements {dtype} {reduction}", "ScatterElements", x, where, some, opset=18, axis=1, reduction=reduction)
    for dtype, order, size in itertools.product(["f4", "f8", "f2", "i1", "u1"], [0, 1], [(2, 3, 9), (2, 3, 7, 5), (1, 2, 4, 5, 6)]):
        axes = len(size) - 2
        case(f"MaxPool {dtype} places of {axes} order {order}", "MaxPool", data(dtype, size), kernel_shape=[3] * axes,
             strides=[2] * axes, pads=[1] * 2 * axes, storage_order=order, outputs=2)
    for dtype in ["f4", "f8"]:
        x, where = data(dtype, (2, 3, 2, 2)), rng(dtype).permutation(2 * 3 * 16)[:24].reshape(2, 3, 2, 2)
        case(f"MaxUnpool {dtype}", "MaxUnpool", x, where, kernel_shape=[2, 2], strides=[2, 2])
        case(f"MaxUnpool {dtype} padded", "MaxUnpool", x, where % 54, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for dtype in ["f4", "f8", "i4", "i8"]:
        x = np.random.default_rng(1).permutation(24).reshape(2, 3, 4).astype(dtype)
        ties = data(dtype, (3, 6), 0, 3)
        for largest, axis in itertools.product([0, 1], [0, 1, -1]):
            k = K(np.array([2], "i8"))
            case(f"TopK {dtype} largest {largest} axis {axis}", "TopK", x, k, largest=largest, axis=axis, outputs=2)
            case(f"TopK {dtype} ties largest {largest} axis {axis}", "TopK", ties, k, largest=largest, axis=min(axis, 1), outputs=2)
        case(f"TopK {dtype} 10", "TopK", x, K(np.array([3], "i8")), axis=2, outputs=2, opset=10)
        case(f"TopK {dtype} all", "TopK", x, K(np.array([4], "i8")), outputs=2)
        case(f"TopK {dtype} none", "TopK", x, K(np.array([0], "i8")), outputs=2)
    case("TopK wide", "TopK", np.array([2**53, 2**53 + 1, 2**53 - 1, -2**60], "i8"), K(np.array([3], "i8")), outputs=2)
    case("TopK infinite", "TopK", np.array([INF, -INF, 3, 0.0], "f4"), K(np.array([4], "i8")), outputs=2)
    case("NonZero constant", "NonZero", K(np.array([[1, 0], [1, 1]], "f4")))
    case("Size", "Size", data("f4", (2, 3)))
    case("Shape", "Shape", data("f4", (2, 3)))
    case("Shape part", "Shape", data("f4", (2, 3, 4)), start=1, end=-1)


def integer_cases():
    for dtype in UNSIGNED:
        bits = np.dtype(dtype).itemsize * 8
        x = np.concatenate([big(dtype), big(dtype)])
        by = np.array([0, 1, bits - 1, bits, bits + 1, 200, 3, 1, 2, 5, 7, bits * 2], dtype)
        for direction in ["LEFT", "RIGHT"]:
            case(f"BitShift {dtype} {direction}", "BitShift", x, by, direction=direction)
            case(f"BitShift {dtype} {direction} constant", "BitShift", x, K(np.array([bits], dtype)), direction=direction)
    for dtype in INTS:
        for op in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"]:
            case(f"{op} {dtype}", op, big(dtype), data(dtype, (6,), -99, 99), opset=18)
        case(f"BitwiseNot {dtype}", "BitwiseNot", big(dtype), opset=18)
    a, b = [7, -7, 7, -7, 6, 0, 100], [3, 3, -3, -3, 2, 5, 7]
    for dtype in INTS + FLOATS:
        unsigned = dtype[0] == "u"
        x, y = (np.abs(a) if unsigned else np.array(a)).astype(dtype), (np.abs(b) if unsigned else np.array(b)).astype(dtype)
        for op in ["Add", "Sub", "Mul", "Div"]:
            case(f"{op} {dtype}", op, x, y)
            case(f"{op} {dtype} constant", op, x, K(y))
            case(f"{op} {dtype} broadcast", op, x.reshape(7, 1), y)
        case(f"Mod {dtype}", "Mod", x, y)
        case(f"Mod {dtype} fmod", "Mod", x, y, fmod=1)
        for op in ["Sum", "Mean", "Max", "Min"]:
            for n in [1, 2, 3]:
                opset = 13
                case(f"{op} of {n} {dtype}", op, *[x, y, x[:1]][:n], opset=opset)
        if dtype[0] in "iu":
            ends = big(dtype)
            for op in ["Add", "Sub", "Mul", "Max", "Min"]:
                case(f"{op} {dtype} ends", op, ends, ends[::-1].copy())
            for op in ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"]:
                case(f"{op} {dtype} ends", op, ends, np.roll(ends, 1), opset=16)
        for op in ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"]:
            case(f"{op} {dtype}", op, x, y, opset=16)
        case(f"Where {dtype}", "Where", np.array(a) > 0, x, y)
        for op in ["Abs", "Neg", "Sign"]:
            case(f"{op} {dtype}", op, x)
            if dtype[0] in "iu":
                case(f"{op} {dtype} ends", op, big(dtype))
        for name, bounds in {"both": (K(np.array(1, dtype)), K(np.array(6, dtype))), "crossed": (K(np.array(6, dtype)), K(np.array(1, dtype))),
                             "low": (K(np.array(2, dtype)),), "high": (None, K(np.array(3, dtype))), "neither": (),
                             "at run time": (np.array(1, dtype), np.array(6, dtype))}.items():
            case(f"Clip {dtype} {name}", "Clip", x, *bounds, opset=13)
    for op in ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"]:
        case(f"{op} i8 past 2^53", op, np.array([2**53, 2**53 + 1, -2**53 - 1], "i8"), np.array([2**53 + 1, 2**53, -2**53], "i8"), opset=16)
    case("Equal bool", "Equal", np.array([True, False, True]), np.array([True, True, False]))
    case("Where bool", "Where", np.array([True, False]), np.array([True, True]), np.array([False, False]))
    for op in ["And", "Or", "Xor"]:
        case(f"{op}", op, np.array([True, True, False, False]), np.array([True, False, True, False]))
    case("Not", "Not", np.array([True, False]))
    case("Clip 6", "Clip", data("f4", (5,)), min=-1.0, max=2.0, opset=6)
    case("Clip 10 low", "Clip", data("f4", (5,)), min=-1.0, opset=10)
    case("Clip odd", "Clip", np.array([NAN, INF, -INF, 1], "f4"), K(np.float32(-1)), K(np.float32(1)))
    case("Clip crossed odd", "Clip", np.array([NAN, INF, -INF, 1], "f4"), K(np.float32(1)), K(np.float32(-1)))
    for ta, tb in itertools.product(["f4", "f8", "i4", "i8"], repeat=2):
        x = data(ta, (6,), 1, 9)
        y = np.array([0, 1, 2, 3, 2, 1] if tb[0] == "i" else [0.5, 1, 2, 3, -1 if ta[0] == "f" else 0.25, 0], tb)
        case(f"Pow {ta} {tb}", "Pow", x, y, opset=15)
        case(f"Pow {ta} {tb} square", "Pow", x, K(np.array(2, tb)), opset=15)
    case("Pow i8 wide", "Pow", np.array([3, -3, 10, 2], "i8"), np.array([33, 33, 15, 62], "i8"), opset=15)
    case("Pow i4 negative", "Pow", np.array([1, -1, 2, 5], "i4"), np.array([-1, -2, -1, -3], "i4"), opset=15)
    case("Pow f4 odd", "Pow", np.array([-8, 0, 0, -2, NAN, 1], "f4"), np.array([1 / 3, 0, -1, 3, 0, NAN], "f4"), opset=15)
    odd, other = np.array([NAN, 1, NAN, INF, -INF, 0.0], "f4"), np.array([1, NAN, NAN, NAN, 2, -0.0], "f4")
    for dtype in FLOATS:
        for op in ["Max", "Min", "Add", "Mul", "Sub", "Div", "Equal", "Less", "GreaterOrEqual"]:
            case(f"{op} {dtype} odd", op, odd.astype(dtype), other.astype(dtype))
        case(f"Mod {dtype} odd", "Mod", odd.astype(dtype), np.array([1, 2, 3, 2, 0, 2], dtype), fmod=1)


def cast_cases():
    values = np.array([0, 1, -1, 1.5, 2.5, -1.5, 0.49, 126.9, 100, -100], "f8")
    types = ["f4", "f8", "f2"] + INTS + ["?"]
    for a, b in itertools.product(types, types):
        x = np.abs(values).astype(a) if a[0] == "u" or b[0] == "u" else values.astype(a)
        case(f"Cast {a} {b}", "Cast", x, to=dtype_code(b))
        case(f"Cast {a} {b} constant", "Cast", K(x), to=dtype_code(b))
        if a[0] in "iu" and b[0] in "iuf?":
            case(f"Cast {a} {b} ends", "Cast", big(a), to=dtype_code(b))
        if a[0] == "f" and b[0] in "f?":
            odd = np.array([INF, -INF, NAN, 6e4, 1e-8, -0.0, 65519.99], "f8").astype(a)
            case(f"Cast {a} {b} odd", "Cast", odd, to=dtype_code(b))
        if b in ("f4", "i8", "u1"):
            case(f"CastLike {a} {b}", "CastLike", x, np.zeros(1, b), opset=15)
    wide = np.array([2**40 + 1, -2**40, 2**53 + 1, -2**63, 2**63 - 1], "i8")
    case("Cast i8 f8 wide", "Cast", wide, to=T.DOUBLE)
    case("Cast f8 i8 wide", "Cast", np.array([1e15, -1e15, 2.0**40 + 0.5], "f8"), to=T.INT64)
    case("Cast f4 i8 wide", "Cast", np.array([1e15, -1e15, 2.0**40], "f4"), to=T.INT64)
    case("Cast f4 i8 wide constant", "Cast", K(np.array([1e15, -1e15, 2.0**40], "f4")), to=T.INT64)


UNARY = ["Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "HardSwish",
         "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt",
         "Tan", "Tanh", "Gelu", "IsNaN", "IsInf", "Elu", "Selu", "Celu", "HardSigmoid", "LeakyRelu", "ThresholdedRelu", "Shrink"]
NEEDS = {"Gelu": 20, "Mish": 18, "IsInf": 10}


def function_cases():
    for op, dtype in itertools.product(UNARY, FLOATS):
        opset = NEEDS.get(op, 17)
        low, high = {"Log": (0, 9), "Sqrt": (0, 9), "Acosh": (1, 9), "Acos": (-1, 1), "Asin": (-1, 1), "Atanh": (-0.99, 0.99)}.get(op, (-6, 6))
        case(f"{op} {dtype}", op, data(dtype, (3, 7), low, high), opset=opset)
        halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0, -0.0], dtype)
        case(f"{op} {dtype} halves", op, halves, opset=opset)
        odd = np.array([NAN, INF, -INF, 0, -0.0, 1, -1, 100, -100], dtype)
        case(f"{op} {dtype} odd", op, odd, opset=opset)
        case(f"{op} {dtype} constant", op, K(data(dtype, (9,), low, high)), opset=opset)
    for dtype in FLOATS:
        x = data(dtype, (5, 5), -3, 3)
        case(f"Gelu {dtype} tanh", "Gelu", x, approximate="tanh", opset=20)
        case(f"Gelu {dtype} none", "Gelu", x, approximate="none", opset=20)
        case(f"Elu {dtype} alpha", "Elu", x, alpha=0.3)
        case(f"Selu {dtype} parameters", "Selu", x, alpha=0.3, gamma=2.0)
        case(f"Celu {dtype} alpha", "Celu", x, alpha=0.3)
        case(f"HardSigmoid {dtype} parameters", "HardSigmoid", x, alpha=0.3, beta=0.1)
        case(f"LeakyRelu {dtype} alpha", "LeakyRelu", x, alpha=0.3)
        case(f"LeakyRelu {dtype} negative alpha", "LeakyRelu", x, alpha=-0.3)
        case(f"LeakyRelu {dtype} large alpha", "LeakyRelu", x, alpha=2.0)
        case(f"ThresholdedRelu {dtype} alpha", "ThresholdedRelu", x, alpha=0.3)
        case(f"Shrink {dtype} parameters", "Shrink", x, bias=0.3, lambd=1.5)
        for slope in [(1,), (5,), (5, 1), (5, 5), ()]:
            case(f"PRelu {dtype} {slope}", "PRelu", x, K(data(dtype, slope, -1, 1, "s")))
            case(f"PRelu {dtype} {slope} at run time", "PRelu", x, data(dtype, slope, -1, 1, "s"))
        for p, n in itertools.product([0, 1], [0, 1]):
            case(f"IsInf {dtype} {p} {n}", "IsInf", np.array([NAN, INF, -INF, 1], dtype), detect_positive=p, detect_negative=n, opset=10)
        wide = np.array([[0, 200, -200], [1e4, -1e4, 0], [INF, 0, 1], [NAN, 0, 1], [-INF, 0, 1]], dtype)
        for op in ["Softmax", "LogSoftmax", "Hardmax"]:
            for axis in [None, 0, 1, -1]:
                attrs = {} if axis is None else {"axis": axis}
                case(f"{op} {dtype} axis {axis}", op, data(dtype, (2, 3, 4)), **attrs)
                case(f"{op} {dtype} axis {axis} 11", op, data(dtype, (2, 3, 4)), opset=11, **attrs)
            case(f"{op} {dtype} wide", op, wide[:2], axis=1)
            case(f"{op} {dtype} odd", op, wide[2:], axis=1)
            case(f"{op} {dtype} of nothing", op, np.zeros((2, 0), dtype), axis=1)
        case(f"Hardmax {dtype} ties", "Hardmax", np.array([[1, 1, 0], [0, 0, 0]], dtype), axis=1)
    for dtype in SIGNED + UNSIGNED:
        for op in ["Relu"] if dtype[0] == "i" else []:
            case(f"{op} {dtype}", op, data(dtype, (7,), -9, 9))
        case(f"Shrink {dtype}", "Shrink", data(dtype, (7,), -9, 9), bias=1.0, lambd=2.0)
    for dtype in ["i4", "i8", "u4", "u8"]:
        case(f"PRelu {dtype}", "PRelu", data(dtype, (3, 4), -9, 9), data(dtype, (4,), -3, 3, "s"))
    for dtype in ["f4", "f8", "f2", "i4", "i8", "u4", "u8"]:
        a, b, c = data(dtype, (3, 4)), data(dtype, (4, 5), key="b"), data(dtype, (5,), key="c")
        case(f"MatMul {dtype}", "MatMul", a, b)
        case(f"MatMul {dtype} vectors", "MatMul", a[0], data(dtype, (4,), key="d"))
        case(f"MatMul {dtype} vector first", "MatMul", a[0], b)
        case(f"MatMul {dtype} vector last", "MatMul", a, data(dtype, (4,), key="d"))
        case(f"Gemm {dtype}", "Gemm", a, b, c)
        case(f"Gemm {dtype} scaled", "Gemm", a, b, c, alpha=2.0, beta=3.0)
        case(f"Gemm {dtype} turned", "Gemm", a.T.copy(), b.T.copy(), c, transA=1, transB=1)
        case(f"Gemm {dtype} halves", "Gemm", a, b, c, alpha=0.5, beta=0.5)
        case(f"Gemm {dtype} no c", "Gemm", a, b, alpha=2.0)
        case(f"Gemm {dtype} column", "Gemm", a, b, data(dtype, (3, 1)))
    case("MatMul i8 wide", "MatMul", np.array([[2**40, 3]], "i8"), np.array([[5], [7]], "i8"))


def recurrent_cases():
    """Gates that are all but open, for many steps, and one NaN: what is lost at a step adds up."""
    for op, gates, extra in (("LSTM", 4, {}), ("GRU", 3, {}), ("GRU", 3, {"linear_before_reset": 1}), ("RNN", 1, {})):
        steps, hidden = 100, 3
        x = data("f4", (steps, 2, 4), -1, 1)
        w, r = data("f4", (1, gates * hidden, 4), -1, 1, "w"), data("f4", (1, gates * hidden, hidden), -1, 1, "r")
        bias = np.zeros((1, 2 * gates * hidden), "f4")
        bias[0, : gates * hidden] = np.repeat([0.0, 0.0, 25.0, 0.0][:gates] if op == "LSTM" else [25.0, 0.0, 0.0][:gates], hidden)
        outputs = 3 if op == "LSTM" else 2
        key = f"{op} {extra.get('linear_before_reset', 0)}"
        case(f"{key} open gates", op, x, K(w), K(r), K(bias), hidden_size=hidden, outputs=outputs, **extra)
        odd = x.copy()
        odd[3, 0, 1] = NAN
        case(f"{key} nan", op, odd, K(w), K(r), hidden_size=hidden, outputs=outputs, **extra)


def slice_cases():
    x, wide, top, low = data("f4", (10,)), 2**32, 2**63 - 1, -2**63
    bounds = [0, 3, 9, 10, 11, -1, -10, -11, -20, 2**31 - 1, 2**31, wide + 1, -wide - 3, top, low]
    for start, end in itertools.product(bounds, bounds):
        for step in (1, 3, -1, -3, wide, low + 1):
            ends = [K(np.array([number], "i8")) for number in (start, end, 0, step)]
            case(f"Slice {start} {end} {step}", "Slice", x, *ends)
        case(f"Slice {start} {end} opset 9", "Slice", x, starts=[start], ends=[end], axes=[0], opset=9)
    square = data("f4", (4, 5))
    parts = [K(np.array(numbers, "i4")) for numbers in ([1, -1], [4, 0], [-2, 1], [2, -2])]
    case("Slice two axes", "Slice", square, *parts)
    case("Slice empty", "Slice", np.zeros((0, 3), "f4"), *[K(np.array([n], "i8")) for n in (-1, low, 0, -1)])


def window_cases():
    image = data("f4", (1, 2, 5, 4))
    for k, dims in itertools.product([2, 3, 4, 5, 6], [(5, 4), (2, 2), (5, 2), (1, 3)]):
        for attrs in ({}, {"strides": [2, 2]}, {"dilations": [2, 1]}, {"pads": [1, 0, 0, 1]}, {"ceil_mode": 1}):
            part = np.ascontiguousarray(image[:, :, : dims[0], : dims[1]])
            name = f"{k} {dims} {sorted(attrs)}"
            if max(attrs.get("pads", [0])) < k:
                case(f"MaxPool {name}", "MaxPool", part, kernel_shape=[k, k], opset=19, **attrs)
                case(f"AveragePool {name}", "AveragePool", part, kernel_shape=[k, k], opset=19, **attrs)
            if "ceil_mode" not in attrs:
                case(f"Conv {name}", "Conv", part, K(data("f4", (3, 2, k, k), key="w")), **attrs)


def squeeze_cases():
    x = data("f4", (1, 2, 1, 3, 1))
    for axes in ([0, 2], [2, 0], [-1, 0], [0, -1, 2], [-1], [4, -3]):
        case(f"Squeeze {axes}", "Squeeze", x, K(np.array(axes, "i8")))
        if min(axes) >= 0:
            case(f"Squeeze {axes} opset 11", "Squeeze", x, axes=axes, opset=11)
    case("Squeeze all", "Squeeze", x)
    case("Squeeze all opset 11", "Squeeze", x, opset=11)
    for dtype, value in (("i8", 2**24 + 1), ("i4", 2**24 + 1), ("i8", 2**62 + 1), ("f8", 0.1), ("u1", 200)):
        case(f"Pad {dtype} {value}", "Pad", np.ones((2, 2), dtype), K(np.array([1, 0, 0, 2], "i8")), K(np.array(value, dtype)))
    for k in (0, 2, -2, 9, -9, 2**63 - 1, -2**63):
        for upper in (0, 1):
            case(f"Trilu {k} {upper}", "Trilu", data("f4", (3, 4)), K(np.array(k, "i8")), upper=upper)


def random_cases():
    for op in ["RandomUniform", "RandomNormal"]:
        far = {"low": 5.0, "high": 6.0} if op == "RandomUniform" else {"mean": 100.0, "scale": 0.1}
        bounds = [(0, 1), (5, 6)] if op == "RandomUniform" else [(-8, 8), (99, 101)]
        for (name, attrs), within in zip([("", {}), (" far", far)], bounds):
            case(f"{op}{name}", op, shape=[2, 3], seed=3.0, within=within, **attrs)
            case(f"{op}Like{name}", f"{op}Like", data("f4", (2, 3)), seed=3.0, within=within, **attrs)
            for dtype in FLOATS:
                kind = dtype_code(dtype)
                case(f"{op} {dtype}{name}", op, shape=[40], dtype=kind, within=within, **attrs)
                case(f"{op}Like {dtype}{name}", f"{op}Like", data("i4", (40,)), dtype=kind, within=within, **attrs)
                case(f"{op}Like of {dtype}{name}", f"{op}Like", data(dtype, (40,)), within=within, **attrs)
    case("Bernoulli", "Bernoulli", data("f4", (2, 3), 0, 1), seed=3.0, opset=15, within=(0, 1))
    for kind in [T.INT32, T.INT64]:
        case(f"Multinomial {kind}", "Multinomial", data("f4", (2, 3)), sample_size=40, dtype=kind, within=(0, 2))
    case("Unique", "Unique", np.array([1, 2, 1], "f4"))


def tolerance_of(case, dtype):
    if dtype == np.float64:
        single = [limit for pattern, limit in SINGLE.items() if fnmatch.fnmatchcase(case.name, pattern)]
        return single[0] if single else 1e-11
    return {"float32": 2e-5, "float16": 4e-3}[str(dtype)]


# What differs where the standard says nothing.
OPEN = "UNSPECIFIED lists it"


def difference(case, got, want):
    """What differs, or None."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
    if any(fnmatch.fnmatchcase(case.name, pattern) for pattern in UNSPECIFIED):
        return None if np.array_equal(got, want, equal_nan=got.dtype.kind == "f") else OPEN
    if case.within:
        low, high = case.within
        various = got.size < 9 or len(np.unique(got)) > 1
        return None if low <= got.min() and got.max() <= high and various else f"{got.ravel()[:9]}, not {low} to {high}"
    if want.dtype.kind != "f":
        return None if np.array_equal(got, want) else f"{got.ravel()[:9]}, not {want.ravel()[:9]}"
    a, b = got.astype("f8").ravel(), want.astype("f8").ravel()
    odd = ~np.isfinite(a) | ~np.isfinite(b)
    if not np.array_equal(a[odd], b[odd], equal_nan=True):
        return f"{got.ravel()[:9]}, not {want.ravel()[:9]}"
    scale = np.abs(b[~odd]).max(initial=1e-30)
    limit = tolerance_of(case, want.dtype)
    wrong = np.abs(a[~odd] - b[~odd]) > limit * (np.abs(b[~odd]) + 0.05 * min(scale, 1))
    return f"{got.ravel()[:9]}, not {want.ravel()[:9]}" if wrong.any() else None


def check(case, reef, work):
    """One of: same, skipped, refused, or wrong, with words."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = ort.InferenceSession(case.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
        want = session.run(None, case.feeds)
    except Exception as error:  # ONNX Runtime raises many types of its own
        return "skipped", str(error).splitlines()[0][:150]
    model = case.model(want)
    folder = pathlib.Path(work)
    onnx.save(model, folder / "model.onnx")
    command = ["timeout", "60", str(reef), "run", str(folder / "model.onnx"), "--output-dir", str(folder / "out"), "--cus", "1"]
    for name, value in case.feeds.items():
        np.save(folder / f"{name}.npy", value)
        command += ["--input", f"{name}={folder / name}.npy"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        text = re.sub(r"\s+", " ", (done.stderr + done.stdout)).strip()
        named = f"node the_{case.op}" in text and f"({case.op})" in text
        return ("refused" if named and done.returncode == 1 else "wrong"), f"rc {done.returncode}: {text[:600]}"
    for at, reference in enumerate(want):
        words = difference(case, np.load(folder / "out" / f"y{at}.npy"), reference)
        if words == OPEN:
            return "unspecified", ""
        if words:
            return "wrong", f"output {at}: {words}"
    return "same", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reef", default=oracle.DEFAULT_REEF)
    parser.add_argument("--only", default="*", help="pattern of case names")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="also what is refused as listed and skipped")
    args = parser.parse_args()
    for group in (einsum_cases, reduce_cases, quantize_cases, integer_product_cases, shape_value_cases, integer_cases,
                  cast_cases, function_cases, recurrent_cases, slice_cases, window_cases,
                  squeeze_cases, random_cases):
        group()
    chosen = [c for c in CASES if fnmatch.fnmatch(c.name, args.only)]

    def run(case):
        with tempfile.TemporaryDirectory() as work:
            return check(case, args.reef, work)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(run, chosen))
    counts, used, failed = {}, set(), 0
    for case_, (kind, words) in zip(chosen, results):
        patterns = [p for p in REFUSED if fnmatch.fnmatchcase(case_.name, p)]
        if kind == "refused":
            used.update(patterns)
        if kind == "unspecified":
            used.update(p for p in UNSPECIFIED if fnmatch.fnmatchcase(case_.name, p))
        counts[kind] = counts.get(kind, 0) + 1
        bad = kind == "wrong" or (kind == "refused" and not patterns)
        failed += bad
        if bad or (args.verbose and kind != "same"):
            print(f"{kind.upper() if bad else kind}: {case_.name}: {words}")
    stale = [] if args.only != "*" else sorted({*REFUSED, *UNSPECIFIED} - used)
    for pattern in stale:
        print(f"STALE: nothing that matches {pattern} is refused or differs")
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())), f"of {len(chosen)}; {failed} bad")
    sys.exit(1 if failed or stale else 0)


if __name__ == "__main__":
    main()
