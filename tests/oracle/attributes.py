#!/usr/bin/env python3
"""Walks every attribute, optional input and optional output of every operator that reef loads.

The lists come from the schemas of the onnx package, in all their versions since operator set 7; what to set them to
comes from `recipes.py`. For each one a model of a single node goes through `reef run` and through ONNX Runtime (the
onnx package's own evaluator where ONNX Runtime has no kernel). The answers must agree, or reef must refuse the model
by a message that names operator and attribute. Nothing may be ignored: a value that is not the default has to change
the reference's answer, or its recipe says why it does not. An operator that loads and has no recipe, and an attribute
without a value in it, are failures. Exit status 1 where there is one.
"""

import argparse
import collections
import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import oracle
from recipes import RECIPES, Const, Recipe, Value

# Known faults, to be emptied: (operator, attribute, input or output) -> what is wrong.
KNOWN = {}

# Operators without a recipe, whose attributes others walk: ONNX's node tests (`onnx_nodes.py`), or, where ONNX Runtime
# alone has them, the models of `real_models.py`.
ELSEWHERE = {"CastLike", "SimplifiedLayerNormalization"}

# Where ONNX Runtime departs from the standard, by operator and label: why, and the attributes by which it is told to
# do the standard's (None: that are taken away).
DEVIATES = {
    r"(Average|Max|Lp)Pool .*ceil_mode=1.* auto_pad=VALID": (
        "the standard's extent with VALID is ceil((in - kernel + 1) / stride) in both modes; it adds an element",
        {"ceil_mode": None}),
    r"(Average|Max|Lp)Pool .*auto_pad=SAME_UPPER dilations=\[2, 2\]": (
        "SAME keeps ceil(in / stride) elements; it leaves the dilation out of the padding",
        {"auto_pad": None, "pads": [2, 2, 2, 2]}),
}

# What the importer honours.
LIST = oracle.ROOT / "crates" / "reef-onnx" / "src" / "register" / "operators.txt"
# What ends ONNX Runtime's process instead of being refused: reef has to refuse it.
CRASHES = re.compile(r"BatchNormalization output (mean|var|saved_\w+)")
# The same of what reef computes: the reference is asked with constants.
CRASHES_AS_INPUT = re.compile(r"DFT axis")
# No model of one node has their operands or results, which are sequences or optional values: `programs.py` has models
# with each of them and all their attributes.
IN_PROGRAMS = ["ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt",
               "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap",
               "SplitToSequence"]
# What ONNX Runtime says of what it does not do although it is valid.
NOT_DONE = r"NOT_IMPLEMENTED|Unrecognized attribute|only \*guarantees\* support|No Op registered|layout == 1|layout_ == 0|Dilation not supported"
OLDEST = 7
NEWEST = 26  # of what ONNX Runtime runs; later schemas are walked at their own version
OPTION = defs.OpSchema.FormalParameterOption
# What tract calls an operator of its own, or takes from another domain: in ONNX's domain there is none of this name.
NAMESAKES = ["BiasGelu", "ConstantLike", "FastGelu", "GatherBlockQuantized", "LinearRegressor", "MatMulNBits",
             "ParametricSoftplus", "QuickGelu", "Rsqrt", "ScaledTanh", "SimplifiedLayerNormalization",
             "SkipLayerNormalization"]


@dataclass
class Trial:
    """One model, and what it shows."""

    operator: str
    subject: str  # attribute, input, output, or "-" for the operator alone
    label: str
    opset: int
    model: onnx.ModelProto
    feeds: dict
    judge: str = "close"
    without: onnx.ModelProto | None = None  # the same without the attribute: the answer must be another
    plain: onnx.ModelProto | None = None  # another way to write the same, for the reference
    form: int = 0  # the oldest operator set with the same form
    names: tuple = ()  # of everything that is not as in the operator alone
    recipe: int = 0  # whose trial it is
    result: str = ""  # same, refused, FAILED
    why: str = ""


