//! Every limit of reef in one place, with the relations between them asserted at compile time.

use crate::Nanos;

/// Real-time levels, 0 the most urgent. The key has 4 bits of rank and best-effort takes one value.
pub const REAL_TIME_LEVELS: u8 = 15;

/// Compute units that one device may have, whatever it is.
pub const CUS_MAX: usize = 256;

/// Compute units that a CPU device may have: its board keeps sets of them in one word.
pub const CPU_CUS_MAX: usize = 64;

/// Devices of one engine.
pub const DEVICES_MAX: usize = 16;

/// Task slots on a device's board.
pub const BOARD_SLOTS_MAX: usize = 64;

/// Slots that an engine uses unless told otherwise.
pub const BOARD_SLOTS_DEFAULT: usize = 8;

/// Slots of a board that only real-time tasks may take.
pub const REAL_TIME_SLOTS_RESERVED: usize = 4;

/// Stages of one plan: a claim word has 16 bits for the stage.
pub const STAGES_MAX: usize = 1 << 16;

/// Blocks of one stage: a claim word has 24 bits for the blocks that remain.
pub const STAGE_BLOCKS_MAX: usize = 1 << 24;

/// Kernels of one stage.
pub const STAGE_KERNELS_MAX: usize = 256;

/// Rank of a tensor.
pub const TENSOR_RANK_MAX: usize = 8;

/// Elements of one tensor; keeps index arithmetic in 32 bits where it matters.
pub const TENSOR_ELEMENTS_MAX: usize = 1 << 31;

/// Bytes of texts in an input of a request that its model does not have itself: they are kept until it ends.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// Elements of a constant that a model makes of smaller constants.
pub const FOLDED_ELEMENTS_MAX: usize = 1 << 28;

/// Inputs or outputs of one model: a decoder with 128 layers has 256 for keys and values alone, and a few
/// that describe each layer.
pub const MODEL_TENSORS_MAX: usize = 1024;

/// Rounds of a loop that are written out when a model is compiled, if their number is known.
pub const UNROLLED_ROUNDS_MAX: usize = 16;

/// Nodes of a loop's rounds that are written out, those of loops within included. More take longer to compile
/// than rounds take one by one.
pub const UNROLLED_NODES_MAX: usize = 1024;

/// Nodes that one step of a program visits, bodies and functions written out.
pub const PROGRAM_NODES_MAX: usize = 1 << 18;

/// Tensors that one sequence is split into.
pub const SEQUENCE_LEN_MAX: usize = 1024;

/// Elements of a value that decides the shape of another.
pub const SHAPE_VALUES_MAX: usize = 64;

/// Bytes of a model's weights, as its file has them, that are kept beside the packed ones for further
/// shapes; of a model with more, the large ones stay in the file.
pub const WEIGHTS_KEPT_BYTES: usize = 16 << 20;

/// Bytes from which on a constant of such a model is large.
pub const STORED_BYTES_MIN: usize = 4 << 10;

/// Bytes of one model file, external data not counted: a protocol buffer has at most 2 GiB.
pub const MODEL_BYTES_MAX: usize = 2 << 30;

/// Models that one engine holds.
pub const MODELS_MAX: usize = 256;

/// Requests that wait for one model, unless its settings say otherwise.
pub const QUEUE_LEN_DEFAULT: usize = 128;

/// Requests that wait for one model at most.
pub const QUEUE_LEN_MAX: usize = 65_536;

/// Plans (one per concrete set of input shapes) that one model keeps.
pub const PLANS_PER_MODEL_MAX: usize = 64;

/// Plans that one model keeps for its parts that others go on with.
pub const SEGMENTS_PER_MODEL_MAX: usize = 1024;

/// Segments that one request runs at most, about one per round of a loop: a loop that does not end keeps a
/// device for half a second if its rounds are nearly empty (2 µs each), longer if they do more, unless the
/// request has a deadline.
pub const SEGMENTS_PER_REQUEST_MAX: u32 = 1 << 18;

/// Rows of a batch, and of a request to a model whose settings bound them.
pub const BATCH_ROWS_MAX: usize = 1024;

/// Numbers of rows that plans of a model are made for ahead.
pub const BATCH_SIZES_MAX: usize = 16;

/// Plans of a model that its batches may keep for themselves; others of its plans come and go.
pub const BATCH_PLANS_MAX: usize = PLANS_PER_MODEL_MAX / 2;

/// Buffers that one plan keeps for its next requests.
pub const IDLE_BUFFERS_MAX: usize = BOARD_SLOTS_DEFAULT;

