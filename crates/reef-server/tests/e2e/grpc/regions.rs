//! System shared memory over gRPC: the same regions as over HTTP.

use std::fs::File;
use std::os::unix::fs::FileExt;

use tonic::Code;

use super::client::pb::infer_parameter::ParameterChoice::{Int64Param, StringParam};
use super::client::pb::{
    InferParameter, ModelInferRequest, SystemSharedMemoryRegisterRequest, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryUnregisterRequest,
};
use super::client::{Grpc, floats, good, output, parameter, refused, told};
use crate::fixture::{Fixture, expected};

/// A file of shared memory, gone with the test.
struct Memory {
    file: File,
    path: std::path::PathBuf,
    key: String,
}

impl Memory {
    fn new(name: &str, bytes: u64) -> Memory {
        let key = format!("reef-grpc-{}-{name}", std::process::id());
        let path = std::path::Path::new("/dev/shm").join(&key);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.set_len(bytes).unwrap();
        Memory { file, path, key }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn register(grpc: &Grpc, name: &str, key: &str, byte_size: u64) -> Result<(), tonic::Status> {
    let request =
        SystemSharedMemoryRegisterRequest { name: name.into(), key: key.into(), offset: 0, byte_size };
    let mut client = grpc.client.clone();
    grpc.block_on(async { client.system_shared_memory_register(request).await.map(|_| ()) })
}

fn place(region: &str, offset: i64, bytes: i64) -> std::collections::HashMap<String, InferParameter> {
    let parameters = [
        ("shared_memory_region", StringParam(region.into())),
        ("shared_memory_offset", Int64Param(offset)),
        ("shared_memory_byte_size", Int64Param(bytes)),
    ];
    parameters.into_iter().map(|(name, choice)| (name.to_string(), parameter(choice))).collect()
}

/// `x` from the region's beginning, `y` behind it.
fn request(region: &str) -> ModelInferRequest {
    let mut request = ModelInferRequest { raw_input_contents: vec![], ..good("m") };
    request.inputs[0].parameters = place(region, 0, 16);
    request.outputs = vec![output("y", None)];
    request.outputs[0].parameters = place(region, 16, 16);
    request
}

#[test]
fn tensors_come_from_shared_memory_and_go_there() {
    let fixture = Fixture::with_client_shm();
    let grpc = fixture.grpc();
    let memory = Memory::new("both", 32);
    let x = floats(&[1.0, 2.0, 3.0, 4.0]);
    memory.file.write_all_at(&x, 0).unwrap();
    refused(grpc.infer(request("r")), Code::NotFound, "no shared memory region 'r'");
    register(&grpc, "r", &memory.key, 32).unwrap();
    let mut client = grpc.client.clone();
    let status = SystemSharedMemoryStatusRequest::default();
    let status = grpc.block_on(async { client.system_shared_memory_status(status).await }).unwrap();
    assert_eq!(status.into_inner().regions["r"].key, memory.key);
    let answer = grpc.infer(request("r")).unwrap();
    let mut y = [0; 16];
    memory.file.read_exact_at(&mut y, 16).unwrap();
    assert_eq!(y[..], expected(0, &[&x], 16));
    assert_eq!(answer.raw_output_contents, [""], "one per output");
    assert_eq!(answer.outputs[0].parameters, place("r", 16, 16));
    assert!(told(&answer, "class").is_some());
    // What the request carries is not shared, and the other way round.
    let mut both = request("r");
    both.raw_input_contents = good("m").raw_input_contents;
    refused(grpc.infer(both), Code::InvalidArgument, "1 raw_input_contents for 0 inputs");
    let mut short = request("r");
    short.outputs[0].parameters = place("r", 16, 8);
    refused(grpc.infer(short), Code::InvalidArgument, "output 'y' has 16 bytes");
    for (offset, bytes) in [(20, 16), (i64::MAX, 16), (0, 12), (-1, 16)] {
        let mut outside = request("r");
        outside.inputs[0].parameters = place("r", offset, bytes);
        refused(grpc.infer(outside), Code::InvalidArgument, "");
    }
    memory.file.set_len(8).unwrap();
    refused(grpc.infer(request("r")), Code::InvalidArgument, "");
    let unregister = SystemSharedMemoryUnregisterRequest { name: "r".into() };
    grpc.block_on(async { client.system_shared_memory_unregister(unregister).await }).unwrap();
    refused(grpc.infer(request("r")), Code::NotFound, "no shared memory region 'r'");
    grpc.infer(good("m")).unwrap();
}

#[test]
fn regions_are_off_unless_they_are_allowed() {
    let fixture = Fixture::with_m();
    let grpc = fixture.grpc();
    refused(register(&grpc, "r", "r", 16), Code::Unimplemented, "--allow-client-shm");
    refused(grpc.infer(request("r")), Code::Unimplemented, "--allow-client-shm");
    let allowed = Fixture::with_client_shm();
    refused(register(&allowed.grpc(), "r", "../etc/passwd", 16), Code::InvalidArgument, "is not the name");
}
