#!/usr/bin/env python3
"""Control flow, sequences, optional values, functions and shapes that depend on data: `reef run` beside ONNX Runtime.

The models stand in `program_models.py`, `program_values.py` and `program_data.py`, each with several inputs. Every
answer must agree within the tolerance of `compare.py`. What has to fail (loops without end, absurd shapes, wrong types)
must do so by a message, with exit status 1 and in bounded time; such a program counts only when its good inputs work.
REFUSED lists what reef does not run; it may only shrink. Exit status 1 where anything else is refused, where an entry
works, and where an answer is wrong, reef crashes or does not come to an end.
"""

import argparse
import collections
import concurrent.futures
import fnmatch
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort

import oracle
import program_models
from onnx_nodes import PANIC, reason

LIMIT_S = 60  # of a run; the longest loop has a thousand iterations
BAD_LIMIT_S = 30  # of a run that has to fail
BAD_MEMORY = 6 << 30  # bytes of its address space, so that a fault does not take the machine along
BAD_ARENAS_MIB = 1024

# Known faults, to be emptied: programs whose answer is wrong, and how.
KNOWN = {
    "if_constants_of_one_shape*": "where a branch's output is a constant, both branches give the first one's",
    "if_several_outputs": "where a branch's output is a constant, both branches give the first one's",
}

