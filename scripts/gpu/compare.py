#!/usr/bin/env python3
"""Compares the f32 tensors (.npy) of two folders: compare.py EXPECTED GOT --tolerance T. Needs nothing but Python.

A tensor passes when no element differs by more than T times one plus its size.
"""
import argparse
import array
import ast
import pathlib
import sys


def read(path):
    data = path.read_bytes()
    length = int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10 : 10 + length].decode())
    if header["descr"] != "<f4" or header["fortran_order"]:
        sys.exit(f"{path}: not a tensor of f32 in row-major order")
    values = array.array("f")
    values.frombytes(data[10 + length :])
    return header["shape"], values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("expected", type=pathlib.Path)
    parser.add_argument("got", type=pathlib.Path)
    parser.add_argument("--tolerance", type=float, required=True)
    args = parser.parse_args()
    files = sorted(args.expected.glob("*.npy"))
    if not files:
        sys.exit(f"{args.expected}: no tensors")
    failed = False
    for file in files:
        shape, expected = read(file)
        got_shape, got = read(args.got / file.name)
        worst = max((abs(a - b) / (1 + abs(a)) for a, b in zip(expected, got)), default=0.0)
        # A comparison with NaN is false, so this one fails.
        same = shape == got_shape and len(expected) == len(got) and all(
            abs(a - b) <= args.tolerance * (1 + abs(a)) for a, b in zip(expected, got)
        )
        failed |= not same
        print(f"{args.got / file.name} {shape}: {'ok' if same else 'WRONG'}, largest difference {worst:.2e}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
