// Attention on tensor cores, in one kernel: products of queries and keys, softmax of their rows, and the values'
// sums by these weights. A block has 64 queries, and goes over the keys 64 at a time with the largest score and the
// sum of a row so far, so that scores never leave it. Keys come in order, so results do not depend on the cut.
//
// Up to 64 columns a tile of keys and one of values are in shared memory as a whole. Wide heads have their queries
// there, and keys and values come in pieces, each while the one before it is multiplied.
#pragma once
#include "precision.cuh"

namespace reef {

constexpr unsigned ATTENTION_RANK_MAX = 8;
// Products of a query and a key, and columns of the values, at most: of the usual kernels, and of the two wide ones.
constexpr unsigned ATTENTION_WIDTH_MAX = 64;
constexpr unsigned ATTENTION_WIDE = 128;
constexpr unsigned ATTENTION_WIDEST = 256;
constexpr unsigned ATTENTION_KEYS = 64;
constexpr unsigned ATTENTION_PITCH = ATTENTION_KEYS + 8;
constexpr unsigned ATTENTION_OPERAND_BYTES = 64 * ATTENTION_WIDTH_MAX * 4;
// Scores, then weights in their place; three numbers of each row.
constexpr unsigned ATTENTION_SCORES_BYTES = TENSOR_ROWS * ATTENTION_PITCH * 4 + 3 * TENSOR_ROWS * 4;
// Chunks of a piece of keys or values.
constexpr unsigned ATTENTION_WIDE_CHUNKS = 4;
constexpr unsigned ATTENTION_WIDEST_CHUNKS = 2;

// Queries, keys, values, scores; or queries, two pieces, scores.
constexpr unsigned ATTENTION_SHARED_BYTES = 3 * ATTENTION_OPERAND_BYTES + ATTENTION_SCORES_BYTES;
__device__ constexpr unsigned wide_attention_bytes(unsigned width, unsigned chunks) {
  return 64 * width * 4 + 2 * chunks * 64 * CHUNK * 4 + ATTENTION_SCORES_BYTES;
}

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
static_assert(ATTENTION_SHARED_BYTES == ATTENTION_BYTES &&
                  wide_attention_bytes(ATTENTION_WIDE, ATTENTION_WIDE_CHUNKS) == ATTENTION_WIDE_BYTES &&
                  wide_attention_bytes(ATTENTION_WIDEST, ATTENTION_WIDEST_CHUNKS) == ATTENTION_WIDEST_BYTES,
              "the host has another idea of shared memory");
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

// What a block makes: 64 queries of an entry of the batch. Where the entry's operands begin is worked out when it is
// asked, for want of registers in between.
struct Attended {
  const AttentionDescriptor &d;
  const Places &places;
  unsigned block;

  __device__ __forceinline__ unsigned first_query() const { return block % d.row_tiles * TENSOR_ROWS; }
  __device__ __forceinline__ const float *q() const { return places.at<const float>(d.q) + offset(0); }
  __device__ __forceinline__ const float *k() const { return places.at<const float>(d.k) + offset(1); }
  __device__ __forceinline__ const float *v() const { return places.at<const float>(d.v) + offset(2); }
  __device__ __forceinline__ const unsigned char *mask() const {
    return places.at<const unsigned char>(d.mask) + offset(3) * mask_bytes();
  }
  __device__ __forceinline__ float *y() const { return places.at<float>(d.y) + offset(4); }
  __device__ __forceinline__ unsigned mask_bytes() const { return d.masking == MASKING_ADD ? sizeof(float) : 1; }

 private:
  __device__ __forceinline__ long long offset(unsigned operand) const {
    unsigned plane = block / d.row_tiles;
    long long sum = 0;
    REEF_ROLLED
    for (unsigned axis = d.batch_rank; axis-- > 0;) {
      sum += plane % d.batch_dims[axis] * d.batch_strides[axis][operand];
      plane /= d.batch_dims[axis];
    }
    return sum;
  }
};

// Scores of a tile of keys in shared memory, then what they weigh in their place, by rows and chunks; and of every row
// the largest score so far, the sum of the weights, and the factor by which earlier sums are too large.
struct Scores {
  float *at, *largest, *sums, *factors;

