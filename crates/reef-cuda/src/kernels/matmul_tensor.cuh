// A batched product of two computed matrices on tensor cores: elements are rounded, sums are f32.
#pragma once
#include "matmul.cuh"
#include "precision.cuh"

namespace reef {

template <class P>
__device__ __forceinline__ bool matmul_tensor(const MatMulDescriptor &d, const Places &places, unsigned block,
                                              const Context &context) {
  constexpr unsigned COLUMNS = 64;
  using Tile = TensorTile<P, COLUMNS, false>;
  const unsigned first_row = block % d.row_tiles * TENSOR_ROWS;
  const unsigned first_column = block / d.row_tiles % d.column_tiles * COLUMNS;
  const MatMulPlane plane(d, places, block / d.row_tiles / d.column_tiles);
  const float *const a = plane.a, *const b = plane.b;
  // What the loop needs, in registers: memory is read anew after every copy and barrier.
  const long long a_strides[2] = {d.a_strides[0], d.a_strides[1]};
  const long long b_strides[2] = {d.b_strides[0], d.b_strides[1]};
  const unsigned m_end = d.m, n_end = d.n, k_end = d.k, a_in_fours = d.a_in_fours, b_in_fours = d.b_in_fours;
  // What this thread brings of a chunk: four neighbours along k of one row and one column.
  const unsigned own_line = threadIdx.x / 4;
  const unsigned own_k = threadIdx.x % 4 * 4;
  // Where b's columns are neighbours: eight columns and four k of each warp at a time.
  const unsigned across_column = threadIdx.x / 32 * 8 + threadIdx.x % 8;
  const unsigned across_k = threadIdx.x % 32 / 8;
  const auto along = [&](float *to, const float *from, const long long *strides, unsigned line, unsigned lines,
                         unsigned k, bool in_fours, unsigned k_axis) {
    const float *const at = from + line * strides[1 - k_axis] + k * strides[k_axis];
    const bool exists = line < lines && k < k_end;
    if (in_fours) {
      copy_16(to, exists ? at : from, exists);
      return;
    }
    for (unsigned i = 0; i < 4; i++) {
      const bool one = line < lines && k + i < k_end;
      copy_4(to + i, one ? at + i * strides[k_axis] : from, one);
    }
  };
  const auto fetch = [&](unsigned step) {
    for (unsigned chunk = 0; chunk < TENSOR_CHUNKS; chunk++) {
      unsigned char *const to = Tile::chunk_at(context.shared, step, chunk);
      float *const lefts = reinterpret_cast<float *>(to);
      float *const rights = reinterpret_cast<float *>(to + Tile::LEFT_BYTES);
      const unsigned first_k = (step * TENSOR_CHUNKS + chunk) * CHUNK;
      const unsigned own = own_line * CHUNK + own_k;
      along(lefts + own, a, a_strides, first_row + own_line, m_end, first_k + own_k, a_in_fours, 1);
      if (b_strides[1] != 1 || b_strides[0] == 1) {
        along(rights + own, b, b_strides, first_column + own_line, n_end, first_k + own_k, b_in_fours, 0);
        continue;
      }
      for (unsigned i = 0; i < CHUNK; i += 4) {
        const unsigned k = first_k + i + across_k;
        const unsigned n = first_column + across_column;
        const bool exists = n < n_end && k < k_end;
        copy_4(rights + across_column * CHUNK + i + across_k, exists ? b + k * b_strides[0] + n : b, exists);
      }
    }
  };
  Tile tile;
  constexpr unsigned STEP = TENSOR_CHUNKS * CHUNK;
  if (!tile.run(context, (d.k + STEP - 1) / STEP, fetch)) return false;
  float *const shared = reinterpret_cast<float *>(context.shared);
  tile.spread(shared);
  context.sync();
  for (unsigned element = threadIdx.x; element < TENSOR_ROWS * COLUMNS; element += THREADS) {
    const unsigned m = first_row + element / COLUMNS;
    const unsigned n = first_column + element % COLUMNS;
    if (m >= d.m || n >= d.n) continue;
    plane.c[m * d.c_row_stride + n] = d.alpha * shared[element / COLUMNS * Tile::PITCH + element % COLUMNS];
  }
  return true;
}

#define REEF_MATMUL_TENSOR(name, P)                                                                                  \
  REEF_TILE bool name(const MatMulDescriptor &d, const Places &places, unsigned block, const Context &context) {     \
    return matmul_tensor<P>(d, places, block, context);                                                              \
  }

REEF_MATMUL_TENSOR(matmul_tf32_tile, Tf32)
REEF_MATMUL_TENSOR(matmul_f16_tile, Half)
REEF_MATMUL_TENSOR(matmul_bf16_tile, Bfloat)

}  // namespace reef
