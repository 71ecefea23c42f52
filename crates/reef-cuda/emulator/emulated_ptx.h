// What stands in for ptx.cuh of the kernels.
#pragma once
#include <atomic>
#include <chrono>

#include "language.h"

namespace reef {

inline unsigned char *shared_arena() { return emulator::this_block().shared; }

inline void barrier_sync(unsigned id, unsigned threads) { emulator::barrier(id, threads); }

inline unsigned load_relaxed(const unsigned *at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }

inline void store_release(unsigned *at, unsigned value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }

inline unsigned long long add_acquire_release(unsigned long long *at, unsigned long long by) {
  return __atomic_fetch_add(at, by, __ATOMIC_ACQ_REL);
}

inline bool claim_once(unsigned *at) {
  unsigned expected = 0;
  return __atomic_compare_exchange_n(at, &expected, 1u, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
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

inline void pause() { emulator::give_way(); }

inline unsigned long long device_clock_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<unsigned long long>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

}  // namespace reef
