// What tensor cores multiply: f32 elements, rounded on the way to tf32, f16 or bf16; sums are f32. And the tile of
// such products that a block makes.
//
// Elements lie in shared memory in chunks of 16 along k: of each row (or column) 16 neighbours. A lane takes four
// neighbours of a row at once: which of the hardware's k they are taken for does not matter, as long as left and
// right are taken alike. So a warp reads shared memory in one piece, without conflicts.
#pragma once
#include "tile.cuh"

namespace reef {

// Elements of a chunk.
constexpr unsigned CHUNK = 16;

struct alignas(16) Floats4 {
  float v[4];
};
struct alignas(8) Shorts4 {
  unsigned v[2];
};

// Elements of 32 bits, 10 of them behind the point.
struct Tf32 {
  // A constant as it is packed: rounded already.
  using Packed = Floats4;
  static constexpr unsigned PACKED_BYTES = 4;
  // Of a chunk what a lane multiplies: two rows of the left, one column of the right.
  struct Left {
    unsigned at[8];
  };
  struct Right {
    unsigned at[4];
  };
  static __device__ __forceinline__ Left left(const Floats4 &low, const Floats4 &high) {
    Left made;
    for (unsigned half = 0; half < 2; half++) {
      for (unsigned i = 0; i < 2; i++) {
        made.at[half * 4 + i * 2] = to_tf32(low.v[half * 2 + i]);
        made.at[half * 4 + i * 2 + 1] = to_tf32(high.v[half * 2 + i]);
      }
    }
    return made;
  }
  static __device__ __forceinline__ Right right(const Floats4 &from) {
    Right made;
    for (unsigned i = 0; i < 4; i++) made.at[i] = to_tf32(from.v[i]);
    return made;
  }
  static __device__ __forceinline__ Right packed(const Packed &from) {
    Right made;
    for (unsigned i = 0; i < 4; i++) made.at[i] = bits_of(from.v[i]);
    return made;
  }
  static __device__ __forceinline__ void multiply(float (&sums)[4], const Left &left, const Right &right) {
    multiply_tf32(sums, left.at, right.at);
    multiply_tf32(sums, left.at + 4, right.at + 2);
  }
};

// What f16 and bf16 share.
struct Sixteen {
  using Packed = Shorts4;
  static constexpr unsigned PACKED_BYTES = 2;
  struct Left {
    unsigned at[4];
  };
  struct Right {
    unsigned at[2];
  };
  static __device__ __forceinline__ Right packed(const Packed &from) { return {from.v[0], from.v[1]}; }
};

struct Half : Sixteen {
  static __device__ __forceinline__ Left left(const Floats4 &low, const Floats4 &high) {
    return {to_halves(low.v[0], low.v[1]), to_halves(high.v[0], high.v[1]), to_halves(low.v[2], low.v[3]),
            to_halves(high.v[2], high.v[3])};
  }
  static __device__ __forceinline__ Right right(const Floats4 &from) {
    return {to_halves(from.v[0], from.v[1]), to_halves(from.v[2], from.v[3])};
  }
  static __device__ __forceinline__ void multiply(float (&sums)[4], const Left &left, const Right &right) {
    multiply_half(sums, left.at, right.at);
  }
};

struct Bfloat : Sixteen {
  static __device__ __forceinline__ Left left(const Floats4 &low, const Floats4 &high) {
    return {to_bfloats(low.v[0], low.v[1]), to_bfloats(high.v[0], high.v[1]), to_bfloats(low.v[2], low.v[3]),
            to_bfloats(high.v[2], high.v[3])};
  }
  static __device__ __forceinline__ Right right(const Floats4 &from) {
    return {to_bfloats(from.v[0], from.v[1]), to_bfloats(from.v[2], from.v[3])};
  }
  static __device__ __forceinline__ void multiply(float (&sums)[4], const Left &left, const Right &right) {
    multiply_bfloat(sums, left.at, right.at);
  }
};

// Rows of a block's tile; chunks that a step multiplies; steps whose operands are in shared memory or on their way.
constexpr unsigned TENSOR_ROWS = 64;
constexpr unsigned TENSOR_CHUNKS = 2;
constexpr unsigned TENSOR_STAGES = 4;

// What is done to elements of the left operand before they are rounded: nothing.
struct AsIs {
  static constexpr unsigned BYTES = 0;
  // For the columns of a lane, of what lies behind a chunk.
  __device__ __forceinline__ AsIs(const unsigned char *, unsigned) {}
  __device__ __forceinline__ Floats4 operator()(const Floats4 &from) const { return from; }
};

// A tile of `TENSOR_ROWS` by `COLUMNS`, in the registers of eight warps: each has a part of `M` times 16 rows and
// two times 8 columns. The right operand is packed as it is multiplied, or f32. `Before` is what is done to the left
// one; what it needs for that lies behind each chunk.
template <class P, unsigned COLUMNS, bool PACKED, class Before = AsIs>
struct TensorTile {
  static constexpr unsigned RIGHT_BYTES = PACKED ? P::PACKED_BYTES : 4;
  static constexpr unsigned WARPS_ACROSS = COLUMNS / 16;
  static constexpr unsigned M = TENSOR_ROWS / 16 * WARPS_ACROSS / 8;
  static constexpr unsigned LEFT_BYTES = TENSOR_ROWS * CHUNK * 4;
  static constexpr unsigned OPERANDS_BYTES = LEFT_BYTES + COLUMNS * CHUNK * RIGHT_BYTES;
  static constexpr unsigned CHUNK_BYTES = OPERANDS_BYTES + Before::BYTES;
  static constexpr unsigned STAGE_BYTES = TENSOR_CHUNKS * CHUNK_BYTES;
  // Keeps rows of sums off each other's banks.
  static constexpr unsigned PITCH = COLUMNS + 8;
  static constexpr unsigned PIPELINE_BYTES = TENSOR_STAGES * STAGE_BYTES;
  static constexpr unsigned SHARED_BYTES =
      PIPELINE_BYTES > TENSOR_ROWS * PITCH * 4 ? PIPELINE_BYTES : TENSOR_ROWS * PITCH * 4;
  static_assert(M > 0 && THREADS == 256, "eight warps share a tile");

