"""Network operators, attribute by attribute: reef's answer is ONNX Runtime's, or the model is refused by name.

A table of small models with seeded weights and inputs: recurrent operators, transposed convolutions, resizing,
sampling by a grid, pooling, padding, normalisation and what moves space into channels. A difference without a word
fails; a refusal is allowed only where REFUSED lists it. `--only TEXT` runs the cases whose names hold TEXT.
"""

import argparse
import itertools
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import oracle

# Relative to the largest element of the reference, or to 1 where that is smaller.
TOLERANCE = 2e-5

# Names of cases (or their beginnings) that may be refused, and a part of the message that says why.
REFUSED = {
    **{f"{op}_{direction}_default_{name}": "needs an activation_alpha"
       for op in ("lstm", "gru", "rnn") for direction in ("forward", "reverse", "bidirectional")
       for name in ("affine", "thresholdedrelu", "scaledtanh")},
    "resize_int32_linear": "of I32 is not supported",
    "resize_uint8_linear": "of U8 is not supported",
    "resize_int8_linear": "of I8 is not supported",
}

TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE,
         np.dtype(np.float16): TensorProto.FLOAT16, np.dtype(np.int64): TensorProto.INT64,
         np.dtype(np.int32): TensorProto.INT32, np.dtype(np.uint8): TensorProto.UINT8,
         np.dtype(np.int8): TensorProto.INT8, np.dtype(np.bool_): TensorProto.BOOL}


class Case:
    """One operator with constant operands (`consts`) and fed ones (`feeds`), in the order of `inputs`."""

    def __init__(self, name, op, inputs, outputs=("y",), opset=17, feeds=None, consts=None, expect=None, **attributes):
        self.name, self.op, self.opset = name, op, opset
        self.inputs, self.outputs, self.attributes = inputs, outputs, attributes
        self.feeds, self.consts, self.expect = feeds or {}, consts or {}, expect

    def model(self):
        node = helper.make_node(self.op, self.inputs, self.outputs, **self.attributes)
        inputs = [helper.make_tensor_value_info(n, TYPES[a.dtype], a.shape) for n, a in self.feeds.items()]
        inits = [numpy_helper.from_array(np.asarray(a), n) for n, a in self.consts.items()]
        kind = TYPES[next(iter(self.feeds.values())).dtype]
        outputs = [helper.make_tensor_value_info(n, kind_of(self.op, at, kind), None)
                   for at, n in enumerate(self.outputs) if n]
        graph = helper.make_graph([node], "case", inputs, outputs, inits)
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model)

    def want(self):
        """The expected outputs by name; None where the reference cannot run the model."""
        if self.expect is not None:
            return self.expect()
        return reference(self.model(), self.feeds)


def kind_of(op, at, kind):
    return TensorProto.INT64 if op == "MaxPool" and at == 1 else kind


def reference(model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds)))
    except Exception as error:  # ONNX Runtime has no common class for what it refuses
        print(f"  (no reference: {str(error).splitlines()[0][:150]})")
        return None


RNG = np.random.default_rng(7)


def rand(*shape, dtype=np.float32, scale=1.0):
    return ((RNG.random(shape) * 2 - 1) * scale).astype(dtype)


# Recurrent operators.

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
NAMES = ["Affine", "Relu", "LeakyRelu", "ThresholdedRelu", "Tanh", "ScaledTanh", "Sigmoid", "HardSigmoid", "Elu",
         "Softsign", "Softplus"]


# Those with parameters.
ALPHA = ["Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"]
BETA = ["Affine", "ScaledTanh", "HardSigmoid"]


