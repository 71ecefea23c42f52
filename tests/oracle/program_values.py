"""Models with sequences, optional values and functions of their own."""

import numpy as np

from program_models import ANY, BOTH, LOCAL, TWO, f, i, n, s


def sequence_programs(program):
    program("sequence_at", """(float[N] x, int64 k) => (float[N] y, int64 l) { a = Neg(x) c = Exp(x)
            s = SequenceConstruct(x, a, c)
        y = SequenceAt(s, k) l = SequenceLength(s) }""", *[{"x": f(3), "k": n(k)} for k in (0, 2, -1)], opsets=ANY)
    program("sequence_shapes", """(float[N] x, int64 k) => (float[M] y) { a = Concat<axis = 0>(x, x)
            s = SequenceConstruct(x, a)
        y = SequenceAt(s, k) }""", *[{"x": f(3), "k": n(k)} for k in (0, 1)])
    program("sequence_insert", """(float[N] x, int64 k) => (float[M] y) { e = SequenceEmpty() a = Neg(x) c = Exp(x)
            s0 = SequenceInsert(e, x)
        s1 = SequenceInsert(s0, a) s2 = SequenceInsert(s1, c, k) y = ConcatFromSequence<axis = 0>(s2) }""",
            *[{"x": f(3), "k": n(k)} for k in (0, 1, 2, -1)], opsets=ANY)
    program("sequence_erase", """(float[N] x, int64 k) => (float[M] y, int64 l) { a = Neg(x) c = Exp(x)
            s = SequenceConstruct(x, a, c)
        s1 = SequenceErase(s, k) y = ConcatFromSequence<axis = 0>(s1) s2 = SequenceErase(s1)
        l = SequenceLength(s2) }""",
            *[{"x": f(3), "k": n(k)} for k in (0, 2, -2)], opsets=ANY)
    program("sequence_empty", "(float[N] x) => (int64 l) { s = SequenceEmpty<dtype = 7>() l = SequenceLength(s) }",
            {"x": f(2)})
    for keep in (0, 1):
        program(f"split_to_sequence_keep_{keep}", f"""(float[K,N] x, int64 k) => (float[M{',N' * keep}] y, int64 l) {{
            s = SplitToSequence<axis = 0, keepdims = {keep}>(x) y = SequenceAt(s, k) l = SequenceLength(s) }}""",
                *[{"x": f(4, 3), "k": n(k)} for k in (0, 3)], opsets=ANY)
    program("split_to_sequence_scalar", """(float[K,N] x, int64 k) => (float[K,M] y, int64 l) {
            s = SplitToSequence<axis = 1>(x, two)
        y = SequenceAt(s, k) l = SequenceLength(s) }""", *[{"x": f(2, 5), "k": n(k)} for k in (0, 2)],
        weights={"two": TWO}, opsets=ANY)
    program("split_to_sequence_sizes", """(float[K,N] x, int64[3] z, int64 k) => (float[K,M] y) {
            s = SplitToSequence<axis = -1>(x, z)
        y = SequenceAt(s, k) }""", *[{"x": f(2, 6), "z": i(*z), "k": n(k)} for z, k in (((1, 2, 3), 2), ((4, 0, 2),
        1), ((2, 2, 2), 0))])
    for new in (0, 1):
        program(f"concat_from_sequence_{new}", f"""(float[K,N] x) => (float[{'P,' * new}Q,R] y) {{ a = Neg(x)
                s = SequenceConstruct(x, a, x)
            y = ConcatFromSequence<axis = {-1 if new else 1}, new_axis = {new}>(s) }}""", {"x": f(2, 3)}, opsets=ANY)
    program("sequence_map", """(float[K,N] x, float[N] w) => (float[K,N] y, int64[P] l) {
            s = SplitToSequence<axis = 0, keepdims = 0>(x) m, h = SequenceMap(s, w)
        <body = b (float[N] e, float[N] v) => (float[N] o, int64[1] q) { o0 = Mul(e, v) o = Sin(o0) q = Shape(e) }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(m) l = ConcatFromSequence<axis = 0>(h) }""",
            *[{"x": f(k, 3), "w": f(3, key=2)} for k in (1, 4)])
    program("sequence_in_loop", """(float[N] x, int64 m) => (float[K,N] y, int64 l) { a = Neg(x)
            e = SequenceConstruct(a) s = Loop (m, , e)
        <body = b (int64 i, bool c, seq(float[N]) q) => (bool co, seq(float[N]) qo) { co = Identity(c)
        fi = Cast<to = 1>(i) z = Mul(x, fi) qo = SequenceInsert(q, z) }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(s) l = SequenceLength(s) }""", *[{"x": f(3),
        "m": n(m)} for m in (0, 1, 6)], opsets=(17, 13))
    program("sequence_read_in_loop", """(float[K,N] x) => (float[N] y) {
            s = SplitToSequence<axis = 0, keepdims = 0>(x) m = SequenceLength(s) y = Loop (m, , z)
        <body = b (int64 i, bool c, float[N] a) => (bool co, float[N] ao) { co = Identity(c) e = SequenceAt(s, i)
        d = Add(a, e) ao = Tanh(d) }> }""",
            {"x": f(1, 3)}, {"x": f(5, 3)}, weights={"z": np.zeros(3, "f4")}, opsets=ANY)
    program("sequence_in_if", """(float[N] x, bool c) => (float[M] y) { s = SequenceConstruct(x, x) q = If (c)
        <then_branch = t () => (seq(float[N]) a) { a = SequenceInsert(s, x) }, else_branch = e ()
        => (seq(float[N]) r) { r = SequenceErase(s) }>
        y = ConcatFromSequence<axis = 0>(q) }""", *BOTH, opsets=(17, 13))
    program("sequence_grown_on_data", """(float[N] x) => (float[M] y) { s = SplitToSequence<axis = 0>(x)
            l = SequenceLength(s) e = SequenceConstruct(start) q = Loop (l, , e)
        <body = b (int64 i, bool c, seq(float[A]) p) => (bool co, seq(float[A]) po) { co = Identity(c)
        v = SequenceAt(s, i) u = ReduceSum<keepdims = 0>(v)
            d = Greater(u, zero) po = If (d) <then_branch = t () => (seq(float[A]) a) { a = SequenceInsert(p, v) },
            else_branch = e () => (seq(float[A]) r) { r = Identity(p) }> }>
        y = ConcatFromSequence<axis = 0>(q) }""", {"x": f(7)}, {"x": -np.abs(f(3))}, weights={"start": f(1),
        "zero": s(0)})


