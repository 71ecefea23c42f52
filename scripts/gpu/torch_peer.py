#!/usr/bin/env python3
"""PyTorch beside reef on the same ONNX files: latency alone, and a peer of `reef bench disb`.

  torch_peer.py latency MODEL.onnx... --inputs DIR --expected DIR --out FILE
  reef bench disb --peer 'python3 torch_peer.py peer'

A file's operators are run by PyTorch's, one by one, with the weights of the file. Where PyTorch or its GPU is
missing, `latency` says so in a line that begins with SKIPPED, and succeeds. `--device cpu` is for tests of this file.

Latency counts from the inputs in the host's pinned memory to the outputs there. Modes:

  eager          operator by operator
  channels_last  the same with images' channels last in memory
  graph          all of it as one CUDA graph, with channels last for images
  graph-tf32     the same with TF32, which PyTorch may use where it is allowed to: less exact
  compile        torch.compile, only if it is asked for: it takes long

In each mode but the fourth, TF32 is off: products and sums are of f32, as reef's are with `--precision f32`. What
`--out` has already is not measured again.
"""

import argparse
import json
import os
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "peers"))

import compare  # noqa: E402
import onnx_file  # noqa: E402

try:
    import torch
except ImportError:
    torch = None

MODES = ["eager", "channels_last", "graph", "graph-tf32"]
WARM_UPS = 5


def missing(device):
    """Why there is nothing to measure, if there is."""
    if torch is None:
        return "PyTorch is not installed"
    if device == "cuda" and not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no CUDA device"
    return None


def torch_types():
    return {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}


def pads_of(attributes, rank):
    """The padding at the begin and at the end of every axis."""
    pads = attributes.get("pads") or [0] * 2 * rank
    return pads[:rank], pads[rank:]


def padded(x, attributes, rank, value=0.0):
    """The input, and the padding that its operator is to do itself; PyTorch's pad both sides alike."""
    begin, end = pads_of(attributes, rank)
    if begin == end:
        return x, begin
    both = [pad for pair in reversed(list(zip(begin, end))) for pad in pair]
    return torch.nn.functional.pad(x, both, value=value), [0] * rank


def conv(x, weight, bias=None, *, attributes):
    rank = weight.dim() - 2
    x, pads = padded(x, attributes, rank)
    function = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d}[rank]
    strides, dilations = attributes.get("strides") or 1, attributes.get("dilations") or 1
    return function(x, weight, bias, strides, pads, dilations, attributes.get("group", 1))


def max_pool(x, *, attributes):
    x, pads = padded(x, attributes, 2, float("-inf"))
    kernel, strides = attributes["kernel_shape"], attributes.get("strides") or 1
    return torch.nn.functional.max_pool2d(x, kernel, strides, pads, ceil_mode=bool(attributes.get("ceil_mode")))


def average_pool(x, *, attributes):
    begin, end = pads_of(attributes, 2)
    if begin != end:
        raise onnx_file.OnnxError("AveragePool with unequal padding")
    kernel, strides = attributes["kernel_shape"], attributes.get("strides") or 1
    count = bool(attributes.get("count_include_pad"))
    ceil = bool(attributes.get("ceil_mode"))
    return torch.nn.functional.avg_pool2d(x, kernel, strides, begin, ceil, count)


def gemm(a, b, c=None, *, attributes):
    a = a.t() if attributes.get("transA") else a
    b = b.t() if attributes.get("transB") else b
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    return alpha * (a @ b) if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)


def batch_norm(x, scale, shift, mean, variance, *, attributes):
    epsilon = attributes.get("epsilon", 1e-5)
    return torch.nn.functional.batch_norm(x, mean, variance, scale, shift, False, 0.0, epsilon)


def layer_norm(x, scale, shift=None, *, attributes):
    axis = attributes.get("axis", -1) % x.dim()
    return torch.nn.functional.layer_norm(x, x.shape[axis:], scale, shift, attributes.get("epsilon", 1e-5))


