//! The client's side of a connection.
//!
//! | slot is | event | next |
//! |---|---|---|
//! | free | [`Client::acquire`] | held: inputs may be written, outputs read |
//! | held | [`Client::submit`] | in flight: the server's; nothing may be read or written |
//! | in flight | [`Client::poll`] or [`Client::wait`] takes its completion | held |
//! | held | [`Client::release`] | free |
//!
//! A server that ends, or breaks the protocol, ends the connection: every later call says so, and nothing
//! waits for ever. A client belongs to one thread at a time; who has several opens a connection for each.
#![allow(unsafe_code)]

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::protocol::{
    CLIENT_ASLEEP, CLIENT_CORE, Class, Ended, Layout, OpenModel, Opened, Request, SERVER_ASLEEP, SlotLayout,
    Status, ToClient, ToServer, Token, VERSION,
};
use crate::ring::{Consumer, Producer, announce_awake, announce_sleep, must_wake};
use crate::segment::Segment;
use crate::socket::{Received, Socket};
use crate::trace::TraceParent;

/// How often a wait that spins looks at the clock.
const SPINS_PER_LOOK: u32 = 64;

/// How a client connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// Requests in flight at most, over all models.
    pub depth: usize,
    /// Room for the tensors of all slots. Memory is taken when it is written to.
    pub tensor_bytes: usize,
    /// How long a wait looks at the ring before it sleeps. A longer one saves system calls and takes a core.
    pub spin: Duration,
    /// How long the server may take to answer on the socket.
    pub answer_timeout: Duration,
    /// By which the server knows this client, where it has names for clients; without one it is the client
    /// that the server takes everybody for who connects to the ring.
    pub token: Option<Token>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            depth: 64,
            tensor_bytes: 64 << 20,
            spin: Duration::from_micros(50),
            answer_timeout: Duration::from_secs(30),
            token: None,
        }
    }
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there, or this process may not connect.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// Where.
        path: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The server says no; the connection goes on.
    #[error("{message}")]
    Refused {
        /// What kind of problem it is.
        status: Status,
        /// The server's words.
        message: String,
    },
    /// The connection has ended, and with it every request that was in flight.
    #[error("the connection to the server has ended: {0}")]
    Gone(String),
    /// The server has ended the connection and says why; what was in flight has ended with it.
    #[error("the server has ended the connection: {message}")]
    Dismissed {
        /// What kind of problem it is.
        status: Status,
        /// The server's words.
        message: String,
    },
    /// The call is wrong.
    #[error("{0}")]
    Misuse(&'static str),
}

/// An open model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model(usize);

impl Model {
    /// Its number.
    pub fn number(self) -> usize {
        self.0
    }

    /// The model with this number; that there is one, calls check.
    pub fn from_number(number: usize) -> Model {
        Model(number)
    }
}

/// A place for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

impl Slot {
    /// Its number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The slot with this number; that there is one, calls check.
    pub fn from_number(number: u32) -> Slot {
        Slot(number)
    }
}

/// What a request asks of the scheduler; by default what the model's settings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Its class.
    pub class: Class,
    /// 0: the model's level. n > 0: level n - 1.
    pub priority: u16,
    /// Microseconds to the end of execution, from when the server sees the request; 0 has passed.
    pub deadline_us: Option<u64>,
    /// Microseconds in the queue at most.
    pub timeout_us: Option<u64>,
    /// The span that asks, where the server collects traces.
    pub trace: Option<TraceParent>,
}

/// A request has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Where its outputs are, if there are any.
    pub slot: Slot,
    /// The number that [`Client::submit`] gave it.
    pub tag: u64,
    /// How it ended.
    pub status: Status,
    /// Why it has no outputs; empty if it has.
    pub message: String,
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

/// An output, in the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output<'a> {
    /// Its extents.
    pub shape: [usize; crate::protocol::RANK_MAX],
    /// How many of them count.
    pub rank: usize,
    /// Dense, row-major, little endian.
    pub data: &'a [u8],
}

