//! A recording as Chrome trace JSON, which Perfetto opens: process 1 is the device with one track per compute
//! unit, process 2 the requests as asynchronous spans. Times are microseconds on the engine's clock.

use std::fmt::{self, Display};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use reef_base::{Class, Nanos};
use reef_device::{Capabilities, Event, EventKind};

use super::Span;
use super::recording::{Named, Recording};

const DEVICE: u32 = 1;
const REQUESTS: u32 = 2;

/// Where the file lies until it is whole: beside its place, so that renaming is atomic.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    path.with_file_name(name)
}

/// Writes the recording; returns how many events were written.
pub(super) fn write(recording: &Recording, device: &Capabilities, file: impl Write) -> std::io::Result<u64> {
    let mut out = Out { file: BufWriter::new(file), events: 0, first: true };
    out.file.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    tracks(&mut out, device)?;
    for (event, name) in &recording.events {
        write_event(&mut out, event, recording.name(*name))?;
    }
    for span in &recording.spans {
        write_span(&mut out, span)?;
    }
    out.file.write_all(b"\n]}\n")?;
    out.file.flush()?;
    Ok(out.events)
}

struct Out<W: Write> {
    file: BufWriter<W>,
    events: u64,
    first: bool,
}

impl<W: Write> Out<W> {
    /// Writes one JSON object without its braces.
    fn object(&mut self, fields: fmt::Arguments<'_>) -> std::io::Result<()> {
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        write!(self.file, "{comma}\n{{{fields}}}")
    }
}

fn tracks(out: &mut Out<impl Write>, device: &Capabilities) -> std::io::Result<()> {
    for (process, name) in [(DEVICE, device.name.as_str()), (REQUESTS, "requests")] {
        let name = Json(name);
        out.object(format_args!(
            r#""ph":"M","pid":{process},"tid":0,"name":"process_name","args":{{"name":{name}}}"#
        ))?;
    }
    for cu in 0..device.cus {
        out.object(format_args!(
            r#""ph":"M","pid":{DEVICE},"tid":{},"name":"thread_name","args":{{"name":"CU {cu}"}}"#,
            cu + 1
        ))?;
    }
    Ok(())
}

fn write_event(out: &mut Out<impl Write>, event: &Event, named: Option<&Named>) -> std::io::Result<()> {
    let Some(cu) = event.cu else { return Ok(()) };
    let (stage, block, what) = match event.kind {
        EventKind::Block { stage, block, padding: false } => (stage, block, "block"),
        EventKind::Block { stage, block, padding: true } => (stage, block, "padding"),
        EventKind::Killed { stage, block } => (stage, block, "killed"),
        EventKind::Submitted | EventKind::Completed => return Ok(()),
    };
    let class = event.key.class();
    let kernel = kernel_name(named, stage, block);
    let (kernel, model) = (Json(kernel), Json(named.map_or("?", |named| named.model.name.as_str())));
    let colour = if what == "killed" { "terrible" } else { colour(class) };
    let (at, span, unit) = (Micros(event.at), Micros(event.span), u32::from(cu.0) + 1);
    let task = event.task;
    out.events += 1;
    out.object(format_args!(
        r#""ph":"X","pid":{DEVICE},"tid":{unit},"ts":{at},"dur":{span},"name":{kernel},"cat":"{what}","cname":"{colour}","args":{{"model":{model},"class":"{}","stage":{stage},"block":{block},"task":{task}}}"#,
        class_name(class)
    ))?;
    if what == "killed" {
        let end = Micros(event.at + event.span);
        out.events += 1;
        out.object(format_args!(
            r#""ph":"i","s":"t","pid":{DEVICE},"tid":{unit},"ts":{end},"name":"preempted","cat":"preemption","args":{{"model":{model},"task":{task}}}"#
        ))?;
    }
    Ok(())
}

/// A request as nested asynchronous spans: all of it, its time in the queues, its time on compute units.
fn write_span(out: &mut Out<impl Write>, span: &Span) -> std::io::Result<()> {
    let (model, token) = (Json(&span.model.name), span.token);
    let class = class_name(span.class);
    let error = Json(span.error.as_deref().unwrap_or(""));
    let started = span.first_block.or(span.finished).unwrap_or(span.end);
    let board = Micros(span.submitted.map_or(Nanos::ZERO, |submitted| started - submitted));
    let mut phase = |name: &dyn Display, from: Nanos, to: Nanos, args: fmt::Arguments<'_>| {
        let (from, to) = (Micros(from), Micros(to.max(from)));
        out.events += 1;
        out.object(format_args!(
            r#""ph":"b","pid":{REQUESTS},"tid":0,"id":{token},"ts":{from},"name":{name},"cat":"request","args":{{{args}}}"#
        ))?;
        out.object(format_args!(
            r#""ph":"e","pid":{REQUESTS},"tid":0,"id":{token},"ts":{to},"name":{name},"cat":"request""#
        ))
    };
    let details = format_args!(r#""class":"{class}","on_board_us":{board},"error":{error}"#);
    phase(&model, span.arrival, span.end, details)?;
    phase(&r#""queue""#, span.queued, started, format_args!(""))?;
    match (span.first_block, span.finished) {
        (Some(first), Some(finished)) => phase(&r#""compute""#, first, finished, format_args!("")),
        _ => Ok(()),
    }
}

fn kernel_name(named: Option<&Named>, stage: u32, block: u32) -> &str {
    let plan = named.map(|named| &named.plan);
    let located = plan.and_then(|plan| plan.stages().get(stage as usize).map(|stage| stage.locate(block)));
    let kernel = located.zip(plan).and_then(|((kernel, _), plan)| plan.kernels().get(kernel));
    kernel.map_or("?", |kernel| kernel.name.as_str())
}

fn colour(class: Class) -> &'static str {
    match class {
        Class::RealTime(level) if level.get() == 0 => "thread_state_running",
        Class::RealTime(_) => "thread_state_runnable",
        Class::BestEffort => "thread_state_iowait",
    }
}

fn class_name(class: Class) -> impl Display {
    struct Name(Class);
    impl Display for Name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self.0 {
                Class::RealTime(level) => write!(f, "real-time {}", level.get()),
                Class::BestEffort => f.write_str("best-effort"),
            }
        }
    }
    Name(class)
}

/// Nanoseconds as microseconds with three decimals, exactly.
struct Micros(Nanos);

impl Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0.0 / 1000, self.0.0 % 1000)
    }
}

/// A string as a JSON string with its quotes.
struct Json<'a>(&'a str);

impl Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                c if (c as u32) < 0x20 => write!(f, "\\u{:04x}", c as u32)?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_and_times_exact() {
        assert_eq!(Json("a\"b\\c\n").to_string(), r#""a\"b\\c\u000a""#);
        assert_eq!(Micros(Nanos(1_234_005)).to_string(), "1234.005");
    }
}
