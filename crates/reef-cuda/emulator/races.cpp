// See races.h. Built without the instrumentation that calls it.
#include "races.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

namespace emulator {
namespace races {
namespace {

constexpr uint32_t SEVERAL = UINT32_MAX;

// Who accessed a byte. An epoch of a block ends with a barrier of all its threads; inside one, `tick` is the thread's
// own count of the barriers that it came to.
struct Access {
  uint32_t block = 0;  // One more than its number; 0 is nobody.
  uint32_t epoch = 0;
  uint16_t thread = 0;
  uint16_t tick = 0;
};

struct Byte {
  uint32_t launch = 0;
  uint32_t reserved = 0;
  Access writer;
  // `block` is SEVERAL, or `thread` is SEVERAL_THREADS, if there was more than one.
  Access reader;
};

constexpr uint16_t SEVERAL_THREADS = UINT16_MAX;

// Launches that run, by number.
constexpr unsigned LAUNCHES = 1 << 16;
struct Running {
  std::atomic<uint32_t> number{0};
  // Whether its blocks hand data over by atomic stores: then they are not compared.
  std::atomic<bool> hands_over{false};
  std::atomic<const char *> name{""};
};
Running running[LAUNCHES];
std::atomic<uint32_t> launches{0};

// Memory of devices, and what is known of each byte of it.
constexpr size_t HEAP_BYTES = 1ull << 38;
constexpr size_t GRAIN = 4096;

char *reserve(size_t bytes) {
  void *const at =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) std::abort();
  return static_cast<char *>(at);
}

struct Heap {
  char *const base = reserve(HEAP_BYTES);
  Byte *const bytes = reinterpret_cast<Byte *>(reserve(HEAP_BYTES * sizeof(Byte)));
  std::atomic<size_t> used{0};
  static constexpr size_t STRIPES = 4096;
  std::atomic_flag stripes[STRIPES] = {};
};

Heap &heap() {
  static Heap *const heap = new Heap;
  return *heap;
}

}  // namespace

struct Accesses {
  uint32_t launch, block;
  unsigned threads;
  const char *shared;
  std::vector<Byte> bytes;
  uint32_t epoch = 1;
  // Whether barriers of some of the threads opened in this epoch, and what each thread knows of each other since:
  // the tick up to which all that one did is ordered before it.
  bool partial = false;
  std::vector<uint16_t> known;
  struct Waiting {
    unsigned barrier;
    unsigned thread;
  };
  std::vector<Waiting> waiting;