def recurrent(name, op, present=("B",), outputs=None, direction="forward", fed=(), t=5, b=3, i=3, h=4, scale=1.0,
              lengths=None, layout=0, opset=17, **attributes):
    """`present`: optional inputs; `fed`: those that are not constants."""
    g, d = GATES[op], 2 if direction == "bidirectional" else 1
    values = {"W": rand(d, g * h, i), "R": rand(d, g * h, h), "B": rand(d, 2 * g * h),
              "sequence_lens": np.array(lengths if lengths is not None else [t] * b, np.int32),
              "initial_h": rand(d, b, h), "initial_c": rand(d, b, h), "P": rand(d, 3 * h)}
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h"] + (["initial_c", "P"] if op == "LSTM" else [])
    used = {"W", "R", *present}
    inputs = [n if n == "X" or n in used else "" for n in order]
    while not inputs[-1]:
        inputs.pop()
    outputs = outputs or (("y", "yh", "yc") if op == "LSTM" else ("y", "yh"))
    feeds = {"X": rand(t, b, i, scale=scale), **{n: values[n] for n in fed}}
    consts = {n: v for n, v in values.items() if n in used and n not in fed}
    attributes = dict(attributes, direction=direction, hidden_size=h)
    case = Case(name, op, inputs, outputs, opset, feeds, consts, **attributes)
    if layout:
        # ONNX Runtime lacks the layout: the answer is that of the other one, turned.
        plain = case
        turn = {"X", "initial_h", "initial_c"}
        turned = lambda n, v: np.ascontiguousarray(v.swapaxes(0, 1)) if n in turn else v
        case = Case(name, op, inputs, outputs, opset, {n: turned(n, v) for n, v in feeds.items()},
                    {n: turned(n, v) for n, v in consts.items()}, layout=1, **attributes)

        def expect():
            want = reference(plain.model(), plain.feeds)
            back = {"y": (2, 0, 1, 3), "yh": (1, 0, 2), "yc": (1, 0, 2)}
            return want and {n: v.transpose(back[n]) for n, v in want.items()}

        case.expect = expect
    return case


def recurrent_cases():
    directions = ("forward", "reverse", "bidirectional")
    for op, direction in itertools.product(GATES, directions):
        tag, d = f"{op.lower()}_{direction}", 2 if direction == "bidirectional" else 1
        states = ("initial_h", "initial_c") if op == "LSTM" else ("initial_h",)
        yield recurrent(f"{tag}_plain", op, direction=direction)
        yield recurrent(f"{tag}_no_bias", op, (), direction=direction)
        yield recurrent(f"{tag}_states", op, ("B", *states), direction=direction)
        yield recurrent(f"{tag}_states_fed", op, ("B", *states), direction=direction, fed=states)
        yield recurrent(f"{tag}_one_step", op, ("B", *states), direction=direction, t=1)
        for h in (4, 37):
            yield recurrent(f"{tag}_weights_fed_{h}", op, direction=direction, fed=("W", "R"), h=h)
        peepholes = ("P",) if op == "LSTM" else ()
        yield recurrent(f"{tag}_all_fed", op, ("B", *states, *peepholes, "sequence_lens"), direction=direction, h=19,
                        lengths=[2, 5, 4], fed=("W", "R", "B", *states, *peepholes))
        yield recurrent(f"{tag}_lengths_full", op, ("B", "sequence_lens"), direction=direction)
        yield recurrent(f"{tag}_lengths", op, ("B", "sequence_lens", *states), direction=direction, lengths=[2, 5, 1])
        yield recurrent(f"{tag}_lengths_fed", op, ("B", "sequence_lens", *states), direction=direction,
                        lengths=[4, 3, 5], fed=("sequence_lens",))
        yield recurrent(f"{tag}_clip", op, direction=direction, clip=0.3, scale=3.0)
        yield recurrent(f"{tag}_layout", op, ("B", *states), direction=direction, layout=1)
        yield recurrent(f"{tag}_layout_lengths", op, ("B", "sequence_lens"), direction=direction, layout=1,
                        lengths=[2, 5, 3])
        yield recurrent(f"{tag}_only_y", op, outputs=("y",), direction=direction)
        yield recurrent(f"{tag}_only_last", op, outputs=("", "yh"), direction=direction)
        yield recurrent(f"{tag}_opset7", op, direction=direction, opset=7)
        count = {"LSTM": 3, "GRU": 2, "RNN": 1}[op]
        for at, name in enumerate(NAMES):
            names = ([name] + [NAMES[(at + k) % len(NAMES)] for k in range(1, count)]) * d
            alphas = [0.5 + 0.1 * k for k, n in enumerate(n for n in names if n in ALPHA)]
            betas = [0.2 + 0.1 * k for k, n in enumerate(n for n in names if n in BETA)]
            yield recurrent(f"{tag}_act_{name.lower()}", op, direction=direction, activations=names,
                            t=2, **({"activation_alpha": alphas} if alphas else {}),
                            **({"activation_beta": betas} if betas else {}))
            plain = (["Tanh"] * (count - 1) + [name]) * d
            yield recurrent(f"{tag}_default_{name.lower()}", op, direction=direction, activations=plain)
        mixed = [["hardsigmoid", "SOFTSIGN", "Elu"], ["HardSigmoid", "Elu", "Tanh"]][:d]
        mixed = [name for side in mixed for name in side[:count]]
        alphas, betas = [0.3, 0.7, 0.4, 0.9][: (1 if op == "RNN" else 2) * d], [0.4, 0.2][:d]
        yield recurrent(f"{tag}_act_params", op, direction=direction, activations=mixed, activation_alpha=alphas,
                        activation_beta=betas)
        if op == "LSTM":
            yield recurrent(f"{tag}_peepholes", op, ("B", "P"), direction=direction)
            yield recurrent(f"{tag}_peepholes_all", op, ("B", "P", *states, "sequence_lens"), direction=direction,
                            clip=0.5, lengths=[5, 2, 4])
            yield recurrent(f"{tag}_input_forget", op, direction=direction, input_forget=1)
            yield recurrent(f"{tag}_only_c", op, outputs=("", "", "yc"), direction=direction)
        if op == "GRU":
            yield recurrent(f"{tag}_linear", op, ("B", *states), direction=direction, linear_before_reset=1)
            yield recurrent(f"{tag}_linear_fed", op, ("B", *states), direction=direction, linear_before_reset=1,
                            fed=("W", "R", "B"))
            yield recurrent(f"{tag}_linear_relu", op, direction=direction, linear_before_reset=1,
                            activations=["Sigmoid", "Relu"] * d)
            yield recurrent(f"{tag}_linear_lengths", op, ("B", "sequence_lens"), direction=direction,
                            linear_before_reset=1, lengths=[3, 5, 2])