class Builder:
    """Makes the trials of one operator at one operator set."""

    def __init__(self, schema, opset, recipe, form=0):
        self.schema, self.opset, self.recipe, self.form = schema, opset, recipe, form

    def trial(self, subject, label, attrs=None, inputs=None, outputs=None, compare=False):
        own = attrs or {}
        attrs = {key: value for key, value in {**self.recipe.base, **own}.items() if value is not None}
        chosen = dict(enumerate(self.recipe.inputs))
        chosen.update(inputs or {})
        arguments = [chosen.get(index) for index in range(max(chosen, default=-1) + 1)]
        names = outputs or self.outputs(self.recipe.outputs)
        model = self.model(arguments, attrs, names)
        feeds = {f"x{index}": array for index, array in enumerate(arguments) if isinstance(array, np.ndarray)}
        trial = Trial(self.schema.name, subject, label, self.opset, model, {**feeds, **self.recipe.free},
                      self.recipe.judge, form=self.form)
        parameters = [self.schema.inputs[index].name for index in inputs or {} if index < len(self.schema.inputs)]
        trial.names, trial.recipe = (subject, *own, *parameters), id(self.recipe)
        if compare:
            rest = {key: value for key, value in attrs.items() if key != subject}
            if subject in self.recipe.base and self.recipe.base[subject] is not None:
                rest[subject] = self.recipe.base[subject]
            elif self.schema.name == "Constant":
                rest["value"] = self.recipe.base["value"]
            trial.without = self.model(arguments, rest, names)
        return trial

    def outputs(self, count):
        return [f"y{index}" for index in range(count)]

    def model(self, arguments, attrs, outputs):
        names = ["" if argument is None else f"x{index}" for index, argument in enumerate(arguments)]
        while names and not names[-1] and not self.keep_empty:
            names.pop()
        node = onnx.NodeProto(op_type=self.schema.name, name="node", input=names, output=outputs)
        node.attribute.extend(self.attribute(key, value) for key, value in attrs.items())
        inputs, constants = [], []
        for name, argument in [*zip(names, arguments), *self.recipe.free.items()]:
            if isinstance(argument, Const):
                constants.append(numpy_helper.from_array(argument.array, name))
            elif argument is not None:
                kind = helper.np_dtype_to_tensor_dtype(argument.dtype)
                inputs.append(helper.make_tensor_value_info(name, kind, argument.shape))
        results = [onnx.ValueInfoProto(name=name) for name in outputs if name]
        graph = helper.make_graph([node], "walk", inputs, results, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    keep_empty = False

    def attribute(self, name, value):
        kind = self.schema.attributes[name].type if name in self.schema.attributes else None
        value = float(value) if kind == defs.OpSchema.AttrType.FLOAT else value
        return helper.make_attribute(name, value, attr_type=int(kind.value) if kind and value == [] else None)

    def all(self):
        yield self.trial("-", "alone")
        yield from self.defaults()
        for name in self.schema.attributes:
            yield from self.attribute_trials(name)
        for index, parameter in enumerate(self.schema.inputs):
            if parameter.option == OPTION.Optional:
                yield from self.input_trials(index, parameter.name)
        yield from self.output_trials()

    def defaults(self):
        """Every default said aloud."""
        attrs = {}
        for name, attribute in self.schema.attributes.items():
            if attribute.default_value.type and name not in self.recipe.base:
                attrs[name] = helper.get_attribute_value(attribute.default_value)
        if attrs:
            yield self.trial("-", "defaults written out", attrs)

    def attribute_trials(self, name):
        values = self.recipe.values.get(name)
        if values is None:
            yield self.without_recipe(name)
            return
        for value in values if isinstance(values, list) else []:
            value = value if isinstance(value, Value) else Value(value)
            if value.opsets[0] <= self.opset <= value.opsets[1] and set(value.attrs) <= set(self.schema.attributes):
                outputs = value.outputs and self.outputs(value.outputs)
                label = f"{name}={brief(value.value)}" + "".join(f" {k}={brief(v)}" for k, v in value.attrs.items())
                trial = self.trial(name, label, {**value.attrs, name: value.value}, value.inputs, outputs,
                                   compare=not value.same)
                trial.judge = value.judge or trial.judge
                yield trial

    def input_trials(self, index, name):
        given = self.recipe.optional.get(index)
        if index < len(self.recipe.inputs) and self.recipe.inputs[index] is not None and given is None:
            return  # the recipe's own: some input of several has to be given
        if given is None:
            yield self.without_recipe(name)
            return
        alone = not isinstance(given, tuple)
        given, others = (given, {}) if alone else given
        array = given.array if isinstance(given, Const) else given
        for form, value in (("constant", Const(array)), ("input", array)):
            trial = self.trial(name, f"{name} as {form}", inputs={**others, index: value})
            rest = {**others, index: None}
            if alone:
                trial.without = self.trial(name, "", inputs=rest).model
            if form == "input" and CRASHES_AS_INPUT.match(f"{self.schema.name} {name}"):
                trial.plain = self.trial(name, "", inputs={**others, index: Const(array)}).model
            yield trial
        if index >= len(self.recipe.inputs):
            self.keep_empty = True
            trial = self.trial(name, f"{name} left empty", inputs={index: None})
            self.keep_empty = False
            trial.plain = self.trial(name, "").model
            yield trial

    def output_trials(self):
        optional = [index for index, output in enumerate(self.schema.outputs) if output.option == OPTION.Optional]
        for index in optional:
            name = self.schema.outputs[index].name
            required = [f"y{other}" if other not in optional else "" for other in range(index)]
            yield self.trial(name, f"output {name}", outputs=[*required, f"y{index}"])
            if index + 1 < len(self.schema.outputs):
                empty = ["" for _ in range(index + 1, len(self.schema.outputs))]
                yield self.trial(name, f"output {name}, later ones empty", outputs=[*required, f"y{index}", *empty])

    def without_recipe(self, name):
        trial = self.trial(name, name)
        trial.result, trial.why = "FAILED", f"no recipe says what to set {name} to"
        return trial


def brief(value):
    if isinstance(value, onnx.TensorProto):
        return helper.tensor_dtype_to_np_dtype(value.data_type).name
    if isinstance(value, onnx.GraphProto):
        return value.node[0].op_type
    return "sparse" if isinstance(value, onnx.SparseTensorProto) else value


def walk(wanted):
    """All trials, and the operators that no recipe is for."""
    trials, bare = [], []
    for operator, versions in schemas().items():
        if wanted and operator not in wanted:
            continue
        if operator in IN_PROGRAMS:
            continue
        if operator not in RECIPES:
            bare.append(probe(versions[-1]))
            continue
        for first, last, schema in forms(versions):
            fit = [recipe for recipe in RECIPES[operator] if recipe.since[0] <= schema.since_version <= recipe.since[1]]
            for opset in sorted({first, last}):
                for recipe in fit:
                    trials += Builder(schema, opset, recipe, first).all()
                if not fit:
                    trials.append(Trial(operator, "-", "alone", opset, None, {}, result="FAILED",
                                        why=f"no recipe for version {schema.since_version}"))
    return trials, bare + [namesake(name) for name in NAMESAKES if not wanted or name in wanted]


def forms(versions):
    """Ranges of operator sets in which attributes, inputs and outputs are the same: first, last, schema."""
    ranges = []
    for number, schema in enumerate(versions):
        first = max(OLDEST, schema.since_version)
        last = versions[number + 1].since_version - 1 if number + 1 < len(versions) else max(first, NEWEST)
        if last < OLDEST or schema.deprecated and schema.name in ("Scatter", "Upsample"):
            continue
        if ranges and form(ranges[-1][2]) == form(schema):
            ranges[-1] = (ranges[-1][0], last, schema)
        else:
            ranges.append((first, last, schema))
    return [(first, max(first, min(last, NEWEST)), schema) for first, last, schema in ranges]


def form(schema):
    attributes = [(name, attribute.default_value.SerializeToString(), attribute.required)
                  for name, attribute in sorted(schema.attributes.items())]
    parameters = [[parameter.option for parameter in side] for side in (schema.inputs, schema.outputs)]
    return attributes, parameters, schema.deprecated


def schemas():
    found = collections.defaultdict(list)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            found[schema.name].append(schema)
    return {name: sorted(found[name], key=lambda schema: schema.since_version) for name in sorted(found)}


def listed():
    """The importer's list: operator -> [(since, inputs, outputs, attributes)], without what is not honoured."""
    found = collections.defaultdict(list)
    for line in LIST.read_text().splitlines():
        if line.startswith(" "):
            found[operator][-1][3].update(attribute.split("{")[0].split(":", 1) for attribute in line.split())
            continue
        head, rest = line.split(": ", 1)
        operator, since = head.split()
        sides = [side.replace("!", "").split() for side in rest.split("-> ")]
        found[operator].append((int(since), *sides, {}))
    return found


def list_faults():
    """Where the importer's list says something else than the schemas."""
    for operator, forms_listed in listed().items():
        for schema in schemas().get(operator, []):
            fit = [form for form in forms_listed if form[0] <= schema.since_version]
            if not fit or schema.since_version < OLDEST and schema.since_version != fit[-1][0]:
                continue
            _, inputs, outputs, attributes = fit[-1]
            said = [[spelled(parameter) for parameter in side] for side in (schema.inputs, schema.outputs)]
            counts = [[name[-1] if name[-1] in "?*" else "" for name in side] for side in (*said, inputs, outputs)]
            if counts[:2] != counts[2:]:
                yield f"{operator} {schema.since_version}: {said}, in the list {[inputs, outputs]}"
            if set(attributes) != set(schema.attributes):
                yield f"{operator} {schema.since_version}: {sorted(schema.attributes)}, in the list {sorted(attributes)}"
            for name, attribute in schema.attributes.items():
                kind, required, default = re.match(r"(\w+)(\?|=?)(.*)", attributes.get(name, "none")).groups()
                value = helper.get_attribute_value(attribute.default_value) if attribute.default_value.type else None
                want = "" if attribute.required else "?" if value is None else "="
                if kind != attribute.type.name.lower() or required != want or not same_value(default, value):
                    yield f"{operator} {schema.since_version}: {name} is {attribute.type.name} {value!r}"


def spelled(parameter):
    return parameter.name + {OPTION.Single: "", OPTION.Optional: "?", OPTION.Variadic: "*"}[parameter.option]


def same_value(text, value):
    if isinstance(value, float):
        return np.float32(text) == np.float32(value)
    if isinstance(value, list):
        return text == ",".join(part.decode() if isinstance(part, bytes) else str(part) for part in value)
    return text == ("" if value is None else value.decode() if isinstance(value, bytes) else str(value))


def probe(schema):
    """Some node of the operator: whether reef knows the name at all."""
    required = sum(parameter.option != OPTION.Optional for parameter in schema.inputs)
    recipe = Recipe([np.ones((2, 3), np.float32)] * required)
    return Builder(schema, min(NEWEST, max(schema.since_version, 17)), recipe).trial("-", "known")


def namesake(name):
    class Nothing:
        attributes, inputs, outputs = {}, [], []
    Nothing.name = name
    return Builder(Nothing, 17, Recipe([np.ones((2, 3), np.float32)])).trial("-", "known")


class Judge:
    """Runs trials."""

    def __init__(self, reef, work):
        self.reef, self.work, self.number = reef, work, 0
        self.deviations = set()
        self.options = ort.SessionOptions()
        self.options.log_severity_level = 4
        self.options.intra_op_num_threads = 1

    def reference(self, model, feeds, form):
        """The answers by name, or why there is none."""
        names = [output.name for output in model.graph.output]
        for opset in dict.fromkeys([model.opset_import[0].version, form]):
            older = onnx.ModelProto()
            older.CopyFrom(model)
            older.opset_import[0].version = opset
            try:
                session = ort.InferenceSession(older.SerializeToString(), self.options,
                                               providers=["CPUExecutionProvider"])
                return dict(zip(names, session.run(names, feeds)))
            except Exception as error:  # every failure of it has the same consequence
                why = str(error)
                if not re.search(NOT_DONE, why):
                    return first_line(error)
        try:
            return dict(zip(names, ReferenceEvaluator(model).run(names, feeds)))
        except Exception as error:
            return first_line(error)

    def prepare(self, trial):
        """The reference's answer, declared as the model's outputs; None where the trial is judged already."""
        if trial.result:
            return None
        if CRASHES.match(f"{trial.operator} {trial.label}"):
            declare_unknown(trial.model)
            return "it crashes"
        want = self.wanted(trial)
        if isinstance(want, str):
            return want
        for output in trial.model.graph.output:
            array = np.asarray(want[output.name])
            texts = array.dtype.kind in "OUS"
            kind = onnx.TensorProto.STRING if texts else helper.np_dtype_to_tensor_dtype(array.dtype)
            output.CopyFrom(helper.make_tensor_value_info(output.name, kind, array.shape))
        if trial.without is not None:
            feeds = {input.name: trial.feeds[input.name] for input in trial.without.graph.input}
            other = self.reference(trial.without, feeds, trial.form)
            if not isinstance(other, str) and not difference(other, want, trial.judge):
                trial.result, trial.why = "FAILED", "the reference gives the same without it: the recipe shows nothing"
                return None
        return want

    def wanted(self, trial):
        for pattern, (_, changes) in DEVIATES.items():
            if re.match(pattern, f"{trial.operator} {trial.label}"):
                self.deviations.add(pattern)
                plain = onnx.ModelProto()
                plain.CopyFrom(trial.model)
                kept = [one for one in plain.graph.node[0].attribute if one.name not in changes]
                del plain.graph.node[0].attribute[:]
                plain.graph.node[0].attribute.extend(kept)
                plain.graph.node[0].attribute.extend(
                    helper.make_attribute(name, value) for name, value in changes.items() if value is not None)
                return self.reference(plain, trial.feeds, trial.form)
        model = trial.plain or trial.model
        feeds = {input.name: trial.feeds[input.name] for input in model.graph.input}
        return self.reference(model, feeds, trial.form)

    def run_reef(self, trial, number):
        folder = self.work / str(number)
        (folder / "out").mkdir(parents=True)
        onnx.save(trial.model, folder / "model.onnx")
        command = [self.reef, "run", folder / "model.onnx", "--json", "--cus", "1", "--output-dir", folder / "out"]
        for name, array in trial.feeds.items():
            np.save(folder / f"{name}.npy", array)
            command += ["--input", f"{name}={folder / name}.npy"]
        try:
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return "no answer within 60 s"
        if done.returncode:
            return (done.stderr + done.stdout).strip() or f"exit status {done.returncode}"
        files = json.loads(done.stdout)["outputs"]
        return {name: np.load(folder / "out" / file) for name, file in files.items()}

    def judge(self, trial, want, number):
        got = self.run_reef(trial, number)
        if isinstance(got, str):
            named = re.search(r'"node"|\bnode node\b', first_line(got))
            trial.result, trial.why = ("refused" if named else "FAILED"), first_line(got)
            if "panicked" in got or "internal failure" in got:
                trial.result = "FAILED"
        elif isinstance(want, str):
            trial.result, trial.why = "FAILED", f"reef computes what the reference refuses: {want}"
        else:
            trial.why = difference(got, want, trial.judge)
            trial.result = "FAILED" if trial.why else "same"


def declare_unknown(model):
    """Gives the outputs of a model that no reference runs the type and the rank of its first input."""
    first = model.graph.input[0].type.tensor_type
    for output in model.graph.output:
        dims = [f"{output.name}_{axis}" for axis in range(len(first.shape.dim))]
        output.CopyFrom(helper.make_tensor_value_info(output.name, first.elem_type, dims))


def first_line(error):
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:600]


