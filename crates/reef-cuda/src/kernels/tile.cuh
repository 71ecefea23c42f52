// What a tile function is given. It makes one block of a kernel:
//
//   bool tile(const Descriptor &descriptor, const Places &places, unsigned block, const Context &context);
//
// `THREADS` threads call it together and leave together. It uses the block's one arena of shared memory and no
// static shared memory, synchronises by `Context::sync` and never by __syncthreads(): an executor may have other
// threads beside these. It may stop early and say false, with every thread, as long as it has written nothing to
// global memory, or reads nothing that it writes: `Context::ask` and `answer` tell when. Descriptors are plain data,
// made when a plan is loaded, the same for all tasks.
#pragma once
#ifdef __CUDACC__
#include "ptx.cuh"
#else
#include <emulated_ptx.h>
#endif

// How a tile function is compiled: into each kernel that runs it, unless an executor that has all of them in one
// kernel says otherwise.
#ifndef REEF_TILE
#define REEF_TILE __device__ __forceinline__
#endif

namespace reef {

// Threads that compute.
constexpr unsigned THREADS = 256;
// The barrier of these threads. 0 is that of __syncthreads().
constexpr unsigned COMPUTE_BARRIER = 1;
// Bytes at the start of the arena that belong to the executor and to `Context`.
constexpr unsigned CONTROL_BYTES = 128;
// Blocks of a kernel whose tiles are made in parts, at most.
constexpr unsigned SPLIT_BLOCKS = 128;

// Where an operand lies: in the memory of the task, or of the plan.
struct Operand {
  // Bytes from the start of the task's memory, or an address.
  unsigned long long at;
  unsigned is_address;
  unsigned reserved;
};

// The memory of one task: its inputs, outputs and arena.
struct Places {
  unsigned char *base;

  template <class T>
  __device__ __forceinline__ T *at(const Operand &operand) const {
    return reinterpret_cast<T *>((operand.is_address ? nullptr : base) + operand.at);
  }
};

struct Context {
  // The arena behind its control words.
  unsigned char *shared;
  // Two words in the arena.
  unsigned *verdict;
  // What tells to stop by not being zero; may be null.
  const unsigned *stop;
  // Where it is said that the inputs mean nothing to the kernel, and which value it is.
  unsigned *failed;
  long long *failed_value;
  // What is said there: which kernel it is, never 0.
  unsigned fails_as;
  // Differs from that of every other run of a kernel with the same `arrived`, and is never 0.
  unsigned long long run;
  // `SPLIT_BLOCKS` words, each the last run in which the block of that number made its part of a tile.
  unsigned long long *arrived;

  __device__ __forceinline__ void sync() const { barrier_sync(COMPUTE_BARRIER, THREADS); }

  // Whether all are to leave. A barrier of the tile's own lies between `ask` and `answer`, and another one
  // before the next `ask` with the same `turn`, 0 or 1.
  __device__ __forceinline__ void ask(unsigned turn = 0) const {
    if (stop != nullptr && threadIdx.x == 0) verdict[turn] = load_relaxed(stop);
  }
  __device__ __forceinline__ bool answer(unsigned turn = 0) const { return stop != nullptr && verdict[turn] != 0; }

  // The task fails because of a value. Of several the first one counts.
  __device__ __forceinline__ void fail(long long value) const {
    if (claim_once(failed, fails_as)) *failed_value = value;
  }
};

}  // namespace reef
