"""Language models for `real_models.py`: encoders, a decoder with a cache, recurrent networks."""

import numpy as np
from onnx import TensorProto

from real_graphs import Graph

SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2,
         "vocab_size": 500, "max_position_embeddings": 130, "layer_norm_eps": 1e-12}
LOWEST = float(np.finfo(np.float32).min)


def sentences(batch, length, vocabulary, seed=3, pad=0):
    """Token ids, a mask that cuts all rows but the first, types."""
    rng = np.random.default_rng([seed, batch, length])
    kept = rng.integers((length + 1) // 2, length + 1, batch)
    kept[0] = length
    mask = (np.arange(length)[None, :] < kept[:, None]).astype("i8")
    ids = rng.integers(min(4, vocabulary - 1), vocabulary, (batch, length))
    return {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def random_weights(settings, seed=1):
    """Weights by the names of a BERT checkpoint."""
    rng = np.random.default_rng(seed)
    width, inner = settings["hidden_size"], settings["intermediate_size"]
    weights = {}
    sizes = {"word": settings["vocab_size"], "position": settings["max_position_embeddings"], "token_type": 2}
    for name, rows in sizes.items():
        weights[f"embeddings.{name}_embeddings.weight"] = rng.standard_normal((rows, width)).astype("f4") * 0.1
    shapes = {"attention.self.query": (width, width), "attention.self.key": (width, width),
              "attention.self.value": (width, width), "attention.output.dense": (width, width),
              "intermediate.dense": (inner, width), "output.dense": (width, inner)}
    norms = ["embeddings.LayerNorm"]
    for layer in range(settings["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}."
        for name, shape in shapes.items():
            weights[f"{prefix}{name}.weight"] = (rng.standard_normal(shape) / shape[1] ** 0.5).astype("f4")
            weights[f"{prefix}{name}.bias"] = (rng.standard_normal(shape[0]) * 0.1).astype("f4")
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
    for name in norms:
        weights[f"{name}.weight"] = (1 + 0.1 * rng.standard_normal(width)).astype("f4")
        weights[f"{name}.bias"] = (0.1 * rng.standard_normal(width)).astype("f4")
    return weights


def bert(style, weights=None, settings=SMALL, opset=None):
    """Tokens, mask and types to hidden states."""
    weights = weights or random_weights(settings)
    g = Graph(style, opset)
    names = ("input_ids", "attention_mask", "token_type_ids")
    ids, mask, types = (g.input(name, ["batch", "sequence"], "i8") for name in names)

    def pair(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    names = ("word", "position", "token_type")
    tables = [g.parameter(weights[f"embeddings.{name}_embeddings.weight"]) for name in names]
    size = settings["max_position_embeddings"]
    length = g.extent(ids, 1)
    length = g.op("Unsqueeze", length, np.array([0])) if style == "script" else length
    positions = g.slice(g.parameter(np.arange(size)[None]), 1, 0, length)
    x = g.op("Add", g.op("Gather", tables[0], ids), g.op("Gather", tables[2], types))
    x = g.op("Add", x, g.op("Gather", tables[1], positions))
    x = g.layer_norm(x, settings["hidden_size"], settings["layer_norm_eps"], pair("embeddings.LayerNorm"))
    bias = additive_mask(g, mask)
    for layer in range(settings["num_hidden_layers"]):
        x = encoder_layer(g, x, bias, f"encoder.layer.{layer}.", pair, settings)
    return g.model({"last_hidden_state": (x, ["batch", "sequence", settings["hidden_size"]], "f4")})


def additive_mask(g, mask):
    """0 where a position counts and the lowest number where it does not."""
    wide = g.op("Unsqueeze", g.op("Unsqueeze", mask, np.array([1])), np.array([2]))
    return g.op("Mul", g.op("Sub", g.scalar(1), g.op("Cast", wide, to=TensorProto.FLOAT)), g.scalar(LOWEST))


def encoder_layer(g, x, bias, prefix, pair, settings):
    width, count = settings["hidden_size"], settings["num_attention_heads"]
    inner, epsilon = settings["intermediate_size"], settings["layer_norm_eps"]
    q, k, v = (g.heads(g.linear(x, width, width, weights=pair(f"{prefix}attention.self.{name}")), count, width // count)
               for name in ("query", "key", "value"))
    attend = g.sdpa if g.style == "dynamo" else g.attend
    y = g.merge(attend(q, k, v, width // count, bias), width)
    y = g.linear(y, width, width, weights=pair(f"{prefix}attention.output.dense"))
    x = g.layer_norm(g.op("Add", y, x), width, epsilon, pair(f"{prefix}attention.output.LayerNorm"))
    y = g.gelu(g.linear(x, width, inner, weights=pair(f"{prefix}intermediate.dense")))
    y = g.linear(y, inner, width, weights=pair(f"{prefix}output.dense"))
    return g.layer_norm(g.op("Add", y, x), width, epsilon, pair(f"{prefix}output.LayerNorm"))


def pooling():
    """The mean over the positions that count, made a vector of length 1."""
    g = Graph("script")
    x = g.input("token_embeddings", ["batch", "sequence", 384])
    mask = g.input("attention_mask", ["batch", "sequence"], "i8")
    wide = g.op("Cast", g.op("Expand", g.op("Unsqueeze", mask, np.array([-1])), g.op("Shape", x)), to=TensorProto.FLOAT)
    total = g.op("ReduceSum", g.op("Mul", x, wide), np.array([1]), keepdims=0)
    count = g.op("Clip", g.op("ReduceSum", wide, np.array([1]), keepdims=0), g.scalar(1e-9), "")
    mean = g.op("Div", total, count)
    norm = g.op("Clip", g.op("ReduceL2", mean, axes=[1], keepdims=1), g.scalar(1e-12), "")
    y = g.op("Div", mean, g.op("Expand", norm, g.op("Shape", mean)))
    return g.model({"sentence_embedding": (y, ["batch", 384], "f4")})


def roberta(style):
    """Positions are counted over what is not padding."""
    g, settings = Graph(style), SMALL
    weights = random_weights(settings, 2)
    ids, mask = (g.input(name, ["batch", "sequence"], "i8") for name in ("input_ids", "attention_mask"))
    kept = g.op("Cast", g.op("Not", g.op("Equal", ids, g.scalar(1, "i8"))), to=TensorProto.INT32)
    counted = g.op("Mul", g.op("Cast", g.op("CumSum", kept, g.scalar(1, "i8")), to=TensorProto.INT32), kept)
    positions = g.op("Add", g.op("Cast", counted, to=TensorProto.INT64), g.scalar(1, "i8"))

    def pair(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    word, position = (g.parameter(weights[f"embeddings.{name}_embeddings.weight"]) for name in ("word", "position"))
    x = g.op("Add", g.op("Gather", word, ids), g.op("Gather", position, positions))
    x = g.layer_norm(x, settings["hidden_size"], 1e-5, pair("embeddings.LayerNorm"))
    bias = additive_mask(g, mask)
    for layer in range(settings["num_hidden_layers"]):
        x = encoder_layer(g, x, bias, f"encoder.layer.{layer}.", pair, settings)
    first = g.op("Gather", x, g.scalar(0, "i8"), axis=1)
    logits = g.linear(g.op("Tanh", g.linear(first, 128, 128, flat=True)), 128, 5, flat=True)
    return g.model({"logits": (logits, ["batch", 5], "f4")})


def mpnet(style):
    """As RoBERTa, with a bias by the distance of two positions in buckets that grow."""
    g = Graph(style, seed=4)
    ids, mask = (g.input(name, ["batch", "sequence"], "i8") for name in ("input_ids", "attention_mask"))
    kept = g.op("Cast", g.op("Not", g.op("Equal", ids, g.scalar(1, "i8"))), to=TensorProto.INT64)
    positions = g.op("Add", g.op("Mul", g.op("CumSum", kept, g.scalar(1, "i8")), kept), g.scalar(1, "i8"))
    x = g.op("Add", g.op("Gather", g.random(500, 64), ids), g.op("Gather", g.random(130, 64), positions))
    x = g.layer_norm(x, 64)
    bias = g.op("Add", distance_bias(g, ids), additive_mask(g, mask))
    for _ in range(2):
        q, k, v = (g.heads(g.linear(x, 64, 64), 4, 16) for _ in range(3))
        x = g.layer_norm(g.op("Add", g.linear(g.merge(g.attend(q, k, v, 16, bias), 64), 64, 64), x), 64)
        x = g.layer_norm(g.op("Add", g.linear(g.gelu(g.linear(x, 64, 128)), 128, 64), x), 64)
    return g.model({"last_hidden_state": (x, ["batch", "sequence", 64], "f4")})


def distance_bias(g, ids):
    length = g.extent(ids, 1)
    length = g.op("Squeeze", length, np.array([0])) if g.style == "dynamo" else length
    row = g.op("Range", g.constant(g.scalar(0, "i8")), length, g.constant(g.scalar(1, "i8")))
    away = g.op("Neg", g.op("Sub", g.op("Unsqueeze", row, np.array([0])), g.op("Unsqueeze", row, np.array([1]))))
    side = g.op("Mul", g.op("Cast", g.op("Less", away, g.scalar(0, "i8")), to=TensorProto.INT64), g.scalar(16, "i8"))
    far = g.op("Abs", away)
    ratio = g.op("Log", g.op("Div", g.op("Cast", far, to=TensorProto.FLOAT), g.scalar(8)))
    steps = g.op("Cast", g.op("Mul", g.op("Div", ratio, g.scalar(np.log(16))), g.scalar(8)), to=TensorProto.INT64)
    large = g.op("Add", steps, g.scalar(8, "i8"))
    last = g.op("Expand", g.scalar(15, "i8"), g.op("Shape", large))
    bucket = g.op("Where", g.op("Less", far, g.scalar(8, "i8")), far, g.op("Min", large, last))
    values = g.op("Gather", g.random(32, 4), g.op("Add", side, bucket))
    return g.op("Unsqueeze", g.transpose(values, 2, 0, 1), np.array([0]))


def gpt2(style):
    """A decoder: tokens and a cache of keys and values to logits and a longer cache."""
    g, width, count, layers = Graph(style, seed=5), 96, 4, 2
    ids = g.input("input_ids", ["batch", "sequence"], "i8")
    mask = g.input("attention_mask", ["batch", "total"], "i8")
    past = [g.input(f"past_key_values.{layer}.{kind}", ["batch", count, "past", width // count])
            for layer in range(layers) for kind in ("key", "value")]
    summed = g.op("Sub", g.op("CumSum", mask, g.scalar(1, "i8")), g.scalar(1, "i8"))
    positions = g.op("Where", g.op("Equal", mask, g.scalar(0, "i8")), g.scalar(1, "i8"), summed)
    fresh = g.op("Neg", g.extent(ids, 1))
    positions = g.slice(positions, 1, g.op("Unsqueeze", fresh, np.array([0])) if style == "script" else fresh)
    tokens = g.random(300, width, scale=0.5)
    x = g.op("Add", g.op("Gather", tokens, ids), g.op("Gather", g.random(64, width, scale=0.1), positions))
    bias, present = additive_mask(g, mask), {}
    for layer in range(layers):
        y, key, value = cached_attention(g, g.layer_norm(x, width), past[2 * layer:2 * layer + 2], bias, width, count)
        x = g.op("Add", y, x)
        inner = g.gelu_tanh(conv1d(g, g.layer_norm(x, width), width, 4 * width))
        x = g.op("Add", x, conv1d(g, inner, 4 * width, width))
        for kind, cache in (("key", key), ("value", value)):
            present[f"present.{layer}.{kind}"] = (cache, ["batch", count, "total", width // count], "f4")
    logits = g.op("MatMul", g.layer_norm(x, width), g.op("Transpose", tokens, perm=[1, 0]))
    return g.model({"logits": (logits, ["batch", "sequence", 300], "f4"), **present})


def conv1d(g, x, inner, outer):
    """A linear layer as GPT-2 has it: the input as a matrix, a Gemm, the shape back."""
    batch, length = g.extent(x, 0), g.extent(x, 1)
    weights = g.random(inner, outer, scale=inner ** -0.5), g.random(outer, scale=0.1)
    flat = g.op("Gemm", g.reshape(x, -1, inner), *weights)
    return g.reshape(flat, batch, length, outer)


def cached_attention(g, x, past, bias, width, count):
    size = width // count
    q, k, v = g.op("Split", conv1d(g, x, width, 3 * width), np.array([width] * 3), outputs=3, axis=2)
    q, k, v = (g.heads(part, count, size) for part in (q, k, v))
    key, value = g.op("Concat", past[0], k, axis=-2), g.op("Concat", past[1], v, axis=-2)
    scores = g.op("Div", g.op("MatMul", q, g.transpose(key, 0, 1, 3, 2)), g.scalar(size ** 0.5))
    total, fresh = g.extent(key, 2), g.extent(q, 2)
    start = g.op("Sub", total, fresh)
    if g.style == "script":
        start, total = (g.op("Unsqueeze", part, np.array([0])) for part in (start, total))
    causal = g.slice(g.slice(g.parameter(np.tril(np.ones((1, 1, 64, 64), np.bool_))), 2, start, total), 3, 0, total)
    scores = g.op("Where", causal, scores, g.scalar(LOWEST))
    weights = g.op("Softmax", g.op("Add", scores, bias), axis=-1)
    y = g.merge(g.op("MatMul", weights, value), width)
    return conv1d(g, y, width, width), key, value


def gpt2_feeds(batch, fresh, past, seed=6):
    rng = np.random.default_rng([seed, batch, fresh, past])
    feeds = {"input_ids": rng.integers(0, 300, (batch, fresh)), "attention_mask": np.ones((batch, fresh + past), "i8")}
    if batch > 1 and past:
        feeds["attention_mask"][1:, 0] = 0
    for layer in range(2):
        for kind in ("key", "value"):
            feeds[f"past_key_values.{layer}.{kind}"] = rng.standard_normal((batch, 4, past, 24)).astype("f4")
    return feeds


def recurrent(g, kind, x, inner, hidden, directions=1, lengths="", state=()):
    """LSTM or GRU as PyTorch's exporters write it: sequence first, the direction's axis merged into the last."""
    gates = 4 if kind == "LSTM" else 3
    weights = [g.random(directions, gates * hidden, inner, scale=inner ** -0.5),
               g.random(directions, gates * hidden, hidden, scale=hidden ** -0.5),
               g.random(directions, 2 * gates * hidden, scale=0.1)]
    attributes = {"direction": "bidirectional"} if directions == 2 else {}
    attributes |= {"linear_before_reset": 1} if kind == "GRU" else {}
    count = 3 if kind == "LSTM" else 2
    y, *last = g.op(kind, x, *weights, lengths, *state, outputs=count, hidden_size=hidden, **attributes)
    if directions == 1:
        return g.op("Squeeze", y, np.array([1])), last
    return g.op("Reshape", g.transpose(y, 0, 2, 1, 3), np.array([0, 0, -1])), last


def lstm_model():
    """Two layers with their states as inputs and outputs, batch first, logarithms of probabilities."""
    g, hidden = Graph("script", seed=7), 128
    ids = g.input("input", ["batch", "sequence"], "i8")
    states = [g.input(name, [2, "batch", hidden]) for name in ("h0", "c0")]
    x = g.transpose(g.op("Gather", g.random(400, 64), ids), 1, 0, 2)
    last = []
    for layer, inner in enumerate((64, hidden)):
        own = [g.slice(state, 0, layer, layer + 1) for state in states]
        x, ends = recurrent(g, "LSTM", x, inner, hidden, state=own)
        last.append(ends)
    logits = g.op("LogSoftmax", g.linear(g.transpose(x, 1, 0, 2), hidden, 400), axis=2)
    h, c = (g.op("Concat", *parts, axis=0) for parts in zip(*last))
    dims = [2, "batch", hidden]
    return g.model({"output": (logits, ["batch", "sequence", 400], "f4"), "hn": (h, dims, "f4"), "cn": (c, dims, "f4")})


def packed(reverse):
    """A packed sequence through a bidirectional LSTM and a GRU, which may go over the reversed one."""
    g, hidden = Graph("script", seed=8), 64
    x, lengths = g.input("input", ["batch", "sequence", 32]), g.input("lengths", ["batch"], "i8")
    short = g.op("Cast", lengths, to=TensorProto.INT32)
    rows = g.transpose(x, 1, 0, 2)
    y, last = recurrent(g, "LSTM", rows, 32, hidden, 2, short)
    back = g.op("ReverseSequence", rows, lengths, batch_axis=1, time_axis=0) if reverse else rows
    z, _ = recurrent(g, "GRU", back, 32, hidden, 1, short)
    z = g.op("ReverseSequence", z, lengths, batch_axis=1, time_axis=0) if reverse else z
    y = g.transpose(g.op("Concat", y, z, axis=2), 1, 0, 2)
    logits = g.linear(y, 3 * hidden, 9)
    return g.model({"logits": (logits, ["batch", "sequence", 9], "f4"), "hn": (last[0], [2, "batch", hidden], "f4")})


def half_linear(style):
    """Layers in half precision, with bias, as a matrix and as a batch of them."""
    g, width = Graph(style, seed=9), 128
    x = g.input("x", ["batch", "sequence", width], "f2")
    w = [g.random(width, width, scale=width ** -0.5, dtype="f2") for _ in range(2)]
    b = [g.random(width, scale=0.1, dtype="f2") for _ in range(2)]
    y = g.op("Relu", g.op("Add", b[0], g.op("MatMul", x, w[0])))
    first = g.op("Gather", y, g.scalar(0, "i8"), axis=1)
    z = g.op("Gemm", first, w[1], b[1], transB=1)
    score = g.op("Softmax", g.op("Cast", z, to=TensorProto.FLOAT), axis=-1)
    return g.model({"y": (y, ["batch", "sequence", width], "f2"), "score": (score, ["batch", width], "f4")})


def attention23(fused):
    """A decoder's layer of operator set 23: RMSNormalization, RotaryEmbedding and Attention with a cache.

    Where it is not fused, attention is in its parts, and a key and value stand for a group of heads by Expand.
    """
    g, width, count, groups, size = Graph("dynamo", 23, seed=10), 128, 8, 2, 16
    x = g.input("hidden", ["batch", "sequence", width])
    cosine, sine = (g.input(name, ["batch", "sequence", size // 2]) for name in ("cos", "sin"))
    past = [g.input(f"past_{kind}", ["batch", groups, "past", size]) for kind in ("key", "value")]
    mask = g.input("mask", ["sequence", "total"])
    y = g.op("RMSNormalization", x, g.random(width), axis=-1, epsilon=1e-6)
    q, k, v = (g.linear(y, width, outer, bias=False) for outer in (count * size, groups * size, groups * size))
    q, k, v = (g.heads(part, number, size) for part, number in ((q, count), (k, groups), (v, groups)))
    q, k = (g.op("RotaryEmbedding", part, cosine, sine) for part in (q, k))
    if fused:
        y, key, value = g.op("Attention", q, k, v, mask, *past, outputs=3, scale=size ** -0.5)
    else:
        key, value = (g.op("Concat", *pair, axis=2) for pair in zip(past, (k, v)))
        y = g.sdpa(q, *(grouped(g, part, groups, count // groups, size) for part in (key, value)), size, mask)
    x = g.op("Add", x, g.linear(g.merge(y, count * size), width, width, bias=False))
    z = g.op("RMSNormalization", x, g.random(width), axis=-1, epsilon=1e-6)
    z = g.op("Mul", g.silu(g.linear(z, width, 256, bias=False)), g.linear(z, width, 256, bias=False))
    x = g.op("Add", x, g.linear(z, 256, width, bias=False))
    cache = ["batch", groups, "total", size]
    return g.model({"output": (x, ["batch", "sequence", width], "f4"), "present_key": (key, cache, "f4"),
                    "present_value": (value, cache, "f4")})


def grouped(g, x, groups, times, size):
    """Each group of heads several times."""
    batch, length = g.extent(x, 0), g.extent(x, 2)
    wide = g.op("Unsqueeze", x, np.array([2]))
    wide = g.op("Expand", wide, g.shape(batch, groups, times, length, size))
    return g.reshape(wide, batch, groups * times, length, size)


def attention23_causal():
    """The operator alone, on three axes, with the causal mask that it makes itself."""
    g = Graph("dynamo", 23, seed=11)
    x = g.input("x", ["batch", "sequence", 64])
    q, k, v = (g.linear(x, 64, 64) for _ in range(3))
    y = g.op("Attention", q, k, v, q_num_heads=4, kv_num_heads=4, is_causal=1)
    return g.model({"y": (g.linear(y, 64, 64), ["batch", "sequence", 64], "f4")})


def attention23_feeds(batch, fresh, past):
    rng = np.random.default_rng([12, batch, fresh, past])
    angles = rng.uniform(0, 6, (batch, fresh, 8))
    causal = np.arange(past + fresh)[None, :] <= past + np.arange(fresh)[:, None]
    return {"hidden": rng.standard_normal((batch, fresh, 128)).astype("f4"), "cos": np.cos(angles).astype("f4"),
            "sin": np.sin(angles).astype("f4"), "past_key": rng.standard_normal((batch, 2, past, 16)).astype("f4"),
            "past_value": rng.standard_normal((batch, 2, past, 16)).astype("f4"),
            "mask": np.where(causal, 0, -1e4).astype("f4")}
