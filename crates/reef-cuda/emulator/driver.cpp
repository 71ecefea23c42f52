// The driver's interface, as far as reef uses it, over emulated multiprocessors. See README.md.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

// The kernels, from the same text as on a device.
#include "queue.cuh"

namespace emulator {
namespace {

enum Result : int {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  DEVICE_UNAVAILABLE = 46,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  NOT_PERMITTED = 800,
  NOT_SUPPORTED = 801,
  LAUNCH_FAILED = 719,
};

long setting(const char *name, long otherwise) {
  const char *text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtol(text, nullptr, 10);
}

// Number `index` of a list; the last one for those behind it.
long listed(const char *name, long index, long otherwise) {
  const char *text = std::getenv(name);
  if (text == nullptr) return otherwise;
  char *rest = nullptr;
  long value = std::strtol(text, &rest, 10);
  for (; index > 0 && *rest == ','; index--) value = std::strtol(rest + 1, &rest, 10);
  return value;
}

// Numbers of the devices that the process may see, as CUDA_VISIBLE_DEVICES lists them; what is no number of a device
// ends the list.
std::vector<long> visible() {
  const long count = std::clamp(setting("REEF_EMULATOR_DEVICES", 1), 0l, 8l);
  std::vector<long> numbers;
  const char *text = std::getenv("CUDA_VISIBLE_DEVICES");
  if (text == nullptr) {
    for (long number = 0; number < count; number++) numbers.push_back(number);
    return numbers;
  }
  for (char *rest = nullptr;; text = rest + 1) {
    const long number = std::strtol(text, &rest, 10);
    const bool known = rest != text && number >= 0 && number < count;
    if (!known || std::find(numbers.begin(), numbers.end(), number) != numbers.end()) return numbers;
    numbers.push_back(number);
    if (*rest != ',') return numbers;
  }
}

// A kernel that this library has in it.
struct Kernel {
  const char *name;
  size_t parameter_bytes;
  void (*run)(const void *parameter);
  // Bytes of shared memory that a launch may ask for.
  std::atomic<size_t> shared_bytes_max;
};

template <class Parameter, void (*KERNEL)(Parameter)>
void with_parameter(const void *at) {
  Parameter parameter;
  std::memcpy(&parameter, at, sizeof parameter);
  KERNEL(parameter);
}

#define KERNEL_OF(name, Parameter) {#name, sizeof(reef::Parameter), with_parameter<reef::Parameter, name>, 48 * 1024}
#define TILE_KERNEL(number, name, Descriptor, together) KERNEL_OF(reef_queue_##name, Launch),

// Those of the driver's own test.
#ifndef EMULATOR_OTHER_KERNELS
#define EMULATOR_OTHER_KERNELS
#endif

Kernel KERNELS[] = {
    REEF_TILE_FUNCTIONS(TILE_KERNEL) KERNEL_OF(reef_queue_padded_2, Padded),
    KERNEL_OF(reef_queue_padded_4, Padded),
    KERNEL_OF(reef_queue_mark, Launch),
    KERNEL_OF(reef_queue_graph_end, Launch),
    EMULATOR_OTHER_KERNELS
};

// Memory that kernels use: as much as was asked for and not more, so that what lies behind it is found out where the
// driver is built for that.
void *take_memory(size_t alignment, size_t bytes) {
#ifdef EMULATOR_RACES
  (void)alignment;
  return races::take_memory(bytes);
#else
  void *at = nullptr;
  return posix_memalign(&at, alignment, bytes) == 0 ? at : nullptr;
#endif
}

void give_memory_back(void *at, size_t bytes) {
#ifdef EMULATOR_RACES
  races::give_memory_back(at, bytes);
#else
  (void)bytes;
  std::free(at);
#endif
}

// Launches of an executable graph: each waits for the one before it, on whatever stream that is.
struct Launches {
  unsigned long long queued = 0, ended = 0;
};

// What a stream is to do, one after the other.
struct Work {
  // A launch, if there is a kernel; else `at_once`.
  const Kernel *kernel = nullptr;
  std::vector<unsigned char> parameter;
  BlockView view;
  size_t shared_bytes = 0;
  unsigned long long next = 0, through = 0;
  unsigned number = 0;
  std::function<void()> at_once;
  // Otherwise done as soon as its turn in the stream comes, whatever the multiprocessors do.
  bool needs_sm = true;
  // Of a graph: its launches, the number of this one, and whether it is the last node.
  std::shared_ptr<Launches> graph;
  unsigned long long launch = 0;
  bool ends_graph = false;

