//! Tensors in system shared memory: registering regions, requests that name them, and what harm clients may
//! try.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use reef_engine::{DType, ModelSettings};
use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::fixture::{Ends, Fixture, expected, y};

/// A file below `/dev/shm`, gone with the test.
struct Memory {
    key: String,
    file: File,
}

impl Memory {
    fn new(bytes: &[u8]) -> Memory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let key = format!("reef-test-{}-{number}", std::process::id());
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(Self::path(&key)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        Memory { key, file }
    }

    fn path(key: &str) -> PathBuf {
        PathBuf::from("/dev/shm").join(key)
    }

    fn register(&self, client: &mut Client, name: &str, offset: u64, byte_size: u64) -> Answer {
        let body = json!({ "key": self.key, "offset": offset, "byte_size": byte_size }).to_string();
        let path = format!("/v2/systemsharedmemory/region/{name}/register");
        client.request("POST", &path, &[], body.as_bytes())
    }

    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(Self::path(&self.key));
    }
}

fn place(region: &str, offset: u64, byte_size: u64) -> Value {
    json!({
        "shared_memory_region": region,
        "shared_memory_offset": offset,
        "shared_memory_byte_size": byte_size,
    })
}

/// A request to `m` whose input is at `input`, and whose output goes to `output`.
fn question(input: Value, output: Option<Value>) -> String {
    let x = json!({ "name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": input });
    let mut question = json!({ "inputs": [x] });
    if let Some(output) = output {
        question["outputs"] = json!([{ "name": "y", "parameters": output }]);
    }
    question.to_string()
}

/// The answer is a refusal with this status and these words; the server goes on.
fn refused(client: &mut Client, json: &str, status: u16, words: &str) {
    let answer = client.infer(json);
    assert_eq!(answer.status, status, "{json}: {}", answer.text());
    assert!(answer.error().contains(words), "{json}: {}", answer.error());
    assert_eq!(client.get("/v2/health/live").status, 200);
}

#[test]
fn tensors_are_read_from_and_written_to_regions() {
    let fixture = Fixture::with_client_shm();
    let mut client = fixture.client();
    let data: Vec<u8> = (0..16).collect();
    let memory = Memory::new(&[&[9; 8], &data[..], &[7; 40]].concat());
    assert_eq!(memory.register(&mut client, "in%20put", 8, 16).status, 200);
    assert_eq!(memory.register(&mut client, "output", 24, 40).status, 200);
    let status = client.get("/v2/systemsharedmemory/status").json();
    let row = json!({ "name": "in put", "key": memory.key, "offset": 8, "byte_size": 16 });
    assert_eq!((status.as_array().unwrap().len(), &status[0]), (2, &row));
    let one = client.get("/v2/systemsharedmemory/region/output/status").json();
    assert_eq!((one.as_array().unwrap().len(), &one[0]["offset"]), (1, &json!(24)));

    let answer = client.infer(&question(place("in put", 0, 16), Some(place("output", 8, 24))));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let output = &answer.json()["outputs"][0];
    assert!(output.get("parameters").is_none() && output.get("data").is_none());
    assert_eq!(memory.bytes(32, 16), expected(0, &[&data], 16));
    assert_eq!((memory.bytes(24, 8), memory.bytes(48, 16)), (vec![7; 8], vec![7; 16]), "nothing around it");

    // In memory on one side only.
    let answer = client.infer(&question(place("in put", 0, 16), None));
    assert_eq!(answer.json()["outputs"][0]["data"].as_array().unwrap().len(), 4);
    let metadata = client.get("/v2").json();
    assert!(metadata["extensions"].as_array().unwrap().contains(&json!("system_shared_memory")));
}

