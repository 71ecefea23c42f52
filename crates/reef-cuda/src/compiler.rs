//! CUDA C++ to machine code of one architecture, by NVRTC; and a cache of that, so that a device starts at
//! once the second time, and without the compiler where somebody brought the files.
//!
//! The compiler is looked for in the folder that `REEF_NVRTC` names, then where the system looks. The cache
//! is the folder that `REEF_CUDA_CACHE` names, else `reef` in the user's cache folder. A file's name is a
//! hash of the sources, the options and the architecture, so it fits as long as it is there.

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

use cudarc::nvrtc::sys::{self, nvrtcResult};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::descriptor;
use crate::error::CudaError;

const COMPILER_VARIABLE: &str = "REEF_NVRTC";
const CACHE_VARIABLE: &str = "REEF_CUDA_CACHE";

/// The text that is compiled includes the others.
const MAIN: (&str, &str) = ("queue.cu", "#include \"queue.cuh\"\n");

const HEADERS: [(&str, &str); 18] = [
    ("ptx.cuh", include_str!("kernels/ptx.cuh")),
    ("tile.cuh", include_str!("kernels/tile.cuh")),
    ("scalar.cuh", include_str!("kernels/scalar.cuh")),
    ("precision.cuh", include_str!("kernels/precision.cuh")),
    ("along.cuh", include_str!("kernels/along.cuh")),
    ("attention.cuh", include_str!("kernels/attention.cuh")),
    ("conv.cuh", include_str!("kernels/conv.cuh")),
    ("conv_tensor.cuh", include_str!("kernels/conv_tensor.cuh")),
    ("elementwise.cuh", include_str!("kernels/elementwise.cuh")),
    ("gather.cuh", include_str!("kernels/gather.cuh")),
    ("integer.cuh", include_str!("kernels/integer.cuh")),
    ("matmul.cuh", include_str!("kernels/matmul.cuh")),
    ("matmul_tensor.cuh", include_str!("kernels/matmul_tensor.cuh")),
    ("pool.cuh", include_str!("kernels/pool.cuh")),
    ("recurrent.cuh", include_str!("kernels/recurrent.cuh")),
    ("rows.cuh", include_str!("kernels/rows.cuh")),
    ("synthetic.cuh", include_str!("kernels/synthetic.cuh")),
    ("queue.cuh", include_str!("kernels/queue.cuh")),
];

/// Machine code, and what the compiler said of registers and memory if it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiled {
    pub(crate) cubin: Vec<u8>,
    pub(crate) log: Option<String>,
}

/// The kernels for an architecture, from the cache or made now.
pub(crate) fn kernels(arch: u32) -> Result<Vec<u8>, CudaError> {
    let file = cache_folder().map(|folder| folder.join(file_name(arch)));
    if let Some(cubin) = file.as_deref().and_then(|file| fs::read(file).ok()) {
        return Ok(cubin);
    }
    let cubin = compile(arch)?.cubin;
    // A cache that cannot be written costs a second at the next start.
    if let Some(file) = &file {
        let _ = write(file, &cubin);
    }
    Ok(cubin)
}

/// What the compiler says of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// Its name.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread that lie in memory because registers do not suffice.
    pub spilled_bytes: u32,
    /// Bytes of a thread's stack.
    pub stack_bytes: u32,
}

impl KernelFacts {
    /// Those of every kernel in a log of the compiler, by name.
    fn all(log: &str) -> Vec<KernelFacts> {
        let number = |line: &str, before: &str| {
            let words: Vec<&str> = line.split(before).next()?.split_whitespace().collect();
            words.last()?.parse().ok()
        };
        let mut found = Vec::new();
        for part in log.split("Compiling entry function '").skip(1) {
            let name = part.split('\'').next().unwrap_or_default().to_string();
            let line = |what: &str| part.lines().find(|line| line.contains(what)).unwrap_or_default();
            found.push(KernelFacts {
                registers: number(line("Used "), " registers").unwrap_or(0),
                spilled_bytes: number(line("spill stores"), " bytes spill stores").unwrap_or(0),
                stack_bytes: number(line("stack frame"), " bytes stack frame").unwrap_or(0),
                name,
            });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }
}

/// Compiles the kernels for an architecture into a folder that `REEF_CUDA_CACHE` may name elsewhere, where
/// there is no compiler.
pub fn compile_into(folder: &Path, arch: u32) -> Result<Vec<KernelFacts>, CudaError> {
    let Compiled { cubin, log } = compile(arch)?;
    let written = write(&folder.join(file_name(arch)), &cubin);
    written.map_err(|why| CudaError::Compile { arch, log: format!("{}: {why}", folder.display()) })?;
    Ok(KernelFacts::all(&log.unwrap_or_default()))
}

/// Writes a file at once or not at all: others may be reading it.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let passing = file.with_extension(format!("{}.new", std::process::id()));
    fs::write(&passing, bytes)?;
    fs::rename(&passing, file)
}

