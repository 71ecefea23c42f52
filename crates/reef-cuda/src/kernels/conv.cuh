// A convolution, or a matrix product with constant weights, in f32: an implicit matrix product of pixels with the
// weights of a group, of which a block makes a tile. Sums go over k in order, one multiply-add after the other, so
// results do not depend on the cut.
#pragma once
#include "scalar.cuh"
#include "tile.cuh"

namespace reef {

// Pixels and output channels of a tile, and products that are in shared memory at a time.
constexpr unsigned CONV_ROWS = 64;
constexpr unsigned CONV_COLUMNS = 64;
constexpr unsigned CONV_DEPTH = 16;
// Of the pixels' part: keeps the threads that write a column of it off each other's banks.
constexpr unsigned CONV_PITCH = CONV_ROWS + 4;
constexpr unsigned CONV_SHARED_BYTES = CONV_DEPTH * (CONV_PITCH + CONV_COLUMNS) * sizeof(float);

struct ConvDescriptor {
  Operand x, weights, bias, residual, y;
  // Where the parts of a tile are until they are added.
  Operand parts;
  // By input channel, where the input is normed.
  Operand scale, shift;
  unsigned in_h, in_w, in_pixel_stride;
  unsigned out_h, out_w, out_pixel_stride;
  unsigned kernel_h, kernel_w;
  unsigned stride_h, stride_w;
  unsigned pad_h, pad_w;
  unsigned dilation_h, dilation_w;
  // Of a group.
  unsigned inputs, outputs, depth;
  // Elements from one row of the weights to the next; for tensor cores columns of a chunk of them.
  unsigned weight_stride;
  // Pixels of all images.
  unsigned rows;
  unsigned row_tiles, column_tiles;
  unsigned has_bias;
  // 0 for no residual.
  unsigned residual_pixel_stride;
  Function activation;
  // For tensor cores: chunks of a group along k, blocks that share a tile, and chunks of each of them.
  unsigned chunks, splits, split_chunks;
  // Four channels may be read at a time.
  unsigned in_fours;
};

#ifdef CONV_DESCRIPTOR_BYTES
static_assert(sizeof(ConvDescriptor) == CONV_DESCRIPTOR_BYTES, "the host has another idea of the descriptor");
#endif

// An element of the input as a normed convolution multiplies it: what a kernel before it would have written.
__device__ __forceinline__ float normed(float x, float scale, float shift) {
  const float moved = x * scale + shift;
  return moved < 0.f ? 0.f : moved;
}

// `NORMED` is for unpadded 1x1 windows of one group: what a thread brings it norms on the way.
template <bool NORMED>
__device__ __forceinline__ bool conv_plain(const ConvDescriptor &d, const Places &places, unsigned block,
                                           const Context &context) {
  float(*const pixels)[CONV_PITCH] = reinterpret_cast<float(*)[CONV_PITCH]>(context.shared);
  float(*const filters)[CONV_COLUMNS] =
      reinterpret_cast<float(*)[CONV_COLUMNS]>(context.shared + CONV_DEPTH * CONV_PITCH * sizeof(float));
  const unsigned tiles = d.row_tiles * d.column_tiles;
  const unsigned group = block / tiles;
  const unsigned inside = block % tiles;
  const unsigned first_row = inside / d.column_tiles * CONV_ROWS;
  const unsigned first_column = inside % d.column_tiles * CONV_COLUMNS;
  const unsigned thread = threadIdx.x;

  // What this thread brings: four products of one pixel, four channels of one row of the weights.
  const unsigned own_row = thread / 4;
  const unsigned own_k = thread % 4 * 4;
  const unsigned own_depth = thread / 16;
  const unsigned own_column = thread % 16 * 4;
  const unsigned pixel = first_row + own_row;
  const bool exists = pixel < d.rows;
  const unsigned image = pixel / (d.out_h * d.out_w);
  const unsigned place = pixel % (d.out_h * d.out_w);
  const int top = static_cast<int>(place / d.out_w * d.stride_h) - static_cast<int>(d.pad_h);
  const int left = static_cast<int>(place % d.out_w * d.stride_w) - static_cast<int>(d.pad_w);
  const float *const x = places.at<const float>(d.x) +
                         static_cast<unsigned long long>(image) * d.in_h * d.in_w * d.in_pixel_stride +
                         group * d.inputs;
  const float *const weights =
      places.at<const float>(d.weights) + static_cast<unsigned long long>(group) * d.depth * d.weight_stride;

  // What it makes: four pixels times four channels.
  const unsigned row = thread / 16 * 4;
  const unsigned column = thread % 16 * 4;
  float sums[4][4] = {};
  for (unsigned step = 0; step < d.depth; step += CONV_DEPTH) {
    for (unsigned i = 0; i < 4; i++) {
      const unsigned k = step + own_k + i;
      float value = 0.f;
      if (exists && k < d.depth) {
        const unsigned tap = k / d.inputs;
        const int in_y = top + static_cast<int>(tap / d.kernel_w * d.dilation_h);
        const int in_x = left + static_cast<int>(tap % d.kernel_w * d.dilation_w);
        if (in_y >= 0 && in_y < static_cast<int>(d.in_h) && in_x >= 0 && in_x < static_cast<int>(d.in_w)) {
          value = x[(static_cast<unsigned long long>(in_y) * d.in_w + in_x) * d.in_pixel_stride + k % d.inputs];
          if constexpr (NORMED) {
            value = normed(value, places.at<const float>(d.scale)[k], places.at<const float>(d.shift)[k]);
          }
        }
      }
      pixels[own_k + i][own_row] = value;
      const bool there = step + own_depth < d.depth && first_column + own_column + i < d.outputs;
      filters[own_depth][own_column + i] =
          there ? weights[static_cast<unsigned long long>(step + own_depth) * d.weight_stride + first_column +
                          own_column + i]
                : 0.f;
    }
    context.ask();
    context.sync();
    if (context.answer()) return false;
    REEF_UNROLLED_4
    for (unsigned k = 0; k < CONV_DEPTH; k++) {
      for (unsigned i = 0; i < 4; i++) {
        for (unsigned j = 0; j < 4; j++) {
          sums[i][j] = fmaf(pixels[k][row + i], filters[k][column + j], sums[i][j]);
        }
      }
    }
    context.sync();
  }

  const float *const bias = places.at<const float>(d.bias);
  const float *const residual = places.at<const float>(d.residual);
  float *const y = places.at<float>(d.y);
  REEF_UNROLLED
  for (unsigned i = 0; i < 4; i++) {
    const unsigned long long made = first_row + row + i;
    REEF_UNROLLED
    for (unsigned j = 0; j < 4; j++) {
      const unsigned channel = first_column + column + j;
      if (made >= d.rows || channel >= d.outputs) continue;
      const unsigned of_all = group * d.outputs + channel;
      float value = sums[i][j];
      if (d.has_bias) value += bias[of_all];
      if (d.residual_pixel_stride) value += residual[made * d.residual_pixel_stride + of_all];
      y[made * d.out_pixel_stride + of_all] = apply(d.activation, value);
    }
  }
  return true;
}

REEF_TILE bool conv_tile(const ConvDescriptor &d, const Places &places, unsigned block, const Context &context) {
  return conv_plain<false>(d, places, block, context);
}
REEF_TILE bool conv_normed_tile(const ConvDescriptor &d, const Places &places, unsigned block,
                                const Context &context) {
  return conv_plain<true>(d, places, block, context);
}

}  // namespace reef