def difference(got, want, judge):
    """What tells two answers apart; empty where nothing does."""
    for name, wanted in want.items():
        a, b = np.asarray(got.get(name)), oracle.held(np.asarray(wanted))
        same = a.dtype.kind == "U" if b.dtype.kind == "U" else a.dtype == b.dtype
        if not same or a.shape != b.shape:
            return f"{name} is {a.dtype}{list(a.shape)}, expected {b.dtype}{list(b.shape)}"
        if judge == "shape" or not a.size:
            continue
        if b.dtype.kind not in "fc" and judge != "sorted":
            if not np.array_equal(a, b):
                return f"{name}: {np.count_nonzero(a != b)} of {a.size} differ: {a.ravel()[:6]}, expected {b.ravel()[:6]}"
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        if judge == "sorted":
            a, b = np.sort(a), np.sort(b)
        if judge == "moments":
            spread = b.std()
            if abs(a.mean() - b.mean()) > 8 * spread / np.sqrt(a.size) or abs(a.std() - spread) > 0.1 * spread:
                return f"{name}: mean {a.mean():.3g}, deviation {a.std():.3g}, expected {b.mean():.3g}, {spread:.3g}"
            continue
        finite = np.isfinite(b)
        limit = (2e-3 if wanted.dtype == np.float16 else 2e-5) * max(1.0, np.abs(b[finite]).max(initial=0.0))
        same = np.where(finite, np.abs(a - np.where(finite, b, a)) <= limit, (a == b) | (np.isnan(a) & np.isnan(b)))
        if not same.all():
            return f"{name}: {np.count_nonzero(~same)} of {a.size} differ: {a.ravel()[:6]}, expected {b.ravel()[:6]}"
    return ""


