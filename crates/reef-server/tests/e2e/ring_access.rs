//! Clients of the ring as the server knows them: by a token, or all by one name; what they may, and how much.

use std::path::Path;

use reef_client::{Class, Client, Error, OpenModel, Options, Status, Terms};
use reef_engine::{ClassStats, ModelSettings};
use reef_server::{ClientOptions, RingOptions, TokenFile};

use crate::access::{ADMIN, BEST_EFFORT, REAL_TIME, clients};
use crate::fixture::{Fixture, expected, until, x, y};
use crate::gate::PATIENCE;
use crate::ring::{Example, Folder, refusal};

fn connect(path: &Path, token: Option<&str>) -> Result<Client, Error> {
    let token = token.map(Into::into);
    Client::connect(path, &Options { tensor_bytes: 1 << 16, token, ..Options::default() })
}

fn open(client: &mut Client, name: &str) -> Result<reef_client::Model, Error> {
    client.open(&OpenModel::new(name).input("x", "FP32", &[2, 2]))
}

fn ask(client: &mut Client, model: reef_client::Model, terms: &Terms) -> Result<(), Error> {
    client.infer(model, &[&[7; 16]], terms, |client, slot| {
        assert_eq!(client.output(slot, 0).unwrap().data, expected(0, &[&[7; 16]], 16));
    })
}

