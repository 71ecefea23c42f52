// The emulated driver's own test: that it finds what it is there to find, and lets threads, blocks, launches and
// copies wait for each other as a device does. `self-test` runs every case in a process of its own; `self-test NAME`
// runs one.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "queue.cuh"

namespace {

// Kernels are given a `Launch` like others. What they use of it: `base`, so many `blocks`, and `number`, which is the
// bytes of shared memory or of the memory at `base`.
using reef::Launch;

float *floats(unsigned char *at) { return reinterpret_cast<float *>(at); }
float *shared() { return floats(reef::shared_arena()); }
void sync() { reef::barrier_sync(1, blockDim.x); }
unsigned *word_of(const Launch &launch, unsigned index) { return reinterpret_cast<unsigned *>(launch.base) + index; }

void await(const unsigned *word, unsigned value) {
  while (reef::load_relaxed(word) != value) reef::pause();
}

// What is right.

void reverse(Launch launch) {
  float *const own = floats(launch.base) + blockIdx.x * blockDim.x;
  shared()[threadIdx.x] = own[threadIdx.x];
  sync();
  own[threadIdx.x] = shared()[blockDim.x - 1 - threadIdx.x];
}

// Two halves hand a tile to and fro, by a barrier for each way.
void hand_over(Launch launch) {
  const unsigned half = blockDim.x / 2;
  const bool brings = threadIdx.x < half;
  for (unsigned round = 0; round < 4; round++) {
    if (brings) {
      shared()[threadIdx.x] = static_cast<float>(round);
      reef::barrier_sync(2, 2 * half);
      reef::barrier_sync(3, 2 * half);
    } else {
      reef::barrier_sync(2, 2 * half);
      floats(launch.base)[threadIdx.x] = shared()[2 * half - 1 - threadIdx.x];
      reef::barrier_sync(3, 2 * half);
    }
  }
}

// Quarters of the threads that know nothing of each other.
void quarters(Launch launch) {
  const unsigned quarter = blockDim.x / 4;
  const unsigned first = threadIdx.x / quarter * quarter;
  for (unsigned round = 0; round < 3; round++) {
    shared()[threadIdx.x] = 1.f;
    reef::barrier_sync(4 + threadIdx.x / quarter, quarter);
    floats(launch.base)[threadIdx.x] = shared()[2 * first + quarter - 1 - threadIdx.x];
    reef::barrier_sync(4 + threadIdx.x / quarter, quarter);
  }
}

// One thread waits for another one of its block.
void await_thread(Launch launch) {
  unsigned *const word = word_of(launch, blockIdx.x);
  if (threadIdx.x == blockDim.x - 1) reef::store_release(word, 1);
  if (threadIdx.x == 0) await(word, 1);
}

// Every block waits for the last one.
void await_block(Launch launch) {
  if (blockIdx.x == launch.blocks - 1 && threadIdx.x == 0) reef::store_release(word_of(launch, 0), 1);
  await(word_of(launch, 0), 1);
}

void await_word(Launch launch) { await(word_of(launch, 0), launch.number); }
// By one thread: whoever sees the word may write the next one, and no other thread's comes behind that.
void set_word(Launch launch) {
  if (threadIdx.x == 0) reef::store_release(word_of(launch, 0), launch.number);
}

// What is wrong.

void read_past_shared(Launch launch) { launch.base[0] = reef::shared_arena()[launch.number]; }
void write_past_shared(Launch launch) { reef::shared_arena()[launch.number] = launch.base[0]; }
void read_before_shared(Launch launch) { launch.base[0] = reef::shared_arena()[-1]; }
void read_past_memory(Launch launch) { launch.base[0] = launch.base[launch.number]; }
void write_past_memory(Launch launch) { launch.base[launch.number] = 1; }
void read_before_memory(Launch launch) { launch.base[0] = launch.base[-1]; }
void read_past_own(Launch launch) {
  unsigned char own[16] = {};
  launch.base[0] = *(own + launch.number);
}

void overflow(Launch launch) {
  int *const value = reinterpret_cast<int *>(launch.base);
  *value = *value + 0x7FFFFFFF;
}
void misaligned(Launch launch) { floats(launch.base)[0] = *floats(launch.base + 1); }
void shift(Launch launch) { launch.base[0] = static_cast<unsigned char>(1 << launch.number); }
void convert(Launch launch) { *word_of(launch, 0) = static_cast<unsigned>(static_cast<float>(launch.number) * -1e20f); }

void read_before_barrier(Launch launch) {
  shared()[threadIdx.x] = 1.f;
  floats(launch.base)[threadIdx.x] = shared()[blockDim.x - 1 - threadIdx.x];
}
void write_before_barrier(Launch launch) {
  shared()[threadIdx.x] = 1.f;
  sync();
  floats(launch.base)[threadIdx.x] = shared()[blockDim.x - 1 - threadIdx.x];
  shared()[threadIdx.x] = 2.f;
}
void write_what_all_read(Launch launch) {
  if (threadIdx.x == 0) shared()[0] = 1.f;
  sync();
  floats(launch.base)[threadIdx.x] = shared()[0];
  if (threadIdx.x == 0) shared()[0] = 2.f;
}
void read_from_other_half(Launch launch) {
  const unsigned half = blockDim.x / 2;
  shared()[threadIdx.x] = 1.f;
  reef::barrier_sync(2 + threadIdx.x / half, half);
  floats(launch.base)[threadIdx.x] = shared()[blockDim.x - 1 - threadIdx.x];
}
void read_what_nobody_wrote(Launch launch) { floats(launch.base)[threadIdx.x] = shared()[threadIdx.x]; }
void write_same_global(Launch launch) { launch.base[threadIdx.x / 2] = 1; }
void write_from_all_blocks(Launch launch) {
  if (threadIdx.x == 0) launch.base[0] = 1;
}
void read_from_other_block(Launch launch) {
  float *const all = floats(launch.base);
  all[blockIdx.x * blockDim.x + threadIdx.x] = 1.f;
  sync();
  if (blockIdx.x == 1 && threadIdx.x == 0) all[1] = all[0];
}
// It runs until the other one has written.
void write_and_wait(Launch launch) {
  if (blockIdx.x == 0 && threadIdx.x == 0) launch.base[4] = 1;
  await(word_of(launch, 0), 1);
}
void write_and_tell(Launch launch) {
  if (threadIdx.x == 0) launch.base[4] = 2;
  reef::store_release(word_of(launch, 0), 1);
}
void half_a_barrier(Launch) {
  if (threadIdx.x < blockDim.x / 2) sync();
}

}  // namespace

