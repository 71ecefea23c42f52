// Windows over images, channel by channel: pooling, and depthwise convolutions. A block makes whole lines of the
// output.
#pragma once
#include "scalar.cuh"
#include "tile.cuh"

namespace reef {

enum WindowKind : unsigned {
  WINDOW_MAX,
  WINDOW_MEAN_INSIDE,
  WINDOW_MEAN_PADDED,
  WINDOW_WEIGHTED,
};

struct WindowDescriptor {
  // Weights, bias and residual are of depthwise convolutions.
  Operand x, weights, bias, residual, y;
  unsigned kind;
  unsigned channels;
  unsigned in_h, in_w, in_pixel_stride;
  unsigned out_h, out_w, out_pixel_stride;
  unsigned kernel_h, kernel_w;
  unsigned stride_h, stride_w;
  unsigned pad_top, pad_left;
  // Extents of the image with its padding on all sides.
  unsigned padded_h, padded_w;
  unsigned dilation_h, dilation_w;
  // Lines of all images, and of a block.
  unsigned lines, tile;
  unsigned has_bias;
  unsigned residual_pixel_stride;
  Function activation;
  unsigned reserved;
};

#ifdef WINDOW_DESCRIPTOR_BYTES
static_assert(sizeof(WindowDescriptor) == WINDOW_DESCRIPTOR_BYTES, "the host has another idea of the descriptor");
#endif

__device__ inline float window_value(const WindowDescriptor &d, const Places &places, unsigned pixel,
                                     unsigned channel) {
  const unsigned image = pixel / (d.out_h * d.out_w);
  const unsigned top = pixel / d.out_w % d.out_h * d.stride_h;
  const unsigned left = pixel % d.out_w * d.stride_w;
  const float *const x = places.at<const float>(d.x) + channel;
  const float *const weights = places.at<const float>(d.weights) + channel;
  const bool weighted = d.kind == WINDOW_WEIGHTED;
  float sum = 0.f;
  float largest = -infinite();
  unsigned inside = 0;
  unsigned padded = 0;
  for (unsigned tap = 0; tap < d.kernel_h * d.kernel_w; tap++) {
    const unsigned y_at = top + tap / d.kernel_w * d.dilation_h;
    const unsigned x_at = left + tap % d.kernel_w * d.dilation_w;
    padded += y_at < d.padded_h && x_at < d.padded_w;
    // What is left of the image, or above, wraps to more than it has.
    const unsigned in_y = y_at - d.pad_top;
    const unsigned in_x = x_at - d.pad_left;
    if (in_y >= d.in_h || in_x >= d.in_w) continue;
    const unsigned long long at = (static_cast<unsigned long long>(image) * d.in_h + in_y) * d.in_w + in_x;
    const float value = x[at * d.in_pixel_stride];
    sum = weighted ? fmaf(value, weights[tap * d.channels], sum) : sum + value;
    largest = larger(largest, value);
    inside++;
  }
  switch (d.kind) {
    case WINDOW_MAX:
      return largest;
    case WINDOW_MEAN_INSIDE:
      return sum / static_cast<float>(inside);
    case WINDOW_MEAN_PADDED:
      return sum / static_cast<float>(padded);
    default:
      if (d.has_bias) sum += places.at<const float>(d.bias)[channel];
      if (d.residual_pixel_stride) {
        sum += places.at<const float>(d.residual)[1ull * pixel * d.residual_pixel_stride + channel];
      }
      return apply(d.activation, sum);
  }
}

REEF_TILE bool window_tile(const WindowDescriptor &d, const Places &places, unsigned block, const Context &context) {
  const unsigned first = block * d.tile;
  const unsigned lines = d.tile < d.lines - first ? d.tile : d.lines - first;
  const unsigned elements = lines * d.out_w * d.channels;
  context.ask();
  context.sync();
  if (context.answer()) return false;
  for (unsigned flat = threadIdx.x; flat < elements; flat += THREADS) {
    const unsigned pixel = first * d.out_w + flat / d.channels;
    const unsigned channel = flat % d.channels;
    places.at<float>(d.y)[1ull * pixel * d.out_pixel_stride + channel] = window_value(d, places, pixel, channel);
  }
  return true;
}

}  // namespace reef