#[test]
fn what_is_not_within_a_region_is_refused() {
    let fixture = Fixture::with_client_shm();
    let mut client = fixture.client();
    let memory = Memory::new(&[1; 64]);
    assert_eq!(memory.register(&mut client, "r", 0, 64).status, 200);
    let good = || place("r", 0, 16);
    let table = [
        (place("none", 0, 16), None, 404, "no shared memory region 'none'"),
        (place("r", 49, 16), None, 400, "are not within it"),
        (place("r", u64::MAX, 16), None, 400, "are not within it"),
        (place("r", 0, 15), None, 400, "shared_memory_byte_size is 15, its shape has 16"),
        (place("r", 0, u64::MAX), None, 400, "its shape has 16"),
        (good(), Some(place("r", 60, 8)), 400, "are not within it"),
        (good(), Some(place("r", 8, u64::MAX)), 400, "are not within it"),
        (good(), Some(place("none", 0, 16)), 404, "'none'"),
        (good(), Some(place("r", 16, 15)), 400, "output 'y' has 16 bytes, shared_memory_byte_size is 15"),
    ];
    for (input, output, status, words) in table {
        refused(&mut client, &question(input, output), status, words);
    }
    let unsaid = json!({ "shared_memory_region": "r" });
    refused(&mut client, &question(unsaid, None), 400, "without shared_memory_byte_size");
    let both = json!({ "shared_memory_region": "r", "shared_memory_byte_size": 16, "binary_data_size": 0 });
    refused(&mut client, &question(both, None), 400, "both binary_data_size and");
    let unnamed = json!({ "shared_memory_region": 7, "shared_memory_byte_size": 16 });
    refused(&mut client, &question(unnamed, None), 400, "7 is not a name");
    assert_eq!(memory.bytes(0, 64), vec![1; 64], "nothing was written");
}