#define TEST(name) {#name, sizeof(reef::Launch), with_parameter<reef::Launch, name>, 48 * 1024}
#define EMULATOR_OTHER_KERNELS                                                                                        \
  TEST(reverse), TEST(hand_over), TEST(quarters), TEST(await_thread), TEST(await_block), TEST(await_word),            \
      TEST(set_word), TEST(read_past_shared), TEST(write_past_shared), TEST(read_before_shared),                      \
      TEST(read_past_memory), TEST(write_past_memory), TEST(read_before_memory), TEST(read_past_own), TEST(overflow), \
      TEST(misaligned), TEST(shift), TEST(convert), TEST(read_before_barrier), TEST(write_before_barrier),            \
      TEST(write_what_all_read), TEST(read_from_other_half), TEST(read_what_nobody_wrote), TEST(write_same_global),   \
      TEST(write_from_all_blocks), TEST(read_from_other_block), TEST(write_and_wait), TEST(write_and_tell),           \
      TEST(half_a_barrier),

#include "driver.cpp"

namespace {

constexpr unsigned THREADS = 64;
constexpr unsigned BYTES = 8 * THREADS * sizeof(float);
constexpr unsigned SHARED_BYTES = THREADS * sizeof(float);

void expect(bool holds, const char *what) {
  if (holds) return;
  std::fprintf(stderr, "self-test: not so: %s\n", what);
  std::_Exit(1);
}
#define EXPECT(what) expect(what, #what)

// A device with one context, some memory and two streams.
struct Rig {
  Address memory = 0;
  void *streams[2] = {};

  Rig() {
    EXPECT(cuInit(0) == SUCCESS);
    void *context = nullptr;
    EXPECT(cuDevicePrimaryCtxRetain(&context, 0) == SUCCESS && cuCtxSetCurrent(context) == SUCCESS);
    EXPECT(cuMemAlloc_v2(&memory, BYTES) == SUCCESS);
    for (void *&stream : streams) EXPECT(cuStreamCreateWithPriority(&stream, 1, 0) == SUCCESS);
    EXPECT(cuMemsetD8Async(memory, 0, BYTES, streams[0]) == SUCCESS && cuStreamSynchronize(streams[0]) == SUCCESS);
  }

  // A kernel, and what it is given.
  Kernel *find(const char *name, unsigned blocks, unsigned number, Launch &what) {
    Kernel *kernel = std::begin(KERNELS);
    while (std::string(kernel->name) != name) kernel++;
    what = {};
    what.base = reinterpret_cast<unsigned char *>(memory);
    what.number = number;
    what.blocks = blocks;
    return kernel;
  }

