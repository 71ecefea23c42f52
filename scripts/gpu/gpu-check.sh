#!/usr/bin/env bash
# Checks and measures reef on a machine with an NVIDIA GPU, without Rust or network:
#
#   gpu-check.sh --part smoke|models|preempt|disb --out DIR [--tiny]
#
# It lies beside what `cargo xtask gpu-bundle` packs. Every part is a process of its own with a time limit, and so is
# every step of it; results are in DIR as soon as a step is done, the most important ones first. What has succeeded
# there before is skipped: a part that was cut off goes on where it was. `--tiny` takes models and times that the
# emulated driver of the tests manages in seconds.
#
#   smoke    every operator in every precision against sums in double precision, the
#            conformance suite, small models against the CPU                                 120 s
#   models   full-size models at batch 1: latency, against the CPU, beside PyTorch            180 s
#   preempt  launch path, preemption latency, a storm whose answers must be exact             180 s
#   disb     workloads A, REAL and D under every scheme, beside PyTorch on priority streams   180 s
#
# PyTorch is that of `python3`, or of the interpreter that GPU_CHECK_PYTHON names; without it, or without its CUDA, a
# line says that it is skipped. GPU_CHECK_TORCH_DEVICE=cpu has it run on the CPU, which only shows that this works.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${GPU_CHECK_PYTHON:-python3}
torch_device=${GPU_CHECK_TORCH_DEVICE:-cuda}
part= out= tiny=
usage() {
  echo "gpu-check.sh: $1" >&2
  echo "usage: gpu-check.sh --part smoke|models|preempt|disb --out DIR [--tiny]" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case $1 in
    --part) part=${2:-} && shift ;;
    --out) out=${2:-} && shift ;;
    --tiny) tiny=yes ;;
    *) usage "what is '$1'?" ;;
  esac
  shift
done
case $part in
  smoke) limit=120 ;;
  models | preempt | disb) limit=180 ;;
  *) usage "there is no part '$part'" ;;
esac
[ -n "$out" ] || usage "--out is missing"
mkdir -p "$out"
export REEF_CUDA_CACHE=$here/kernels REEF_LOG=${REEF_LOG:-error}
reef=$here/reef
# The programs travel packed. Unpacked beside their places: two parts may start at once.
for program in reef operators; do
  [ ! -x "$here/$program" ] || continue
  gzip -dc "$here/$program.gz" >"$here/$program.$$" && chmod +x "$here/$program.$$" &&
    mv "$here/$program.$$" "$here/$program" || exit 1
done
# A driver without its daemon for persistence starts the GPU anew for each process, which takes seconds, unless
# somebody has it open.
for gpu in /dev/nvidia[0-9]*; do
  [ ! -r "$gpu" ] || { exec 9<"$gpu"; } 2>/dev/null
  break
done

# A step of a part: its name, its limit in seconds, a command. What the command prints is in DIR/NAME.txt, its errors
# in DIR/NAME.err.
step() {
  local name=$1 most=$2 start=$SECONDS status
  shift 2
  if [ -e "$out/$name.done" ]; then
    echo "  $name: done before"
    return 0
  fi
  timeout --foreground -s KILL "$most" "$@" >"$out/$name.txt" 2>"$out/$name.err"
  status=$?
  # A benchmark that missed a target (3), or could not judge one (4), has measured; it says so itself.
  case "${1##*/} ${2:-} $status" in "reef bench 3" | "reef bench 4") status=0 ;; esac
  if [ $status -eq 0 ]; then
    touch "$out/$name.done"
    echo "  $name: $((SECONDS - start)) s"
  else
    echo "  $name: FAILED ($status): $(tail -n 3 "$out/$name.err" "$out/$name.txt" | tr '\n' ' ')"
  fi
  return $status
}

# What the machine is.
facts() {
  { uname -sr; nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2>&1; "$reef" devices; } \
    >"$out/facts.txt" 2>&1
  [ -e "$out/facts.shown" ] || cat "$out/facts.txt"
  touch "$out/facts.shown"
  grep -q '^cuda:0 ' "$out/facts.txt"
}

# Whether PyTorch has a GPU here; a line says so if not.
has_torch() {
  step torch 60 "$python" "$here/torch_peer.py" --device "$torch_device" probe || return 1
  cat "$out/torch.txt"
  ! grep -q SKIPPED "$out/torch.txt"
}