impl Output<'_> {
    /// The extents that count.
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Held,
    InFlight,
}

#[derive(Clone, Copy, Debug)]
struct SlotState {
    model: usize,
    /// Where it begins in the segment.
    offset: usize,
    tag: u64,
    state: State,
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    segment: Segment,
    requests: Producer,
    completions: Consumer,
    options: Options,
    models: Vec<Opened>,
    slots: Vec<SlotState>,
    next_tag: u64,
    /// The server's number for this connection.
    connection: u64,
    /// Whether the next wait looks for some time before it sleeps.
    spins: bool,
    /// What the server was told.
    core: Option<usize>,
    text: Vec<u8>,
    /// Why the connection has ended, and the kind of problem if the server said so.
    gone: Option<(Option<Status>, String)>,
}

impl Client {
    /// Connects to the server that listens at `path`.
    pub fn connect(path: impl AsRef<Path>, options: &Options) -> Result<Client, Error> {
        let path = path.as_ref();
        let named = |source| Error::Connect { path: path.display().to_string(), source };
        let socket = Socket::connect(path).map_err(named)?;
        let (depth, tensor_bytes) = (options.depth, options.tensor_bytes);
        let token = options.token.clone();
        let hello = ToServer::Hello { version: VERSION, depth, tensor_bytes, token };
        // A server that has closed already has said why.
        let sent = socket.send(&hello, None);
        let mut text = Vec::new();
        let (answer, descriptor) = match (answer(&socket, &mut text, options.answer_timeout), sent) {
            (Err(_), Err(error)) => return Err(named(error)),
            (answer, _) => answer?,
        };
        let (layout, connection, descriptor) = match (answer, descriptor) {
            (ToClient::Segment { layout, connection }, Some(descriptor)) => (layout, connection, descriptor),
            (ToClient::Refused { status, message }, _) => return Err(Error::Refused { status, message }),
            _ => return Err(Error::Gone("it has not sent a segment".into())),
        };
        let segment = Segment::map(&descriptor).map_err(named)?;
        if !layout.is_valid() || layout.bytes() > segment.len() {
            return Err(Error::Gone("its segment is too short for what it says".into()));
        }
        let Layout { depth, .. } = layout;
        Ok(Client {
            socket,
            segment,
            requests: Producer::new(layout.requests(), depth),
            completions: Consumer::new(layout.completions(), depth),
            options: options.clone(),
            models: Vec::new(),
            slots: Vec::new(),
            next_tag: 0,
            connection,
            spins: true,
            core: None,
            text,
            gone: None,
        })
    }

    /// The server's number for this connection.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// What the server's logs and traces call the request with this tag.
    pub fn request_id(&self, tag: u64) -> String {
        format!("{:016x}-{tag}", self.connection)
    }

    /// Opens a model.
    pub fn open(&mut self, model: &OpenModel) -> Result<Model, Error> {
        self.check()?;
        if let Err(error) = self.socket.send(&ToServer::Open(model.clone()), None) {
            return Err(match error.kind() {
                io::ErrorKind::InvalidInput => Error::Misuse("too many or too long names for a message"),
                _ => self.lost(error.to_string()),
            });
        }
        let opened = match answer(&self.socket, &mut self.text, self.options.answer_timeout) {
            Ok((ToClient::Opened(opened), _)) => opened,
            Ok((ToClient::Refused { status, message }, _)) => return Err(Error::Refused { status, message }),
            Ok(_) => return Err(self.lost("it has answered something else")),
            // Its answer may still come, and would be taken for another one's.
            Err(error) => return Err(self.lost(error.to_string())),
        };
        let slots = opened.slots as usize;
        let end = opened.layout.bytes.checked_mul(slots).and_then(|bytes| bytes.checked_add(opened.offset));
        let fits = opened.layout.is_valid()
            && opened.offset.is_multiple_of(8)
            && end.is_some_and(|end| end <= self.segment.len())
            && opened.slot as usize == self.slots.len()
            && opened.layout.inputs.len() == model.inputs.len()
            && opened.layout.outputs.len() == opened.outputs.len();
        if !fits {
            return Err(self.lost("it has opened a model where there is no room"));
        }
        let index = self.models.len();
        self.slots.extend((0..slots).map(|number| SlotState {
            model: index,
            offset: opened.offset + number * opened.layout.bytes,
            tag: 0,
            state: State::Free,
        }));
        self.models.push(opened);
        Ok(Model(index))
    }

