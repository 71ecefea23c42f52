"""Models with control flow and models that must fail, in ONNX's text format, with their inputs.

`programs.py` runs them. A model has several inputs, so that each branch is taken and loops end after different
counts.
"""

from dataclasses import dataclass, field

import numpy as np
from onnx import numpy_helper, parser

PROGRAMS = []


@dataclass
class Program:
    name: str
    text: str  # the graph, and its functions
    feeds: list
    opset: int
    weights: dict = field(default_factory=dict)
    bad: list = field(default_factory=list)  # inputs that must give an error
    bad_text: str | bytes = ""  # the model for `bad`, where it is another

    def model(self):
        return self.parse(self.text)

    def bad_file(self):
        """The bytes of the model for the bad inputs."""
        if isinstance(self.bad_text, bytes):
            return self.bad_text
        return self.parse(self.bad_text or self.text).SerializeToString()

    def parse(self, text):
        domains = f'"" : {self.opset}' + (', "local" : 1' if "local." in self.text else "")
        header = f"<ir_version: {8 if self.opset <= 18 else 10}, opset_import: [{domains}]>\n"
        model = parser.parse_model(header + f"{self.name} " + text.replace("OPSET", str(self.opset)))
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.weights.items())
        return model


def program(name, text, *feeds, opsets=(17,), weights=None, bad=(), bad_text=""):
    """One program at each operator set; the first one has the plain name."""
    for opset in opsets:
        label = name if opset == opsets[0] else f"{name}_{opset}"
        PROGRAMS.append(Program(label, text, list(feeds), opset, weights or {}, list(bad), bad_text))


def f(*shape, key=1, scale=1.0):
    """Seeded numbers in single precision."""
    return (np.random.default_rng([key, *shape]).standard_normal(shape) * scale).astype("f4")


def i(*values):
    return np.array(values, "i8")


def n(value):
    return np.array(value, "i8")


def s(value):
    return np.array(value, "f4")


def b(value):
    return np.array(value, np.bool_)


ZERO, ONE, TWO, FOUR = n(0), n(1), n(2), n(4)
BOTH = [{"x": f(4), "c": b(True)}, {"x": f(4), "c": b(False)}]
ANY = (17, 21, 13, 11)
LOCAL = '\n<domain: "local", opset_import: ["" : OPSET%s]>\n'  # the head of a function


