// Products of 8-bit integers on tensor cores: convolutions (and products with constant weights), and products of two
// computed matrices. Sums are 32-bit integers that wrap, the same in any order; what follows them is f32, one
// rounding a step, as the specification has it.
//
// What is multiplied is always signed: of unsigned integers 128 is taken off, and off their zero points with it. With
// such x, w and zero points a, b the sum of (x - a)(w - b) is that of x w, less a times the column's sum of w, less
// b times the row's sum of x, and a b times the depth.
#pragma once
#include "conv.cuh"
#include "matmul.cuh"
#include "scalar.cuh"
#include "tile.cuh"

namespace reef {

// Rows and columns of a tile, and words of four integers along k in a step.
constexpr unsigned INTEGER_TILE = 64;
constexpr unsigned INTEGER_WORDS = 16;
// Words from row to row of the left operand, and of the right one: a warp reads without conflicts.
constexpr unsigned INTEGER_LEFT_PITCH = INTEGER_WORDS + 4;
constexpr unsigned INTEGER_RIGHT_PITCH = INTEGER_TILE + 8;
constexpr unsigned INTEGER_LEFT = INTEGER_TILE * INTEGER_LEFT_PITCH;
constexpr unsigned INTEGER_STAGE = INTEGER_LEFT + INTEGER_WORDS * INTEGER_RIGHT_PITCH;
// Words of the whole: two stages, where the sums are in the end, then parts of the sums of rows and of columns.
constexpr unsigned INTEGER_SHARED = 2 * INTEGER_STAGE + 4 * INTEGER_TILE + INTEGER_WORDS * INTEGER_TILE;
// Columns of a panel of constant weights.
constexpr unsigned INTEGER_PANEL = 16;
static_assert(2 * INTEGER_STAGE >= INTEGER_TILE * INTEGER_RIGHT_PITCH, "the sums have room");

#ifdef INTEGER_SHARED_BYTES
static_assert(INTEGER_SHARED * 4 == INTEGER_SHARED_BYTES, "the host has another idea of the shared memory");
#endif

// How many of an operand there are.
enum Per : unsigned { PER_NONE, PER_TENSOR, PER_EACH };

// How an 8-bit integer is made of a number.
struct ToInteger {
  float scale;
  int zero, low, high;
};

// What an 8-bit integer stands for.
struct ToNumber {
  float scale;
  int zero;
};

// What the elements of a residual are.
enum ResidualType : unsigned { RESIDUAL_FLOAT, RESIDUAL_UNSIGNED, RESIDUAL_SIGNED };

// What happens to a sum.
struct IntegerEnd {
  Operand zeros[2], bias, factors, shift, residual, y;
  // Zero points of both operands, and whether the operands are unsigned.
  unsigned zeros_per[2], is_unsigned[2];
  unsigned has_bias;
  // Whether the integer is stored as it is: nothing of the rest holds then.
  unsigned is_plain;
  unsigned factors_per, has_shift;
  // Whether it becomes an 8-bit integer, and that a number again.
  unsigned rounds;
  ToInteger rounding;
  ToNumber rounded;
  // 0 for no residual.
  unsigned residual_pixel_stride, residual_type;
  ToNumber residual_of;
  Function activation;
  // Whether an 8-bit integer is made of it.
  unsigned requantizes;
  ToInteger requantize;
  unsigned reserved;
};

struct IntegerConvDescriptor {
  Operand x, weights;
  IntegerEnd end;
  unsigned in_h, in_w, in_pixel_stride;
  unsigned out_h, out_w, out_pixel_stride;
  unsigned kernel_h, kernel_w;
  unsigned stride_h, stride_w;
  unsigned pad_h, pad_w;
  unsigned dilation_h, dilation_w;
  // Of a group.
  unsigned inputs, outputs, depth;
  // Pixels of all images.
  unsigned rows;
  unsigned row_tiles, column_tiles;
  // Neighbouring channels that may be read at once: 16, 4 or 1.
  unsigned in_run;
  unsigned reserved;
};

struct IntegerMatMulDescriptor {
  Operand a, b;
  IntegerEnd end;
  // Strides along m and k, k and n, and m.
  long long a_strides[2], b_strides[2], c_row_stride;
  // Of the batch's axes, outermost first: strides of a, b and c.
  long long batch_strides[MATMUL_RANK_MAX][3];
  unsigned batch_dims[MATMUL_RANK_MAX];
  unsigned batch_rank;
  unsigned m, n, k;
  unsigned row_tiles, column_tiles;
  // Neighbours along k may be read four at a time.
  unsigned a_in_fours, b_in_fours;
};

#ifdef INTEGER_CONV_DESCRIPTOR_BYTES
static_assert(sizeof(IntegerConvDescriptor) == INTEGER_CONV_DESCRIPTOR_BYTES,
              "the host has another idea of the descriptor");
static_assert(sizeof(IntegerMatMulDescriptor) == INTEGER_MATMUL_DESCRIPTOR_BYTES,
              "the host has another idea of the descriptor");
#endif

struct alignas(16) Words4 {
  unsigned v[4];
};

// A zero point as it is multiplied.
__device__ __forceinline__ int zero_of(const IntegerEnd &end, const Places &places, unsigned side,
                                       unsigned long long index) {
  const int offset = end.is_unsigned[side] ? 128 : 0;
  if (end.zeros_per[side] == PER_NONE) return -offset;
  const unsigned long long at = end.zeros_per[side] == PER_EACH ? index : 0;
  const unsigned char byte = places.at<const unsigned char>(end.zeros[side])[at];
  return offset ? byte - offset : static_cast<signed char>(byte);
}

// Makes the bytes of a word signed ones, if they are not.
__device__ __forceinline__ unsigned signs_of(const IntegerEnd &end, unsigned side) {
  return end.is_unsigned[side] ? 0x80808080u : 0;
}

__device__ __forceinline__ int requantized(const ToInteger &to, float value) {
  const float steps = rintf(value / to.scale);
  if (steps != steps) return to.low;
  // Further away than any zero point, as good as infinite, and exact as an integer.
  const float kept = steps < -65536.f ? -65536.f : steps > 65536.f ? 65536.f : steps;
  const int moved = static_cast<int>(kept) + to.zero;
  return moved < to.low ? to.low : moved > to.high ? to.high : moved;
}

__device__ __forceinline__ float dequantized(const ToNumber &of, int integer) {
  return static_cast<float>(integer - of.zero) * of.scale;
}

// An element of the residual as a number.
__device__ __forceinline__ float residual_of(const IntegerEnd &end, const Places &places, unsigned long long at) {
  if (end.residual_type == RESIDUAL_FLOAT) return places.at<const float>(end.residual)[at];
  const unsigned char byte = places.at<const unsigned char>(end.residual)[at];
  const bool is_signed = end.residual_type == RESIDUAL_SIGNED;
  return dequantized(end.residual_of, is_signed ? static_cast<signed char>(byte) : byte);
}

// Stores what becomes of a sum at `to`; `row` and `channel` are where the operands have theirs.
__device__ __forceinline__ void finish_integer(const IntegerEnd &end, const Places &places, unsigned sum,
                                               unsigned long long to, unsigned long long row, unsigned channel) {
  if (end.has_bias) sum += places.at<const unsigned>(end.bias)[channel];
  if (end.is_plain) {
    places.at<unsigned>(end.y)[to] = sum;
    return;
  }
  float value = static_cast<float>(static_cast<int>(sum));
  if (end.factors_per != PER_NONE) {
    value *= places.at<const float>(end.factors)[end.factors_per == PER_EACH ? channel : 0];
  }
  if (end.has_shift) value += places.at<const float>(end.shift)[channel];
  if (end.rounds) value = dequantized(end.rounded, requantized(end.rounding, value));
  if (end.residual_pixel_stride) {
    value += residual_of(end, places, row * end.residual_pixel_stride + channel);
  }
  value = apply(end.activation, value);
  if (end.requantizes) {
    places.at<unsigned char>(end.y)[to] = static_cast<unsigned char>(requantized(end.requantize, value));
  } else {
    places.at<float>(end.y)[to] = value;
  }
}

// A tile of sums, in the registers of eight warps: each has 16 rows and four times 8 columns.
struct IntegerTile {
  unsigned *const shared;
  unsigned sums[4][4];

