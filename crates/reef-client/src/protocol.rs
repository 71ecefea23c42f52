//! What the two sides say: messages on the socket, entries of the rings, and where things lie in the segment.
//!
//! On the socket, each message JSON: the client says [`ToServer::Hello`] and gets [`ToClient::Segment`]
//! with the segment's descriptor; then it opens models, one [`ToServer::Open`] after the other, and gets
//! [`ToClient::Opened`] or [`ToClient::Refused`]. [`ToServer::Cancel`] has no answer of its own: the
//! request's completion says how it ended. The end of the connection ends everything.
//!
//! A hello of another version is refused with [`Status::Invalid`] and a text that names both; every version
//! knows that much. What else a hello says is looked at afterwards.
//!
//! In the segment ([`Layout`]): a line of 128 bytes with the server's sleep flag, one with the client's,
//! the ring of requests, the ring of completions, and from a page on the tensors. A slot has room for a
//! message of 256 bytes, for 128 bytes about each output (bytes, rank, extents), and for each input and
//! output, in this order, each from a multiple of 64 bytes on ([`SlotLayout`]).
//!
//! Who may write where: the client to a slot until it has pushed a request for it, and again once it has
//! popped the completion; the server in between. A client that does not keep to this gets other results,
//! and nobody else notices.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ring::{ENTRY_WORDS, Entry};
use crate::trace::TraceParent;

/// Changes whenever the two sides would misunderstand each other.
pub const VERSION: u32 = 2;

/// Entries of a ring at most, and slots of a connection.
pub const DEPTH_MAX: usize = 1024;

/// Words of the segment that say who sleeps.
pub const SERVER_ASLEEP: usize = 0;
/// The client's, on a line of its own.
pub const CLIENT_ASLEEP: usize = 16;
/// The word that says on which core the client was when it last submitted a request; a hint.
pub const CLIENT_CORE: usize = 17;

/// The first word of the ring of requests.
const REQUESTS: usize = 32;

/// Bytes of a word.
const WORD: usize = 8;

/// Tensors lie at multiples of this.
const ALIGNMENT: usize = 64;

/// Bytes of a slot's message: why its request failed.
pub const TEXT_BYTES: usize = 256;

/// Extents of an output at most.
pub const RANK_MAX: usize = 8;

/// Bytes of what a slot says about an output: its bytes, its rank, its extents.
const OUTPUT_WORDS: usize = 16;

/// Stands for no deadline and no timeout in an entry.
pub const NONE: u64 = u64::MAX;

/// From the client.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToServer {
    /// The first message.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Slots of all models together at most; the rings have as many entries, or more.
        depth: usize,
        /// Room for tensors.
        tensor_bytes: usize,
        /// By which the server knows the client; without one it is whom the server takes such clients for.
        #[serde(default)]
        token: Option<Token>,
    },
    /// Opens a model.
    Open(OpenModel),
    /// Asks for the end of the request in `slot`, if it is the one with this tag.
    Cancel {
        /// The slot.
        slot: u32,
        /// The request's tag.
        tag: u64,
    },
}

/// A token, which is never printed.
#[derive(Clone, Deserialize, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// What it says.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl<T: Into<String>> From<T> for Token {
    fn from(token: T) -> Token {
        Token(token.into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// From the server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToClient {
    /// The segment; its descriptor comes along.
    Segment {
        /// How it is laid out.
        layout: Layout,
        /// The server's number for the connection: the id of a request is this number in 16 hexadecimal
        /// digits, a dash and the request's tag.
        connection: u64,
    },
    /// A model is open.
    Opened(Opened),
    /// It is not; the connection goes on. After a hello that is refused it ends.
    Refused {
        /// What kind of problem it is.
        status: Status,
        /// Why.
        message: String,
    },
}

/// What a client opens: a model for certain shapes.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct OpenModel {
    /// The model's name.
    pub model: String,
    /// Its version; each request goes to the newest where it is not said.
    #[serde(default)]
    pub version: Option<String>,
    /// Requests at once.
    pub slots: usize,
    /// Every input.
    pub inputs: Vec<Tensor>,
    /// The outputs wanted, in the order wanted; all where it is empty.
    #[serde(default)]
    pub outputs: Vec<WantedOutput>,
}