    /// What is known of an open model. Panics if another connection opened it.
    pub fn model(&self, model: Model) -> &Opened {
        &self.models[model.0]
    }

    /// A slot of `model` that nobody has; `None` if all are taken.
    pub fn acquire(&mut self, model: Model) -> Option<Slot> {
        let opened = self.models.get(model.0)?;
        let numbers = opened.slot..opened.slot + opened.slots;
        let free = |number: &u32| self.slots[*number as usize].state == State::Free;
        let number = numbers.into_iter().find(free)?;
        self.slots[number as usize].state = State::Held;
        Some(Slot(number))
    }

    /// Gives a slot back that is not in flight.
    pub fn release(&mut self, slot: Slot) -> Result<(), Error> {
        self.held(slot)?;
        self.slots[slot.0 as usize].state = State::Free;
        Ok(())
    }

    /// The bytes of an input, to be written before a request: dense, row-major, little endian. They keep what
    /// was written.
    pub fn input_mut(&mut self, slot: Slot, index: usize) -> Result<&mut [u8], Error> {
        let (held, layout) = self.held(slot)?;
        let place = layout.inputs.get(index).ok_or(Error::Misuse("there is no such input"))?;
        // SAFETY: the slot is held, so the server neither reads nor writes it, and `self` is borrowed.
        Ok(unsafe { self.segment.bytes_mut(held.offset + place.offset, place.bytes) })
    }

    /// Hands the request in `slot` over; the number that its completion will have.
    pub fn submit(&mut self, slot: Slot, terms: &Terms) -> Result<u64, Error> {
        self.check()?;
        self.held(slot)?;
        let tag = self.next_tag;
        self.next_tag += 1;
        let Terms { class, priority, deadline_us, timeout_us, trace } = *terms;
        let request = Request { slot: slot.0, tag, class, priority, deadline_us, timeout_us, trace };
        let state = &mut self.slots[slot.0 as usize];
        (state.tag, state.state) = (tag, State::InFlight);
        let words = self.segment.words();
        let core = rustix::thread::sched_getcpu();
        if self.core != Some(core) {
            self.core = Some(core);
            words[CLIENT_CORE].store(core as u64, Ordering::Relaxed);
        }
        self.requests.push(words, &request.to_entry());
        // Who was asleep takes long, and may have been given this core: spinning would only keep it waiting.
        self.spins = !must_wake(&words[SERVER_ASLEEP]);
        if !self.spins {
            self.socket.wake();
        }
        Ok(tag)
    }

    /// Asks for the end of the request in `slot`; its completion says how it ended.
    pub fn cancel(&mut self, slot: Slot) -> Result<(), Error> {
        self.check()?;
        match self.slots.get(slot.0 as usize) {
            Some(SlotState { state: State::InFlight, tag, .. }) => {
                let cancel = ToServer::Cancel { slot: slot.0, tag: *tag };
                self.socket.send(&cancel, None).map_err(|error| self.lost(error.to_string()))
            }
            Some(_) => Ok(()),
            None => Err(Error::Misuse("there is no such slot")),
        }
    }