def gather(x, indices, *, attributes):
    axis = attributes.get("axis", 0) % x.dim()
    return torch.index_select(x, axis, indices.reshape(-1)).reshape(
        x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def reshape(x, shape, *, attributes):
    if attributes.get("allowzero"):
        raise onnx_file.OnnxError("Reshape with allowzero")
    return x.reshape([x.shape[axis] if extent == 0 else extent for axis, extent in enumerate(shape)])


def unsqueeze(x, axes, *, attributes):
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def flatten(x, *, attributes):
    axis = attributes.get("axis", 1)
    rows = 1
    for extent in x.shape[:axis]:
        rows *= extent
    return x.reshape(rows, -1)


# Operators: tensors in, a tensor out. Of those in CONSTANT, inputs after the first are lists of numbers.
OPERATORS = {
    "Add": lambda a, b, attributes: a + b,
    "Sub": lambda a, b, attributes: a - b,
    "Mul": lambda a, b, attributes: a * b,
    "Div": lambda a, b, attributes: a / b,
    "Relu": lambda x, attributes: torch.relu(x),
    "Tanh": lambda x, attributes: torch.tanh(x),
    "Erf": lambda x, attributes: torch.erf(x),
    "Softmax": lambda x, attributes: torch.softmax(x, attributes.get("axis", -1)),
    "MatMul": lambda a, b, attributes: torch.matmul(a, b),
    "Transpose": lambda x, attributes: x.permute(attributes["perm"]),
    "Concat": lambda *xs, attributes: torch.cat(xs, attributes["axis"]),
    "Cast": lambda x, attributes: x.to(torch_types()[attributes["to"]]),
    "GlobalAveragePool": lambda x, attributes: x.mean(dim=tuple(range(2, x.dim())), keepdim=True),
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Conv": conv,
    "Flatten": flatten,
    "Gather": gather,
    "Gemm": gemm,
    "LayerNormalization": layer_norm,
    "MaxPool": max_pool,
    "Reshape": reshape,
    "Unsqueeze": unsqueeze,
}
CONSTANT = {"Reshape", "Unsqueeze"}


def tensor_of(tensor):
    """A tensor of the file, copied."""
    dtype = torch_types()[tensor.dtype]
    if len(tensor.data) == 0:
        return torch.empty(tensor.shape, dtype=dtype)
    return torch.frombuffer(bytearray(tensor.data), dtype=dtype).reshape(tensor.shape)


def network(path):
    """A module of the file's graph."""

    class Network(torch.nn.Module):
        def __init__(self, graph):
            super().__init__()
            self.inputs = graph.inputs
            self.outputs = [name for name, _, _ in graph.outputs]
            self.steps, places = [], {}
            for node in graph.nodes:
                if node.op not in OPERATORS or len(node.outputs) != 1:
                    raise onnx_file.OnnxError(f"operator {node.op} of {len(node.outputs)} outputs")
                arguments = []
                for index, name in enumerate(node.inputs):
                    tensor = graph.tensors.get(name)
                    if index > 0 and node.op in CONSTANT:
                        if tensor is None:
                            raise onnx_file.OnnxError(f"{node.op} {node.name} by a value that is computed")
                        arguments.append((None, tensor_of(tensor).tolist()))
                    elif tensor is not None:
                        if name not in places:
                            places[name] = f"weight{len(places)}"
                            self.register_buffer(places[name], tensor_of(tensor))
                        arguments.append((places[name], None))
                    else:
                        arguments.append((name, None) if name else (None, None))
                self.steps.append((OPERATORS[node.op], arguments, node.outputs[0], node.attributes))
            self.weights = list(places.values())
            # What is used no more is dropped after its last step.
            last = {}
            for step, (_, arguments, _, _) in enumerate(self.steps):
                last.update({name: step for name, _ in arguments if name})
            kept = set(self.weights) | set(self.outputs)
            self.ends = [[name for name in last if last[name] == step and name not in kept]
                         for step in range(len(self.steps))]

        def forward(self, *inputs):
            values = {name: value for (name, _, _), value in zip(self.inputs, inputs)}
            values.update((name, getattr(self, name)) for name in self.weights)
            for (function, arguments, output, attributes), ends in zip(self.steps, self.ends):
                given = [constant if name is None else values[name] for name, constant in arguments]
                values[output] = function(*given, attributes=attributes)
                for name in ends:
                    del values[name]
            return tuple(values[name] for name in self.outputs)

    return Network(onnx_file.read(path)).eval()


def inputs_from(module, folder):
    """The inputs as tensors: from a folder of .npy files, or random ones without."""
    torch.manual_seed(1)
    found = []
    for name, dtype, shape in module.inputs:
        if folder is not None:
            data = (folder / f"{name}.npy").read_bytes()
            begin = 10 + int.from_bytes(data[8:10], "little")
            found.append(torch.frombuffer(bytearray(data[begin:]), dtype=torch_types()[dtype]).reshape(shape))
        elif dtype == 1:
            found.append(torch.randn(shape))
        else:
            found.append(torch.ones(shape, dtype=torch_types()[dtype]))
    return found


def allow_tf32(on):
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
    # Tries the ways to compute a convolution, and takes the fastest.
    torch.backends.cudnn.benchmark = True


class Session:
    """A network that is asked again and again with the same buffers. `run` has ONNX Runtime's form."""

    def __init__(self, module, inputs, device, mode="eager", priority=0):
        self.device = device
        cuda = device == "cuda"
        images = mode != "eager" and any(value.dim() == 4 for value in inputs)
        layout = torch.channels_last if images else torch.preserve_format
        self.module = module.to(device=device, memory_format=layout)
        if mode == "compile":
            self.module = torch.compile(self.module)
        self.here = [value.pin_memory() if cuda else value for value in inputs]
        there = [value.to(device) for value in inputs]
        self.there = [
            value.contiguous(memory_format=layout) if images and value.dim() == 4 else value for value in there]
        self.stream = torch.cuda.Stream(priority=priority) if cuda else None
        self.graph = None
        if cuda:
            # Weights and inputs are there before another stream uses them.
            torch.cuda.synchronize()
        self.compute()
        # Pinned room for what comes out.
        self.back = [torch.empty(value.shape, dtype=value.dtype, pin_memory=cuda) for value in self.results]
        if mode.startswith("graph"):
            self.capture()
        for _ in range(WARM_UPS):
            self.run()

    def compute(self):
        with torch.inference_mode():
            if self.stream is None:
                self.results = self.module(*self.there)
                return
            with torch.cuda.stream(self.stream):
                self.results = self.module(*self.there)

    def capture(self):
        if self.stream is None:
            return
        for _ in range(3):
            self.compute()
        self.stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self.graph, stream=self.stream):
            self.results = self.module(*self.there)

    def run(self, _outputs=None, _feeds=None):
        """The outputs, in the host's memory, when they are there."""
        if self.stream is None:
            self.compute()
            return [there.clone() for there in self.results]
        with torch.cuda.stream(self.stream), torch.inference_mode():
            for there, here in zip(self.there, self.here):
                there.copy_(here, non_blocking=True)
            if self.graph is not None:
                self.graph.replay()
            else:
                self.results = self.module(*self.there)
            for back, there in zip(self.back, self.results):
                back.copy_(there, non_blocking=True)
        self.stream.synchronize()
        return self.back


