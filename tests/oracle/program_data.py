"""Models whose shapes or arguments depend on data, and a decoder that writes tokens in a loop.

The table ARGUMENTS gives each model twice: with its arguments as inputs, and computed from other inputs.
"""

import numpy as np

from program_models import b, f, i, n, s

# name: (inputs, graph outputs, nodes, integer arguments with their extents, feeds, operator set)
ARGUMENTS = {
    "range": ("", "int64[N] y", "y = Range(k0, k1, k2)", ("k0", "k1", "k2"), [(0, 5, 1), (3, 3, 1), (9, -2, -3)], 17),
    "expand": ("float[1,3] x", "float[A,B] y", "y = Expand(x, k0)", ("k0[2]",), [((2, 3),), ((1, 1),), ((0, 3),)],
            17),
    "reshape": ("float[1,6] x", "float[A,B] y", "y = Reshape(x, k0)", ("k0[2]",), [((2, 3),), ((6, -1),), ((0,
            -1),)], 17),
    "slice": ("float[7,5] x", "float[A,B] y", "y = Slice(x, k0, k1)", ("k0[1]", "k1[1]"), [((1,), (4,)), ((-3,),
            (99,)), ((5,), (2,))], 17),
    "slice_all": ("float[7,5] x", "float[A,B] y", "y = Slice(x, k0, k1, k2, k3)", ("k0[1]", "k1[1]", "k2[1]",
            "k3[1]"),
                  [((1,), (4,), (1,), (2,)), ((-1,), (-99,), (0,), (-1,))], 17),
    "tile": ("float[2,3] x", "float[A,B] y", "y = Tile(x, k0)", ("k0[2]",), [((2, 1),), ((1, 3),), ((0, 2),)], 17),
    "pad": ("float[3,4] x", "float[A,B] y", "y = Pad(x, k0)", ("k0[4]",), [((1, 0, 2, 3),), ((0, 0, 0, 0),), ((-1,
            0, 0, -2),)], 17),
    "pad_edge": ("float[3,4] x", "float[A,B] y", "y = Pad<mode = \"edge\">(x, k0)", ("k0[4]",), [((1, 0, 2, 3),)],
            17),
    "pad_axes": ("float[3,4] x", "float[A,B] y", "y = Pad(x, k0, , k1)", ("k0[2]", "k1[1]"), [((1, 2), (0,)), ((0,
            1), (-1,))], 18),
    "onehot": ("", "float[A,B] y", "y = OneHot(k0, k1, ends)", ("k0[3]", "k1"), [((0, 2, -1), 3), ((0, 2, 1), 5)],
            17),
    "constant_of_shape": ("", "float[A,B] y", "y = ConstantOfShape<value = float[1] {1.5}>(k0)", ("k0[2]",), [((2,
            3),), ((0, 1),)], 17),
    "resize_sizes": ("float[1,2,4,4] x", "float[A,B,C,D] y", "y = Resize<mode = \"linear\">(x, , , k0)", ("k0[4]",),
                     [((1, 2, 8, 6),), ((1, 2, 3, 2),)], 17),
    "topk": ("float[2,6] x", "float[A,B] y, int64[A,B] z", "y, z = TopK(x, k0)", ("k0[1]",), [((1,),), ((4,),),
            ((0,),)], 17),
    "cumsum": ("float[2,3] x", "float[2,3] y", "y = CumSum(x, k0)", ("k0",), [(0,), (1,), (-1,)], 17),
    "reduce_sum": ("float[2,3,4] x", "float[A,B,C] y", "y = ReduceSum(x, k0)", ("k0[1]",), [((0,),), ((2,),),
            ((-2,),)], 17),
    "reduce_sum_dropped": ("float[2,3,4] x", "float[A,B] y", "y = ReduceSum<keepdims = 0>(x, k0)", ("k0[1]",),
            [((0,),), ((2,),)], 17),
    "reduce_max": ("float[2,3,4] x", "float[A,B,C] y", "y = ReduceMax(x, k0)", ("k0[2]",), [((0, 1),), ((2, -2),)],
            18),
    "split": ("float[6,2] x", "float[A,2] y, float[B,2] z", "y, z = Split<axis = 0>(x, k0)", ("k0[2]",), [((2, 4),),
            ((6, 0),)], 17),
    "gather": ("float[6,2] x", "float[A,2] y", "y = Gather(x, k0)", ("k0[3]",), [((0, 5, -1),), ((2, 2, 2),)], 17),
    "gather_elements": ("float[6,2] x", "float[1,2] y", "y = GatherElements(x, k0)", ("k0[1,2]",), [(((0, 5),),),
            (((-1, 2),),)], 17),
    "squeeze": ("float[1,3,1] x", "float[A,B] y", "y = Squeeze(x, k0)", ("k0[1]",), [((0,),), ((2,),), ((-1,),)], 17),
    "unsqueeze": ("float[2,3] x", "float[A,B,C] y", "y = Unsqueeze(x, k0)", ("k0[1]",), [((0,),), ((2,),),
            ((-2,),)], 17),
    "trilu": ("float[3,4] x", "float[3,4] y", "y = Trilu(x, k0)", ("k0",), [(0,), (2,), (-1,)], 17),
    "scatter_elements": ("float[6,2] x, float[1,2] v", "float[6,2] y", "y = ScatterElements(x, k0, v)",
            ("k0[1,2]",), [(((0, 5),),), (((-1, 2),),)], 17),
    "reverse": ("float[4,2,3] x", "float[4,2,3] y", "y = ReverseSequence(x, k0)", ("k0[2]",), [((1, 4),), ((2,
            3),)], 17),
    "blackman": ("", "float[N] y", "y = BlackmanWindow(k0)", ("k0",), [(5,), (10,)], 17),
    "center_crop_pad": ("float[5,4] x", "float[A,B] y", "y = CenterCropPad(x, k0)", ("k0[2]",), [((3, 6),), ((5,
            4),)], 18),
    "col_to_image": ("float[1,4,9] x", "float[A,B,C,D] y", "y = Col2Im(x, k0, k1)", ("k0[2]", "k1[2]"), [((4, 4),
            (2, 2))], 18),
    "split_to_sequence": ("float[6,2] x", "float[A,2] y", "q = SplitToSequence<axis = 0>(x, k0) "
            "y = SequenceAt(q, last)", ("k0[2]",), [((2, 4),), ((5, 1),)], 17),
}
TABLE_WEIGHTS = {"ends": np.array([0, 1], "f4"), "last": n(1)}