/// An input.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type as the Open Inference Protocol has it: `FP32`, `INT64`.
    pub datatype: String,
    /// Its extents.
    pub shape: Vec<usize>,
}

/// An output that is wanted.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct WantedOutput {
    /// Its name.
    pub name: String,
    /// Room for it in bytes: needed where the model does not fix its shape.
    #[serde(default)]
    pub bytes: Option<usize>,
}

impl OpenModel {
    /// The model `name` with one slot, as yet without inputs.
    pub fn new(name: impl Into<String>) -> OpenModel {
        OpenModel { model: name.into(), slots: 1, ..OpenModel::default() }
    }

    /// With an input.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, datatype: &str, shape: &[usize]) -> OpenModel {
        self.inputs.push(Tensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec() });
        self
    }

    /// With an output, and room for it where the model does not fix its shape.
    #[must_use]
    pub fn output(mut self, name: impl Into<String>, bytes: Option<usize>) -> OpenModel {
        self.outputs.push(WantedOutput { name: name.into(), bytes });
        self
    }

    /// With so many requests at once.
    #[must_use]
    pub fn slots(mut self, slots: usize) -> OpenModel {
        self.slots = slots;
        self
    }
}

/// An open model: its slots are numbered from `slot` on.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Opened {
    /// Its first slot; others of this connection have other numbers.
    pub slot: u32,
    /// How many it has.
    pub slots: u32,
    /// Where the first one begins, in bytes of the segment; the others follow.
    pub offset: usize,
    /// How one slot is laid out.
    pub layout: SlotLayout,
    /// The names of the outputs, in the order of the layout.
    pub outputs: Vec<OpenedOutput>,
}

/// What is known of an output.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct OpenedOutput {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: String,
}

/// How a segment is laid out, for rings of `depth` entries.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Entries of each ring: a power of two.
    pub depth: usize,
    /// Bytes for tensors, from [`Layout::tensors`] on.
    pub tensor_bytes: usize,
}

impl Layout {
    /// For at least `depth` slots; `None` if that is not possible.
    pub fn new(depth: usize, tensor_bytes: usize) -> Option<Layout> {
        if !(1..=DEPTH_MAX).contains(&depth) {
            return None;
        }
        let layout = Layout { depth: depth.next_power_of_two(), tensor_bytes };
        layout.tensors().checked_add(tensor_bytes).map(|_| layout)
    }

    /// Whether it is one that [`Layout::new`] gives.
    pub fn is_valid(&self) -> bool {
        Layout::new(self.depth, self.tensor_bytes) == Some(*self)
    }

    /// The first word of the ring of requests.
    pub fn requests(&self) -> usize {
        REQUESTS
    }

    /// The first word of the ring of completions.
    pub fn completions(&self) -> usize {
        REQUESTS + self.depth * ENTRY_WORDS
    }

    /// The first byte for tensors.
    pub fn tensors(&self) -> usize {
        ((REQUESTS + 2 * self.depth * ENTRY_WORDS) * WORD).next_multiple_of(4096)
    }

    /// Bytes of the segment.
    pub fn bytes(&self) -> usize {
        self.tensors() + self.tensor_bytes
    }
}

/// A tensor's place in its slot.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Place {
    /// From the slot's beginning.
    pub offset: usize,
    /// Room, of which an input takes all.
    pub bytes: usize,
}

/// How a slot is laid out.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct SlotLayout {
    /// Of each input, in the order in which they were said.
    pub inputs: Vec<Place>,
    /// Of each output.
    pub outputs: Vec<Place>,
    /// Of the whole slot: a multiple of 64.
    pub bytes: usize,
}