/// With clients, of whom those without a token are `be`, which may ask `m` four times.
fn fixture(path: &Path) -> Fixture {
    let fixture = Fixture::with(|options| {
        clients(options);
        let best_effort = &mut options.access.clients[0];
        best_effort.models = vec!["m".into()];
        (best_effort.requests_per_s, best_effort.burst) = (Some(0.001), Some(4));
        options.access.clients[1].in_flight_max = Some(1);
        options.ring = Some(RingOptions { client: Some("be".into()), ..RingOptions::new(path) });
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture.model("n", &[x()], &[y()], ModelSettings::default());
    fixture
}

#[test]
fn who_may_not_and_who_had_enough_are_told_so() {
    let folder = Folder::new();
    let fixture = fixture(&folder.socket());
    let mut client = connect(&folder.socket(), None).unwrap();
    let (status, message) = refusal(open(&mut client, "n"));
    assert!(status == Status::Forbidden && message.contains("may not use the model 'n'"), "{message}");
    let (status, _) = refusal(open(&mut client, "none"));
    assert_eq!(status, Status::Forbidden, "what it may not ask is not looked for");
    let m = open(&mut client, "m").unwrap();
    let urgent = Terms { class: Class::RealTime, ..Terms::default() };
    let (status, message) = refusal(ask(&mut client, m, &urgent));
    assert!(status == Status::Forbidden && message.contains("best-effort at most"), "{message}");
    for _ in 0..3 {
        ask(&mut client, m, &Terms::default()).unwrap();
    }
    let (status, message) = refusal(ask(&mut client, m, &Terms::default()));
    assert!(status == Status::Limited && message.contains("'be' asks more often"), "{message}");
    // The limits are the client's, not the connection's.
    let mut again = connect(&folder.socket(), Some(BEST_EFFORT)).unwrap();
    let again_m = open(&mut again, "m").unwrap();
    assert_eq!(refusal(ask(&mut again, again_m, &Terms::default())).0, Status::Limited);
    // Somebody else has limits of its own.
    let mut other = connect(&folder.socket(), Some(REAL_TIME)).unwrap();
    let n = other.open(&OpenModel::new("n").input("x", "FP32", &[2, 2]).slots(2)).unwrap();
    let slots = [other.acquire(n).unwrap(), other.acquire(n).unwrap()];
    fixture.gate.freeze();
    other.submit(slots[0], &Terms::default()).unwrap();
    fixture.wait_for("n", ClassStats::pending, 1);
    other.submit(slots[1], &Terms::default()).unwrap();
    let limited = other.wait(Some(PATIENCE)).unwrap().unwrap();
    assert_eq!((limited.slot, limited.status), (slots[1], Status::Limited), "{}", limited.message);
    fixture.gate.flow();
    assert_eq!(other.wait(Some(PATIENCE)).unwrap().unwrap().status, Status::Done);
}

#[test]
fn a_token_that_is_unknown_or_may_not_infer_opens_nothing() {
    let folder = Folder::new();
    let _fixture = fixture(&folder.socket());
    for (token, wanted) in [
        ("token-of-nobody-known", Status::Unauthenticated),
        ("", Status::Unauthenticated),
        (ADMIN, Status::Forbidden),
    ] {
        match connect(&folder.socket(), Some(token)) {
            Err(Error::Refused { status, .. }) => assert_eq!(status, wanted, "{token}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{token:?} got a segment"),
        }
    }
    // Where everybody may do everything nobody asks who it is.
    let open_folder = Folder::new();
    let _open = Fixture::with_ring(&open_folder.socket());
    let mut client = connect(&open_folder.socket(), Some("token-of-nobody-known")).unwrap();
    let m = open(&mut client, "m").unwrap();
    ask(&mut client, m, &Terms::default()).unwrap();
}

#[test]
fn a_program_in_c_is_told_the_same() {
    let folder = Folder::new();
    let _fixture = fixture(&folder.socket());
    let example = Example::new(&folder);
    let run = |model: &str, token| {
        let (code, text) = example.run(&[model, "x", "2", "2"], token);
        (code, text.split([':', '\n']).next().unwrap().to_string())
    };
    let refused = |what: &str| (Some(1), what.to_string());
    assert_eq!(run("n", None), refused("open (9)"));
    assert_eq!(run("m", Some(ADMIN)), refused("connect (9)"));
    assert_eq!(run("m", Some("token-of-nobody-known")), refused("connect (8)"));
    assert_eq!(run("n", Some(REAL_TIME)).0, Some(0));
    for _ in 0..4 {
        assert_eq!(run("m", Some(BEST_EFFORT)).0, Some(0));
    }
    assert_eq!(run("m", Some(BEST_EFFORT)), refused("refused (10)"));
}

/// With the client `trainer`, whose tokens are in this file.
fn with_file(path: &Path, tokens: &Path) -> Fixture {
    let fixture = Fixture::with(|options| {
        let mut client = ClientOptions::new("trainer");
        client.token_file = Some(TokenFile::read(tokens).unwrap());
        options.access.clients = vec![client];
        options.ring = Some(RingOptions { client: Some("trainer".into()), ..RingOptions::new(path) });
    });
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    fixture
}

const OLD: &str = "old-token-of-trainer";
const NEW: &str = "new-token-of-trainer";

#[test]
fn a_ring_ends_when_its_token_counts_no_more() {
    let folder = Folder::new();
    let tokens = folder.socket().with_file_name("tokens");
    std::fs::write(&tokens, format!("{OLD}\n{NEW}")).unwrap();
    let fixture = with_file(&folder.socket(), &tokens);
    let [mut old, mut idle, mut runs] = [OLD; 3].map(|token| connect(&folder.socket(), Some(token)).unwrap());
    let mut new = connect(&folder.socket(), Some(NEW)).unwrap();
    let mut tokenless = connect(&folder.socket(), None).unwrap();
    let [m, _, m_runs, m_new, m_tokenless] =
        [&mut old, &mut idle, &mut runs, &mut new, &mut tokenless].map(|client| open(client, "m").unwrap());
    ask(&mut old, m, &Terms::default()).unwrap();
    fixture.gate.freeze();
    let slot = runs.acquire(m_runs).unwrap();
    runs.submit(slot, &Terms::default()).unwrap();
    fixture.wait_for("m", ClassStats::pending, 1);
    // A token more changes nothing.
    std::fs::write(&tokens, format!("{OLD}\n{NEW}\nanother-token-of-trainer")).unwrap();
    fixture.running().reload_tokens();
    std::fs::write(&tokens, NEW).unwrap();
    fixture.running().reload_tokens();
    // The next request is refused, whether the ring was told already or not.
    let counts_no_more = |error: Error| match error {
        Error::Refused { status, message } | Error::Dismissed { status, message } => {
            assert_eq!(status, Status::Unauthenticated);
            assert!(message.contains("counts no more"), "{message}");
        }
        other => panic!("{other}"),
    };
    counts_no_more(ask(&mut old, m, &Terms::default()).unwrap_err());
    // Those that ask nothing hear of it, too; what has begun is answered before.
    counts_no_more(idle.wait(Some(PATIENCE)).unwrap_err());
    fixture.gate.flow();
    let ended = runs.wait(Some(PATIENCE)).unwrap().unwrap();
    assert_eq!(ended.status, Status::Done, "{}", ended.message);
    counts_no_more(runs.wait(Some(PATIENCE)).unwrap_err());
    // Others go on: with the other token, and who never had one.
    ask(&mut new, m_new, &Terms::default()).unwrap();
    ask(&mut tokenless, m_tokenless, &Terms::default()).unwrap();
    assert!(matches!(connect(&folder.socket(), Some(OLD)), Err(Error::Refused { .. })));
}

/// It is looked at without a word.
#[test]
fn a_token_that_is_taken_out_of_its_file_ends_rings_soon() {
    let folder = Folder::new();
    let tokens = folder.socket().with_file_name("tokens");
    std::fs::write(&tokens, OLD).unwrap();
    let _fixture = with_file(&folder.socket(), &tokens);
    let mut client = connect(&folder.socket(), Some(OLD)).unwrap();
    let m = open(&mut client, "m").unwrap();
    std::fs::write(&tokens, NEW).unwrap();
    until(|| ask(&mut client, m, &Terms::default()).is_err());
}
