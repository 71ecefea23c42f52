#!/usr/bin/env bash
# What poll points cost: best-effort throughput of this build against one with the polls compiled out, in turns.
#
#   scripts/polling-cost.sh [PAIRS]        default 10 pairs; about 1 minute each
#
# Builds two binaries in target dirs of their own (TARGET_ROOT, default target/polling-cost), runs
# `reef bench micro --only polling` with them alternately (the order swaps from pair to pair, so that a drift of the
# machine hits both), and prints for every model the median over pairs of polls ÷ no-polls. Target: at least 0.98.
# REEF_BENCH_ARGS is passed on, for example "--quick --cus 1".
set -euo pipefail

cd "$(dirname "$0")/.."
pairs=${1:-10}
root=${TARGET_ROOT:-$PWD/target/polling-cost}
read -r -a args <<< "${REEF_BENCH_ARGS:-}"
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

build() { # NAME CARGO_ARGS...
    local name=$1
    shift
    CARGO_TARGET_DIR="$root/$name" cargo build --release --quiet --package reef "$@"
}

measure() { # NAME PAIR
    "$root/$1/release/reef" bench micro --only polling --json "${args[@]}" > "$results/$1.$2.json"
}

build polls
build no-polls --features reef-cpu/no-polls

for ((pair = 1; pair <= pairs; pair++)); do
    order=(polls no-polls)
    if ((pair % 2 == 0)); then order=(no-polls polls); fi
    for name in "${order[@]}"; do measure "$name" "$pair"; done
    echo "pair $pair of $pairs done" >&2
done

python3 - "$results" "$pairs" << 'PYTHON'
import json, statistics, sys

results, pairs = sys.argv[1], int(sys.argv[2])

def rates(name, pair):
    with open(f"{results}/{name}.{pair}.json") as file:
        parts = json.load(file)["parts"]
    return {row["name"]: row["p50"] for part in parts for row in part["rows"]}

both = [(rates("polls", pair), rates("no-polls", pair)) for pair in range(1, pairs + 1)]
for model in both[0][0]:
    ratios = sorted(polls[model] / without[model] for polls, without in both)
    median = statistics.median(ratios)
    verdict = "met" if median >= 0.98 else "not met"
    print(f"{model}: polls cost {(1 - median) * 100:+.2f} % (median of {pairs} pairs; "
          f"{(1 - ratios[-1]) * 100:+.2f} to {(1 - ratios[0]) * 100:+.2f} %); target ≤ 2 %: {verdict}")
PYTHON
