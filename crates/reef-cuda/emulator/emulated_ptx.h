// What stands in for ptx.cuh of the kernels.
#pragma once
#include <atomic>
#include <chrono>

#include "language.h"

#define REEF_UNROLLED
#define REEF_UNROLLED_4
#define REEF_ROLLED

namespace reef {

inline unsigned char *shared_arena() { return emulator::this_block().shared; }

inline void barrier_sync(unsigned id, unsigned threads) { emulator::barrier(id, threads); }

inline unsigned load_relaxed(const unsigned *at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }

inline void store_release(unsigned *at, unsigned value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }

inline unsigned long long add_acquire_release(unsigned long long *at, unsigned long long by) {
  return __atomic_fetch_add(at, by, __ATOMIC_ACQ_REL);
}

inline void store_release(unsigned long long *at, unsigned long long value) {
  __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

inline unsigned long long load_relaxed(const unsigned long long *at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }

inline void fence_acquire() { __atomic_thread_fence(__ATOMIC_ACQ_REL); }

inline void fence_in_one_order() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

inline bool claim_once(unsigned *at, unsigned value) {
  unsigned expected = 0;
  return __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

inline float of_half(unsigned short bits) {
  _Float16 value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<float>(value);
}
inline unsigned short to_half(float from) {
  const _Float16 value = static_cast<_Float16>(from);
  unsigned short bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline unsigned bits_of(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float of_bits(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float infinite() { return __builtin_huge_valf(); }

inline void copy_16(void *to, const void *from, bool exists) { emulator::copy_later(to, from, 16, exists); }
inline void copy_4(void *to, const void *from, bool exists) { emulator::copy_later(to, from, 4, exists); }
inline void copies_grouped() { emulator::end_group(); }
template <unsigned LATEST>
inline void copies_waited() {
  emulator::wait_for_groups(LATEST);
}

// To so many bits of f32's fraction, to the nearest, away from zero between two.
inline unsigned rounded_away(float value, unsigned bits_kept) {
  const unsigned bits = bits_of(value);
  const unsigned dropped = 23 - bits_kept;
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return (bits + (finite ? 1u << (dropped - 1) : 0u)) & ~((1u << dropped) - 1);
}
inline unsigned to_tf32(float value) { return rounded_away(value, 10); }
inline unsigned to_halves(float low, float high) { return to_half(low) | static_cast<unsigned>(to_half(high)) << 16; }
inline unsigned to_bfloat(float value) {
  const unsigned bits = bits_of(value);
  if (value != value) return 0x7fff;
  return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
inline unsigned to_bfloats(float low, float high) { return to_bfloat(low) | to_bfloat(high) << 16; }

inline float of_lane_across(float value, unsigned bits) {
  const unsigned(*const all)[6] = emulator::exchange_in_warp({bits_of(value), 0, 0, 0, 0, 0});
  return of_bits(all[(threadIdx.x % 32) ^ bits][0]);
}

// What a lane brings to a product, and what it takes home: see ptx.cuh. `element` reads element `i` of a register.
template <unsigned PER_REGISTER, class Sum, class Element>
inline void multiply_by_lanes(Sum (&sums)[4], const unsigned *left, const unsigned *right, Element element) {
  const unsigned(*const all)[6] = emulator::exchange_in_warp({left[0], left[1], left[2], left[3], right[0], right[1]});
  const unsigned lane = threadIdx.x % 32;
  constexpr unsigned K = 8 * PER_REGISTER;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned row = lane / 4 + i / 2 * 8;
    const unsigned column = lane % 4 * 2 + i % 2;
    Sum sum = sums[i];
    for (unsigned k = 0; k < K; k++) {
      const unsigned half = k / (K / 2);
      const unsigned t = k % (K / 2) / PER_REGISTER;
      const unsigned one = all[row % 8 * 4 + t][row / 8 + half * 2];
      const unsigned other = all[column * 4 + t][4 + half];
      sum += element(one, k % PER_REGISTER) * element(other, k % PER_REGISTER);
    }
    sums[i] = sum;
  }
}
inline void multiply_tf32(float (&sums)[4], const unsigned *left, const unsigned *right) {
  // The hardware does not look at the low bits.
  multiply_by_lanes<1>(sums, left, right, [](unsigned bits, unsigned) { return of_bits(bits & 0xffffe000u); });
}
inline void multiply_half(float (&sums)[4], const unsigned *left, const unsigned *right) {
  const auto element = [](unsigned bits, unsigned i) { return of_half(static_cast<unsigned short>(bits >> i * 16)); };
  multiply_by_lanes<2>(sums, left, right, element);
}
inline void multiply_bfloat(float (&sums)[4], const unsigned *left, const unsigned *right) {
  multiply_by_lanes<2>(sums, left, right, [](unsigned bits, unsigned i) { return of_bits(bits >> i * 16 << 16); });
}

inline void multiply_integers(unsigned (&sums)[4], const unsigned *left, const unsigned *right) {
  // As unsigned numbers they wrap.
  multiply_by_lanes<4>(sums, left, right, [](unsigned bits, unsigned i) {
    return static_cast<unsigned>(static_cast<int>(static_cast<signed char>(bits >> i * 8)));
  });
}
inline unsigned add_bytes(unsigned sum, unsigned bytes) {
  for (unsigned i = 0; i < 4; i++) {
    sum += static_cast<unsigned>(static_cast<int>(static_cast<signed char>(bytes >> i * 8)));
  }
  return sum;
}

inline void pause() { emulator::give_way(); }

inline unsigned long long device_clock_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<unsigned long long>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

}  // namespace reef
