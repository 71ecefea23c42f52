// What goes along an axis of a dense tensor, row by row: places of extremes, the largest elements, running sums,
// integers folded; and resampling. A thread makes a row where there are many short ones, else a block does: which it
// is follows from the kernel's shape, and results are the same to the bit, but for running sums of floats.
#pragma once
#include "rows.cuh"
#include "tile.cuh"

namespace reef {

enum AlongKind : unsigned {
  ALONG_EXTREME,
  ALONG_TOP,
  ALONG_SCAN,
  ALONG_FOLD,
};

// What elements are.
enum Number : unsigned {
  NUMBER_UNSIGNED,
  NUMBER_SIGNED,
  NUMBER_FLOAT,
};

struct AlongDescriptor {
  // `places` is the second output of ALONG_TOP.
  Operand x, y, places;
  unsigned long long rows, inner;
  // Of floats, the bits of what is infinite.
  unsigned long long infinity;
  unsigned extent;
  unsigned kind;
  unsigned number;
  unsigned element_bytes;
  // Of ALONG_FOLD, a `ReduceKind`.
  unsigned fold;
  // Of ALONG_TOP, how many.
  unsigned count;
  unsigned largest, last;
  unsigned product, exclusive, reverse;
  // Whether a block makes a row.
  unsigned wide;
  // Rows of a block.
  unsigned tile;
  unsigned reserved;
};

#ifdef ALONG_DESCRIPTOR_BYTES
static_assert(sizeof(AlongDescriptor) == ALONG_DESCRIPTOR_BYTES, "the host has another idea of the descriptor");
#endif

// A row: where its elements lie, and how threads share it.
struct Row {
  const AlongDescriptor &d;
  const unsigned char *x;
  unsigned long long plane, column;
  unsigned lane, lanes;
  unsigned char *shared;

  // The position of an element of a tensor that has `extent` of them to a row.
  __device__ __forceinline__ unsigned long long position(unsigned extent, unsigned place) const {
    return (plane * extent + place) * d.inner + column;
  }

  // The bits of an element.
  __device__ __forceinline__ unsigned long long bits(unsigned place) const {
    const unsigned long long at = position(d.extent, place);
    switch (d.element_bytes) {
      case 1:
        return x[at];
      case 2:
        return reinterpret_cast<const unsigned short *>(x)[at];
      case 4:
        return reinterpret_cast<const unsigned *>(x)[at];
      default:
        return reinterpret_cast<const unsigned long long *>(x)[at];
    }
  }

  __device__ __forceinline__ void store(unsigned char *y, unsigned long long at, unsigned long long bits) const {
    switch (d.element_bytes) {
      case 1:
        y[at] = static_cast<unsigned char>(bits);
        break;
      case 2:
        reinterpret_cast<unsigned short *>(y)[at] = static_cast<unsigned short>(bits);
        break;
      case 4:
        reinterpret_cast<unsigned *>(y)[at] = static_cast<unsigned>(bits);
        break;
      default:
        reinterpret_cast<unsigned long long *>(y)[at] = bits;
    }
  }

  // An integer, in 64 bits.
  __device__ __forceinline__ unsigned long long whole(unsigned place) const {
    const unsigned long long own = bits(place);
    if (d.number != NUMBER_SIGNED) return own;
    const unsigned unused = 64 - 8 * d.element_bytes;
    return static_cast<unsigned long long>(static_cast<long long>(own << unused) >> unused);
  }

  // A number that is larger where the element is; NaNs are the largest, and equal, and so are zeros.
  __device__ __forceinline__ unsigned long long key(unsigned place) const {
    if (d.number != NUMBER_FLOAT) return ordered(whole(place));
    const unsigned long long own = bits(place);
    const unsigned long long sign = 1ull << (8 * d.element_bytes - 1);
    const unsigned long long size = own & (sign - 1);
    if (size > d.infinity) return ~0ull;
    return own & sign ? sign - size : sign + size;
  }

