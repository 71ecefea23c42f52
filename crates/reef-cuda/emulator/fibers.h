// Blocks: threads of a block are fibers of one thread of the system.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#if !defined(__x86_64__)
#error "the emulator switches stacks of x86-64"
#endif

namespace emulator {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
  unsigned long long count() const { return 1ull * x * y * z; }
};

// What a thread can ask about its block.
struct BlockView {
  Dim index{0, 0, 0}, threads, grid;
  unsigned char *shared = nullptr;
};

// Saves the stack that runs in `*save` and goes on with `load`.
extern "C" void emulator_switch(void **save, void *load);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");

// A stack with a page below it that nobody may touch.
class Stack {
 public:
  Stack() : base_(static_cast<char *>(mmap(nullptr, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    if (base_ == MAP_FAILED || mprotect(base_, GUARD, PROT_NONE) != 0) std::abort();
  }
  ~Stack() { munmap(base_, BYTES); }
  Stack(const Stack &) = delete;
  void **top() { return reinterpret_cast<void **>(base_ + BYTES); }

 private:
  static constexpr size_t GUARD = 4096;
  static constexpr size_t BYTES = 64 * 1024 + GUARD;
  char *base_;
};

// An SM: runs one block at a time on the thread of the system that it lives on.
class Multiprocessor {
 public:
  static constexpr unsigned BARRIERS = 16;
  static Multiprocessor *&current() {
    static thread_local Multiprocessor *own = nullptr;
    return own;
  }

  explicit Multiprocessor(unsigned number) : random_(number) {
    const char *seed = std::getenv("REEF_EMULATOR_SEED");
    shuffles_ = seed != nullptr;
    if (shuffles_) random_.seed(std::strtoul(seed, nullptr, 10) * 1000 + number);
  }

  // Runs a block; false if its threads wait for each other for ever.
  bool run(const BlockView &view, size_t shared_bytes, const std::function<void()> &body) {
    const unsigned count = static_cast<unsigned>(view.threads.count());
    shared_.assign(shared_bytes + ALIGNMENT, 0xAA);
    view_ = view;
    const auto address = reinterpret_cast<uintptr_t>(shared_.data());
    view_.shared = shared_.data() + (ALIGNMENT - address % ALIGNMENT) % ALIGNMENT;
    body_ = &body;
    for (Barrier &barrier : barriers_) barrier = Barrier();
    warps_.assign((count + LANES - 1) / LANES, Warp());
    while (fibers_.size() < count) fibers_.push_back(std::make_unique<Fiber>());
    for (unsigned thread = 0; thread < count; thread++) prepare(*fibers_[thread], thread);
    std::vector<unsigned> order(count);
    std::iota(order.begin(), order.end(), 0);
    unsigned live = count;
    current() = this;
    while (live > 0) {
      if (shuffles_) std::shuffle(order.begin(), order.end(), random_);
      bool ran = false;
      for (const unsigned thread : order) {
        Fiber &fiber = *fibers_[thread];
        if (fiber.state != State::READY) continue;
        ran = true;
        running_ = &fiber;
        emulator_switch(&own_stack_, fiber.stack_pointer);
        live -= fiber.state == State::ENDED;
      }
      if (!ran) return false;
    }
    return true;
  }

  void barrier(unsigned id, unsigned threads) {
    Barrier &barrier = barriers_[id % BARRIERS];
    running_->state = State::WAITING;
    running_->barrier = id;
    if (++barrier.arrived == threads) {
      barrier.arrived = 0;
      for (auto &fiber : fibers_) {
        if (fiber->state == State::WAITING && fiber->barrier == id) fiber->state = State::READY;
      }
    }
    // Also who opened it gives way: others may have been waiting for long.
    emulator_switch(&running_->stack_pointer, own_stack_);
  }

  // What lanes of a warp bring to an instruction that they carry out together.
  using Brought = std::array<unsigned, 6>;

  // Leaves what a lane brings, waits for the other 31, and returns what all have brought, by lane. It stays until
  // the next but one time.
  const unsigned (*exchange_in_warp(const Brought &own))[6] {
    const unsigned thread = running_->number;
    Warp &warp = warps_[thread / LANES];
    unsigned(*const all)[6] = warp.brought[running_->exchanges++ % 2];
    std::copy(own.begin(), own.end(), all[thread % LANES]);
    running_->state = State::WAITING_FOR_WARP;
    if (++warp.arrived == LANES) {
      warp.arrived = 0;
      const unsigned first = thread / LANES * LANES;
      for (unsigned lane = 0; lane < LANES; lane++) fibers_[first + lane]->state = State::READY;
    }
    give_way();
    return all;
  }

  // Copies that a thread has begun and not waited for happen as late as they may.
  void copy_later(void *to, const void *from, size_t bytes, bool exists) {
    running_->copies.push_back({to, exists ? from : nullptr, bytes, running_->groups});
  }
  void end_group() { running_->groups++; }
  void wait_for_groups(unsigned latest) {
    auto &copies = running_->copies;
    while (!copies.empty() && copies.front().group + latest < running_->groups) {
      const Copy &copy = copies.front();
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, copy.bytes);
      } else {
        std::memcpy(copy.to, copy.from, copy.bytes);
      }
      copies.pop_front();
    }
  }

