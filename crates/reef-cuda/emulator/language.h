// CUDA C++ as C++: what the kernels use of the language.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "fibers.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

#define threadIdx (emulator::this_thread())
#define blockIdx (emulator::this_block().index)
#define blockDim (emulator::this_block().threads)
#define gridDim (emulator::this_block().grid)