  // The order of integers as that of unsigned ones; and back.
  __device__ __forceinline__ unsigned long long ordered(unsigned long long whole) const {
    return d.number == NUMBER_SIGNED ? whole ^ (1ull << 63) : whole;
  }
};

// An element that was found, by what it is ordered by; or none.
constexpr unsigned NOWHERE = 0xFFFFFFFF;
struct Found {
  unsigned long long key;
  unsigned place;
};

// Whether an element comes before another one; of equal ones the first does, or the last.
__device__ __forceinline__ bool comes_before(const Found &a, const Found &b, bool last) {
  if (a.place == NOWHERE || b.place == NOWHERE) return a.place != NOWHERE;
  if (a.key != b.key) return a.key < b.key;
  return last ? a.place > b.place : a.place < b.place;
}

// Of what the threads of a row have found, what comes first, for every one of them.
__device__ inline Found first_of(const Found &own, bool last, const Row &row, const Context &context) {
  if (row.lanes == 1) return own;
  auto *const keys = reinterpret_cast<unsigned long long *>(row.shared);
  auto *const places = reinterpret_cast<unsigned *>(keys + THREADS);
  context.sync();
  keys[threadIdx.x] = own.key;
  places[threadIdx.x] = own.place;
  REEF_ROLLED
  for (unsigned half = THREADS / 2; half > 0; half /= 2) {
    context.sync();
    if (threadIdx.x >= half) continue;
    const Found mine = {keys[threadIdx.x], places[threadIdx.x]};
    const Found other = {keys[threadIdx.x + half], places[threadIdx.x + half]};
    if (!comes_before(other, mine, last)) continue;
    keys[threadIdx.x] = other.key;
    places[threadIdx.x] = other.place;
  }
  context.sync();
  return {keys[0], places[0]};
}

__device__ inline void find_extreme(const Row &row, long long *y, const Context &context) {
  const AlongDescriptor &d = row.d;
  const bool is_float = d.number == NUMBER_FLOAT;
  Found best = {0, NOWHERE};
  for (unsigned place = row.lane; place < d.extent; place += row.lanes) {
    const unsigned long long key = row.key(place);
    // What is no number is neither larger nor smaller.
    if (is_float && key == ~0ull) continue;
    const Found found = {d.largest ? ~key : key, place};
    if (comes_before(found, best, d.last)) best = found;
  }
  best = first_of(best, d.last, row, context);
  if (row.lane != 0) return;
  // The search begins at the first element: where that is no number, nothing is beyond it.
  const bool stays = is_float && row.key(0) == ~0ull;
  y[row.position(1, 0)] = stays ? 0 : best.place;
}

// One after the other: whatever comes next behind the one before it.
__device__ inline void find_top(const Row &row, unsigned char *y, long long *places, const Context &context) {
  const AlongDescriptor &d = row.d;
  Found before = {0, NOWHERE};
  for (unsigned turn = 0; turn < d.count; turn++) {
    Found best = {0, NOWHERE};
    for (unsigned place = row.lane; place < d.extent; place += row.lanes) {
      const unsigned long long key = row.key(place);
      const Found found = {d.largest ? ~key : key, place};
      const bool is_left = before.place == NOWHERE || comes_before(before, found, false);
      if (is_left && comes_before(found, best, false)) best = found;
    }
    before = first_of(best, false, row, context);
    if (row.lane != 0) continue;
    const unsigned long long to = row.position(d.count, turn);
    row.store(y, to, row.bits(before.place));
    places[to] = before.place;
  }
}

__device__ __forceinline__ unsigned long long folded(unsigned kind, unsigned long long a, unsigned long long b) {
  switch (kind) {
    case REDUCE_MAX:
      return a > b ? a : b;
    case REDUCE_MIN:
      return a < b ? a : b;
    case REDUCE_PROD:
      return a * b;
    default:
      return a + b;
  }
}

__device__ inline void fold_integers(const Row &row, unsigned char *y, const Context &context) {
  const AlongDescriptor &d = row.d;
  const bool orders = d.fold == REDUCE_MAX || d.fold == REDUCE_MIN;
  unsigned long long made = d.fold == REDUCE_MIN ? ~0ull : d.fold == REDUCE_PROD ? 1 : 0;
  for (unsigned place = row.lane; place < d.extent; place += row.lanes) {
    unsigned long long value = row.whole(place);
    if (orders) value = row.ordered(value);
    if (d.fold == REDUCE_SUM_SQUARE) value *= value;
    made = folded(d.fold, made, value);
  }
  if (row.lanes > 1) {
    auto *const slots = reinterpret_cast<unsigned long long *>(row.shared);
    context.sync();
    slots[threadIdx.x] = made;
    REEF_ROLLED
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
      context.sync();
      if (threadIdx.x < half) {
        slots[threadIdx.x] = folded(d.fold, slots[threadIdx.x], slots[threadIdx.x + half]);
      }
    }
    context.sync();
    made = slots[0];
  }
  if (row.lane != 0) return;
  if (orders) made = row.ordered(made);
  if (d.fold == REDUCE_MEAN) {
    const bool wraps = d.number == NUMBER_UNSIGNED && d.element_bytes == 8;
    made = wraps ? made / d.extent
                 : static_cast<unsigned long long>(static_cast<long long>(made) / static_cast<long long>(d.extent));
  }
  row.store(y, row.position(1, 0), made);
}

// Elements of a running sum: integers, which wrap, or doubles.
__device__ __forceinline__ void load_element(const Row &row, unsigned place, unsigned long long &value) {
  value = row.whole(place);
}
__device__ __forceinline__ void load_element(const Row &row, unsigned place, double &value) {
  const unsigned long long at = row.position(row.d.extent, place);
  value = row.d.element_bytes == 8 ? reinterpret_cast<const double *>(row.x)[at]
                                   : static_cast<double>(reinterpret_cast<const float *>(row.x)[at]);
}
__device__ __forceinline__ void store_element(const Row &row, unsigned char *y, unsigned place,
                                              unsigned long long value) {
  row.store(y, row.position(row.d.extent, place), value);
}
__device__ __forceinline__ void store_element(const Row &row, unsigned char *y, unsigned place, double value) {
  const unsigned long long at = row.position(row.d.extent, place);
  if (row.d.element_bytes == 8) {
    reinterpret_cast<double *>(y)[at] = value;
  } else {
    reinterpret_cast<float *>(y)[at] = static_cast<float>(value);
  }
}

