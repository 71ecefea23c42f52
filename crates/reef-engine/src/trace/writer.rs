//! Recordings as Chrome trace JSON, which Perfetto opens: process 1 is the first device with one track per
//! compute unit, process 2 the requests as asynchronous spans, processes 3 and up are the other devices.
//! Times are microseconds on the engine's clock.

use std::fmt::{self, Display, Write as _};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use reef_base::{Class, Nanos};
use reef_device::{Event, EventKind};

use super::notes::Span;
use super::recording::{Named, Recording};
use super::{Traced, locked};

const REQUESTS: u32 = 2;

/// The process of a device.
fn process_of(device: usize) -> u32 {
    if device == 0 { 1 } else { REQUESTS + device as u32 }
}

/// Where the file lies until it is whole: beside its place, so that renaming is atomic.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    path.with_file_name(name)
}

/// Writes the recordings, one per device; returns how many events were written.
pub(super) fn write(
    recordings: &[Mutex<Recording>],
    devices: &[Traced],
    file: impl Write,
) -> std::io::Result<u64> {
    let mut out = Out { file: BufWriter::new(file), events: 0, first: true, line: String::new() };
    out.file.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    tracks(&mut out, devices)?;
    for (device, recording) in recordings.iter().enumerate() {
        let recording = locked(recording);
        for (event, name) in &recording.events {
            write_event(&mut out, process_of(device), event, recording.name(*name))?;
        }
        for span in &recording.spans {
            write_span(&mut out, &devices[device].name, device, span)?;
        }
    }
    out.file.write_all(b"\n]}\n")?;
    out.file.flush()?;
    Ok(out.events)
}

struct Out<W: Write> {
    file: BufWriter<W>,
    events: u64,
    first: bool,
    /// The object being made.
    line: String,
}

impl<W: Write> Out<W> {
    /// Begins an object of phase `phase` on a track.
    fn begin(&mut self, phase: &str, process: u32, track: u32) -> &mut Self {
        self.line.clear();
        self.raw("ph", Json(phase)).raw("pid", process).raw("tid", track)
    }

    fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key, Json(value))
    }

    fn time(&mut self, key: &str, value: Nanos) -> &mut Self {
        self.raw(key, Micros(value))
    }

    /// A field whose value is JSON as it is.
    fn raw(&mut self, key: &str, value: impl Display) -> &mut Self {
        let comma = if self.line.is_empty() || self.line.ends_with('{') { "" } else { "," };
        write!(self.line, "{comma}\"{key}\":{value}").expect("strings take everything");
        self
    }

    /// The fields that follow belong to `args`, until the end.
    fn args(&mut self) -> &mut Self {
        self.raw("args", "{")
    }

    /// Writes the object; `closing` ends what was opened inside.
    fn end(&mut self, closing: &str) -> std::io::Result<()> {
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        write!(self.file, "{comma}\n{{{}{closing}}}", self.line)
    }
}

fn tracks(out: &mut Out<impl Write>, devices: &[Traced]) -> std::io::Result<()> {
    let mut process = |process: u32, name: &str| {
        out.begin("M", process, 0).text("name", "process_name").args().text("name", name).end("}")
    };
    process(REQUESTS, "requests")?;
    for (index, Traced { name, device, .. }) in devices.iter().enumerate() {
        process(process_of(index), &format!("{name}: {}", device.capabilities().name))?;
    }
    for (index, Traced { device, .. }) in devices.iter().enumerate() {
        for cu in 0..device.capabilities().cus as u32 {
            let (process, name) = (process_of(index), format!("CU {cu}"));
            out.begin("M", process, cu + 1)
                .text("name", "thread_name")
                .args()
                .text("name", &name)
                .end("}")?;
        }
    }
    Ok(())
}

fn write_event(
    out: &mut Out<impl Write>,
    process: u32,
    event: &Event,
    named: Option<&Named>,
) -> std::io::Result<()> {
    let Some(cu) = event.cu else { return Ok(()) };
    let (stage, block, what) = match event.kind {
        EventKind::Block { stage, block, padding: false } => (stage, block, "block"),
        EventKind::Block { stage, block, padding: true } => (stage, block, "padding"),
        EventKind::Killed { stage, block } => (stage, block, "killed"),
        EventKind::Part { stage, block } => (stage, block, "part"),
        EventKind::Submitted | EventKind::Completed => return Ok(()),
    };
    let (class, track) = (event.key.class(), u32::from(cu.0) + 1);
    let model = named.map_or("?", |named| named.model.name.as_str());
    let killed = what == "killed";
    out.events += 1;
    out.begin("X", process, track).time("ts", event.at).time("dur", event.span);
    out.text("name", kernel_name(named, stage, block)).text("cat", what);
    out.text("cname", if killed { "terrible" } else { colour(class) });
    out.args().text("model", model).text("class", &class_name(class));
    out.raw("stage", stage).raw("block", block).raw("task", event.task).end("}")?;
    if killed {
        out.events += 1;
        out.begin("i", process, track).time("ts", event.at + event.span).text("s", "t");
        out.text("name", "preempted").text("cat", "preemption");
        out.args().text("model", model).raw("task", event.task).end("}")?;
    }
    Ok(())
}

/// A request as nested asynchronous spans: all of it, its time in the queues, its time on compute units.
fn write_span(out: &mut Out<impl Write>, device: &str, index: usize, span: &Span) -> std::io::Result<()> {
    let started = span.first_block.or(span.finished).unwrap_or(span.end);
    let phases = [
        Some((&*span.model.name, span.arrival, span.end)),
        Some(("queue", span.queued, started)),
        span.first_block.zip(span.finished).map(|(first, finished)| ("compute", first, finished)),
    ];
    phases.into_iter().flatten().try_for_each(|phase| write_phase(out, (device, index), span, phase))
}

/// Tokens are of one device: that of a later one is told from the same of the first.
fn write_phase(
    out: &mut Out<impl Write>,
    (device, index): (&str, usize),
    span: &Span,
    (name, from, to): (&str, Nanos, Nanos),
) -> std::io::Result<()> {
    let id = if index == 0 { span.token.to_string() } else { format!("\"{index}:{}\"", span.token) };
    out.events += 1;
    out.begin("b", REQUESTS, 0).raw("id", &id).time("ts", from).text("name", name);
    out.text("cat", "request").args().text("class", &class_name(span.class)).text("device", device);
    if let Some(submitted) = span.submitted {
        out.time("submitted_us", submitted);
    }
    if let Some(error) = &span.error {
        out.text("error", error);
    }
    out.end("}")?;
    out.begin("e", REQUESTS, 0).raw("id", &id).time("ts", to.max(from)).text("name", name);
    out.text("cat", "request").end("")
}

fn kernel_name(named: Option<&Named>, stage: u32, block: u32) -> &str {
    named.and_then(|named| named.kernel(stage, block)).unwrap_or("?")
}

fn colour(class: Class) -> &'static str {
    match class {
        Class::RealTime(level) if level.get() == 0 => "thread_state_running",
        Class::RealTime(_) => "thread_state_runnable",
        Class::BestEffort => "thread_state_iowait",
    }
}

fn class_name(class: Class) -> String {
    match class {
        Class::RealTime(level) => format!("real-time {}", level.get()),
        Class::BestEffort => "best-effort".into(),
    }
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