  bool may_begin() const { return graph == nullptr || graph->ended == launch; }
};

struct Stream {
  int priority = 0;
  std::deque<Work> work;
};

struct Event {
  bool recorded = true;
};

class Device {
 public:
  static constexpr int PRIORITY_LEAST = 0, PRIORITY_GREATEST = -5;
  static constexpr unsigned THREADS_MAX = 1024;
  static constexpr size_t SHARED_BYTES_MAX = 227 * 1024, SHARED_BYTES_OF_SM = 228 * 1024;

  explicit Device(long number)
      : memory_bytes(setting("REEF_EMULATOR_MEMORY_MIB", 1024) << 20),
        sms(listed("REEF_EMULATOR_SMS", number, 2)),
        launches_max_(listed("REEF_EMULATOR_LOST_AFTER", number, -1)) {
    streams_.push_back(&legacy_);
    for (long sm = 0; sm < sms; sm++) std::thread(&Device::work, this, static_cast<unsigned>(sm)).detach();
    std::thread(&Device::copy, this).detach();
  }

  Result fault() {
    std::lock_guard<std::mutex> held(mutex_);
    return fault_;
  }

  // Counts a launch; the device is lost with the one behind the last that it may have. What was queued stays undone.
  Result count_launch() {
    std::lock_guard<std::mutex> held(mutex_);
    if (launches_max_ >= 0 && launches_++ >= launches_max_ && fault_ == SUCCESS) {
      fault_ = DEVICE_UNAVAILABLE;
      changed_.notify_all();
    }
    return fault_;
  }

  Stream *resolve(void *handle) { return handle == nullptr ? &legacy_ : static_cast<Stream *>(handle); }

  Stream *create(int priority) {
    std::lock_guard<std::mutex> held(mutex_);
    Stream *stream = new Stream;
    stream->priority = std::clamp(priority, PRIORITY_GREATEST, PRIORITY_LEAST);
    streams_.push_back(stream);
    return stream;
  }

  void destroy(Stream *stream) {
    std::unique_lock<std::mutex> held(mutex_);
    changed_.wait(held, [&] { return stream->work.empty(); });
    streams_.erase(std::find(streams_.begin(), streams_.end(), stream));
    delete stream;
  }

  Result add(Stream *stream, Work work) {
    {
      std::lock_guard<std::mutex> held(mutex_);
      if (fault_ != SUCCESS) return fault_;
      if (!work.needs_sm && stream->work.empty()) {
        work.at_once();
        return SUCCESS;
      }
      stream->work.push_back(std::move(work));
    }
    changed_.notify_all();
    return SUCCESS;
  }

  // Queues all nodes of a graph, one after the other.
  Result add(Stream *stream, std::vector<Work> nodes, const std::shared_ptr<Launches> &launches) {
    {
      std::lock_guard<std::mutex> held(mutex_);
      if (fault_ != SUCCESS) return fault_;
      const unsigned long long launch = launches->queued++;
      for (Work &node : nodes) {
        node.graph = launches;
        node.launch = launch;
        node.ends_graph = &node == &nodes.back();
        stream->work.push_back(std::move(node));
      }
    }
    changed_.notify_all();
    return SUCCESS;
  }

  Result wait(Stream *stream) {
    std::unique_lock<std::mutex> held(mutex_);
    changed_.wait(held, [&] { return fault_ != SUCCESS || stream->work.empty(); });
    return fault_;
  }

  Result wait_all() {
    std::unique_lock<std::mutex> held(mutex_);
    changed_.wait(held, [&] {
      return fault_ != SUCCESS || std::all_of(streams_.begin(), streams_.end(), [](Stream *s) { return s->work.empty(); });
    });
    return fault_;
  }