// Each thread has a part of the row, and begins with what the parts before it come to.
template <class T>
__device__ inline void scan(const Row &row, unsigned char *y, const Context &context) {
  const AlongDescriptor &d = row.d;
  const unsigned part = (d.extent + row.lanes - 1) / row.lanes;
  const unsigned begin = row.lane * part < d.extent ? row.lane * part : d.extent;
  const unsigned end = d.extent - begin < part ? d.extent : begin + part;
  const auto place_of = [&](unsigned turn) { return d.reverse ? d.extent - 1 - turn : turn; };
  const auto join = [&](T a, T b) { return d.product ? a * b : a + b; };
  T sum = static_cast<T>(d.product ? 1 : 0);
  if (row.lanes > 1) {
    T own = sum;
    T value;
    for (unsigned turn = begin; turn < end; turn++) {
      load_element(row, place_of(turn), value);
      own = join(own, value);
    }
    T *const parts = reinterpret_cast<T *>(row.shared);
    // All are through with the row before.
    context.sync();
    parts[threadIdx.x] = own;
    context.sync();
    REEF_ROLLED
    for (unsigned before = 0; before < row.lane; before++) sum = join(sum, parts[before]);
  }
  for (unsigned turn = begin; turn < end; turn++) {
    T value;
    load_element(row, place_of(turn), value);
    const T before = sum;
    sum = join(sum, value);
    store_element(row, y, place_of(turn), d.exclusive ? before : sum);
  }
}

REEF_TILE bool along_tile(const AlongDescriptor &d, const Places &places, unsigned block, const Context &context) {
  const Part part = part_of(block, d.tile, d.rows);
  unsigned char *const y = places.at<unsigned char>(d.y);
  context.ask();
  context.sync();
  if (context.answer()) return false;
  const unsigned first = d.wide ? 0 : threadIdx.x;
  for (unsigned at = part.begin + first; at < part.end; at += d.wide ? 1 : THREADS) {
    const Row row = {d,
                     places.at<const unsigned char>(d.x),
                     at / d.inner,
                     at % d.inner,
                     d.wide ? threadIdx.x : 0,
                     d.wide ? THREADS : 1,
                     context.shared};
    switch (d.kind) {
      case ALONG_EXTREME:
        find_extreme(row, reinterpret_cast<long long *>(y), context);
        break;
      case ALONG_TOP:
        find_top(row, y, places.at<long long>(d.places), context);
        break;
      case ALONG_SCAN:
        if (d.number == NUMBER_FLOAT) {
          scan<double>(row, y, context);
        } else {
          scan<unsigned long long>(row, y, context);
        }
        break;
      default:
        fold_integers(row, y, context);
    }
  }
  return true;
}

// Behind it lie, for every output and behind the last, the place of its first tap; for every tap its index along the
// axis, -1 for the element outside; for every tap its weight.
struct ResampleDescriptor {
  Operand x, y;
  unsigned long long rows, inner;
  unsigned extent, outputs, taps;
  float outside;
  // Rows of a block, and elements of each.
  unsigned tile_rows, tile_columns;
};

#ifdef RESAMPLE_DESCRIPTOR_BYTES
static_assert(sizeof(ResampleDescriptor) == RESAMPLE_DESCRIPTOR_BYTES, "the host has another idea of the descriptor");
#endif

REEF_TILE bool resample_tile(const ResampleDescriptor &d, const Places &places, unsigned block,
                             const Context &context) {
  const int *const begins = reinterpret_cast<const int *>(&d + 1);
  const int *const from = begins + d.outputs + 1;
  const float *const weights = reinterpret_cast<const float *>(from + d.taps);
  const unsigned long long across = (d.inner + d.tile_columns - 1) / d.tile_columns;
  const unsigned long long row = block / across * d.tile_rows;
  const unsigned long long column = block % across * d.tile_columns;
  const unsigned rows = static_cast<unsigned>(d.rows - row < d.tile_rows ? d.rows - row : d.tile_rows);
  const unsigned columns =
      static_cast<unsigned>(d.inner - column < d.tile_columns ? d.inner - column : d.tile_columns);
  const float *const x = places.at<const float>(d.x);
  float *const y = places.at<float>(d.y);
  context.ask();
  context.sync();
  if (context.answer()) return false;
  REEF_ROLLED
  for (unsigned at = threadIdx.x; at < rows * columns; at += THREADS) {
    const unsigned long long own = row + at / columns;
    const unsigned output = static_cast<unsigned>(own % d.outputs);
    const float *const plane = x + own / d.outputs * d.extent * d.inner + column + at % columns;
    float sum = 0.f;
    for (int tap = begins[output]; tap < begins[output + 1]; tap++) {
      const float value = from[tap] < 0 ? d.outside : plane[from[tap] * static_cast<long long>(d.inner)];
      sum = fmaf(value, weights[tap], sum);
    }
    y[own * d.inner + column + at % columns] = sum;
  }
  return true;
}

}  // namespace reef
