// A convolution, or a matrix product with constant weights, on tensor cores. What is multiplied is rounded, sums are
// f32. Where there are few tiles, several blocks share one, each with a part of k (`splits`): the last one to be
// through adds the parts, always in the same order.
#pragma once
#include "conv.cuh"
#include "precision.cuh"

namespace reef {

// Where a thread is on its way along k: a tap of the window, and a channel of the group.
struct ConvCursor {
  unsigned y, x, channel;

  __device__ __forceinline__ ConvCursor(const ConvDescriptor &d, unsigned k) {
    const unsigned tap = k / d.inputs;
    channel = k % d.inputs;
    y = tap / d.kernel_w;
    x = tap % d.kernel_w;
  }

  __device__ __forceinline__ void advance(const ConvDescriptor &d, unsigned by) {
    channel += by;
    while (channel >= d.inputs) {
      channel -= d.inputs;
      if (++x == d.kernel_w) {
        x = 0;
        y++;
      }
    }
  }
};

// Whether all parts of a tile are there, of which this block has written one; `first` is the first one's number. If several blocks are the last one, all
// of them add: the same numbers. A part that is written again, by another run, is another part.
__device__ __forceinline__ bool all_parts_there(const Context &context, unsigned first, unsigned part,
                                                unsigned parts) {
  unsigned long long *const arrived = context.arrived + first;
  context.sync();
  if (threadIdx.x == 0) {
    store_release(arrived + part, context.run);
    fence_in_one_order();
    bool all = true;
    // One fence behind all of the words: with one behind each, each would wait for the one before.
    for (unsigned other = 0; other < parts; other++) all &= load_relaxed(arrived + other) == context.run;
    fence_acquire();
    context.verdict[0] = all;
  }
  context.sync();
  return context.verdict[0] != 0;
}

// Norms elements of the input: a scale and a shift for each of a chunk.
struct Normed {
  static constexpr unsigned BYTES = 2 * CHUNK * 4;
  Floats4 scale, shift;

  __device__ __forceinline__ Normed(const unsigned char *at, unsigned four)
      : scale(reinterpret_cast<const Floats4 *>(at)[four]),
        shift(reinterpret_cast<const Floats4 *>(at)[CHUNK / 4 + four]) {}

  __device__ __forceinline__ Floats4 operator()(const Floats4 &from) const {
    Floats4 made;
    for (unsigned i = 0; i < 4; i++) made.v[i] = normed(from.v[i], scale.v[i], shift.v[i]);
    return made;
  }

