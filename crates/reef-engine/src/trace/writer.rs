//! A recording as Chrome trace JSON, which Perfetto opens: process 1 is the device with one track per compute
//! unit, process 2 the requests as asynchronous spans. Times are microseconds on the engine's clock.

use std::fmt::{self, Display, Write as _};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use reef_base::{Class, Nanos};
use reef_device::{Capabilities, Event, EventKind};

use super::notes::Span;
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
    let mut out = Out { file: BufWriter::new(file), events: 0, first: true, line: String::new() };
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

fn tracks(out: &mut Out<impl Write>, device: &Capabilities) -> std::io::Result<()> {
    for (process, name) in [(DEVICE, device.name.as_str()), (REQUESTS, "requests")] {
        out.begin("M", process, 0).text("name", "process_name").args().text("name", name).end("}")?;
    }
    for cu in 0..device.cus as u32 {
        let name = format!("CU {cu}");
        out.begin("M", DEVICE, cu + 1).text("name", "thread_name").args().text("name", &name).end("}")?;
    }
    Ok(())
}

fn write_event(out: &mut Out<impl Write>, event: &Event, named: Option<&Named>) -> std::io::Result<()> {
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
    out.begin("X", DEVICE, track).time("ts", event.at).time("dur", event.span);
    out.text("name", kernel_name(named, stage, block)).text("cat", what);
    out.text("cname", if killed { "terrible" } else { colour(class) });
    out.args().text("model", model).text("class", &class_name(class));
    out.raw("stage", stage).raw("block", block).raw("task", event.task).end("}")?;
    if killed {
        out.events += 1;
        out.begin("i", DEVICE, track).time("ts", event.at + event.span).text("s", "t");
        out.text("name", "preempted").text("cat", "preemption");
        out.args().text("model", model).raw("task", event.task).end("}")?;
    }
    Ok(())
}

/// A request as nested asynchronous spans: all of it, its time in the queues, its time on compute units.
fn write_span(out: &mut Out<impl Write>, span: &Span) -> std::io::Result<()> {
    let started = span.first_block.or(span.finished).unwrap_or(span.end);
    write_phase(out, span, &span.model.name, span.arrival, span.end)?;
    write_phase(out, span, "queue", span.queued, started)?;
    match (span.first_block, span.finished) {
        (Some(first), Some(finished)) => write_phase(out, span, "compute", first, finished),
        _ => Ok(()),
    }
}

fn write_phase(
    out: &mut Out<impl Write>,
    span: &Span,
    name: &str,
    from: Nanos,
    to: Nanos,
) -> std::io::Result<()> {
    out.events += 1;
    out.begin("b", REQUESTS, 0).raw("id", span.token).time("ts", from).text("name", name);
    out.text("cat", "request").args().text("class", &class_name(span.class));
    if let Some(submitted) = span.submitted {
        out.time("submitted_us", submitted);
    }
    if let Some(error) = &span.error {
        out.text("error", error);
    }
    out.end("}")?;
    out.begin("e", REQUESTS, 0).raw("id", span.token).time("ts", to.max(from)).text("name", name);
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