  __device__ __forceinline__ explicit IntegerTile(unsigned char *arena) : shared(reinterpret_cast<unsigned *>(arena)) {
    for (unsigned n = 0; n < 4; n++) {
      for (unsigned i = 0; i < 4; i++) sums[n][i] = 0;
    }
  }

  static __device__ __forceinline__ unsigned first_row() { return threadIdx.x / 64 * 16; }
  static __device__ __forceinline__ unsigned first_column() { return threadIdx.x / 32 % 2 * 32; }

  __device__ __forceinline__ unsigned *left(unsigned step) const { return shared + step % 2 * INTEGER_STAGE; }
  __device__ __forceinline__ unsigned *right(unsigned step) const { return left(step) + INTEGER_LEFT; }
  // Parts of the sums of rows, four of each, and of columns, one of each word of a step.
  __device__ __forceinline__ unsigned *row_sums() const { return shared + 2 * INTEGER_STAGE; }
  __device__ __forceinline__ unsigned *column_sums() const { return row_sums() + 4 * INTEGER_TILE; }

  __device__ __forceinline__ void multiply(unsigned step) {
    const unsigned lane = threadIdx.x % 32;
    const unsigned *const lefts = left(step) + (first_row() + lane / 4) * INTEGER_LEFT_PITCH + lane % 4;
    const unsigned *const rights = right(step) + lane % 4 * INTEGER_RIGHT_PITCH + first_column() + lane / 4;
    REEF_UNROLLED
    for (unsigned word = 0; word < INTEGER_WORDS; word += 8) {
      const unsigned one[4] = {lefts[word], lefts[8 * INTEGER_LEFT_PITCH + word], lefts[word + 4],
                               lefts[8 * INTEGER_LEFT_PITCH + word + 4]};
      REEF_UNROLLED
      for (unsigned n = 0; n < 4; n++) {
        const unsigned other[2] = {rights[word * INTEGER_RIGHT_PITCH + n * 8],
                                   rights[(word + 4) * INTEGER_RIGHT_PITCH + n * 8]};
        multiply_integers(sums[n], one, other);
      }
    }
  }

