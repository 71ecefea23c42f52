"""The models that `real_models.py` makes itself, from `real_vision.py`, `real_text.py`, and by two tools.

ONNX Runtime's quantiser makes eight-bit models of a ResNet and a BERT, skl2onnx models of trees. Each is small and
from a seed.
"""

import importlib.metadata
import logging

import numpy as np
import onnx

import real_text as text
import real_vision as vision
from real_packages import Model, may_hold

SQUARE = vision.pictures((2, 3, 64, 64), (1, 3, 64, 64))
FREE = vision.pictures((2, 3, 48, 80), (1, 3, 96, 96))
DETECTED = [*vision.pictures((1, 3, 64, 64), seed=3), *SQUARE[1:]]
BOTH = ("script", "dynamo")


def tokens(*names, pad=0):
    """At two shapes, those inputs that a model has."""
    all_feeds = [text.sentences(batch, length, 300, pad=pad) for batch, length in ((3, 16), (1, 64))]
    return [{name: feeds[name] for name in names} for feeds in all_feeds]


THREE = tokens("input_ids", "attention_mask", "token_type_ids")
PADDED = tokens("input_ids", "attention_mask", pad=1)


def sequences(seed, *shapes, dtype="f4", name="x"):
    return [{name: np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)} for shape in shapes]


def lstm_feeds(batch, length):
    rng = np.random.default_rng([7, batch, length])
    state = {name: rng.standard_normal((2, batch, 128)).astype("f4") for name in ("h0", "c0")}
    return {"input": rng.integers(0, 400, (batch, length)), **state}


def packed_feeds(batch, length):
    rng = np.random.default_rng([8, batch, length])
    lengths = np.sort(rng.integers(1, length + 1, batch))[::-1]
    lengths[0] = length
    return {"input": rng.standard_normal((batch, length, 32)).astype("f4"), "lengths": np.ascontiguousarray(lengths)}


# Name, what writes the model, its inputs at each shape, whether it rounds.
GRAPHS = [
    *((f"{make.__name__}.{style}", lambda make=make, style=style: make(style), cases, "exact")
      for make, cases in ((vision.resnet, FREE), (vision.mobilenet, FREE), (vision.efficientnet, FREE),
                          (vision.vit, SQUARE), (vision.convnext, FREE), (vision.unet, FREE),
                          (vision.deeplab, FREE), (vision.swin, SQUARE),
                          (text.bert, THREE), (text.roberta, PADDED), (text.mpnet, PADDED))
      for style in BOTH),
    *((f"gpt2.{style}", lambda style=style: text.gpt2(style),
       [text.gpt2_feeds(*shape) for shape in ((2, 9, 0), (2, 3, 6), (1, 1, 20))], "exact") for style in BOTH),
    *((f"half_linear.{style}", lambda style=style: text.half_linear(style),
       sequences(9, (3, 5, 128), (1, 32, 128), dtype="f2"), "half") for style in BOTH),
    ("detector.boxes", lambda: vision.detector(None), DETECTED, "exact"),
    ("detector.roi_v16", lambda: vision.detector("half_pixel"), DETECTED, "exact"),
    ("detector.roi_old", lambda: vision.detector("output_half_pixel"), DETECTED, "exact"),
    ("lstm_model", text.lstm_model, [lstm_feeds(3, 7), lstm_feeds(1, 32)], "exact"),
    ("packed.lengths", lambda: text.packed(False), [packed_feeds(4, 9), packed_feeds(2, 32)], "exact"),
    ("packed.reversed", lambda: text.packed(True), [packed_feeds(4, 9), packed_feeds(2, 32)], "exact"),
    *((f"attention23.{name}", lambda fused=name == "layer": text.attention23(fused),
     [text.attention23_feeds(*shape) for shape in ((2, 5, 0), (2, 3, 7), (1, 1, 30))], "exact")
      for name in ("layer", "parts")),
    ("attention23.causal", text.attention23_causal, sequences(11, (2, 7, 64), (1, 32, 64)), "exact"),
]


def collect(work, only):
    """All models that a name of the pattern can be of, and a line for each tool that is not there."""
    work, models, missing = work / "made", [], []
    work.mkdir(parents=True, exist_ok=True)
    for name, make, cases, rounds in GRAPHS:
        if may_hold(name, only):
            onnx.save(make(), work / f"{name}.onnx")
            models.append(Model(name, work / f"{name}.onnx", cases, rounds))
    for label, make in (("int8", quantised), ("sklearn", trees)):
        if may_hold(label, only):
            try:
                models += make(work)
            except ImportError as error:
                missing.append(f"{label}: {error}")
    return models, missing


def quantised(work):
    """Static with pairs of QuantizeLinear and DequantizeLinear, static with QLinear operators, dynamic.

    `plain` has QLinear operators of ONNX alone, the other one those of ONNX Runtime as well.
    """
    from onnxruntime import quantization as q

    class Feeds(q.CalibrationDataReader):
        def __init__(self, feeds):
            self.feeds = iter(feeds)

        def get_next(self):
            return next(self.feeds, None)

    logging.getLogger().setLevel(logging.ERROR)
    models = []
    plain = {"resnet": (vision.resnet("script", 14), FREE), "bert": (text.bert("script", opset=14), THREE)}
    for name, (model, cases) in plain.items():
        source = work / f"{name}.onnx"
        onnx.save(model, source)
        for kind in ("qdq", "qlinear", "qlinear_plain", "dynamic"):
            path = work / f"int8.{name}_{kind}.onnx"
            if kind == "dynamic":
                # Convolutions of signed weights are not in ONNX Runtime.
                weight = q.QuantType.QUInt8 if name == "resnet" else q.QuantType.QInt8
                q.quantize_dynamic(source, path, weight_type=weight)
            else:
                form = q.QuantFormat.QDQ if kind == "qdq" else q.QuantFormat.QOperator
                # Seven bits of weight: ONNX Runtime's sums of products of eight by eight saturate on some processors.
                q.quantize_static(source, path, Feeds(cases), quant_format=form, per_channel=kind == "qdq",
                                  op_types_to_quantize=["Conv", "MatMul"] if kind == "qlinear_plain" else None,
                                  activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8, reduce_range=True)
            models.append(Model(f"int8.{name}_{kind}", path, cases, "int8"))
    return models


def trees(work):
    """Forests and boosted trees, for classes and for numbers."""
    importlib.metadata.version("skl2onnx")
    from skl2onnx import to_onnx
    from sklearn import ensemble

    rng = np.random.default_rng(30)
    rows = rng.standard_normal((300, 6)).astype("f4")
    classes = (rows[:, 0] + rows[:, 1] * rows[:, 2] > 0).astype("i8") + (rows[:, 3] > 1)
    numbers = rows[:, 0] * 2 + np.abs(rows[:, 1])
    models = []
    for name, kind in (("forest", "RandomForest"), ("boosting", "GradientBoosting")):
        for goal, target in (("Classifier", classes), ("Regressor", numbers)):
            fitted = getattr(ensemble, kind + goal)(n_estimators=10, max_depth=4, random_state=0).fit(rows, target)
            options = {id(fitted): {"zipmap": False}} if goal == "Classifier" else None
            path = work / f"sklearn.{name}_{goal.lower()}.onnx"
            path.write_bytes(to_onnx(fitted, rows[:1], options=options, target_opset=17).SerializeToString())
            models.append(Model(f"sklearn.{name}_{goal.lower()}", path, [{"X": rows[:7]}, {"X": rows[:64]}]))
    return models