def run_all(args, work):
    trials, bare = walk(args.operators)
    judge = Judge(args.reef, work)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        pending = []
        for trial in trials:
            want = judge.prepare(trial)
            if not trial.result:
                pending.append(pool.submit(judge.judge, trial, want, len(pending)))
        pending += [pool.submit(known, judge, trial, f"bare{number}") for number, trial in enumerate(bare)]
        for future in pending:
            future.result()
    return trials, bare, judge.deviations


def known(judge, trial, number):
    if trial.operator in ELSEWHERE:
        trial.result = "elsewhere"
        return
    got = judge.run_reef(trial, number)
    if isinstance(got, str) and re.search(r"\(\w+\): (this operator|operators of the domain)", got):
        trial.result = "refused"
    else:
        trial.result, trial.why = "FAILED", f"it loads and has no recipe: {first_line(got) if isinstance(got, str) else ''}"


def settle(trials):
    """The base of a recipe decides whether it loads; what is refused beside it must be refused by its name."""
    loads = {(t.operator, t.opset, t.recipe) for t in trials if t.result != "refused" and t.subject == "-"}
    for trial in trials:
        if trial.result == "refused" and trial.subject != "-" and (trial.operator, trial.opset, trial.recipe) in loads:
            constant = trial.label.endswith("as input") and re.search(r"const", trial.why)
            named = any(re.search(rf"\b{re.escape(name)}\b", trial.why) for name in trial.names)
            if not constant and not named:
                trial.result, trial.why = "unnamed", trial.why
    return loads