# Programs that reef refuses, and why.
REFUSED = {
    "if_shapes": "If: Unifying shapes N and N: Impossible to unify N with N.",
    "if_shapes_21": "If: Unifying shapes N and N: Impossible to unify N with N.",
    "if_shapes_13": "If: Unifying shapes N and N: Impossible to unify N with N.",
    "if_shapes_11": "If: Unifying shapes N and N: Impossible to unify N with N.",
    "if_shapes_used_after": "If: Unifying shapes N and N: Impossible to unify N with N.",
    "if_constants": "If: it needs c.shape == y.shape: Unifying shapes N and N, but N is not N",
    "if_without_nodes": "If: it needs y == N,F32 N, N, N: while setting y: Unifying shapes N and N, but N is not N",
    "if_without_nodes_21": "If: it needs y == N,F32 N, N, N: while setting y: Unifying shapes N and N, but N is not N",
    "if_without_nodes_13": "If: it needs y == N,F32 N, N, N: while setting y: Unifying shapes N and N, but N is not N",
    "if_without_nodes_11": "If: it needs y == N,F32 N, N, N: while setting y: Unifying shapes N and N, but N is not N",
    "if_twice": "If: Duplicate node name: If",
    "if_twice_21": "If: Duplicate node name: If",
    "if_twice_13": "If: Duplicate node name: If",
    "if_twice_11": "If: Duplicate node name: If",
    "if_nested_20": "not a valid ONNX model: graphs nested deeper than N",
    "if_network": "If: it needs g.shape[N] == N, but N is not N",
    "loop_fixed": "Loop: this operator is not known",
    "loop_fixed_21": "Loop: this operator is not known",
    "loop_fixed_13": "Loop: this operator is not known",
    "loop_fixed_11": "Loop: this operator is not known",
    "loop_count_input": "Loop: this operator is not known",
    "loop_count_input_21": "Loop: this operator is not known",
    "loop_count_input_13": "Loop: this operator is not known",
    "loop_count_input_11": "Loop: this operator is not known",
    "loop_count_of_rank_1": "Loop: this operator is not known",
    "loop_count_shape": "Loop: this operator is not known",
    "loop_count_shape_21": "Loop: this operator is not known",
    "loop_count_shape_13": "Loop: this operator is not known",
    "loop_count_shape_11": "Loop: this operator is not known",
    "loop_count_computed": "Loop: this operator is not known",
    "loop_count_computed_21": "Loop: this operator is not known",
    "loop_count_computed_13": "Loop: this operator is not known",
    "loop_count_computed_11": "Loop: this operator is not known",
    "loop_condition": "Loop: this operator is not known",
    "loop_condition_21": "Loop: this operator is not known",
    "loop_condition_13": "Loop: this operator is not known",
    "loop_condition_11": "Loop: this operator is not known",
    "loop_both": "Loop: this operator is not known",
    "loop_both_21": "Loop: this operator is not known",
    "loop_both_13": "Loop: this operator is not known",
    "loop_both_11": "Loop: this operator is not known",
    "loop_no_condition": "Loop: this operator is not known",
    "loop_no_condition_21": "Loop: this operator is not known",
    "loop_no_condition_13": "Loop: this operator is not known",
    "loop_no_condition_11": "Loop: this operator is not known",
    "loop_condition_false": "Loop: this operator is not known",
    "loop_condition_computed": "Loop: this operator is not known",
    "loop_scan_outputs": "Loop: this operator is not known",
    "loop_scan_outputs_21": "Loop: this operator is not known",
    "loop_scan_outputs_13": "Loop: this operator is not known",
    "loop_scan_outputs_11": "Loop: this operator is not known",
    "loop_scan_reduced": "Loop: this operator is not known",
    "loop_only_scan": "Loop: this operator is not known",
    "loop_only_scan_21": "Loop: this operator is not known",
    "loop_only_scan_13": "Loop: this operator is not known",
    "loop_only_scan_11": "Loop: this operator is not known",
    "loop_several_carried": "Loop: this operator is not known",
    "loop_swap": "Loop: this operator is not known",
    "loop_grow": "Loop: this operator is not known",
    "loop_grow_21": "Loop: this operator is not known",
    "loop_grow_13": "Loop: this operator is not known",
    "loop_grow_11": "Loop: this operator is not known",
    "loop_shrink": "Loop: this operator is not known",
    "loop_grow_from_nothing": "Loop: this operator is not known",
    "loop_in_loop": "Loop: this operator is not known",
    "loop_in_loop_21": "Loop: this operator is not known",
    "loop_in_loop_13": "Loop: this operator is not known",
    "loop_in_loop_11": "Loop: this operator is not known",
    "loop_in_loop_triangle": "Loop: this operator is not known",
    "if_in_loop": "Loop: this operator is not known",
    "if_in_loop_21": "Loop: this operator is not known",
    "if_in_loop_13": "Loop: this operator is not known",
    "if_in_loop_11": "Loop: this operator is not known",
    "loop_in_if": "Loop: this operator is not known",
    "loop_in_if_21": "Loop: this operator is not known",
    "loop_in_if_13": "Loop: this operator is not known",
    "loop_in_if_11": "Loop: this operator is not known",
    "loop_100": "Loop: this operator is not known",
    "loop_1000": "Loop: this operator is not known",
    "loop_1000_scanned": "Loop: this operator is not known",
    "loop_captures": "Loop: this operator is not known",
    "loop_captures_21": "Loop: this operator is not known",
    "loop_captures_13": "Loop: this operator is not known",
    "loop_captures_11": "Loop: this operator is not known",
    "loop_twice": "Loop: this operator is not known",
    "loop_break_on_data": "Loop: this operator is not known",
    "loop_break_on_data_21": "Loop: this operator is not known",
    "loop_break_on_data_13": "Loop: this operator is not known",
    "loop_break_on_data_11": "Loop: this operator is not known",
    "loop_network": "Loop: this operator is not known",
    "loop_constants": "Loop: this operator is not known",
    "scan": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_21": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_13": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_11": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_reversed_input": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_reversed_input_21": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_reversed_input_13": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_reversed_input_11": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_reversed_output": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_reversed_output_21": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_reversed_output_13": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_reversed_output_11": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_axes": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_axes_21": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_axes_13": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_axes_11": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_negative_axes": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_negative_axes_21": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_negative_axes_13": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_negative_axes_11": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_several": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_several_21": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_several_13": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_several_11": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_no_state": "Scan: it needs u.shape == N: Unifying shapes A and N, but Sym(A) is not N",
    "scan_300": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_captures": "Scan: Unifying shapes A and N: Impossible to unify Sym(A) with N.",
    "scan_lstm_cell": "Scan: Unifying shapes N,H and N,N: Impossible to unify Sym(H) with N.",
    "scan_lstm_cell_11": "Scan: Unifying shapes N,H and N,N: Impossible to unify Sym(H) with N.",
    "scan_in_loop": "Loop: this operator is not known",
    "scan_of_form_8": "Scan: of operator set N, it is not supported: N or a newer one is needed",
    "sequence_at": "SequenceConstruct: this operator is not known",
    "sequence_at_21": "SequenceConstruct: this operator is not known",
    "sequence_at_13": "SequenceConstruct: this operator is not known",
    "sequence_at_11": "SequenceConstruct: this operator is not known",
    "sequence_shapes": "SequenceConstruct: this operator is not known",
    "sequence_insert": "SequenceEmpty: this operator is not known",
    "sequence_insert_21": "SequenceEmpty: this operator is not known",
    "sequence_insert_13": "SequenceEmpty: this operator is not known",
    "sequence_insert_11": "SequenceEmpty: this operator is not known",
    "sequence_erase": "SequenceConstruct: this operator is not known",
    "sequence_erase_21": "SequenceConstruct: this operator is not known",
    "sequence_erase_13": "SequenceConstruct: this operator is not known",
    "sequence_erase_11": "SequenceConstruct: this operator is not known",
    "sequence_empty": "SequenceEmpty: this operator is not known",
    "split_to_sequence_keep_0": "SplitToSequence: this operator is not known",
    "split_to_sequence_keep_0_21": "SplitToSequence: this operator is not known",
    "split_to_sequence_keep_0_13": "SplitToSequence: this operator is not known",
    "split_to_sequence_keep_0_11": "SplitToSequence: this operator is not known",
    "split_to_sequence_keep_1": "SplitToSequence: this operator is not known",
    "split_to_sequence_keep_1_21": "SplitToSequence: this operator is not known",
    "split_to_sequence_keep_1_13": "SplitToSequence: this operator is not known",
    "split_to_sequence_keep_1_11": "SplitToSequence: this operator is not known",
    "split_to_sequence_scalar": "SplitToSequence: this operator is not known",
    "split_to_sequence_scalar_21": "SplitToSequence: this operator is not known",
    "split_to_sequence_scalar_13": "SplitToSequence: this operator is not known",
    "split_to_sequence_scalar_11": "SplitToSequence: this operator is not known",
    "split_to_sequence_sizes": "SplitToSequence: this operator is not known",
    "concat_from_sequence_0": "SequenceConstruct: this operator is not known",
    "concat_from_sequence_0_21": "SequenceConstruct: this operator is not known",
    "concat_from_sequence_0_13": "SequenceConstruct: this operator is not known",
    "concat_from_sequence_0_11": "SequenceConstruct: this operator is not known",
    "concat_from_sequence_1": "SequenceConstruct: this operator is not known",
    "concat_from_sequence_1_21": "SequenceConstruct: this operator is not known",
    "concat_from_sequence_1_13": "SequenceConstruct: this operator is not known",
    "concat_from_sequence_1_11": "SequenceConstruct: this operator is not known",
    "sequence_map": "SplitToSequence: this operator is not known",
    "sequence_in_loop": "SequenceConstruct: this operator is not known",
    "sequence_in_loop_13": "SequenceConstruct: this operator is not known",
    "sequence_read_in_loop": "SplitToSequence: this operator is not known",
    "sequence_read_in_loop_21": "SplitToSequence: this operator is not known",
    "sequence_read_in_loop_13": "SplitToSequence: this operator is not known",
    "sequence_read_in_loop_11": "SplitToSequence: this operator is not known",
    "sequence_in_if": "SequenceConstruct: this operator is not known",
    "sequence_in_if_13": "SequenceConstruct: this operator is not known",
    "sequence_grown_on_data": "SplitToSequence: this operator is not known",
    "optional_tensor": "Optional: this operator is not known",
    "optional_tensor_15": "Optional: this operator is not known",
    "optional_tensor_18": "Optional: this operator is not known",
    "optional_empty": "Optional: this operator is not known",
    "optional_empty_18": "Optional: this operator is not known",
    "optional_sequence": "SequenceConstruct: this operator is not known",
    "optional_in_if": "Optional: this operator is not known",
    "optional_of_a_tensor": "OptionalGetElement: this operator is not known",
    "function": "twice: functions of a model's own are not supported (domain `local`)",
    "function_13": "twice: functions of a model's own are not supported (domain `local`)",
    "function_nested": "outer: functions of a model's own are not supported (domain `local`)",
    "function_attribute": "leak: functions of a model's own are not supported (domain `local`)",
    "function_attribute_nested": "outer: functions of a model's own are not supported (domain `local`)",
    "function_with_if": "choose: functions of a model's own are not supported (domain `local`)",
    "function_with_loop": "repeat: functions of a model's own are not supported (domain `local`)",
    "function_in_loop": "Loop: this operator is not known",
    "function_several_outputs": "both: functions of a model's own are not supported (domain `local`)",
    "bad_endless_without_both": "Loop: this operator is not known",
    "bad_endless_condition": "Loop: this operator is not known",
    "bad_endless_count": "Loop: this operator is not known",
    "bad_growth": "Loop: this operator is not known",
    "bad_carried_type": "Loop: this operator is not known",
    "bad_function_in_itself": "one: functions of a model's own are not supported (domain `local`)",
    "bad_sequence_position": "SequenceConstruct: this operator is not known",
    "bad_optional_empty": "Optional: this operator is not known",
    "bad_shape": "ConstantOfShape: shape input is variable",
    "bad_expand": "Expand: shape input is variable, of variable length (output can not have variable rank)",
    "bad_reshape": "Reshape: shape input is variable",
    "bad_range": "Range: the shape of its output depends on data",
    "bad_tile": "Tile: shape input is variable",
    "bad_topk": "TopK: the shape of its output depends on data",
    "bad_split": "Split: Need splits to be a constant and explicit (constant integers)",
    "bad_pad": "Pad: input `pads` depends on data, which is not supported",
    "range_of_input": "Range: the shape of its output depends on data",
    "range_of_data": "Range: the shape of its output depends on data",
    "expand_of_input": "Expand: shape input is variable, of variable length (output can not have variable rank)",
    "expand_of_data": "Expand: shape input is variable, of variable length (output can not have variable rank)",
    "reshape_of_input": "Reshape: shape input is variable",
    "reshape_of_data": "Reshape: shape input is variable",
    "slice_of_input": "Slice: in output_facts invocation for y: StridedSlice: in output_facts invocation for adhoc.slice-axis-N-start: Slice: C",
    "slice_of_data": "Slice: in output_facts invocation for y: StridedSlice: in output_facts invocation for adhoc.slice-axis-N-start: Slice: C",
    "slice_all_of_input": "Slice: in output_facts invocation for y: StridedSlice: StridedSlice is typable only if stride is a const",
    "slice_all_of_data": "Slice: in output_facts invocation for y: StridedSlice: StridedSlice is typable only if stride is a const",
    "tile_of_input": "Tile: shape input is variable",
    "tile_of_data": "Tile: shape input is variable",
    "pad_of_input": "Pad: input `pads` depends on data, which is not supported",
    "pad_of_data": "Pad: input `pads` depends on data, which is not supported",
    "pad_edge_of_input": "Pad: input `pads` depends on data, which is not supported",
    "pad_edge_of_data": "Pad: input `pads` depends on data, which is not supported",
    "pad_axes_of_input": "Pad: input `pads` depends on data, which is not supported",
    "pad_axes_of_data": "Pad: input `pads` depends on data, which is not supported",
    "onehot_of_input": "OneHot: its depth must be constant",
    "onehot_of_data": "OneHot: its depth must be constant",
    "constant_of_shape_of_input": "ConstantOfShape: shape input is variable",
    "constant_of_shape_of_data": "ConstantOfShape: shape input is variable",
    "resize_sizes_of_input": "Resize: input `sizes` depends on data, which is not supported",
    "resize_sizes_of_data": "Resize: input `sizes` depends on data, which is not supported",
    "topk_of_input": "TopK: the shape of its output depends on data",
    "topk_of_data": "TopK: the shape of its output depends on data",
    "cumsum_of_input": "CumSum: its axis is computed by the model",
    "cumsum_of_data": "CumSum: its axis is computed by the model",
    "reduce_sum_of_input": "ReduceSum: its axes are computed by the model",
    "reduce_sum_of_data": "ReduceSum: its axes are computed by the model",
    "reduce_sum_dropped_of_input": "ReduceSum: its axes are computed by the model",
    "reduce_sum_dropped_of_data": "ReduceSum: its axes are computed by the model",
    "reduce_max_of_input": "ReduceMax: its axes are computed by the model",
    "reduce_max_of_data": "ReduceMax: its axes are computed by the model",
    "split_of_input": "Split: Need splits to be a constant and explicit (constant integers)",
    "split_of_data": "Split: Need splits to be a constant and explicit (constant integers)",
    "squeeze_of_input": "Squeeze: its axes depend on data",
    "squeeze_of_data": "Squeeze: its axes depend on data",
    "unsqueeze_of_input": "Unsqueeze: Need axes to be a constant",
    "unsqueeze_of_data": "Unsqueeze: Need axes to be a constant",
    "reverse_of_input": "ReverseSequence: this operator is not known",
    "reverse_of_data": "ReverseSequence: this operator is not known",
    "blackman_of_input": "BlackmanWindow: Expect constant input size",
    "blackman_of_data": "BlackmanWindow: Expect constant input size",
    "center_crop_pad_of_input": "CenterCropPad: this operator is not known",
    "center_crop_pad_of_data": "CenterCropPad: this operator is not known",
    "col_to_image_of_input": "Col2Im: this operator is not known",
    "col_to_image_of_data": "Col2Im: this operator is not known",
    "split_to_sequence_of_input": "SplitToSequence: this operator is not known",
    "split_to_sequence_of_data": "SplitToSequence: this operator is not known",
    "resize_scales_of_input": "Resize: input `scales` depends on data, which is not supported",
    "upsample_of_input": "Upsample: input `scales` depends on data, which is not supported",
    "range_of_floats_of_input": "Range: the shape of its output depends on data",
    "pad_value_of_input": "Pad: input `constant_value` depends on data, which is not supported",
    "resize_scales_of_data": "Resize: input `scales` depends on data, which is not supported",
    "upsample_of_data": "Upsample: input `scales` depends on data, which is not supported",
    "range_of_floats_of_data": "Range: the shape of its output depends on data",
    "pad_value_of_data": "Pad: input `constant_value` depends on data, which is not supported",
    "dropout_of_input": "Dropout: Dropout: input training_mode has to be a constant",
    "dropout_of_input_13": "Dropout: Dropout: input training_mode has to be a constant",
    "dropout_of_data": "Dropout: Dropout: input training_mode has to be a constant",
    "eye_like_of_mask": "NonZero: the shape of its output depends on data",
    "random_like_mask": "Shape: TDim constants are not supported",
    "nonzero": "NonZero: the shape of its output depends on data",
    "nonzero_11": "NonZero: the shape of its output depends on data",
    "nonzero_gather": "NonZero: the shape of its output depends on data",
    "nonzero_gather_11": "NonZero: the shape of its output depends on data",
    "nonzero_sum": "NonZero: the shape of its output depends on data",
    "nonzero_of_integers": "NonZero: the shape of its output depends on data",
    "nonzero_scatter": "NonZero: the shape of its output depends on data",
    "nonzero_network": "NonZero: the shape of its output depends on data",
    "nonzero_twice": "NonZero: the shape of its output depends on data",
    "compress_axis": "Compress: this operator is not known",
    "compress_axis_9": "Compress: this operator is not known",
    "compress_flat": "Compress: this operator is not known",
    "compress_computed": "Compress: this operator is not known",
    "unique_0": "Unique: this operator is not known",
    "unique_0_11": "Unique: this operator is not known",
    "unique_1": "Unique: this operator is not known",
    "unique_1_11": "Unique: this operator is not known",
    "unique_of_integers": "Unique: this operator is not known",
    "unique_axis": "Unique: this operator is not known",
    "unique_flat": "Unique: this operator is not known",
    "loop_over_mask": "Loop: this operator is not known",
    "if_nothing_found": "If: Source node without a determined fact. Help: provide explicit input facts to your model.",
    "nms": "NonMaxSuppression: it needs k.rank == N, but N is not N",
    "nms_10": "NonMaxSuppression: it needs k.rank == N, but N is not N",
    "nms_center": "NonMaxSuppression: it needs k.rank == N, but N is not N",
    "nms_defaults": "NonMaxSuppression: the shape of its output depends on data",
    "nms_constants": "NonMaxSuppression: the shape of its output depends on data",
    "detector": "NonMaxSuppression: the shape of its output depends on data",
    "decoder": "Loop: this operator is not known",
}