def if_programs():
    simple = "<then_branch = t () => (float[A] a) { a = Add(x, x) }, else_branch = e () => (float[B] r) { r = Neg(x) }>"
    for value in (True, False):
        program(f"if_constant_{value}".lower(), f"(float[N] x) => (float[N] y) {{ y = If (c) {simple} }}",
                {"x": f(3)}, weights={"c": b(value)}, opsets=ANY)
    program("if_shape", f"(float[N] x) => (float[N] y) {{ s = Size(x) c = Less(s, four) y = If (c) {simple} }}",
            {"x": f(2)}, {"x": f(6)}, weights={"four": FOUR}, opsets=ANY)
    program("if_input", f"(float[N] x, bool c) => (float[N] y) {{ y = If (c) {simple} }}", *BOTH, opsets=ANY)
    program("if_input_of_rank_1", f"(float[N] x, bool[1] c) => (float[N] y) {{ y = If (c) {simple} }}",
            *[{**feed, "c": feed["c"].reshape(1)} for feed in BOTH])
    computed = "s = ReduceSum<keepdims = 0>(x) c = Greater(s, zero)"
    zero = {"zero": s(0)}
    ends = [{"x": np.abs(f(4))}, {"x": -np.abs(f(4))}]
    program("if_computed", f"(float[N] x) => (float[N] y) {{ {computed} y = If (c) {simple} }}", *ends,
            weights=zero, opsets=ANY)
    program("if_used_after", f"(float[N] x) => (float[N] z) {{ {computed} y = If (c) {simple} z = Exp(y) }}", *ends,
            weights=zero)
    program("if_shapes", """(float[N] x, bool c) => (float[M] y) { y = If (c)
        <then_branch = t () => (float[A] a) { a = Concat<axis = 0>(x, x) },
         else_branch = e () => (float[B] r) { r = Slice(x, low, high) }> }""", *BOTH,
            weights={"low": i(1), "high": i(3)}, opsets=ANY)
    program("if_shapes_used_after", """(float[N] x, bool c) => (float z, int64[1] s) { y = If (c)
        <then_branch = t () => (float[A] a) { a = Concat<axis = 0>(x, x) },
         else_branch = e () => (float[B] r) { r = Slice(x, low, high) }>
        q = Mul(y, y) z = ReduceSum<keepdims = 0>(q) s = Shape(q) }""", *BOTH, weights={"low": i(1), "high": i(3)})
    program("if_captures", """(float[N] x, bool c) => (float[N] y) { h = Mul(x, x) k = Sin(x) y = If (c)
        <then_branch = t () => (float[A] a) { p = Add(h, w) a = Mul(p, k) },
         else_branch = e () => (float[B] r) { r = Sub(h, x) }> }""", *BOTH, weights={"w": f(4)}, opsets=ANY)
    program("if_nested", """(float[N] x, bool c, bool d) => (float[N] y) { h = Cos(x) y = If (c)
        <then_branch = t () => (float[A] a) { o = Neg(h) a = If (d)
            <then_branch = tt () => (float[C] g) { g = Add(o, h) }, else_branch = te () => (float[D] k) {
            k = Mul(o, x) }> },
         else_branch = e () => (float[B] r) { nd = Not(d) r = If (nd)
            <then_branch = et () => (float[E] l) { l = Exp(h) }, else_branch = ee () => (float[F] m) {
            m = Abs(x) }> }> }""",
            *[{"x": f(4), "c": b(c), "d": b(d)} for c in (0, 1) for d in (0, 1)], opsets=ANY)
    program("if_identity", """(float[N] x, bool c) => (float[N] y) { h = Mul(x, x) y = If (c)
        <then_branch = t () => (float[A] a) { a = Identity(x) }, else_branch = e () => (float[B] r) {
        r = Identity(h) }> }""",
            *BOTH, opsets=ANY)
    program("if_constants", """(bool c) => (float[M] y) { y = If (c)
        <then_branch = t () => (float[2] a) { a = Constant<value = float[2] {1, 2}>() },
         else_branch = e () => (float[3] r) <float[3] o = {3, 4, 5}> { r = Identity(o) }> }""", {"c": b(1)},
         {"c": b(0)})
    program("if_constants_of_one_shape", """(float[N] x, bool c) => (float[2] y, int64[1] z) { p, z = If (c)
        <then_branch = t () => (float[2] a, int64[1] a1) { a = Constant<value = float[2] {1, 2}>() a1 = Shape(x) },
         else_branch = e () => (float[2] r, int64[1] r1) { r = Constant<value = float[2] {2, 3}>()
         r1 = Constant<value = int64[1] {7}>() }>
        y = Neg(p) }""", *BOTH, opsets=ANY)
    program("if_without_nodes", """(bool c) => (float[M] y) { y = If (c) <then_branch = t ()
            => (float[2] a) <float[2] a = {1, 2}> { },
        else_branch = e () => (float[3] r) <float[3] r = {3, 4, 5}> { }> }""", {"c": b(1)}, {"c": b(0)}, opsets=ANY)
    program("if_twice", f"""(float[N] x, bool c) => (float[N] z) {{ y = If (c) {simple}
        s = ReduceMax<keepdims = 0>(y) d = Greater(s, one) z = If (d)
        <then_branch = t2 () => (float[C] g) {{ g = Div(y, s) }}, else_branch = e2 () => (float[D] k) {{
        k = Add(y, x) }}> }}""",
            *BOTH, {"x": f(4, key=9), "c": b(1)}, weights={"one": s(1)}, opsets=ANY)
    program("if_several_outputs", """(float[N] x, bool c) => (float[N] y, int64[1] s, bool[N] p) { y, s, p = If (c)
        <then_branch = t () => (float[A] a, int64[1] a1, bool[A] a2) { a = Neg(x) a1 = Shape(x) a2 = Greater(x, a) },
         else_branch = e () => (float[B] r, int64[1] r1, bool[B] r2) { r = Exp(x)
         r1 = Constant<value = int64[1] {7}>()
            r2 = Less(x, r) }> }""", *BOTH)
    program("if_nested_20", nested(20), *BOTH)
    program("if_network", """(float[1,3,H,W] x, bool c) => (float[1,4] y) { h = Conv<kernel_shape = [3, 3]>(x, w)
        g = If (c) <then_branch = t () => (float[1,4,P,Q] a) { a0 = Conv<kernel_shape = [1, 1]>(h, v) a = Relu(a0) },
         else_branch = e () => (float[1,4,R,S] r) { r = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(h) }>
        m = GlobalAveragePool(g) y = Flatten(m) }""",
            *[{"x": f(1, 3, 8, 6), "c": b(c)} for c in (0, 1)], weights={"w": f(4, 3, 3, 3), "v": f(4, 4, 1, 1)})


FIXED = {"m": n(5), "t": b(True)}
EACH = "b (int64 i, bool ci, float[A] a) => (bool co, float[B] ao)"