def report(args, trials, bare, deviations):
    loads = settle(trials)
    operators = collections.defaultdict(lambda: collections.defaultdict(set))
    for trial in trials:
        operators[trial.operator][trial.result].add(trial.subject)
    counts = collections.Counter(trial.result for trial in trials)
    failed = [t for t in trials + bare if t.result in ("FAILED", "unnamed")]
    fresh = [t for t in failed if (t.operator, t.subject) not in KNOWN]
    for trial in trials if args.verbose else failed:
        print(f"{trial.result:8} {trial.operator} {trial.opset} {trial.label}: {trial.why}")
    loading = {operator for operator, _, _ in loads}
    print(f"\n{len(trials)} models: {dict(counts)}; {len(bare)} operators are not known to reef")
    refused = sorted(set(operators) - loading)
    print(f"{len(loading)} operators load; refused altogether: {', '.join(refused) or 'none'}")
    stale = sorted(set(KNOWN) - {(t.operator, t.subject) for t in failed}) if not args.operators else []
    for operator, subject in stale:
        print(f"no longer a fault, remove it from the list: {operator} {subject}")
    faults = [] if args.operators else list(list_faults())
    faults += [] if args.operators else [f"no trial is {pattern}" for pattern in DEVIATES.keys() - deviations]
    for fault in faults:
        print(f"{LIST.name}: {fault}")
    return 1 if fresh or stale or faults else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--operators", type=oracle.names, default=[], help="only these")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--verbose", action="store_true", help="what passed, too")
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reef-walk-") as work:
        trials, bare, deviations = run_all(args, pathlib.Path(work))
    status = report(args, trials, bare, deviations)
    print(f"{time.monotonic() - start:.0f} s")
    sys.exit(status)


if __name__ == "__main__":
    main()
