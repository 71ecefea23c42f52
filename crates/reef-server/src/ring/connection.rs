//! One client of the ring.
//!
//! | state | event | next |
//! |---|---|---|
//! | greeting | a hello, with a token that is known or none | serving, with a segment |
//! | greeting | anything else, or nothing for a while | refused, closed |
//! | serving | an entry | its request is submitted, or answered with why not |
//! | serving | a request's end | its outputs are copied to its slot, a completion is pushed |
//! | serving | nothing | looks for some time, then sleeps |
//! | serving | its client's token counts no more | what comes is refused; closed once all are answered |
//! | serving | end of the connection, or nonsense in the ring | closed; requests are cancelled |
//! | serving | the server ends | closed, once all requests are answered |

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use reef_base::limits::RING_CONNECTION_BYTES_MAX;
use reef_client::protocol::{
    CLIENT_ASLEEP, CLIENT_CORE, Ended, Layout, OpenModel, Opened, RANK_MAX, Request, SERVER_ASLEEP,
    TEXT_BYTES, ToClient, ToServer, VERSION,
};
use reef_client::ring::{Consumer, Entry, Producer, announce_awake, announce_sleep, must_wake};
use reef_client::segment::Segment;
use reef_client::socket::{Peer, Received, Socket, wait};
use reef_client::{Class, Status};
use reef_engine::{InferError, InferFuture, InferRequest, InferResponse, InputTensor, Nanos};
use rustix::event::{PollFd, PollFlags};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use tokio::sync::watch;

use crate::core::access::{Client, Credentials, Need, Permit};
use crate::core::fault::{bug, contain};
use crate::core::note::{Ran, wanted};
use crate::core::problem::Problem;
use crate::core::question::{self, Schedule};
use crate::core::requests::Tally;
use crate::core::state::State;
use crate::ring::models::OpenedModel;
use crate::ring::note::{Answered, outcome, status};
use crate::ring::shared::Shared;
use crate::ring::wake::Wake;

/// How long a client may take to say hello.
const HELLO_TIME_MAX: Duration = Duration::from_secs(10);

/// Rounds with something to do after which the socket and the server's end are looked at nevertheless.
const ROUNDS_PER_LOOK: u32 = 256;

/// Messages that are read in one go.
const MESSAGES_PER_LOOK: usize = 16;

/// How long a connection that must end sleeps, before it looks whether it is cut off.
const STOPPING_PAUSE: Duration = Duration::from_millis(20);

/// How often a connection that sleeps looks whether its client's token still counts.
const TOKEN_PAUSE: Duration = Duration::from_millis(500);

/// How long a connection's thread works for the device itself, if nothing else is to be done.
const PATIENCE: Nanos = Nanos(300_000);

/// A client that is back after so many times the time for which a thread looks at the ring finds it awake
/// from then on. One that lets more time pass had to be woken, perhaps on this thread's core, where looking
/// would be in its way.
const SPINS_AFTER: u32 = 4;

/// Looks at the ring between two looks at the clock.
const SPINS_PER_LOOK: u32 = 64;

/// Why a connection ends.
enum End {
    /// The client has gone, or the server ends.
    Closed,
    /// The client broke the protocol.
    Broken(String),
    /// The client is not served, or no longer.
    Refused(Problem),
    /// The operating system has no more of something.
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Not as the protocol says.
            io::ErrorKind::InvalidData => End::Broken(error.to_string()),
            _ => End::Failed(error),
        }
    }
}