  KernelNodeParameters node(const char *name, unsigned blocks, unsigned number, Launch &what, void **parameters) {
    parameters[0] = &what;
    void *kernel = find(name, blocks, number, what);
    return {kernel, blocks, 1, 1, THREADS, 1, 1, SHARED_BYTES, parameters, nullptr, nullptr, nullptr};
  }

  // Appends a kernel to a graph, behind its node `last`, which is the new one afterwards.
  void append(void *graph, void *&last, const char *name, unsigned blocks, unsigned number) {
    Launch what;
    void *parameters[1], *added = nullptr;
    const KernelNodeParameters of = node(name, blocks, number, what, parameters);
    EXPECT(cuGraphAddKernelNode_v2(&added, graph, &last, last != nullptr, &of) == SUCCESS);
    last = added;
  }

  unsigned word(unsigned index) {
    unsigned value = 0;
    const Address at = memory + index * sizeof value;
    EXPECT(cuMemcpyDtoHAsync_v2(&value, at, sizeof value, streams[1]) == SUCCESS);
    EXPECT(cuStreamSynchronize(streams[1]) == SUCCESS);
    return value;
  }

  void launch(const char *name, unsigned blocks, unsigned number, unsigned stream = 0) {
    Launch what;
    Kernel *const kernel = find(name, blocks, number, what);
    void *parameters[] = {&what};
    const int result = cuLaunchKernel(kernel, blocks, 1, 1, THREADS, 1, 1, SHARED_BYTES,
                                      streams[stream], parameters, nullptr);
    EXPECT(result == SUCCESS);
  }

