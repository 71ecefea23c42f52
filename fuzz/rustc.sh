#!/bin/sh
# Stands before rustc while fuzz targets are built (RUSTC_WRAPPER): tract and what only it needs get no coverage and no
# checks of arithmetic. They are large, and not what is fuzzed; what tract does with wrapping numbers is as in production.
case " $* " in
  *" --crate-name tract_"* | *" --crate-name ndarray "* | *" --crate-name liquid"* | *" --crate-name pest"*) ;;
  *) exec "$@" ;;
esac
for argument; do
  shift
  case $argument in
    -Cpasses=sancov-module | -Cllvm-args=* | -Cdebug-assertions) ;;
    *) set -- "$@" "$argument" ;;
  esac
done
exec "$@"
