"""Random programs from a seed: what the generator of `program_fuzz.py` makes.

Bodies within bodies that read values from around them, names that other bodies have too, carried values of three types
and of changing shapes, stacked results, sequences and optional values, shapes and ways that depend on constants, on
inputs and on what was computed. Arithmetic is exact, so that answers are equal or wrong: numbers are small multiples
of a quarter, and kept small. Values carry a tag, and those of one tag have one shape.
"""

import random

import numpy as np
from onnx import TensorProto, helper, numpy_helper

DTYPES = {"f": (TensorProto.FLOAT, np.float32), "i": (TensorProto.INT64, np.int64), "b": (TensorProto.BOOL, np.bool_)}


class Value:
    """A name with its type, rank and tag."""

    def __init__(self, name, dt, rank, tag):
        self.name, self.dt, self.rank, self.tag = (name, dt, rank, tag)


class Scope:
    """A graph in the making, and those around it."""

    def __init__(self, g, outer=None, depth=0):
        self.g, self.outer, self.depth = (g, outer, depth)
        self.nodes, self.inits, self.vals, self.lists = ([], [], [], [])
        self.n = 0

    def visible(self):
        scope, out = (self, [])
        while scope:
            out += scope.vals
            scope = scope.outer
        return out

    def visible_lists(self):
        scope, out = (self, [])
        while scope:
            out += scope.lists
            scope = scope.outer
        return out

    def name(self, stem="v"):
        self.n += 1
        return f"{stem}{self.depth}_{self.n}" if self.depth else f"{stem}{self.n}"