def main():
    args = parse_args()
    programs = [each for each in program_models.collect() if fnmatch.fnmatchcase(each.name, args.only)]
    if args.dump:
        dump(programs, args.dump)
        return
    with tempfile.TemporaryDirectory(prefix="reef-programs-") as temporary:
        work = args.work_dir or pathlib.Path(temporary)
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            rows = list(pool.map(lambda program: check(program, args.reef, work / program.name), programs))
    faults = settle(rows, whole=args.only == "*")
    counts = collections.Counter(row["verdict"] for row in rows)
    if args.json:
        print(json.dumps({"counts": counts, "faults": faults, "results": rows}, indent=2))
    elif args.list:
        print("".join(f'    "{row["name"]}": {json.dumps(row["reason"])},\n' for row in rows if row["verdict"] == "refused"), end="")
    else:
        shown = [row for row in rows if not args.quiet or row["verdict"] not in ("same", "refused")]
        oracle.print_table(["name", "cases", "verdict", "reason"],
                           [[row["name"], row["cases"], row["verdict"], row["reason"][:args.width]] for row in shown])
        print("\n".join(["", *faults, ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts)) + f" of {len(rows)} programs"]))
    sys.exit(1 if faults or not rows else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=pathlib.Path, default=oracle.DEFAULT_REEF, help="the binary to test")
    parser.add_argument("--only", default="*", help="pattern of program names")
    parser.add_argument("--work-dir", type=pathlib.Path, help="keep models and tensors here")
    parser.add_argument("--dump", type=pathlib.Path, metavar="DIR",
                        help="run nothing: write NAME.onnx, NAME.K.INPUT.npy and the expected NAME.K.expected.OUTPUT.npy")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="write the results as JSON")
    parser.add_argument("--list", action="store_true", help="print the entries of REFUSED as they should be")
    parser.add_argument("--quiet", action="store_true", help="of the table only what is at fault")
    parser.add_argument("--width", type=int, default=150, help="columns of a reason")
    return parser.parse_args()