def argument_programs(program):
    for name, (inputs, outputs, nodes, arguments, feeds, opset) in ARGUMENTS.items():
        weights = {key: value for key, value in TABLE_WEIGHTS.items() if key in nodes}
        tensors = dict(part.strip().split(" ")[::-1] for part in inputs.split(", ") if part)
        arrays = {key: f(*map(int, kind[6:-1].split(","))) for key, kind in tensors.items()}
        names = [argument.partition("[")[0] for argument in arguments]
        extents = ["[" + argument.partition("[")[2] if "[" in argument else "" for argument in arguments]
        given = ", ".join([inputs] * bool(inputs) + [f"int64{extent} {key}" for key, extent in zip(names, extents)])
        program(f"{name}_of_input", f"({given}) => ({outputs}) {{ {nodes} }}",
                *[{**arrays, **{key: np.array(value, "i8") for key, value in zip(names, feed)}} for feed in feeds],
                opsets=(opset,), weights=weights)
        given = ", ".join([inputs] * bool(inputs) + [f"float{extent} d{key}" for key, extent in zip(names, extents)])
        casts = " ".join(f"r{key} = Round(d{key}) {key} = Cast<to = 7>(r{key})" for key in names)
        program(f"{name}_of_data", f"({given}) => ({outputs}) {{ {casts} {nodes} }}",
                *[{**arrays, **{f"d{key}": np.asarray(np.array(value, "f4") + 0.2, "f4") for key,
                        value in zip(names, feed)}} for feed in feeds],
                opsets=(opset,), weights=weights)


