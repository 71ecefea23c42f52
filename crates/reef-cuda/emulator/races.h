// Whether threads of a launch touch the same byte without an order between them, where the driver is built for that
// (`build.sh OUT races`); nothing otherwise.
//
// The compiler tells of every access as it does for the thread sanitizer, whose library is not used: races.cpp stands
// in for it, and knows what a GPU orders. Two accesses to a byte, of which one writes, must be ordered:
//  - between threads of a block, by barriers that both came to,
//  - between blocks, by the end of a launch: blocks of one launch, and launches that run at a time, share nothing,
//    but for blocks of a launch of which one has stored something atomically: they are taken to know what they do.
// Atomic accesses are not looked at. Shared memory must be written before it is read.
#pragma once
#include <cstddef>

#ifdef EMULATOR_RACES
#define NOT_WATCHED __attribute__((no_sanitize("thread")))
#else
#define NOT_WATCHED
#endif

namespace emulator {
namespace races {

// What a block has accessed.
struct Accesses;

#ifdef EMULATOR_RACES

// A launch begins: its number. The name is for messages.
unsigned begin_launch(const char *name);
void end_launch(unsigned launch);

Accesses *begin_block(unsigned launch, unsigned block, unsigned threads, const void *shared, size_t shared_bytes);
void end_block(Accesses *accesses);

// From here on this thread of the system runs a thread of a block.
void watch(Accesses *accesses, unsigned thread);
void look_away();
void stores_atomically();

// A thread has come to a barrier; the barrier opens for those who have.
void arrive(Accesses *accesses, unsigned thread, unsigned barrier);
void open(Accesses *accesses, unsigned barrier);

// The watched thread copies; `from` may be null, for nothing that is read.
void copies(void *to, const void *from, size_t bytes);

// Memory of a device. Its addresses are never used again.
void *take_memory(size_t bytes);
void give_memory_back(void *at, size_t bytes);

#else

inline unsigned begin_launch(const char *) { return 0; }
inline void end_launch(unsigned) {}
inline Accesses *begin_block(unsigned, unsigned, unsigned, const void *, size_t) { return nullptr; }
inline void end_block(Accesses *) {}
inline void watch(Accesses *, unsigned) {}
inline void look_away() {}
inline void arrive(Accesses *, unsigned, unsigned) {}
inline void open(Accesses *, unsigned) {}
inline void copies(void *, const void *, size_t) {}

#endif

}  // namespace races
}  // namespace emulator
