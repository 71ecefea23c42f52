#!/usr/bin/env python3
"""Plants faults in the code, one at a time, and says which test catches each.

  scripts/mutants.py                      all of scripts/mutants.txt
  scripts/mutants.py --only board         those whose name or file has "board" in it (a regular expression)
  scripts/mutants.py --check              only whether every fault still fits the code; builds nothing

Works in a copy of the tracked files (--scratch) with a build folder of its own, so the checkout stays as it is. For
every mutant it replaces one text, builds and runs the test suites that should notice, the fastest first, and stops at
the first that fails; a suite that does not end counts as failing. Results are kept in the scratch folder and used
again by the next run with --resume, unless the mutant has changed. --out writes the table.

Exit status: 0 if all mutants that are not listed as equal are caught.
"""

import argparse
import concurrent.futures
import datetime
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIST = ROOT / "scripts" / "mutants.txt"

# Fast to build: without optimisation, but for what loom spends its time in. Debug assertions are on.
DEV = ["--config", "profile.dev.opt-level=0", "--config", "profile.dev.debug=0"]
LOOM = DEV + [arg for crate in ("loom", "generator") for arg in ("--config", f"profile.dev.package.{crate}.opt-level=3")]


def cargo(*args, env=None):
    return {"args": list(args), "env": env or {}}


# Name: the arguments of cargo test, and what follows `--`.
SUITES = {
    "cpu": [cargo(*DEV, "-p", "reef-cpu", "--lib", "--", "--skip", "kernels::")],
    "cpu-kernels": [cargo(*DEV, "-p", "reef-cpu", "--lib", "kernels::")],
    "cpu-device": [cargo(*DEV, "-p", "reef-cpu", "--test", "faults", "--test", "hosting", "--test", "conformance",
                         "--test", "units")],
    "loom": [cargo(*LOOM, "-p", "reef-cpu", "--lib", "loom",
                   env={"RUSTFLAGS": "--cfg loom", "LOOM_MAX_PREEMPTIONS": "2"})],
    "client": [cargo(*DEV, "-p", "reef-client", "--lib")],
    "client-loom": [cargo(*LOOM, "-p", "reef-client", "--lib", "loom",
                          env={"RUSTFLAGS": "--cfg loom", "LOOM_MAX_PREEMPTIONS": "2"})],
    "server": [cargo("--release", "-p", "reef-server", "--lib", "--test", "e2e")],
    "device": [cargo(*DEV, "-p", "reef-device", "--lib")],
    "plan": [cargo(*DEV, "-p", "reef-plan")],
    "program": [cargo(*DEV, "-p", "reef-program")],
    "compile": [cargo("--release", "-p", "reef-compile", "--test", "random")],
    # Its properties play seconds of traffic.
    "sched": [cargo("--config", "profile.dev.opt-level=2", "--config", "profile.dev.debug=0", "-p", "reef-sched")],
    # With tract: in release, as everything else builds it.
    "engine": [cargo("--release", "-p", "reef-engine")],
    "engine-time": [cargo("--release", "-p", "reef-engine", "--test", "clock", "--test", "pool")],
    "system": [cargo("--release", "-p", "reef-engine", "--test", "system")],
    "onnx": [cargo("--release", "-p", "reef-onnx")],
    "cuda": [cargo("-p", "reef-cuda", "--lib")],
}


class Mutant:
    def __init__(self, name):
        self.name, self.file, self.suites, self.why, self.equal = name, "", [], "", ""
        self.old, self.new = [], []

    def texts(self):
        return "\n".join(self.old), "\n".join(self.new)

    def key(self):
        return hashlib.sha256(json.dumps([self.file, self.old, self.new, self.suites]).encode()).hexdigest()[:16]


def read_list(path):
    """Blocks of lines `FIELD VALUE`; `old` and `new` may be repeated, and keep what is behind their `|`."""
    mutants = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        field, _, value = line.partition(" ")
        if field == "mutant":
            mutants.append(Mutant(value.strip()))
        elif not mutants:
            sys.exit(f"{path}:{number}: a field before the first mutant")
        elif field in ("old", "new"):
            getattr(mutants[-1], field).append(value.lstrip(" ").removeprefix("|"))
        elif field == "test":
            mutants[-1].suites = value.split()
        elif field in ("file", "why", "equal"):
            setattr(mutants[-1], field, value.strip())
        else:
            sys.exit(f"{path}:{number}: no field '{field}'")
    return mutants