def float_argument_programs(program):
    for name, nodes, given, computed in (("of_input", "", "k", ""), ("of_data", "k = Mul(d, one)", "d", "")):
        image = {"x": f(1, 2, 4, 4)}
        program(f"resize_scales_{name}", f"(float[1,2,4,4] x, float[4] {given}) => (float[A,B,C,D] y) {{ {nodes} "
                f"y = Resize<mode = \"nearest\">(x, , k) }}",
                *[{**image, given: np.array(k, "f4")} for k in ((1, 1, 2, 1.5), (1, 1, 0.5, 1))],
                        weights={"one": s(1)})
        program(f"upsample_{name}", f"(float[1,2,4,4] x, float[4] {given}) => (float[A,B,C,D] y) {{ {nodes} "
                f"y = Upsample<mode = \"nearest\">(x, k) }}",
                *[{**image, given: np.array(k, "f4")} for k in ((1, 1, 2, 3), (1, 1, 1, 1))], opsets=(9,),
                        weights={"one": s(1)})
        program(f"clip_{name}", f"(float[N] x, float {given}) => (float[N] y) {{ {nodes} l = Neg(k) "
                f"y = Clip(x, l, k) }}",
                *[{"x": f(9), given: s(k)} for k in (0.5, 2, 0)], weights={"one": s(1)})
        program(f"range_of_floats_{name}", f"(float {given}) => (float[N] y) {{ {nodes} y = Range(zero, k, half) }}",
                *[{given: s(k)} for k in (2, 0, 3.3)], weights={"one": s(1), "zero": s(0), "half": s(0.5)})
        program(f"pad_value_{name}", f"(float[2,3] x, float {given}) => (float[A,B] y) {{ {nodes} "
                f"y = Pad(x, p, k) }}",
                *[{"x": f(2, 3), given: s(k)} for k in (2, -0.5)], weights={"one": s(1), "p": i(1, 0, 0, 2)})
    program("dropout_of_input", "(float[N] x, bool t) => (float[N] y) { y = Dropout(x, r, t) }",
            {"x": f(5), "t": b(0)}, {"x": f(5), "t": b(1)}, weights={"r": s(0)}, opsets=(17, 13))
    program("dropout_of_data", "(float[N] x, float d) => (float[N] y) { t = Less(d, zero) y = Dropout(x, r, t) }",
            {"x": f(5), "d": s(1)}, {"x": f(5), "d": s(-1)}, weights={"r": s(0), "zero": s(0)})
    program("eye_like_of_mask", "(float[N] x) => (float[A,B] y) { m = Greater(x, zero) z = NonZero(m) "
            "c = Cast<to = 1>(z) t = Transpose(c) y = EyeLike<dtype = 1>(t) }",
            {"x": f(6)}, {"x": f(3, key=4)}, weights={"zero": s(0)})
    program("random_shape", "(float[N] x) => (int64[2] y) { r = RandomUniform<shape = [3, 4], seed = 1.0>() "
            "y = Shape(r) }", {"x": f(2)})
    program("random_like_mask", "(float[N] x) => (int64[2] y) { m = Greater(x, zero) z = NonZero(m) "
            "r = RandomUniformLike<dtype = 1>(z) y = Shape(r) }",
            {"x": f(6)}, {"x": -np.abs(f(6))}, weights={"zero": s(0)})


