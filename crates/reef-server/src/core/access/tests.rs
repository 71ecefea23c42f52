//! Rights, tokens, classes and limits.

use std::fmt;

use super::*;
use crate::core::problem::Kind;

const TOKEN: &str = "0123456789abcdef";

fn access(change: impl FnOnce(&mut ClientOptions)) -> Access {
    let mut client = ClientOptions::new("trainer");
    client.tokens.push(TokenDigest::of(TOKEN).unwrap());
    change(&mut client);
    let mut other = ClientOptions::new("other");
    other.tokens.push(TokenDigest::of("fedcba9876543210").unwrap());
    Access::new(AccessOptions { clients: vec![other, client], ..AccessOptions::default() })
}

fn client(access: &Access) -> Client {
    access.check(&shown(TOKEN), Need::Infer).unwrap()
}

fn shown(token: &str) -> Credentials<'_> {
    Credentials { token: Some(token.as_bytes()), names: &[] }
}

fn kind<T: fmt::Debug>(result: Result<T, Problem>) -> Kind {
    result.unwrap_err().kind
}

#[test]
fn without_clients_everybody_may_do_everything() {
    let open = Access::new(AccessOptions::default());
    for need in [Need::Health, Need::Metrics, Need::Read, Need::Infer, Need::Admin] {
        let client = open.check(&Credentials::default(), need).unwrap();
        assert!(client.sees("any") && client.admit(Nanos(0)).is_ok());
    }
}

#[test]
fn a_need_is_met_by_its_right_alone() {
    let needs = [Need::Metrics, Need::Read, Need::Infer, Need::Admin];
    let table = [
        (vec![Right::Infer], [false, true, true, false]),
        (vec![Right::Metrics], [true, false, false, false]),
        (vec![Right::Admin], [false, true, false, true]),
        (vec![], [false; 4]),
    ];
    for (allow, expected) in table {
        let access = access(|client| client.allow = allow.clone());
        let got = needs.map(|need| access.check(&shown(TOKEN), need).is_ok());
        assert_eq!(got, expected, "{allow:?}");
        for need in needs {
            assert_eq!(kind(access.check(&Credentials::default(), need)), Kind::Unauthenticated);
            for wrong in ["", "0123456789abcdeF", "0123456789abcde", "0123456789abcdef "] {
                assert_eq!(kind(access.check(&shown(wrong), need)), Kind::Unauthenticated, "{wrong}");
            }
        }
        assert!(access.check(&Credentials::default(), Need::Health).is_ok());
    }
}

#[test]
fn certificates_name_clients_and_a_token_decides_against_them() {
    let access = access(|client| client.certificates = vec!["dns:t.example".into(), "CN=t".into()]);
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let with = |token: Option<&'static str>, names: &[String]| {
        let credentials = Credentials { token: token.map(str::as_bytes), names };
        access.check(&credentials, Need::Infer).map(|client| client.name().to_string())
    };
    assert_eq!(with(None, &names(&["CN=x", "dns:t.example"])).unwrap(), "trainer");
    assert_eq!(with(None, &names(&["CN=t"])).unwrap(), "trainer");
    assert_eq!(kind(with(None, &names(&["dns:T.example", "CN=t,O=x"]))), Kind::Unauthenticated);
    assert_eq!(with(Some("fedcba9876543210"), &names(&["CN=t"])).unwrap(), "other");
    assert_eq!(kind(with(Some("no such token at all"), &names(&["CN=t"]))), Kind::Unauthenticated);
}

#[test]
fn secrets_are_neither_short_nor_printed() {
    assert!(TokenDigest::of("short").is_err() && TokenDigest::of("with a space inside it").is_err());
    let digest = TokenDigest::of(TOKEN).unwrap();
    let hex = "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f";
    assert_eq!(TokenDigest::from_hex(hex).unwrap(), digest);
    for wrong in [
        "",
        "9f",
        &hex[1..],
        &format!("{}g", &hex[1..]),
        &format!("{}é", &hex[2..]),
        &format!("+9{}", &hex[2..]),
    ] {
        assert!(TokenDigest::from_hex(wrong).is_err(), "{wrong}");
    }
    let printed = format!("{:?}", access(|_| {}));
    assert!(!printed.contains(TOKEN) && !printed.contains("159") && printed.contains("trainer"), "{printed}");
}

#[test]
fn models_are_seen_by_pattern() {
    let access = access(|client| client.models = vec!["vision-*".into(), "a?c".into()]);
    let client = client(&access);
    for (model, seen) in [("vision-", true), ("vision-x", true), ("abc", true), ("ac", false), ("b", false)] {
        assert_eq!(client.sees(model), seen, "{model}");
        assert_eq!(client.check_model(model).is_ok(), seen, "{model}");
    }
    assert_eq!(kind(client.check_model("b")), Kind::Forbidden);
}

/// Class and priority after the limit, or the refusal.
fn limited(
    most: Class,
    configured: Class,
    asked: (Option<ClassRequest>, u32),
) -> Result<(Option<ClassRequest>, u32), Kind> {
    let access = access(|client| client.class_max = most);
    let mut request = InferRequest::new("m", vec![]);
    (request.class, request.priority) = asked;
    let limited = client(&access).limit(&mut request, configured);
    limited.map(|()| (request.class, request.priority)).map_err(|problem| problem.kind)
}