def misfits(mutants, root):
    """What is wrong with the list, as the code is."""
    names = set()
    for mutant in mutants:
        old, new = mutant.texts()
        file = root / mutant.file
        if mutant.name in names:
            yield f"{mutant.name}: listed twice"
        names.add(mutant.name)
        unknown = [suite for suite in mutant.suites if suite not in SUITES]
        if unknown or not mutant.suites:
            yield f"{mutant.name}: test must name suites of {', '.join(SUITES)}"
        if not file.is_file():
            yield f"{mutant.name}: there is no {mutant.file}"
        elif not old or old == new:
            yield f"{mutant.name}: it changes nothing"
        elif file.read_text().count(old) != 1:
            yield f"{mutant.name}: its text is {file.read_text().count(old)} times in {mutant.file}"


class Workshop:
    """A copy of the sources to break, with its build folder."""

    def __init__(self, folder, targets, timeout):
        self.folder, self.targets, self.timeout = folder, targets, timeout

    def refresh(self):
        """Makes the copy equal to the checkout; files that are equal keep their times, so little is built."""
        tracked = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                                 check=True, capture_output=True).stdout.decode().split("\0")
        for name in filter(None, tracked):
            source, copy = ROOT / name, self.folder / name
            if not source.is_file():
                copy.unlink(missing_ok=True)
            elif not copy.is_file() or copy.read_bytes() != source.read_bytes():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
                shutil.copymode(source, copy)

    def judge(self, mutant):
        old, new = mutant.texts()
        file = self.folder / mutant.file
        whole = file.read_text()
        file.write_text(whole.replace(old, new))
        try:
            return self.run(mutant.suites)
        finally:
            file.write_text(whole)

    def run(self, suites):
        """The first suite that notices, and how."""
        for suite in suites:
            for command in SUITES[suite]:
                verdict = self.run_one(suite, command)
                if verdict:
                    return {"suite": suite, **verdict}
        return {"suite": "", "how": "survived"}

    def run_one(self, suite, command):
        args, rest = command["args"], []
        if "--" in args:
            args, rest = args[:args.index("--")], args[args.index("--"):]
        kind = "loom" if suite == "loom" else "main"
        env = {**os.environ, "CARGO_INCREMENTAL": "1", "CARGO_TARGET_DIR": str(self.targets / kind),
               "RUST_BACKTRACE": "0", **command["env"]}
        code, output = self.spawn(["cargo", "test", "--no-run", *args], env, None)
        if code != 0:
            return {"how": "does not build", "test": first_error(output)}
        code, output = self.spawn(["cargo", "test", *args, *rest], env, self.timeout)
        if code is None:
            running = re.findall(r"^test (\S+) has been running for over", output, re.M)
            return {"how": "caught", "test": (running or ["the suite"])[-1] + " does not end"}
        if code != 0:
            failed = re.findall(r"^test (\S+)(?: - .*)? \.\.\. FAILED", output, re.M)
            crashed = re.findall(r"process didn't exit successfully.*\((signal: [^)]*)\)", output)
            return {"how": "caught", "test": (failed or crashed or ["the suite fails"])[0]}
        return None

    def spawn(self, args, env, timeout):
        """Exit status and output; the status is None when it took too long."""
        process = subprocess.Popen(args, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        try:
            output, _ = process.communicate(timeout=timeout)
            return process.returncode, output.decode(errors="replace")
        except subprocess.TimeoutExpired:
            # The session is ours alone: cargo and the test that hangs.
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return None, output.decode(errors="replace")


def first_error(output):
    found = re.search(r"^error.*", output, re.M)
    return found.group(0) if found else "the build fails"


def main():
    args = parse_args()
    mutants = read_list(LIST)
    wrong = list(misfits(mutants, ROOT))
    if wrong:
        sys.exit("\n".join(wrong))
    chosen = [mutant for mutant in mutants if re.search(args.only, f"{mutant.name} {mutant.file}")]
    if args.suites:
        chosen = [mutant for mutant in chosen if set(mutant.suites) <= set(args.suites)]
    if args.check:
        print(f"{len(mutants)} mutants fit the code")
        return
    results = run_all(chosen, args)
    if args.out:
        write_table(args.out, mutants, results)
    report(chosen, results)
    missed = [m.name for m in chosen if results.get(m.name, {}).get("how") != "caught" and not m.equal]
    sys.exit(1 if missed else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="names or files to choose")
    parser.add_argument("--suites", nargs="+", choices=SUITES, help="only mutants that need no other suites")
    parser.add_argument("--check", action="store_true", help="compare the list with the code, nothing else")
    parser.add_argument("--jobs", type=int, default=1, help="copies that work side by side")
    parser.add_argument("--resume", action="store_true", help="keep the results of the last run")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one suite, its build not counted")
    parser.add_argument("--budget", type=float, help="seconds after which no further mutant is begun")
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "target" / "mutants")
    parser.add_argument("--out", type=pathlib.Path, help="file for the table, such as docs/results/DATE/mutants.md")
    return parser.parse_args()


