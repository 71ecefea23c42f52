// Tile functions as kernels of their own, for the executor that queues them on streams (REEF-N of the paper).
//
// Each block looks whether its task was evicted before it starts, and is skipped then. The last block to be
// through, skipped or not, tells the host how the launch ended: whole, or evicted, and then all of its blocks
// run again. Kernels of a graph tell nothing: its last node does, for all of them.
#pragma once
#include "along.cuh"
#include "attention.cuh"
#include "conv.cuh"
#include "conv_tensor.cuh"
#include "elementwise.cuh"
#include "gather.cuh"
#include "integer.cuh"
#include "matmul.cuh"
#include "matmul_tensor.cuh"
#include "pool.cuh"
#include "recurrent.cuh"
#include "rows.cuh"
#include "synthetic.cuh"

namespace reef {

// How a launch ended, in memory of the host. `number` is written last. Each slot has one on the device for its graphs.
struct Report {
  // On the device's clock: when block 0 began, and when the last one was through.
  unsigned long long begun_ns, ended_ns;
  // The value that a kernel could do nothing with, if `failed` is not zero, which is the kernel's index and 1. The host
  // makes it zero again.
  long long failed_value;
  unsigned failed;
  // Blocks that were skipped.
  unsigned skipped;
  unsigned reserved;
  // The launch that this is about.
  unsigned number;
};

// What a launch is, by `Launch::part`: one of its own, the first kernel of a graph, one behind it.
constexpr unsigned PART_OWN = 0, PART_FIRST = 1, PART_REST = 2;

struct Launch {
  // Of a graph's last node, the host's reports, of which there are `blocks`.
  const void *descriptor;
  // The task's memory.
  unsigned char *base;
  // The last epoch of the task's launches whose blocks do not start any more. Behind it the epoch of the slot's graph,
  // and the number of its launch.
  const unsigned *evicted;
  // Blocks that are through in the lower half, those that ran in the upper one; zero between launches. In a graph, the
  // blocks that were skipped. Behind it
  // the words of `Context::arrived`, which only tile functions write.
  unsigned long long *arrivals;
  Report *report;
  unsigned number;
  // The first of the kernel's blocks, and how many.
  unsigned first, blocks;
  // The tile function, as in `REEF_TILE_FUNCTIONS`.
  unsigned function;
  // When this was queued: later ones have larger numbers, around the end of numbers too.
  unsigned epoch;
  // The kernel's index in its plan.
  unsigned kernel;
  unsigned part, reserved;
  // Never the same for two launches with the same words, never 0.
  unsigned long long run;
};

// Two kernels in one launch: the blocks of the second fill the multiprocessors that those of the first leave.
struct Padded {
  Launch kernel, padding;
};

__device__ __forceinline__ bool is_evicted(const Launch &launch) {
  const unsigned epoch = launch.part == PART_OWN ? launch.epoch : load_relaxed(launch.evicted + 1);
  return static_cast<int>(epoch - load_relaxed(launch.evicted)) <= 0;
}

// What a tile function is given by this executor. Where the compiler sees it, it knows that the arena is shared
// memory, and that nothing tells to stop.
__device__ __forceinline__ Context context_of(const Context &other) {
  unsigned char *const arena = shared_arena();
  return {arena + CONTROL_BYTES, reinterpret_cast<unsigned *>(arena) + 1, nullptr, other.failed, other.failed_value,
          other.fails_as, other.run, other.arrived};
}

// Block `index` of a launch, which `tile` makes.
template <class Tile>
__device__ __forceinline__ void run_block(const Launch &launch, unsigned index, Tile tile) {
  unsigned char *const arena = shared_arena();
  unsigned *const control = reinterpret_cast<unsigned *>(arena);
  Report *const report = launch.report;
  const Context context = {arena + CONTROL_BYTES, control + 1, nullptr, &report->failed, &report->failed_value,
                           launch.kernel + 1, launch.run, launch.arrivals + 1};
  if (threadIdx.x == 0) {
    if (index == 0 && launch.part != PART_REST) report->begun_ns = device_clock_ns();
    control[0] = is_evicted(launch);
  }
  context.sync();
  const bool starts = control[0] == 0;
  if (starts) {
    const Places places = {launch.base};
    tile(launch.descriptor, places, launch.first + index, context);
  }
  context.sync();
  if (threadIdx.x != 0) return;
  if (launch.part != PART_OWN) {
    if (!starts) add_acquire_release(launch.arrivals, 1);
    return;
  }
  const unsigned long long own = 1 + (starts ? 1ull << 32 : 0);
  const unsigned long long through = add_acquire_release(launch.arrivals, own) + own;
  if (static_cast<unsigned>(through) != launch.blocks) return;
  *launch.arrivals = 0;
  report->ended_ns = device_clock_ns();
  report->skipped = launch.blocks - static_cast<unsigned>(through >> 32);
  store_release(&report->number, launch.number);
}

}  // namespace reef