/// The same, of a plan whose buffers are larger than [`LARGE_BUFFERS_BYTES`].
pub const IDLE_LARGE_BUFFERS_MAX: usize = 2;

/// Bytes of one request's inputs and outputs from which few are kept.
pub const LARGE_BUFFERS_BYTES: usize = 8 << 20;

/// Bytes of a best-effort batch from which its rows are copied by a thread of their own: less takes about as
/// long as a change of threads.
pub const LONG_COPY_BYTES_MIN: usize = 256 << 10;

/// Such copies that wait at most. Who has another one makes it.
pub const LONG_COPIES_MAX: usize = BOARD_SLOTS_DEFAULT;

/// Bytes of buffers that the plans of a model may keep; the least recently used plans go.
pub const IDLE_BYTES_PER_MODEL_MAX: usize = 1 << 30;

/// Bytes of packed weights that the plans of a model may hold beside those of the plan with the most: packed
/// in other ways, or made for some shapes alone. The least recently used plans go.
pub const FURTHER_WEIGHTS_PER_MODEL_MAX: usize = 1 << 30;

/// How long a plan for shapes that only a request named is kept without another one.
pub const PLAN_IDLE: Nanos = Nanos::from_millis(10 * 60_000);

/// How often it is looked for memory that can be given back.
pub const TIDY_EVERY: Nanos = Nanos::from_millis(10_000);

/// Poll period that kernels must keep on a CPU, in nanoseconds.
pub const POLL_PERIOD_CPU_NS: u64 = 10_000;

/// The longest block that the compiler aims at on a CPU, in nanoseconds: what more urgent work waits for
/// where a block can be neither killed nor stopped.
pub const BLOCK_CPU_NS_MAX: u64 = 200_000;

/// Bytes of one HTTP request body, unless the operator says otherwise.
pub const BODY_BYTES_DEFAULT: usize = 256 << 20;

/// Bytes of all HTTP request bodies in memory at once, unless the embedder says otherwise.
pub const BODIES_BYTES_DEFAULT: usize = 1 << 30;

/// Regions of shared memory that clients register at once: each holds a file descriptor.
pub const REGIONS_MAX: usize = 256;

/// Bytes of all registered regions together: their files stay in memory while they are registered.
pub const REGIONS_BYTES_MAX: u64 = 64 << 30;

/// Bytes of the name of a region, and of its file's.
pub const REGION_NAME_BYTES_MAX: usize = 255;

/// Clients of the shared-memory ring at once: each has a thread.
pub const RING_CONNECTIONS_MAX: usize = 64;

/// Bytes of the segment of one client of the ring.
pub const RING_CONNECTION_BYTES_MAX: usize = 1 << 30;

/// Bytes of the segments of all clients of the ring.
pub const RING_BYTES_MAX: usize = 4 << 30;

/// Nice value of threads that take what is left: compute units, by default, and background work. The lowest
/// priority there is.
pub const NICE_BACKGROUND: i32 = 19;

const _: () = assert!(REAL_TIME_SLOTS_RESERVED < BOARD_SLOTS_DEFAULT);
const _: () = assert!(BOARD_SLOTS_DEFAULT <= BOARD_SLOTS_MAX);
const _: () = assert!(BODIES_BYTES_DEFAULT / 4 * 3 >= BODY_BYTES_DEFAULT, "best-effort has three quarters");
const _: () = assert!(RING_CONNECTION_BYTES_MAX <= RING_BYTES_MAX);
const _: () = assert!(QUEUE_LEN_DEFAULT <= QUEUE_LEN_MAX);
const _: () = assert!(CPU_CUS_MAX <= 64, "sets of a CPU's compute units are u64 bit masks");
const _: () = assert!(CPU_CUS_MAX <= CUS_MAX);
const _: () = assert!(CUS_MAX <= u16::MAX as usize, "a compute unit's id has 16 bits");
const _: () = assert!(UNROLLED_NODES_MAX <= PROGRAM_NODES_MAX);
const _: () = assert!(LARGE_BUFFERS_BYTES * IDLE_BUFFERS_MAX <= IDLE_BYTES_PER_MODEL_MAX);
const _: () = assert!(BATCH_SIZES_MAX <= BATCH_PLANS_MAX && BATCH_PLANS_MAX < PLANS_PER_MODEL_MAX);
const _: () = assert!(1 << (BATCH_SIZES_MAX - 3) >= BATCH_ROWS_MAX, "powers of two, one and the most");
const _: () = assert!(IDLE_LARGE_BUFFERS_MAX <= IDLE_BUFFERS_MAX);
