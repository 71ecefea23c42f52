#!/usr/bin/env python3
"""Reads what the zoo's ONNX files hold, with nothing but Python; and makes inputs: onnx_file.py inputs MODEL DIR.

Field numbers are those of ONNX's `onnx.proto`. Tensors are read where their bytes lie (`raw_data`); other fields
for a tensor's data, and subgraphs, are refused. Inputs are written as `NAME.npy`: f32 is normal with variance 1 and
seeded, integers are ones; their names and files are printed, one `NAME=FILE` a line.
"""

import argparse
import array
import mmap
import pathlib
import random
import struct
from dataclasses import dataclass, field

# Element types: NumPy's code, and the code of Python's arrays.
TYPES = {1: ("<f4", "f"), 6: ("<i4", "i"), 7: ("<i8", "q"), 9: ("|b1", "b"), 11: ("<f8", "d")}


class OnnxError(Exception):
    """What these files are not expected to hold."""


@dataclass
class Tensor:
    name: str
    # ONNX's number.
    dtype: int
    shape: list
    # Little-endian, row-major.
    data: memoryview


@dataclass
class Node:
    op: str
    name: str
    inputs: list
    outputs: list
    attributes: dict = field(default_factory=dict)


@dataclass
class Graph:
    nodes: list = field(default_factory=list)
    # By name.
    tensors: dict = field(default_factory=dict)
    # (name, dtype, shape), without the names of tensors.
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)


def varint(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def signed(value):
    return value - (1 << 64) if value >= 1 << 63 else value


def fields(data):
    """(number, value) of a message: whole numbers, bytes as memoryviews, f32 as floats."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        elif wire == 5:
            (value,), at = struct.unpack("<f", data[at : at + 4]), at + 4
        elif wire == 1:
            (value,), at = struct.unpack("<d", data[at : at + 8]), at + 8
        else:
            raise OnnxError(f"a field of wire type {wire}")
        yield number, value


def numbers(value):
    """A repeated whole number: packed or alone."""
    if isinstance(value, int):
        return [signed(value)]
    found, at = [], 0
    while at < len(value):
        one, at = varint(value, at)
        found.append(signed(one))
    return found


def text(value):
    return bytes(value).decode()


def tensor_of(data):
    shape, dtype, name, raw = [], 0, "", memoryview(b"")
    for number, value in fields(data):
        if number == 1:
            shape += numbers(value)
        elif number == 2:
            dtype = value
        elif number == 8:
            name = text(value)
        elif number == 9:
            raw = value
        elif number in (4, 5, 6, 7, 10, 11, 13, 14):
            raise OnnxError("a tensor whose data are not in raw_data")
    if dtype not in TYPES:
        raise OnnxError(f"tensor {name} is of element type {dtype}")
    return Tensor(name, dtype, shape, raw)


def attribute_of(data):
    name, value = "", None
    lists = {7: [], 8: []}
    for number, found in fields(data):
        if number == 1:
            name = text(found)
        elif number == 2:
            value = found
        elif number == 3:
            value = signed(found)
        elif number == 4:
            value = text(found)
        elif number == 5:
            value = tensor_of(found)
        elif number == 7:
            wide = isinstance(found, float)
            lists[7] += [found] if wide else list(struct.unpack(f"<{len(found) // 4}f", found))
        elif number == 8:
            lists[8] += numbers(found)
        elif number == 6:
            raise OnnxError(f"attribute {name} is a graph")
    for one in lists.values():
        value = one if value is None and one else value
    return name, value


def node_of(data):
    node = Node("", "", [], [])
    for number, value in fields(data):
        if number == 1:
            node.inputs.append(text(value))
        elif number == 2:
            node.outputs.append(text(value))
        elif number == 3:
            node.name = text(value)
        elif number == 4:
            node.op = text(value)
        elif number == 5:
            name, value = attribute_of(value)
            node.attributes[name] = value
    return node


def only(data, wanted):
    """The last field of this number."""
    found = [value for number, value in fields(data) if number == wanted]
    return found[-1] if found else b""


def value_of(data):
    """(name, dtype, shape) of a ValueInfoProto; symbolic extents are None."""
    tensor = only(only(data, 2), 1)
    shape = []
    for number, dim in fields(only(tensor, 2)):
        if number == 1:
            shape.append(next((signed(value) for number, value in fields(dim) if number == 1), None))
    return text(only(data, 1)), next((value for number, value in fields(tensor) if number == 1), 0), shape


def read(path):
    """The graph of a file, whose tensors stay in the file."""
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    graph = Graph()
    for number, value in fields(only(data, 7)):
        if number == 1:
            graph.nodes.append(node_of(value))
        elif number == 5:
            tensor = tensor_of(value)
            graph.tensors[tensor.name] = tensor
        elif number == 11:
            graph.inputs.append(value_of(value))
        elif number == 12:
            graph.outputs.append(value_of(value))
    graph.inputs = [value for value in graph.inputs if value[0] not in graph.tensors]
    return graph


def npy(descr, shape, data):
    extents = "".join(f"{extent}, " for extent in shape)
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def write_inputs(model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(1)
    for name, dtype, shape in read(model).inputs:
        if None in shape or dtype not in TYPES:
            raise OnnxError(f"input {name}: {dtype} {shape}")
        descr, code = TYPES[dtype]
        count = 1
        for extent in shape:
            count *= extent
        floats = code in "fd"
        values = array.array(code, (generator.gauss(0, 1) for _ in range(count)) if floats else [1] * count)
        file = folder / f"{name}.npy"
        file.write_bytes(npy(descr, shape, values.tobytes()))
        print(f"{name}={file}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["inputs"])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    write_inputs(args.model, args.folder)


if __name__ == "__main__":
    main()