  bool idle(Stream *stream) {
    std::lock_guard<std::mutex> held(mutex_);
    return stream->work.empty();
  }

  // Whether a kernel is queued or running: on `only`, or on any stream.
  bool has_kernels(Stream *only) {
    std::lock_guard<std::mutex> held(mutex_);
    return only != nullptr ? has_kernel(only) : std::any_of(streams_.begin(), streams_.end(), has_kernel);
  }

  // Gives kernels so long to end.
  void let_end(std::chrono::milliseconds most) {
    std::unique_lock<std::mutex> held(mutex_);
    changed_.wait_for(held, most, [&] { return std::none_of(streams_.begin(), streams_.end(), has_kernel); });
  }

  // Notes memory; false if there is not so much left.
  bool take(void *at, size_t bytes, bool of_device) {
    std::lock_guard<std::mutex> held(mutex_);
    size_t &used = of_device ? used_ : pinned_;
    if (used + bytes > (of_device ? memory_bytes - others_bytes_ : pinned_bytes_)) return false;
    used += bytes;
    memory_[at] = {bytes, of_device};
    return true;
  }

  bool give_back(void *at, bool of_device) {
    std::lock_guard<std::mutex> held(mutex_);
    const auto found = memory_.find(at);
    if (found == memory_.end() || found->second.second != of_device) return false;
    const size_t bytes = found->second.first;
    (of_device ? used_ : pinned_) -= bytes;
    memory_.erase(found);
    give_memory_back(at, bytes);
    return true;
  }

  // Whether so many bytes from `at` on are of one allocation.
  bool knows(const void *at, size_t bytes) {
    std::lock_guard<std::mutex> held(mutex_);
    auto next = memory_.upper_bound(const_cast<void *>(at));
    if (next == memory_.begin()) return false;
    const auto &[begin, what] = *std::prev(next);
    const size_t offset = static_cast<const char *>(at) - static_cast<const char *>(begin);
    return offset + bytes <= what.first;
  }

  size_t free_bytes() {
    std::lock_guard<std::mutex> held(mutex_);
    return memory_bytes - others_bytes_ - used_;
  }

  const size_t memory_bytes;
  const long sms;

 private:
  static bool has_kernel(Stream *stream) {
    return std::any_of(stream->work.begin(), stream->work.end(), [](const Work &work) { return work.kernel != nullptr; });
  }

  // What a multiprocessor does all its life.
  void work(unsigned sm) {
    Multiprocessor own(sm);
    std::unique_lock<std::mutex> held(mutex_);
    for (;;) {
      changed_.wait(held, [&] { return fault_ == SUCCESS && (!own.is_empty() || pick(own) != nullptr); });
      if (Stream *const stream = pick(own)) {
        take(own, *stream);
      }
      held.unlock();
      void *owner = nullptr;
      const Multiprocessor::Turn turn = own.turn(owner);
      held.lock();
      if (turn == Multiprocessor::Turn::IDLE) continue;
      Stream *const stream = static_cast<Stream *>(owner);
      Work &head = stream->work.front();
      if (turn == Multiprocessor::Turn::STUCK) {
        std::fprintf(stderr, "emulated driver: a block of %s: its threads wait for each other\n", head.kernel->name);
        fault_ = LAUNCH_FAILED;
        changed_.notify_all();
      } else if (++head.through == head.view.grid.count()) {
        races::end_launch(head.number);
        end_head(*stream);
      }
    }
  }

  // Has a multiprocessor begin with the next block of a stream's launch.
  void take(Multiprocessor &own, Stream &stream) {
    Work &head = stream.work.front();
    if (head.next == 0) head.number = races::begin_launch(head.kernel->name);
    const unsigned long long block = head.next++;
    BlockView view = head.view;
    const Dim &grid = view.grid;
    view.index = {static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
                  static_cast<unsigned>(block / grid.x / grid.y)};
    own.take(view, head.shared_bytes, [&head] { head.kernel->run(head.parameter.data()); }, &stream, head.number);
  }