class Generator:
    """Makes one model."""

    def __init__(self, seed):
        self.r = random.Random(seed)
        self.opset = self.r.choice([11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21])
        self.tags = 0
        self.budget = self.r.randint(6, 40)

    def tag(self):
        self.tags += 1
        return f"T{self.tags}"

    def stacked_tag(self, row):
        """Of a loop's stacked rows: where none ran, their extents are not ONNX Runtime's (`programs.py`): nothing may see them."""
        return self.tag() + ("stacked" if row.rank else "")

    def const(self, scope, arr, p="c"):
        n = scope.name(p)
        arr = np.asarray(arr)
        if self.r.random() < 0.5:
            scope.inits.append(numpy_helper.from_array(arr, n))
        else:
            scope.nodes.append(helper.make_node("Constant", [], [n], value=numpy_helper.from_array(arr)))
        return n

    def add(self, scope, op, ins, dt, rank, tag, **at):
        n = scope.name()
        scope.nodes.append(helper.make_node(op, ins, [n], **at))
        v = Value(n, dt, rank, tag)
        scope.vals.append(v)
        return v

    def hidden(self, scope, op, ins, **at):
        n = scope.name("h")
        scope.nodes.append(helper.make_node(op, ins, [n], **at))
        return n

    def pick(self, scope, dt=None, rank=None, tag=None, minrank=None):
        c = [
            v
            for v in scope.visible()
            if (dt is None or v.dt == dt)
            and (rank is None or v.rank == rank)
            and (tag is None or v.tag == tag)
            and (minrank is None or v.rank >= minrank)
        ]
        if not c:
            return None
        if self.r.random() < 0.5:
            c = c[-4:]
        if self.r.random() < 0.3:
            c = c[:6]
        return self.r.choice(c)

    def bounded(self, scope, v):
        """f or i value, clipped so numbers stay exact"""
        if v.dt == "f":
            n = scope.name()
            lo, hi = (self.const(scope, np.float32(-64)), self.const(scope, np.float32(64)))
            scope.nodes.append(helper.make_node("Clip", [v.name, lo, hi], [n]))
        else:
            n = scope.name()
            m = self.const(scope, np.int64(97))
            scope.nodes.append(helper.make_node("Mod", [v.name, m], [n]))
        w = Value(n, v.dt, v.rank, v.tag)
        scope.vals.append(w)
        return w

    def scalar_i(self, scope, lo=0, hi=5):
        """an i64 scalar name in lo..hi, of some origin"""
        k = self.r.random()
        if k < 0.15:
            return self.const(scope, np.int64(self.r.randint(lo, hi)))
        v = self.pick(scope, "i", 0)
        if k < 0.35 or v is None:
            x = self.pick(scope, minrank=1)
            if x is not None:
                n = self.hidden(scope, "Size", [x.name])
            else:
                return self.const(scope, np.int64(self.r.randint(lo, hi)))
        elif k < 0.6 and self.pick(scope, "f", minrank=1):
            x = self.pick(scope, "f", minrank=1)
            s = self.reduce(scope, x, False)
            fl = self.hidden(scope, "Floor", [s])
            n = self.hidden(scope, "Cast", [fl], to=TensorProto.INT64)
        else:
            n = v.name
        m = self.const(scope, np.int64(hi - lo + 1))
        a = self.hidden(scope, "Mod", [n, m])
        if lo:
            a = self.hidden(scope, "Add", [a, self.const(scope, np.int64(lo))])
        return a

    def reduce(self, scope, x, keep_visible=True):
        s = self.hidden(scope, "ReduceSum", [x.name], keepdims=0)
        if x.dt == "f":
            lo, hi = (self.const(scope, np.float32(-64)), self.const(scope, np.float32(64)))
            s = self.hidden(scope, "Clip", [s, lo, hi])
        if keep_visible:
            scope.vals.append(Value(s, x.dt, 0, "s"))
        return s

    def cond(self, scope):
        k = self.r.random()
        if k < 0.15:
            return self.const(scope, np.array(self.r.random() < 0.5))
        if k < 0.25:
            return self.const(scope, np.array([self.r.random() < 0.5]))
        v = self.pick(scope, "b", 0)
        if k < 0.5 and v:
            return v.name
        if k < 0.7:
            x = self.pick(scope, "f", minrank=1)
            if x:
                s = self.reduce(scope, x)
                c = self.hidden(scope, "Less", [s, self.const(scope, np.float32(self.r.choice([-1, 0, 1.5])))])
                scope.vals.append(Value(c, "b", 0, "s"))
                return c
        a = self.scalar_i(scope)
        c = self.hidden(
            scope, self.r.choice(["Less", "Equal", "Greater"]), [a, self.const(scope, np.int64(self.r.randint(0, 3)))]
        )
        scope.vals.append(Value(c, "b", 0, "s"))
        return c

    def vec1(self, scope, n):
        """scalar name as a [1]"""
        return self.hidden(scope, "Reshape", [n, self.const(scope, np.array([1], np.int64))])

    def step(self, scope):
        self.budget -= 1
        ops = [
            self.unary,
            self.binary,
            self.binary,
            self.compare,
            self.cast,
            self.shape,
            self.slice,
            self.computed,
            self.concat,
            self.where,
            self.reduce_op,
            self.logic,
            self.reshape,
            self.seq,
            self.expand,
            self.more,
            self.more,
        ]
        if scope.depth < 3 and self.budget > 3:
            ops += [self.if_, self.if_, self.loop, self.loop, self.loop, self.scan]
        if self.opset >= 15:
            ops.append(self.optional)
        self.r.choice(ops)(scope)

    def unary(self, scope):
        v = self.pick(scope, self.r.choice("fi"))
        if v:
            self.add(scope, self.r.choice(["Neg", "Abs", "Identity"]), [v.name], v.dt, v.rank, v.tag)

    def binary(self, scope):
        a = self.pick(scope, self.r.choice("fi"))
        if not a:
            return
        b = self.pick(scope, a.dt, tag=a.tag) if self.r.random() < 0.7 else self.pick(scope, a.dt, 0)
        if not b:
            return
        op = (
            self.r.choice(["Add", "Sub", "Mul", "Max", "Min"])
            if a.dt == "f" or self.opset >= 12
            else self.r.choice(["Add", "Sub", "Mul"])
        )
        if op == "Mul" and a.dt == "f":
            op = "Add"
        w = self.add(scope, op, [a.name, b.name] if self.r.random() < 0.5 else [b.name, a.name], a.dt, a.rank, a.tag)
        scope.vals.pop()
        self.bounded(scope, w)

    def compare(self, scope):
        a = self.pick(scope, self.r.choice("fi"))
        if not a:
            return
        b = self.pick(scope, a.dt, tag=a.tag)
        self.add(scope, self.r.choice(["Less", "Greater", "Equal"]), [a.name, b.name], "b", a.rank, a.tag)

    def logic(self, scope):
        a = self.pick(scope, "b")
        if not a:
            return
        b = self.pick(scope, "b", tag=a.tag)
        self.add(scope, self.r.choice(["And", "Or", "Xor"]), [a.name, b.name], "b", a.rank, a.tag)

    def cast(self, scope):
        a = self.pick(scope)
        to = self.r.choice("fib")
        name = a.name
        if a.dt == "f" and to == "i":
            name = self.hidden(scope, "Floor", [name])
        self.add(scope, "Cast", [name], to, a.rank, a.tag, to=DTYPES[to][0])

    def shape(self, scope):
        a = self.pick(scope, minrank=1)
        if not a:
            return
        if self.r.random() < 0.5:
            self.add(scope, "Size", [a.name], "i", 0, "s")
        elif not a.tag.endswith("stacked"):
            self.add(scope, "Shape", [a.name], "i", 1, f"sh{a.rank}")

    def slice(self, scope):
        a = self.pick(scope, minrank=1)
        if not a:
            return
        end = self.vec1(scope, self.scalar_i(scope, 0, 4))
        beg = self.const(scope, np.array([self.r.choice([0, 0, 1, -2])], np.int64))
        ax = self.const(scope, np.array([0], np.int64))
        self.add(scope, "Slice", [a.name, beg, end, ax], a.dt, a.rank, self.tag())

    def computed(self, scope):
        n = self.scalar_i(scope, 0, 5)
        k = self.r.random()
        if k < 0.4:
            self.add(
                scope,
                "ConstantOfShape",
                [self.vec1(scope, n)],
                "f",
                1,
                self.tag(),
                value=numpy_helper.from_array(np.array([self.r.choice([0, 1.5, -2])], np.float32)),
            )
        elif k < 0.7:
            self.add(
                scope,
                "Range",
                [self.const(scope, np.int64(0)), n, self.const(scope, np.int64(1))],
                "i",
                1,
                self.tag(),
            )
        else:
            a = self.pick(scope, "f", 1)
            if a:
                self.add(scope, "Tile", [a.name, self.vec1(scope, n)], "f", 1, self.tag())

    def concat(self, scope):
        a = self.pick(scope, minrank=1)
        if not a:
            return
        b = self.pick(scope, a.dt, 1) if a.rank == 1 else self.pick(scope, a.dt, tag=a.tag)
        self.add(scope, "Concat", [a.name, b.name], a.dt, a.rank, self.tag(), axis=0)
        if self.r.random() < 0.5:
            v = scope.vals.pop()
            end = self.const(scope, np.array([6], np.int64))
            beg = self.const(scope, np.array([0], np.int64))
            self.add(scope, "Slice", [v.name, beg, end, beg], v.dt, v.rank, v.tag)

    def where(self, scope):
        c = self.pick(scope, "b")
        if not c:
            return
        a = self.pick(scope, self.r.choice("fi"), tag=c.tag)
        if not a:
            return
        b = self.pick(scope, a.dt, tag=c.tag)
        self.add(scope, "Where", [c.name, a.name, b.name], a.dt, a.rank, a.tag)

    def reduce_op(self, scope):
        a = self.pick(scope, self.r.choice("fi"), minrank=1)
        if a:
            s = self.reduce(scope, a, False)
            self.bounded(scope, Value(s, a.dt, 0, "s"))

    def reshape(self, scope):
        a = self.pick(scope, minrank=1)
        if a:
            self.add(
                scope,
                "Reshape",
                [a.name, self.const(scope, np.array([-1], np.int64))],
                a.dt,
                1,
                a.tag + "-" if a.rank > 1 else a.tag,
            )

    def expand(self, scope):
        a, b = (self.pick(scope, self.r.choice("fi"), 0), self.pick(scope, minrank=1))
        if not a or not b:
            return
        self.add(scope, "Expand", [a.name, self.hidden(scope, "Shape", [b.name])], a.dt, b.rank, b.tag)

    def more(self, scope):
        k = self.r.randint(0, 6)
        a = self.pick(scope, self.r.choice("fi"), 1)
        if not a:
            return
        n = self.scalar_i(scope, 0, 3)
        if k == 0:
            pads = self.hidden(
                scope, "Concat", [self.vec1(scope, n), self.vec1(scope, self.scalar_i(scope, 0, 2))], axis=0
            )
            if a.dt == "f" or self.opset >= 12:
                self.add(scope, "Pad", [a.name, pads], a.dt, 1, self.tag())
        elif k == 1:
            size = self.hidden(scope, "Size", [a.name])
            if self.opset < 12:
                return
            kk = self.vec1(scope, self.hidden(scope, "Min", [n, size]))
            x, y = (scope.name(), scope.name())
            scope.nodes.append(helper.make_node("TopK", [a.name, kk], [x, y], axis=0))
            t = self.tag()
            scope.vals += [Value(x, a.dt, 1, t), Value(y, "i", 1, t)]
        elif k == 2:
            s = self.pick(scope, self.r.choice("fib"), 0)
            if s is None:
                return
            if self.opset >= 13:
                self.add(scope, "Unsqueeze", [s.name, self.const(scope, np.array([0], np.int64))], s.dt, 1, "one")
            else:
                self.add(scope, "Unsqueeze", [s.name], s.dt, 1, "one", axes=[0])
        elif k == 3:
            size = self.hidden(scope, "Size", [a.name])
            i = self.hidden(scope, "Mod", [n, self.hidden(scope, "Add", [size, self.const(scope, np.int64(0))])])
            self.add(scope, "Gather", [a.name, i], a.dt, 0, "s", axis=0)
        elif k == 4:
            y = self.pick(scope, "f", 2)
            if y is None:
                return
            if y.tag != "TY":
                return
            w = self.add(
                scope,
                "MatMul",
                [y.name, self.const(scope, np.array([[1, 0, -1], [0, 0.5, 2], [1, 1, 0]], np.float32))],
                "f",
                2,
                "TY",
            )
            scope.vals.pop()
            self.bounded(scope, w)
        elif k == 5:
            w = self.add(scope, "CumSum", [a.name, self.const(scope, np.int64(0))], a.dt, 1, a.tag)
            scope.vals.pop()
            self.bounded(scope, w)
        else:
            size = self.hidden(scope, "Size", [a.name])
            if self.opset < 13:
                return
            first = self.hidden(scope, "Min", [n, size])
            rest = self.hidden(scope, "Sub", [size, first])
            parts = self.hidden(scope, "Concat", [self.vec1(scope, first), self.vec1(scope, rest)], axis=0)
            x, y = (scope.name(), scope.name())
            scope.nodes.append(helper.make_node("Split", [a.name, parts], [x, y], axis=0))
            scope.vals += [Value(x, a.dt, 1, self.tag()), Value(y, a.dt, 1, self.tag())]

    def seq(self, scope):
        k = self.r.random()
        ls = scope.visible_lists()
        if not ls or k < 0.3:
            a = self.pick(scope, self.r.choice("fi"), self.r.choice([1, 1, 2]))
            if not a:
                return
            n = scope.name("q")
            if self.r.random() < 0.3 and a.rank >= 1:
                scope.nodes.append(helper.make_node("SplitToSequence", [a.name], [n], axis=0, keepdims=1))
                scope.lists.append((n, a.dt, a.rank, 0))
                return
            many = [a] + [b for b in [self.pick(scope, a.dt, a.rank) for _ in range(self.r.randint(0, 2))] if b]
            if any((m.tag != a.tag for m in many)) and a.rank == 2:
                many = [a]
            scope.nodes.append(helper.make_node("SequenceConstruct", [m.name for m in many], [n]))
            scope.lists.append((n, a.dt, a.rank, len(many)))
            return
        l = self.r.choice(ls)
        if k < 0.45:
            a = self.pick(scope, l[1], l[2])
            if not a:
                return
            n = scope.name("q")
            ins = [l[0], a.name]
            if self.r.random() < 0.5:
                if self.r.random() < 0.5:
                    ins.append(self.const(scope, np.int64(0)))
                else:
                    ln = self.hidden(scope, "SequenceLength", [l[0]])
                    one = self.hidden(scope, "Add", [ln, self.const(scope, np.int64(1))])
                    ins.append(self.hidden(scope, "Mod", [self.scalar_i(scope), one]))
            scope.nodes.append(helper.make_node("SequenceInsert", ins, [n]))
            scope.lists.append((n, l[1], l[2], l[3] + 1))
        elif k < 0.65 and l[3] > 0:
            if self.r.random() < 0.5:
                p = self.const(scope, np.int64(self.r.randint(-l[3], l[3] - 1)))
            else:
                p = self.hidden(scope, "Mod", [self.scalar_i(scope), self.const(scope, np.int64(l[3]))])
            self.add(scope, "SequenceAt", [l[0], p], l[1], l[2], self.tag())
        elif k < 0.75:
            self.add(scope, "SequenceLength", [l[0]], "i", 0, "s")
        elif l[3] > 0 and l[2] == 1:
            self.add(scope, "ConcatFromSequence", [l[0]], l[1], 1, self.tag(), axis=0)
        elif l[3] > 1:
            n = scope.name("q")
            scope.nodes.append(
                helper.make_node(
                    "SequenceErase",
                    [l[0]]
                    + (
                        [self.const(scope, np.int64(self.r.randint(-l[3], l[3] - 1)))]
                        if self.r.random() < 0.5
                        else []
                    ),
                    [n],
                )
            )
            scope.lists.append((n, l[1], l[2], l[3] - 1))

    def optional(self, scope):
        a = self.pick(scope, self.r.choice("fi"))
        if not a:
            return
        o = self.hidden(scope, "Optional", [a.name])
        self.add(scope, "OptionalHasElement", [o], "b", 0, "s")
        if self.r.random() < 0.8:
            self.add(scope, "OptionalGetElement", [o], a.dt, a.rank, a.tag)

    def info(self, n, dt, rank):
        return helper.make_tensor_value_info(n, DTYPES[dt][0], [None] * rank)

    def own(self, scope, dt, rank, tag=None):
        """a value made in this scope (an output of its graph)"""
        c = [v for v in scope.vals if v.dt == dt and v.rank == rank and (tag is None or v.tag == tag)]
        produced = (
            {o for n in scope.nodes for o in n.output}
            | {i.name for i in scope.inits}
            | {i for i in getattr(scope, "ins", ())}
        )
        c = [v for v in c if v.name in produced]
        if c and self.r.random() < 0.8:
            return self.r.choice(c[-3:])
        v = self.pick(scope, dt, rank, tag)
        if v is None:
            if rank == 0:
                n = self.const(scope, DTYPES[dt][1](1))
                return Value(n, dt, 0, "s")
            if tag is not None:
                return None
            n = self.const(scope, np.ones([2] * rank, DTYPES[dt][1]))
            return Value(n, dt, rank, self.tag())
        return self.add(scope, "Identity", [v.name], dt, rank, v.tag)

    def fill(self, scope, lo=1, hi=5):
        for _ in range(self.r.randint(lo, hi)):
            if self.budget > 0:
                self.step(scope)

    def if_(self, scope):
        c = self.cond(scope)
        outs = []
        for _ in range(self.r.randint(1, 3)):
            outs.append((self.r.choice("ffib"), self.r.choice([0, 1, 1, 2])))
        lists = self.r.random() < 0.2 and self.opset >= 13
        subs = []
        lens = []
        for k in range(2):
            b = Scope(self, scope, scope.depth + 1)
            self.fill(b, 0, 5)
            names = [self.own(b, dt, rank) for dt, rank in outs]
            names2 = []
            for v in names:
                if v.name in [w.name for w in names2]:
                    v = self.add(b, "Identity", [v.name], v.dt, v.rank, v.tag)
                names2.append(v)
            infos = [self.info(v.name, v.dt, v.rank) for v in names2]
            if lists:
                a = self.own(b, "f", 1)
                n = b.name("q")
                cnt = self.r.randint(1, 2)
                b.nodes.append(helper.make_node("SequenceConstruct", [a.name] * cnt, [n]))
                lens.append(cnt)
                infos.append(helper.make_tensor_sequence_value_info(n, TensorProto.FLOAT, None))
            gname = "b"
            subs.append((helper.make_graph(b.nodes, gname, [], infos, b.inits), names2))
        names = []
        res = [scope.name() for _ in subs[0][0].output]
        scope.nodes.append(helper.make_node("If", [c], res, then_branch=subs[0][0], else_branch=subs[1][0]))
        for n, v, w in zip(res, subs[0][1], subs[1][1]):
            same = v.tag == w.tag
            scope.vals.append(Value(n, v.dt, v.rank, v.tag if same else self.tag()))
        if lists:
            scope.lists.append((res[-1], "f", 1, min(lens)))

    def loop(self, scope):
        k = self.r.random()
        trip, cnd = ("", "")
        mode = self.r.choice(["trip", "trip", "both", "cond", "const"])
        if mode == "const":
            trip = self.const(scope, np.int64(self.r.choice([0, 1, 2, 3, 20])))
        elif mode in ("trip", "both"):
            trip = self.scalar_i(scope, 0, 4)
        if mode in ("both", "cond"):
            cnd = self.cond(scope)
        b = Scope(self, scope, scope.depth + 1)
        it, ci = (b.name("i"), b.name("k"))
        ins = [
            helper.make_tensor_value_info(it, TensorProto.INT64, []),
            helper.make_tensor_value_info(ci, TensorProto.BOOL, []),
        ]
        b.ins = [it, ci]
        b.vals.append(Value(ci, "b", 0, "s"))
        self.add(b, "Add", [it, self.const(b, np.int64(0))], "i", 0, "s")
        carried = []
        for _ in range(self.r.randint(0 if self.r.random() < 0.2 else 1, 3)):
            v = self.pick(scope)
            if not v:
                continue
            stable = v.rank == 0 or self.r.random() < 0.6
            n = b.name("a")
            ins.append(self.info(n, v.dt, v.rank))
            w = Value(n, v.dt, v.rank, v.tag if stable else self.tag())
            carried.append((v, w, stable))
            b.vals.append(w)
            b.ins.append(n)
        slist = None
        ls = [l for l in scope.visible_lists() if l[1] == "f" and l[2] == 1]
        if ls and self.r.random() < 0.4 and (self.opset >= 13):
            l = self.r.choice(ls)
            n = b.name("q")
            ins.append(helper.make_tensor_sequence_value_info(n, TensorProto.FLOAT, None))
            slist = (l, n)
            b.lists.append((n, "f", 1, l[3]))
        self.fill(b, 1, 5)
        counter = mode == "cond"
        if counter or self.r.random() < 0.4:
            lim = self.const(b, np.int64(self.r.randint(0, 4)))
            co = self.hidden(b, "Less", [it, lim])
            if self.r.random() < 0.4:
                x = self.pick(b, "b", 0)
                co = self.hidden(b, "And", [co, x.name])
        else:
            co = (
                self.hidden(b, "Identity", [ci])
                if self.r.random() < 0.7
                else ci if self.r.random() < 0.5 else self.const(b, np.array(True))
            )
        outs = [helper.make_tensor_value_info(co, TensorProto.BOOL, [])]
        used = {co}

        def once(v):
            if v.name in used:
                v = self.add(b, "Identity", [v.name], v.dt, v.rank, v.tag)
            used.add(v.name)
            return v

        for v, w, stable in carried:
            o = self.own(b, v.dt, v.rank, v.tag if stable else None) or w
            o = once(o)
            outs.append(self.info(o.name, v.dt, v.rank))
        if slist:
            l, n = slist
            a = self.own(b, "f", 1)
            m = b.name("q")
            b.nodes.append(helper.make_node("SequenceInsert", [n, a.name], [m]))
            outs.append(helper.make_tensor_sequence_value_info(m, TensorProto.FLOAT, None))
        outer_tags = {v.tag for v in scope.visible()} | {"s"}
        scans = []
        for _ in range(self.r.choice([0, 0, 1, 1, 2])):
            c = [v for v in b.vals if v.tag in outer_tags and v.rank <= 1]
            if not c:
                break
            v = self.r.choice(c)
            v = once(self.add(b, "Identity", [v.name], v.dt, v.rank, v.tag))
            scans.append(v)
            outs.append(self.info(v.name, v.dt, v.rank))
        if not carried and (not scans) and (not slist):
            return
        body = helper.make_graph(b.nodes, "body", ins, outs, b.inits)
        res = [scope.name() for _ in outs[1:]]
        scope.nodes.append(
            helper.make_node(
                "Loop",
                [trip, cnd] + [v.name for v, _, _ in carried] + ([slist[0][0]] if slist else []),
                res,
                body=body,
            )
        )
        i = 0
        for v, w, stable in carried:
            scope.vals.append(Value(res[i], v.dt, v.rank, v.tag if stable else self.tag()))
            i += 1
        if slist:
            scope.lists.append((res[i], "f", 1, slist[0][3]))
            i += 1
        for v in scans:
            scope.vals.append(Value(res[i], v.dt, v.rank + 1, self.stacked_tag(v)))
            i += 1

    def scan(self, scope):
        a = self.pick(scope, minrank=1)
        if not a:
            return
        xs = [a]
        if self.r.random() < 0.4:
            xs.append(self.pick(scope, tag=a.tag))
        b = Scope(self, scope, scope.depth + 1)
        ins, states, b.ins = ([], [], [])
        for _ in range(self.r.randint(0, 2)):
            v = self.pick(scope, self.r.choice("fi"))
            if not v or v.rank > 1:
                continue
            n = b.name("a")
            ins.append(self.info(n, v.dt, v.rank))
            w = Value(n, v.dt, v.rank, v.tag)
            b.vals.append(w)
            b.ins.append(n)
            states.append((v, w))
        st = self.tag() if a.rank > 1 else "s"
        for x in xs:
            n = b.name("x")
            ins.append(self.info(n, x.dt, x.rank - 1))
            b.vals.append(Value(n, x.dt, x.rank - 1, st))
            b.ins.append(n)
        self.fill(b, 1, 4)
        used, outs = (set(), [])

        def once(v):
            if v.name in used or v.name in b.ins:
                v = self.add(b, "Identity", [v.name], v.dt, v.rank, v.tag)
            used.add(v.name)
            return v

        for v, w in states:
            o = once(self.own(b, v.dt, v.rank, v.tag) or w)
            outs.append(self.info(o.name, v.dt, v.rank))
        outer_tags = {v.tag for v in scope.visible()} | {"s", st}
        scans = []
        for _ in range(self.r.choice([1, 1, 2])):
            c = [v for v in b.vals if v.tag in outer_tags and v.rank <= 1]
            if not c:
                break
            v = once(self.r.choice(c))
            scans.append(v)
            outs.append(self.info(v.name, v.dt, v.rank))
        if not outs:
            return
        at = {}
        if self.r.random() < 0.3:
            at["scan_input_directions"] = [self.r.randint(0, 1) for _ in xs]
        if scans and self.r.random() < 0.3:
            at["scan_output_directions"] = [self.r.randint(0, 1) for _ in scans]
        if scans and self.r.random() < 0.2:
            at["scan_output_axes"] = [self.r.choice([0, v.rank, -1]) for v in scans]
        body = helper.make_graph(b.nodes, "body", ins, outs, b.inits)
        res = [scope.name() for _ in outs]
        scope.nodes.append(
            helper.make_node(
                "Scan",
                [v.name for v, _ in states] + [x.name for x in xs],
                res,
                body=body,
                num_scan_inputs=len(xs),
                **at,
            )
        )
        for n, (v, w) in zip(res, states):
            scope.vals.append(Value(n, v.dt, v.rank, v.tag))
        for n, v in zip(res[len(states) :], scans):
            scope.vals.append(Value(n, v.dt, v.rank + 1, self.tag()))

    def model(self):
        scope = Scope(self)
        ins = [
            Value("x", "f", 1, "TX"),
            Value("y", "f", 2, "TY"),
            Value("z", "i", 1, "TX"),
            Value("n", "i", 0, "s"),
            Value("c", "b", 0, "s"),
            Value("f", "f", 0, "s"),
        ]
        keep = [v for v in ins if self.r.random() < 0.7] or ins[:2]
        dims = {"x": ["N"], "y": ["M", 3], "z": ["N"], "n": [], "c": [], "f": []}
        scope.vals += keep
        scope.ins = [v.name for v in keep]
        if self.r.random() < 0.3:
            n = self.const(scope, np.array([1, -2, 0.5], np.float32))
            scope.vals.append(Value(n, "f", 1, "C3"))
        while self.budget > 0:
            self.step(scope)
        lists = [l for l in scope.lists]
        produced = [v for v in scope.vals]
        outs = [v for v in produced[len(keep) :] if self.r.random() < 0.5][-8:] or produced[-1:]
        if self.r.random() < 0.1:
            outs.append(self.r.choice(keep))
        seen, final = (set(), [])
        for v in outs:
            if v.name not in seen:
                seen.add(v.name)
                final.append(v)
        graph = helper.make_graph(
            scope.nodes,
            "g",
            [helper.make_tensor_value_info(v.name, DTYPES[v.dt][0], dims[v.name]) for v in keep],
            [self.info(v.name, v.dt, v.rank) for v in final],
            scope.inits,
        )
        m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        feeds = []
        for _ in range(3):
            N, M = (self.r.randint(1, 5), self.r.randint(1, 4))

            def arr(v):
                s = [{"N": N, "M": M}.get(d, d) for d in dims[v.name]]
                rs = np.random.RandomState(self.r.randrange(2**31))
                if v.dt == "f":
                    return np.asarray(rs.randint(-8, 9, s) / 4, np.float32)
                if v.dt == "i":
                    return np.asarray(rs.randint(-3, 6, s), np.int64)
                return np.asarray(rs.randint(0, 2, s), np.bool_)

            feeds.append({v.name: arr(v) for v in keep})
        return (m, feeds)


def generate(seed):
    """A model and several sets of inputs."""
    return Generator(seed).model()
