// Attention on tensor cores, in one kernel: products of queries and keys, softmax of their rows, and the values'
// sums by these weights. A block has 64 queries, and goes over the keys 64 at a time with the largest score and the
// sum of a row so far, so that scores never leave it. Keys come in order, so results do not depend on the cut.
#pragma once
#include "precision.cuh"

namespace reef {

constexpr unsigned ATTENTION_RANK_MAX = 8;
// Products of a query and a key, and columns of the values, at most.
constexpr unsigned ATTENTION_WIDTH_MAX = 64;
constexpr unsigned ATTENTION_KEYS = 64;
constexpr unsigned ATTENTION_PITCH = ATTENTION_KEYS + 8;
constexpr unsigned ATTENTION_OPERAND_BYTES = 64 * ATTENTION_WIDTH_MAX * 4;
// Queries, keys, values; scores, then weights in their place; three numbers of each row.
constexpr unsigned ATTENTION_SHARED_BYTES =
    3 * ATTENTION_OPERAND_BYTES + TENSOR_ROWS * ATTENTION_PITCH * 4 + 3 * TENSOR_ROWS * 4;

enum Masking : unsigned {
  MASKING_NONE,
  MASKING_ADD,
  MASKING_REPLACE_TRUE,
  MASKING_REPLACE_FALSE,
};

struct AttentionDescriptor {
  Operand q, k, v, mask, y;
  // Along queries and depth, depth and keys, keys and columns, queries and keys, queries.
  long long q_strides[2], k_strides[2], v_strides[2], mask_strides[2], y_row_stride;
  // Of the batch's axes, outermost first: strides of q, k, v, mask and y.
  long long batch_strides[ATTENTION_RANK_MAX][5];
  unsigned batch_dims[ATTENTION_RANK_MAX];
  unsigned batch_rank;
  unsigned queries, keys, depth, width;
  unsigned row_tiles;
  // A mask of f32 is added; where one of booleans is not 0, or is 0, a score is `replacement`.
  unsigned masking;
  float alpha, replacement;
  unsigned reserved;
};

#ifdef ATTENTION_DESCRIPTOR_BYTES
static_assert(sizeof(AttentionDescriptor) == ATTENTION_DESCRIPTOR_BYTES, "the host has another idea of the descriptor");
#endif

// Starts to copy lines of `extent` elements, as chunks of 16 neighbours along `extent`: of each chunk one line after
// the other, 64 of them. What does not exist is zero. Neighbours are brought by neighbouring lanes where they lie so.
__device__ __forceinline__ void bring_lines(unsigned char *to, const float *from, long long line_stride,
                                            long long element_stride, unsigned first_line, unsigned lines,
                                            unsigned first_element, unsigned elements, unsigned chunks) {
  const bool lines_are_neighbours = line_stride == 1 && element_stride != 1;
  REEF_ROLLED
  for (unsigned i = threadIdx.x; i < chunks * CHUNK * 64; i += THREADS) {
    // Eight of the one and four of the other to a warp.
    const unsigned line = lines_are_neighbours ? i / 32 % 8 * 8 + i % 8 : i / CHUNK % 64;
    const unsigned element = lines_are_neighbours ? i / 256 * 4 + i % 32 / 8 : i / (CHUNK * 64) * CHUNK + i % CHUNK;
    const bool exists = first_line + line < lines && first_element + element < elements;
    float *const own = reinterpret_cast<float *>(to) + (element / CHUNK * 64 + line) * CHUNK + element % CHUNK;
    copy_4(own, exists ? from + (first_line + line) * line_stride + (first_element + element) * element_stride : from,
           exists);
  }
}

template <class P>
__device__ __forceinline__ bool attention(const AttentionDescriptor &d, const Places &places, unsigned block,
                                          const Context &context) {
  using Tile = TensorTile<P, 64, false>;
  constexpr unsigned CHUNK_BYTES = 64 * CHUNK * 4;
  const unsigned first_query = block % d.row_tiles * TENSOR_ROWS;
  const float *q = places.at<const float>(d.q);
  const float *k = places.at<const float>(d.k);
  const float *v = places.at<const float>(d.v);
  const unsigned char *mask = places.at<const unsigned char>(d.mask);
  const unsigned mask_bytes = d.masking == MASKING_ADD ? sizeof(float) : 1;
  float *y = places.at<float>(d.y);
  unsigned plane = block / d.row_tiles;
  for (unsigned axis = d.batch_rank; axis-- > 0;) {
    const unsigned at = plane % d.batch_dims[axis];
    plane /= d.batch_dims[axis];
    q += at * d.batch_strides[axis][0];
    k += at * d.batch_strides[axis][1];
    v += at * d.batch_strides[axis][2];
    mask += at * d.batch_strides[axis][3] * mask_bytes;
    y += at * d.batch_strides[axis][4];
  }
  unsigned char *const queries = context.shared;
  unsigned char *const keys = queries + ATTENTION_OPERAND_BYTES;
  unsigned char *const values = keys + ATTENTION_OPERAND_BYTES;
  float *const scores = reinterpret_cast<float *>(values + ATTENTION_OPERAND_BYTES);
  float *const largest = scores + TENSOR_ROWS * ATTENTION_PITCH;
  float *const sums = largest + TENSOR_ROWS;
  float *const factors = sums + TENSOR_ROWS;
  const unsigned depth_chunks = (d.depth + CHUNK - 1) / CHUNK;

  // Four threads to a row of scores, 16 neighbours each.
  const unsigned own_row = threadIdx.x / 4;
  const unsigned own_column = threadIdx.x % 4 * 16;
  if (threadIdx.x < TENSOR_ROWS) {
    largest[threadIdx.x] = -infinite();
    sums[threadIdx.x] = 0.f;
  }
  bring_lines(queries, q, d.q_strides[0], d.q_strides[1], first_query, d.queries, 0, d.depth, depth_chunks);
  Tile made;
  for (unsigned first_key = 0, turn = 0; first_key < d.keys; first_key += ATTENTION_KEYS, turn ^= 1) {
    bring_lines(keys, k, d.k_strides[1], d.k_strides[0], first_key, d.keys, 0, d.depth, depth_chunks);
    // Of the values the columns are lines, and keys follow each other along k of the product.
    bring_lines(values, v, d.v_strides[1], d.v_strides[0], 0, d.width, first_key, d.keys, ATTENTION_KEYS / CHUNK);
    copies_grouped();
    copies_waited<0>();
    context.ask(turn);
    context.sync();
    if (context.answer(turn)) return false;

    Tile product;
    REEF_ROLLED
    for (unsigned chunk = 0; chunk < depth_chunks; chunk++) {
      product.multiply_chunk(queries + chunk * CHUNK_BYTES, keys + chunk * CHUNK_BYTES);
    }
    product.spread(scores);
    context.sync();

    float own[16];
    float most = largest[own_row];
    const float before = most;
    REEF_UNROLLED
    for (unsigned i = 0; i < 16; i++) {
      const unsigned key = first_key + own_column + i;
      own[i] = d.alpha * scores[own_row * ATTENTION_PITCH + own_column + i];
      if (d.masking != MASKING_NONE && key < d.keys && first_query + own_row < d.queries) {
        const unsigned char *const at =
            mask + ((first_query + own_row) * d.mask_strides[0] + key * d.mask_strides[1]) * mask_bytes;
        if (d.masking == MASKING_ADD) {
          own[i] += *reinterpret_cast<const float *>(at);
        } else if ((*at != 0) == (d.masking == MASKING_REPLACE_TRUE)) {
          own[i] = d.replacement;
        }
      }
      if (key >= d.keys) own[i] = -infinite();
      most = fmaxf(most, own[i]);
    }
    most = fmaxf(most, of_lane_across(most, 1));
    most = fmaxf(most, of_lane_across(most, 2));
    // Of a row without any score but minus infinity so far: it weighs nothing, and nothing is to be scaled.
    const float from = most == -infinite() ? 0.f : most;
    float sum = 0.f;
    REEF_UNROLLED
    for (unsigned i = 0; i < 16; i++) {
      own[i] = expf(own[i] - from);
      sum += own[i];
    }
    sum += of_lane_across(sum, 1);
    sum += of_lane_across(sum, 2);
    // All have read their scores, and the row's numbers.
    context.sync();
    Floats4 *const weights = reinterpret_cast<Floats4 *>(scores) + (own_column / CHUNK * 64 + own_row) * (CHUNK / 4);
    REEF_UNROLLED
    for (unsigned i = 0; i < 4; i++) weights[i] = {{own[i * 4], own[i * 4 + 1], own[i * 4 + 2], own[i * 4 + 3]}};
    if (threadIdx.x % 4 == 0) {
      const float factor = expf(before - from);
      factors[own_row] = factor;
      sums[own_row] = sums[own_row] * factor + sum;
      largest[own_row] = most;
    }
    context.sync();
    made.scale_rows(factors);
    REEF_ROLLED
    for (unsigned chunk = 0; chunk < ATTENTION_KEYS / CHUNK; chunk++) {
      made.multiply_chunk(reinterpret_cast<unsigned char *>(scores) + chunk * CHUNK_BYTES,
                          values + chunk * CHUNK_BYTES);
    }
    // The next keys take the place of these.
    context.sync();
  }
  made.spread(scores);
  context.sync();
  REEF_ROLLED
  for (unsigned element = threadIdx.x; element < TENSOR_ROWS * ATTENTION_WIDTH_MAX; element += THREADS) {
    const unsigned row = element / ATTENTION_WIDTH_MAX;
    const unsigned column = element % ATTENTION_WIDTH_MAX;
    if (first_query + row >= d.queries || column >= d.width) continue;
    y[(first_query + row) * d.y_row_stride + column] = scores[row * Tile::PITCH + column] / sums[row];
  }
  return true;
}

#define REEF_ATTENTION(name, P)                                                                                      \
  REEF_TILE bool name(const AttentionDescriptor &d, const Places &places, unsigned block, const Context &context) {  \
    return attention<P>(d, places, block, context);                                                                  \
  }

REEF_ATTENTION(attention_tf32_tile, Tf32)
REEF_ATTENTION(attention_f16_tile, Half)
REEF_ATTENTION(attention_bf16_tile, Bfloat)

}  // namespace reef
