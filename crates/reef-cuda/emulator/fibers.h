// Blocks: threads of a block are fibers of one thread of the system.
#pragma once
#include <sched.h>
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

#include "races.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

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
  void **top() const { return reinterpret_cast<void **>(base_ + BYTES); }
  const void *bottom() const { return base_ + GUARD; }
  size_t bytes() const { return BYTES - GUARD; }

 private:
  static constexpr size_t GUARD = 4096;
  // Frames are larger where they are watched.
  static constexpr size_t BYTES = 256 * 1024 + GUARD;
  char *base_;
};

// The address sanitizer is told when another stack runs: that the running one is left, for ever if nothing is to be
// kept of it; and on the new one, which it was and where the one before it lies.
inline void leave_stack(void **kept, const void *bottom, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(kept, bottom, bytes);
#else
  (void)kept, (void)bottom, (void)bytes;
#endif
}
inline void enter_stack(void *kept, const void **bottom_before, size_t *bytes_before) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(kept, bottom_before, bytes_before);
#else
  (void)kept, (void)bottom_before, (void)bytes_before;
#endif
}

// A multiprocessor, on the thread of the system that it lives on. It has one block at a time, but for those that wait
// for others: where nothing but that has happened `PATIENCE` times it is idle, and takes more, as many as fit a real
// one's threads and shared memory. They take turns.
class Multiprocessor {
 public:
  static constexpr unsigned BARRIERS = 16;
  static constexpr unsigned THREADS_MAX = 2048;
  static constexpr size_t SHARED_BYTES = 228 * 1024;
  // Times that threads gave way: milliseconds. No clock, which goes on where the system has the thread wait.
  static constexpr unsigned long PATIENCE = 1 << 17;

  // How a turn of its blocks came out.
  enum class Turn {
    // One is through.
    ENDED,
    // The threads of one wait for each other for ever.
    STUCK,
    // All have spun for long.
    IDLE,
  };

  static Multiprocessor *&current() {
    static thread_local Multiprocessor *own = nullptr;
    return own;
  }

  explicit Multiprocessor(unsigned number) : random_(number) {
    const char *seed = std::getenv("REEF_EMULATOR_SEED");
    shuffles_ = seed != nullptr;
    if (shuffles_) random_.seed(std::strtoul(seed, nullptr, 10) * 1000 + number);
  }

  bool is_empty() const { return blocks_.empty(); }

  bool has_room(unsigned long long threads, size_t shared_bytes) const {
    return is_empty() || (threads_ + threads <= THREADS_MAX && shared_bytes_ + shared_bytes <= SHARED_BYTES);
  }

  // Takes a block in. `owner` is what `turn` names it by; `launch` is of the blocks that begin together.
  void take(const BlockView &view, size_t shared_bytes, std::function<void()> body, void *owner, unsigned launch) {
    blocks_.push_back(std::make_unique<Block>(view, shared_bytes, std::move(body), owner));
    Block &block = *blocks_.back();
    const unsigned count = block.live;
    threads_ += count;
    shared_bytes_ += shared_bytes;
    block.accesses = races::begin_block(launch, view.index.x, count, block.view.shared, shared_bytes);
    for (unsigned thread = 0; thread < count; thread++) {
      if (idle_.empty()) idle_.push_back(std::make_unique<Fiber>());
      block.fibers.push_back(std::move(idle_.back()));
      idle_.pop_back();
      prepare(*block.fibers.back(), block, thread);
    }
  }

  // Runs the blocks until there is something to tell: of which block, by its owner.
  Turn turn(void *&owner) {
    current() = this;
    for (unsigned long spun = 0, yields = PATIENCE / 8;;) {
      bool advanced = false;
      for (size_t at = 0; at < blocks_.size(); at++) {
        Block &block = *blocks_[at];
        const Round round = run(block);
        owner = block.owner;
        if (round.ran == 0) return Turn::STUCK;
        if (block.live == 0) {
          remove(at);
          return Turn::ENDED;
        }
        advanced = advanced || round.advanced;
        spun += round.ran;
      }
      if (advanced) spun = 0, yields = PATIENCE / 8;
      if (spun > PATIENCE) return Turn::IDLE;
      if (spun > yields) {
        // What they wait for may need the processor.
        sched_yield();
        yields += PATIENCE / 8;
      }
    }
  }