    /// A request that has ended, if there is one. No system call; so that the server has gone, only a wait
    /// notices.
    pub fn poll(&mut self) -> Result<Option<Completion>, Error> {
        while let Some(entry) = self.completions.pop(self.segment.words()) {
            let Some(ended) = Ended::from_entry(&entry) else {
                return Err(self.lost("it has sent a completion that means nothing"));
            };
            let Some(slot) = self.slots.get_mut(ended.slot as usize) else {
                return Err(self.lost("it has answered for a slot that is not there"));
            };
            if slot.state == State::InFlight && slot.tag == ended.tag {
                slot.state = State::Held;
                return Ok(Some(self.completion(ended)));
            }
        }
        self.check().map(|()| None)
    }

    /// Waits for a request to end, at most for `timeout`. `None` if none did.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Completion>, Error> {
        let start = Instant::now();
        loop {
            if let Some(completion) = self.poll()? {
                return Ok(Some(completion));
            }
            self.check()?;
            for _ in 0..SPINS_PER_LOOK {
                if self.completions.is_ready(self.segment.words()) {
                    break;
                }
                std::hint::spin_loop();
            }
            let waited = start.elapsed();
            if self.completions.is_ready(self.segment.words()) {
                continue;
            }
            if timeout.is_some_and(|timeout| waited >= timeout) {
                return Ok(None);
            }
            if waited >= self.options.spin || !self.spins {
                self.spins = true;
                self.sleep(timeout.map(|timeout| timeout - waited))?;
            }
        }
    }

    /// Runs one request: `inputs` are copied into a free slot, and `read` gets its outputs.
    pub fn infer<T>(
        &mut self,
        model: Model,
        inputs: &[&[u8]],
        terms: &Terms,
        read: impl FnOnce(&Client, Slot) -> T,
    ) -> Result<T, Error> {
        if self.slots.iter().any(|slot| slot.state == State::InFlight) {
            return Err(Error::Misuse("other requests are in flight: submit and wait"));
        }
        let slot = self.acquire(model).ok_or(Error::Misuse("all slots are taken"))?;
        let result = self.infer_in(slot, inputs, terms, read);
        let _ = self.release(slot);
        result
    }

    /// An output of the last request in `slot`, which must have ended well.
    pub fn output(&self, slot: Slot, index: usize) -> Result<Output<'_>, Error> {
        let (held, layout) = self.held(slot)?;
        let place = layout.outputs.get(index).ok_or(Error::Misuse("there is no such output"))?;
        let mut about = [0; (2 + crate::protocol::RANK_MAX) * 8];
        self.segment.read(held.offset + layout.about_output(index), &mut about);
        let mut numbers = about
            .chunks_exact(8)
            .map(|bytes| usize::from_ne_bytes(bytes.try_into().expect("chunks have eight bytes")));
        let mut next = || numbers.next().unwrap_or(0);
        let (bytes, rank) = (next().min(place.bytes), next().min(crate::protocol::RANK_MAX));
        let shape = std::array::from_fn(|_| next());
        // SAFETY: the slot is held, so the server does not write it, and who writes it here borrows `self`.
        let data = unsafe { self.segment.bytes(held.offset + place.offset, bytes) };
        Ok(Output { shape, rank, data })
    }
}

impl Client {
    fn infer_in<T>(
        &mut self,
        slot: Slot,
        inputs: &[&[u8]],
        terms: &Terms,
        read: impl FnOnce(&Client, Slot) -> T,
    ) -> Result<T, Error> {
        for (index, data) in inputs.iter().enumerate() {
            let input = self.input_mut(slot, index)?;
            if input.len() != data.len() {
                return Err(Error::Misuse("an input has another length than its shape"));
            }
            input.copy_from_slice(data);
        }
        self.submit(slot, terms)?;
        let ended = self.wait(None)?.ok_or(Error::Misuse("a wait without a timeout ends with a request"))?;
        match ended.status {
            Status::Done => Ok(read(self, slot)),
            status => Err(Error::Refused { status, message: ended.message }),
        }
    }