  // Behind what lies before them.
  __device__ __forceinline__ explicit Scores(unsigned char *shared)
      : at(reinterpret_cast<float *>(shared)),
        largest(at + TENSOR_ROWS * ATTENTION_PITCH),
        sums(largest + TENSOR_ROWS),
        factors(sums + TENSOR_ROWS) {}

  __device__ __forceinline__ void clear() const {
    if (threadIdx.x < TENSOR_ROWS) {
      largest[threadIdx.x] = -infinite();
      sums[threadIdx.x] = 0.f;
    }
  }

  // Makes weights of the scores for the keys from `first_key` on. All have written their scores before, and a barrier
  // lies in between; behind it, all see the weights.
  __device__ __forceinline__ void weigh(const Attended &of, unsigned first_key, const Context &context) const {
    const AttentionDescriptor &d = of.d;
    // Four threads to a row, 16 neighbours each.
    const unsigned own_row = threadIdx.x / 4;
    const unsigned own_column = threadIdx.x % 4 * 16;
    const unsigned query = of.first_query() + own_row;
    const bool is_masked = d.masking != MASKING_NONE && query < d.queries;
    const unsigned char *const mask =
        is_masked ? of.mask() + query * d.mask_strides[0] * of.mask_bytes() : nullptr;
    float own[16];
    float most = largest[own_row];
    const float before = most;
    REEF_UNROLLED
    for (unsigned i = 0; i < 16; i++) {
      const unsigned key = first_key + own_column + i;
      own[i] = d.alpha * at[own_row * ATTENTION_PITCH + own_column + i];
      if (is_masked && key < d.keys) {
        const unsigned char *const by = mask + key * d.mask_strides[1] * of.mask_bytes();
        if (d.masking == MASKING_ADD) {
          own[i] += *reinterpret_cast<const float *>(by);
        } else if ((*by != 0) == (d.masking == MASKING_REPLACE_TRUE)) {
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
    Floats4 *const weights = reinterpret_cast<Floats4 *>(at) + (own_column / CHUNK * 64 + own_row) * (CHUNK / 4);
    REEF_UNROLLED
    for (unsigned i = 0; i < 4; i++) weights[i] = {{own[i * 4], own[i * 4 + 1], own[i * 4 + 2], own[i * 4 + 3]}};
    if (threadIdx.x % 4 == 0) {
      const float factor = expf(before - from);
      factors[own_row] = factor;
      sums[own_row] = sums[own_row] * factor + sum;
      largest[own_row] = most;
    }
    context.sync();
  }

  // Writes the columns from `first_column` on, whose sums `made` has, in place of the scores, which nobody uses.
  template <class Tile>
  __device__ __forceinline__ void finish(const Tile &made, const Attended &of, unsigned first_column,
                                         const Context &context) const {
    const AttentionDescriptor &d = of.d;
    made.spread(at);
    context.sync();
    float *const y = of.y() + first_column;
    REEF_ROLLED
    for (unsigned element = threadIdx.x; element < TENSOR_ROWS * 64; element += THREADS) {
      const unsigned row = element / 64;
      const unsigned column = element % 64;
      const unsigned query = of.first_query() + row;
      if (query >= d.queries || first_column + column >= d.width) continue;
      y[query * d.y_row_stride + column] = at[row * Tile::PITCH + column] / sums[row];
    }
  }
};

constexpr unsigned LINES_BYTES = 64 * CHUNK * 4;

template <class P>
__device__ __forceinline__ bool attention(const AttentionDescriptor &d, const Places &places, unsigned block,
                                          const Context &context) {
  using Tile = TensorTile<P, 64, false>;
  const Attended of = {d, places, block};
  unsigned char *const queries = context.shared;
  unsigned char *const keys = queries + ATTENTION_OPERAND_BYTES;
  unsigned char *const values = keys + ATTENTION_OPERAND_BYTES;
  const Scores scores(values + ATTENTION_OPERAND_BYTES);
  const unsigned depth_chunks = (d.depth + CHUNK - 1) / CHUNK;
  const float *const k = of.k();
  const float *const v = of.v();
  scores.clear();
  bring_lines(queries, of.q(), d.q_strides[0], d.q_strides[1], of.first_query(), d.queries, 0, d.depth, depth_chunks);
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
      product.multiply_chunk(queries + chunk * LINES_BYTES, keys + chunk * LINES_BYTES);
    }
    product.spread(scores.at);
    context.sync();
    scores.weigh(of, first_key, context);
    made.scale_rows(scores.factors);
    REEF_ROLLED
    for (unsigned chunk = 0; chunk < ATTENTION_KEYS / CHUNK; chunk++) {
      made.multiply_chunk(reinterpret_cast<unsigned char *>(scores.at) + chunk * LINES_BYTES,
                          values + chunk * LINES_BYTES);
    }
    // The next keys take the place of these.
    context.sync();
  }
  scores.finish(made, of, 0, context);
  return true;
}

// What a block with a wide head brings while it multiplies: of every tile of keys their products' parts along the
// depth, then of the values 64 columns after the other, each along the keys. A piece has 64 lines of `CHUNKS` chunks,
// and one of two places.
template <unsigned CHUNKS>
struct Pieces {
  static constexpr unsigned BYTES = CHUNKS * LINES_BYTES;
  // Pieces along a tile of keys.
  static constexpr unsigned ALONG = ATTENTION_KEYS / (CHUNKS * CHUNK);

