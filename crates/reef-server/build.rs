//! Makes the messages of `proto/inference.proto` for the server, a client of its service for the tests, and
//! the descriptors that reflection hands out. No foreign compiler: `protox` reads the file.

use std::path::PathBuf;

use prost::Message;

const PROTO: &str = "inference.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile([PROTO], ["proto"])?;
    std::fs::write(out.join("inference.bin"), descriptors.encode_to_vec())?;
    let client = out.join("client");
    std::fs::create_dir_all(&client)?;
    for (with_client, folder) in [(false, &out), (true, &client)] {
        tonic_prost_build::configure()
            // The server dispatches by itself: tensors go out without a copy, and every message is metered.
            .build_server(false)
            .build_client(with_client)
            .bytes(".")
            .out_dir(folder)
            .compile_fds(descriptors.clone())?;
    }
    Ok(())
}
