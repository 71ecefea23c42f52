//! Bad input: each with a clear message, and the server answers afterwards.

use reef_engine::{DType, FailureReason, ModelSettings};

use crate::client::{Client, request};
use crate::fixture::{Fixture, x, y};

const GOOD: &str = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;

fn good(client: &mut Client) {
    let answer = client.infer(GOOD);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Requests, the status that they get, and a part of what is said.
const WRONG: &[(&str, u16, &str)] = &[
    ("", 400, "EOF while parsing"),
    ("{", 400, "EOF while parsing"),
    ("\u{0}", 400, "line 1"),
    (r#"{"inputs":[]}"#, 400, "input 'x'"),
    (r#"{"inputs":[{"name":"z","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#, 400, "input 'z'"),
    (r#"{"inputs":[{"name":"x","shape":[4],"datatype":"FP32","data":[1,2,3,4]}]}"#, 400, "input 'x'"),
    (r#"{"inputs":[{"name":"x","shape":[2,3],"datatype":"FP32","data":[1,2,3,4,5,6]}]}"#, 400, "input 'x'"),
    (r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3]}]}"#, 400, "3 elements"),
    (
        r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"INT32","data":[1,2,3,4]}]}"#,
        400,
        "expected FP32, got INT32",
    ),
    (
        r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP31","data":[1,2,3,4]}]}"#,
        400,
        "no datatype 'FP31'",
    ),
    (
        r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"BYTES","data":["a","b","c","d"]}]}"#,
        400,
        "expected FP32, got BYTES",
    ),
    (
        r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"BYTES","data":["a"]}]}"#,
        400,
        "1 elements, the shape needs 4",
    ),
    (r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP16","data":[1,2,3,4]}]}"#, 400, "no JSON form"),
    (
        r#"{"inputs":[{"name":"x","shape":[4294967296,4294967296],"datatype":"FP32","data":[]}]}"#,
        400,
        "more than",
    ),
    (r#"{"inputs":[{"name":"x","shape":[2000000000],"datatype":"FP32","data":[]}]}"#, 400, "too short"),
    (
        r#"{"inputs":[{"name":"x","shape":[1,1,1,1,1,1,1,1,4],"datatype":"FP32","data":[]}]}"#,
        400,
        "9 dimensions",
    ),
    (
        r#"{"outputs":[{"name":"w"}],
            "inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#,
        400,
        "output 'w'",
    ),
    (
        r#"{"parameters":{"class":"real-time"},
            "inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#,
        400,
        "best-effort",
    ),
];

#[test]
fn wrong_requests_are_refused_and_nothing_is_lost() {
    let fixture = Fixture::with_m();
    let mut client = fixture.client();
    for &(json, status, message) in WRONG {
        let answer = client.infer(json);
        assert_eq!(
            (answer.status, answer.error().contains(message)),
            (status, true),
            "{json}: {}",
            answer.text()
        );
        good(&mut client);
    }
    fixture.wait_for("m", |class| class.success, WRONG.len() as u64);
    fixture.wait_for("m", |class| FailureReason::ALL.map(|reason| class.failed(reason)).iter().sum(), 0);
}

/// Routes that take a POST without a body, or with one that says nothing, or whatever it says.
const WITHOUT_BODY: [&str; 3] = [
    "/v2/systemsharedmemory/unregister",
    "/v2/systemsharedmemory/region/r/unregister",
    "/v1/models/m:explain",
];

#[test]
fn a_list_where_an_object_is_due_is_refused_on_every_route() {
    let fixture = Fixture::with_client_shm();
    let noting = std::sync::Arc::new(crate::control::Noting::default());
    fixture.running().set_control(noting.clone());
    let mut client = fixture.client();
    // Each is what some route takes for its fields in their order.
    let lists = [
        "[]",
        r#"["7",{},[],[]]"#,
        r#"[[["x",[2,2],"FP32",null,[1,2,3,4]]]]"#,
        r#"[[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]]"#,
        r#"[{"config":"{}"}]"#,
        r#"["/reef-none",0,8]"#,
        "[true]",
        r#"["trace_level",["OFF"]]"#,
        "7",
        "\"x\"",
        "null",
    ];
    let routes = reef_server::routes();
    let posts: Vec<&str> =
        routes.iter().filter(|route| route.method == "POST").map(|route| route.path).collect();
    assert!(posts.len() >= 8, "{posts:?}");
    let bodies = |path: &&&str| !WITHOUT_BODY.contains(path) && !path.contains("cudasharedmemory");
    for path in posts.iter().filter(bodies) {
        for body in lists {
            let answer = client.request("POST", path, &[], body.as_bytes());
            let error = answer.json()["error"].as_str().unwrap_or_default().to_string();
            assert_eq!(
                (answer.status, error.contains("expected ") && error.contains("the protocol says")),
                (400, true),
                "{path} {body}: {}",
                answer.text()
            );
        }
    }
    noting.is_unasked();
    let within = [
        (r#"{"inputs":[["x",[2,2],"FP32",null,[1,2,3,4]]]}"#, "expected an input tensor, an object"),
        (
            r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}],"outputs":[["y"]]}"#,
            "expected a requested output, an object",
        ),
        (
            r#"{"parameters":[],"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#,
            "expected an object of parameters",
        ),
    ];
    for (json, message) in within {
        let answer = client.infer(json);
        assert_eq!((answer.status, answer.error().contains(message)), (400, true), "{}", answer.text());
    }
    good(&mut client);
}