def measure(session, seconds, count_max):
    taken = []
    until = time.monotonic() + seconds
    while not taken or (time.monotonic() < until and len(taken) < count_max):
        begin = time.monotonic_ns()
        session.run()
        taken.append(time.monotonic_ns() - begin)
    taken.sort()
    at = lambda share: taken[round((len(taken) - 1) * share)]  # noqa: E731
    return {"min": at(0), "p50": at(0.5), "p99": at(0.99), "max": at(1), "count": len(taken)}


def difference(session, outputs, expected):
    """The largest difference to the expected outputs, over their largest value."""
    worst, largest = 0.0, 0.0
    for name, output in zip(outputs, session.run()):
        shape, values = compare.read(expected / f"{name}.npy")
        wanted = torch.tensor(values).reshape(shape)
        if tuple(output.shape) != tuple(shape):
            return float("inf")
        worst = max(worst, float((output - wanted).abs().max()))
        largest = max(largest, float(wanted.abs().max()))
    return worst / largest if largest else worst


def latency(args):
    if (why := missing(args.device)) is not None:
        print(f"SKIPPED: {why}", flush=True)
        return 0
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    before = {}
    if args.out is not None and args.out.exists():
        lines = [json.loads(line) for line in args.out.read_text().splitlines()]
        before = {(line["model"], line["mode"]): line.get("difference", 0.0) for line in lines}
    # NaN is no number that is small.
    is_wrong = lambda off, mode: not off <= args.tolerance and mode != "graph-tf32"  # noqa: E731
    failed = any(is_wrong(off, mode) for (_, mode), off in before.items())
    for path in args.models:
        path = path.with_suffix(".onnx")
        name = path.stem
        inputs_folder = args.inputs / name if args.inputs else None
        for mode in args.modes:
            if args.device == "cpu" and mode.startswith("graph"):
                print(f"SKIPPED: {name}, {mode}: there are no CUDA graphs on the CPU", flush=True)
                continue
            if (name, mode) in before:
                continue
            allow_tf32(mode == "graph-tf32")
            module = network(path)
            outputs = module.outputs
            session = Session(module, inputs_from(module, inputs_folder), args.device, mode)
            result = {"model": name, "mode": mode, "torch": torch.__version__, "device": device}
            result["latency_ns"] = measure(session, args.seconds, args.repeat)
            if args.expected is not None:
                off = difference(session, outputs, args.expected / name)
                result["difference"] = off
                failed |= is_wrong(off, mode)
            line = json.dumps(result)
            print(line, flush=True)
            if args.out is not None:
                with open(args.out, "a") as file:
                    file.write(line + "\n")
            del session, module
            if args.device == "cuda":
                torch.cuda.empty_cache()
    if failed:
        print(f"WRONG: outputs differ by more than {args.tolerance} of their largest", flush=True)
    return int(failed)


