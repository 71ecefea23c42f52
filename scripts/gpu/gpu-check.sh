#!/usr/bin/env bash
# Checks reef on a machine with an NVIDIA GPU, without Rust or network: gpu-check.sh --part smoke --out DIR.
#
# It lies beside what `cargo xtask gpu-bundle` packs. Every part is a process of its own with a time limit, writes
# its results into DIR as it goes, and is skipped when it has succeeded there before.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
part= out=
while [ $# -gt 0 ]; do
  case $1 in
    --part) part=$2 ;;
    --out) out=$2 ;;
    *) echo "gpu-check.sh: what is '$1'?" >&2; exit 2 ;;
  esac
  shift 2
done
if [ -z "$out" ]; then
  echo "usage: gpu-check.sh --part smoke --out DIR" >&2
  exit 2
fi
mkdir -p "$out"
export REEF_CUDA_CACHE=$here/kernels

# What the machine is.
facts() {
  { uname -sr; nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2>&1; "$here/reef" devices; } \
    >"$out/facts.txt" 2>&1
  cat "$out/facts.txt"
  grep -q '^cuda:0 ' "$out/facts.txt"
}

# Small models on the GPU against the CPU.
smoke() {
  facts || return 1
  "$here/reef" zoo --tiny --out "$out/models" || return 1
  local model name failed=0
  for model in "$here"/models/*.onnx "$out"/models/*.onnx; do
    name=$(basename "$model" .onnx)
    for device in cpu cuda:0; do
      "$here/reef" run "$model" --random 1 --repeat 20 --device "$device" --precision f32 --json \
        --output-dir "$out/$name-$device" >"$out/$name-$device.json" || return 1
    done
    python3 "$here/compare.py" "$out/$name-cpu" "$out/$name-cuda:0" --tolerance 1e-4 || failed=1
  done
  return $failed
}

case $part in
  smoke) limit=90 ;;
  *) echo "gpu-check.sh: there is no part '$part'; there is smoke" >&2; exit 2 ;;
esac
if [ -e "$out/$part.done" ]; then
  echo "$part: done before"
  exit 0
fi
if [ "${GPU_CHECK_INSIDE:-}" != "$part" ]; then
  GPU_CHECK_INSIDE=$part timeout -s KILL "$limit" "$0" --part "$part" --out "$out"
  status=$?
  [ $status -eq 0 ] && touch "$out/$part.done"
  echo "$part: $([ $status -eq 0 ] && echo passed || echo "FAILED ($status)")" | tee -a "$out/summary.txt"
  exit $status
fi
"$part"