    /// A slot that is the caller's, and its layout.
    fn held(&self, slot: Slot) -> Result<(SlotState, &SlotLayout), Error> {
        let state = self.slots.get(slot.0 as usize).ok_or(Error::Misuse("there is no such slot"))?;
        match state.state {
            State::Held => Ok((*state, &self.models[state.model].layout)),
            State::Free => Err(Error::Misuse("the slot is not acquired")),
            State::InFlight => Err(Error::Misuse("the slot's request is in flight")),
        }
    }

    fn completion(&self, ended: Ended) -> Completion {
        let mut text = vec![0; ended.text_bytes as usize];
        self.segment.read(self.slots[ended.slot as usize].offset, &mut text);
        Completion {
            slot: Slot(ended.slot),
            tag: ended.tag,
            status: ended.status,
            message: String::from_utf8_lossy(&text).into_owned(),
            queue_ns: ended.queue_ns,
            compute_ns: ended.compute_ns,
            total_ns: ended.total_ns,
            level: ended.level,
            preempted: ended.preempted,
            late: ended.late,
        }
    }

    /// Sleeps until the server wakes this side, or has gone.
    fn sleep(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        let asleep = &self.segment.words()[CLIENT_ASLEEP];
        announce_sleep(asleep);
        let slept = match self.completions.is_ready(self.segment.words()) {
            true => Ok(true),
            false => self.socket.wait(timeout),
        };
        announce_awake(&self.segment.words()[CLIENT_ASLEEP]);
        match slept {
            Ok(true) => self.listen(),
            Ok(false) => Ok(()),
            Err(error) => Err(self.lost(error.to_string())),
        }
    }

    /// Reads what has arrived on the socket.
    fn listen(&mut self) -> Result<(), Error> {
        loop {
            match self.socket.receive::<ToClient>(&mut self.text) {
                Ok(Received::Nothing) => return Ok(()),
                Ok(Received::Wake) => {}
                Ok(Received::End) if self.completions.is_ready(self.segment.words()) => {
                    // What was answered before the end counts.
                    self.gone.get_or_insert((None, ENDED.into()));
                    return Ok(());
                }
                Ok(Received::End) => return Err(self.lost(ENDED)),
                Ok(Received::Message(ToClient::Refused { status, message }, _)) => {
                    self.gone.get_or_insert((Some(status), message));
                    // So does it here.
                    return match self.completions.is_ready(self.segment.words()) {
                        true => Ok(()),
                        false => self.check(),
                    };
                }
                Ok(Received::Message(..)) => return Err(self.lost("it says what nobody asked")),
                Err(error) => return Err(self.lost(error.to_string())),
            }
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self.gone.clone() {
            None => Ok(()),
            Some((None, why)) => Err(Error::Gone(why)),
            Some((Some(status), message)) => Err(Error::Dismissed { status, message }),
        }
    }

    fn lost(&mut self, why: impl Into<String>) -> Error {
        let why = why.into();
        self.gone.get_or_insert((None, why.clone()));
        Error::Gone(why)
    }
}

const ENDED: &str = "it has closed it";

/// The server's next message.
fn answer(
    socket: &Socket,
    text: &mut Vec<u8>,
    timeout: Duration,
) -> Result<(ToClient, Option<std::os::fd::OwnedFd>), Error> {
    let gone = |error: io::Error| Error::Gone(error.to_string());
    let start = Instant::now();
    loop {
        match socket.receive(text).map_err(gone)? {
            Received::Message(message, descriptor) => return Ok((message, descriptor)),
            Received::End => return Err(Error::Gone(ENDED.into())),
            Received::Wake => {}
            Received::Nothing => {
                let left = timeout.checked_sub(start.elapsed());
                let left = left.ok_or_else(|| Error::Gone("it does not answer".into()))?;
                socket.wait(Some(left)).map_err(gone)?;
            }
        }
    }
}
