//! Shows on a GPU itself what its operators give and what it promises:
//!
//!     operators results|promises [--device N] [--tiny] [--seed N] [--list]
//!
//! `results` runs every sample of the compiler, random and large products and convolutions, in every
//! precision: a line for each with its error, the most that it may be, and its kernels' time on the device.
//! Inputs are fresh three times (once if tiny), and outputs must be the same to the bit when the case is
//! repeated, evicted, and run beside a task that it evicts. `promises` is the conformance suite, on as many
//! units as the GPU has.
//!
//! Cases run in a process of their own. One that fails or does not end is a line; the rest go on in another
//! process, with a device that is not broken. Ends with 1 if anything is wrong.

mod cases;
mod exact;
mod promises;
mod results;
#[path = "../../tests/sketch/mod.rs"]
mod sketch;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use reef_cuda::{CudaDevice, CudaOptions};

/// How long one case may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a device may take to start, which may have to compile its kernels.
const PATIENCE_START: Duration = Duration::from_secs(90);
/// Lines of the working process that are for this one begin so.
const MARK: char = '\u{1}';
/// Bytes of the GPU's memory that `results` takes.
const MEMORY_BYTES: u64 = 3 << 30;
/// The same for tiny shapes.
const MEMORY_BYTES_TINY: u64 = 128 << 20;
/// Cases after which something must have been evicted.
const CASES_EVICTED: usize = 8;

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Results,
    Promises,
}

/// What the command line says.
struct Asked {
    part: Part,
    device: usize,
    tiny: bool,
    seed: u64,
    list: bool,
    /// In the working process: the case that it begins with.
    from: Option<usize>,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Asked, String> {
    let part = match args.next().as_deref() {
        Some("results") => Part::Results,
        Some("promises") => Part::Promises,
        _ => return Err("usage: operators results|promises [--device N] [--tiny] [--seed N] [--list]".into()),
    };
    let mut asked = Asked { part, device: 0, tiny: false, seed: 1, list: false, from: None };
    while let Some(arg) = args.next() {
        let mut number = || {
            let number = args.next().and_then(|number| number.parse().ok());
            number.ok_or_else(|| format!("{arg} wants a number"))
        };
        match arg.as_str() {
            "--device" => asked.device = number()? as usize,
            "--seed" => asked.seed = number()?,
            "--from" => asked.from = Some(number()? as usize),
            "--tiny" => asked.tiny = true,
            "--list" => asked.list = true,
            _ => return Err(format!("what is '{arg}'?")),
        }
    }
    Ok(asked)
}

fn main() -> ExitCode {
    let asked = match parse(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let right = match asked.from {
        Some(from) => {
            std::panic::set_hook(Box::new(|panic| fail(&panic.to_string())));
            work(&asked, from).inspect_err(|why| fail(why))
        }
        None if asked.list => {
            names(&asked).iter().for_each(|name| println!("{name}"));
            Ok(true)
        }
        None => supervise(&asked),
    };
    match right {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn names(asked: &Asked) -> Vec<String> {
    match asked.part {
        Part::Results => cases::all(asked.tiny).into_iter().map(|entry| entry.name).collect(),
        Part::Promises => promises::all(asked.tiny).into_iter().map(|(name, _)| name).collect(),
    }
}

/// Has other processes do the work: the next one goes on behind the case that ended the one before.
fn supervise(asked: &Asked) -> Result<bool, String> {
    let (names, started) = (names(asked), Instant::now());
    let (mut from, mut wrong) = (0, 0);
    while from < names.len() {
        let mut child = start(asked, from).map_err(|error| format!("cannot start a process: {error}"))?;
        let (begun, wrongs, ended) = follow(&mut child);
        wrong += wrongs;
        let Some(why) = ended else { break };
        let Some(at) = begun else { return Err(why) };
        wrong += 1;
        println!("{} WRONG: {why}", names[at]);
        from = at + 1;
    }
    if asked.part == Part::Promises {
        promises::LEFT_OUT.iter().for_each(|(name, why)| println!("{name} left out: {why}"));
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{} cases, {wrong} wrong, in {seconds:.1} s", names.len());
    Ok(wrong == 0)
}

fn start(asked: &Asked, from: usize) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(if asked.part == Part::Results { "results" } else { "promises" });
    let numbers = [("--device", asked.device as u64), ("--seed", asked.seed), ("--from", from as u64)];
    for (name, number) in numbers {
        command.arg(name).arg(number.to_string());
    }
    command.args(asked.tiny.then_some("--tiny"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
}

/// Shows what a process prints. The case that it is at or was at last, how many it found wrong, and why it
/// ended before it was done, if so.
fn follow(child: &mut Child) -> (Option<usize>, usize, Option<String>) {
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let (send, receive) = channel();
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).all(|line| send.send(line).is_ok()));
    let (mut begun, mut wrong, mut done, mut stuck) = (None, 0, false, false);
    let mut said: Option<String> = None;
    loop {
        let patience = if begun.is_some() { PATIENCE } else { PATIENCE_START };
        let line = match receive.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                stuck = true;
                break;
            }
        };
        match line.strip_prefix(MARK).map(|line| line.split_once(' ').unwrap_or((line, ""))) {
            None => println!("{line}"),
            Some(("begin", index)) => begun = index.parse().ok(),
            Some(("wrong", _)) => wrong += 1,
            Some(("failed", what)) => {
                said.get_or_insert(what.into());
            }
            Some(_) => done = true,
        }
    }
    if stuck {
        let _ = child.kill();
    }
    let status = child.wait();
    let _ = reader.join();
    let why = match status {
        _ if stuck => Some("it does not go on".into()),
        Ok(status) if done && status.success() => None,
        Ok(status) => Some(said.unwrap_or_else(|| format!("its process ended: {status}"))),
        Err(error) => Some(format!("its process is lost: {error}")),
    };
    (begun, wrong, why)
}

/// Ends this process when the one that started it is gone, whatever the GPU does.
fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        // At once: what the driver does at an exit may wait for the GPU.
        std::process::abort();
    });
}

