#!/usr/bin/env python3
"""Compares `reef run` with ONNX Runtime on the benchmark models, or on any ONNX file.

Random inputs from a seed go through both; every output must agree in type and shape, within the stated relative l2
error, and within the stated element error. Exit status 1 where one does not.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np

import oracle


def main():
    args = parse_args()
    try:
        results = compare_all(args)
    except oracle.OracleError as error:
        sys.exit(f"compare: {error}")
    if args.json:
        print(json.dumps({"max_rel_l2": args.max_rel_l2, "max_element": args.max_element, "results": results}, indent=2))
    else:
        show(args, results)
    sys.exit(0 if results and all(result["ok"] for result in results) else 1)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--models", type=oracle.names, default=[], help="names that `reef zoo` knows; all by default")
    parser.add_argument("--onnx", type=pathlib.Path, nargs="+", help="these files instead of models of the zoo")
    parser.add_argument("--tiny", action="store_true", help="the small variants")
    parser.add_argument("--dynamic", action="store_true", help="the variants with symbolic dimensions")
    parser.add_argument("--batches", type=oracle.numbers, default=[1, 3], help="values for a symbolic batch")
    parser.add_argument("--lengths", type=oracle.numbers, default=[5, 16], help="values for other symbols")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-rel-l2", type=float, default=oracle.MAX_REL_L2)
    parser.add_argument("--max-element", type=float, default=oracle.MAX_ELEMENT,
                        help="largest |a-b|, relative to max(1, largest |b|)")
    parser.add_argument("--work-dir", type=pathlib.Path, help="keep models and tensors here")
    parser.add_argument("--json", action="store_true", help="write the results as JSON")
    return parser.parse_args()


def compare_all(args):
    with tempfile.TemporaryDirectory(prefix="reef-oracle-") as temporary:
        work = args.work_dir or pathlib.Path(temporary)
        files = args.onnx or oracle.write_zoo(args.reef, work / "zoo", args.models, args.tiny, args.dynamic)
        results = []
        for path in files:
            reference = oracle.Reference(path)
            for number, case in enumerate(reference.cases(args.batches, args.lengths)):
                results += compare_case(args, reference, case, work / "tensors" / reference.name / str(number))
        return results


def compare_case(args, reference, case, folder):
    """One model at one shape: a result per output."""
    feeds = reference.feeds(case, args.seed)
    want = reference.run(feeds)
    base = {"model": reference.name, "case": case.label}
    try:
        got = run_reef(args.reef, reference, feeds, folder)
    except oracle.OracleError as error:
        return [{**base, "output": "-", "ok": False, "why": str(error)}]
    return [{**base, **judge(args, output.name, got, want[output.name])} for output in reference.outputs]


def run_reef(reef, reference, feeds, folder, timeout_s=1800, more=()):
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    command = [str(reef), "run", str(reference.path), "--json", "--output-dir", str(out), *more]
    for index, (name, array) in enumerate(feeds.items()):
        file = folder / f"input{index}.npy"
        np.save(file, array)
        command += ["--input", f"{name}={file}"]
    # Output names may hold characters that file names may not: the answer says which output is in which file.
    files = json.loads(oracle.run(command, timeout_s))["outputs"]
    return {name: np.load(out / file) for name, file in files.items()}


def judge(args, name, got, want):
    if name not in got:
        return {"output": name, "ok": False, "why": f"`reef run` wrote no {name}, only {sorted(got)}"}
    if not np.isfinite(want).all():
        return {"output": name, "ok": False, "why": "the reference itself is not finite"}
    rel_l2, element = oracle.compare(got[name], want)
    ok = oracle.within(rel_l2, element, want, (args.max_rel_l2, args.max_element))
    result = {"output": name, "shape": list(want.shape), "rel_l2": rel_l2, "max_element_error": element, "ok": ok,
              "max_abs": float(np.abs(want).max()) if want.size else 0.0}
    if got[name].shape != want.shape or got[name].dtype != want.dtype:
        result["why"] = f"{got[name].dtype}{list(got[name].shape)}, expected {want.dtype}{list(want.shape)}"
    elif not np.isfinite(got[name]).all():
        result["why"] = f"{np.count_nonzero(~np.isfinite(got[name]))} elements are not finite"
    return result


def show(args, results):
    print(f"limits: relative l2 {args.max_rel_l2:g}, element {args.max_element:g} x max(1, largest |b|)\n")
    rows = []
    for result in results:
        measured = "rel_l2" in result
        rows.append([
            result["model"], result["case"], result["output"], "x".join(map(str, result.get("shape", []))) or "-",
            f"{result['rel_l2']:.2e}" if measured else "-", f"{result['max_element_error']:.2e}" if measured else "-",
            f"{result['max_abs']:.3g}" if measured else "-", "ok" if result["ok"] else "FAILED",
        ])
    oracle.print_table(["model", "shape", "output", "dims", "rel l2", "max |a-b|", "max |b|", ""], rows)
    for result in results:
        if not result["ok"]:
            print(f"\n{result['model']} {result['case']} {result['output']}: {result.get('why', 'beyond the limits')}")


if __name__ == "__main__":
    main()
