"""Networks for pictures for `real_models.py`: small in width and depth, complete in structure."""

import numpy as np
from onnx import numpy_helper

from real_graphs import Graph


def pictures(*shapes, name="input", seed=2):
    return [{name: np.random.default_rng([seed, *shape]).standard_normal(shape).astype("f4")} for shape in shapes]


def picture(g, dims=("batch", 3, "height", "width")):
    return g.input("input", list(dims))


def pool(g, x):
    """The mean over a picture, without its axes."""
    if g.style == "script":
        return g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    return g.op("ReduceMean", x, np.array([2, 3]), keepdims=0)


def classify(g, x, width, classes=10):
    return g.model({"logits": (g.linear(x, width, classes, flat=True), ["batch", classes], "f4")})


def resnet(style, opset=None):
    """Bottlenecks of ResNet-50: one a stage."""
    g = Graph(style, opset, seed=20)
    x = g.op("Relu", g.conv(picture(g), 3, 16, 7, 2))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], ceil_mode=0)
    width = 16
    for stage, inner in enumerate((16, 32, 64)):
        stride = 2 if stage else 1
        for block in range(2):
            y = g.op("Relu", g.conv(x, width, inner, 1))
            y = g.op("Relu", g.conv(y, inner, inner, 3, 1 if block else stride))
            y = g.conv(y, inner, 4 * inner, 1)
            aside = x if block else g.conv(x, width, 4 * inner, 1, stride)
            x, width = g.op("Relu", g.op("Add", y, aside)), 4 * inner
    return classify(g, pool(g, x), width)


def mobilenet(style):
    """Inverted residuals: those of the second version in the one style, of the third in the other."""
    g = Graph(style, seed=21)

    def activate(x):
        return g.op("Clip", x, g.scalar(0), g.scalar(6)) if style == "script" else g.op("HardSwish", x)

    x = activate(g.conv(picture(g), 3, 16, 3, 2))
    inner = 16
    for outer, stride in ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1)):
        y = activate(g.conv(x, inner, 4 * inner, 1))
        y = activate(g.conv(y, 4 * inner, 4 * inner, 3, stride, groups=4 * inner))
        if style == "dynamo":
            y = squeeze(g, y, 4 * inner, inner, "Relu", "HardSigmoid")
        y = g.conv(y, 4 * inner, outer, 1)
        x, inner = (g.op("Add", x, y) if stride == 1 and inner == outer else y), outer
    return classify(g, pool(g, activate(g.conv(x, inner, 96, 1))), 96)


def squeeze(g, x, width, inner, first, last):
    """Squeeze and excitation."""
    if g.style == "script":
        y = g.op("GlobalAveragePool", x)
    else:
        y = g.op("ReduceMean", x, np.array([2, 3]), keepdims=1)
    y = g.conv(y, width, inner, 1, norm=False)
    y = g.silu(y) if first == "SiLU" else g.op(first, y)
    y = g.conv(y, inner, width, 1, norm=False)
    return g.op("Mul", g.op(last, y, **({"alpha": 1 / 6} if last == "HardSigmoid" else {})), x)


