//! Clients of the ring that keep to no rule: each loses its own connection at most.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use reef_base::Rng;
use reef_client::protocol::{CLIENT_ASLEEP, Layout, Opened, SERVER_ASLEEP, ToClient, ToServer, VERSION};
use reef_client::ring::{AtomicU64, Consumer, Entry, Ordering, Producer};
use reef_client::segment::Segment;
use reef_client::socket::{MESSAGE_BYTES_MAX, Received, Socket};
use reef_client::{Class, Client, Error, OpenModel, Options, Terms};
use reef_engine::{ClassStats, FailureReason};
use rustix::net::SendFlags;

use crate::fixture::{Ends, Fixture, until};
use crate::ring::{Folder, good};

/// A client without the library: what is sent and written is exactly what a test says.
struct Raw {
    socket: Socket,
    text: Vec<u8>,
}

impl Raw {
    fn connect(path: &Path) -> Raw {
        Raw { socket: Socket::connect(path).unwrap(), text: Vec::new() }
    }

    fn send_bytes(&self, bytes: &[u8]) {
        rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL).unwrap();
    }

    fn hello(&self, version: u32, depth: usize, tensor_bytes: usize) {
        self.socket.send(&ToServer::Hello { version, depth, tensor_bytes, token: None }, None).unwrap();
    }

    /// The next message, or none at the end.
    fn receive(&mut self) -> Option<(ToClient, Option<std::os::fd::OwnedFd>)> {
        loop {
            match self.socket.receive(&mut self.text).unwrap() {
                Received::Message(message, descriptor) => return Some((message, descriptor)),
                Received::End => return None,
                Received::Wake => {}
                Received::Nothing => {
                    assert!(self.socket.wait(Some(Duration::from_secs(60))).unwrap(), "the server answers");
                }
            }
        }
    }

    /// The connection has ended, with these words.
    fn ended(&mut self, words: &str) {
        match self.receive() {
            Some((ToClient::Refused { message, .. }, _)) => assert!(message.contains(words), "{message}"),
            Some((other, _)) => panic!("{other:?}"),
            None => panic!("no word of {words}"),
        }
        assert!(self.receive().is_none());
    }

    fn segment(&mut self) -> (Segment, Layout) {
        let Some((ToClient::Segment { layout, .. }, Some(descriptor))) = self.receive() else { panic!() };
        (Segment::map(descriptor.as_fd()).unwrap(), layout)
    }

    fn open(&mut self, slots: usize) -> Opened {
        let open = OpenModel::new("m").input("x", "FP32", &[2, 2]).slots(slots);
        self.socket.send(&ToServer::Open(open), None).unwrap();
        let Some((ToClient::Opened(opened), _)) = self.receive() else { panic!() };
        opened
    }
}

/// One with a segment and the model `m` in four slots.
struct Inside {
    raw: Raw,
    segment: Segment,
    layout: Layout,
    opened: Opened,
    requests: Producer,
}

impl Inside {
    fn new(path: &Path) -> Inside {
        let mut raw = Raw::connect(path);
        raw.hello(VERSION, 4, 1 << 16);
        let (segment, layout) = raw.segment();
        let opened = raw.open(4);
        let requests = Producer::new(layout.requests(), layout.depth);
        Inside { raw, segment, layout, opened, requests }
    }

    fn push(&mut self, entry: &Entry) {
        self.requests.push(self.segment.words(), entry);
        self.raw.socket.wake();
    }
}

fn connect(path: &Path) -> Client {
    Client::connect(path, &Options { tensor_bytes: 1 << 16, ..Options::default() }).unwrap()
}

const NONE: u64 = u64::MAX;