  void end() { EXPECT(cuCtxSynchronize() == SUCCESS); }
};

void right() {
  Rig rig;
  float values[4 * THREADS];
  for (unsigned at = 0; at < 4 * THREADS; at++) values[at] = static_cast<float>(at);
  EXPECT(cuMemcpyHtoDAsync_v2(rig.memory, values, sizeof values, rig.streams[0]) == SUCCESS);
  rig.launch("reverse", 4, 0);
  EXPECT(cuMemcpyDtoHAsync_v2(values, rig.memory, sizeof values, rig.streams[0]) == SUCCESS);
  rig.end();
  for (unsigned at = 0; at < 4 * THREADS; at++) {
    EXPECT(values[at] == static_cast<float>(at / THREADS * THREADS + THREADS - 1 - at % THREADS));
  }
  rig.launch("hand_over", 1, 0);
  rig.launch("quarters", 1, 0);
  rig.end();
}

void threads_wait() {
  Rig rig;
  rig.launch("await_thread", 6, 0);
  rig.end();
}

void blocks_wait() {
  Rig rig;
  rig.launch("await_block", 7, 0);
  rig.end();
}

void launches_wait() {
  Rig rig;
  rig.launch("await_word", 3, 5, 0);
  rig.launch("set_word", 1, 5, 1);
  rig.end();
}

void copies_go_on() {
  Rig rig;
  const unsigned value = 7;
  rig.launch("await_word", 3, value, 0);
  EXPECT(cuMemcpyHtoDAsync_v2(rig.memory, &value, sizeof value, rig.streams[1]) == SUCCESS);
  rig.end();
}

// A graph's nodes run one after the other while its launch is long over; a later launch waits for it, also on another
// stream; what is launched keeps its parameters, and goes on when the graph is destroyed.
void graphs() {
  Rig rig;
  void *graph = nullptr, *exec = nullptr, *last = nullptr;
  EXPECT(cuGraphCreate(&graph, 0) == SUCCESS);
  EXPECT(cuGraphInstantiateWithFlags(&exec, graph, 0) == NOT_SUPPORTED);
  const MemsetNodeParameters clear = {rig.memory + 4, 0, 9, 1, 4, 1};
  EXPECT(cuGraphAddMemsetNode(&last, graph, nullptr, 0, &clear, nullptr) == SUCCESS);
  rig.append(graph, last, "await_word", 3, 5);
  rig.append(graph, last, "set_word", 1, 6);
  void *const second = last;
  rig.append(graph, last, "await_word", 2, 7);
  // Nodes form a chain.
  void *other = nullptr;
  EXPECT(cuGraphAddMemsetNode(&other, graph, &second, 1, &clear, nullptr) == NOT_SUPPORTED);
  EXPECT(cuGraphInstantiateWithFlags(&exec, graph, 0) == SUCCESS);
  EXPECT(cuGraphUpload(exec, rig.streams[0]) == SUCCESS);
  EXPECT(cuStreamQuery(rig.streams[0]) == SUCCESS);
  EXPECT(cuGraphLaunch(exec, rig.streams[0]) == SUCCESS);
  EXPECT(cuStreamQuery(rig.streams[0]) == NOT_READY);
  while (rig.word(1) != 0x09090909) {
  }
  // Only the later launch has this.
  Launch what;
  void *parameters[1];
  const KernelNodeParameters changed = rig.node("set_word", 1, 8, what, parameters);
  EXPECT(cuGraphExecKernelNodeSetParams_v2(exec, second, &changed) == SUCCESS);
  EXPECT(cuGraphExecKernelNodeSetParams_v2(exec, other, &changed) == INVALID_VALUE);
  void *stream = nullptr;
  EXPECT(cuStreamCreateWithPriority(&stream, 1, -5) == SUCCESS);
  EXPECT(cuGraphLaunch(exec, stream) == SUCCESS);
  EXPECT(cuGraphExecDestroy(exec) == SUCCESS && cuGraphDestroy(graph) == SUCCESS);
  for (const unsigned value : {5u, 7u, 5u, 7u}) {
    // The later launch is more urgent, and waits all the same.
    EXPECT(cuStreamQuery(stream) == NOT_READY);
    EXPECT(cuStreamWriteValue32_v2(rig.streams[1], rig.memory, value, 0) == SUCCESS);
    if (value == 5) {
      const unsigned set = cuStreamQuery(rig.streams[0]) == NOT_READY ? 6 : 8;
      while (rig.word(0) != set) {
      }
    } else {
      while (cuStreamQuery(rig.streams[0]) == NOT_READY) {
      }
    }
  }
  rig.end();
}

// What may wait for a kernel is refused while one runs, and what launches is not.
void strict() {
  setenv("REEF_EMULATOR_STRICT", "1", 1);
  Rig rig;
  void *graph = nullptr, *exec = nullptr, *last = nullptr;
  EXPECT(cuGraphCreate(&graph, 0) == SUCCESS);
  rig.append(graph, last, "await_word", 1, 5);
  EXPECT(cuGraphInstantiateWithFlags(&exec, graph, 0) == SUCCESS);
  EXPECT(cuGraphLaunch(exec, rig.streams[0]) == SUCCESS && cuGraphLaunch(exec, rig.streams[0]) == SUCCESS);
  void *other = nullptr;
  EXPECT(cuGraphInstantiateWithFlags(&other, graph, 0) == NOT_PERMITTED);
  EXPECT(cuGraphUpload(exec, rig.streams[1]) == NOT_PERMITTED);
  Launch what;
  void *parameters[1];
  const KernelNodeParameters same = rig.node("await_word", 1, 5, what, parameters);
  EXPECT(cuGraphExecKernelNodeSetParams_v2(exec, last, &same) == SUCCESS);
  EXPECT(cuGraphExecDestroy(exec) == SUCCESS && cuGraphDestroy(graph) == SUCCESS);
  EXPECT(cuStreamWriteValue32_v2(rig.streams[1], rig.memory, 5, 0) == SUCCESS);
  while (cuStreamQuery(rig.streams[0]) == NOT_READY) {
  }
  rig.end();
}

void deadlock() {
  Rig rig;
  rig.launch("half_a_barrier", 1, 0);
  EXPECT(cuCtxSynchronize() == LAUNCH_FAILED);
  EXPECT(cuStreamSynchronize(rig.streams[0]) == LAUNCH_FAILED);
}

// What the build is to find.
enum class Check { ALWAYS, ADDRESS, UNDEFINED, RACES };

#if defined(__SANITIZE_ADDRESS__)
constexpr Check BUILT = Check::ADDRESS;
#elif defined(EMULATOR_UNDEFINED)
constexpr Check BUILT = Check::UNDEFINED;
#elif defined(EMULATOR_RACES)
constexpr Check BUILT = Check::RACES;
#else
constexpr Check BUILT = Check::ALWAYS;
#endif

// A case that must end well; or launches of a kernel that the check must end, with these words.
struct Case {
  const char *name;
  void (*run)();
  Check check;
  const char *words;
  unsigned number;
  const char *beside;
};

const Case CASES[] = {
    {"right", right, Check::ALWAYS, nullptr, 0, nullptr},
    {"threads_wait", threads_wait, Check::ALWAYS, nullptr, 0, nullptr},
    {"blocks_wait", blocks_wait, Check::ALWAYS, nullptr, 0, nullptr},
    {"launches_wait", launches_wait, Check::ALWAYS, nullptr, 0, nullptr},
    {"copies_go_on", copies_go_on, Check::ALWAYS, nullptr, 0, nullptr},
    {"graphs", graphs, Check::ALWAYS, nullptr, 0, nullptr},
    {"strict", strict, Check::ALWAYS, nullptr, 0, nullptr},
    {"deadlock", deadlock, Check::ALWAYS, nullptr, 0, nullptr},
    {"read_past_shared", nullptr, Check::ADDRESS, "heap-buffer-overflow", SHARED_BYTES, nullptr},
    {"write_past_shared", nullptr, Check::ADDRESS, "heap-buffer-overflow", SHARED_BYTES, nullptr},
    {"read_before_shared", nullptr, Check::ADDRESS, "heap-buffer-overflow", 0, nullptr},
    {"read_past_memory", nullptr, Check::ADDRESS, "heap-buffer-overflow", BYTES, nullptr},
    {"write_past_memory", nullptr, Check::ADDRESS, "heap-buffer-overflow", BYTES, nullptr},
    {"read_before_memory", nullptr, Check::ADDRESS, "heap-buffer-overflow", 0, nullptr},
    {"read_past_own", nullptr, Check::ADDRESS, "stack-buffer-overflow", 16, nullptr},
    {"overflow", nullptr, Check::UNDEFINED, "signed integer overflow", 0, nullptr},
    {"misaligned", nullptr, Check::UNDEFINED, "misaligned address", 0, nullptr},
    {"shift", nullptr, Check::UNDEFINED, "shift exponent", 40, nullptr},
    {"convert", nullptr, Check::UNDEFINED, "outside the range", 1, nullptr},
    {"read_before_barrier", nullptr, Check::RACES, "of shared memory", 0, nullptr},
    {"write_before_barrier", nullptr, Check::RACES, "of shared memory", 0, nullptr},
    {"write_what_all_read", nullptr, Check::RACES, "of shared memory", 0, nullptr},
    {"read_from_other_half", nullptr, Check::RACES, "of shared memory", 0, nullptr},
    {"read_what_nobody_wrote", nullptr, Check::RACES, "that nobody has written", 0, nullptr},
    {"write_same_global", nullptr, Check::RACES, "of global memory", 0, nullptr},
    {"write_from_all_blocks", nullptr, Check::RACES, "of global memory", 0, nullptr},
    {"read_from_other_block", nullptr, Check::RACES, "of global memory", 0, nullptr},
    {"write_and_wait", nullptr, Check::RACES, "which still runs", 0, "write_and_tell"},
};

// What never ends, ends: by a clock that goes on while others have the processor, so it is far from what a case takes.
constexpr unsigned SECONDS_MAX = 300;

int run(const Case &one) {
  alarm(SECONDS_MAX);
  if (one.run != nullptr) {
    one.run();
  } else {
    Rig rig;
    rig.launch(one.name, 2, one.number, 0);
    if (one.beside != nullptr) rig.launch(one.beside, 1, one.number, 1);
    rig.end();
  }
  // Not what the driver's threads still have.
  std::_Exit(0);
}

// Runs a case in a process of its own; its exit status, and what it says.
int run_apart(const char *program, const Case &one, std::string &said) {
  int ends[2];
  if (pipe(ends) != 0) return -1;
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    execl(program, program, one.name, nullptr);
    std::_Exit(127);
  }
  close(ends[1]);
  char buffer[4096];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;) said.append(buffer, static_cast<size_t>(got));
  close(ends[0]);
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

}  // namespace

int main(int count, char **arguments) {
  int ran = 0, failed = 0;
  for (const Case &one : CASES) {
    if (count > 1) {
      if (std::string(arguments[1]) == one.name) return run(one);
      continue;
    }
    if (one.check != Check::ALWAYS && one.check != BUILT) continue;
    // Fewer multiprocessors than blocks, threads by number; then several, threads in a random order.
    for (const char *const sms : {"1", "3"}) {
      setenv("REEF_EMULATOR_SMS", sms, 1);
      if (*sms == '1') unsetenv("REEF_EMULATOR_SEED");
      else setenv("REEF_EMULATOR_SEED", "5", 1);
      std::string said;
      const int status = run_apart("/proc/self/exe", one, said);
      const bool ends_well = one.words == nullptr;
      const bool holds = ends_well ? status == 0 : status != 0 && said.find(one.words) != std::string::npos;
      ran++;
      if (holds) continue;
      failed++;
      std::printf("%s on %s SMs: %s, status %d\n%s\n", one.name, sms, ends_well ? "does not end well" : "is not found",
                  status, said.c_str());
    }
  }
  std::printf("self-test of the emulated driver: %d cases, %d failed\n", ran, failed);
  return failed == 0 && ran > 0 ? 0 : 1;
}