def mask_programs(program):
    signs = [{"x": f(4, 3)}, {"x": -np.abs(f(4, 3))}, {"x": np.abs(f(4, 3))}, {"x": f(2, 5)}]
    zero = {"zero": s(0)}
    mask = "m = Greater(x, zero) z = NonZero(m)"
    program("nonzero", f"(float[N,M] x) => (int64[2,K] z) {{ {mask} }}", *signs, weights=zero, opsets=(17, 11))
    program("nonzero_gather", f"(float[N,M] x) => (float[K] y) {{ {mask} t = Transpose(z) y = GatherND(x, t) }}",
            *signs, weights=zero, opsets=(17, 11))
    program("nonzero_sum", f"(float[N,M] x) => (float[1] y, int64[2] c) {{ {mask} t = Transpose(z) "
            f"g = GatherND(x, t) e = Exp(g) y = ReduceSum(e) c = Shape(t) }}",
            *signs, weights=zero)
    program("nonzero_of_integers", "(int64[N] x) => (int64[1,K] z) { z = NonZero(x) }", {"x": i(0, 3, 0, -1)},
            {"x": i(0, 0)}, {"x": i(1)})
    program("nonzero_scatter", f"(float[N,M] x) => (float[N,M] y) {{ {mask} t = Transpose(z) g = GatherND(x, t) "
            f"e = Sqrt(g) y = ScatterND(x, t, e) }}",
            *signs, weights=zero)
    program("nonzero_network", """(float[N,4] x) => (float[K,2] y) { r = ReduceSum<keepdims = 0>(x, axes)
            m = Greater(r, zero) z = NonZero(m)
        q = Squeeze(z, first) g = Gather(x, q) h = MatMul(g, w) y = Softmax<axis = 1>(h) }""", {"x": f(6, 4)},
        {"x": -np.abs(f(5, 4))}, {"x": f(1, 4)},
            weights={**zero, "axes": i(1), "first": i(0), "w": f(4, 2)})
    program("nonzero_twice", f"""(float[N,M] x) => (int64[1,K] k, float[L] y) {{ {mask} t = Transpose(z)
            g = GatherND(x, t) m2 = Less(g, one) k = NonZero(m2)
        t2 = Transpose(k) y = GatherND(g, t2) }}""", *signs, weights={**zero, "one": s(1)})
    program("where_sum", "(float[N,M] x) => (float[1,1] y) { m = Greater(x, zero) w = Where(m, x, zero) "
            "y = ReduceSum(w) }", *signs, weights=zero)
    masks = [{"x": f(4, 3), "c": np.array(c, np.bool_)} for c in ([1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1,
            0, 0])]
    program("compress_axis", "(float[4,3] x, bool[K] c) => (float[A,3] y) { y = Compress<axis = 0>(x, c) }", *masks,
            {"x": f(4, 3), "c": b([0, 1])}, opsets=(17, 9))
    program("compress_flat", "(float[4,3] x, bool[K] c) => (float[A] y) { y = Compress(x, c) }", *masks, {"x": f(4,
            3), "c": b([0, 1] * 6)})
    program("compress_computed", "(float[N,M] x) => (float[A,M] y) { r = ReduceMax<keepdims = 0, axes = [1]>(x) "
            "c = Greater(r, zero) g = Compress<axis = 0>(x, c) y = Softmax<axis = 1>(g) }",
            *signs, weights=zero)
    ties = [{"x": np.array(x, "f4")} for x in ([2, 1, 1, 3, 4, 3], [5], [1, 1, 1])]
    for sort in (0, 1):
        program(f"unique_{sort}", f"(float[N] x) => (float[K] y, int64[K] a, int64[N] r, int64[K] c) {{ y, a, r, "
                f"c = Unique<sorted = {sort}>(x) }}", *ties, opsets=(17, 11))
    program("unique_of_integers", "(int64[N] x) => (int64[K] y, int64[K] c) { y, a, r, c = Unique(x) }", {"x": i(3,
            -1, 3, 0)}, {"x": i(2**40, 2**40)})
    program("unique_axis", "(float[N,3] x) => (float[K,3] y, int64[K] a, int64[N] r, int64[K] c) { y, a, r, "
            "c = Unique<axis = 0>(x) }",
            {"x": np.array([[1, 0, 0], [1, 0, 0], [2, 3, 4], [0, 5, 1]], "f4")}, {"x": f(2, 3)})
    program("unique_flat", "(float[N,M] x) => (float[K] y) { y = Unique(x) }", {"x": np.array([[2, 1], [1, 2], [0,
            9]], "f4")})
    program("topk_of_shape", "(float[N] x) => (float[K] y, int64[K] z) { c = Shape(x) k = Div(c, two) y, "
            "z = TopK(x, k) }", {"x": f(6)}, {"x": f(9)}, weights={"two": i(2)})
    program("loop_over_mask", """(float[N,M] x) => (float y, float[L] u) { m = Greater(x, zero) z = NonZero(m)
            t = Transpose(z) g = GatherND(x, t) c = Size(g)
        y, u = Loop (c, , zero) <body = b (int64 i, bool ci, float a) => (bool co, float ao, float so) {
        co = Identity(ci) v = Gather(g, i) h = Sin(a) ao = Add(h, v) so = Mul(v, v) }> }""",
            *signs, weights=zero)
    program("if_nothing_found", """(float[N,M] x) => (float y) { m = Greater(x, zero) z = NonZero(m)
            t = Transpose(z) g = GatherND(x, t) c = Size(g) e = Greater(c, none)
        y = If (e) <then_branch = t () => (float p) { p = ReduceMax<keepdims = 0>(g) }, else_branch = e ()
        => (float q) { q = Neg(one) }> }""",
            *signs, weights={**zero, "none": n(0), "one": s(1)})


