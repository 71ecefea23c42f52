//! Writes small models and their inputs into a folder, for a check of a machine: `smoke FOLDER`.

#[path = "../tests/programs/make.rs"]
mod make;

use std::path::Path;

/// Channels of the convolutions: less than a tile, and more.
const CHANNELS: [i64; 2] = [8, 130];

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).expect("usage: smoke FOLDER");
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;
    for channels in CHANNELS {
        let program = make::convolution(channels);
        std::fs::write(folder.join(format!("conv{channels}.onnx")), &program.onnx)?;
    }
    Ok(())
}