  // Starts to copy what a chunk from channel `first` on needs, with one warp. Behind the last channel come zeros:
  // weights are zero there, and with them nothing but a number gives zero.
  static __device__ __forceinline__ void fetch(unsigned char *to, const float *scale, const float *shift,
                                               unsigned first, unsigned end) {
    if (threadIdx.x >= 2 * CHUNK) return;
    const unsigned channel = first + threadIdx.x % CHUNK;
    const float *const from = threadIdx.x < CHUNK ? scale : shift;
    const bool exists = channel < end;
    copy_4(reinterpret_cast<float *>(to) + threadIdx.x, exists ? from + channel : from, exists);
  }
};

// `Before` is what is done to the input: nothing, or, for unpadded 1x1 windows of one group, `Normed`.
template <class P, unsigned COLUMNS, class Before>
__device__ __forceinline__ bool conv_tensor(const ConvDescriptor &d, const Places &places, unsigned block,
                                            const Context &context) {
  using Tile = TensorTile<P, COLUMNS, true, Before>;
  const unsigned split = block % d.splits;
  const unsigned of_all = block / d.splits;
  const unsigned tiles = d.row_tiles * d.column_tiles;
  const unsigned group = of_all / tiles;
  const unsigned first_row = of_all % tiles / d.column_tiles * TENSOR_ROWS;
  const unsigned first_column = of_all % tiles % d.column_tiles * COLUMNS;
  const unsigned first_chunk = split * d.split_chunks;
  const unsigned end_chunk = first_chunk + d.split_chunks < d.chunks ? first_chunk + d.split_chunks : d.chunks;

  // What this thread brings of a chunk: four products of one pixel, and pieces of the weights.
  const unsigned own_row = threadIdx.x / 4;
  const unsigned own_k = threadIdx.x % 4 * 4;
  const unsigned pixel = first_row + own_row;
  const unsigned image = pixel / (d.out_h * d.out_w);
  const unsigned place = pixel % (d.out_h * d.out_w);
  // So that it lies outside, a pixel that does not exist is far above the image.
  const int top = pixel < d.rows ? static_cast<int>(place / d.out_w * d.stride_h) - static_cast<int>(d.pad_h)
                                 : -(1 << 30);
  const int left = static_cast<int>(place % d.out_w * d.stride_w) - static_cast<int>(d.pad_w);
  const float *const all_x = places.at<const float>(d.x);
  const float *const x = all_x + static_cast<unsigned long long>(image) * d.in_h * d.in_w * d.in_pixel_stride +
                         group * d.inputs;
  const unsigned char *const weights = places.at<const unsigned char>(d.weights) +
                                       (static_cast<unsigned long long>(group) * d.chunks * d.weight_stride +
                                        first_column) * CHUNK * P::PACKED_BYTES;
  const unsigned long long chunk_bytes = static_cast<unsigned long long>(d.weight_stride) * CHUNK * P::PACKED_BYTES;
  [[maybe_unused]] const float *const scale = places.at<const float>(d.scale);
  [[maybe_unused]] const float *const shift = places.at<const float>(d.shift);
  // What the loop needs, in registers: memory is read anew after every copy and barrier.
  const ConvDescriptor hot = d;
  ConvCursor cursor(hot, first_chunk * CHUNK + own_k);
  const auto source = [&](const ConvCursor &at, bool &exists) {
    const int in_y = top + static_cast<int>(at.y * hot.dilation_h);
    const int in_x = left + static_cast<int>(at.x * hot.dilation_w);
    exists = exists && at.y < hot.kernel_h && in_y >= 0 && in_y < static_cast<int>(hot.in_h) && in_x >= 0 &&
             in_x < static_cast<int>(hot.in_w);
    if (!exists) return all_x;
    return x + (static_cast<unsigned long long>(in_y) * hot.in_w + in_x) * hot.in_pixel_stride + at.channel;
  };
  // A pixel of a 1x1 window, and the end of its channels: none where there is no pixel.
  [[maybe_unused]] const float *const own_x =
      pixel < d.rows ? x + (static_cast<unsigned long long>(top) * d.in_w + left) * d.in_pixel_stride : all_x;
  [[maybe_unused]] const unsigned own_end = pixel < d.rows ? d.inputs : 0;
  const auto bring_channels = [&](float *own, unsigned first, unsigned end) {
    if (hot.in_fours) {
      copy_16(own, first < end ? own_x + first : all_x, first < end);
      return;
    }
    for (unsigned j = 0; j < 4; j++) {
      const bool exists = first + j < end;
      copy_4(own + j, exists ? own_x + first + j : all_x, exists);
    }
  };
  const auto bring_window = [&](float *own, bool has) {
    if (hot.in_fours) {
      bool exists = has;
      const float *const from = source(cursor, exists);
      copy_16(own, from, exists);
    } else {
      ConvCursor at = cursor;
      for (unsigned j = 0; j < 4; j++) {
        bool exists = has;
        const float *const from = source(at, exists);
        copy_4(own + j, from, exists);
        at.advance(hot, 1);
      }
    }
    cursor.advance(hot, CHUNK);
  };
  // Steps come in order.
  const auto fetch = [&](unsigned step) {
    for (unsigned i = 0; i < TENSOR_CHUNKS; i++) {
      const unsigned chunk = first_chunk + step * TENSOR_CHUNKS + i;
      const bool has = chunk < end_chunk;
      unsigned char *const to = Tile::chunk_at(context.shared, step, i);
      float *const own = reinterpret_cast<float *>(to) + own_row * CHUNK + own_k;
      if constexpr (Before::BYTES > 0) {
        bring_channels(own, chunk * CHUNK + own_k, has ? own_end : 0);
        Before::fetch(to + Tile::OPERANDS_BYTES, scale, shift, chunk * CHUNK, has ? hot.inputs : 0);
      } else {
        bring_window(own, has);
      }
      for (unsigned piece = threadIdx.x; piece < COLUMNS * P::PACKED_BYTES; piece += THREADS) {
        const bool exists = has && first_column + piece / P::PACKED_BYTES < hot.weight_stride;
        copy_16(to + Tile::LEFT_BYTES + piece * 16, exists ? weights + chunk * chunk_bytes + piece * 16 : weights,
                exists);
      }
    }
  };
  Tile tile;
  if (!tile.run(context, (end_chunk - first_chunk + TENSOR_CHUNKS - 1) / TENSOR_CHUNKS, fetch)) return false;
  float *const shared = reinterpret_cast<float *>(context.shared);
  tile.spread(shared);
  context.sync();

  constexpr unsigned ELEMENTS = TENSOR_ROWS * COLUMNS;
  const float *parts = nullptr;
  if (d.splits > 1) {
    float *const of_tile =
        places.at<float>(d.parts) + static_cast<unsigned long long>(of_all) * d.splits * ELEMENTS;
    for (unsigned element = threadIdx.x; element < ELEMENTS; element += THREADS) {
      of_tile[split * ELEMENTS + element] = shared[element / COLUMNS * Tile::PITCH + element % COLUMNS];
    }
    if (!all_parts_there(context, of_all * d.splits, split, d.splits)) return true;
    parts = of_tile;
  }
  const float *const bias = places.at<const float>(d.bias);
  const float *const residual = places.at<const float>(d.residual);
  float *const y = places.at<float>(d.y);
  REEF_ROLLED
  for (unsigned element = threadIdx.x; element < ELEMENTS; element += THREADS) {
    const unsigned long long made = first_row + element / COLUMNS;
    const unsigned channel = first_column + element % COLUMNS;
    if (made >= d.rows || channel >= d.outputs) continue;
    float value = 0.f;
    if (parts == nullptr) value = shared[element / COLUMNS * Tile::PITCH + element % COLUMNS];
    for (unsigned part = 0; parts != nullptr && part < d.splits; part++) value += parts[part * ELEMENTS + element];
    const unsigned output = group * d.outputs + channel;
    if (d.has_bias) value += bias[output];
    if (d.residual_pixel_stride) value += residual[made * d.residual_pixel_stride + output];
    y[made * d.out_pixel_stride + output] = apply(d.activation, value);
  }
  return true;
}

#define REEF_CONV_TENSOR(name, P, columns, Before)                                                                   \
  REEF_TILE bool name(const ConvDescriptor &d, const Places &places, unsigned block, const Context &context) {       \
    return conv_tensor<P, columns, Before>(d, places, block, context);                                               \
  }

REEF_CONV_TENSOR(conv_tf32_tile, Tf32, 64, AsIs)
REEF_CONV_TENSOR(conv_f16_tile, Half, 64, AsIs)
REEF_CONV_TENSOR(conv_bf16_tile, Bfloat, 64, AsIs)
REEF_CONV_TENSOR(conv_tf32_narrow_tile, Tf32, 32, AsIs)
REEF_CONV_TENSOR(conv_f16_narrow_tile, Half, 32, AsIs)
REEF_CONV_TENSOR(conv_bf16_narrow_tile, Bfloat, 32, AsIs)
REEF_CONV_TENSOR(conv_tf32_normed_tile, Tf32, 64, Normed)
REEF_CONV_TENSOR(conv_f16_normed_tile, Half, 64, Normed)
REEF_CONV_TENSOR(conv_bf16_normed_tile, Bfloat, 64, Normed)
REEF_CONV_TENSOR(conv_tf32_narrow_normed_tile, Tf32, 32, Normed)
REEF_CONV_TENSOR(conv_f16_narrow_normed_tile, Half, 32, Normed)
REEF_CONV_TENSOR(conv_bf16_narrow_normed_tile, Bfloat, 32, Normed)

}  // namespace reef