def check(program, reef, folder):
    """Runs a program with all its inputs; the first that is not as it should be decides."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {"name": program.name, "cases": len(program.feeds) + len(program.bad), "verdict": "same", "reason": ""}
    model = folder / "model.onnx"
    onnx.save(program.model(), model)
    for number, (feeds, want) in enumerate(zip(program.feeds, answers(program))):
        verdict, words = run(reef, model, feeds, folder / str(number), LIMIT_S, bool(program.bad))
        if verdict == "done":
            verdict, words = compare(words, want)
        if verdict != "same":
            return {**row, "verdict": verdict, "reason": words if verdict == "refused" else f"input {number}: {words}"}
    model = folder / "bad.onnx"
    if program.bad:
        model.write_bytes(program.bad_file())
    for number, feeds in enumerate(program.bad):
        verdict, words = run(reef, model, feeds, folder / f"bad{number}", BAD_LIMIT_S, True)
        if verdict == "done":
            verdict, words = "wrong", "it has to fail and gives an answer"
        if verdict != "refused":
            return {**row, "verdict": verdict, "reason": f"bad input {number}: {words}"}
    return row


def answers(program):
    """ONNX Runtime's outputs for each of the good inputs."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(program.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feeds))) for feeds in program.feeds]


def run(reef, model, feeds, folder, limit_s, bounded):
    """One of: done, with the outputs; refused, panic, crash or hang, in words."""
    (folder / "out").mkdir(parents=True, exist_ok=True)
    command = [str(reef), "run", str(model), "--json", "--cus", "1", "--output-dir", str(folder / "out")]
    for name, array in feeds.items():
        np.save(folder / f"{name}.npy", array)
        command += ["--input", f"{name}={folder / name}.npy"]
    if bounded:
        command = ["prlimit", f"--as={BAD_MEMORY}", *command, "--memory", str(BAD_ARENAS_MIB)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return "hang", f"still running after {limit_s} s"
    text = " ".join((done.stderr or done.stdout).split())
    if PANIC.search(text):
        return "panic", text[:600]
    if done.returncode == 1 and text:
        return "refused", reason(text)
    if done.returncode:
        return "crash", f"exit status {done.returncode}: {text[:600]}"
    files = json.loads(done.stdout)["outputs"]
    return "done", {name: np.load(folder / "out" / file) for name, file in files.items()}


def compare(got, want):
    for name, expected in want.items():
        if name not in got:
            return "wrong", f"no output {name}"
        expected = np.asarray(expected)
        errors = oracle.compare(got[name], expected)
        if not oracle.within(*errors, expected):
            shapes = f"{got[name].dtype}{list(got[name].shape)}, expected {expected.dtype}{list(expected.shape)}"
            return "wrong", f"{name}: relative error {errors[0]:.1e}; {shapes}; {got[name].ravel()[:4]}, expected {expected.ravel()[:4]}"
    return "same", ""


def settle(rows, whole):
    """What is wrong, a line each."""
    faults, known = [], set()
    for row in rows:
        listed = row["name"] in REFUSED
        entry = next((pattern for pattern in KNOWN if fnmatch.fnmatchcase(row["name"], pattern)), None)
        if entry and row["verdict"] == "wrong":
            row["verdict"] = "known"
            known.add(entry)
        elif row["verdict"] not in ("same", "refused"):
            faults.append(f"{row['verdict'].upper()}: {row['name']}: {row['reason']}")
        elif row["verdict"] == "refused" and not listed:
            faults.append(f"REFUSED: {row['name']}: {row['reason']}")
        if row["verdict"] != "refused" and listed:
            faults.append(f"REFUSED: {row['name']} is refused no more: take it off the list")
    if whole:
        faults += [f"KNOWN: no program needs the entry {entry}" for entry in KNOWN if entry not in known]
        faults += [f"REFUSED: {name} is no program" for name in sorted(set(REFUSED) - {row["name"] for row in rows})]
    return faults


def dump(programs, folder):
    """Models, inputs and expected outputs, for other programs to use."""
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        onnx.save(program.model(), folder / f"{program.name}.onnx")
        for number, (feeds, want) in enumerate(zip(program.feeds, answers(program))):
            for name, array in feeds.items():
                np.save(folder / f"{program.name}.{number}.{name}.npy", array)
            for name, array in want.items():
                np.save(folder / f"{program.name}.{number}.expected.{name}.npy", array)
        if program.bad:
            (folder / f"{program.name}.bad.onnx").write_bytes(program.bad_file())
        for number, feeds in enumerate(program.bad):
            for name, array in feeds.items():
                np.save(folder / f"{program.name}.bad{number}.{name}.npy", array)
    print(f"{len(programs)} programs in {folder}")


if __name__ == "__main__":
    main()