  // What copies all its life. Kernels that wait for a copy do not keep it from being made.
  void copy() {
    std::unique_lock<std::mutex> held(mutex_);
    for (;;) {
      Stream *stream = nullptr;
      const auto copies = [](const Work &head) { return head.kernel == nullptr; };
      changed_.wait(held, [&] { return fault_ == SUCCESS && (stream = pick_if(copies)) != nullptr; });
      const std::function<void()> at_once = stream->work.front().at_once;
      held.unlock();
      at_once();
      held.lock();
      end_head(*stream);
    }
  }

  // What a stream does now is done.
  void end_head(Stream &stream) {
    const Work &head = stream.work.front();
    if (head.ends_graph) head.graph->ended++;
    stream.work.pop_front();
    changed_.notify_all();
  }

  // The most urgent stream of whose launch the multiprocessor can take a block.
  Stream *pick(const Multiprocessor &own) {
    return pick_if([&own](const Work &head) {
      return head.kernel != nullptr && head.next < head.view.grid.count() &&
             own.has_room(head.view.threads.count(), head.shared_bytes);
    });
  }

  // The most urgent stream whose next work is such a one.
  template <class Wanted>
  Stream *pick_if(Wanted wanted) {
    Stream *best = nullptr;
    for (Stream *stream : streams_) {
      if (stream->work.empty() || (best != nullptr && best->priority <= stream->priority)) continue;
      if (stream->work.front().may_begin() && wanted(stream->work.front())) best = stream;
    }
    return best;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Stream legacy_;
  std::vector<Stream *> streams_;
  std::map<void *, std::pair<size_t, bool>> memory_;
  size_t used_ = 0, pinned_ = 0;
  // Of the device's memory, what other processes have; of the host's, what may be pinned.
  const size_t others_bytes_ = std::min<size_t>(setting("REEF_EMULATOR_OTHERS_MIB", 0) << 20, memory_bytes);
  const size_t pinned_bytes_ = setting("REEF_EMULATOR_PINNED_MIB", 1024) << 20;
  const long launches_max_;
  long launches_ = 0;
  Result fault_ = SUCCESS;
};

bool initialized = false;
thread_local long context = -1;

long device_count() { return static_cast<long>(visible().size()); }

// Never freed: their threads go on until the process ends.
Device &device(long number) {
  static std::mutex mutex;
  static std::map<long, Device *> devices;
  std::lock_guard<std::mutex> held(mutex);
  Device *&own = devices[number];
  if (own == nullptr) own = new Device(visible().at(static_cast<size_t>(number)));
  return *own;
}

struct Module {
  std::string image;
};

struct Function {
  const Kernel *kernel;
};

// A graph and what is launched of it. Nodes form a chain: a stream can do them one after the other.
struct Graph {
  // By their handles.
  std::deque<Work> nodes;
};

struct GraphExec {
  // Those of the graph that it was made of, and its own.
  std::vector<const void *> handles;
  std::vector<Work> nodes;
  std::shared_ptr<Launches> launches = std::make_shared<Launches>();
};

// As CUDA declares it.
struct KernelNodeParameters {
  void *function;
  unsigned grid_x, grid_y, grid_z, x, y, z, shared_bytes;
  void **parameters, **extra;
  void *kernel, *context;
};

struct MemsetNodeParameters {
  unsigned long long to;
  size_t pitch;
  unsigned value, element_bytes;
  size_t width, height;
};

// A launch of a kernel as work of a stream.
Result work_of(const KernelNodeParameters &of, Work &work) {
  if (of.function == nullptr) return INVALID_HANDLE;
  work.kernel = static_cast<const Kernel *>(of.function);
  work.view.grid = {of.grid_x, of.grid_y, of.grid_z};
  work.view.threads = {of.x, of.y, of.z};
  work.shared_bytes = of.shared_bytes;
  const bool fits =
      work.view.threads.count() <= Device::THREADS_MAX && of.shared_bytes <= work.kernel->shared_bytes_max;
  if (!fits || work.view.grid.count() == 0 || work.view.threads.count() == 0) return INVALID_VALUE;
  const auto *parameter = static_cast<const unsigned char *>(of.parameters[0]);
  work.parameter.assign(parameter, parameter + work.kernel->parameter_bytes);
  return SUCCESS;
}

// Adds a node to the chain.
Result add_node(void **handle, Graph &graph, void *const *dependencies, size_t count, Work work) {
  const bool chained =
      graph.nodes.empty() ? count == 0 : count == 1 && dependencies[0] == static_cast<void *>(&graph.nodes.back());
  if (!chained) return NOT_SUPPORTED;
  graph.nodes.push_back(std::move(work));
  *handle = &graph.nodes.back();
  return SUCCESS;
}

// The bytes of a CUBIN, an ELF file; empty if it is none.
std::string cubin(const void *image) {
  const auto *bytes = static_cast<const unsigned char *>(image);
  const auto read = [bytes](size_t at, auto value) {
    std::memcpy(&value, bytes + at, sizeof value);
    return value;
  };
  constexpr uint16_t CUDA_MACHINE = 190;
  if (std::memcmp(bytes, "\x7f" "ELF", 4) != 0 || read(18, uint16_t()) != CUDA_MACHINE) return {};
  const size_t end = read(40, uint64_t()) + 1ull * read(58, uint16_t()) * read(60, uint16_t());
  return std::string(static_cast<const char *>(image), end);
}

}  // namespace
}  // namespace emulator

using namespace emulator;

#define API extern "C" __attribute__((visibility("default"))) int

// Calls about a device's things need its context.
#define IN_CONTEXT                            \
  if (context < 0) return INVALID_CONTEXT;    \
  Device &own = device(context);              \
  if (own.fault() != SUCCESS) return own.fault()

// With REEF_EMULATOR_STRICT, refuses calls that may wait for kernels that are queued or running: all of them
// of the device, or those of `stream`. 2 ends the process, so that calls whose result nobody looks at show.
static bool refuses(const char *call, Device &own, Stream *stream) {
  static const long strict = setting("REEF_EMULATOR_STRICT", 0);
  if (strict == 0 || !own.has_kernels(stream)) return false;
  std::fprintf(stderr, "emulated driver: %s may wait for a kernel that is queued or running\n", call);
  if (strict > 1) std::abort();
  return true;
}

#define MAY_WAIT \
  if (refuses(__func__, own, nullptr)) return NOT_PERMITTED
#define MAY_WAIT_FOR(stream) \
  if (refuses(__func__, own, stream)) return NOT_PERMITTED
// The same for calls that reef makes beside kernels that end, where a wait does no harm; not beside those that stay.
#define MAY_WAIT_UNTIL_ENDED                                                                  \
  if (setting("REEF_EMULATOR_STRICT", 0) != 0) own.let_end(std::chrono::milliseconds(1000)); \
  MAY_WAIT
// Work on the legacy stream waits for that of the others.
#define NOT_LEGACY(stream) \
  if ((stream) == nullptr) MAY_WAIT

// With REEF_EMULATOR_LAUNCHES, adds a line to that file.
static void note(const char *what, const char *name) {
  static std::FILE *const file = [] {
    const char *path = std::getenv("REEF_EMULATOR_LAUNCHES");
    return path == nullptr ? nullptr : std::fopen(path, "a");
  }();
  if (file == nullptr) return;
  std::fprintf(file, "%s %s\n", what, name);
  std::fflush(file);
}

typedef unsigned long long Address;

API cuInit(unsigned) {
  initialized = true;
  return device_count() == 0 ? NO_DEVICE : SUCCESS;
}

API cuDriverGetVersion(int *version) {
  *version = static_cast<int>(setting("REEF_EMULATOR_VERSION", 13000));
  return SUCCESS;
}

API cuDeviceGetCount(int *count) {
  *count = static_cast<int>(device_count());
  return initialized ? SUCCESS : NOT_INITIALIZED;
}

API cuDeviceGet(int *handle, int number) {
  *handle = number;
  return number >= 0 && number < device_count() ? SUCCESS : INVALID_DEVICE;
}

API cuDeviceGetName(char *name, int length, int number) {
  const long own = visible().at(static_cast<size_t>(number));
  const char *mig = std::getenv("REEF_EMULATOR_MIG");
  std::snprintf(name, static_cast<size_t>(length), "emulated GPU %ld%s%s", own, mig ? " MIG " : "", mig ? mig : "");
  return SUCCESS;
}

API cuDeviceTotalMem_v2(size_t *bytes, int number) {
  *bytes = device(number).memory_bytes;
  return SUCCESS;
}

API cuDeviceGetAttribute(int *value, int attribute, int number) {
  const long arch = setting("REEF_EMULATOR_ARCH", 90);
  switch (attribute) {
    case 16:  // multiprocessors
      *value = static_cast<int>(device(number).sms);
      return SUCCESS;
    case 75:  // compute capability, major
      *value = static_cast<int>(arch / 10);
      return SUCCESS;
    case 76:  // compute capability, minor
      *value = static_cast<int>(arch % 10);
      return SUCCESS;
    case 97:  // shared memory of a block
      *value = static_cast<int>(Device::SHARED_BYTES_MAX);
      return SUCCESS;
    case 81:  // shared memory of a multiprocessor
      *value = static_cast<int>(Device::SHARED_BYTES_OF_SM);
      return SUCCESS;
    case 20:  // compute mode
      *value = static_cast<int>(setting("REEF_EMULATOR_COMPUTE_MODE", 0));
      return SUCCESS;
    case 133:  // contexts of several processes together, by MPS
      *value = static_cast<int>(setting("REEF_EMULATOR_MPS", 0));
      return SUCCESS;
    default:
      *value = 0;
      return SUCCESS;
  }
}

API cuDevicePrimaryCtxRetain(void **handle, int number) {
  if (number < 0 || number >= device_count()) return INVALID_DEVICE;
  *handle = reinterpret_cast<void *>(static_cast<intptr_t>(number) + 1);
  return SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }

API cuCtxSetCurrent(void *handle) {
  context = static_cast<long>(reinterpret_cast<intptr_t>(handle)) - 1;
  return SUCCESS;
}

API cuCtxSynchronize() {
  IN_CONTEXT;
  MAY_WAIT;
  return own.wait_all();
}

API cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  *least = Device::PRIORITY_LEAST;
  *greatest = Device::PRIORITY_GREATEST;
  return SUCCESS;
}

API cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  IN_CONTEXT;
  *free_bytes = own.free_bytes();
  *total = own.memory_bytes;
  return SUCCESS;
}

API cuMemAlloc_v2(Address *address, size_t bytes) {
  IN_CONTEXT;
  MAY_WAIT;
  if (bytes == 0) return INVALID_VALUE;
  void *at = take_memory(512, bytes);
  if (at == nullptr) return OUT_OF_MEMORY;
  if (!own.take(at, bytes, true)) {
    give_memory_back(at, bytes);
    return OUT_OF_MEMORY;
  }
  // A device's memory is not zero when it is taken. Not all of a large one: it costs time, and memory.
  std::memset(at, 0xA5, std::min(bytes, size_t{64} << 20));
  *address = reinterpret_cast<Address>(at);
  return SUCCESS;
}

API cuMemFree_v2(Address address) {
  IN_CONTEXT;
  MAY_WAIT;
  own.wait_all();
  return own.give_back(reinterpret_cast<void *>(address), true) ? SUCCESS : INVALID_VALUE;
}

API cuMemHostAlloc(void **at, size_t bytes, unsigned) {
  IN_CONTEXT;
  MAY_WAIT;
  if (bytes == 0) return INVALID_VALUE;
  *at = take_memory(4096, bytes);
  if (*at == nullptr) return OUT_OF_MEMORY;
  if (!own.take(*at, bytes, false)) {
    give_memory_back(*at, bytes);
    return OUT_OF_MEMORY;
  }
  return SUCCESS;
}

