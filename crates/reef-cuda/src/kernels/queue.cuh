// Tile functions as kernels of their own, for the executor that queues them on streams (REEF-N of the paper).
//
// Each block looks whether its task was evicted before it starts, and is skipped then. The last block to be
// through, skipped or not, tells the host how the launch ended: whole, or evicted, and then all of its blocks
// run again.
#pragma once
#include "conv.cuh"
#include "conv_tensor.cuh"
#include "elementwise.cuh"
#include "gather.cuh"
#include "matmul.cuh"
#include "matmul_tensor.cuh"
#include "pool.cuh"
#include "rows.cuh"
#include "synthetic.cuh"

namespace reef {

// How a launch ended, in memory of the host. `number` is written last.
struct Report {
  // On the device's clock: when block 0 began, and when the last one was through.
  unsigned long long begun_ns, ended_ns;
  // The value that a kernel could do nothing with, if `failed` is not zero. The host makes it zero again.
  long long failed_value;
  unsigned failed;
  // Blocks that were skipped.
  unsigned skipped;
  unsigned reserved;
  // The launch that this is about.
  unsigned number;
};

struct Launch {
  const void *descriptor;
  // The task's memory.
  unsigned char *base;
  // Not zero: the task's blocks do not start.
  const unsigned *evicted;
  // Blocks that are through in the lower half, those that ran in the upper one; zero between launches. Behind it
  // the words of `Context::arrived`, which only tile functions write.
  unsigned long long *arrivals;
  Report *report;
  unsigned number;
  unsigned blocks;
  // Never the same for two launches with the same words, never 0.
  unsigned long long run;
};

template <class Descriptor, bool (*tile)(const Descriptor &, const Places &, unsigned, const Context &)>
__device__ __forceinline__ void run_block(const Launch &launch) {
  unsigned char *const arena = shared_arena();
  unsigned *const control = reinterpret_cast<unsigned *>(arena);
  Report *const report = launch.report;
  const Context context = {arena + CONTROL_BYTES, control + 1, nullptr, &report->failed, &report->failed_value,
                           launch.run, launch.arrivals + 1};
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0) launch.report->begun_ns = device_clock_ns();
    control[0] = load_relaxed(launch.evicted);
  }
  context.sync();
  const bool starts = control[0] == 0;
  if (starts) {
    const Places places = {launch.base};
    tile(*static_cast<const Descriptor *>(launch.descriptor), places, blockIdx.x, context);
  }
  context.sync();
  if (threadIdx.x != 0) return;
  const unsigned long long own = 1 + (starts ? 1ull << 32 : 0);
  const unsigned long long through = add_acquire_release(launch.arrivals, own) + own;
  if (static_cast<unsigned>(through) != launch.blocks) return;
  *launch.arrivals = 0;
  launch.report->ended_ns = device_clock_ns();
  launch.report->skipped = launch.blocks - static_cast<unsigned>(through >> 32);
  store_release(&launch.report->number, launch.number);
}

}  // namespace reef

#ifdef LAUNCH_BYTES
static_assert(sizeof(reef::Launch) == LAUNCH_BYTES, "the host has another idea of a launch");
static_assert(reef::SPLIT_BLOCKS * sizeof(unsigned long long) == ARRIVED_BYTES, "the host has other words");
static_assert(sizeof(reef::Report) == REPORT_BYTES, "the host has another idea of a report");
#endif

#define REEF_QUEUE_KERNEL(name, Descriptor)                                                     \
  extern "C" __global__ void __launch_bounds__(256, 1) reef_queue_##name(reef::Launch launch) {   \
    reef::run_block<reef::Descriptor, reef::name##_tile>(launch);                              \
  }

REEF_QUEUE_KERNEL(conv, ConvDescriptor)
REEF_QUEUE_KERNEL(conv_tf32, ConvDescriptor)
REEF_QUEUE_KERNEL(conv_f16, ConvDescriptor)
REEF_QUEUE_KERNEL(conv_bf16, ConvDescriptor)
REEF_QUEUE_KERNEL(conv_tf32_narrow, ConvDescriptor)
REEF_QUEUE_KERNEL(conv_f16_narrow, ConvDescriptor)
REEF_QUEUE_KERNEL(conv_bf16_narrow, ConvDescriptor)
REEF_QUEUE_KERNEL(elementwise, ElementwiseDescriptor)
REEF_QUEUE_KERNEL(window, WindowDescriptor)
REEF_QUEUE_KERNEL(matmul, MatMulDescriptor)
REEF_QUEUE_KERNEL(matmul_tf32, MatMulDescriptor)
REEF_QUEUE_KERNEL(matmul_f16, MatMulDescriptor)
REEF_QUEUE_KERNEL(matmul_bf16, MatMulDescriptor)
REEF_QUEUE_KERNEL(reduce, ReduceDescriptor)
REEF_QUEUE_KERNEL(softmax, SoftmaxDescriptor)
REEF_QUEUE_KERNEL(layer_norm, LayerNormDescriptor)
REEF_QUEUE_KERNEL(gather, GatherDescriptor)
REEF_QUEUE_KERNEL(synthetic, SyntheticDescriptor)

// Tells the host that the stream has come to here: one block that makes nothing, and is skipped like others.
extern "C" __global__ void __launch_bounds__(1) reef_queue_mark(reef::Launch launch) {
  const unsigned long long now = reef::device_clock_ns();
  launch.report->begun_ns = now;
  launch.report->ended_ns = now;
  launch.report->skipped = reef::load_relaxed(launch.evicted) != 0;
  reef::store_release(&launch.report->number, launch.number);
}
