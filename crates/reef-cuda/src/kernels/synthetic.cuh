// A made-up kernel for tests: it waits, looks whether it is to stop, and writes bytes that depend on its inputs.
#pragma once
#include "tile.cuh"

namespace reef {

constexpr unsigned SYNTHETIC_INPUTS_MAX = 8;
// Bytes of an input that count.
constexpr unsigned SYNTHETIC_HEAD = 64;

struct SyntheticDescriptor {
  Operand inputs[SYNTHETIC_INPUTS_MAX];
  Operand y;
  unsigned long long lengths[SYNTHETIC_INPUTS_MAX];
  unsigned long long seed, bytes;
  unsigned input_count;
  // Bytes of a block.
  unsigned tile;
  unsigned polls, poll_ns;
};

#ifdef SYNTHETIC_DESCRIPTOR_BYTES
static_assert(sizeof(SyntheticDescriptor) == SYNTHETIC_DESCRIPTOR_BYTES,
              "the host has another idea of the descriptor");
#endif

__device__ inline unsigned long long mix(unsigned long long x) {
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93ull;
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93ull;
  return x ^ (x >> 32);
}

REEF_TILE bool synthetic_tile(const SyntheticDescriptor &d, const Places &places, unsigned block,
                              const Context &context) {
  for (unsigned poll = 0; poll < d.polls; poll++) {
    const unsigned long long until = device_clock_ns() + d.poll_ns;
    while (device_clock_ns() < until) pause();
    context.ask();
    context.sync();
    if (context.answer()) return false;
    context.sync();
  }
  unsigned long long digest = d.seed;
  for (unsigned input = 0; input < d.input_count; input++) {
    const unsigned char *const bytes = places.at<const unsigned char>(d.inputs[input]);
    const unsigned long long length = d.lengths[input];
    digest = mix(digest ^ length);
    for (unsigned at = 0; at < SYNTHETIC_HEAD && at < length; at++) digest = mix(digest ^ bytes[at]);
  }
  const unsigned long long begin = 1ull * block * d.tile;
  const unsigned long long end = begin + d.tile < d.bytes ? begin + d.tile : d.bytes;
  for (unsigned long long at = begin + threadIdx.x; at < end; at += THREADS) {
    places.at<unsigned char>(d.y)[at] = static_cast<unsigned char>(mix(digest ^ at) >> 56);
  }
  return true;
}

}  // namespace reef