  NOT_WATCHED void barrier(unsigned id, unsigned threads) {
    Block &block = *running_->block;
    Barrier &barrier = block.barriers[id % BARRIERS];
    running_->state = State::WAITING;
    running_->barrier = id;
    running_->advanced = true;
    races::arrive(block.accesses, running_->number, id);
    if (++barrier.arrived == threads) {
      barrier.arrived = 0;
      races::open(block.accesses, id);
      for (auto &fiber : block.fibers) {
        if (fiber->state == State::WAITING && fiber->barrier == id) fiber->state = State::READY;
      }
    }
    // Also who opened it gives way: others may have been waiting for long.
    leave(false);
  }

  // What lanes of a warp bring to an instruction that they carry out together.
  using Brought = std::array<unsigned, 6>;

  // Leaves what a lane brings, waits for the other 31, and returns what all have brought, by lane. It stays until
  // the next but one time. Accesses of the lanes are not ordered by it.
  NOT_WATCHED const unsigned (*exchange_in_warp(const Brought &own))[6] {
    Block &block = *running_->block;
    const unsigned thread = running_->number;
    Warp &warp = block.warps[thread / LANES];
    unsigned(*const all)[6] = warp.brought[running_->exchanges++ % 2];
    std::copy(own.begin(), own.end(), all[thread % LANES]);
    running_->state = State::WAITING_FOR_WARP;
    running_->advanced = true;
    if (++warp.arrived == LANES) {
      warp.arrived = 0;
      const unsigned first = thread / LANES * LANES;
      for (unsigned lane = 0; lane < LANES; lane++) block.fibers[first + lane]->state = State::READY;
    }
    leave(false);
    return all;
  }