  // Lets the block's other threads run.
  void give_way() { emulator_switch(&running_->stack_pointer, own_stack_); }

  const BlockView &view() const { return view_; }
  const Dim &thread() const { return running_->index; }

 private:
  static constexpr size_t ALIGNMENT = 128;
  static constexpr unsigned LANES = 32;
  enum class State { READY, WAITING, WAITING_FOR_WARP, ENDED };
  struct Copy {
    void *to;
    const void *from;
    size_t bytes;
    unsigned long long group;
  };
  struct Warp {
    unsigned brought[2][LANES][6];
    unsigned arrived = 0;
  };
  struct Fiber {
    Stack stack;
    void *stack_pointer = nullptr;
    Dim index;
    State state = State::ENDED;
    unsigned barrier = 0;
    unsigned number = 0;
    unsigned exchanges = 0;
    std::deque<Copy> copies;
    unsigned long long groups = 0;
  };
  struct Barrier {
    unsigned arrived = 0;
  };

  void prepare(Fiber &fiber, unsigned thread) {
    const Dim &threads = view_.threads;
    fiber.index = {thread % threads.x, thread / threads.x % threads.y, thread / (threads.x * threads.y)};
    fiber.state = State::READY;
    fiber.number = thread;
    fiber.exchanges = 0;
    fiber.copies.clear();
    fiber.groups = 0;
    void **top = fiber.stack.top();
    // Where `begin` would return to, which it never does; its address; six registers.
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(&Multiprocessor::begin);
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
    fiber.stack_pointer = top;
  }

  static void begin() {
    Multiprocessor &own = *current();
    (*own.body_)();
    if (!own.running_->copies.empty()) {
      std::fprintf(stderr, "emulated driver: a thread leaves copies behind that it did not wait for\n");
      std::abort();
    }
    own.running_->state = State::ENDED;
    emulator_switch(&own.running_->stack_pointer, own.own_stack_);
    std::abort();
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<unsigned char> shared_;
  std::vector<Warp> warps_;
  Barrier barriers_[BARRIERS];
  BlockView view_;
  const std::function<void()> *body_ = nullptr;
  Fiber *running_ = nullptr;
  void *own_stack_ = nullptr;
  bool shuffles_ = false;
  std::mt19937 random_;
};

inline const Dim &this_thread() { return Multiprocessor::current()->thread(); }
inline const BlockView &this_block() { return Multiprocessor::current()->view(); }
inline void give_way() { Multiprocessor::current()->give_way(); }
inline const unsigned (*exchange_in_warp(const Multiprocessor::Brought &own))[6] {
  return Multiprocessor::current()->exchange_in_warp(own);
}
inline void copy_later(void *to, const void *from, size_t bytes, bool exists) {
  Multiprocessor::current()->copy_later(to, from, bytes, exists);
}
inline void end_group() { Multiprocessor::current()->end_group(); }
inline void wait_for_groups(unsigned latest) { Multiprocessor::current()->wait_for_groups(latest); }
inline void barrier(unsigned id, unsigned threads) { Multiprocessor::current()->barrier(id, threads); }

}  // namespace emulator
