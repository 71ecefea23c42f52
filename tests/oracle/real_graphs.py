"""Writes ONNX graphs as PyTorch's exporters do: what `real_vision.py` and `real_text.py` build their models from.

`script` is the older exporter: operator set 14, constants as nodes, shapes taken apart by Shape, Gather, Unsqueeze and
Concat, layer norm and GELU in their parts, batch norm folded. `dynamo` is the newer one: operator set 20, constants as
initializers, LayerNormalization, Gelu and BatchNormalization as they are, Shape with start and end.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = {"script": 14, "dynamo": 20}
TYPES = {"f4": TensorProto.FLOAT, "f2": TensorProto.FLOAT16, "i8": TensorProto.INT64, "i4": TensorProto.INT32,
         "?": TensorProto.BOOL}
EVERY = np.array([np.iinfo(np.int64).max])


class Graph:
    """A graph under construction. Operands are names, or arrays that become constants."""

    def __init__(self, style, opset=None, seed=1):
        self.style, self.opset = style, opset or OPSETS[style]
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.inputs = [], [], []
        self.counts = {}

    def input(self, name, dims, dtype="f4"):
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], dims))
        return name

    def op(self, kind, *operands, outputs=1, **attributes):
        """A node; its output, or the list of them."""
        number = self.counts[kind] = self.counts.get(kind, -1) + 1
        if self.style == "script":
            label = f"/{kind}" + (f"_{number}" if number else "")
            names = [f"{label}_output_{index}" for index in range(outputs)]
        else:
            label = f"node_{kind.lower()}_{number}"
            ends = [f"_split_{index}" for index in range(outputs)] if outputs > 1 else [""]
            names = [f"{kind.lower()}_{number}{end}" for end in ends]
        operands = [self.constant(each) if isinstance(each, np.ndarray) else each or "" for each in operands]
        self.nodes.append(helper.make_node(kind, operands, names, label, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array):
        """A constant of the code: a node of its own in the one style, an initializer in the other."""
        if self.style == "script" and array.size < 64:
            return self.op("Constant", value=numpy_helper.from_array(array))
        return self.parameter(array)

    def parameter(self, array, name=None):
        name = name or ("onnx::Weight_" if self.style == "script" else "val_") + str(len(self.weights))
        self.weights.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def random(self, *shape, scale=1.0, dtype="f4"):
        return self.parameter((self.rng.standard_normal(shape) * scale).astype(dtype))

    def model(self, outputs, domains=()):
        """`outputs`: name in the file, then value, extents and type."""
        infos = []
        for name, (value, dims, dtype) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name]))
            infos.append(helper.make_tensor_value_info(name, TYPES[dtype], dims))
        self.join(outputs)
        graph = helper.make_graph(self.nodes, "main_graph", self.inputs, infos, self.weights)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(*domain) for domain in domains)]
        version = 8 if self.opset < 21 else 10
        model = helper.make_model(graph, opset_imports=opsets, producer_name="pytorch", ir_version=version)
        onnx.checker.check_model(model)
        return model

    def join(self, outputs):
        """Nodes write outputs of the model themselves, as the exporters have it, where nothing else reads the value."""
        values = [value for value, _, _ in outputs.values()]
        for name, (value, _, _) in outputs.items():
            readers = [node for node in self.nodes if value in node.input]
            maker = next((node for node in self.nodes if value in node.output), None)
            if maker and len(readers) == 1 and values.count(value) == 1:
                maker.output[list(maker.output).index(value)] = name
                self.nodes.remove(readers[0])

    def extent(self, x, axis):
        """One extent of a value: a number in the one style, a vector of one in the other."""
        if self.style == "script":
            return self.op("Gather", self.op("Shape", x), np.array(axis), axis=0)
        return self.op("Shape", x, start=axis, **({} if axis == -1 else {"end": axis + 1}))

    def shape(self, *parts):
        """A shape of numbers and of extents."""
        if all(isinstance(part, int) for part in parts):
            return np.array(parts)
        vectors = []
        for part in parts:
            if isinstance(part, int):
                vectors.append(self.constant(np.array([part])))
            else:
                vectors.append(self.op("Unsqueeze", part, np.array([0])) if self.style == "script" else part)
        return self.op("Concat", *vectors, axis=0)

    def reshape(self, x, *parts):
        zero = {"allowzero": 1} if self.style == "dynamo" and 0 not in parts else {}
        return self.op("Reshape", x, self.shape(*parts), **zero)

    def transpose(self, x, *perm):
        return self.op("Transpose", x, perm=list(perm))

    def scalar(self, value, dtype="f4"):
        return np.array(value, dtype)

    def slice(self, x, axis, start, end=None, step=1):
        def ends(value):
            return value if isinstance(value, str) else np.array([value])

        return self.op("Slice", x, ends(start), EVERY if end is None else ends(end), np.array([axis]), np.array([step]))

    def linear(self, x, inner, outer, bias=True, flat=False, weights=None):
        """`weights`: a matrix of outer by inner and its bias."""
        matrix, offset = weights or (self.rng.standard_normal((outer, inner)).astype("f4") / inner ** 0.5,
                                     self.rng.standard_normal(outer).astype("f4") * 0.1)
        if flat:
            operands = [self.parameter(matrix), *[self.parameter(offset)] * bias]
            return self.op("Gemm", x, *operands, alpha=1.0, beta=1.0, transB=1)
        if self.style == "script":
            product = self.op("MatMul", x, self.parameter(matrix.T))
            return self.op("Add", self.parameter(offset), product) if bias else product
        product = self.op("MatMul", x, self.op("Transpose", self.parameter(matrix), perm=[1, 0]))
        return self.op("Add", product, self.parameter(offset)) if bias else product

    def conv(self, x, inner, outer, kernel=1, stride=1, groups=1, dilation=1, norm=True):
        pad = dilation * (kernel - 1) // 2
        fan = inner // groups * kernel * kernel
        weight = self.random(outer, inner // groups, kernel, kernel, scale=(2 / fan) ** 0.5)
        folded = norm is False or self.style == "script"
        bias = [self.random(outer, scale=0.1)] if folded else []
        y = self.op("Conv", x, weight, *bias, dilations=[dilation] * 2, group=groups, kernel_shape=[kernel] * 2,
                    pads=[pad] * 4, strides=[stride] * 2)
        return y if folded else self.batch_norm(y, outer)

    def conv_patch(self, x, inner, outer, size):
        """A convolution that cuts a picture into patches."""
        weight = self.random(outer, inner, size, size, scale=(inner * size * size) ** -0.5)
        return self.op("Conv", x, weight, self.random(outer, scale=0.1), dilations=[1, 1], group=1,
                       kernel_shape=[size, size], pads=[0, 0, 0, 0], strides=[size, size])

    def batch_norm(self, x, channels):
        gain, offset, average = (self.random(channels, scale=0.1) for _ in range(3))
        gain = self.parameter((1 + 0.1 * self.rng.standard_normal(channels)).astype("f4"))
        variance = self.parameter(self.rng.uniform(0.5, 1.5, channels).astype("f4"))
        return self.op("BatchNormalization", x, gain, offset, average, variance, epsilon=1e-5, momentum=0.9)

    def layer_norm(self, x, width, epsilon=1e-5, weights=None):
        gain, offset = (self.parameter(array) for array in weights) if weights else (
            self.parameter((1 + 0.1 * self.rng.standard_normal(width)).astype("f4")), self.random(width, scale=0.1))
        if self.style == "dynamo":
            return self.op("LayerNormalization", x, gain, offset, axis=-1, epsilon=epsilon)
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        variance = self.op("ReduceMean", self.op("Pow", centred, self.scalar(2)), axes=[-1])
        deviation = self.op("Sqrt", self.op("Add", variance, self.scalar(epsilon)))
        return self.op("Add", self.op("Mul", self.op("Div", centred, deviation), gain), offset)

    def gelu(self, x):
        if self.style == "dynamo":
            return self.op("Gelu", x, approximate="none")
        shifted = self.op("Add", self.op("Erf", self.op("Div", x, self.scalar(2 ** 0.5))), self.scalar(1))
        return self.op("Mul", self.op("Mul", x, shifted), self.scalar(0.5))

    def gelu_tanh(self, x):
        """As GPT-2's code has it: from products and a power."""
        cubed = self.op("Mul", self.op("Pow", x, self.scalar(3)), self.scalar(0.044715))
        inside = self.op("Mul", self.op("Add", x, cubed), self.scalar((2 / np.pi) ** 0.5))
        shifted = self.op("Add", self.op("Tanh", inside), self.scalar(1))
        return self.op("Mul", self.op("Mul", x, self.scalar(0.5)), shifted)

    def silu(self, x):
        return self.op("Mul", x, self.op("Sigmoid", x))

    def heads(self, x, count, width):
        """From batch, length, all heads' width to batch, head, length, width."""
        batch, length = self.extent(x, 0), self.extent(x, 1)
        return self.transpose(self.reshape(x, batch, length, count, width), 0, 2, 1, 3)

    def merge(self, x, width):
        x = self.transpose(x, 0, 2, 1, 3)
        return self.reshape(x, self.extent(x, 0), self.extent(x, 1), width)

    def attend(self, q, k, v, width, mask=None):
        """Softmax of a scaled product, in the older way: division after the product, then the mask."""
        scores = self.op("Div", self.op("MatMul", q, self.transpose(k, 0, 1, 3, 2)), self.scalar(width ** 0.5))
        scores = self.op("Add", scores, mask) if mask else scores
        return self.op("MatMul", self.op("Softmax", scores, axis=-1), v)

    def sdpa(self, q, k, v, width, mask=None):
        """What becomes of scaled_dot_product_attention: both operands are scaled by the root of the scale."""
        if self.style == "script":
            size = self.op("Cast", self.slice(self.op("Shape", q), 0, -1), to=TensorProto.FLOAT)
            scale = self.op("Sqrt", self.op("Div", self.constant(np.array([1], "f4")), self.op("Sqrt", size)))
        else:
            scale = self.constant(self.scalar(width ** -0.25))
        q, k = self.op("Mul", q, scale), self.op("Mul", self.transpose(k, 0, 1, 3, 2), scale)
        scores = self.op("MatMul", q, k)
        scores = self.op("Add", scores, mask) if mask else scores
        weights = self.op("Softmax", scores, axis=-1)
        if mask and self.style == "dynamo":
            weights = self.op("Where", self.op("IsNaN", weights), self.constant(self.scalar(0)), weights)
        return self.op("MatMul", weights, v)