  // Multiplies `steps` steps; false if all are to leave. `fetch(step)` loads what the thread brings, starting copies
  // or keeping it, and `keep(step)` puts it where it belongs.
  template <class Fetch, class Keep>
  __device__ __forceinline__ bool run(const Context &context, unsigned steps, Fetch fetch, Keep keep) {
    if (steps > 0) {
      fetch(0);
      keep(0);
      copies_waited<0>();
    }
    for (unsigned step = 0; step < steps; step++) {
      context.ask(step % 2);
      context.sync();
      if (context.answer(step % 2)) return false;
      // Into the place of the step before, with which all are through.
      const bool more = step + 1 < steps;
      if (more) fetch(step + 1);
      multiply(step);
      if (more) {
        keep(step + 1);
        copies_waited<0>();
      }
    }
    context.sync();
    return true;
  }

  // The sums to shared memory, and the parts of the sums of rows and columns added up; `own_row_sum` is the thread's
  // part, and its four parts of columns are there if `has_column_sums`.
  __device__ __forceinline__ void spread(const Context &context, unsigned own_row_sum, bool has_column_sums) {
    row_sums()[threadIdx.x % 4 * INTEGER_TILE + threadIdx.x / 4] = own_row_sum;
    const unsigned lane = threadIdx.x % 32;
    REEF_UNROLLED
    for (unsigned n = 0; n < 4; n++) {
      REEF_UNROLLED
      for (unsigned i = 0; i < 4; i++) {
        const unsigned row = first_row() + i / 2 * 8 + lane / 4;
        shared[row * INTEGER_RIGHT_PITCH + first_column() + n * 8 + lane % 4 * 2 + i % 2] = sums[n][i];
      }
    }
    context.sync();
    if (threadIdx.x < INTEGER_TILE) {
      unsigned *const own = row_sums() + threadIdx.x;
      for (unsigned part = 1; part < 4; part++) own[0] += own[part * INTEGER_TILE];
    } else if (has_column_sums && threadIdx.x < 2 * INTEGER_TILE) {
      unsigned *const own = column_sums() + threadIdx.x - INTEGER_TILE;
      for (unsigned part = 1; part < INTEGER_WORDS; part++) own[0] += own[part * INTEGER_TILE];
    }
    context.sync();
  }