def loop_programs():
    step = "{ co = Identity(ci) q = Mul(a, half) ao = Add(q, x) }"
    half = {"half": np.array([0.5], "f4")}
    program("loop_fixed", f"(float[N] x) => (float[N] y) {{ y = Loop (m, t, x) <body = {EACH} {step}> }}",
            {"x": f(4)}, weights={**FIXED, **half}, opsets=ANY)
    counts = [{"x": f(4), "m": n(count)} for count in (0, 1, 7)]
    program("loop_count_input", f"(float[N] x, int64 m) => (float[N] y) {{ y = Loop (m, t, x) "
            f"<body = {EACH} {step}> }}",
            *counts, weights={"t": b(1), **half}, opsets=ANY)
    program("loop_count_of_rank_1", f"(float[N] x, int64[1] m) => (float[N] y) {{ y = Loop (m, t, x) "
            f"<body = {EACH} {step}> }}",
            *[{**feed, "m": feed["m"].reshape(1)} for feed in counts], weights={"t": b(1), **half})
    program("loop_count_shape", f"""(float[N] x) => (float[N] y) {{ s = Shape(x) m = Gather(s, zero)
        y = Loop (m, t, x) <body = {EACH} {step}> }}""", {"x": f(3)}, {"x": f(8)}, weights={"t": b(1), "zero": ZERO,
        **half}, opsets=ANY)
    program("loop_count_computed", f"""(float[N] x, float[K] d) => (float[N] y) {{ s = ReduceSum<keepdims = 0>(d)
        m = Cast<to = 7>(s) y = Loop (m, , x) <body = {EACH} {step}> }}""",
            *[{"x": f(4), "d": np.array(d, "f4")} for d in ([1, 2.5], [0, 0], [9, 3])], weights=half, opsets=ANY)
    norm = "q = Mul(a, half) ao = Identity(q) z = Abs(q) s = ReduceSum<keepdims = 0>(z) co = Greater(s, eps)"
    eps = {"eps": s(1e-2), "t": b(1), **half}
    sizes = [{"x": f(4, scale=scale)} for scale in (1e-4, 1, 100)]
    program("loop_condition", f"(float[N] x) => (float[N] y) {{ y = Loop (, t, x) <body = {EACH} {{ {norm} }}> }}",
            *sizes, weights=eps, opsets=ANY)
    program("loop_both", f"(float[N] x, int64 m) => (float[N] y) {{ y = Loop (m, t, x) "
            f"<body = {EACH} {{ {norm} }}> }}",
            *[{"x": f(4), "m": n(m)} for m in (0, 3, 100)], weights=eps, opsets=ANY)
    program("loop_no_condition", f"(float[N] x, int64 m) => (float[N] y) {{ y = Loop (m, , x) "
            f"<body = {EACH} {step}> }}",
            *counts, weights=half, opsets=ANY)
    program("loop_condition_false", f"(float[N] x, bool t) => (float[N] y) {{ y = Loop (m, t, x) "
            f"<body = {EACH} {step}> }}",
            {"x": f(4), "t": b(0)}, {"x": f(4), "t": b(1)}, weights={"m": n(3), **half})
    program("loop_condition_computed", f"""(float[N] x) => (float[N] y) {{ s = ReduceSum<keepdims = 0>(x)
            t = Greater(s, eps)
        y = Loop (m, t, x) <body = {EACH} {step}> }}""", {"x": np.abs(f(4))}, {"x": -np.abs(f(4))},
            weights={"m": n(3), "eps": eps["eps"], **half})
    scans = """{ co = Identity(ci) q = Mul(a, half) ao = Add(q, x) fi = Cast<to = 1>(i) s1 = Add(q, fi)
        s2 = Mul(i, i) }"""
    body = f"b (int64 i, bool ci, float[A] a) => (bool co, float[B] ao, float[C] s1, int64 s2) {scans}"
    program("loop_scan_outputs", f"(float[N] x, int64 m) => (float[N] y, float[K,N] u, int64[K] v) {{ y, u, "
            f"v = Loop (m, t, x) <body = {body}> }}",
            *counts, weights={"t": b(1), **half}, opsets=ANY)
    program("loop_scan_reduced", f"""(float[N] x, int64 m) => (float[N] r, int64 w) {{ y, u, v = Loop (m, t, x)
            <body = {body}>
        p = ReduceSum<keepdims = 0>(u) w = ReduceSum<keepdims = 0>(v) r = Mul(y, p) }}""", *counts,
        weights={"t": b(1), **half})
    program("loop_only_scan", """(float[K,N] x) => (float[K,N] y) { s = Shape(x) m = Gather(s, zero) y = Loop (m, t)
        <body = b (int64 i, bool ci) => (bool co, float[C] o) { co = Identity(ci) r = Gather<axis = 0>(x, i)
        o = Softmax<axis = 0>(r) }> }""",
            {"x": f(3, 4)}, {"x": f(1, 2)}, weights={"zero": ZERO, "t": b(1)}, opsets=ANY)
    program("loop_several_carried", """(float[N] x, int64 m) => (float[N] y, int64 c, bool p, float[N] q) { y, c, p,
            q = Loop (m, t, x, zero, t, x)
        <body = b (int64 i, bool ci, float[A] a, int64 k, bool l, float[A] g)
        => (bool co, float[A] ao, int64 ko, bool lo, float[A] go)
        { co = Identity(ci) ao = Cos(g) go = Sin(a) ko = Add(k, i) lo = Not(l) }> }""", *counts, weights={"t": b(1),
        "zero": ZERO})
    program("loop_swap", """(float[N] x, float[N] z, int64 m) => (float[N] y, float[N] w) { y, w = Loop (m, t, x, z)
        <body = b (int64 i, bool ci, float[A] a, float[A] g) => (bool co, float[A] ao, float[A] go)
        { co = Identity(ci) ao = Identity(g) go = Identity(a) }> }""",
            *[{"x": f(4), "z": f(4, key=2), "m": n(m)} for m in (0, 2, 3)], weights={"t": b(1)})
    program("loop_grow", """(float[N] x, int64 m) => (float[M] y) { y = Loop (m, t, x)
            <body = b (int64 i, bool ci, float[A] a) => (bool co, float[B] ao)
        { co = Identity(ci) h = Slice(a, low, high) g = Mul(h, half) ao = Concat<axis = 0>(a, g) }> }""",
            *counts, weights={"t": b(1), "low": i(-2), "high": i(2**31), **half}, opsets=ANY)
    program("loop_shrink", """(float[N] x, int64 m) => (float[M] y) { y = Loop (m, t, x)
            <body = b (int64 i, bool ci, float[A] a) => (bool co, float[B] ao)
        { co = Identity(ci) h = Slice(a, low, high) ao = Neg(h) }> }""",
            *[{"x": f(6), "m": n(m)} for m in (0, 2, 6, 9)], weights={"t": b(1), "low": i(1), "high": i(2**31)})
    program("loop_grow_from_nothing", """(float[1,D] x, int64 m) => (float[M,D] y) { y = Loop (m, t, e)
            <body = b (int64 i, bool ci, float[A,D] a) => (bool co, float[B,D] ao)
        { co = Identity(ci) fi = Cast<to = 1>(i) g = Mul(x, fi) ao = Concat<axis = 0>(a, g) }> }""",
            *[{"x": f(1, 3), "m": n(m)} for m in (0, 1, 5)], weights={"t": b(1), "e": np.zeros((0, 3), "f4")})
    inner = """b2 (int64 j, bool cj, float[A] p) => (bool cp, float[B] po, float[B] so) { cp = Identity(cj)
            fj = Cast<to = 1>(j)
        e = Add(p, fj) po = Mul(e, g) so = Sub(po, x) }"""
    program("loop_in_loop", f"""(float[N] x, int64 m) => (float[N] y, float[K,L,N] u) {{ y, u = Loop (m, t, x)
        <body = b (int64 i, bool ci, float[A] a) => (bool co, float[B] ao, float[L,B] s) {{ co = Identity(ci)
        g = Sin(a)
        ao, s = Loop (three, t, a) <body = {inner}> }}> }}""",
            *[{"x": f(4), "m": n(m)} for m in (0, 1, 4)], weights={"t": b(1), "three": n(3)}, opsets=ANY)
    program("loop_in_loop_triangle", """(float[N] x, int64 m) => (float[N] y) { y = Loop (m, t, x)
        <body = b (int64 i, bool ci, float[A] a) => (bool co, float[B] ao) { co = Identity(ci)
        ao = Loop (i, , a) <body = b2 (int64 j, bool cj, float[C] p) => (bool cp, float[D] po) { cp = Identity(cj)
            k = Add(i, j) fk = Cast<to = 1>(k) q = Div(x, fk) r = Sin(p) po = Add(r, q) }> }> }""",
            *[{"x": f(4), "m": n(m)} for m in (0, 2, 5)], weights={"t": b(1)})
    program("if_in_loop", """(float[N] x, int64 m) => (float[N] y) { y = Loop (m, t, x)
        <body = b (int64 i, bool ci, float[A] a) => (bool co, float[B] ao) { co = Identity(ci) r = Mod(i, two)
        c = Equal(r, zero) ao = If (c)
            <then_branch = t () => (float[C] g) { g = Add(a, x) }, else_branch = e () => (float[D] k) {
            k = Cos(a) }> }> }""",
            *counts, weights={"t": b(1), "two": TWO, "zero": ZERO}, opsets=ANY)
    program("loop_in_if", f"""(float[N] x, bool c, int64 m) => (float[N] y) {{ y = If (c)
        <then_branch = tb () => (float[C] g) {{ h = Neg(x) g = Loop (m, t, h) <body = {EACH} {step}> }},
         else_branch = e () => (float[D] k) {{ k = Cos(x) }}> }}""",
            *[{"x": f(4), "c": b(c), "m": n(m)} for c, m in ((0, 3), (1, 3), (1, 0))], weights={"t": b(1), **half},
                    opsets=ANY)
    for count in (100, 1000):
        program(f"loop_{count}", f"(float[N] x) => (float[N] y) {{ y = Loop (m, t, x) <body = {EACH} {step}> }}",
                {"x": f(64)}, weights={"m": n(count), "t": b(1), **half})
    program("loop_1000_scanned", f"(float[N] x, int64 m) => (float[N] y, float[K,N] u, int64[K] v) {{ y, u, "
            f"v = Loop (m, t, x) <body = {body}> }}",
            {"x": f(16), "m": n(1000)}, weights={"t": b(1), **half})
    program("loop_captures", """(float[N,4] x, int64 m) => (float[N,4] y) { h = MatMul(x, w) k = Tanh(h)
            y = Loop (m, t, x)
        <body = b (int64 i, bool ci, float[A,4] a) => (bool co, float[B,4] ao) { co = Identity(ci) p = MatMul(a, w)
        q = Add(p, k) ao = Tanh(q) }> }""",
            *[{"x": f(3, 4), "m": n(m)} for m in (0, 1, 6)], weights={"t": b(1), "w": f(4, 4)}, opsets=ANY)
    program("loop_twice", f"""(float[N] x, int64 m) => (float[N] z) {{ y = Loop (m, t, x) <body = {EACH} {step}>
        s = ReduceSum<keepdims = 0>(y) k = Abs(s) c = Ceil(k) j = Cast<to = 7>(c) z = Loop (j, , y)
        <body = b2 (int64 i2, bool ci2, float[C] a2) => (bool co2, float[D] ao2) {{ co2 = Identity(ci2)
        ao2 = Cos(a2) }}> }}""",
            *counts, weights={"t": b(1), **half})
    program("loop_break_on_data", """(float[N] x) => (int64 y, float[K] u) { s = Shape(x) m = Gather(s, zero) y,
            u = Loop (m, t, zero)
        <body = b (int64 i, bool ci, int64 a) => (bool co, int64 ao, float r) { r = Gather<axis = 0>(x, i)
        co = Less(r, limit) ao = Add(i, one) }> }""",
            {"x": np.array([0, 1, 9, 2], "f4")}, {"x": np.array([9, 1], "f4")}, {"x": np.zeros(5, "f4")},
            weights={"t": b(1), "zero": ZERO, "one": ONE, "limit": s(5)}, opsets=ANY)
    program("loop_network", """(float[1,3,H,W] x, int64 m) => (float[1,3,H,W] y) { y = Loop (m, , x)
            <body = b (int64 i, bool ci, float[1,3,A,B] a) => (bool co, float[1,3,C,D] ao)
        { co = Identity(ci) h = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a, w, v) r = Relu(h)
        ao = Add(r, a) }> }""",
            *[{"x": f(1, 3, 6, 5), "m": n(m)} for m in (0, 1, 3)], weights={"w": f(3, 3, 3, 3, scale=0.1), "v": f(3)})
    program("loop_constants", """(float[N] x, int64 m) => (float[N] y) { y = Loop (m, , x)
            <body = b (int64 i, bool ci, float[A] a) => (bool co, float[B] ao)
        <float[1] w = {0.25}> { co = Constant<value = bool {1}>() k = Constant<value = float[1] {1.5}>()
        p = Mul(a, w) ao = Add(p, k) }> }""", *counts)