  float sums[M][2][4];

  __device__ __forceinline__ TensorTile() {
    for (unsigned m = 0; m < M; m++) {
      for (unsigned n = 0; n < 2; n++) {
        for (unsigned i = 0; i < 4; i++) sums[m][n][i] = 0.f;
      }
    }
  }

  static __device__ __forceinline__ unsigned first_row() { return threadIdx.x / 32 / WARPS_ACROSS * M * 16; }
  static __device__ __forceinline__ unsigned first_column() { return threadIdx.x / 32 % WARPS_ACROSS * 16; }

  // Where chunk `chunk` of a step lies: its left part, then the right one, then what `Before` needs.
  static __device__ __forceinline__ unsigned char *chunk_at(unsigned char *shared, unsigned step, unsigned chunk) {
    return shared + step % TENSOR_STAGES * STAGE_BYTES + chunk * CHUNK_BYTES;
  }

  // Adds the products of a chunk: its left part, its right one, and what `Before` needs.
  __device__ __forceinline__ void multiply_chunk(const unsigned char *left_at, const unsigned char *right_at,
                                                 const unsigned char *before_at = nullptr) {
    const unsigned lane = threadIdx.x % 32;
    // Four lanes to a row, four elements each.
    const auto *const lefts = reinterpret_cast<const Floats4 *>(left_at) + first_row() * (CHUNK / 4) + lane;
    const Before before(before_at, lane % 4);
    typename P::Left left[M];
    REEF_UNROLLED
    for (unsigned m = 0; m < M; m++) {
      left[m] = P::left(before(lefts[m * 16 * (CHUNK / 4)]), before(lefts[(m * 16 + 8) * (CHUNK / 4)]));
    }
    REEF_UNROLLED
    for (unsigned n = 0; n < 2; n++) {
      const typename P::Right right = right_of(right_at, (first_column() + n * 8) * (CHUNK / 4) + lane);
      REEF_UNROLLED
      for (unsigned m = 0; m < M; m++) P::multiply(sums[m][n], left[m], right);
    }
  }