# Transposed convolutions.


def conv_transpose(name, image=(6, 5), kernel=(3, 3), c=4, o=3, group=1, bias=True, **attributes):
    consts = {"w": rand(c, o, *kernel)}
    if bias:
        consts["b"] = rand(o * group)
    return Case(f"convtranspose_{name}", "ConvTranspose", ["x", "w", "b"][: 2 + bias],
                feeds={"x": rand(2, c, *image)}, consts=consts, group=group, **attributes)


def conv_transpose_cases():
    for stride, pad in itertools.product((1, 2, 3), ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")):
        for group in (1, 2, 4):
            yield conv_transpose(f"s{stride}_{pad.lower()}_g{group}", strides=[stride] * 2, auto_pad=pad, group=group,
                                 o=1 if group == 4 else 3)
        yield conv_transpose(f"s{stride}_{pad.lower()}_k4", kernel=(4, 2), strides=[stride] * 2, auto_pad=pad)
    for pad in ("NOTSET", "SAME_UPPER", "SAME_LOWER"):
        for extra in range(-3, 2):
            yield conv_transpose(f"shape_{pad.lower()}_{extra}", strides=[2, 2], auto_pad=pad,
                                 output_shape=[13 + extra, 11 + extra])
    yield conv_transpose("padding", strides=[2, 3], output_padding=[1, 2], pads=[1, 0, 1, 2])
    yield conv_transpose("padding_dilated", strides=[2, 2], dilations=[2, 3], output_padding=[1, 1], pads=[2, 1, 0, 1])
    yield conv_transpose("padding_same", strides=[3, 3], output_padding=[1, 2], auto_pad="SAME_UPPER")
    yield conv_transpose("padding_shape", strides=[2, 2], output_padding=[1, 1], output_shape=[13, 11])
    yield conv_transpose("dilated_groups", group=2, o=2, dilations=[2, 1], strides=[1, 2])
    yield conv_transpose("no_bias", bias=False, pads=[1, 1, 1, 1])
    yield conv_transpose("depthwise", group=4, o=1, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    yield conv_transpose("one_axis", image=(7,), kernel=(4,), strides=[3], output_shape=[20])
    yield conv_transpose("three_axes", image=(3, 4, 2), kernel=(2, 3, 2), strides=[2, 1, 2], output_padding=[1, 0, 1])
    yield conv_transpose("kernel_of_stride", kernel=(2, 2), strides=[2, 2])
    yield conv_transpose("small_kernel", kernel=(1, 1), strides=[2, 2], auto_pad="SAME_UPPER")


# Resizing.


def resize(name, scales=None, sizes=None, roi=None, shape=(1, 2, 5, 6), opset=18, dtype=np.float32, **attributes):
    consts, inputs = {}, ["x"]
    if opset == 10:
        inputs.append("scales")
        consts["scales"] = np.array(scales, np.float32)
    else:
        for part, value, kind in (("roi", roi, np.float32), ("scales", scales, np.float32),
                                  ("sizes", sizes, np.int64)):
            empty_needed = opset == 11 and (part == "roi" or (part == "scales" and sizes is not None))
            if value is not None or empty_needed:
                consts[part] = np.array(value if value is not None else [], kind)
            inputs.append(part if part in consts else "")
        while not inputs[-1]:
            inputs.pop()
    x = rand(*shape, scale=100).astype(dtype)
    return Case(f"resize_{name}", "Resize", inputs, opset=opset, feeds={"x": x}, consts=consts, **attributes)


COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
FACTORS = [(2, 2), (1.7, 1.3), (0.6, 0.6), (0.5, 1), (3, 0.34), (1.5, 2.5), (0.2, 0.17)]


def resize_cases():
    for (h, w), mode in itertools.product(FACTORS, ("nearest", "linear", "cubic")):
        tag = f"{mode}_{h}_{w}"
        for coordinates in COORDINATES:
            opset = 19 if coordinates == "half_pixel_symmetric" else 18
            more = [{"nearest_mode": m} for m in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")]
            for at, extra in enumerate(more if mode == "nearest" else [{}]):
                yield resize(f"{tag}_{coordinates}_{at}", [1, 1, h, w], mode=mode, opset=opset,
                             coordinate_transformation_mode=coordinates, **extra)
            if mode == "cubic":
                yield resize(f"{tag}_{coordinates}_coefficient", [1, 1, h, w], mode=mode, cubic_coeff_a=-0.5,
                             exclude_outside=1, opset=opset, coordinate_transformation_mode=coordinates)
            if mode != "nearest":
                for outside in (0, 1):
                    yield resize(f"{tag}_{coordinates}_antialias{outside}", [1, 1, h, w], mode=mode, antialias=1,
                                 exclude_outside=outside, opset=opset, coordinate_transformation_mode=coordinates)
        if mode != "cubic":
            yield resize(f"{tag}_opset10", [1, 1, h, w], opset=10, mode=mode)
            for opset in (7, 8, 9):
                if h >= 1 and w >= 1:
                    feeds = {"x": rand(1, 2, 5, 6)}
                    scales = [1.0, 1.0, h, w]
                    if opset == 9:
                        yield Case(f"upsample_{tag}_9", "Upsample", ["x", "s"], opset=9, feeds=feeds, mode=mode,
                                   consts={"s": np.array(scales, np.float32)})
                    else:
                        yield Case(f"upsample_{tag}_{opset}", "Upsample", ["x"], opset=opset, feeds=feeds, mode=mode,
                                   scales=[float(s) for s in scales])
        for opset in (11, 13):
            yield resize(f"{tag}_opset{opset}", [1, 1, h, w], opset=opset, mode=mode)
        if mode != "cubic":
            yield resize(f"{tag}_tf", [1, 1, h, w], opset=11, mode=mode,
                         coordinate_transformation_mode="tf_half_pixel_for_nn")
        for at, roi in enumerate(([0, 0, .2, .3, 1, 1, .8, .7], [0, 0, -.2, .3, 1, 1, 1.2, 1.4])):
            yield resize(f"{tag}_crop{at}", [1, 1, h, w], roi=roi, mode=mode, extrapolation_value=7.5,
                         coordinate_transformation_mode="tf_crop_and_resize")
    yield from resize_ties()
    yield from resize_more_cases()


def resize_ties():
    """Many elements lie in the middle between two, but for the rounding errors of their coordinates."""
    pairs, shapes = [(0.3, 0.6), (0.7, 0.9), (1.3, 1.7), (2.2, 3.3)], [(7, 12), (14, 16), (17, 20)]
    for scales, shape, coordinates in itertools.product(pairs, shapes, COORDINATES):
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor"):
            name = f"tie_{coordinates}_{rounding}_{scales[0]}_{shape[0]}"
            yield resize(name, [1, 1, *scales], shape=(1, 1, *shape), mode="nearest", opset=19,
                         coordinate_transformation_mode=coordinates, nearest_mode=rounding)


def resize_more_cases():
    for mode, opset, sizes in itertools.product(("nearest", "linear", "cubic"), (11, 13, 18, 19),
                                                ((9, 4), (1, 1), (10, 12), (5, 6), (3, 17))):
        tag = f"{mode}_sizes{sizes[0]}_{sizes[1]}_{opset}"
        for coordinates in ("half_pixel", "align_corners", "pytorch_half_pixel", "asymmetric"):
            yield resize(f"{tag}_{coordinates}", sizes=[1, 2, *sizes], opset=opset, mode=mode,
                         coordinate_transformation_mode=coordinates)
        if opset >= 18:
            for policy in ("not_larger", "not_smaller", "stretch"):
                yield resize(f"{tag}_{policy}", sizes=list(sizes), axes=[2, 3], mode=mode, opset=opset,
                             keep_aspect_ratio_policy=policy)
    yield resize("axes_turned", [1.5, 2.5], axes=[3, 2], mode="linear")
    yield resize("axes_negative", [2, 3], axes=[-2, -1], mode="nearest")
    yield resize("axes_one", [2.5], axes=[3], mode="nearest")
    yield resize("axes_sizes", sizes=[9], axes=[-1], mode="cubic")
    yield resize("axes_crop", [2, 3], roi=[.1, .2, .9, .7], axes=[2, 3], mode="linear",
                 coordinate_transformation_mode="tf_crop_and_resize")
    yield resize("flat_linear", [1.5, 2.5], shape=(5, 6), mode="linear")
    yield resize("flat_cubic", [1.5, 2.5], shape=(5, 6), mode="cubic")
    yield resize("volume_linear", [1, 1, 2, 1.5, .7], shape=(1, 2, 3, 4, 5), mode="linear")
    yield resize("volume_nearest", [1, 1, 2, 1.5, .7], shape=(1, 2, 3, 4, 5), mode="nearest")
    yield resize("channels_nearest", [1, 2, 1, 1.5], mode="nearest")
    yield resize("last_linear", [1, 2, 1.5, 1], mode="linear")
    for dtype, mode in itertools.product((np.int32, np.uint8, np.int8), ("nearest", "linear")):
        yield resize(f"{np.dtype(dtype).name}_{mode}", [1, 1, 1.5, 2], mode=mode, dtype=dtype)


# Sampling by a grid.


def grid_sample_cases():
    for opset, mode, padding, corners in itertools.product((16, 20), ("linear", "nearest", "cubic"),
                                                           ("zeros", "border", "reflection"), (0, 1)):
        name = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode) if opset == 16 else mode
        for image, grid, reach in (((5, 6), (4, 7), 1.0), ((5, 6), (8, 9), 2.5), ((1, 4), (3, 3), 1.5)):
            tag = f"gridsample_{opset}_{mode}_{padding}_{corners}_{image[0]}_{reach}"
            feeds = {"x": rand(2, 3, *image), "grid": rand(2, *grid, 2, scale=reach)}
            yield Case(tag, "GridSample", ["x", "grid"], opset=opset, feeds=feeds, mode=name, padding_mode=padding,
                       align_corners=corners)
        if opset == 20 and mode != "cubic":
            feeds = {"x": rand(2, 2, 3, 4, 5), "grid": rand(2, 3, 4, 2, 3, scale=1.5)}
            yield Case(f"gridsample_{opset}_{mode}_{padding}_{corners}_volume", "GridSample", ["x", "grid"],
                       opset=opset, feeds=feeds, mode=name, padding_mode=padding, align_corners=corners)


# Convolutions and pools.


def pooling_cases():
    x = rand(2, 4, 9, 8)
    for op in ("MaxPool", "AveragePool", "LpPool"):
        options = itertools.product((0, 1), ((1, 1), (2, 2), (3, 2)), ([0] * 4, [1, 0, 1, 1], [1, 1, 0, 0]),
                                    ((1, 1), (2, 1)))
        for ceil, strides, pads, dilations in options:
            attributes = dict(kernel_shape=[3, 2], strides=strides, pads=pads, ceil_mode=ceil, dilations=dilations)
            tag = f"{op.lower()}_c{ceil}_s{strides[0]}_p{''.join(map(str, pads))}_d{dilations[0]}"
            for extra in ([{"count_include_pad": 0}, {"count_include_pad": 1}] if op == "AveragePool" else [{}]):
                include = extra.get("count_include_pad", "")
                yield Case(f"{tag}_{include}", op, ["x"], opset=19, feeds={"x": x}, **attributes, **extra)
        for pad, strides in itertools.product(("VALID", "SAME_UPPER", "SAME_LOWER"), ((1, 1), (2, 2), (2, 3))):
            for extra in ([{"count_include_pad": 0}, {"count_include_pad": 1}] if op == "AveragePool" else [{}]):
                include = extra.get("count_include_pad", "")
                yield Case(f"{op.lower()}_{pad.lower()}_{strides[0]}{strides[1]}_{include}", op, ["x"], opset=19,
                           feeds={"x": x}, kernel_shape=[3, 2], strides=strides, auto_pad=pad, **extra)
    for order, strides in itertools.product((0, 1), ((1, 1), (2, 2))):
        yield Case(f"maxpool_indices_{order}_{strides[0]}", "MaxPool", ["x"], ("y", "i"), feeds={"x": x},
                   kernel_shape=[3, 2], strides=strides, pads=[1, 1, 1, 1], storage_order=order)
    yield Case("maxpool_indices_dilated", "MaxPool", ["x"], ("y", "i"), feeds={"x": x}, kernel_shape=[2, 2],
               dilations=[2, 3])
    for p in (1, 2, 3):
        yield Case(f"lppool_p{p}", "LpPool", ["x"], feeds={"x": x}, kernel_shape=[3, 2], strides=[2, 2], p=p)
        yield Case(f"globallppool_p{p}", "GlobalLpPool", ["x"], feeds={"x": x}, p=p)
    line, volume = rand(2, 4, 11), rand(1, 2, 5, 4, 6)
    for op in ("MaxPool", "AveragePool"):
        yield Case(f"{op.lower()}_line", op, ["x"], feeds={"x": line}, kernel_shape=[3], strides=[2], ceil_mode=1)
        yield Case(f"{op.lower()}_volume", op, ["x"], feeds={"x": volume}, kernel_shape=[2, 3, 2], strides=[2, 1, 2],
                   pads=[0, 1, 1, 1, 1, 0])
    for pad, strides, group in itertools.product(("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"),
                                                 ((1, 1), (2, 3)), (1, 2, 4)):
        consts = {"w": rand(4, 4 // group, 3, 2), "b": rand(4)}
        yield Case(f"conv_{pad.lower()}_{strides[0]}{strides[1]}_g{group}", "Conv", ["x", "w", "b"], feeds={"x": x},
                   consts=consts, auto_pad=pad, strides=strides, group=group)
        if pad in ("NOTSET", "VALID"):
            yield Case(f"conv_{pad.lower()}_{strides[0]}{strides[1]}_g{group}_dilated", "Conv", ["x", "w", "b"],
                       feeds={"x": x}, consts=consts, auto_pad=pad, strides=strides, dilations=[2, 3], group=group)
    yield Case("conv_pads_uneven", "Conv", ["x", "w"], feeds={"x": x}, consts={"w": rand(3, 4, 3, 2)},
               pads=[0, 1, 2, 3], strides=[2, 1], kernel_shape=[3, 2])


# Normalisation, padding, movement.


def normalisation_cases():
    x = rand(2, 4, 5, 6)
    s, b = rand(4), rand(4)
    for eps in (1e-5, 0.1):
        yield Case(f"instancenorm_{eps}", "InstanceNormalization", ["x", "s", "b"], feeds={"x": x},
                   consts={"s": s, "b": b}, epsilon=eps)
    yield Case("groupnorm_18", "GroupNormalization", ["x", "s", "b"], opset=18, feeds={"x": x},
               consts={"s": rand(2), "b": rand(2)}, num_groups=2, epsilon=0.01)
    for stash in (0, 1):
        yield Case(f"groupnorm_21_{stash}", "GroupNormalization", ["x", "s", "b"], opset=21, feeds={"x": x},
                   consts={"s": s, "b": b}, num_groups=2, **({"stash_type": 1} if stash else {}))
    for axis in (-1, 1, 2, -2, 0):
        rest = x.shape[axis:]
        for outputs in (("y",), ("y", "mean"), ("y", "mean", "inv"), ("y", "", "inv")):
            tag = "".join(n[0] if n else "_" for n in outputs)
            yield Case(f"layernorm_{axis}_{tag}", "LayerNormalization", ["x", "s", "b"], outputs, feeds={"x": x},
                       consts={"s": rand(*rest), "b": rand(*rest)}, axis=axis, epsilon=0.01)
        yield Case(f"layernorm_{axis}_no_bias", "LayerNormalization", ["x", "s"], feeds={"x": x},
                   consts={"s": rand(*rest)}, axis=axis, stash_type=1)
    for size in (1, 3, 5):
        yield Case(f"lrn_{size}", "LRN", ["x"], feeds={"x": rand(2, 6, 3, 4)}, size=size, alpha=0.3, beta=0.6,
                   bias=1.5)
        yield Case(f"lrn_{size}_defaults", "LRN", ["x"], feeds={"x": rand(2, 6, 3, 4, scale=50)}, size=size)
    norm = {"s": s, "b": b, "m": rand(4), "v": np.abs(rand(4)) + 0.1}
    for opset in (7, 9, 14, 15):
        yield Case(f"batchnorm_{opset}", "BatchNormalization", ["x", "s", "b", "m", "v"], opset=opset,
                   feeds={"x": x}, consts=norm, epsilon=0.01, momentum=0.5)
    for op, opset, axis in itertools.product(("Softmax", "LogSoftmax", "Hardmax"), (11, 12, 13), (None, 0, 1, 2, -1)):
        extra = {} if axis is None else {"axis": axis}
        yield Case(f"{op.lower()}_{opset}_{axis}", op, ["x"], opset=opset, feeds={"x": rand(2, 3, 4)}, **extra)
    for p, axis in itertools.product((1, 2), (-1, 0, 1)):
        yield Case(f"lpnorm_{p}_{axis}", "LpNormalization", ["x"], feeds={"x": rand(2, 3, 4)}, p=p, axis=axis)
    yield Case("mvn", "MeanVarianceNormalization", ["x"], feeds={"x": x})
    yield Case("mvn_axes", "MeanVarianceNormalization", ["x"], feeds={"x": x}, axes=[1, 2])


def movement_cases():
    for mode in ("DCR", "CRD"):
        yield Case(f"depthtospace_{mode}", "DepthToSpace", ["x"], feeds={"x": rand(2, 8, 2, 3)}, blocksize=2,
                   mode=mode)
    yield Case("spacetodepth", "SpaceToDepth", ["x"], feeds={"x": rand(2, 3, 4, 6)}, blocksize=2)
    x = rand(2, 3, 4, 5)
    for opset, mode in itertools.product((2, 11, 13, 18, 19), ("constant", "edge", "reflect", "wrap")):
        if mode == "wrap" and opset < 19:
            continue
        for at, pads in enumerate(([0, 1, 2, 1, 1, 0, 1, 3], [0, 0, -1, 1, 0, 0, 1, -2], [0, -1, 0, 0, 0, -1, -1, 0])):
            tag = f"pad_{opset}_{mode}_{at}"
            if opset == 2:
                yield Case(tag, "Pad", ["x"], opset=opset, feeds={"x": x}, pads=pads, mode=mode, value=2.5)
                continue
            consts = {"p": np.array(pads, np.int64), "v": np.array(1.5, np.float32)}
            yield Case(tag, "Pad", ["x", "p", "v"], opset=opset, feeds={"x": x}, consts=consts, mode=mode)
            yield Case(f"{tag}_zero", "Pad", ["x", "p"], opset=opset, feeds={"x": x}, consts={"p": consts["p"]},
                       mode=mode)
        if opset >= 18:
            consts = {"p": np.array([1, 2, 0, 1], np.int64), "a": np.array([3, -3], np.int64)}
            yield Case(f"pad_{opset}_{mode}_axes", "Pad", ["x", "p", "", "a"], opset=opset, feeds={"x": x},
                       consts=consts, mode=mode)
            consts["v"] = np.array(3.5, np.float32)
            yield Case(f"pad_{opset}_{mode}_axes_value", "Pad", ["x", "p", "v", "a"], opset=opset, feeds={"x": x},
                       consts=consts, mode=mode)
    rois = np.array([[0, 0, 5, 4], [1.5, 2.25, 6, 7.5], [-1, -1, 9, 9]], np.float32)
    for opset, mode, ratio in itertools.product((10, 16), ("avg", "max"), (0, 2)):
        consts = {"r": rois, "b": np.array([0, 1, 0], np.int64)}
        modes = ("half_pixel", "output_half_pixel") if opset == 16 else (None,)
        for coordinates in modes:
            extra = {"coordinate_transformation_mode": coordinates} if coordinates else {}
            yield Case(f"roialign_{opset}_{mode}_{ratio}_{coordinates}", "RoiAlign", ["x", "r", "b"], opset=opset,
                       feeds={"x": rand(2, 3, 8, 8)}, consts=consts, mode=mode, sampling_ratio=ratio,
                       output_height=3, output_width=2, spatial_scale=0.8, **extra)


FAMILIES = (recurrent_cases, conv_transpose_cases, resize_cases, grid_sample_cases, pooling_cases,
            normalisation_cases, movement_cases)


def run_reef(reef, folder, case, model):
    """The outputs by name, or the message of a refusal."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    command = [str(reef), "run", str(path), "--cus", "1", "--nice", "0", "--output-dir", str(folder / "out")]
    for name, value in case.feeds.items():
        np.save(folder / f"{name}.npy", value)
        command += ["--input", f"{name}={folder / f'{name}.npy'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        return (done.stderr + done.stdout).strip()
    return {name: np.load(folder / "out" / f"{name}.npy") for name in case.outputs if name}


def difference(got, want):
    """What is wrong, if anything."""
    for name, b in want.items():
        a = got[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{name} is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
        if not b.size:
            continue
        if b.dtype.kind != "f":
            if not np.array_equal(a, b):
                return f"{name}: {(a != b).sum()} of {b.size} differ"
            continue
        finite = np.isfinite(b)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return f"{name}: infinities or NaN differ"
        if finite.any():
            off = np.abs(a[finite].astype(np.float64) - b[finite]).max()
            if not off <= TOLERANCE * max(1.0, np.abs(b[finite]).max()):
                return f"{name}: off by {off:.3g}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF)
    parser.add_argument("--only", default="", help="run the cases whose names hold this")
    args = parser.parse_args()
    counts = {"equal": 0, "refused": 0, "without reference": 0}
    failures = []
    for case in itertools.chain.from_iterable(family() for family in FAMILIES):
        if args.only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                model = case.model()
            except Exception as error:  # shape inference refuses what the operator's version does not have
                print(f"  (no model {case.name}: {str(error).splitlines()[0][:150]})")
                counts["without reference"] += 1
                continue
            want = case.want()
            if want is None:
                counts["without reference"] += 1
                continue
            got = run_reef(args.reef, pathlib.Path(folder), case, model)
        if isinstance(got, str):
            allowed = [part for name, part in REFUSED.items() if case.name.startswith(name)]
            if any(part in got for part in allowed):
                counts["refused"] += 1
                continue
            problem = f"refused: {' '.join(got.split())[-300:]}"
        else:
            problem = difference(got, want)
            if problem is None:
                counts["equal"] += 1
                continue
        failures.append(case.name)
        print(f"{case.name}: {problem}", flush=True)
    print(", ".join(f"{count} {what}" for what, count in counts.items()) + f", {len(failures)} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