def boxes(batch, count, key=1):
    corner = np.random.default_rng([key, count]).random((batch, count, 2)) * 8
    return np.concatenate([corner, corner + 1 + np.random.default_rng([key + 1, count]).random((batch, count,
            2)) * 4], 2).astype("f4")


def scores(*shape, key=3):
    return np.random.default_rng([key, *shape]).random(shape).astype("f4")


def detection_programs(program):
    form = "(float[B,N,4] x, float[B,C,N] p, int64 k, float u, float v) => (int64[S,3] y) { y = NonMaxSuppression%s(x, p, k, u, v) }"
    feeds = [{"x": boxes(batch, count), "p": scores(batch, classes, count), "k": n(k), "u": s(u), "v": s(v)}
             for batch, classes, count, k, u, v in ((1, 1, 6, 10, 0.5, 0), (2, 3, 9, 2, 0.3, 0.4), (1, 2, 5, 0, 0.5,
                     0), (1, 2, 5, 5, 0.5, 2), (1, 4, 40, 100, 0, 0.1))]
    for opset in (17, 10):
        program("nms" if opset == 17 else "nms_10", form % "", *feeds, opsets=(opset,))
    program("nms_center", form % "<center_point_box = 1>", *feeds)
    program("nms_defaults", "(float[B,N,4] x, float[B,C,N] p) => (int64[S,3] y) { y = NonMaxSuppression(x, p) }",
            {"x": boxes(1, 5), "p": scores(1, 1, 5)})
    program("nms_constants", "(float[B,N,4] x, float[B,C,N] p) => (int64[S,3] y) { "
            "y = NonMaxSuppression(x, p, k, u, v) }",
            {"x": boxes(1, 8), "p": scores(1, 2, 8)}, {"x": boxes(2, 3), "p": scores(2, 1, 3)}, weights={"k": i(3),
                    "u": np.array([0.4], "f4"), "v": np.array([0.3], "f4")})
    program("detector", """(float[1,3,H,W] x) => (float[S,4] y, float[S] q, int64[S] c) {
        h = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x, w0) r = Relu(h)
        o = Conv<kernel_shape = [1, 1]>(r, w1, w2)
        flat = Reshape(o, form) rows = Transpose<perm = [0, 2, 1]>(flat) xy, size,
        logits = Split<axis = 2>(rows, parts)
        sxy = Mul(xy, ten) ssize = Exp(size) box = Concat<axis = 2>(sxy, ssize) prob = Sigmoid(logits)
        p = Transpose<perm = [0, 2, 1]>(prob)
        k = NonMaxSuppression<center_point_box = 1>(box, p, most, overlap, least) b0, c0,
        i0 = Split<axis = 1>(k, ones)
        c = Squeeze(c0, one) at = Squeeze(i0, one) b1 = Squeeze(box, zero) y = Gather<axis = 0>(b1, at)
        q = GatherND(p, k) }""",
            *[{"x": f(1, 3, height, width, key=key)} for height, width, key in ((8, 8, 1), (12, 6, 2), (4, 4, 3))],
            {"x": np.zeros((1, 3, 8, 8), "f4")},
            weights={"w0": f(8, 3, 3, 3, scale=0.3), "w1": f(7, 8, 1, 1), "w2": np.array([0, 0, 0.5, 0.5, -0.5,
                    -0.5, -0.5], "f4"), "form": i(1, 7, -1),
                     "parts": i(2, 2, 3), "ten": np.array([10], "f4"), "most": i(5), "overlap": np.array([0.4], "f4"),
                     "least": np.array([0.6], "f4"), "ones": i(1, 1, 1), "one": i(1), "zero": i(0)})


LAYERS, WIDTH, HEADS, VOCABULARY, LONGEST = 2, 32, 2, 50, 64