  uint16_t *knows(unsigned thread) { return &known[size_t(thread) * threads]; }
};

namespace {

struct Watched {
  Accesses *accesses = nullptr;
  unsigned thread = 0;
};
thread_local Watched watched;

const char *kernel_of(uint32_t launch) { return running[launch % LAUNCHES].name.load(); }

[[noreturn]] void report(const char *what, size_t bytes, const char *where, size_t offset, const Access &other,
                         uint32_t other_launch, const char *did, const void *code) {
  const Accesses &own = *watched.accesses;
  Dl_info library = {};
  dladdr(code, &library);
  const size_t at = static_cast<const char *>(code) - static_cast<const char *>(library.dli_fbase);
  std::fprintf(stderr, "emulated driver: race: thread %u of block %u of %s %s %zu bytes of %s memory at %zu (0x%zx)",
               watched.thread, own.block, kernel_of(own.launch), what, bytes, where, offset, offset);
  if (other.block == 0) {
    std::fprintf(stderr, " that nobody has written");
  } else if (other_launch != own.launch) {
    std::fprintf(stderr, " that %s, which still runs, %s", kernel_of(other_launch), did);
  } else if (other.block == SEVERAL) {
    std::fprintf(stderr, " that several blocks %s", did);
  } else if (other.thread == SEVERAL_THREADS) {
    std::fprintf(stderr, " that several threads of block %u %s", other.block - 1, did);
  } else {
    std::fprintf(stderr, " that thread %u of block %u %s", other.thread, other.block - 1, did);
  }
  std::fprintf(stderr, "; addr2line -Cie %s 0x%zx\n", library.dli_fname, at - 1);
  std::abort();
}

// Whether what another did comes before what the watched thread does now.
bool is_ordered(const Access &other) {
  Accesses &own = *watched.accesses;
  if (other.block == 0) return true;
  if (other.block != own.block + 1) return running[own.launch % LAUNCHES].hands_over.load(std::memory_order_relaxed);
  if (other.epoch < own.epoch || other.thread == watched.thread) return true;
  // Who of several came to which barrier is not kept.
  if (other.thread == SEVERAL_THREADS) return own.partial;
  return own.partial && own.knows(watched.thread)[other.thread] > other.tick;
}

Access own_access() {
  Accesses &own = *watched.accesses;
  const uint16_t tick = own.partial ? own.knows(watched.thread)[watched.thread] : 0;
  return {own.block + 1, own.epoch, static_cast<uint16_t>(watched.thread), tick};
}

void note(Byte &byte, bool writes, bool is_shared, size_t bytes, size_t offset, const void *code) {
  Accesses &own = *watched.accesses;
  const char *const where = is_shared ? "shared" : "global";
  const char *const what = writes ? "writes" : "reads";
  if (byte.launch != own.launch) {
    const bool runs = byte.launch != 0 && running[byte.launch % LAUNCHES].number.load() == byte.launch;
    const bool clashes = byte.writer.block != 0 || (writes && byte.reader.block != 0);
    if (runs && clashes) {
      const bool wrote = byte.writer.block != 0;
      report(what, bytes, where, offset, wrote ? byte.writer : byte.reader, byte.launch, wrote ? "wrote" : "read", code);
    }
    byte = Byte();
    byte.launch = own.launch;
  }
  if (!is_ordered(byte.writer)) report(what, bytes, where, offset, byte.writer, own.launch, "wrote", code);
  if (!writes && is_shared && byte.writer.block == 0) {
    report(what, bytes, where, offset, Access(), own.launch, "wrote", code);
  }
  if (writes) {
    if (!is_ordered(byte.reader)) report(what, bytes, where, offset, byte.reader, own.launch, "read", code);
    byte.writer = own_access();
    byte.reader = Access();
    return;
  }
  const Access now = own_access();
  if (byte.reader.block == SEVERAL || (byte.reader.block != 0 && byte.reader.block != now.block)) {
    byte.reader.block = SEVERAL;
  } else if (byte.reader.block == now.block && byte.reader.epoch == now.epoch && byte.reader.thread != now.thread) {
    byte.reader.thread = SEVERAL_THREADS;
  } else {
    byte.reader = now;
  }
}

void access(const void *address, size_t bytes, bool writes, const void *code) {
  Accesses *const own = watched.accesses;
  if (own == nullptr) return;
  const char *const at = static_cast<const char *>(address);
  const size_t in_shared = static_cast<size_t>(at - own->shared);
  if (in_shared < own->bytes.size()) {
    const size_t end = std::min(in_shared + bytes, own->bytes.size());
    for (size_t byte = in_shared; byte < end; byte++) note(own->bytes[byte], writes, true, bytes, in_shared, code);
    return;
  }
  Heap &all = heap();
  const size_t in_heap = static_cast<size_t>(at - all.base);
  if (in_heap >= HEAP_BYTES) return;
  for (size_t byte = in_heap; byte < in_heap + bytes; byte++) {
    std::atomic_flag &stripe = all.stripes[byte / 64 % Heap::STRIPES];
    while (stripe.test_and_set(std::memory_order_acquire)) {
    }
    note(all.bytes[byte], writes, false, bytes, in_heap, code);
    stripe.clear(std::memory_order_release);
  }
}

}  // namespace

unsigned begin_launch(const char *name) {
  uint32_t number = ++launches;
  if (number == 0) number = ++launches;
  running[number % LAUNCHES].name = name;
  running[number % LAUNCHES].hands_over = false;
  running[number % LAUNCHES].number = number;
  return number;
}

void end_launch(unsigned launch) { running[launch % LAUNCHES].number = 0; }

Accesses *begin_block(unsigned launch, unsigned block, unsigned threads, const void *shared, size_t shared_bytes) {
  Accesses *const made = new Accesses;
  made->launch = launch;
  made->block = block;
  made->threads = threads;
  made->shared = static_cast<const char *>(shared);
  made->bytes.resize(shared_bytes);
  return made;
}

void end_block(Accesses *accesses) { delete accesses; }

void watch(Accesses *accesses, unsigned thread) { watched = {accesses, thread}; }

void stores_atomically() {
  if (watched.accesses != nullptr) running[watched.accesses->launch % LAUNCHES].hands_over = true;
}

void look_away() { watched.accesses = nullptr; }

void arrive(Accesses *accesses, unsigned thread, unsigned barrier) { accesses->waiting.push_back({barrier, thread}); }

void open(Accesses *accesses, unsigned barrier) {
  Accesses &own = *accesses;
  const auto others = [barrier](const Accesses::Waiting &one) { return one.barrier != barrier; };
  const auto first = std::partition(own.waiting.begin(), own.waiting.end(), others);
  const auto count = static_cast<unsigned>(own.waiting.end() - first);
  if (count == own.threads) {
    own.epoch++;
    own.partial = false;
    own.waiting.clear();
    return;
  }
  if (!own.partial) {
    own.partial = true;
    own.known.assign(size_t(own.threads) * own.threads, 0);
  }
  std::vector<uint16_t> joined(own.threads, 0);
  for (auto one = first; one != own.waiting.end(); ++one) {
    uint16_t *const knows = own.knows(one->thread);
    knows[one->thread]++;
    for (unsigned other = 0; other < own.threads; other++) joined[other] = std::max(joined[other], knows[other]);
  }
  for (auto one = first; one != own.waiting.end(); ++one) {
    std::copy(joined.begin(), joined.end(), own.knows(one->thread));
  }
  own.waiting.erase(first, own.waiting.end());
}

void copies(void *to, const void *from, size_t bytes) {
  const void *const code = __builtin_return_address(0);
  if (from != nullptr) access(from, bytes, false, code);
  access(to, bytes, true, code);
}

void *take_memory(size_t bytes) {
  Heap &all = heap();
  const size_t whole = (bytes + GRAIN - 1) / GRAIN * GRAIN;
  const size_t at = all.used.fetch_add(whole);
  return at + whole <= HEAP_BYTES ? all.base + at : nullptr;
}

void give_memory_back(void *at, size_t bytes) {
  Heap &all = heap();
  const size_t whole = (bytes + GRAIN - 1) / GRAIN * GRAIN;
  const size_t offset = static_cast<size_t>(static_cast<char *>(at) - all.base);
  madvise(at, whole, MADV_DONTNEED);
  madvise(all.bytes + offset, whole * sizeof(Byte), MADV_DONTNEED);
}

}  // namespace races
}  // namespace emulator