  // The same in fewer registers: 16 rows after the other, as nothing is done to the left part.
  __device__ __forceinline__ void multiply_chunk_by_rows(const unsigned char *left_at, const unsigned char *right_at) {
    const unsigned lane = threadIdx.x % 32;
    const auto *const lefts = reinterpret_cast<const Floats4 *>(left_at) + first_row() * (CHUNK / 4) + lane;
    REEF_UNROLLED
    for (unsigned m = 0; m < M; m++) {
      const typename P::Left left = P::left(lefts[m * 16 * (CHUNK / 4)], lefts[(m * 16 + 8) * (CHUNK / 4)]);
      REEF_UNROLLED
      for (unsigned n = 0; n < 2; n++) {
        P::multiply(sums[m][n], left, right_of(right_at, (first_column() + n * 8) * (CHUNK / 4) + lane));
      }
    }
  }

  // Adds the products of a step.
  __device__ __forceinline__ void multiply(unsigned char *shared, unsigned step) {
    REEF_UNROLLED
    for (unsigned chunk = 0; chunk < TENSOR_CHUNKS; chunk++) {
      const unsigned char *const at = chunk_at(shared, step, chunk);
      multiply_chunk(at, at + LEFT_BYTES, at + OPERANDS_BYTES);
    }
  }

  // Multiplies `steps` steps, which `fetch(step)` starts to copy; false if all are to leave.
  template <class Fetch>
  __device__ __forceinline__ bool run(const Context &context, unsigned steps, Fetch fetch) {
    for (unsigned step = 0; step + 1 < TENSOR_STAGES; step++) {
      if (step < steps) fetch(step);
      copies_grouped();
    }
    for (unsigned step = 0; step < steps; step++) {
      copies_waited<TENSOR_STAGES - 2>();
      context.ask(step % 2);
      context.sync();
      if (context.answer(step % 2)) {
        copies_waited<0>();
        return false;
      }
      // Into the place of the step before, with which all are through.
      if (step + TENSOR_STAGES - 1 < steps) fetch(step + TENSOR_STAGES - 1);
      copies_grouped();
      multiply(context.shared, step);
    }
    copies_waited<0>();
    context.sync();
    return true;
  }

  // Multiplies each row of sums by a factor.
  __device__ __forceinline__ void scale_rows(const float *factors) {
    REEF_UNROLLED
    for (unsigned m = 0; m < M; m++) {
      REEF_UNROLLED
      for (unsigned i = 0; i < 4; i++) {
        const float factor = factors[first_row() + m * 16 + i / 2 * 8 + threadIdx.x % 32 / 4];
        for (unsigned n = 0; n < 2; n++) sums[m][n][i] *= factor;
      }
    }
  }

  // The sums to shared memory, rows of `PITCH`. Nobody uses what was there any more, nor copies to it.
  __device__ __forceinline__ void spread(float *shared) const {
    const unsigned lane = threadIdx.x % 32;
    REEF_UNROLLED
    for (unsigned m = 0; m < M; m++) {
      REEF_UNROLLED
      for (unsigned n = 0; n < 2; n++) {
        REEF_UNROLLED
        for (unsigned i = 0; i < 4; i++) {
          const unsigned row = first_row() + m * 16 + i / 2 * 8 + lane / 4;
          shared[row * PITCH + first_column() + n * 8 + lane % 4 * 2 + i % 2] = sums[m][n][i];
        }
      }
    }
  }

 private:
  static __device__ __forceinline__ typename P::Right right_of(const unsigned char *at, unsigned element) {
    if constexpr (PACKED) {
      return P::packed(reinterpret_cast<const typename P::Packed *>(at)[element]);
    } else {
      return P::right(reinterpret_cast<const Floats4 *>(at)[element]);
    }
  }
};

}  // namespace reef