impl SlotLayout {
    /// For tensors of so many bytes; `None` if no memory is as large.
    pub fn new(inputs: &[usize], outputs: &[usize]) -> Option<SlotLayout> {
        let mut end = TEXT_BYTES + outputs.len() * OUTPUT_WORDS * WORD;
        let mut place = |&bytes: &usize| {
            let offset = end;
            end = end.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT)?;
            Some(Place { offset, bytes })
        };
        let inputs = inputs.iter().map(&mut place).collect::<Option<Vec<Place>>>()?;
        let outputs = outputs.iter().map(&mut place).collect::<Option<Vec<Place>>>()?;
        Some(SlotLayout { inputs, outputs, bytes: end })
    }

    /// Whether it is one that [`SlotLayout::new`] gives.
    pub fn is_valid(&self) -> bool {
        let bytes = |places: &[Place]| places.iter().map(|place| place.bytes).collect::<Vec<_>>();
        SlotLayout::new(&bytes(&self.inputs), &bytes(&self.outputs)).as_ref() == Some(self)
    }

    /// Where the slot says how long output `index` is and which shape it has.
    pub fn about_output(&self, index: usize) -> usize {
        TEXT_BYTES + index * OUTPUT_WORDS * WORD
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum Status {
    /// With outputs.
    Done = 0,
    /// The request is wrong.
    Invalid = 1,
    /// There is no such model.
    NotFound = 2,
    /// The server does not have this.
    Unsupported = 3,
    /// It may work later.
    Unavailable = 4,
    /// Its deadline passed or cannot be met.
    Late = 5,
    /// The server's fault.
    Internal = 6,
    /// The client asked for its end.
    Cancelled = 7,
    /// Nobody is known by the client's token, or no longer.
    Unauthenticated = 8,
    /// The client may not: this model, or this class.
    Forbidden = 9,
    /// The client has had as much as it may have for now.
    Limited = 10,
}

impl Status {
    /// Each of them, by its number.
    pub const ALL: [Status; 11] = [
        Status::Done,
        Status::Invalid,
        Status::NotFound,
        Status::Unsupported,
        Status::Unavailable,
        Status::Late,
        Status::Internal,
        Status::Cancelled,
        Status::Unauthenticated,
        Status::Forbidden,
        Status::Limited,
    ];

    /// What a number means; `None` if nothing.
    pub fn from_code(code: u32) -> Option<Status> {
        Status::ALL.into_iter().find(|status| *status as u32 == code)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Status::Done => "done",
            Status::Invalid => "invalid",
            Status::NotFound => "not_found",
            Status::Unsupported => "unsupported",
            Status::Unavailable => "unavailable",
            Status::Late => "late",
            Status::Internal => "internal",
            Status::Cancelled => "cancelled",
            Status::Unauthenticated => "unauthenticated",
            Status::Forbidden => "forbidden",
            Status::Limited => "limited",
        }
    }
}

/// The class that a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// The model's.
    #[default]
    Default,
    /// Real-time; only for models that are configured so.
    RealTime,
    /// Best-effort.
    BestEffort,
}

/// A request, as its entry says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where its inputs are.
    pub slot: u32,
    /// The client's number for it.
    pub tag: u64,
    /// The class it asks for.
    pub class: Class,
    /// 0: the model's level. n > 0: level n - 1.
    pub priority: u16,
    /// Microseconds to the end of execution, from when the server sees the entry.
    pub deadline_us: Option<u64>,
    /// Microseconds in the queue at most.
    pub timeout_us: Option<u64>,
    /// The span that asks.
    pub trace: Option<TraceParent>,
}

const CLASS_SHIFT: u32 = 32;
const PRIORITY_SHIFT: u32 = 40;
const SAMPLED_SHIFT: u32 = 56;

impl Request {
    /// Its entry.
    pub fn to_entry(self) -> Entry {
        let class = match self.class {
            Class::Default => 0,
            Class::RealTime => 1,
            Class::BestEffort => 2,
        };
        let none = TraceParent { trace: 0, span: 0, sampled: false };
        let TraceParent { trace, span, sampled } = self.trace.unwrap_or(none);
        let first = u64::from(self.slot)
            | class << CLASS_SHIFT
            | u64::from(self.priority) << PRIORITY_SHIFT
            | u64::from(sampled) << SAMPLED_SHIFT;
        let (deadline, timeout) = (self.deadline_us.unwrap_or(NONE), self.timeout_us.unwrap_or(NONE));
        [first, self.tag, deadline, timeout, (trace >> 64) as u64, trace as u64, span]
    }