def decoder_programs(program):
    """A greedy decoder of two layers in one Loop, with keys and values that grow by a row a step."""
    weights = {"embed": f(VOCABULARY, WIDTH, key=7), "place": f(LONGEST, WIDTH, key=8, scale=0.5), "head": f(WIDTH,
            VOCABULARY, key=9),
               "split": i(1, 1, HEADS, WIDTH // HEADS), "join": i(1, 1, WIDTH), "row": i(1, 1),
                       "root": s(np.sqrt(WIDTH // HEADS)),
               "nothing": np.zeros((1, HEADS, 0, WIDTH // HEADS), "f4"), "gain": np.ones(WIDTH, "f4"),
                       "bias": np.zeros(WIDTH, "f4"), "flat": i(1)}
    nodes = ["pt = Reshape(token, row) ex = Gather(embed, pt) pl = Gather(place, i) h0 = Add(ex, pl)"]
    for layer in range(LAYERS):
        for key, shape in (("q", (WIDTH, WIDTH)), ("k", (WIDTH, WIDTH)), ("v", (WIDTH, WIDTH)), ("o", (WIDTH,
                WIDTH)), ("u", (WIDTH, 64)), ("d", (64, WIDTH))):
            weights[f"w{key}{layer}"] = f(*shape, key=20 + layer * 10 + ord(key) % 10, scale=shape[0] ** -0.5)
        nodes.append(" ".join(f"m{key}{layer} = MatMul(n{layer}, w{key}{layer}) s{key}{layer} = "
                f"Reshape(m{key}{layer}, split) "
                              f"{key}{layer} = Transpose<perm = [0, 2, 1, 3]>(s{key}{layer})" for key in "qkv"))
        nodes[-1] = f"n{layer} = LayerNormalization(h{layer}, gain, bias) " + nodes[-1] + """
            K_out = Concat<axis = 2>(K_in, k_) V_out = Concat<axis = 2>(V_in, v_)
            kt_ = Transpose<perm = [0, 1, 3, 2]>(K_out)
            a0_ = MatMul(q_, kt_) a1_ = Div(a0_, root) a2_ = Softmax<axis = -1>(a1_) a3_ = MatMul(a2_, V_out)
            a4_ = Transpose<perm = [0, 2, 1, 3]>(a3_) a5_ = Reshape(a4_, join) a6_ = MatMul(a5_, wo_)
            g_ = Add(h_, a6_)
            l_ = LayerNormalization(g_, gain, bias) u_ = MatMul(l_, wu_) e_ = Erf(u_) f_ = Mul(u_, e_)
            d_ = MatMul(f_, wd_) h+ = Add(g_, d_)
            """.replace("_in", f"i{layer}").replace("_out", f"o{layer}").replace("_", str(layer)).replace("+", str(layer + 1))
    nodes.append(f"""z = MatMul(h{LAYERS}, head) best = ArgMax<axis = 2, keepdims = 0>(z) next = Reshape(best, flat)
            scanned = Identity(next)
        probability = ReduceMax<keepdims = 0>(z) last = Equal(next, end) lasts = Squeeze(last) co = Not(lasts)""")
    cache = f"float[1,{HEADS},%s,{WIDTH // HEADS}]"
    carried = [f"{letter}%s{layer}" for layer in range(LAYERS) for letter in "KV"]
    ins = ", ".join(f"{cache % 'P'} {name % 'i'}" for name in carried)
    outs = ", ".join(f"{cache % 'R'} {name % 'o'}" for name in carried)
    left = ", ".join(name % "f" for name in carried)
    program("decoder", f"""(int64[1] start, int64[1] end, int64 most)
            => (int64[L,1] tokens, float[L] values, int64[4] length) {{
        t, {left}, tokens, values = Loop (most, , start{', nothing' * len(carried)})
        <body = b (int64 i, bool ci, int64[1] token, {ins}) =>
        (bool co, int64[1] next, {outs}, int64[1] scanned, float probability) {{ {' '.join(nodes)} }}>
        length = Shape(Kf0) }}""",
            *[{"start": i(start), "end": i(end), "most": n(most)} for start, end, most in ((3, -1, 1), (3, 22, 12),
                    (7, 32, 40), (11, 33, 40), (3, -1, 40), (5, 0, 0))],
            weights=weights)


def collect(program):
    for group in (argument_programs, float_argument_programs, mask_programs, detection_programs, decoder_programs):
        group(program)