API cuMemFreeHost(void *at) {
  IN_CONTEXT;
  MAY_WAIT;
  own.wait_all();
  return own.give_back(at, false) ? SUCCESS : INVALID_VALUE;
}

API cuMemHostGetDevicePointer_v2(Address *address, void *at, unsigned) {
  IN_CONTEXT;
  if (!own.knows(at, 1)) return INVALID_VALUE;
  *address = reinterpret_cast<Address>(at);
  return SUCCESS;
}

API cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) {
  IN_CONTEXT;
  NOT_LEGACY(stream);
  void *at = reinterpret_cast<void *>(to);
  if (!own.knows(at, bytes)) return INVALID_VALUE;
  Work work;
  work.at_once = [=] { std::memcpy(at, from, bytes); };
  return own.add(own.resolve(stream), std::move(work));
}

API cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) {
  IN_CONTEXT;
  NOT_LEGACY(stream);
  const void *at = reinterpret_cast<const void *>(from);
  if (!own.knows(at, bytes)) return INVALID_VALUE;
  Work work;
  work.at_once = [=] { std::memcpy(to, at, bytes); };
  return own.add(own.resolve(stream), std::move(work));
}

API cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void *stream) {
  IN_CONTEXT;
  NOT_LEGACY(stream);
  void *at = reinterpret_cast<void *>(to);
  if (!own.knows(at, bytes)) return INVALID_VALUE;
  Work work;
  work.at_once = [=] { std::memset(at, value, bytes); };
  return own.add(own.resolve(stream), std::move(work));
}

