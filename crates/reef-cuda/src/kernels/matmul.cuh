// A batched product of two computed matrices in f32, of any strides. Sums go over k in order.
#pragma once
#include "conv.cuh"
#include "tile.cuh"

namespace reef {

constexpr unsigned MATMUL_RANK_MAX = 8;

struct MatMulDescriptor {
  Operand a, b, c;
  // Strides along m and k, k and n, and m.
  long long a_strides[2], b_strides[2], c_row_stride;
  // Of the batch's axes, outermost first: strides of a, b and c.
  long long batch_strides[MATMUL_RANK_MAX][3];
  unsigned batch_dims[MATMUL_RANK_MAX];
  unsigned batch_rank;
  unsigned m, n, k;
  unsigned row_tiles, column_tiles;
  float alpha;
  // Neighbours along k may be read four at a time: for tensor cores.
  unsigned a_in_fours, b_in_fours;
  unsigned reserved;
};

#ifdef MATMUL_DESCRIPTOR_BYTES
static_assert(sizeof(MatMulDescriptor) == MATMUL_DESCRIPTOR_BYTES, "the host has another idea of the descriptor");
#endif

// The matrices of one entry of the batch.
struct MatMulPlane {
  const float *a, *b;
  float *c;

  __device__ __forceinline__ MatMulPlane(const MatMulDescriptor &d, const Places &places, unsigned plane)
      : a(places.at<const float>(d.a)), b(places.at<const float>(d.b)), c(places.at<float>(d.c)) {
    for (unsigned axis = d.batch_rank; axis-- > 0;) {
      const unsigned at = plane % d.batch_dims[axis];
      plane /= d.batch_dims[axis];
      a += at * d.batch_strides[axis][0];
      b += at * d.batch_strides[axis][1];
      c += at * d.batch_strides[axis][2];
    }
  }
};

REEF_TILE bool matmul_tile(const MatMulDescriptor &d, const Places &places, unsigned block, const Context &context) {
  float(*const lefts)[CONV_PITCH] = reinterpret_cast<float(*)[CONV_PITCH]>(context.shared);
  float(*const rights)[CONV_COLUMNS] =
      reinterpret_cast<float(*)[CONV_COLUMNS]>(context.shared + CONV_DEPTH * CONV_PITCH * sizeof(float));
  const unsigned first_row = block % d.row_tiles * CONV_ROWS;
  const unsigned first_column = block / d.row_tiles % d.column_tiles * CONV_COLUMNS;
  const MatMulPlane plane(d, places, block / d.row_tiles / d.column_tiles);
  const float *const a = plane.a, *const b = plane.b;
  const unsigned thread = threadIdx.x;
  const unsigned row = thread / 16 * 4;
  const unsigned column = thread % 16 * 4;
  float sums[4][4] = {};
  for (unsigned step = 0; step < d.k; step += CONV_DEPTH) {
    for (unsigned element = thread; element < CONV_DEPTH * CONV_ROWS; element += THREADS) {
      const unsigned depth = element % CONV_DEPTH;
      const unsigned k = step + depth;
      const unsigned m = first_row + element / CONV_DEPTH;
      const bool there = m < d.m && k < d.k;
      lefts[depth][element / CONV_DEPTH] = there ? a[m * d.a_strides[0] + k * d.a_strides[1]] : 0.f;
    }
    for (unsigned element = thread; element < CONV_DEPTH * CONV_COLUMNS; element += THREADS) {
      const unsigned depth = element / CONV_COLUMNS;
      const unsigned k = step + depth;
      const unsigned n = first_column + element % CONV_COLUMNS;
      const bool there = n < d.n && k < d.k;
      rights[depth][element % CONV_COLUMNS] = there ? b[k * d.b_strides[0] + n * d.b_strides[1]] : 0.f;
    }
    context.ask();
    context.sync();
    if (context.answer()) return false;
    REEF_UNROLLED_4
    for (unsigned k = 0; k < CONV_DEPTH; k++) {
      for (unsigned i = 0; i < 4; i++) {
        for (unsigned j = 0; j < 4; j++) {
          sums[i][j] = fmaf(lefts[k][row + i], rights[k][column + j], sums[i][j]);
        }
      }
    }
    context.sync();
  }
  for (unsigned i = 0; i < 4; i++) {
    for (unsigned j = 0; j < 4; j++) {
      const unsigned m = first_row + row + i;
      const unsigned n = first_column + column + j;
      if (m < d.m && n < d.n) plane.c[m * d.c_row_stride + n] = d.alpha * sums[i][j];
    }
  }
  return true;
}

}  // namespace reef