smoke() {
  facts || return 1
  # The first time it reads gigabytes; later parts want it quickly.
  "$python" -c 'import torch' >/dev/null 2>&1 &
  local model name failed=0 repeat=20
  # Every line of them is in DIR; here, what is wrong and the sum of it.
  for name in results promises; do
    step "$name" 35 "$here/operators" "$name" ${tiny:+--tiny} || failed=1
    grep WRONG "$out/$name.txt"
    tail -n 1 "$out/$name.txt"
  done
  step small 30 "$reef" zoo --tiny --out "$out/small" || return 1
  [ -z "$tiny" ] || repeat=3
  for model in "$here"/models/*.onnx "$out"/small/*.onnx; do
    name=small-$(basename "$model" .onnx)
    for device in cpu cuda:0; do
      step "$name-$device" 30 "$reef" run "$model" --random 1 --repeat "$repeat" --device "$device" --precision f32 \
        --json --output-dir "$out/$name-$device" || failed=1
    done
    step "$name-compared" 30 python3 "$here/compare.py" "$out/$name-cpu" "$out/$name-cuda:0" --tolerance 1e-4 ||
      failed=1
    # What is served unless a model says otherwise: on tensor cores.
    step "$name-tf32" 30 "$reef" run "$model" --random 1 --device cuda:0 --precision tf32 \
      --output-dir "$out/$name-tf32" &&
      step "$name-tf32-compared" 30 python3 "$here/compare.py" "$out/$name-cpu" "$out/$name-tf32" --tolerance 2e-2 ||
      failed=1
  done
  return $failed
}

networks=(resnet152 vgg19 densenet201 inceptionv3 distilbert)

# Models of the zoo in DIR/zoo, each once.
zoo() {
  local model
  for model in "$@"; do
    step "zoo-$model" 30 "$reef" zoo --out "$out/zoo" --model "$model" ${tiny:+--tiny} || return 1
  done
}

models() {
  facts || return 1
  zoo "${networks[@]}" || return 1
  local model precision failed=0 inputs repeat=100 seconds=1.5
  [ -z "$tiny" ] || { repeat=3 seconds=0.2; }
  for model in "${networks[@]}"; do
    step "inputs-$model" 20 python3 "$here/onnx_file.py" inputs "$out/zoo/$model.onnx" "$out/inputs/$model" ||
      return 1
    mapfile -t inputs < <(sed 's/^/--input=/' "$out/inputs-$model.txt")
    # With tf32 for its speed, as it is served; with f32 to be compared.
    for precision in tf32 f32; do
      step "reef-$model-$precision" 30 "$reef" run "$out/zoo/$model.onnx" "${inputs[@]}" --repeat "$repeat" --json \
        --device cuda:0 --precision $precision --output-dir "$out/outputs-$precision/$model" &&
        cat "$out/reef-$model-$precision.txt" || failed=1
    done
  done
  has_torch && {
    step torch-latency 75 "$python" "$here/torch_peer.py" --device "$torch_device" latency "${networks[@]/#/$out/zoo/}" --inputs "$out/inputs" \
      --expected "$out/outputs-f32" --out "$out/torch.jsonl" --seconds "$seconds" || failed=1
    cat "$out/torch-latency.txt"
  }
  for model in "${networks[@]}"; do
    mapfile -t inputs < <(sed 's/^/--input=/' "$out/inputs-$model.txt")
    step "cpu-$model" 30 "$reef" run "$out/zoo/$model.onnx" "${inputs[@]}" --device cpu \
      --output-dir "$out/expected/$model" || failed=1
    step "compared-$model" 20 python3 "$here/compare.py" "$out/expected/$model" "$out/outputs-f32/$model" \
      --tolerance 1e-3 || failed=1
    step "compared-$model-tf32" 20 python3 "$here/compare.py" "$out/expected/$model" "$out/outputs-tf32/$model" \
      --tolerance 3e-2 || failed=1
  done
  # It takes long: the network of the fewest operators, at the end.
  [ -n "$tiny" ] || ! has_torch || step torch-compile 60 "$python" "$here/torch_peer.py" --device "$torch_device" latency "$out/zoo/vgg19" --inputs "$out/inputs" \
    --modes compile --out "$out/torch.jsonl" --seconds 1
  return $failed
}

preempt() {
  facts || return 1
  local name failed=0
  # The storm is checked as it goes: an answer that is not the idle device's is an error.
  for name in preempt launch storm restore kernels length; do
    if [ -n "$tiny" ] && [ "$name" = restore ]; then break; fi
    step "micro-$name" 90 "$reef" bench micro --device cuda:0 ${tiny:+--quick} --only "$name" \
      --out "$out/micro-$name.json" && grep -v '^$' "$out/micro-$name.txt" || failed=1
  done
  return $failed
}

# A workload on reef, or, with a second word, beside a peer.
play() {
  local name=$1 beside=${2:-} times=(--duration 1 --warmup 0.3 --repeat 2)
  [ -z "$tiny" ] || times=(--duration 0.4 --warmup 0.1 --repeat 1)
  local peer=()
  [ -z "$beside" ] || peer=(--peer "$python $here/torch_peer.py --device $torch_device peer" --schemes reset)
  step "disb-$name${beside:+-$beside}" 100 "$reef" bench disb --workload "$name" --device cuda:0 --no-micro \
    --models "$out/zoo" "${times[@]}" "${peer[@]}" --out "$out/disb-$name${beside:+-$beside}" &&
    cat "$out/disb-$name${beside:+-$beside}.txt"
}

disb() {
  facts || return 1
  local failed=0
  zoo "${networks[@]}" && play A || failed=1
  [ -n "$tiny" ] || play REAL || failed=1
  ! has_torch || play A torch || failed=1
  [ -z "$tiny" ] || return $failed
  play D || failed=1
  ! has_torch || play REAL torch || failed=1
  return $failed
}

if [ -e "$out/$part.done" ]; then
  echo "$part: done before"
  exit 0
fi
if [ "${GPU_CHECK_INSIDE:-}" != "$part" ]; then
  GPU_CHECK_INSIDE=$part timeout -s KILL "$limit" "$0" --part "$part" --out "$out" ${tiny:+--tiny}
  status=$?
  [ $status -eq 0 ] && touch "$out/$part.done"
  echo "$part: $([ $status -eq 0 ] && echo passed || echo "FAILED ($status)")" | tee -a "$out/summary.txt"
  exit $status
fi
"$part"