/// Serves one client until it goes.
pub(super) fn serve(shared: &Shared, socket: &Socket, peer: Option<Peer>) {
    let mut text = Vec::new();
    let (end, bytes) = match greet(shared, socket, peer, &mut text) {
        Ok((mut connection, bytes)) => {
            shared.state.requests.rings.served.fetch_add(1, Ordering::Relaxed);
            let end = contain(|| connection.run());
            // Its requests are cancelled before its memory is free for others.
            drop(connection);
            (end.unwrap_or_else(|panic| End::Broken(bug(&panic).message)), bytes)
        }
        Err(end) => {
            if !matches!(end, End::Closed) {
                shared.refused();
            }
            (end, 0)
        }
    };
    shared.give_back(bytes);
    let _ = contain(|| match end {
        End::Closed => tracing::debug!("a client of the ring has gone"),
        End::Broken(message) => {
            tracing::warn!(message, "a client of the ring broke the protocol");
            let _ = socket.send(&ToClient::Refused { status: Status::Invalid, message }, None);
        }
        End::Refused(problem) => {
            tracing::warn!(why = problem.message, "a client of the ring is not served");
            let (status, message) = (status(&problem), problem.message);
            let _ = socket.send(&ToClient::Refused { status, message }, None);
        }
        End::Failed(error) => tracing::warn!(%error, "a client of the ring was cut off"),
    });
}

/// Makes the segment that the client asks for.
fn greet<'a>(
    shared: &'a Shared,
    socket: &'a Socket,
    peer: Option<Peer>,
    text: &mut Vec<u8>,
) -> Result<(Connection<'a>, usize), End> {
    let mut descriptors = [PollFd::new(socket, PollFlags::IN), PollFd::new(&shared.stop, PollFlags::IN)];
    wait(&mut descriptors, Some(HELLO_TIME_MAX))?;
    let (version, depth, tensor_bytes, token) = match socket.receive(text)? {
        Received::Message(ToServer::Hello { version, depth, tensor_bytes, token }, _) => {
            (version, depth, tensor_bytes, token)
        }
        Received::End => return Err(End::Closed),
        _ => return Err(End::Broken("the first message is not a hello".into())),
    };
    if version != VERSION {
        let problem =
            format!("the client speaks version {version} of the ring's protocol, this is {VERSION}");
        return Err(End::Broken(problem));
    }
    let client = match &token {
        None => shared.client.clone(),
        Some(token) => {
            let credentials = Credentials { token: Some(token.as_bytes()), names: &[] };
            shared.state.access.check(&credentials, Need::Infer).map_err(End::Refused)?
        }
    };
    let layout =
        Layout::new(depth, tensor_bytes).filter(|layout| layout.bytes() <= RING_CONNECTION_BYTES_MAX);
    let Some(layout) = layout else {
        return Err(End::Broken(format!(
            "no segment has {depth} entries and {tensor_bytes} bytes for tensors: \
             {RING_CONNECTION_BYTES_MAX} bytes are the most"
        )));
    };
    let bytes = layout.bytes();
    if !shared.take_bytes(bytes) {
        return Err(End::Refused(Problem::unavailable("all segments of memory are taken, try again later")));
    }
    let made = Connection::new(shared, socket, layout, Asker::new(shared, client, peer));
    made.map(|connection| (connection, bytes)).inspect_err(|_| shared.give_back(bytes))
}

/// Who asks on a connection.
struct Asker {
    client: Client,
    peer: Option<Peer>,
    /// The connection's number.
    number: u64,
    /// Where its requests count.
    tally: Arc<Tally>,
    /// Tells when tokens have changed, if the client is known by one.
    changes: Option<watch::Receiver<()>>,
}

impl Asker {
    fn new(shared: &Shared, client: Client, peer: Option<Peer>) -> Asker {
        let State { access, requests, .. } = &*shared.state;
        // What has changed since it was let in is looked at by the first check.
        let mut changes = client.is_revocable().then(|| access.changes());
        changes.iter_mut().for_each(watch::Receiver::mark_changed);
        Asker { client, peer, number: requests.ids.number(), tally: requests.rings.tally(), changes }
    }

    /// An error if its token counts no more; one look at an atomic where no token has changed.
    fn check(&mut self, shared: &Shared) -> Result<(), Problem> {
        let Some(changes) = &mut self.changes else { return Ok(()) };
        // Without a sender there is no server any more.
        if !changes.has_changed().unwrap_or(false) {
            return Ok(());
        }
        // Before it is looked at, so that no change is missed; whoever is not current stays so.
        changes.mark_unchanged();
        shared.state.access.check_current(&self.client).inspect_err(|_| changes.mark_changed())
    }
}