/// Tells the process that started this one why it ends.
fn fail(why: &str) {
    println!("{MARK}failed {}", why.replace('\n', " "));
}

/// Runs the cases behind `from`. An error ends the process: the device may be broken.
fn work(asked: &Asked, from: usize) -> Result<bool, String> {
    end_with_parent();
    let number = asked.device;
    let start = |memory_bytes| {
        let options = CudaOptions { number, memory_bytes: Some(memory_bytes), ..CudaOptions::default() };
        CudaDevice::start(options).map_err(|error| error.to_string())
    };
    if asked.part == Part::Promises {
        // Held: the driver sets the GPU up once for all devices.
        let _first = start(1 << 20)?;
        for (index, (name, check)) in promises::all(asked.tiny).into_iter().enumerate().skip(from) {
            println!("{MARK}begin {index}");
            let started = Instant::now();
            check(number);
            println!("{name} ok, {:.2} s", started.elapsed().as_secs_f64());
        }
        println!("{MARK}done");
        return Ok(true);
    }
    let memory_bytes = if asked.tiny { MEMORY_BYTES_TINY } else { MEMORY_BYTES };
    let mut bench = results::Bench::new(start(memory_bytes)?, asked.tiny)?;
    if from == 0 {
        bench.head();
    }
    let mut ran = 0;
    for (index, entry) in cases::all(asked.tiny).into_iter().enumerate().skip(from) {
        println!("{MARK}begin {index}");
        if !bench.run(entry, asked.seed + index as u64)? {
            println!("{MARK}wrong");
        }
        ran += 1;
    }
    let [of_cases, of_long] = bench.preempted;
    println!("preempted: {of_cases} times a case, {of_long} times by one; blocks again: {:?}", bench.again);
    if ran >= CASES_EVICTED && (of_cases == 0 || of_long == 0) {
        println!("WRONG: nothing was ever evicted\n{MARK}wrong");
    }
    println!("{MARK}done");
    Ok(true)
}