def scan_programs():
    total = "b (float[A] s, float[A] r) => (float[A] so, float[A] o) { so = Add(s, r) o = Mul(so, r) }"
    rows = [{"x": f(3, 4)}, {"x": f(1, 4)}, {"x": f(7, 4)}]
    state = {"z": np.zeros(4, "f4")}
    form = "(float[T,4] x) => (float[4] y, float[T,4] u) { y, u = Scan<num_scan_inputs = 1, body = %s%s>(z, x) }"
    program("scan", form % (total, ""), *rows, weights=state, opsets=ANY)
    program("scan_declared", form % (total.replace("[A]", "[4]"), ""), *rows, weights=state, opsets=ANY)
    program("scan_reversed_input", form % (total, ", scan_input_directions = [1]"), *rows, weights=state, opsets=ANY)
    program("scan_reversed_output", form % (total, ", scan_output_directions = [1]"), *rows, weights=state,
            opsets=ANY)
    program("scan_axes", """(float[4,T] x) => (float[4] y, float[4,T] u) { y, u = Scan<num_scan_inputs = 1, body = %s,
        scan_input_axes = [1], scan_output_axes = [1]>(z, x) }""" % total, {"x": f(4, 3)}, {"x": f(4, 1)},
        weights=state, opsets=ANY)
    program("scan_negative_axes", """(float[4,T] x) => (float[4] y, float[4,T] u) { y,
            u = Scan<num_scan_inputs = 1, body = %s,
        scan_input_axes = [-1], scan_output_axes = [-1]>(z, x) }""" % total, {"x": f(4, 3)}, weights=state,
        opsets=ANY)
    program("scan_several", """(float[T,4] x, float[4,T] v, float[4] z)
            => (float[4] y, float k, float[T,4] u, float[T] w)
        { y, k, u, w = Scan<num_scan_inputs = 2, scan_input_axes = [0, 1], scan_input_directions = [0, 1], body =
        b (float[A] s, float c, float[A] r, float[A] q) => (float[A] so, float co, float[A] o, float p)
        { t = Mul(r, q) so = Add(s, t) p = ReduceSum<keepdims = 0>(t) co = Add(c, p)
        o = Sub(so, r) }>(z, zero, x, v) }""",
            *[{"x": f(t, 4), "v": f(4, t, key=2), "z": f(4)} for t in (1, 5)], weights={"zero": s(0)}, opsets=ANY)
    program("scan_no_state", """(float[T,4] x) => (float[T] u) { u = Scan<num_scan_inputs = 1, body =
        b (float[A] r) => (float o) { o = ReduceMax<keepdims = 0>(r) }>(x) }""", *rows)
    program("scan_matrix_state", """(float[T,4] x, float[4,4] z) => (float[4,4] y) {
            y = Scan<num_scan_inputs = 1, body =
        b (float[4,4] s, float[4] r) => (float[4,4] so) { c = Reshape(r, col) d = MatMul(s, c) e = Reshape(r, row)
        g = MatMul(d, e)
        h = Mul(g, small) so = Add(s, h) }>(z, x) }""", *[{**row, "z": f(4, 4)} for row in rows],
            weights={"col": i(4, 1), "row": i(1, 4), "small": np.array([0.1], "f4")})
    program("scan_300", form % (total, ""), {"x": f(300, 4)}, weights=state)
    program("scan_captures", """(float[T,4] x) => (float[4] y) { g = ReduceMax<keepdims = 0>(x)
            y = Scan<num_scan_inputs = 1, body =
        b (float[A] s, float[A] r) => (float[A] so) { e = Add(s, r) so = Div(e, g) }>(z, x) }""", *rows,
        weights=state)
    cell = """b (float[1,H] h, float[1,H] c, float[1,D] r) => (float[1,H] ho, float[1,H] co, float[1,H] o) {
            p = MatMul(r, wx) q = MatMul(h, wh)
        a = Add(p, q) g0, g1, g2, g3 = Split<axis = 1>(a) si = Sigmoid(g0) sf = Sigmoid(g1) so = Sigmoid(g2)
        tg = Tanh(g3)
        k = Mul(sf, c) l = Mul(si, tg) co = Add(k, l) tc = Tanh(co) ho = Mul(so, tc) o = Identity(ho) }"""
    program("scan_lstm_cell", f"""(float[T,1,3] x) => (float[1,4] y, float[1,4] k, float[T,1,4] u) {{
        y, k, u = Scan<num_scan_inputs = 1, body = {cell}>(z, z, x) }}""", {"x": f(20, 1, 3)}, {"x": f(2, 1, 3)},
            weights={"wx": f(3, 16), "wh": f(4, 16), "z": np.zeros((1, 4), "f4")}, opsets=(17, 11))
    program("scan_in_loop", f"""(float[T,4] x, int64 m) => (float[4] y) {{ y = Loop (m, , z)
            <body = lb (int64 i, bool ci, float[B] c) => (bool cc, float[C] d)
        {{ cc = Identity(ci) d0, u = Scan<num_scan_inputs = 1, body = {total}>(c, x) d = Sin(d0) }}> }}""",
            *[{"x": f(3, 4), "m": n(m)} for m in (0, 2)], weights=state)
    program("scan_of_form_8", """(float[B,T,4] x, float[B,4] z) => (float[B,4] y, float[B,T,4] u) { y,
            u = Scan<num_scan_inputs = 1, body =
        b (float[4] s, float[4] r) => (float[4] so, float[4] o) { so = Add(s, r) o = Mul(so, r) }>(, z, x) }""",
            {"x": f(2, 3, 4), "z": f(2, 4)}, opsets=(8,))