  const AttentionDescriptor &d;
  const Attended &of;
  unsigned char *const places;
  // What comes next, and where it goes.
  unsigned first_key = 0, piece = 0, turn = 0;

  __device__ __forceinline__ Pieces(const Attended &attended, unsigned char *shared)
      : d(attended.d),
        of(attended),
        places(shared) {}

  // Pieces of the keys of a tile, and of all.
  __device__ __forceinline__ unsigned of_keys() const { return (d.depth + CHUNKS * CHUNK - 1) / (CHUNKS * CHUNK); }
  __device__ __forceinline__ unsigned of_tile() const { return of_keys() + (d.width + 63) / 64 * ALONG; }

  // Chunks that there are of a piece of keys.
  __device__ __forceinline__ unsigned chunks(unsigned own) const {
    const unsigned rest = (d.depth + CHUNK - 1) / CHUNK - own * CHUNKS;
    return rest < CHUNKS ? rest : CHUNKS;
  }

  // Starts to copy the next piece, if there is one.
  __device__ __forceinline__ void bring() {
    if (first_key >= d.keys) return;
    const bool is_keys = piece < of_keys();
    const unsigned part = is_keys ? piece : piece - of_keys();
    const float *const from = is_keys ? of.k() : of.v();
    // Of the values the columns are lines, and keys follow each other along k of the product.
    const long long line_stride = is_keys ? d.k_strides[1] : d.v_strides[1];
    const long long element_stride = is_keys ? d.k_strides[0] : d.v_strides[0];
    const unsigned first_line = is_keys ? first_key : part / ALONG * 64;
    const unsigned first = is_keys ? part * CHUNKS * CHUNK : first_key + part % ALONG * CHUNKS * CHUNK;
    bring_lines(places + turn * BYTES, from, line_stride, element_stride, first_line, is_keys ? d.keys : d.width,
                first, is_keys ? d.depth : d.keys, is_keys ? chunks(part) : CHUNKS);
    copies_grouped();
    turn ^= 1;
    if (++piece < of_tile()) return;
    piece = 0;
    first_key += ATTENTION_KEYS;
  }

