#!/usr/bin/env bash
# Builds the emulated driver: build.sh OUT makes OUT/libcuda.so.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
mkdir -p "$out"
# Sums are what they are on a device: a multiply-add only where the text says so.
"${CXX:-g++}" -std=c++17 -O2 -g1 -march=native -ffp-contract=off -fPIC -shared -fvisibility=hidden -Wall -Wextra \
  -I "$here" -I "$here/../src/kernels" -Wl,-soname,libcuda.so -o "$out/libcuda.so.new" -x c++ "$here/driver.cpp" -lpthread
mv "$out/libcuda.so.new" "$out/libcuda.so"