def optional_programs(program):
    program("optional_tensor", """(float[N] x) => (float[N] y, bool h) { o = Optional(x) h = OptionalHasElement(o)
            g = OptionalGetElement(o)
        y = Neg(g) }""", {"x": f(3)}, opsets=(17, 15, 18))
    program("optional_empty", """(float[N] x) => (bool h) { o = Optional<type = float[N]>()
            h = OptionalHasElement(o) }""", {"x": f(3)}, opsets=(17, 18))
    program("optional_sequence", """(float[N] x) => (float[M] y) { s = SequenceConstruct(x, x) o = Optional(s)
            g = OptionalGetElement(o)
        y = ConcatFromSequence<axis = 0>(g) }""", {"x": f(3)})
    program("optional_in_if", """(float[N] x) => (float[N] y) { o = Optional(x) h = OptionalHasElement(o) y = If (h)
        <then_branch = t () => (float[N] a) { g = OptionalGetElement(o) a = Exp(g) }, else_branch = e ()
        => (float[N] r) { r = Neg(x) }> }""", {"x": f(3)})
    program("optional_of_a_tensor", "(float[N] x) => (float[N] y, bool h) { y = OptionalGetElement(x) "
            "h = OptionalHasElement(x) }", {"x": f(3)}, opsets=(18,))


def function_programs(program):
    plain, own = LOCAL % "", LOCAL % ', "local" : 1'
    program("function", "(float[N] x) => (float[N] y) { h = local.twice(x) y = local.twice(h) }" + plain +
            "twice (a) => (r) { s = Sin(a) r = Add(s, a) }", {"x": f(3)}, opsets=(17, 13))
    program("function_nested", "(float[N] x) => (float[N] y) { y = local.outer(x) }" + own +
            "outer (a) => (r) { p = local.inner(a) q = local.inner(p) r = Mul(p, q) }" + plain + "inner (a) => (r) { "
                    "s = Sin(a) r = Add(s, a) }",
            {"x": f(3)})
    program("function_attribute", "(float[N] x) => (float[N] y) "
            "{ h = local.leak<slope = 0.25>(x) g = local.leak(h) y = local.leak<slope = 3.0>(g) }" + plain +
            "leak <slope: float = 0.5> (a) => (r) { s = LeakyRelu<alpha: float = @slope>(a) r = Neg(s) }",
                    {"x": f(5)})
    program("function_attribute_nested", "(float[N,M] x) => (float[P,Q] y) "
            "{ y = local.outer<perm = [1, 0], slope = 0.3>(x) }" + own +
            "outer <perm, slope> (a) => (r) { p = local.inner<slope: float = @slope>(a) "
                    "r = Transpose<perm: ints = @perm>(p) }" + plain +
            "inner <slope> (a) => (r) { r = LeakyRelu<alpha: float = @slope>(a) }", {"x": f(2, 3)})
    program("function_with_if", "(float[N] x, bool c) => (float[N] y) "
            "{ y = local.choose<slope = 0.25>(c, x) }" + plain +
            """choose <slope> (c, a) => (r) { h = Cos(a) r = If (c) <then_branch = t () => (float[A] p) {
                    p = LeakyRelu<alpha: float = @slope>(h) },
            else_branch = e () => (float[B] q) { q = Sub(h, a) }> }""", *BOTH)
    program("function_with_loop", "(float[N] x, int64 m) => (float[N] y) { y = local.repeat(m, x) }" + plain +
            """repeat (m, a) => (r) { r = Loop (m, , a) <body = b (int64 i, bool c, float[A] p) => (bool co, float[B] po) { co = Identity(c) s = Sin(p) po = Add(s, a) }> }""",
            *[{"x": f(3), "m": n(m)} for m in (0, 4)])
    program("function_in_loop", "(float[N] x, int64 m) => (float[N] y) { y = Loop (m, , x) "
            "<body = b (int64 i, bool c, float[A] p) => (bool co, float[B] po) { "
            "co = Identity(c) po = local.twice(p) }> }" + plain +
            "twice (a) => (r) { s = Sin(a) r = Add(s, a) }", *[{"x": f(3), "m": n(m)} for m in (0, 4)])
    program("function_several_outputs", "(float[N] x) => (float[N] y, float[N] z) "
            "{ y, z = local.both(x, w) }" + plain +
            "both (a, v) => (p, q) { p = Add(a, v) q = Mul(a, p) }", {"x": f(3)}, weights={"w": f(3, key=2)})


def collect(program):
    for group in (sequence_programs, optional_programs, function_programs):
        group(program)