ONCE = "b (int64 i, bool ci, float[A] a) => (bool co, float[B] ao)"


def bad_programs():
    """What must give an error; the good inputs show that the construct itself works.

    `reef run` has no deadline: loops without end have to meet a limit of reef's own.
    """
    endless = f"<body = {ONCE} {{ co = Identity(ci) ao = Neg(a) }}>"
    program("bad_endless_without_both", f"(float[N] x, int64 m) => (float[N] y) {{ y = Loop (m, , x) {endless} }}",
            {"x": f(3), "m": n(3)}, bad=[{"x": f(3), "m": n(3)}],
            bad_text=f"(float[N] x, int64 m) => (float[N] y) {{ y = Loop (, , x) {endless} }}")
    program("bad_endless_condition", f"""(float[N] x, float limit) => (float[N] y) {{ y = Loop (, t, x) <body = {ONCE}
        {{ ao = Add(a, one) s = ReduceMax<keepdims = 0>(ao) co = Less(s, limit) }}> }}""",
            {"x": np.zeros(3, "f4"), "limit": s(5)}, weights={"t": b(1), "one": np.array([1], "f4")},
            bad=[{"x": np.zeros(3, "f4"), "limit": s(np.inf)}])
    program("bad_endless_count", f"(float[N] x, int64 m) => (float[N] y) {{ y = Loop (m, , x) <body = {ONCE} {{ "
            f"co = Identity(ci) ao = Neg(a) }}> }}",
            {"x": f(3), "m": n(3)}, bad=[{"x": f(3), "m": n(2**62)}])
    program("bad_growth", f"(float[N] x, int64 m) => (float[M] y) {{ y = Loop (m, , x) <body = {ONCE} {{ "
            f"co = Identity(ci) ao = Concat<axis = 0>(a, a) }}> }}",
            {"x": f(3), "m": n(3)}, bad=[{"x": f(3), "m": n(60)}])
    program("bad_wrong_type", "(float[N] x, bool c) => (float[N] y) { y = If (c) <then_branch = t () => (float[A] a) "
            "{ a = Neg(x) }, else_branch = e () => (float[B] r) { r = Exp(x) }> }",
            *BOTH, bad=[{"x": i(1, 2), "c": b(1)}, {"x": f(4), "c": n(1)}, {"x": f(4, 4), "c": b(1)}])
    program("bad_branch_types", "(float[N] x, bool c) => (float[N] y) { y = If (c) <then_branch = t () "
            "=> (float[A] a) { a = Neg(x) }, else_branch = e () => (float[B] r) { r = Exp(x) }> }",
            *BOTH, bad=BOTH, bad_text="(float[N] x, bool c) => (float[N] y) { y = If (c) <then_branch = t () "
                    "=> (float[A] a) { a = Neg(x) }, else_branch = e () => (int64[1] r) { r = Shape(x) }> }")
    program("bad_carried_type", f"(float[N] x, int64 m) => (float[N] y) {{ y = Loop (m, , x) <body = {ONCE} {{ "
            f"co = Identity(ci) ao = Neg(a) }}> }}",
            {"x": f(3), "m": n(3)}, bad=[{"x": f(3), "m": n(3)}],
            bad_text="(float[N] x, int64 m) => (float[N] y) { y = Loop (m, , x) "
                    "<body = b (int64 i, bool ci, float[A] a) => (bool co, int64[1] ao) { co = Identity(ci) "
                    "ao = Shape(a) }> }")
    program("bad_function_in_itself", "(float[N] x) => (float[N] y) { y = local.one(x) }" + LOCAL % "" + "one (a) "
            "=> (r) { r = Sin(a) }",
            {"x": f(3)}, bad=[{"x": f(3)}], bad_text="(float[N] x) => (float[N] y) "
                    "{ y = local.one(x) }" + LOCAL % ', "local" : 1' + "one (a) => (r) { "
                    "s = Sin(a) r = local.one(s) }")
    program("bad_sequence_position", "(float[N] x, int64 k) => (float[N] y) { s = SequenceConstruct(x, x) "
            "y = SequenceAt(s, k) }",
            {"x": f(3), "k": n(1)}, bad=[{"x": f(3), "k": n(k)} for k in (2, -3, 2**62)])
    program("bad_optional_empty", "(float[N] x) => (float[N] y) { o = Optional(x) y = OptionalGetElement(o) }",
            {"x": f(3)},
            bad=[{"x": f(3)}], bad_text="(float[N] x) => (float[N] y) { o = Optional<type = float[N]>() "
                    "y = OptionalGetElement(o) }")
    shape = "(int64[1] s) => (float[N] y) { y = ConstantOfShape(s) }"
    program("bad_shape", shape, {"s": i(3)}, bad=[{"s": i(-1)}, {"s": i(2**40)}, {"s": i(2**62)}])
    program("bad_expand", "(float[1] x, int64[2] s) => (float[A,B] y) { y = Expand(x, s) }", {"x": f(1), "s": i(2,
            3)},
            bad=[{"x": f(1), "s": i(2**20, 2**20)}, {"x": f(1), "s": i(2**40, 2**40)}, {"x": f(1), "s": i(-1, 3)}])
    program("bad_reshape", "(float[N] x, int64[2] s) => (float[A,B] y) { y = Reshape(x, s) }", {"x": f(6), "s": i(2,
            -1)},
            bad=[{"x": f(6), "s": i(4, -1)}, {"x": f(6), "s": i(-1, -1)}, {"x": f(6), "s": i(2**40, 2)}])
    program("bad_range", "(float l, float d) => (float[N] y) { y = Range(zero, l, d) }",
            {"l": s(5), "d": s(1)}, weights={"zero": s(0)},
            bad=[{"l": s(l), "d": s(d)} for l, d in ((5, 0), (1e30, 1), (np.inf, 1), (np.nan, 1))])
    program("bad_tile", "(float[N] x, int64[1] s) => (float[A] y) { y = Tile(x, s) }", {"x": f(3), "s": i(2)},
            bad=[{"x": f(3), "s": i(-1)}, {"x": f(3), "s": i(2**40)}, {"x": f(3), "s": i(2**62)}])
    program("bad_topk", "(float[N] x, int64[1] k) => (float[A] y, int64[A] z) { y, z = TopK(x, k) }", {"x": f(5),
            "k": i(2)},
            bad=[{"x": f(5), "k": i(k)} for k in (6, -1, 2**62)])
    program("bad_split", "(float[N] x, int64[2] s) => (float[A] y, float[B] z) { y, z = Split<axis = 0>(x, s) }",
            {"x": f(5), "s": i(2, 3)},
            bad=[{"x": f(5), "s": i(*s)} for s in ((2, 2), (6, -1), (2**62, 2**62))])
    program("bad_pad", "(float[N] x, int64[2] s) => (float[A] y) { y = Pad(x, s) }", {"x": f(5), "s": i(2, 3)},
            bad=[{"x": f(5), "s": i(*s)} for s in ((-9, 0), (2**40, 0), (2**62, 2**62))])
    program("bad_nesting_200", nested(3), *BOTH, bad=BOTH, bad_text=nested_file(200))