  // Where the piece lies that is multiplied: all threads' parts of it are there, and the next one is on its way into
  // the place of the one before it, with which all are through.
  __device__ __forceinline__ unsigned char *await(const Context &context) {
    copies_waited<0>();
    context.sync();
    unsigned char *const at = places + (turn ^ 1) * BYTES;
    bring();
    return at;
  }
};

// Heads of at most `WIDTH` products and columns, with pieces of `CHUNKS` chunks.
template <class P, unsigned WIDTH, unsigned CHUNKS>
__device__ __forceinline__ bool wide_attention(const AttentionDescriptor &d, const Places &places, unsigned block,
                                               const Context &context) {
  using Tile = TensorTile<P, 64, false>;
  const Attended of = {d, places, block};
  unsigned char *const queries = context.shared;
  Pieces<CHUNKS> pieces(of, queries + 64 * WIDTH * 4);
  const Scores scores(pieces.places + 2 * pieces.BYTES);
  scores.clear();
  bring_lines(queries, of.q(), d.q_strides[0], d.q_strides[1], of.first_query(), d.queries, 0, d.depth,
              (d.depth + CHUNK - 1) / CHUNK);
  pieces.bring();
  Tile made[WIDTH / 64];
  for (unsigned first_key = 0, turn = 0; first_key < d.keys; first_key += ATTENTION_KEYS, turn ^= 1) {
    context.ask(turn);
    Tile product;
    REEF_ROLLED
    for (unsigned piece = 0; piece < pieces.of_keys(); piece++) {
      const unsigned char *const keys = pieces.await(context);
      if (piece == 0 && context.answer(turn)) {
        copies_waited<0>();
        return false;
      }
      REEF_ROLLED
      for (unsigned chunk = 0; chunk < pieces.chunks(piece); chunk++) {
        product.multiply_chunk_by_rows(queries + (piece * CHUNKS + chunk) * LINES_BYTES, keys + chunk * LINES_BYTES);
      }
    }
    product.spread(scores.at);
    context.sync();
    scores.weigh(of, first_key, context);
    REEF_UNROLLED
    for (unsigned columns = 0; columns < WIDTH / 64; columns++) {
      if (columns * 64 >= d.width) continue;
      made[columns].scale_rows(scores.factors);
      REEF_ROLLED
      for (unsigned along = 0; along < pieces.ALONG; along++) {
        const unsigned char *const values = pieces.await(context);
        REEF_ROLLED
        for (unsigned chunk = 0; chunk < CHUNKS; chunk++) {
          made[columns].multiply_chunk_by_rows(
              reinterpret_cast<unsigned char *>(scores.at) + (along * CHUNKS + chunk) * LINES_BYTES,
              values + chunk * LINES_BYTES);
        }
      }
    }
  }
  REEF_UNROLLED
  for (unsigned columns = 0; columns < WIDTH / 64; columns++) {
    // All are through with the weights, and with the columns before.
    context.sync();
    if (columns * 64 < d.width) scores.finish(made[columns], of, columns * 64, context);
  }
  return true;
}

#define REEF_ATTENTION(name, P)                                                                                      \
  REEF_TILE bool name##_tile(const AttentionDescriptor &d, const Places &places, unsigned block,                     \
                             const Context &context) {                                                               \
    return attention<P>(d, places, block, context);                                                                  \
  }                                                                                                                  \
  REEF_TILE bool name##_wide_tile(const AttentionDescriptor &d, const Places &places, unsigned block,                \
                                  const Context &context) {                                                          \
    return wide_attention<P, ATTENTION_WIDE, ATTENTION_WIDE_CHUNKS>(d, places, block, context);                      \
  }                                                                                                                  \
  REEF_TILE bool name##_widest_tile(const AttentionDescriptor &d, const Places &places, unsigned block,              \
                                    const Context &context) {                                                        \
    return wide_attention<P, ATTENTION_WIDEST, ATTENTION_WIDEST_CHUNKS>(d, places, block, context);                  \
  }

REEF_ATTENTION(attention_tf32, Tf32)
REEF_ATTENTION(attention_f16, Half)
REEF_ATTENTION(attention_bf16, Bfloat)

}  // namespace reef