def run_all(mutants, args):
    """Results by name; appended to a file as they come."""
    log = args.scratch / "results.jsonl"
    args.scratch.mkdir(parents=True, exist_ok=True)
    keys = {mutant.name: mutant.key() for mutant in read_list(LIST)}
    results = {}
    if args.resume and log.is_file():
        for line in log.read_text().splitlines():
            result = json.loads(line)
            if keys.get(result["name"]) == result["key"]:
                results[result["name"]] = result
    else:
        log.unlink(missing_ok=True)
    todo = [mutant for mutant in mutants if mutant.name not in results]
    start, lock = time.monotonic(), threading.Lock()
    shops = [Workshop(args.scratch / f"copy{job}", args.scratch / f"target{job}", args.timeout)
             for job in range(args.jobs)]

    def work(shop):
        shop.refresh()
        healthy = set()
        while True:
            with lock:
                if not todo or args.budget and time.monotonic() - start > args.budget:
                    return
                mutant = todo.pop(0)
            for suite in set(mutant.suites) - healthy:
                # A suite that fails without a mutant would catch all of them.
                verdict = shop.run([suite])
                if verdict["how"] != "survived":
                    raise SystemExit(f"{suite} fails on the code as it is: {verdict}")
                healthy.add(suite)
            begin = time.monotonic()
            verdict = shop.judge(mutant)
            verdict.update(name=mutant.name, key=mutant.key(), seconds=round(time.monotonic() - begin, 1))
            with lock:
                results[mutant.name] = verdict
                with log.open("a") as file:
                    file.write(json.dumps(verdict) + "\n")
                print(f"{mutant.name}: {verdict['how']} {verdict.get('test', '')} ({verdict['seconds']} s)", flush=True)

    with concurrent.futures.ThreadPoolExecutor(len(shops)) as pool:
        for done in [pool.submit(work, shop) for shop in shops]:
            done.result()
    return results


def report(chosen, results):
    how = [results.get(mutant.name, {}).get("how", "not run") for mutant in chosen]
    print(", ".join(f"{how.count(kind)} {kind}" for kind in sorted(set(how))))


def write_table(out, mutants, results):
    """Caught, survived and not run, with what the list says of survivors."""
    ran = [mutant for mutant in mutants if mutant.name in results]
    caught = sum(results[mutant.name]["how"] == "caught" for mutant in ran)
    lines = [
        "# Mutants",
        "",
        f"{len(mutants)} in the list, {len(ran)} run, {caught} of them caught "
        f"({caught / max(len(ran), 1):.0%}), {datetime.date.today()}. Repeat: `scripts/mutants.py`; the list with the "
        "reason for each is [scripts/mutants.txt](../../../scripts/mutants.txt). Who survived has the reason beside it, "
        "what was not run the suites that should notice.",
        "",
        "| mutant | file | result | by |",
        "|---|---|---|---|",
    ]
    for mutant in mutants:
        result = results.get(mutant.name, {"how": "not run"})
        by = result.get("test", "") if result["how"] == "caught" else mutant.equal or ", ".join(mutant.suites)
        lines.append(f"| {mutant.name} | `{mutant.file.removeprefix('crates/')}` | {result['how']} | {by} |")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