#[test]
fn messages_that_are_none_end_their_connection() {
    let folder = Folder::new();
    let path = folder.socket();
    let _fixture = Fixture::with_ring(&path);
    let mut other = connect(&path);
    let table: [(&[u8], &str); 7] = [
        (b"{", "EOF"),
        (b"\xff\xfe\xfd", "expected"),
        (b"{\"nothing\":{}}", "unknown variant"),
        (b"[1,2]", "expected"),
        (b"{\"open\":{\"model\":\"m\",\"slots\":1,\"inputs\":[]}}", "not a hello"),
        (b"!", "not a hello"),
        (b"{\"hello\":{\"version\":1,\"depth\":-1,\"tensor_bytes\":1}}", "invalid value"),
    ];
    for (bytes, words) in table {
        let mut raw = Raw::connect(&path);
        raw.send_bytes(bytes);
        raw.ended(words);
    }
    let mut raw = Raw::connect(&path);
    raw.send_bytes(&vec![b' '; MESSAGE_BYTES_MAX + 1]);
    raw.ended("too long");
    let mut raw = Raw::connect(&path);
    raw.hello(VERSION + 1, 4, 4096);
    raw.ended(&format!("version {} of the ring's protocol, this is {VERSION}", VERSION + 1));
    for (depth, tensor_bytes) in [(0, 1), (usize::MAX, 1), (1025, 1), (4, usize::MAX), (4, 1 << 31)] {
        let mut raw = Raw::connect(&path);
        raw.hello(VERSION, depth, tensor_bytes);
        raw.ended("no segment has");
    }
    let mut raw = Raw::connect(&path);
    raw.hello(VERSION, 4, 4096);
    raw.segment();
    raw.hello(VERSION, 4, 4096);
    raw.ended("a second hello");
    drop(Raw::connect(&path));
    good(&mut other);
}

#[test]
fn entries_that_make_no_sense_end_their_connection() {
    let folder = Folder::new();
    let path = folder.socket();
    let fixture = Fixture::with_ring(&path);
    let mut other = connect(&path);
    let table = [
        ([4, 0, NONE, NONE, 0, 0, 0], "no such slot"),
        ([u64::from(u32::MAX), 0, NONE, NONE, 0, 0, 0], "no such slot"),
        ([3 << 32, 0, NONE, NONE, 0, 0, 0], "no request"),
        ([1 << 63, 0, NONE, NONE, 0, 0, 0], "no request"),
        ([0, 0, NONE, NONE, 1, 0, 0], "no request"),
        ([NONE; 7], "no request"),
    ];
    for (entry, words) in table {
        let mut inside = Inside::new(&path);
        inside.push(&entry);
        inside.raw.ended(words);
    }
    // Two requests in one slot.
    fixture.gate.freeze();
    let mut inside = Inside::new(&path);
    inside.push(&[2, 0, NONE, NONE, 0, 0, 0]);
    fixture.wait_for("m", ClassStats::pending, 1);
    inside.push(&[2, 1, NONE, NONE, 0, 0, 0]);
    inside.raw.ended("in flight");
    fixture.gate.flow();
    fixture.wait_for("m", |class| class.failed(FailureReason::Cancelled), 1);
    good(&mut other);
}

#[test]
fn cancellations_of_nothing_do_nothing() {
    let folder = Folder::new();
    let path = folder.socket();
    let _fixture = Fixture::with_ring(&path);
    let mut inside = Inside::new(&path);
    for (slot, tag) in [(0, 0), (3, NONE), (4, 0), (u32::MAX, 7)] {
        inside.raw.socket.send(&ToServer::Cancel { slot, tag }, None).unwrap();
    }
    inside.push(&[0, 7, NONE, NONE, 0, 0, 0]);
    let mut completions = Consumer::new(inside.layout.completions(), inside.layout.depth);
    let mut entry = None;
    until(|| {
        entry = completions.pop(inside.segment.words());
        entry.is_some()
    });
    let entry = entry.expect("there is one");
    assert_eq!((entry[0], entry[1]), (0, 7), "done, with its tag");
}