  // Copies that a thread has begun and not waited for happen as late as they may.
  NOT_WATCHED void copy_later(void *to, const void *from, size_t bytes, bool exists) {
    if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) {
      std::fprintf(stderr, "emulated driver: a copy of %zu bytes that is not aligned to as many\n", bytes);
      std::abort();
    }
    running_->copies.push_back({to, exists ? from : nullptr, bytes, running_->groups});
  }
  NOT_WATCHED void end_group() { running_->groups++; }
  NOT_WATCHED void wait_for_groups(unsigned latest) {
    auto &copies = running_->copies;
    while (!copies.empty() && copies.front().group + latest < running_->groups) {
      const Copy &copy = copies.front();
      races::copies(copy.to, copy.from, copy.bytes);
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, copy.bytes);
      } else {
        std::memcpy(copy.to, copy.from, copy.bytes);
      }
      copies.pop_front();
    }
  }

  // Lets other threads run.
  NOT_WATCHED void give_way() { leave(false); }

  NOT_WATCHED const BlockView &view() const { return running_->block->view; }
  NOT_WATCHED const Dim &thread() const { return running_->index; }

 private:
  static constexpr size_t ALIGNMENT = 128;
  static constexpr unsigned LANES = 32;
  enum class State { READY, WAITING, WAITING_FOR_WARP, ENDED };
  struct Block;
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
    void *kept = nullptr;
    Block *block = nullptr;
    unsigned number = 0;
    Dim index;
    State state = State::ENDED;
    unsigned barrier = 0;
    // Whether it did more than to give way when it last ran.
    bool advanced = false;
    unsigned exchanges = 0;
    std::deque<Copy> copies;
    unsigned long long groups = 0;
  };
  struct Barrier {
    unsigned arrived = 0;
  };
  struct Round {
    // Threads that ran.
    unsigned long ran;
    bool advanced;
  };
  struct Block {
    Block(const BlockView &from, size_t bytes, std::function<void()> what, void *whose)
        : view(from),
          shared_bytes(bytes),
          body(std::move(what)),
          owner(whose),
          live(static_cast<unsigned>(from.threads.count())),
          order(live) {
      // Exactly what was asked for, so that what lies behind it is not the block's.
      void *memory = nullptr;
      if (posix_memalign(&memory, ALIGNMENT, bytes) != 0) std::abort();
      std::memset(memory, 0xAA, bytes);
      view.shared = static_cast<unsigned char *>(memory);
      std::iota(order.begin(), order.end(), 0);
      warps.resize((live + LANES - 1) / LANES);
    }
    ~Block() {
      std::free(view.shared);
      races::end_block(accesses);
    }
    Block(const Block &) = delete;

    BlockView view;
    size_t shared_bytes;
    std::function<void()> body;
    void *owner;
    unsigned live;
    std::vector<unsigned> order;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Warp> warps;
    Barrier barriers[BARRIERS];
    races::Accesses *accesses = nullptr;
  };

  // Every thread that can runs until it waits, gives way or ends.
  Round run(Block &block) {
    if (shuffles_) std::shuffle(block.order.begin(), block.order.end(), random_);
    Round round = {0, false};
    for (const unsigned thread : block.order) {
      Fiber &fiber = *block.fibers[thread];
      if (fiber.state != State::READY) continue;
      round.ran++;
      fiber.advanced = false;
      enter(fiber);
      block.live -= fiber.state == State::ENDED;
      round.advanced = round.advanced || fiber.advanced;
    }
    return round;
  }

  void remove(size_t at) {
    Block &block = *blocks_[at];
    threads_ -= static_cast<unsigned>(block.fibers.size());
    shared_bytes_ -= block.shared_bytes;
    for (auto &fiber : block.fibers) idle_.push_back(std::move(fiber));
    blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(at));
  }

  void enter(Fiber &fiber) {
    running_ = &fiber;
    races::watch(fiber.block->accesses, fiber.number);
    leave_stack(&kept_, fiber.stack.bottom(), fiber.stack.bytes());
    emulator_switch(&own_stack_, fiber.stack_pointer);
    enter_stack(kept_, nullptr, nullptr);
    races::look_away();
  }

  NOT_WATCHED void leave(bool for_ever) {
    Fiber &fiber = *running_;
    leave_stack(for_ever ? nullptr : &fiber.kept, own_bottom_, own_bytes_);
    emulator_switch(&fiber.stack_pointer, own_stack_);
    enter_stack(fiber.kept, &own_bottom_, &own_bytes_);
  }

  void prepare(Fiber &fiber, Block &block, unsigned thread) {
    const Dim &threads = block.view.threads;
    fiber.block = &block;
    fiber.number = thread;
    fiber.index = {thread % threads.x, thread / threads.x % threads.y, thread / (threads.x * threads.y)};
    fiber.state = State::READY;
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

  NOT_WATCHED static void begin() {
    Multiprocessor &own = *current();
    enter_stack(nullptr, &own.own_bottom_, &own.own_bytes_);
    own.running_->block->body();
    if (!own.running_->copies.empty()) {
      std::fprintf(stderr, "emulated driver: a thread leaves copies behind that it did not wait for\n");
      std::abort();
    }
    own.running_->state = State::ENDED;
    own.running_->advanced = true;
    own.leave(true);
    std::abort();
  }

  std::vector<std::unique_ptr<Block>> blocks_;
  // Of no block.
  std::vector<std::unique_ptr<Fiber>> idle_;
  // Of all its blocks.
  unsigned threads_ = 0;
  size_t shared_bytes_ = 0;
  Fiber *running_ = nullptr;
  // The stack of the system's thread.
  void *own_stack_ = nullptr;
  void *kept_ = nullptr;
  const void *own_bottom_ = nullptr;
  size_t own_bytes_ = 0;
  bool shuffles_ = false;
  std::mt19937 random_;
};

NOT_WATCHED inline const Dim &this_thread() { return Multiprocessor::current()->thread(); }
NOT_WATCHED inline const BlockView &this_block() { return Multiprocessor::current()->view(); }
NOT_WATCHED inline void give_way() { Multiprocessor::current()->give_way(); }
NOT_WATCHED inline const unsigned (*exchange_in_warp(const Multiprocessor::Brought &own))[6] {
  return Multiprocessor::current()->exchange_in_warp(own);
}
NOT_WATCHED inline void copy_later(void *to, const void *from, size_t bytes, bool exists) {
  Multiprocessor::current()->copy_later(to, from, bytes, exists);
}
NOT_WATCHED inline void end_group() { Multiprocessor::current()->end_group(); }
NOT_WATCHED inline void wait_for_groups(unsigned latest) { Multiprocessor::current()->wait_for_groups(latest); }
NOT_WATCHED inline void barrier(unsigned id, unsigned threads) { Multiprocessor::current()->barrier(id, threads); }

}  // namespace emulator