#ifdef LAUNCH_BYTES
static_assert(sizeof(reef::Padded) == 2 * LAUNCH_BYTES, "the host has another idea of two launches");
static_assert(sizeof(reef::Launch) == LAUNCH_BYTES, "the host has another idea of a launch");
static_assert(reef::SPLIT_BLOCKS * sizeof(unsigned long long) == ARRIVED_BYTES, "the host has other words");
static_assert(sizeof(reef::Report) == REPORT_BYTES, "the host has another idea of a report");
#endif

// Every tile function: its number, its descriptor, and how many of its blocks a multiprocessor has registers for.
// That is 2 or 4, which a launch beside others of that number goes by; `descriptor.rs` has the same list.
#define REEF_TILE_FUNCTIONS(X)                          \
  X(0, attention_bf16, AttentionDescriptor, 2)          \
  X(1, attention_f16, AttentionDescriptor, 2)           \
  X(2, attention_tf32, AttentionDescriptor, 2)          \
  X(3, conv, ConvDescriptor, 2)                         \
  X(4, conv_bf16, ConvDescriptor, 2)                    \
  X(5, conv_bf16_narrow, ConvDescriptor, 2)             \
  X(6, conv_bf16_narrow_normed, ConvDescriptor, 2)      \
  X(7, conv_bf16_normed, ConvDescriptor, 2)             \
  X(8, conv_f16, ConvDescriptor, 2)                     \
  X(9, conv_f16_narrow, ConvDescriptor, 2)              \
  X(10, conv_f16_narrow_normed, ConvDescriptor, 2)      \
  X(11, conv_f16_normed, ConvDescriptor, 2)             \
  X(12, conv_normed, ConvDescriptor, 2)                 \
  X(13, conv_tf32, ConvDescriptor, 2)                   \
  X(14, conv_tf32_narrow, ConvDescriptor, 2)            \
  X(15, conv_tf32_narrow_normed, ConvDescriptor, 2)     \
  X(16, conv_tf32_normed, ConvDescriptor, 2)            \
  X(17, elementwise, ElementwiseDescriptor, 4)          \
  X(18, gather, GatherDescriptor, 4)                    \
  X(19, layer_norm, LayerNormDescriptor, 4)             \
  X(20, matmul, MatMulDescriptor, 2)                    \
  X(21, matmul_bf16, MatMulDescriptor, 2)               \
  X(22, matmul_f16, MatMulDescriptor, 2)                \
  X(23, matmul_tf32, MatMulDescriptor, 2)               \
  X(24, reduce, ReduceDescriptor, 4)                    \
  X(25, softmax, SoftmaxDescriptor, 4)                  \
  X(26, synthetic, SyntheticDescriptor, 4)              \
  X(27, window, WindowDescriptor, 4)                    \
  X(28, integer_conv, IntegerConvDescriptor, 2)         \
  X(29, integer_matmul, IntegerMatMulDescriptor, 2)     \
  X(30, recurrent, RecurrentDescriptor, 2)              \
  X(31, attention_bf16_wide, AttentionDescriptor, 2)    \
  X(32, attention_bf16_widest, AttentionDescriptor, 2)  \
  X(33, attention_f16_wide, AttentionDescriptor, 2)     \
  X(34, attention_f16_widest, AttentionDescriptor, 2)   \
  X(35, attention_tf32_wide, AttentionDescriptor, 2)    \
  X(36, attention_tf32_widest, AttentionDescriptor, 2)  \
  X(37, along, AlongDescriptor, 4)                      \
  X(38, resample, ResampleDescriptor, 4)

