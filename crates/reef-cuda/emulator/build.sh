#!/usr/bin/env bash
# Builds the emulated driver and its own test: `build.sh OUT [CHECK]` makes OUT/libcuda.so and OUT/self-test.
#
# CHECK is what it watches kernels for:
#   address    accesses outside of memory: the address sanitizer, whose library must be loaded before all else
#              (LD_PRELOAD=$(g++ -print-file-name=libasan.so), ASAN_OPTIONS=detect_leaks=0)
#   undefined  what C++ does not define: the undefined-behaviour sanitizer
#   races      accesses of several threads without an order between them: races.h
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
mkdir -p "$out"
cxx=${CXX:-g++}
# Sums are what they are on a device: a multiply-add only where the text says so.
flags=(-std=c++17 -O2 -g1 -march=native -ffp-contract=off -fPIC -fvisibility=hidden -Wall -Wextra
  -I "$here" -I "$here/../src/kernels")
link=()
case ${2:-} in
  '') ;;
  address) flags+=(-fsanitize=address) ;;
  undefined) flags+=(-DEMULATOR_UNDEFINED -fsanitize=undefined,float-cast-overflow -fno-sanitize=vptr -fno-sanitize-recover=all) ;;
  races)
    "$cxx" "${flags[@]}" -DEMULATOR_RACES -c -o "$out/races.o" "$here/races.cpp"
    flags+=(-DEMULATOR_RACES -fsanitize=thread -Wno-tsan --param tsan-instrument-func-entry-exit=0)
    # The compiler's part of the thread sanitizer, with another library.
    link+=("$out/races.o")
    ;;
  *)
    echo "build.sh: unknown check $2" >&2
    exit 2
    ;;
esac
build() {
  local from=$1 to=$2
  shift 2
  "$cxx" "${flags[@]}" -c -o "$to.o" "$here/$from"
  local sanitize=()
  [ "${#link[@]}" -gt 0 ] || mapfile -t sanitize < <(printf '%s\n' "${flags[@]}" | grep -e '^-fsanitize=' || true)
  "$cxx" "$@" "${sanitize[@]}" -o "$to.new" "$to.o" "${link[@]}" -lpthread -ldl
  mv "$to.new" "$to"
}
build self-test.cpp "$out/self-test" &
test=$!
build driver.cpp "$out/libcuda.so" -shared -Wl,-soname,libcuda.so
wait "$test"