#[test]
fn asking_for_too_much_is_refused_and_defaults_are_capped() {
    use ClassRequest::{BestEffort, RealTime};
    let level = |level| Class::real_time(level);
    let refused = Err(Kind::Forbidden);
    let table = [
        (Class::BestEffort, level(0), (None, 0), Ok((Some(BestEffort), 0))),
        (Class::BestEffort, level(0), (Some(RealTime), 0), refused),
        (Class::BestEffort, level(0), (None, 9), refused),
        (Class::BestEffort, level(0), (Some(BestEffort), 0), Ok((Some(BestEffort), 0))),
        (Class::BestEffort, Class::BestEffort, (None, 0), Ok((Some(BestEffort), 0))),
        (level(2), level(0), (None, 0), Ok((None, 3))),
        (level(2), level(0), (Some(RealTime), 0), Ok((Some(RealTime), 3))),
        (level(2), level(0), (None, 2), refused),
        (level(2), level(0), (None, 3), Ok((None, 3))),
        (level(2), level(4), (None, 0), Ok((None, 0))),
        (level(2), Class::BestEffort, (None, 0), Ok((None, 0))),
        (level(2), Class::BestEffort, (None, 1), refused),
        (level(0), level(0), (Some(RealTime), 1), Ok((Some(RealTime), 1))),
    ];
    for (most, configured, asked, expected) in table {
        assert_eq!(limited(most, configured, asked), expected, "{most:?} {configured:?} {asked:?}");
    }
    let access = access(|client| client.class_max = Class::BestEffort);
    assert_eq!(client(&access).class(Class::real_time(0)), Class::BestEffort);
}

#[test]
fn a_bucket_gives_its_burst_and_then_its_rate() {
    let access = access(|client| (client.requests_per_s, client.burst) = (Some(0.5), Some(2)));
    let client = client(&access);
    let at = |seconds: f64| client.admit(Nanos((seconds * 1e9) as u64)).map(drop);
    assert!(at(10.0).is_ok() && at(10.0).is_ok());
    assert_eq!(at(10.0).unwrap_err().kind, Kind::Limited { retry_after_s: 2 });
    assert_eq!(at(11.5).unwrap_err().kind, Kind::Limited { retry_after_s: 1 });
    // A clock that was read by another thread a little earlier takes nothing away.
    assert!(at(1.0).is_err());
    assert!(at(12.0).is_ok() && at(12.0).is_err());
    assert!(at(1e9).is_ok() && at(1e9).is_ok() && at(1e9).is_err());
}

#[test]
fn requests_in_flight_come_back() {
    let access = access(|client| client.in_flight_max = Some(2));
    let client = client(&access);
    let first = client.admit(Nanos(0)).unwrap();
    let second = client.admit(Nanos(0)).unwrap();
    assert_eq!(kind(client.admit(Nanos(0))), Kind::Limited { retry_after_s: 1 });
    drop((first, second));
    assert!(client.admit(Nanos(0)).is_ok());
}

#[test]
fn a_request_that_the_bucket_refuses_is_not_in_flight() {
    let access = access(|client| {
        (client.in_flight_max, client.requests_per_s, client.burst) = (Some(1), Some(1.0), Some(1));
    });
    let client = client(&access);
    drop(client.admit(Nanos(0)).unwrap());
    for _ in 0..3 {
        assert!(client.admit(Nanos(0)).unwrap_err().message.contains("more often"));
    }
    assert!(client.admit(Nanos(2_000_000_000)).is_ok());
}

#[test]
fn files_of_tokens_are_read_again_and_nothing_else_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    let (old, new, own) = ("old-token-of-trainer", "new-token-of-trainer", "fedcba9876543210");
    write(&format!("{old}\n"));
    let access = access(|client| {
        client.token_file = Some(TokenFile::read(&path).unwrap());
        client.in_flight_max = Some(1);
    });
    assert!(access.has_files());
    let name = |token| access.check(&shown(token), Need::Infer).map(|client| client.name().to_string());
    let names = || [TOKEN, old, new, own].map(|token| name(token).unwrap_or_default());
    assert_eq!(names(), ["trainer", "trainer", "", "other"]);
    let permit = client(&access).admit(Nanos(0)).unwrap();
    write(&format!("{old}\n\n {new} \n"));
    assert_eq!(names(), ["trainer", "trainer", "", "other"]);
    access.refresh();
    assert_eq!(names(), ["trainer", "trainer", "trainer", "other"]);
    write(new);
    access.refresh();
    assert_eq!(names(), ["trainer", "", "trainer", "other"]);
    // Limits are those of the client, whichever of its tokens is shown.
    let by_new = access.check(&shown(new), Need::Infer).unwrap();
    assert!(by_new.admit(Nanos(0)).is_err());
    drop(permit);
    assert!(by_new.admit(Nanos(0)).is_ok());
    // What cannot be used takes nothing away, and what stands elsewhere stays.
    let large = format!("{}\n", "x".repeat(70_000));
    for broken in ["", "short", "with a space in the line", own, &large] {
        write(broken);
        access.refresh();
        assert_eq!(names(), ["trainer", "", "trainer", "other"], "{broken:.30}");
    }
    std::fs::remove_file(&path).unwrap();
    access.refresh();
    assert_eq!(names(), ["trainer", "", "trainer", "other"]);
    write(old);
    access.refresh();
    assert_eq!(names(), ["trainer", "trainer", "", "other"]);
}

#[test]
fn what_is_wrong_with_a_file_of_tokens_is_said_once_and_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    for (text, why) in
        [("", "no token"), ("good-and-long-enough\nsecret", "at least 16"), ("a secret", "at least")]
    {
        std::fs::write(&path, text).unwrap();
        let said = TokenFile::read(&path).unwrap_err();
        assert!(said.contains(why) && !said.contains("secret"), "{said}");
    }
    assert!(TokenFile::read(folder.path()).unwrap_err().contains("cannot read"));
    std::fs::write(&path, TOKEN).unwrap();
    let mut file = TokenFile::read(&path).unwrap();
    assert!(file.complain("a") && !file.complain("a") && file.complain("b"));
    assert!(!format!("{file:?}").contains(TOKEN));
}