#define REEF_QUEUE_KERNEL(number, name, Descriptor, together)                                                        \
  extern "C" __global__ void __launch_bounds__(256, together) reef_queue_##name(reef::Launch launch) {               \
    using namespace reef;                                                                                            \
    run_block(launch, blockIdx.x,                                                                                    \
              [](const void *descriptor, const Places &places, unsigned block, const Context &context) {             \
                name##_tile(*static_cast<const Descriptor *>(descriptor), places, block, context);                   \
              });                                                                                                    \
  }

REEF_TILE_FUNCTIONS(REEF_QUEUE_KERNEL)

// The proxies: any two kernels of which so many blocks fit a multiprocessor at least. Tile functions are functions of
// their own here; all of them in one would take the compiler minutes.
#define REEF_APART(number, name, Descriptor, together)                                                               \
  template <unsigned TOGETHER>                                                                                       \
  __device__ __noinline__ void name##_apart(const void *descriptor, const Places &places, unsigned block,            \
                                            const Context &context) {                                                \
    const Context own = context_of(context);                                                                         \
    name##_tile(*static_cast<const Descriptor *>(descriptor), places, block, own);                                   \
  }

#define REEF_CASE(number, name, Descriptor, together)                                                                \
  case number:                                                                                                       \
    if constexpr (together >= TOGETHER) name##_apart<TOGETHER>(descriptor, places, block, context);                  \
    break;

namespace reef {

REEF_TILE_FUNCTIONS(REEF_APART)

template <unsigned TOGETHER>
__device__ __forceinline__ void run_padded(const Padded &padded) {
  const bool pads = blockIdx.x >= padded.kernel.blocks;
  const Launch &launch = pads ? padded.padding : padded.kernel;
  const unsigned index = pads ? blockIdx.x - padded.kernel.blocks : blockIdx.x;
  const unsigned function = launch.function;
  run_block(launch, index,
            [function](const void *descriptor, const Places &places, unsigned block, const Context &context) {
              switch (function) { REEF_TILE_FUNCTIONS(REEF_CASE) }
            });
}

}  // namespace reef

extern "C" __global__ void __launch_bounds__(256, 2) reef_queue_padded_2(reef::Padded padded) {
  reef::run_padded<2>(padded);
}
extern "C" __global__ void __launch_bounds__(256, 4) reef_queue_padded_4(reef::Padded padded) {
  reef::run_padded<4>(padded);
}

// Tells the host that the stream has come to here: one block that makes nothing, and is skipped like others.
extern "C" __global__ void __launch_bounds__(1) reef_queue_mark(reef::Launch launch) {
  const unsigned long long now = reef::device_clock_ns();
  launch.report->begun_ns = now;
  launch.report->ended_ns = now;
  launch.report->skipped = reef::is_evicted(launch);
  reef::store_release(&launch.report->number, launch.number);
}

// The last node of a graph: tells the host how all of it ended.
extern "C" __global__ void __launch_bounds__(1) reef_queue_graph_end(reef::Launch launch) {
  const unsigned number = reef::load_relaxed(launch.evicted + 2);
  reef::Report *const own = launch.report;
  reef::Report *const host =
      const_cast<reef::Report *>(static_cast<const reef::Report *>(launch.descriptor)) + number % launch.blocks;
  host->begun_ns = own->begun_ns;
  host->ended_ns = reef::device_clock_ns();
  host->failed_value = own->failed_value;
  host->failed = own->failed;
  host->skipped = static_cast<unsigned>(*launch.arrivals);
  own->failed = 0;
  *launch.arrivals = 0;
  reef::store_release(&host->number, number);
}
