// Reductions, softmax and layer normalisation in f32. Sums are made in an order that the descriptor fixes.
#pragma once
#include "scalar.cuh"
#include "tile.cuh"

namespace reef {

constexpr unsigned NEST_RANK_MAX = 8;

// Axes of a loop, outermost first.
struct Nest {
  long long in_strides[NEST_RANK_MAX], out_strides[NEST_RANK_MAX];
  unsigned dims[NEST_RANK_MAX];
  unsigned rank;
  unsigned reserved;
};

struct Offsets {
  long long in, out;
};

// Position `flat` of at most 2^31.
__device__ inline Offsets offsets_of(const Nest &nest, unsigned flat) {
  Offsets offsets = {0, 0};
  for (unsigned axis = nest.rank; axis-- > 0;) {
    const unsigned outer = flat / nest.dims[axis];
    const long long at = flat - outer * nest.dims[axis];
    flat = outer;
    offsets.in += at * nest.in_strides[axis];
    offsets.out += at * nest.out_strides[axis];
  }
  return offsets;
}

enum ReduceKind : unsigned {
  REDUCE_SUM,
  REDUCE_MEAN,
  REDUCE_MAX,
  REDUCE_MIN,
  REDUCE_PROD,
  REDUCE_SUM_SQUARE,
};

struct ReduceDescriptor {
  Operand x, y;
  Nest kept, reduced;
  unsigned long long kept_count, reduced_count;
  unsigned kind;
  // Kept elements of a block.
  unsigned tile;
};

// The part of the rows from `block * tile` on.
struct Part {
  unsigned begin, end;
};

__device__ inline Part part_of(unsigned block, unsigned tile, unsigned long long count) {
  const unsigned begin = block * tile;
  const unsigned rest = static_cast<unsigned>(count) - begin;
  return {begin, begin + (rest < tile ? rest : tile)};
}

REEF_TILE bool reduce_tile(const ReduceDescriptor &d, const Places &places, unsigned block, const Context &context) {
  const Part part = part_of(block, d.tile, d.kept_count);
  const float *const x = places.at<const float>(d.x);
  context.ask();
  context.sync();
  if (context.answer()) return false;
  for (unsigned flat = part.begin + threadIdx.x; flat < part.end; flat += THREADS) {
    const Offsets kept = offsets_of(d.kept, flat);
    float made = d.kind == REDUCE_MAX ? -infinite() : d.kind == REDUCE_MIN ? infinite() : d.kind == REDUCE_PROD ? 1.f : 0.f;
    for (unsigned inner = 0; inner < d.reduced_count; inner++) {
      const float value = x[kept.in + offsets_of(d.reduced, inner).in];
      switch (d.kind) {
        case REDUCE_MAX:
          made = larger(made, value);
          break;
        case REDUCE_MIN:
          made = smaller(made, value);
          break;
        case REDUCE_PROD:
          made *= value;
          break;
        case REDUCE_SUM_SQUARE:
          made = fmaf(value, value, made);
          break;
        default:
          made += value;
      }
    }
    if (d.kind == REDUCE_MEAN) made /= static_cast<float>(d.reduced_count);
    places.at<float>(d.y)[kept.out] = made;
  }
  return true;
}

// What `THREADS` values come to, for every thread. `slots` is shared memory for as many.
template <class Fold>
__device__ inline float fold_all(float value, float *slots, const Context &context, Fold fold) {
  context.sync();
  slots[threadIdx.x] = value;
  for (unsigned half = THREADS / 2; half > 0; half /= 2) {
    context.sync();
    if (threadIdx.x < half) slots[threadIdx.x] = fold(slots[threadIdx.x], slots[threadIdx.x + half]);
  }
  context.sync();
  return slots[0];
}

struct SoftmaxDescriptor {
  Operand x, y;
  Nest rows;
  unsigned long long row_count;
  long long in_stride, out_stride;
  unsigned extent;
  unsigned is_log;
  // Rows of a block.
  unsigned tile;
  unsigned reserved;
};

REEF_TILE bool softmax_tile(const SoftmaxDescriptor &d, const Places &places, unsigned block,
                            const Context &context) {
  float *const slots = reinterpret_cast<float *>(context.shared);
  const Part part = part_of(block, d.tile, d.row_count);
  context.ask();
  context.sync();
  if (context.answer()) return false;
  for (unsigned row = part.begin; row < part.end; row++) {
    const Offsets start = offsets_of(d.rows, row);
    const float *const x = places.at<const float>(d.x) + start.in;
    float *const y = places.at<float>(d.y) + start.out;
    float largest = -infinite();
    for (unsigned at = threadIdx.x; at < d.extent; at += THREADS) largest = fmaxf(largest, x[at * d.in_stride]);
    largest = fold_all(largest, slots, context, [](float a, float b) { return fmaxf(a, b); });
    float sum = 0.f;
    for (unsigned at = threadIdx.x; at < d.extent; at += THREADS) sum += expf(x[at * d.in_stride] - largest);
    sum = fold_all(sum, slots, context, [](float a, float b) { return a + b; });
    const float log_sum = logf(sum);
    for (unsigned at = threadIdx.x; at < d.extent; at += THREADS) {
      const float shifted = x[at * d.in_stride] - largest;
      y[at * d.out_stride] = d.is_log ? shifted - log_sum : expf(shifted) / sum;
    }
  }
  return true;
}

struct LayerNormDescriptor {
  Operand x, scale, shift, residual, y;
  unsigned rows, length;
  float epsilon;
  unsigned has_shift, has_residual;
  // Rows of a block.
  unsigned tile;
};

REEF_TILE bool layer_norm_tile(const LayerNormDescriptor &d, const Places &places, unsigned block,
                               const Context &context) {
  float *const slots = reinterpret_cast<float *>(context.shared);
  const Part part = part_of(block, d.tile, d.rows);
  const auto add = [](float a, float b) { return a + b; };
  context.ask();
  context.sync();
  if (context.answer()) return false;
  for (unsigned row = part.begin; row < part.end; row++) {
    const float *const x = places.at<const float>(d.x) + 1ull * row * d.length;
    const float *const residual = places.at<const float>(d.residual) + 1ull * row * d.length;
    const auto value = [&](unsigned at) { return d.has_residual ? x[at] + residual[at] : x[at]; };
    const float length = static_cast<float>(d.length);
    float sum = 0.f;
    for (unsigned at = threadIdx.x; at < d.length; at += THREADS) sum += value(at);
    const float mean = fold_all(sum, slots, context, add) / length;
    float squares = 0.f;
    for (unsigned at = threadIdx.x; at < d.length; at += THREADS) {
      const float off = value(at) - mean;
      squares = fmaf(off, off, squares);
    }
    const float factor = 1.f / sqrtf(fold_all(squares, slots, context, add) / length + d.epsilon);
    for (unsigned at = threadIdx.x; at < d.length; at += THREADS) {
      const float shift = d.has_shift ? places.at<const float>(d.shift)[at] : 0.f;
      const float made = fmaf((value(at) - mean) * factor, places.at<const float>(d.scale)[at], shift);
      places.at<float>(d.y)[1ull * row * d.length + at] = made;
    }
  }
  return true;
}

#ifdef REDUCE_DESCRIPTOR_BYTES
static_assert(sizeof(ReduceDescriptor) == REDUCE_DESCRIPTOR_BYTES, "the host has another idea of the descriptor");
static_assert(sizeof(SoftmaxDescriptor) == SOFTMAX_DESCRIPTOR_BYTES, "the host has another idea of the descriptor");
static_assert(sizeof(LayerNormDescriptor) == LAYER_NORM_DESCRIPTOR_BYTES,
              "the host has another idea of the descriptor");
#endif

}  // namespace reef