fn cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(CACHE_VARIABLE)
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("reef")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/reef")))
}

/// Where the cache is, for people.
pub(crate) fn cache_named() -> String {
    cache_folder().map_or_else(|| "there is none".into(), |folder| folder.display().to_string())
}

/// The options that say what is compiled.
fn options(arch: u32) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture=sm_{arch}"),
        "--std=c++17".into(),
        // Results are the text's, a multiply-add only where it says so.
        "--fmad=false".into(),
        "--ptxas-options=-v".into(),
    ];
    options.extend(descriptor::SIZES.iter().map(|(name, bytes)| format!("--define-macro={name}={bytes}")));
    options
}

fn file_name(arch: u32) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, text) in [MAIN].iter().chain(&HEADERS) {
        hasher.update(name.as_bytes()).update(b"\0").update(text.as_bytes()).update(b"\0");
    }
    for option in options(arch) {
        hasher.update(option.as_bytes()).update(b"\0");
    }
    format!("{}-sm_{arch}.cubin", &hasher.finalize().to_hex()[..24])
}

/// Compiles the kernels.
#[allow(unsafe_code)]
pub(crate) fn compile(arch: u32) -> Result<Compiled, CudaError> {
    load()?;
    let text = |text: &str| CString::new(text).expect("the kernels' texts have no NUL");
    let (names, texts): (Vec<CString>, Vec<CString>) =
        HEADERS.iter().map(|(name, header)| (text(name), text(header))).unzip();
    let options: Vec<CString> = options(arch).iter().map(|option| text(option)).collect();
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
    let (names, texts, options) = (pointers(&names), pointers(&texts), pointers(&options));
    let (name, main) = (text(MAIN.0), text(MAIN.1));
    let mut program = ptr::null_mut();
    // SAFETY: the texts end in NUL and outlive the program, which is destroyed below.
    let created = unsafe {
        let count = names.len() as i32;
        sys::nvrtcCreateProgram(
            &mut program,
            main.as_ptr(),
            name.as_ptr(),
            count,
            texts.as_ptr(),
            names.as_ptr(),
        )
    };
    let failed = |log: String| CudaError::Compile { arch, log };
    if created != nvrtcResult::NVRTC_SUCCESS {
        return Err(failed(format!("{created:?}")));
    }
    // SAFETY: the program exists, the options end in NUL.
    let result = unsafe { sys::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr()) };
    let log = read(program, sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog);
    let cubin = read(program, sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN);
    // SAFETY: made above, used no more.
    unsafe { sys::nvrtcDestroyProgram(&mut program) };
    let log = log.and_then(|log| Some(CStr::from_bytes_until_nul(&log).ok()?.to_string_lossy().into_owned()));
    match cubin {
        Some(cubin) if result == nvrtcResult::NVRTC_SUCCESS && !cubin.is_empty() => {
            Ok(Compiled { cubin, log })
        }
        _ => Err(failed(log.unwrap_or_else(|| format!("{result:?}")))),
    }
}

/// What the compiler has of a program, by the two calls for that: a size, and the bytes.
#[allow(unsafe_code)]
fn read(
    program: sys::nvrtcProgram,
    size: unsafe fn(sys::nvrtcProgram, *mut usize) -> nvrtcResult,
    get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> nvrtcResult,
) -> Option<Vec<u8>> {
    let mut bytes = 0;
    // SAFETY: the program exists, and the pointer is to a number that outlives the call.
    if unsafe { size(program, &mut bytes) } != nvrtcResult::NVRTC_SUCCESS {
        return None;
    }
    let mut read = vec![0u8; bytes];
    // SAFETY: the program exists, and there is room for as many bytes as it said.
    let result = unsafe { get(program, read.as_mut_ptr().cast()) };
    (result == nvrtcResult::NVRTC_SUCCESS).then_some(read)
}