    /// What an entry says; `None` if it is none of these. Whether there is such a slot it does not know.
    pub fn from_entry(entry: &Entry) -> Option<Request> {
        let [first, tag, deadline, timeout, trace_high, trace_low, span] = *entry;
        let class = match (first >> CLASS_SHIFT) & 0xff {
            0 => Class::Default,
            1 => Class::RealTime,
            2 => Class::BestEffort,
            _ => return None,
        };
        let trace = u128::from(trace_high) << 64 | u128::from(trace_low);
        let trace = match (trace, span, first >> SAMPLED_SHIFT) {
            (0, 0, 0) => None,
            (0, ..) | (_, 0, _) | (_, _, 2..) => return None,
            (trace, span, sampled) => Some(TraceParent { trace, span, sampled: sampled == 1 }),
        };
        Some(Request {
            slot: first as u32,
            tag,
            class,
            priority: (first >> PRIORITY_SHIFT) as u16,
            deadline_us: Some(deadline).filter(|&deadline| deadline != NONE),
            timeout_us: Some(timeout).filter(|&timeout| timeout != NONE),
            trace,
        })
    }
}

/// The end of a request, as its entry says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Where its outputs are.
    pub slot: u32,
    /// The request's tag.
    pub tag: u64,
    /// How it ended.
    pub status: Status,
    /// Bytes of the slot's message.
    pub text_bytes: u32,
    /// Nanoseconds until its first block.
    pub queue_ns: u64,
    /// Nanoseconds from there to its last.
    pub compute_ns: u64,
    /// Nanoseconds from when the server saw it to its end.
    pub total_ns: u64,
    /// Its level if it was real-time.
    pub level: Option<u8>,
    /// Whether it displaced less urgent work.
    pub preempted: bool,
    /// Whether it ended after its deadline.
    pub late: bool,
}

impl Ended {
    /// The end of `request` without outputs.
    pub fn without_outputs(request: &Request, status: Status, text_bytes: usize) -> Ended {
        Ended {
            slot: request.slot,
            tag: request.tag,
            status,
            text_bytes: text_bytes as u32,
            queue_ns: 0,
            compute_ns: 0,
            total_ns: 0,
            level: None,
            preempted: false,
            late: false,
        }
    }

    /// Its entry.
    pub fn to_entry(self) -> Entry {
        let first = u64::from(self.slot) | (self.status as u64) << 32;
        let level = self.level.map_or(0, |level| u64::from(level) + 1);
        let flags = u64::from(self.preempted) | u64::from(self.late) << 1 | level << 8;
        let second = u64::from(self.text_bytes) | flags << 32;
        [first, self.tag, second, self.queue_ns, self.compute_ns, self.total_ns, 0]
    }

