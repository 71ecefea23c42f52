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

inline unsigned long long device_clock_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<unsigned long long>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

}  // namespace reef