#[test]
fn what_cannot_be_a_region_is_refused() {
    let fixture = Fixture::with_client_shm();
    let mut client = fixture.client();
    let memory = Memory::new(&[0; 64]);
    let mut register = |body: &str| {
        let answer = client.request("POST", "/v2/systemsharedmemory/region/r/register", &[], body.as_bytes());
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        answer.error()
    };
    for body in
        ["", "[]", "{}", r#"{"key":"k"}"#, r#"{"key":7,"byte_size":1}"#, r#"{"key":"k","byte_size":-1}"#]
    {
        assert!(register(body).contains("not as the protocol says"), "{body}");
    }
    for key in ["../etc/passwd", "/dev/shm/x", "", "a\\u0000b", "."] {
        assert!(
            register(&format!(r#"{{"key":"{key}","byte_size":8}}"#)).contains("is not the name"),
            "{key}"
        );
    }
    assert!(register(r#"{"key":"reef-test-none","byte_size":8}"#).contains("No such file"));
    let link = Memory::path(&format!("{}-link", memory.key));
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    let error = register(&format!(r#"{{"key":"{}-link","byte_size":8}}"#, memory.key));
    std::fs::remove_file(link).unwrap();
    assert!(error.contains("symbolic link"), "{error}");
    for (offset, byte_size) in [(0, 65), (1, 64), (u64::MAX, 1), (0, u64::MAX), (0, 0)] {
        let answer = memory.register(&mut client, "r", offset, byte_size);
        assert_eq!(answer.status, 400, "{offset} {byte_size}: {}", answer.text());
    }
    assert_eq!(client.get("/v2/systemsharedmemory/status").json(), json!([]));
}

#[test]
fn regions_are_taken_away_one_by_one_or_all() {
    let fixture = Fixture::with_client_shm();
    let mut client = fixture.client();
    let memory = Memory::new(&[0; 64]);
    for name in ["a", "b", "c"] {
        assert_eq!(memory.register(&mut client, name, 0, 64).status, 200);
    }
    assert!(memory.register(&mut client, "a", 0, 8).error().contains("registered already"));
    let mut post = |path: &str| client.request("POST", path, &[], &[]).status;
    assert_eq!(post("/v2/systemsharedmemory/region/a/unregister"), 200);
    assert_eq!(post("/v2/systemsharedmemory/region/a/unregister"), 200);
    assert_eq!(post("/v2/cudasharedmemory/unregister"), 200);
    assert_eq!(post("/v2/cudasharedmemory/region/a/register"), 501);
    assert_eq!(client.get("/v2/systemsharedmemory/region/a/status").status, 404);
    assert_eq!(client.get("/v2/cudasharedmemory/status").json(), json!([]));
    assert_eq!(client.get("/v2/systemsharedmemory/status").json().as_array().unwrap().len(), 2);
    assert_eq!(client.request("POST", "/v2/systemsharedmemory/unregister", &[], &[]).status, 200);
    refused(&mut client, &question(place("b", 0, 16), None), 404, "'b'");
}

#[test]
fn without_permission_every_answer_says_how_to_allow_it() {
    let fixture = Fixture::with_m();
    let mut client = fixture.client();
    let memory = Memory::new(&[0; 64]);
    let answers = [
        client.get("/v2/systemsharedmemory/status"),
        memory.register(&mut client, "r", 0, 64),
        client.request("POST", "/v2/systemsharedmemory/unregister", &[], &[]),
        client.infer(&question(place("r", 0, 16), None)),
    ];
    for answer in answers {
        assert_eq!(answer.status, 501);
        assert!(answer.error().contains("--allow-client-shm"), "{}", answer.error());
    }
    let metadata = client.get("/v2").json();
    assert!(!metadata["extensions"].as_array().unwrap().contains(&json!("system_shared_memory")));
}

#[test]
fn shared_tensors_count_in_the_body_limit_and_the_budget() {
    let fixture = Fixture::with_client_shm();
    let extent = 1 << 18;
    let wide = ("x", DType::F32, &[-1][..]);
    fixture.model("wide", &[wide, ("z", DType::F32, &[-1])], &[y()], ModelSettings::default());
    let memory = Memory::new(&vec![0; 4 * extent]);
    let mut client = fixture.client();
    assert_eq!(memory.register(&mut client, "r", 0, 4 * extent as u64).status, 200);
    let input = |name: &str, count: usize| {
        let parameters = place("r", 0, 4 * count as u64);
        json!({ "name": name, "datatype": "FP32", "shape": [count], "parameters": parameters })
    };
    let mut ask = |first: usize, second: usize| {
        let body = json!({ "inputs": [input("x", first), input("z", second)] }).to_string();
        client.request("POST", "/v2/models/wide/infer", &[], body.as_bytes())
    };
    let answer = ask(extent, extent);
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("more than the allowed 1048576 bytes"), "{}", answer.error());
    let answer = ask(extent / 2, extent / 4);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_file_that_is_truncated_under_load_costs_its_requests_only() {
    let fixture = Fixture::with_client_shm();
    let memory = Memory::new(&[1; 8192]);
    let mut client = fixture.client();
    assert_eq!(memory.register(&mut client, "r", 0, 8192).status, 200);
    let stop = Ends::default();
    let wanted = expected(0, &[&[1; 16]], 16);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.is_set() {
                memory.file.set_len(0).unwrap();
                memory.file.write_all_at(&[1; 8192], 0).unwrap();
            }
        });
        let _end = stop.at_drop();
        let (mut answered, mut lost) = (0, 0);
        while answered < 50 || lost < 50 {
            let answer = client.infer(&question(place("r", 4096, 16), Some(place("r", 8000, 16))));
            match answer.status {
                200 => answered += 1,
                400 => {
                    assert!(answer.error().contains("has shrunk"), "{}", answer.error());
                    lost += 1;
                }
                other => panic!("{other}: {}", answer.text()),
            }
        }
    });
    // The file was whole at the end: everything is as before.
    memory.file.write_all_at(&[1; 8192], 0).unwrap();
    let answer = client.infer(&question(place("r", 4096, 16), Some(place("r", 8000, 16))));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(memory.bytes(8000, 16), wanted);
    memory.file.set_len(100).unwrap();
    refused(&mut client, &question(place("r", 4096, 16), None), 400, "has shrunk");
    assert_eq!(memory.file.metadata().unwrap().len(), 100);
    // What was not cut off can still be used.
    let good = client.infer(&question(place("r", 0, 16), None));
    assert_eq!(good.status, 200, "{}", good.text());
}