    /// What an entry says; `None` if its status is unknown.
    pub fn from_entry(entry: &Entry) -> Option<Ended> {
        let [first, tag, second, queue_ns, compute_ns, total_ns, _] = *entry;
        let flags = second >> 32;
        Some(Ended {
            slot: first as u32,
            tag,
            status: Status::from_code((first >> 32) as u32)?,
            text_bytes: (second as u32).min(TEXT_BYTES as u32),
            queue_ns,
            compute_ns,
            total_ns,
            level: ((flags >> 8) as u8).checked_sub(1),
            preempted: flags & 1 != 0,
            late: flags & 2 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_ends_are_what_their_entries_say() {
        let request = Request {
            slot: u32::MAX,
            tag: 7,
            class: Class::BestEffort,
            priority: u16::MAX,
            deadline_us: Some(0),
            timeout_us: None,
            trace: None,
        };
        for class in [Class::Default, Class::RealTime, Class::BestEffort] {
            let request = Request { class, ..request };
            for sampled in [false, true] {
                let trace = Some(TraceParent { trace: u128::MAX - 7, span: 9, sampled });
                let request = Request { class, trace, ..request };
                assert_eq!(Request::from_entry(&request.to_entry()), Some(request));
            }
        }
        let ended = Ended {
            level: Some(14),
            late: true,
            queue_ns: 5,
            ..Ended::without_outputs(&request, Status::Late, 9)
        };
        assert_eq!(Ended::from_entry(&ended.to_entry()), Some(ended));
    }

    #[test]
    fn entries_that_mean_nothing_are_none() {
        let good = Request {
            slot: 1,
            tag: 0,
            class: Class::Default,
            priority: 0,
            deadline_us: None,
            timeout_us: None,
            trace: None,
        }
        .to_entry();
        let sampled = 1 << SAMPLED_SHIFT;
        let table =
            [(0, 3 << 32), (0, 0xff << 32), (0, 1 << 63), (0, sampled), (4, 1), (5, 1), (6, u64::MAX)];
        for (index, value) in table {
            let mut entry = good;
            entry[index] = value;
            assert_eq!(Request::from_entry(&entry), None, "{index} {value}");
        }
        let traced = [good[0] | 2 << SAMPLED_SHIFT, 0, NONE, NONE, 1, 0, 1];
        assert_eq!(Request::from_entry(&traced), None);
        assert_eq!(Ended::from_entry(&[11 << 32, 0, 0, 0, 0, 0, 0]), None);
        let long = Ended::from_entry(&[0, 0, u64::from(u32::MAX), 0, 0, 0, 0]).unwrap();
        assert_eq!(long.text_bytes as usize, TEXT_BYTES);
    }

    #[test]
    fn statuses_have_numbers_and_names_of_their_own() {
        for (code, status) in (0..).zip(Status::ALL) {
            assert_eq!((status as u32, Status::from_code(code)), (code, Some(status)));
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
        assert_eq!(Status::from_code(Status::ALL.len() as u32), None);
    }

    #[test]
    fn a_token_is_not_printed() {
        let token = Some(Token::from("secret-of-somebody"));
        let hello = ToServer::Hello { version: VERSION, depth: 1, tensor_bytes: 1, token };
        assert!(!format!("{hello:?}").contains("secret"), "{hello:?}");
        // One of before there were tokens is understood, and refused for its version.
        let old: ToServer =
            serde_json::from_str(r#"{"hello":{"version":1,"depth":4,"tensor_bytes":1}}"#).unwrap();
        assert!(matches!(old, ToServer::Hello { version: 1, token: None, .. }), "{old:?}");
    }

    #[test]
    fn nothing_overlaps() {
        for depth in [1, 2, 3, 64, DEPTH_MAX] {
            let layout = Layout::new(depth, 100).unwrap();
            assert!(layout.is_valid() && layout.depth >= depth && layout.depth.is_power_of_two());
            assert!(layout.completions() >= layout.requests() + layout.depth * ENTRY_WORDS);
            assert!(layout.tensors() >= (layout.completions() + layout.depth * ENTRY_WORDS) * WORD);
        }
        assert!(Layout::new(0, 1).is_none() && Layout::new(DEPTH_MAX + 1, 1).is_none());
        assert!(Layout::new(1, usize::MAX).is_none());
        let slot = SlotLayout::new(&[1, 64, 0], &[65, 8]).unwrap();
        let places: Vec<Place> = slot.inputs.iter().chain(&slot.outputs).copied().collect();
        assert!(places[0].offset >= slot.about_output(2));
        for (place, next) in places.iter().zip(&places[1..]) {
            assert!(place.offset + place.bytes <= next.offset && next.offset.is_multiple_of(ALIGNMENT));
        }
        assert!(slot.is_valid() && places[4].offset + places[4].bytes <= slot.bytes);
        assert!(SlotLayout::new(&[usize::MAX - 300], &[]).is_none());
        assert!(!SlotLayout { bytes: 0, ..slot }.is_valid());
    }
}