def efficientnet(style):
    g = Graph(style, seed=22)
    x = g.silu(g.conv(picture(g), 3, 16, 3, 2))
    inner = 16
    for outer, kernel, stride in ((16, 3, 1), (24, 3, 2), (24, 5, 1), (48, 5, 2), (48, 3, 1)):
        y = g.silu(g.conv(x, inner, 4 * inner, 1))
        y = g.silu(g.conv(y, 4 * inner, 4 * inner, kernel, stride, groups=4 * inner))
        y = g.conv(squeeze(g, y, 4 * inner, inner // 4, "SiLU", "Sigmoid"), 4 * inner, outer, 1)
        x, inner = (g.op("Add", y, x) if stride == 1 and inner == outer else y), outer
    return classify(g, pool(g, g.silu(g.conv(x, inner, 128, 1))), 128)


def vit(style):
    """Patches, a token of the class, attention with the three projections in one."""
    g, width, count = Graph(style, seed=23), 128, 4
    x = g.conv_patch(picture(g, ("batch", 3, 64, 64)), 3, width, 8)
    batch = g.extent(x, 0)
    x = g.transpose(g.reshape(x, batch, width, 64), 0, 2, 1)
    token = g.op("Expand", g.random(1, 1, width), g.shape(batch, 1, width) if style == "dynamo" else expanded(g, batch))
    x = g.op("Add", g.op("Concat", token, x, axis=1), g.random(1, 65, width, scale=0.2))
    for _ in range(2):
        y = g.linear(g.layer_norm(x, width, 1e-6), width, 3 * width)
        y = g.transpose(g.reshape(y, g.extent(y, 0), 65, 3, count, width // count), 2, 0, 3, 1, 4)
        q, k, v = (g.op("Gather", y, g.scalar(index, "i8"), axis=0) for index in range(3))
        x = g.op("Add", x, g.linear(g.merge(g.sdpa(q, k, v, width // count), width), width, width))
        y = g.gelu(g.linear(g.layer_norm(x, width, 1e-6), width, 2 * width))
        x = g.op("Add", x, g.linear(y, 2 * width, width))
    first = g.op("Gather", g.layer_norm(x, width, 1e-6), g.scalar(0, "i8"), axis=1)
    return classify(g, first, width)


def expanded(g, batch):
    """The older exporter's expand: -1 stands for 1 and is replaced where it is found."""
    shape = g.shape(batch, -1, -1)
    ones = g.op("ConstantOfShape", np.array([3]), value=one())
    return g.op("Where", g.op("Equal", shape, g.op("Mul", ones, g.scalar(-1, "i8"))), ones, shape)


def one():
    return numpy_helper.from_array(np.array([1], "i8"))


def convnext(style):
    g, width = Graph(style, seed=24), 48
    x = channels_norm(g, g.conv_patch(picture(g), 3, width, 4), width)
    for stage in range(2):
        for _ in range(2):
            y = g.transpose(g.conv(x, width, width, 7, groups=width, norm=False), 0, 2, 3, 1)
            y = g.gelu(g.linear(g.layer_norm(y, width, 1e-6), width, 4 * width))
            y = g.op("Mul", g.linear(y, 4 * width, width), g.random(width, scale=0.3))
            x = g.op("Add", x, g.transpose(y, 0, 3, 1, 2))
        if stage == 0:
            x = g.conv_patch(channels_norm(g, x, width), width, 2 * width, 2)
            width *= 2
    return classify(g, g.layer_norm(pool(g, x), width, 1e-6), width)


def channels_norm(g, x, width):
    return g.transpose(g.layer_norm(g.transpose(x, 0, 2, 3, 1), width, 1e-6), 0, 3, 1, 2)


def unet(style):
    """Down twice, up by a transposed convolution and by a resize, with what was left on the way."""
    g = Graph(style, seed=25)
    x, kept, inner = picture(g), [], 3
    for outer in (16, 32):
        x = g.op("Relu", g.conv(g.op("Relu", g.conv(x, inner, outer, 3)), outer, outer, 3))
        kept.append(x)
        x, inner = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), outer
    x = g.op("Relu", g.conv(x, 32, 64, 3))
    x = g.op("InstanceNormalization", x, g.random(64), g.random(64), epsilon=1e-5)
    x = g.op("ConvTranspose", x, g.random(64, 32, 2, 2, scale=0.12), g.random(32, scale=0.1), kernel_shape=[2, 2],
             strides=[2, 2], group=1, dilations=[1, 1], pads=[0, 0, 0, 0])
    x = g.op("LeakyRelu", g.conv(g.op("Concat", kept[1], x, axis=1), 64, 32, 3), alpha=0.01)
    x = g.op("Resize", x, "", g.constant(np.array([1, 1, 2, 2], "f4")), coordinate_transformation_mode="align_corners"
             if style == "script" else "half_pixel", mode="linear", cubic_coeff_a=-0.75, nearest_mode="floor")
    x = g.op("Relu", g.conv(g.op("Concat", kept[0], x, axis=1), 48, 16, 3))
    mask = g.op("Sigmoid", g.conv(x, 16, 2, 1, norm=False))
    return g.model({"mask": (mask, ["batch", 2, "height", "width"], "f4")})


def deeplab(style):
    """Dilated convolutions beside each other and a mean, each resized to a shape that is computed."""
    g = Graph(style, seed=26)
    image = picture(g)
    x = g.op("Relu", g.conv(g.op("Relu", g.conv(image, 3, 24, 3, 2)), 24, 48, 3, 2))
    parts = [g.op("Relu", g.conv(x, 48, 16, 1))]
    parts += [g.op("Relu", g.conv(x, 48, 16, 3, dilation=dilation)) for dilation in (2, 4, 6)]
    mean = g.op("GlobalAveragePool", x) if style == "script" else g.op("ReduceMean", x, np.array([-1, -2]), keepdims=1)
    parts.append(resized(g, g.op("Relu", g.conv(mean, 48, 16, 1, norm=False)), x))
    x = g.op("Relu", g.conv(g.op("Concat", *parts, axis=1), 80, 32, 1))
    x = g.conv(g.op("Relu", g.conv(x, 32, 32, 3)), 32, 6, 1, norm=False)
    out = resized(g, x, image)
    labels = g.op("ArgMax", out, axis=1, keepdims=0)
    plane = ["batch", "height", "width"]
    return g.model({"out": (out, ["batch", 6, "height", "width"], "f4"), "labels": (labels, plane, "i8")})


def resized(g, x, like):
    """Bilinear, to the height and width of another value."""
    if g.style == "script":
        wanted = g.op("Concat", *(g.op("Unsqueeze", g.extent(like, axis), np.array([0])) for axis in (2, 3)), axis=0)
    else:
        wanted = g.op("Concat", g.extent(like, 2), g.extent(like, 3), axis=0)
    own = g.slice(g.op("Shape", x), 0, 0, 2)
    sizes = g.op("Concat", own, wanted, axis=0)
    return g.op("Resize", x, "", "", sizes, coordinate_transformation_mode="pytorch_half_pixel" if g.style == "script"
                else "half_pixel", mode="linear", cubic_coeff_a=-0.75, nearest_mode="floor")


def swin(style):
    """Two blocks of attention in windows, the second one's shifted, and patches merged."""
    g, width, side, window = Graph(style, seed=27), 48, 16, 4
    x = g.transpose(g.conv_patch(picture(g, ("batch", 3, 64, 64)), 3, width, 4), 0, 2, 3, 1)
    x = g.layer_norm(x, width)
    for shift in (0, window // 2):
        y = window_attention(g, g.layer_norm(x, width), width, side, window, shift)
        x = g.op("Add", x, y)
        y = g.gelu(g.linear(g.layer_norm(x, width), width, 2 * width))
        x = g.op("Add", x, g.linear(y, 2 * width, width))
    parts = [g.slice(g.slice(x, 1, row, None, 2), 2, column, None, 2) for column in (0, 1) for row in (0, 1)]
    x = g.layer_norm(g.op("Concat", *parts, axis=-1), 4 * width)
    x = g.layer_norm(g.linear(x, 4 * width, 2 * width, bias=False), 2 * width)
    return classify(g, g.op("Flatten", g.op("GlobalAveragePool", g.transpose(x, 0, 3, 1, 2)), axis=1), 2 * width)


def roll(g, x, shift):
    """What is cut off on one side is put to the other, on two axes."""
    for axis in (1, 2):
        x = g.op("Concat", g.slice(x, axis, shift), g.slice(x, axis, 0, shift), axis=axis)
    return x


def window_attention(g, x, width, side, window, shift, count=3):
    windows, cells = (side // window) ** 2, window * window
    x = roll(g, x, shift) if shift else x
    batch = g.extent(x, 0)
    x = g.transpose(g.reshape(x, batch, side // window, window, side // window, window, width), 0, 1, 3, 2, 4, 5)
    x = g.reshape(x, -1, cells, width)
    y = g.reshape(g.linear(x, width, 3 * width), -1, cells, 3, count, width // count)
    q, k, v = g.op("Split", g.transpose(y, 2, 0, 3, 1, 4), np.array([1, 1, 1]), outputs=3, axis=0)
    q, k, v = (g.op("Squeeze", part, np.array([0])) for part in (q, k, v))
    scores = g.op("MatMul", g.op("Mul", q, g.scalar((width // count) ** -0.5)), g.transpose(k, 0, 1, 3, 2))
    scores = g.op("Add", scores, position_bias(g, window, count))
    if shift:
        mask = g.parameter(shift_mask(side, window, shift)[None, :, None])
        scores = g.op("Add", g.reshape(scores, -1, windows, count, cells, cells), mask)
        scores = g.reshape(scores, -1, count, cells, cells)
    y = g.op("MatMul", g.op("Softmax", scores, axis=-1), v)
    y = g.linear(g.reshape(g.transpose(y, 0, 2, 1, 3), -1, cells, width), width, width)
    y = g.reshape(y, -1, side // window, side // window, window, window, width)
    y = g.reshape(g.transpose(y, 0, 1, 3, 2, 4, 5), -1, side, side, width)
    return roll(g, y, side - shift) if shift else y


def position_bias(g, window, count):
    places = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    away = places[:, :, None] - places[:, None, :] + window - 1
    index = away[0] * (2 * window - 1) + away[1]
    bias = g.op("Gather", g.random((2 * window - 1) ** 2, count), g.parameter(index.reshape(-1)))
    bias = g.transpose(g.reshape(bias, window * window, window * window, count), 2, 0, 1)
    return g.op("Unsqueeze", bias, np.array([0]))


def shift_mask(side, window, shift):
    """-100 between cells of a window that are neighbours through the roll only."""
    region = np.zeros((side, side))
    cuts = [slice(0, -window), slice(-window, -shift), slice(-shift, None)]
    for number, (rows, columns) in enumerate((a, b) for a in cuts for b in cuts):
        region[rows, columns] = number
    count = side // window
    cells = region.reshape(count, window, count, window).transpose(0, 2, 1, 3).reshape(-1, window * window)
    return np.where(cells[:, :, None] == cells[:, None, :], 0, -100).astype("f4")


def detector(align):
    """Boxes and scores of a grid, the ones that stay, and what a head says of each: every count depends on the data.

    `align` is RoiAlign's; without one there is no head.
    """
    g, anchors, classes = Graph("script", 16, seed=28), 2, 3
    x = g.op("Relu", g.conv(picture(g, (1, 3, 64, 64)), 3, 16, 3, 2))
    x = g.op("Relu", g.conv(x, 16, 32, 3, 2))
    y = g.transpose(g.conv(x, 32, anchors * (4 + classes), 1, norm=False), 0, 2, 3, 1)
    y = g.reshape(y, 1, -1, 4 + classes)
    offsets, scores = g.op("Split", y, np.array([4, classes]), outputs=2, axis=2)
    centres = np.stack(np.meshgrid(np.arange(16), np.arange(16), indexing="ij"), -1)[..., ::-1].reshape(-1, 2) * 4 + 2
    centre = g.op("Add", g.slice(offsets, 2, 0, 2), g.parameter(np.repeat(centres, anchors, 0)[None].astype("f4")))
    half = g.op("Mul", g.op("Exp", g.op("Clip", g.slice(offsets, 2, 2, 4), g.scalar(-1), g.scalar(1))), g.scalar(8))
    boxes = g.op("Concat", g.op("Sub", centre, half), g.op("Add", centre, half), axis=2)
    boxes = g.op("Clip", boxes, g.scalar(0), g.scalar(64))
    scores = g.op("Sigmoid", g.transpose(scores, 0, 2, 1))
    chosen = g.op("NonMaxSuppression", boxes, scores, np.array([20]), np.array([0.4], "f4"), np.array([0.95], "f4"))
    index = g.op("Squeeze", g.slice(chosen, 1, 2, 3), np.array([1]))
    kept = g.op("Gather", g.op("Squeeze", boxes, np.array([0])), index, axis=0)
    found = g.op("GatherND", g.transpose(scores, 0, 2, 1), g.op("Gather", chosen, np.array([0, 2, 1]), axis=1))
    boxes_and_scores = {"boxes": (kept, ["found", 4], "f4"), "scores": (found, ["found"], "f4")}
    if not align:
        return g.model(boxes_and_scores)
    batch = g.op("Squeeze", g.slice(chosen, 1, 0, 1), np.array([1]))
    crops = g.op("RoiAlign", x, kept, batch, output_height=5, output_width=5, sampling_ratio=2, spatial_scale=0.25,
                 coordinate_transformation_mode=align)
    head = g.op("Relu", g.linear(g.op("Flatten", crops, axis=1), 32 * 25, 32, flat=True))
    kind = g.op("Softmax", g.linear(head, 32, classes, flat=True), axis=1)
    best, label = g.op("TopK", kind, np.array([1]), outputs=2, axis=1)
    head = {"labels": (label, ["found", 1], "i8"), "sure": (best, ["found", 1], "f4")}
    return g.model({**boxes_and_scores, **head})