/// A client that has a segment.
struct Connection<'a> {
    shared: &'a Shared,
    socket: &'a Socket,
    asker: Asker,
    segment: Segment,
    layout: Layout,
    requests: Consumer,
    completions: Producer,
    models: Vec<OpenedModel>,
    slots: Vec<Slot>,
    /// Bytes of the segment that open models have, rings included.
    used: usize,
    in_flight: usize,
    wake: Arc<Wake>,
    /// Inputs of the request that is being submitted.
    scratch: Vec<u8>,
    text: Vec<u8>,
    stopping: bool,
}

struct Slot {
    model: usize,
    /// Where it begins in the segment.
    offset: usize,
    waker: Waker,
    running: Option<Running>,
}

/// A request that the engine has.
struct Running {
    request: Request,
    arrival: Nanos,
    future: InferFuture,
    _permit: Permit,
}

impl<'a> Connection<'a> {
    fn new(
        shared: &'a Shared,
        socket: &'a Socket,
        layout: Layout,
        asker: Asker,
    ) -> Result<Connection<'a>, End> {
        let (segment, descriptor) = Segment::create(layout.bytes())?;
        let message = ToClient::Segment { layout, connection: asker.number };
        socket.send(&message, Some(std::os::fd::AsFd::as_fd(&descriptor)))?;
        Ok(Connection {
            shared,
            socket,
            asker,
            segment,
            layout,
            requests: Consumer::new(layout.requests(), layout.depth),
            completions: Producer::new(layout.completions(), layout.depth),
            models: Vec::new(),
            slots: Vec::new(),
            used: layout.tensors(),
            in_flight: 0,
            wake: Arc::new(Wake::new(layout.depth)?),
            scratch: Vec::new(),
            text: Vec::new(),
            stopping: false,
        })
    }

    fn run(&mut self) -> End {
        match self.rounds() {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    fn rounds(&mut self) -> Result<std::convert::Infallible, End> {
        let (mut idle_since, mut spins, mut rounds) = (Instant::now(), true, 0u32);
        loop {
            if self.round()? {
                rounds += 1;
                if rounds.is_multiple_of(ROUNDS_PER_LOOK) {
                    self.look_around()?;
                }
                idle_since = Instant::now();
            } else if spins && self.in_flight == 0 && idle_since.elapsed() < self.shared.spin && self.spin() {
                // And looks once more.
            } else {
                self.sleep()?;
                spins = idle_since.elapsed() < SPINS_AFTER * self.shared.spin;
            }
        }
    }

    /// Does what there is to do; false if there was nothing.
    fn round(&mut self) -> Result<bool, End> {
        let mut did = false;
        // A ring has no more entries than that: ends are looked at in between.
        for _ in 0..self.layout.depth {
            let Some(entry) = self.requests.pop(self.segment.words()) else { break };
            self.take(&entry)?;
            did = true;
        }
        let wake = self.wake.clone();
        wake.take(|slot| {
            self.look_at(slot);
            did = true;
        });
        Ok(did)
    }

    /// Looks at the ring for a moment; false if others do that already, or this is the client's core.
    fn spin(&self) -> bool {
        let client = self.segment.words()[CLIENT_CORE].load(Ordering::Relaxed);
        let here = sched_getcpu();
        if client == here as u64 && !leave(here) {
            return false;
        }
        let Some(_turn) = self.shared.spinners.take_turn() else { return false };
        for _ in 0..SPINS_PER_LOOK {
            if self.requests.is_ready(self.segment.words()) {
                break;
            }
            std::hint::spin_loop();
        }
        true
    }

    /// Sleeps until the client, the engine or the server's end wakes this thread.
    fn sleep(&mut self) -> Result<(), End> {
        let nothing = self.wake.fall_asleep();
        announce_sleep(&self.segment.words()[SERVER_ASLEEP]);
        if nothing && !self.requests.is_ready(self.segment.words()) {
            let mut descriptors = [
                PollFd::new(self.socket, PollFlags::IN),
                PollFd::new(&*self.wake, PollFlags::IN),
                PollFd::new(&self.shared.stop, PollFlags::IN),
            ];
            // A stop stays set, and what is in flight then has still to end.
            match self.stopping {
                true => wait(&mut descriptors[..2], Some(STOPPING_PAUSE))?,
                false => wait(&mut descriptors, self.asker.changes.as_ref().map(|_| TOKEN_PAUSE))?,
            };
            self.stopping |= !descriptors[2].revents().is_empty();
        }
        announce_awake(&self.segment.words()[SERVER_ASLEEP]);
        self.wake.awake();
        self.check_end()?;
        self.listen()
    }

    /// What sleeping does besides, for a client that lets this thread not sleep.
    fn look_around(&mut self) -> Result<(), End> {
        self.stopping |= wait(&mut [PollFd::new(&self.shared.stop, PollFlags::IN)], Some(Duration::ZERO))?;
        self.check_end()?;
        self.listen()
    }

    /// An end, if the server ends, or the client's token counts no more, and nothing is to be waited for.
    fn check_end(&mut self) -> Result<(), End> {
        if self.stopping && (self.in_flight == 0 || self.shared.is_cut_off()) {
            return Err(End::Closed);
        }
        match self.asker.check(self.shared) {
            Err(problem) if self.in_flight == 0 => Err(End::Refused(problem)),
            // What has begun is answered, and then this is asked again.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// Answers what has arrived on the socket.
    fn listen(&mut self) -> Result<(), End> {
        for _ in 0..MESSAGES_PER_LOOK {
            match self.socket.receive(&mut self.text)? {
                Received::Nothing => return Ok(()),
                Received::Wake => {}
                Received::End => return Err(End::Closed),
                Received::Message(ToServer::Open(wanted), _) => {
                    let answer = match contain(|| self.open(wanted)).unwrap_or_else(|panic| Err(bug(&panic)))
                    {
                        Ok(opened) => ToClient::Opened(opened),
                        Err(problem) => {
                            ToClient::Refused { status: status(&problem), message: problem.message }
                        }
                    };
                    self.socket.send(&answer, None)?;
                }
                Received::Message(ToServer::Cancel { slot, tag }, _) => self.cancel(slot, tag),
                Received::Message(ToServer::Hello { .. }, _) => {
                    return Err(End::Broken("a second hello".into()));
                }
            }
        }
        Ok(())
    }
}

/// What clients ask.
impl Connection<'_> {
    fn open(&mut self, wanted: OpenModel) -> Result<Opened, Problem> {
        let state = &self.shared.state;
        state.check_loaded()?;
        self.asker.check(self.shared)?;
        self.asker.client.check(Need::Infer)?;
        self.asker.client.check_model(&wanted.model)?;
        let model = state.find_ready(&wanted.model, wanted.version.as_deref())?;
        let (count, first) = (wanted.slots, self.slots.len());
        if count == 0 || count > self.layout.depth - first {
            let left = self.layout.depth - first;
            return Err(Problem::invalid(format!(
                "{count} slots for a model, {left} of the connection's are left"
            )));
        }
        let (model, outputs) = OpenedModel::new(&model, wanted)?;
        let left = self.layout.bytes() - self.used;
        let bytes =
            model.layout.bytes.checked_mul(count).filter(|&bytes| bytes <= left).ok_or_else(|| {
                let slot = model.layout.bytes;
                Problem::invalid(format!(
                    "{count} slots of {slot} bytes do not fit the {left} bytes that are left of the segment: \
                 connect with more room for tensors"
                ))
            })?;
        let layout = model.layout.clone();
        let offset = self.used;
        for index in 0..count {
            let waker = self.wake.waker(first + index);
            let offset = offset + index * layout.bytes;
            self.slots.push(Slot { model: self.models.len(), offset, waker, running: None });
        }
        self.models.push(model);
        self.used += bytes;
        Ok(Opened { slot: first as u32, slots: count as u32, offset, layout, outputs })
    }

    fn cancel(&mut self, slot: u32, tag: u64) {
        // Anything else has ended before its cancellation arrived.
        if let Some(Slot { running: Some(running), .. }) = self.slots.get(slot as usize)
            && running.request.tag == tag
        {
            running.future.cancel();
        }
    }

    /// Submits the request of an entry.
    fn take(&mut self, entry: &Entry) -> Result<(), End> {
        let broken = |what: &str| End::Broken(format!("{what}: the entry {entry:x?}"));
        let request = Request::from_entry(entry).ok_or_else(|| broken("no request"))?;
        let number = request.slot as usize;
        let slot = self.slots.get(number).ok_or_else(|| broken("no such slot"))?;
        if slot.running.is_some() {
            return Err(broken("a slot that has a request in flight"));
        }
        let arrival = self.shared.state.engine.now();
        let submitted = contain(|| self.submit(&request, number, arrival));
        match submitted.unwrap_or_else(|panic| Err(bug(&panic))) {
            Ok((future, permit)) => {
                let running = Running { request, arrival, future, _permit: permit };
                self.slots[number].running = Some(running);
                self.in_flight += 1;
                self.look_at(number);
            }
            Err(problem) => self.fail(&request, arrival, &problem, status(&problem)),
        }
        Ok(())
    }

    /// Copies the inputs out of the segment and hands the request to the engine, which copies them again:
    /// what it checks is what it computes with, whatever the client writes meanwhile.
    fn submit(
        &mut self,
        request: &Request,
        number: usize,
        arrival: Nanos,
    ) -> Result<(InferFuture, Permit), Problem> {
        let state = &self.shared.state;
        state.check_loaded()?;
        self.asker.check(self.shared)?;
        let client = &self.asker.client;
        let permit = client.admit(arrival)?;
        let slot = &self.slots[number];
        let model = &self.models[slot.model];
        let places = &model.layout.inputs;
        self.scratch.resize(places.iter().map(|place| place.bytes).sum(), 0);
        let mut rest = &mut self.scratch[..];
        let mut inputs = Vec::with_capacity(places.len());
        for (input, place) in model.inputs.iter().zip(places) {
            let (data, others) = rest.split_at_mut(place.bytes);
            rest = others;
            self.segment.read(slot.offset + place.offset, data);
            let (name, dtype, shape) = (&*input.name, input.dtype, input.shape.clone());
            inputs.push(InputTensor { name, dtype, shape, data });
        }
        let mut asked = InferRequest::new(&model.name, inputs);
        asked.version = model.version.as_deref();
        asked.outputs = Some(model.outputs.iter().map(|output| &*output.name).collect());
        asked.arrival = Some(arrival);
        let schedule = Schedule {
            real_time: match request.class {
                Class::Default => None,
                Class::RealTime => Some(true),
                Class::BestEffort => Some(false),
            },
            priority: request.priority.into(),
            timeout_us: request.timeout_us,
            deadline_us: request.deadline_us,
            limit: None,
        };
        schedule.apply(state, &mut asked);
        // Others that wait meanwhile go to compute units of their own.
        let alone = self.in_flight == 0 && !self.requests.is_ready(self.segment.words());
        Ok((question::submit(state, client, asked, alone.then_some(PATIENCE))?, permit))
    }

    /// Asks for the end of the request in a slot, and answers it if it is there.
    fn look_at(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        // A waker may come late.
        let Some(running) = &mut slot.running else { return };
        let (request, arrival) = (running.request, running.arrival);
        let mut context = Context::from_waker(&slot.waker);
        let polled = contain(|| Pin::new(&mut running.future).poll(&mut context));
        let ended = match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(ended)) => ended.map_err(|error| {
                let cancelled = matches!(error, InferError::Cancelled);
                let problem = Problem::from(error);
                (if cancelled { Status::Cancelled } else { status(&problem) }, problem)
            }),
            Err(panic) => Err((Status::Internal, bug(&panic))),
        };
        slot.running = None;
        self.in_flight -= 1;
        let answered = ended.and_then(|response| {
            let written = self.write(number, &response);
            written.map(|()| response).map_err(|problem| (status(&problem), problem))
        });
        match answered {
            Ok(response) => self.end(&request, arrival, done(&request, &response), Some(&response)),
            Err((status, problem)) => self.fail(&request, arrival, &problem, status),
        }
    }

    /// Copies the outputs to their slot.
    fn write(&self, number: usize, response: &InferResponse) -> Result<(), Problem> {
        let slot = &self.slots[number];
        let OpenedModel { layout, outputs, .. } = &self.models[slot.model];
        if response.output_count() != layout.outputs.len() {
            return Err(Problem::internal("the model has given other outputs than it has"));
        }
        for (index, (output, place)) in response.outputs().zip(&layout.outputs).enumerate() {
            let (name, bytes, room) = (output.name, output.data.len(), place.bytes);
            let (now, before) = (output.dtype, outputs[index].dtype);
            if now != before {
                // Another model has the place of the one that was opened.
                let (now, before) = (now.protocol_name(), before.protocol_name());
                let problem = format!("output '{name}' is {now}, and was {before}: open the model again");
                return Err(Problem::invalid(problem));
            }
            if bytes > room || output.shape.len() > RANK_MAX {
                let problem = format!("output '{name}' has {bytes} bytes, the slot has room for {room}");
                return Err(Problem::invalid(problem));
            }
            let mut about = [0u64; 2 + RANK_MAX];
            (about[0], about[1]) = (bytes as u64, output.shape.len() as u64);
            about[2..].iter_mut().zip(output.shape.iter()).for_each(|(word, &extent)| *word = extent as u64);
            let about: Vec<u8> = about.iter().flat_map(|word| word.to_ne_bytes()).collect();
            self.segment.write(slot.offset + layout.about_output(index), &about);
            self.segment.write(slot.offset + place.offset, output.data);
        }
        Ok(())
    }

    /// Ends a request without outputs.
    fn fail(&mut self, request: &Request, arrival: Nanos, problem: &Problem, status: Status) {
        let message = &problem.message;
        let end = message.floor_char_boundary(TEXT_BYTES);
        self.segment.write(self.slots[request.slot as usize].offset, &message.as_bytes()[..end]);
        self.end(request, arrival, Ended::without_outputs(request, status, end), None);
    }

    /// Counts a request, hands its end over, and notes it where anybody wants to know.
    fn end(&mut self, request: &Request, arrival: Nanos, ended: Ended, response: Option<&InferResponse>) {
        self.asker.tally.count_alone(outcome(ended.status));
        self.complete(ended);
        let state = &*self.shared.state;
        if !wanted(state) {
            return;
        }
        let Asker { client, peer, number, .. } = &self.asker;
        let answered = Answered {
            connection: *number,
            peer: *peer,
            client,
            model: &self.models[self.slots[request.slot as usize].model].name,
            request,
            status: ended.status,
            ran: response.map(Ran::of),
            time: Nanos(state.engine.now().0.saturating_sub(arrival.0)),
        };
        answered.note(state);
    }

    fn complete(&mut self, ended: Ended) {
        let words = self.segment.words();
        self.completions.push(words, &ended.to_entry());
        if must_wake(&words[CLIENT_ASLEEP]) {
            self.socket.wake();
        }
    }
}

/// Goes on on another core; false if there is none.
fn leave(core: usize) -> bool {
    let Ok(allowed) = sched_getaffinity(None) else { return false };
    let mut others = allowed;
    if core < CpuSet::MAX_CPU {
        others.unset(core);
    }
    let left = others.count() > 0 && sched_setaffinity(None, &others).is_ok();
    left && sched_setaffinity(None, &allowed).is_ok()
}

/// The end of a request whose outputs are in their slot.
fn done(request: &Request, response: &InferResponse) -> Ended {
    Ended {
        queue_ns: response.timings.queue.0,
        compute_ns: response.timings.compute.0,
        total_ns: response.timings.total.0,
        level: match response.class {
            reef_engine::Class::RealTime(level) => Some(level.get()),
            reef_engine::Class::BestEffort => None,
        },
        preempted: response.preempted,
        late: response.late,
        ..Ended::without_outputs(request, Status::Done, 0)
    }
}
