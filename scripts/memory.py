#!/usr/bin/env python3
"""What a server's memory holds, beside the files of its models.

  scripts/memory.py resnet152                   a model of the zoo
  scripts/memory.py FILE.onnx --copies 12       a file, served under twelve names
  scripts/memory.py ... --reef OLD              the same of another build, for a comparison

Serves the models, waits until all are loaded, and prints from /proc what is there: anonymous memory (RssAnon: weights,
arenas, heap, stacks), what of it there was at most while they were loaded (looked at every millisecond, and the system's
own mark of all memory, VmHWM, which has the program's text as well), and where it lies. A server with the smallest model
of the zoo alone is measured first: what is there with any model. Files of external data count as part of a model.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ZOO = ["resnet152", "resnet18", "densenet201", "vgg19", "inceptionv3", "distilbert", "control"]


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="reef-memory-", dir=args.tmp) as scratch:
        scratch = pathlib.Path(scratch)
        base = measure(args, folder(args, scratch / "base", ["control"], 1, ["--tiny"]))
        found = folder(args, scratch / "models", args.models, args.copies, [])
        file_bytes = sum(path.stat().st_size for path in found.iterdir())
        full = measure(args, found)
    result = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.release()}",
              "models": args.models, "copies": args.copies, "units": args.units, "file_bytes": file_bytes,
              "base": base, "loaded": full}
    if args.json:
        print(json.dumps(result, indent=2))
        return
    mb = lambda count: f"{count / 1e6:8.1f} MB"
    of = lambda count: f"{mb(count)}  {count / file_bytes:5.2f} x the files"
    print(f"{result['machine']}; {args.units} units; {', '.join(map(str, args.models))}"
          + (f", {args.copies} copies" if args.copies > 1 else ""))
    print(f"files                         {mb(file_bytes)}")
    print(f"anonymous memory, loaded      {of(full['anon'])}")
    print(f"the same, at most             {of(full['anon_max'])}")
    print(f"all memory, at most (VmHWM)   {of(full['hwm'])}")
    print(f"with the smallest model alone {mb(base['anon'])}")
    print("where it lies: " + ", ".join(f"{name} {count / 1e6:.1f} MB" for name, count in full["where"].items()))
    print(f"loaded in {full['loaded_s']:.2f} s")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="files, or names of the zoo")
    parser.add_argument("--copies", type=int, default=1, help="serve each so often, under names of their own")
    parser.add_argument("--units", type=int, default=2, help="compute units of the device")
    parser.add_argument("--reef", type=pathlib.Path, default=ROOT / "target/release/reef")
    parser.add_argument("--tmp", help="where models are written")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def folder(args, path, models, copies, options):
    """A folder with so many copies of each model."""
    path.mkdir()
    for model in models:
        name = str(model)
        if name in ZOO:
            subprocess.run([args.reef, "zoo", "--out", path, "--model", name, *options], check=True, capture_output=True)
            source = path / f"{name}.onnx"
        else:
            source = path / pathlib.Path(name).name
            shutil.copyfile(name, source)
        for copy in range(1, copies):
            # Links: the files are what is large on the disk as well.
            os.link(source, path / f"{source.stem}-{copy}.onnx")
    return path


def measure(args, models):
    began = time.monotonic()
    server = subprocess.Popen([args.reef, "serve", models, "--cus", str(args.units), "--http-port", "0",
                               "--metrics-port", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    loaded, seen = threading.Event(), [0]

    def look():
        while not loaded.is_set():
            seen[0] = max(seen[0], status(server.pid)["RssAnon"])
            time.sleep(0.001)

    watch = threading.Thread(target=look)
    watch.start()
    try:
        log = []
        for line in server.stderr:
            log.append(line)
            if " serving " in line:
                break
        else:
            raise SystemExit("the server ended: " + "".join(log))
        took = time.monotonic() - began
        loaded.set()
        watch.join()
        now = status(server.pid)
        return {"anon": now["RssAnon"], "anon_max": max(seen[0], now["RssAnon"]), "hwm": now["VmHWM"],
                "where": where(server.pid), "loaded_s": took}
    finally:
        loaded.set()
        server.terminate()
        server.wait()


def status(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {name: int(found.get(name, "0 kB").split()[0]) << 10 for name in ("RssAnon", "VmHWM")}


def where(pid):
    """Anonymous bytes by what the mapping is; those without a name by size."""
    found, name = {}, ""
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = re.match(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)$", line)
        if head:
            size = int(head[2], 16) - int(head[1], 16)
            unnamed = "mapped, 1 MiB and more" if size >= 1 << 20 else "mapped, less"
            name = {"[heap]": "heap", "[stack]": "stack"}.get(head[3], "files" if head[3] else unnamed)
        elif line.startswith("Anonymous:"):
            found[name] = found.get(name, 0) + (int(line.split()[1]) << 10)
    return {name: count for name, count in sorted(found.items(), key=lambda item: -item[1]) if count >= 100_000}


if __name__ == "__main__":
    main()
