// What the kernels need of a GPU that CUDA C++ has no word for. One wrapper each; the only file with PTX in it.
// The emulator has a file of its own in its place.
#pragma once

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

// Makes a word of 0 a 1; whether it was this thread that did.
__device__ __forceinline__ bool claim_once(unsigned *at) {
  unsigned before;
  asm volatile("atom.relaxed.sys.global.cas.b32 %0, [%1], 0, 1;" : "=r"(before) : "l"(at) : "memory");
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

// Lets others of the multiprocessor run for a moment.
__device__ __forceinline__ void pause() { asm volatile("nanosleep.u32 100;"); }

// Nanoseconds on the device's clock.
__device__ __forceinline__ unsigned long long device_clock_ns() {
  unsigned long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

}  // namespace reef