def nested(depth):
    """An If in a branch of an If, and so on."""
    def level(at):
        if at == depth:
            return f"y{at} = Neg(x)"
        return (f"y{at} = If (c) <then_branch = t{at} () => (float[A] y{at + 1}) {{ {level(at + 1)} }}, "
                f"else_branch = e{at} () => (float[B] z{at}) {{ z{at} = Exp(x) }}>")

    return "(float[N] x, bool c) => (float[N] y0) { " + level(0) + " }"


def nested_file(depth):
    """The same as the bytes of a file: protobuf's own library does not write more than 33 levels."""
    def part(number, content):
        size, length = b"", len(content)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    outer = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {nested(1)}')
    shallow = outer.graph.node[0].attribute
    leaf, other = shallow[0].g, shallow[1].SerializeToString()
    graph = leaf.SerializeToString()
    output = part(12, leaf.output[0].SerializeToString())
    for _ in range(depth):
        attribute = part(1, b"then_branch") + part(6, graph) + bytes([20 << 3 & 127 | 128, 1, 5])
        node = part(1, b"c") + part(2, b"y1") + part(4, b"If") + part(5, attribute) + part(5, other)
        graph = part(1, node) + part(2, b"t") + output
    outer.graph.ClearField("node")
    head = part(1, part(1, b"y1") + part(2, b"y0") + part(4, b"Identity"))
    whole = part(1, node) + head + outer.graph.SerializeToString()
    outer.ClearField("graph")
    return outer.SerializeToString() + part(7, whole)


def collect():
    """All programs; their names are unique."""
    import program_data
    import program_values

    if not PROGRAMS:
        for group in (if_programs, loop_programs, scan_programs, bad_programs):
            group()
        program_values.collect(program)
        program_data.collect(program)
    names = [each.name for each in PROGRAMS]
    assert len(names) == len(set(names)), "two programs have one name"
    return PROGRAMS