def probe(args):
    """Says what there is."""
    why = missing(args.device)
    print(f"SKIPPED: {why}" if why else f"PyTorch {torch.__version__}", flush=True)
    return 0


class Peer:
    """The adapter's side of DISB's protocol: see scripts/peers/README.md. All models are CUDA graphs."""

    def __init__(self, ort, device):
        self.ort, self.device = ort, device
        self.paths, self.sessions = {}, {}
        self.conditions = {
            "rt-only": "real-time models as CUDA graphs, first come, first served",
            "priority queue": "one graph at a time, real-time requests overtake best-effort ones that wait",
            "priority streams": "real-time graphs on a stream of high priority, best-effort ones on one of low",
        }

    def hello(self, request):
        if request["protocol"] != self.ort.PROTOCOL:
            raise self.ort.PeerError(f"only version {self.ort.PROTOCOL} of the protocol is known here")
        if (why := missing(self.device)) is not None:
            raise self.ort.PeerError(why)
        # As reef serves.
        allow_tf32(True)
        conditions = [{"name": name, "title": title, "best_effort": name != "rt-only"}
                      for name, title in self.conditions.items()]
        return {"name": "PyTorch", "version": torch.__version__, "conditions": conditions}

    def load(self, request):
        self.paths.update((model["name"], pathlib.Path(model["path"])) for model in request["models"])
        for model in request["models"]:
            self.session(model["name"], model["real_time"])
        return {}

    def session(self, name, real_time):
        """A model for one class: its stream has the class's priority."""
        if (name, real_time) not in self.sessions:
            if name not in self.paths:
                raise self.ort.PeerError(f"model {name} has not been loaded")
            module = network(self.paths[name])
            inputs, priority = inputs_from(module, None), -5 if real_time else 0
            self.sessions[name, real_time] = Session(module, inputs, self.device, "graph", priority)
        return self.sessions[name, real_time]

    def play(self, request):
        run, name = request["run"], request["condition"]
        groups = [list(range(len(run["clients"])))]
        urgent = [client["class"] == "real-time" for client in run["clients"]]
        if name == "rt-only":
            groups = [[index for index in groups[0] if urgent[index]]]
        elif name == "priority streams":
            groups = [[index for index in groups[0] if urgent[index] == which] for which in (True, False)]
        players = [(self.player(run, indices), indices) for indices in groups if indices]
        start = time.monotonic_ns() + self.ort.LEAD_NS
        cpu = time.process_time_ns()
        played = [{"due_ns": [], "sent_ns": [], "done_ns": []}] * len(run["clients"])

        def play(player, indices):
            for index, columns in zip(indices, player.play(start)["clients"]):
                played[index] = columns

        threads = [threading.Thread(target=play, args=one) for one in players]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with open("/proc/self/statm") as statm:
            memory = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return {"clients": played, "cpu_ns": time.process_time_ns() - cpu, "memory_bytes": memory}

    def player(self, run, indices):
        clients = self.ort.part_of(run["clients"], indices)
        models = {}
        for client in clients:
            session = self.session(client["model"], client["class"] == "real-time")
            models[client["model"]] = (session, None)
        return self.ort.Player(models, {**run, "clients": clients})


def peer(args):
    import ort

    lines = ort.Lines()
    serving = Peer(ort, args.device)
    lines.serve({"hello": serving.hello, "load": serving.load, "play": serving.play})
    return 0


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parts = parser.add_subparsers(required=True)
    alone = parts.add_parser("latency")
    alone.set_defaults(run=latency)
    alone.add_argument("models", type=pathlib.Path, nargs="+")
    alone.add_argument("--inputs", type=pathlib.Path, help="folders NAME of a model with its inputs as .npy")
    alone.add_argument("--expected", type=pathlib.Path, help="folders NAME of a model with its outputs as .npy")
    alone.add_argument("--tolerance", type=float, default=1e-3, help="of the largest value of an output")
    alone.add_argument("--modes", nargs="+", default=MODES, choices=[*MODES, "compile"])
    alone.add_argument("--seconds", type=float, default=2.0, help="of each model and mode")
    alone.add_argument("--repeat", type=int, default=200, help="runs at most")
    alone.add_argument("--out", type=pathlib.Path, help="a line of JSON for each result is added to this file")
    there = parts.add_parser("probe")
    there.set_defaults(run=probe)
    both = parts.add_parser("peer")
    both.set_defaults(run=peer)
    args = parser.parse_args()
    sys.exit(args.run(args))


if __name__ == "__main__":
    main()
