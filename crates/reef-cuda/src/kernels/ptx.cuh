// What the kernels need of a GPU that CUDA C++ has no word for. One wrapper each; the only file with PTX in it.
// The emulator has a file of its own in its place.
#pragma once

// Before loops: unrolled, because they index registers; four times; or not, because that would only make code.
#define REEF_UNROLLED _Pragma("unroll")
#define REEF_UNROLLED_4 _Pragma("unroll 4")
#define REEF_ROLLED _Pragma("unroll 1")

namespace reef {

extern __shared__ __align__(128) unsigned char shared_bytes[];

// The block's shared memory, all of it dynamic.
__device__ __forceinline__ unsigned char *shared_arena() { return shared_bytes; }

// Waits until `threads` threads of the block have come to barrier `id`, with what they wrote to memory.
__device__ __forceinline__ void barrier_sync(unsigned id, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Reads a word that the host or another block may write meanwhile.
__device__ __forceinline__ unsigned load_relaxed(const unsigned *at) {
  unsigned value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}

// Writes a word for the host, behind all that this thread wrote or saw before.
__device__ __forceinline__ void store_release(unsigned *at, unsigned value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}

// Adds to a word and returns what it was; orders both ways inside the device.
__device__ __forceinline__ unsigned long long add_acquire_release(unsigned long long *at, unsigned long long by) {
  unsigned long long before;
  asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], %2;" : "=l"(before) : "l"(at), "l"(by) : "memory");
  return before;
}

// Writes a word for the device's other blocks, behind all that this thread wrote or saw before.
__device__ __forceinline__ void store_release(unsigned long long *at, unsigned long long value) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(at), "l"(value) : "memory");
}

// Reads a word that another block of the device writes.
__device__ __forceinline__ unsigned long long load_relaxed(const unsigned long long *at) {
  unsigned long long value;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
  return value;
}

// What this thread has read was there before all that it reads afterwards: what others of the device wrote before
// those words, too.
__device__ __forceinline__ void fence_acquire() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// Of two threads of the device that each write a word, then come here, then read the other's word, one at least
// sees what the other wrote.
__device__ __forceinline__ void fence_in_one_order() { asm volatile("fence.sc.gpu;" ::: "memory"); }

// Makes a word of 0 another one; whether it was this thread that did.
__device__ __forceinline__ bool claim_once(unsigned *at, unsigned value) {
  unsigned before;
  asm volatile("atom.relaxed.sys.global.cas.b32 %0, [%1], 0, %2;"
               : "=r"(before)
               : "l"(at), "r"(value)
               : "memory");
  return before == 0;
}

// Half precision, as its bits.
__device__ __forceinline__ float of_half(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
__device__ __forceinline__ unsigned short to_half(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ unsigned bits_of(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float of_bits(unsigned bits) { return __uint_as_float(bits); }

__device__ __forceinline__ float infinite() { return __int_as_float(0x7f800000); }

// Copies from global to shared memory beside what the thread goes on with: 16 bytes, or 4; zeros instead of them
// where `exists` is false, and then `from` is not read. Whoever waits for the copies of a thread is that thread.
__device__ __forceinline__ void copy_16(void *to, const void *from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(exists ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_4(void *to, const void *from, bool exists) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(exists ? 4 : 0)
               : "memory");
}
// The thread's copies since the last time are a group.
__device__ __forceinline__ void copies_grouped() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all groups of the thread but the last `LATEST` are there.
template <unsigned LATEST>
__device__ __forceinline__ void copies_waited() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LATEST) : "memory");
}

// Products of a warp on the tensor cores: sums[16][8] += left[16][8 or 16] right[8 or 16][8]. Lane 4 g + t has, two
// neighbours to a register where elements have 16 bits (2 t and 2 t + 1 in place of t):
// of the left rows g and g + 8 at k = t, then the same at k = t + 4 (or + 8); of the right column g at k = t, then
// k = t + 4 (or + 8); of the sums row g, columns 2 t and 2 t + 1, then row g + 8.
__device__ __forceinline__ void multiply_tf32(float (&sums)[4], const unsigned *left, const unsigned *right) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}
__device__ __forceinline__ void multiply_half(float (&sums)[4], const unsigned *left, const unsigned *right) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}
__device__ __forceinline__ void multiply_bfloat(float (&sums)[4], const unsigned *left, const unsigned *right) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}
// Of signed 8-bit integers, four neighbours to a register: sums[16][8] += left[16][32] right[32][8], wrapped. Lanes have
// what they have of floats, at k = 4 t and on, and k = 16 + 4 t and on.
__device__ __forceinline__ void multiply_integers(unsigned (&sums)[4], const unsigned *left, const unsigned *right) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}
// A sum and four signed bytes more.
__device__ __forceinline__ unsigned add_bytes(unsigned sum, unsigned bytes) {
  unsigned made;
  asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(made) : "r"(bytes), "r"(0x01010101u), "r"(sum));
  return made;
}
// The value of the lane whose number differs from the own one's in these bits; all lanes of the warp ask.
__device__ __forceinline__ float of_lane_across(float value, unsigned bits) {
  float other;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(other) : "f"(value), "r"(bits));
  return other;
}

// A float as tensor cores take it: of 10 bits behind the point, to the nearest; or two as 16 bits, `low` first.
__device__ __forceinline__ unsigned to_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}
__device__ __forceinline__ unsigned to_halves(float low, float high) {
  unsigned bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
__device__ __forceinline__ unsigned to_bfloats(float low, float high) {
  unsigned bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

// Lets others of the multiprocessor run for a moment.
__device__ __forceinline__ void pause() { asm volatile("nanosleep.u32 100;"); }

// Nanoseconds on the device's clock.
__device__ __forceinline__ unsigned long long device_clock_ns() {
  unsigned long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

}  // namespace reef