/// A client that writes everywhere, all the time: flags, rings, tensors, what the server has written.
#[test]
fn a_segment_that_changes_all_the_time_harms_its_owner_only() {
    let folder = Folder::new();
    let path = folder.socket();
    let fixture = Fixture::with_ring(&path);
    let mut other = connect(&path);
    let mut rng = Rng::new(11);
    for round in 0..30 {
        let mut inside = Inside::new(&path);
        let (words, layout) = (inside.segment.words(), inside.layout);
        let from = if round % 2 == 0 { 0 } else { layout.tensors() / 8 };
        let entries = layout.depth * 8;
        for step in 0..2_000u64 {
            let at = from + rng.below((words.len() - from) as u64) as usize;
            words[at].store(rng.next_u64() >> rng.below(64), Ordering::Relaxed);
            // Entries that look whole, of turns that may come.
            let start = layout.requests() + rng.below(layout.depth as u64) as usize * 8;
            if round % 3 == 0 && start < layout.requests() + entries {
                let entry = [rng.below(8), step, NONE, NONE, 0, 0, 0];
                entry
                    .iter()
                    .zip(&words[start + 1..])
                    .for_each(|(value, word)| word.store(*value, Ordering::Relaxed));
                words[start].store(1 + rng.below(3), Ordering::Release);
            }
            if step % 100 == 0 {
                words[SERVER_ASLEEP].store(0, Ordering::Relaxed);
                words[CLIENT_ASLEEP].store(rng.next_u64(), Ordering::Relaxed);
                inside.raw.socket.wake();
            }
        }
        inside.push(&[rng.below(6), 0, NONE, NONE, 0, 0, 0]);
        if round % 5 == 0 {
            good(&mut other);
            other = connect(&path);
        }
        assert_eq!(inside.opened.slots, 4);
    }
    fixture.wait_for("m", ClassStats::pending, 0);
    good(&mut other);
}

/// Its thread never sleeps.
#[test]
fn a_client_that_asks_all_the_time_does_not_hold_up_the_end() {
    let folder = Folder::new();
    let path = folder.socket();
    let mut fixture = Fixture::with_ring(&path);
    let mut client = connect(&path);
    let model = client.open(&OpenModel::new("m").input("x", "FP32", &[2, 2])).unwrap();
    let slot = client.acquire(model).unwrap();
    let (ended, asked) = (Ends::default(), AtomicU64::new(0));
    // Refused at once.
    let terms = Terms { class: Class::RealTime, ..Terms::default() };
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| {
            while !ended.is_set() {
                client.submit(slot, &terms).unwrap();
                while client.poll().unwrap().is_none() && !ended.is_set() {
                    std::hint::spin_loop();
                }
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let end = ended.at_drop();
        while asked.load(Ordering::Relaxed) < 1000 {
            assert!(!asks.is_finished(), "it asks no more");
            std::thread::yield_now();
        }
        let closed = fixture.shut_down(Duration::ZERO).join().unwrap();
        drop(end);
        assert!(closed, "all connections have ended");
    });
}

#[test]
fn connections_are_bounded_and_places_come_back() {
    let folder = Folder::new();
    let path = folder.socket();
    let _fixture = Fixture::with_ring(&path);
    let count = reef_base::limits::RING_CONNECTIONS_MAX;
    let mut idle: Vec<Client> = (0..count).map(|_| connect(&path)).collect();
    let mut more = Raw::connect(&path);
    more.ended("no more are allowed");
    match Client::connect(&path, &Options::default()) {
        Err(Error::Refused { message, .. }) => assert!(message.contains("64 clients"), "{message}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("one too many"),
    }
    idle.pop();
    // Its place is free once its thread has seen the end.
    let mut client = None;
    until(|| {
        client = Client::connect(&path, &Options::default()).ok();
        client.is_some()
    });
    good(&mut client.expect("there is a place"));
}

#[test]
fn memory_of_all_segments_is_bounded_and_comes_back() {
    let folder = Folder::new();
    let path = folder.socket();
    let _fixture = Fixture::with_ring(&path);
    let tensor_bytes = reef_base::limits::RING_CONNECTION_BYTES_MAX - (1 << 20);
    let options = Options { tensor_bytes, ..Options::default() };
    let mut clients = Vec::new();
    let refused = loop {
        match Client::connect(&path, &options) {
            Ok(client) => clients.push(client),
            Err(Error::Refused { message, .. }) => break message,
            Err(other) => panic!("{other}"),
        }
        assert!(clients.len() <= 4, "no bound");
    };
    assert!(refused.contains("all segments of memory are taken"), "{refused}");
    assert_eq!(clients.len(), 4);
    clients.pop();
    until(|| Client::connect(&path, &options).is_ok());
}