// What the compiler calls.
#define CODE __builtin_return_address(0)
#define ACCESS(name, bytes)                                                                                          \
  extern "C" void __tsan_read##name(const void *at) { emulator::races::access(at, bytes, false, CODE); }              \
  extern "C" void __tsan_write##name(void *at) { emulator::races::access(at, bytes, true, CODE); }                    \
  extern "C" void __tsan_unaligned_read##name(const void *at) { emulator::races::access(at, bytes, false, CODE); }    \
  extern "C" void __tsan_unaligned_write##name(void *at) { emulator::races::access(at, bytes, true, CODE); }
ACCESS(1, 1)
ACCESS(2, 2)
ACCESS(4, 4)
ACCESS(8, 8)
ACCESS(16, 16)
extern "C" void __tsan_read_range(const void *at, size_t bytes) { emulator::races::access(at, bytes, false, CODE); }
extern "C" void __tsan_write_range(void *at, size_t bytes) { emulator::races::access(at, bytes, true, CODE); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(const void *) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_read(const void *) {}
extern "C" void __tsan_vptr_update(void *, const void *) {}

// Atomic accesses are what they are, in the strongest order.
#define ATOMIC(bits)                                                                                                  \
  extern "C" uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *at, int) {                       \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                                     \
  }                                                                                                                   \
  extern "C" void __tsan_atomic##bits##_store(volatile uint##bits##_t *at, uint##bits##_t value, int) {                \
    emulator::races::stores_atomically();                                                                             \
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                                                    \
  }                                                                                                                   \
  extern "C" uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t *at, uint##bits##_t value, int) {   \
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                                                          \
  }                                                                                                                   \
  extern "C" uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t *at, uint##bits##_t by, int) {     \
    return __atomic_fetch_add(at, by, __ATOMIC_SEQ_CST);                                                              \
  }                                                                                                                   \
  extern "C" uint##bits##_t __tsan_atomic##bits##_fetch_sub(volatile uint##bits##_t *at, uint##bits##_t by, int) {     \
    return __atomic_fetch_sub(at, by, __ATOMIC_SEQ_CST);                                                              \
  }                                                                                                                   \
  extern "C" int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t *at, uint##bits##_t *expected,  \
                                                               uint##bits##_t value, int, int) {                      \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);               \
  }                                                                                                                   \
  extern "C" int __tsan_atomic##bits##_compare_exchange_weak(volatile uint##bits##_t *at, uint##bits##_t *expected,    \
                                                             uint##bits##_t value, int, int) {                        \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);               \
  }
ATOMIC(8)
ATOMIC(32)
ATOMIC(64)
extern "C" void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