API cuStreamWriteValue32_v2(void *stream, Address to, unsigned value, unsigned) {
  IN_CONTEXT;
  NOT_LEGACY(stream);
  void *at = reinterpret_cast<void *>(to);
  if (!own.knows(at, sizeof value) || to % sizeof value != 0) return INVALID_VALUE;
  Work work;
  work.at_once = [=] { __atomic_store_n(static_cast<unsigned *>(at), value, __ATOMIC_RELEASE); };
  work.needs_sm = false;
  return own.add(own.resolve(stream), std::move(work));
}

API cuStreamCreateWithPriority(void **stream, unsigned, int priority) {
  IN_CONTEXT;
  *stream = own.create(priority);
  return SUCCESS;
}

API cuStreamDestroy_v2(void *stream) {
  IN_CONTEXT;
  if (stream == nullptr) return INVALID_HANDLE;
  MAY_WAIT;
  own.destroy(own.resolve(stream));
  return SUCCESS;
}

API cuStreamSynchronize(void *stream) {
  IN_CONTEXT;
  NOT_LEGACY(stream);
  MAY_WAIT_FOR(own.resolve(stream));
  return own.wait(own.resolve(stream));
}

API cuStreamQuery(void *stream) {
  IN_CONTEXT;
  return own.idle(own.resolve(stream)) ? SUCCESS : NOT_READY;
}

API cuModuleLoadData(void **module, const void *image) {
  IN_CONTEXT;
  MAY_WAIT;
  std::string bytes = cubin(image);
  if (bytes.empty()) return INVALID_IMAGE;
  *module = new Module{std::move(bytes)};
  return SUCCESS;
}

API cuModuleUnload(void *module) {
  IN_CONTEXT;
  MAY_WAIT;
  own.wait_all();
  delete static_cast<Module *>(module);
  return SUCCESS;
}

API cuModuleGetFunction(void **function, void *module, const char *name) {
  IN_CONTEXT;
  if (static_cast<Module *>(module)->image.find(name) == std::string::npos) return NOT_FOUND;
  Kernel *const end = std::end(KERNELS);
  Kernel *const found =
      std::find_if(std::begin(KERNELS), end, [name](const Kernel &kernel) { return std::string(kernel.name) == name; });
  if (found == end) return NOT_FOUND;
  *function = found;
  return SUCCESS;
}

API cuFuncSetAttribute(void *function, int attribute, int value) {
  IN_CONTEXT;
  if (function == nullptr) return INVALID_HANDLE;
  // Dynamic shared memory.
  if (attribute != 8) return SUCCESS;
  if (value < 0 || static_cast<size_t>(value) > Device::SHARED_BYTES_MAX) return INVALID_VALUE;
  static_cast<Kernel *>(function)->shared_bytes_max = static_cast<size_t>(value);
  return SUCCESS;
}

API cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y,
                   unsigned z, unsigned shared_bytes, void *stream, void **parameters, void **) {
  IN_CONTEXT;
  if (function == nullptr) return INVALID_HANDLE;
  NOT_LEGACY(stream);
  if (const Result lost = own.count_launch()) return lost;
  Work work;
  const KernelNodeParameters of{function,     grid_x,     grid_y,  grid_z,  x,      y, z,
                                shared_bytes, parameters, nullptr, nullptr, nullptr};
  if (const Result refused = work_of(of, work)) return refused;
  note("kernel", work.kernel->name);
  return own.add(own.resolve(stream), std::move(work));
}

API cuGraphCreate(void **graph, unsigned) {
  IN_CONTEXT;
  *graph = new Graph;
  return SUCCESS;
}

API cuGraphDestroy(void *graph) {
  IN_CONTEXT;
  delete static_cast<Graph *>(graph);
  return SUCCESS;
}

API cuGraphAddKernelNode_v2(void **node, void *graph, void *const *dependencies, size_t count,
                            const KernelNodeParameters *parameters) {
  IN_CONTEXT;
  Work work;
  if (const Result refused = work_of(*parameters, work)) return refused;
  return add_node(node, *static_cast<Graph *>(graph), dependencies, count, std::move(work));
}

API cuGraphAddMemsetNode(void **node, void *graph, void *const *dependencies, size_t count,
                         const MemsetNodeParameters *parameters, void *) {
  IN_CONTEXT;
  const MemsetNodeParameters &of = *parameters;
  if (of.element_bytes != 1 || of.height != 1) return NOT_SUPPORTED;
  void *at = reinterpret_cast<void *>(of.to);
  if (!own.knows(at, of.width)) return INVALID_VALUE;
  Work work;
  work.at_once = [at, of] { std::memset(at, static_cast<int>(of.value), of.width); };
  return add_node(node, *static_cast<Graph *>(graph), dependencies, count, std::move(work));
}

API cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
  IN_CONTEXT;
  MAY_WAIT_UNTIL_ENDED;
  Graph &of = *static_cast<Graph *>(graph);
  if (flags != 0 || of.nodes.empty()) return NOT_SUPPORTED;
  auto *made = new GraphExec;
  for (Work &node : of.nodes) {
    made->handles.push_back(&node);
    made->nodes.push_back(node);
  }
  *exec = made;
  return SUCCESS;
}

API cuGraphExecKernelNodeSetParams_v2(void *exec, void *node, const KernelNodeParameters *parameters) {
  IN_CONTEXT;
  auto &of = *static_cast<GraphExec *>(exec);
  const auto found = std::find(of.handles.begin(), of.handles.end(), node);
  if (found == of.handles.end()) return INVALID_VALUE;
  Work &old = of.nodes[static_cast<size_t>(found - of.handles.begin())];
  Work work;
  if (const Result refused = work_of(*parameters, work)) return refused;
  if (old.kernel == nullptr) return INVALID_VALUE;
  // What is queued keeps its own.
  old = std::move(work);
  return SUCCESS;
}

API cuGraphUpload(void *, void *stream) {
  IN_CONTEXT;
  NOT_LEGACY(stream);
  MAY_WAIT_UNTIL_ENDED;
  return SUCCESS;
}

API cuGraphLaunch(void *exec, void *stream) {
  IN_CONTEXT;
  NOT_LEGACY(stream);
  if (const Result lost = own.count_launch()) return lost;
  auto &of = *static_cast<GraphExec *>(exec);
  note("graph", std::to_string(of.nodes.size()).c_str());
  return own.add(own.resolve(stream), of.nodes, of.launches);
}

// What is queued of it goes on.
API cuGraphExecDestroy(void *exec) {
  IN_CONTEXT;
  delete static_cast<GraphExec *>(exec);
  return SUCCESS;
}

API cuGetErrorName(int error, const char **name) {
  switch (error) {
    case SUCCESS: *name = "CUDA_SUCCESS"; break;
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case DEVICE_UNAVAILABLE: *name = "CUDA_ERROR_DEVICE_UNAVAILABLE"; break;
    case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
    case INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
    case INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
    case NOT_PERMITTED: *name = "CUDA_ERROR_NOT_PERMITTED"; break;
    case NOT_SUPPORTED: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
    case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: *name = "CUDA_ERROR_UNKNOWN"; break;
  }
  return SUCCESS;
}