/// Which compiler there is, as in 13.0.
#[allow(unsafe_code)]
pub(crate) fn version() -> Result<String, CudaError> {
    load()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the pointers are to numbers that outlive the call.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    Ok(format!("{major}.{minor}"))
}

/// Loads the compiler, once for the process.
fn load() -> Result<(), CudaError> {
    static COMPILER: OnceLock<Result<(), String>> = OnceLock::new();
    let loaded = COMPILER.get_or_init(|| match std::env::var_os(COMPILER_VARIABLE) {
        Some(folder) => {
            let folder = Path::new(&folder);
            let others = |why| format!("{why}{}", other_versions(folder));
            // The one asks for the other by name, which is not where the system looks.
            open(&folder.join("libnvrtc-builtins.so.13.0")).map_err(others)?;
            open(&folder.join("libnvrtc.so.13")).map_err(others)
        }
        None => open(Path::new("libnvrtc.so.13")),
    });
    loaded.clone().map_err(CudaError::NoCompiler)
}

/// What a folder has of other versions of the compiler, for people.
fn other_versions(folder: &Path) -> String {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with("libnvrtc.so.") && !name.starts_with("libnvrtc.so.13"));
    names.sort();
    if names.is_empty() { String::new() } else { format!("; {} is of another version", names.join(", ")) }
}

/// Loads a library for good, so that cudarc finds it by its name.
#[allow(unsafe_code)]
fn open(path: &Path) -> Result<(), String> {
    // SAFETY: the compiler's libraries are made to be loaded at run time.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    library.map(std::mem::forget).map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_has_a_file_of_its_own() {
        let name = file_name(90);
        assert!(name.ends_with("-sm_90.cubin") && name == file_name(90));
        assert_ne!(name.split('-').next(), file_name(80).split('-').next());
    }

    #[test]
    fn a_log_says_what_kernels_take() {
        let log = "ptxas info    : Compiling entry function 'b' for 'sm_90'\n\
                   ptxas info    : Function properties for b\n\
                   ptxas         .     176 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n\
                   ptxas info    : Used 40 registers, used 2 barriers\n\
                   ptxas info    : Compiling entry function 'a' for 'sm_90'\n\
                   ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                   ptxas info    : Used 12 registers";
        let facts = |name: &str, registers, spilled_bytes, stack_bytes| KernelFacts {
            name: name.into(),
            registers,
            spilled_bytes,
            stack_bytes,
        };
        assert_eq!(KernelFacts::all(log), [facts("a", 12, 0, 0), facts("b", 40, 8, 176)]);
    }

    /// What every kernel takes on every architecture is committed: a change of it is to be seen.
    #[test]
    #[ignore = "needs NVRTC: cargo xtask cuda"]
    fn registers_and_spills_are_those_of_the_table() {
        let mut table = String::from("arch kernel registers spilled_bytes stack_bytes\n");
        for arch in [80, 90] {
            let log = compile(arch).unwrap().log.expect("the compiler ran");
            for KernelFacts { name, registers, spilled_bytes, stack_bytes } in KernelFacts::all(&log) {
                assert_eq!(spilled_bytes, 0, "{name} for sm_{arch} has too few registers");
                table += &format!("sm_{arch} {name} {registers} {spilled_bytes} {stack_bytes}\n");
            }
        }
        if std::env::var_os("REEF_UPDATE").is_some() {
            fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels.txt"), &table).unwrap();
        } else {
            assert_eq!(table, include_str!("../kernels.txt"), "REEF_UPDATE=1 writes the table anew");
        }
    }

    #[test]
    fn every_file_that_a_text_includes_is_handed_to_the_compiler() {
        for (name, text) in HEADERS {
            for line in text.lines().filter_map(|line| line.strip_prefix("#include \"")) {
                let included = line.trim_end_matches('"');
                assert!(HEADERS.iter().any(|(other, _)| *other == included), "{name} includes {included}");
            }
        }
    }
}
