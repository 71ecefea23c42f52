// Slices of a dense tensor picked by index.
#pragma once
#include "tile.cuh"

namespace reef {

struct GatherDescriptor {
  Operand data, indices, y;
  unsigned long long slices, inner;
  unsigned picks, extent;
  // Bytes of an element, and of an index.
  unsigned element_bytes, index_bytes;
  // Slices of a block.
  unsigned tile;
  unsigned reserved;
};

#ifdef GATHER_DESCRIPTOR_BYTES
static_assert(sizeof(GatherDescriptor) == GATHER_DESCRIPTOR_BYTES, "the host has another idea of the descriptor");
#endif

__device__ inline long long index_at(const GatherDescriptor &d, const Places &places, unsigned pick) {
  return d.index_bytes == 8 ? places.at<const long long>(d.indices)[pick] : places.at<const int>(d.indices)[pick];
}

template <class T>
__device__ void gather_slice(const GatherDescriptor &d, const Places &places, unsigned long long from,
                             unsigned long long to) {
  const T *const data = places.at<const T>(d.data) + from * d.inner;
  T *const y = places.at<T>(d.y) + to * d.inner;
  for (unsigned long long at = threadIdx.x; at < d.inner; at += THREADS) y[at] = data[at];
}

REEF_TILE bool gather_tile(const GatherDescriptor &d, const Places &places, unsigned block, const Context &context) {
  const unsigned long long begin = 1ull * block * d.tile;
  const unsigned long long end = begin + d.tile < d.slices ? begin + d.tile : d.slices;
  context.ask();
  context.sync();
  if (context.answer()) return false;
  for (unsigned long long slice = begin; slice < end; slice++) {
    const long long given = index_at(d, places, static_cast<unsigned>(slice % d.picks));
    const long long index = given < 0 ? given + d.extent : given;
    if (index < 0 || index >= d.extent) {
      if (threadIdx.x == 0) context.fail(given);
      continue;
    }
    const unsigned long long from = slice / d.picks * d.extent + index;
    switch (d.element_bytes) {
      case 1:
        gather_slice<unsigned char>(d, places, from, slice);
        break;
      case 2:
        gather_slice<unsigned short>(d, places, from, slice);
        break;
      case 4:
        gather_slice<unsigned>(d, places, from, slice);
        break;
      default:
        gather_slice<unsigned long long>(d, places, from, slice);
    }
  }
  return true;
}

}  // namespace reef