  // A sum without its zero points; `a` and `b` are those.
  __device__ __forceinline__ unsigned sum(unsigned row, unsigned column, int a, int b, unsigned column_sum,
                                          unsigned depth) const {
    const unsigned left_zero = static_cast<unsigned>(a), right_zero = static_cast<unsigned>(b);
    return shared[row * INTEGER_RIGHT_PITCH + column] - left_zero * column_sum - right_zero * row_sums()[row] +
           left_zero * right_zero * depth;
  }
};

REEF_TILE bool integer_conv_tile(const IntegerConvDescriptor &d, const Places &places, unsigned block,
                                 const Context &context) {
  const unsigned tiles = d.row_tiles * d.column_tiles;
  const unsigned group = block / tiles;
  const unsigned first_row = block % tiles / d.column_tiles * INTEGER_TILE;
  const unsigned first_column = block % tiles % d.column_tiles * INTEGER_TILE;
  const unsigned words = (d.depth + 3) / 4;

  // What this thread brings of a step: 16 integers of a pixel, and a word of four columns.
  const unsigned own_row = threadIdx.x / 4;
  const unsigned own_k = threadIdx.x % 4 * 16;
  const unsigned own_word = threadIdx.x / 16;
  const unsigned own_column = threadIdx.x % 16 * 4;
  const unsigned pixel = first_row + own_row;
  const bool exists = pixel < d.rows;
  const unsigned image = pixel / (d.out_h * d.out_w);
  const unsigned place = pixel % (d.out_h * d.out_w);
  const int top = static_cast<int>(place / d.out_w * d.stride_h) - static_cast<int>(d.pad_h);
  const int left = static_cast<int>(place % d.out_w * d.stride_w) - static_cast<int>(d.pad_w);
  const unsigned char *const x = places.at<const unsigned char>(d.x) +
                                 static_cast<unsigned long long>(image) * d.in_h * d.in_w * d.in_pixel_stride +
                                 group * d.inputs;
  const unsigned panels = (d.outputs + INTEGER_PANEL - 1) / INTEGER_PANEL;
  const unsigned long long panel_bytes = (words + 1ull) * INTEGER_PANEL * 4;
  const unsigned char *const weights =
      places.at<const unsigned char>(d.weights) + static_cast<unsigned long long>(group) * panels * panel_bytes;
  const unsigned own_panel = (first_column + own_column) / INTEGER_PANEL;
  const unsigned char *const own_weights =
      weights + own_panel * panel_bytes + (own_word * INTEGER_PANEL + own_column % INTEGER_PANEL) * 4;
  const unsigned signs = signs_of(d.end, 0);
  // What padding counts as: the one zero point of x. Where there are several there is none.
  const unsigned padding = (static_cast<unsigned>(zero_of(d.end, places, 0, 0)) & 0xFFu) * 0x01010101u;
  const IntegerConvDescriptor hot = d;
  const bool has_window = hot.kernel_h * hot.kernel_w > 1;

  // Where channel `k` of the window is; null where there is nothing but padding.
  const auto source = [&](unsigned k) -> const unsigned char * {
    const unsigned tap = has_window ? k / hot.inputs : 0;
    const int in_y = top + static_cast<int>(tap / hot.kernel_w * hot.dilation_h);
    const int in_x = left + static_cast<int>(tap % hot.kernel_w * hot.dilation_w);
    if (in_y < 0 || in_y >= static_cast<int>(hot.in_h) || in_x < 0 || in_x >= static_cast<int>(hot.in_w)) {
      return nullptr;
    }
    return x + (static_cast<unsigned long long>(in_y) * hot.in_w + in_x) * hot.in_pixel_stride +
           (k - tap * hot.inputs);
  };
  Words4 brought;
  unsigned row_sum = 0;
  const auto fetch = [&](unsigned step) {
    const unsigned first = step * INTEGER_WORDS * 4 + own_k;
    for (unsigned i = 0; i < 4; i++) brought.v[i] = 0;
    if (exists && hot.in_run == 16) {
      if (first < hot.depth) {
        const unsigned char *const from = source(first);
        if (from != nullptr) brought = *reinterpret_cast<const Words4 *>(from);
        REEF_UNROLLED
        for (unsigned i = 0; i < 4; i++) brought.v[i] = from == nullptr ? padding : brought.v[i] ^ signs;
      }
    } else if (exists && hot.in_run == 4) {
      REEF_UNROLLED
      for (unsigned i = 0; i < 4; i++) {
        if (first + i * 4 >= hot.depth) continue;
        const unsigned char *const from = source(first + i * 4);
        brought.v[i] = from == nullptr ? padding : *reinterpret_cast<const unsigned *>(from) ^ signs;
      }
    } else if (exists) {
      REEF_UNROLLED
      for (unsigned i = 0; i < 4; i++) {
        REEF_ROLLED
        for (unsigned j = 0; j < 4; j++) {
          const unsigned k = first + i * 4 + j;
          if (k >= hot.depth) continue;
          const unsigned char *const from = source(k);
          const unsigned byte = from == nullptr ? padding & 0xFFu : *from ^ (signs & 0xFFu);
          brought.v[i] |= byte << j * 8;
        }
      }
    }
    unsigned *const to = reinterpret_cast<unsigned *>(context.shared) + step % 2 * INTEGER_STAGE + INTEGER_LEFT +
                         own_word * INTEGER_RIGHT_PITCH + own_column;
    const bool there = own_panel < panels && step * INTEGER_WORDS + own_word < words;
    const unsigned long long skipped = 1ull * step * INTEGER_WORDS * INTEGER_PANEL * 4;
    copy_16(to, there ? own_weights + skipped : weights, there);
    copies_grouped();
  };
  IntegerTile tile(context.shared);
  const auto keep = [&](unsigned step) {
    *reinterpret_cast<Words4 *>(tile.left(step) + own_row * INTEGER_LEFT_PITCH + own_k / 4) = brought;
    REEF_UNROLLED
    for (unsigned i = 0; i < 4; i++) row_sum = add_bytes(row_sum, brought.v[i]);
  };
  if (!tile.run(context, (words + INTEGER_WORDS - 1) / INTEGER_WORDS, fetch, keep)) return false;
  tile.spread(context, row_sum, false);

  REEF_ROLLED
  for (unsigned element = threadIdx.x; element < INTEGER_TILE * INTEGER_TILE; element += THREADS) {
    const unsigned row = element / INTEGER_TILE, column = element % INTEGER_TILE;
    const unsigned long long made = first_row + row;
    const unsigned channel = first_column + column;
    if (made >= d.rows || channel >= d.outputs) continue;
    const unsigned of_all = group * d.outputs + channel;
    const unsigned char *const panel = weights + channel / INTEGER_PANEL * panel_bytes;
    const unsigned column_sum =
        reinterpret_cast<const unsigned *>(panel)[words * INTEGER_PANEL + channel % INTEGER_PANEL];
    const unsigned sum = tile.sum(row, column, zero_of(d.end, places, 0, made), zero_of(d.end, places, 1, of_all),
                                  column_sum, d.depth);
    finish_integer(d.end, places, sum, made * d.out_pixel_stride + of_all, made, of_all);
  }
  return true;
}

REEF_TILE bool integer_matmul_tile(const IntegerMatMulDescriptor &d, const Places &places, unsigned block,
                                   const Context &context) {
  const unsigned first_row = block % d.row_tiles * INTEGER_TILE;
  const unsigned first_column = block / d.row_tiles % d.column_tiles * INTEGER_TILE;
  const unsigned plane = block / d.row_tiles / d.column_tiles;
  const unsigned char *a = places.at<const unsigned char>(d.a), *b = places.at<const unsigned char>(d.b);
  unsigned long long c = 0;
  unsigned rest = plane;
  for (unsigned axis = d.batch_rank; axis-- > 0;) {
    const unsigned at = rest % d.batch_dims[axis];
    rest /= d.batch_dims[axis];
    a += at * d.batch_strides[axis][0];
    b += at * d.batch_strides[axis][1];
    c += at * d.batch_strides[axis][2];
  }

  // What this thread brings of a step: 16 integers of a row, and a word of four columns.
  const unsigned own_row = threadIdx.x / 4;
  const unsigned own_k = threadIdx.x % 4 * 16;
  const unsigned own_word = threadIdx.x / 16;
  const unsigned own_column = threadIdx.x % 16 * 4;
  const bool exists = first_row + own_row < d.m;
  const unsigned signs[2] = {signs_of(d.end, 0), signs_of(d.end, 1)};
  a += (first_row + own_row) * d.a_strides[0];
  b += (first_column + own_column) * d.b_strides[1];
  const unsigned m = d.m, n = d.n, depth = d.k;
  const long long a_stride = d.a_strides[1], b_stride = d.b_strides[0], b_across = d.b_strides[1];
  const bool a_in_fours = d.a_in_fours != 0, b_in_fours = d.b_in_fours != 0;
  // Four neighbours along k from `k` on; zeros behind the last one.
  const auto word = [depth](const unsigned char *from, long long stride, bool in_fours, unsigned k, unsigned flip) {
    if (k >= depth) return 0u;
    if (in_fours) return *reinterpret_cast<const unsigned *>(from + k) ^ flip;
    unsigned made = 0;
    REEF_UNROLLED
    for (unsigned j = 0; j < 4; j++) {
      if (k + j < depth) made |= (from[(k + j) * stride] ^ (flip & 0xFFu)) << j * 8;
    }
    return made;
  };
  Words4 lefts, rights;
  unsigned row_sum = 0, column_sums[4] = {};
  const auto fetch = [&](unsigned step) {
    const unsigned first = step * INTEGER_WORDS * 4;
    REEF_UNROLLED
    for (unsigned i = 0; i < 4; i++) {
      lefts.v[i] = exists ? word(a, a_stride, a_in_fours, first + own_k + i * 4, signs[0]) : 0;
      const bool there = first_column + own_column + i < n;
      rights.v[i] = there ? word(b + i * b_across, b_stride, b_in_fours, first + own_word * 4, signs[1]) : 0;
    }
  };
  IntegerTile tile(context.shared);
  const auto keep = [&](unsigned step) {
    *reinterpret_cast<Words4 *>(tile.left(step) + own_row * INTEGER_LEFT_PITCH + own_k / 4) = lefts;
    *reinterpret_cast<Words4 *>(tile.right(step) + own_word * INTEGER_RIGHT_PITCH + own_column) = rights;
    REEF_UNROLLED
    for (unsigned i = 0; i < 4; i++) {
      row_sum = add_bytes(row_sum, lefts.v[i]);
      column_sums[i] = add_bytes(column_sums[i], rights.v[i]);
    }
  };
  if (!tile.run(context, (depth + INTEGER_WORDS * 4 - 1) / (INTEGER_WORDS * 4), fetch, keep)) return false;
  REEF_UNROLLED
  for (unsigned i = 0; i < 4; i++) tile.column_sums()[own_word * INTEGER_TILE + own_column + i] = column_sums[i];
  tile.spread(context, row_sum, true);

  REEF_ROLLED
  for (unsigned element = threadIdx.x; element < INTEGER_TILE * INTEGER_TILE; element += THREADS) {
    const unsigned row = element / INTEGER_TILE, column = element % INTEGER_TILE;
    const unsigned long long made = first_row + row;
    const unsigned channel = first_column + column;
    if (made >= m || channel >= n) continue;
    const int left_zero = zero_of(d.end, places, 0, 1ull * plane * m + made);
    const int right_zero = zero_of(d.end, places, 1, 1ull * plane * n + channel);
    const unsigned sum = tile.sum(row, column, left_zero, right_zero, tile.column_sums()[column], depth);
    finish_integer(d.end, places, sum, c + made * d.c_row_stride + channel, made, channel);
  }
  return true;
}

}  // namespace reef