#[test]
fn wrong_binary_headers_are_refused() {
    let fixture = Fixture::with_m();
    let mut client = fixture.client();
    let json =
        r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","parameters":{"binary_data_size":16}}]}"#;
    let len = json.len().to_string();
    let beyond = (json.len() + 17).to_string();
    let table = [
        (beyond.as_str(), 16, "the body has"),
        ("many", 16, "'many' is not a byte count"),
        ("-1", 16, "'-1' is not a byte count"),
        (len.as_str(), 15, "add up to 16 bytes, 15 follow"),
        (len.as_str(), 17, "add up to 16 bytes, 17 follow"),
        ("5", 16, "EOF while parsing"),
        ("0", 16, "do not fill shape"),
    ];
    for (header, tail, message) in table {
        let body = [json.as_bytes(), &vec![0; tail]].concat();
        let headers = [("Inference-Header-Content-Length", header)];
        let answer = client.request("POST", "/v2/models/m/infer", &headers, &body);
        assert_eq!(
            (answer.status, answer.error().contains(message)),
            (400, true),
            "{header}: {}",
            answer.text()
        );
        good(&mut client);
    }
    let short = json.replace("16}", "12}");
    let headers = [("Inference-Header-Content-Length", len.as_str())];
    let body = [short.as_bytes(), &[0; 12]].concat();
    let answer = client.request("POST", "/v2/models/m/infer", &headers, &body);
    assert!(answer.error().contains("input 'x'"), "{}", answer.text());
    let answer = client.request("POST", "/v2/models/m/infer", &[("Content-Encoding", "br")], b"x");
    assert_eq!(answer.status, 415);
    good(&mut client);
}

#[test]
fn unknown_names_are_not_found() {
    let fixture = Fixture::with_m();
    let two = [x(), ("z", DType::F32, &[1][..])];
    fixture.model("two", &two, &[y()], ModelSettings::default());
    let mut client = fixture.client();
    for path in ["/v2/models/none", "/v2/models/m/versions/9", "/v2/models/none/ready", "/v3", "//"] {
        assert_eq!(client.get(path).status, 404, "{path}");
    }
    let zero = [("Inference-Header-Content-Length", "0")];
    for path in ["/v2/models/none/infer", "/v2/models/m/versions/9/infer"] {
        assert_eq!(client.request("POST", path, &[], GOOD.as_bytes()).status, 404, "{path}");
        assert_eq!(client.request("POST", path, &zero, &[0; 16]).status, 404, "{path}");
    }
    assert_eq!(client.request("POST", "/v3", &[], &[0; 100_000]).status, 404);
    assert_eq!(client.get("/v2/models/m/infer").status, 405);
    let answer = client.request("POST", "/v2/models/two/infer", &zero, &[0; 16]);
    assert!(answer.error().contains("one input, it has 2"), "{}", answer.error());
    good(&mut client);
}

#[test]
fn an_oversized_body_is_refused_whether_its_size_is_stated_or_not() {
    let fixture = Fixture::with_m();
    let mut client = fixture.client();
    let answer = client.request("POST", "/v2/models/m/infer", &[], &vec![b' '; (1 << 20) + 1]);
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("at most 1048576 are allowed"), "{}", answer.error());
    good(&mut client);
    client.send(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..17 {
        client.send(&[b"10000\r\n".as_slice(), &vec![b' '; 1 << 16], b"\r\n"].concat());
    }
    client.send(b"0\r\n\r\n");
    assert_eq!(client.answer().status, 413);
    good(&mut client);
    assert_eq!(fixture.client().may_send("/v2/models/m/infer", 2_000_000), 413);
    good(&mut fixture.client());
}

#[test]
fn what_is_not_http_does_no_harm() {
    let fixture = Fixture::with_m();
    for bytes in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\r\n"] {
        let mut client = fixture.client();
        client.send(bytes);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        while !client.is_closed() {}
        good(&mut fixture.client());
    }
    let mut half = fixture.client();
    let bytes = request("POST", "/v2/models/m/infer", &[], GOOD.as_bytes());
    half.send(&bytes[..bytes.len() - 10]);
    drop(half);
    good(&mut fixture.client());
}
