//! Compiles the kernels for architectures into a folder, for machines without a compiler:
//! `kernels FOLDER 80 90 ...`. On them `REEF_CUDA_CACHE` names the folder.

use std::path::Path;
use std::process::ExitCode;

use reef_cuda::{KernelFacts, compile_into};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((folder, archs)) = args.split_first() else {
        eprintln!("usage: kernels FOLDER ARCHITECTURE...");
        return ExitCode::from(2);
    };
    for arch in archs {
        let compiled = arch.parse().map_err(|_| format!("'{arch}' is not an architecture, as in 90"));
        let compiled = compiled
            .and_then(|arch| compile_into(Path::new(folder), arch).map_err(|error| error.to_string()));
        match compiled {
            Ok(kernels) => {
                for kernel in kernels {
                    let KernelFacts { name, registers, spilled_bytes, stack_bytes } = kernel;
                    let spilled = spilled_bytes;
                    println!(
                        "sm_{arch} {name}: {registers} registers, {spilled} spilled, stack {stack_bytes}"
                    );
                }
            }
            Err(why) => {
                eprintln!("{why}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
