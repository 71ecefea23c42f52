//! A stretch of the device's timeline around one preemption, cut out of a trace of the engine.

use std::time::Duration;

use reef_base::ClassName;
use reef_engine::{Engine, TraceOptions};
use reef_load::Workload;
use reef_load::arrivals::{self, Repetition};
use reef_report::disb::results::{DisbReport, Mark, Span, SpanKind, Timeline};
use serde_json::Value;

use super::system::System;
use crate::error::BenchError;

/// Time on either side of the moment that is shown.
const AROUND_US: f64 = 600.0;
/// A real-time block that begins this near to the end of a killed one may be what that was killed for.
const NEAR_US: f64 = 50.0;
/// Blocks in a stretch at most; a stretch with more is cut at its end.
const SPANS_MAX: usize = 400;

/// Plays the first workload under the last condition of `system` with the trace on, and cuts out the stretch
/// around a preemption. `None` where nothing was preempted.
pub fn record(
    engine: &Engine,
    report: &DisbReport,
    system: &mut dyn System,
    workloads: &[Workload],
) -> Result<Option<Timeline>, BenchError> {
    let Some((workload, last)) = workloads.first().zip(system.conditions().len().checked_sub(1)) else {
        return Ok(None);
    };
    let rates = workload.clients.iter().filter_map(|client| client.arrivals.rate_hz());
    let slowest = rates.fold(10.0, f64::min);
    let repetition = Repetition {
        seed: report.setup.seed,
        index: 0,
        count: 1,
        warm_up: Duration::from_millis(500),
        measured: Duration::from_secs_f64((4.0 / slowest).clamp(0.2, 5.0)),
        cool_down: Duration::ZERO,
        grace: Duration::ZERO,
    };
    let path = std::env::temp_dir().join(format!("reef-bench-timeline-{}.json", std::process::id()));
    if engine.start_trace(TraceOptions::new(&path)).is_err() {
        return Ok(None);
    }
    let played = system.play(last, &arrivals::run(workload, &repetition));
    let text = engine.stop_trace().ok().and_then(|_| std::fs::read_to_string(&path).ok());
    let _ = std::fs::remove_file(&path);
    played?;
    let events = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    Ok(events.and_then(|events| cut(&events, &workload.name, engine.capabilities().cus)))
}

/// The stretch around the preemption in the middle of all.
fn cut(trace: &Value, workload: &str, cus: usize) -> Option<Timeline> {
    let spans: Vec<Span> = trace["traceEvents"].as_array()?.iter().filter_map(span).collect();
    let (first, killed_at) = preemption(&spans)?;
    let begin = first.min(killed_at) - AROUND_US / 2.0;
    let length_us = AROUND_US * 2.0;
    let inside = |span: &&Span| span.end_us > begin && span.begin_us < begin + length_us;
    let mut shown: Vec<Span> = spans.iter().filter(inside).cloned().collect();
    shown.sort_by(|a, b| a.begin_us.total_cmp(&b.begin_us));
    shown.truncate(SPANS_MAX);
    for span in &mut shown {
        span.begin_us -= begin;
        span.end_us -= begin;
    }
    let marks = vec![Mark { at_us: first - begin, what: "first real-time block".to_string() }];
    let title = format!("Workload {workload} under reset: a real-time request takes the device");
    Some(Timeline { title, length_us, cus, spans: shown, marks })
}

/// The begin of the first block of a real-time task that took the device, and the end of a block that was
/// killed for it.
///
/// Blocks are also killed between two kernels of one task, where they had taken a unit that it left idle for
/// a moment. So of all kills those count before which there was no real-time block for a while, half of the
/// longest such while at least, and of these the middle one.
fn preemption(spans: &[Span]) -> Option<(f64, f64)> {
    let mut real_time: Vec<&Span> = spans.iter().filter(|span| span.class == ClassName::RealTime).collect();
    real_time.sort_by(|a, b| a.begin_us.total_cmp(&b.begin_us));
    // Begins of real-time blocks, each with the time since the last one before it ended. Before the first of
    // all there may have been more than the trace has.
    let mut busy_until = real_time.first()?.begin_us;
    let mut after_quiet = Vec::new();
    for span in real_time {
        after_quiet.push((span.begin_us, span.begin_us - busy_until));
        busy_until = busy_until.max(span.end_us);
    }
    let mut kills: Vec<f64> =
        spans.iter().filter(|span| span.what == SpanKind::Killed).map(|span| span.end_us).collect();
    kills.sort_by(f64::total_cmp);
    // The task's first block begins where the killed one ends, or, on another unit, just before.
    let taken = |killed_at: &f64| {
        let from = after_quiet.partition_point(|(begin_us, _)| *begin_us < killed_at - NEAR_US);
        let to = after_quiet.partition_point(|(begin_us, _)| *begin_us < killed_at + NEAR_US);
        let first = after_quiet[from..to].iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some((first.0, *killed_at, first.1))
    };
    let all: Vec<(f64, f64, f64)> = kills.iter().filter_map(taken).collect();
    let longest = all.iter().map(|one| one.2).fold(0.0, f64::max);
    let clear: Vec<_> = all.iter().filter(|one| one.2 >= longest / 2.0).collect();
    clear.get(clear.len() / 2).map(|one| (one.0, one.1))
}

/// A block among the events of a trace: complete events of process 1, one track per compute unit.
fn span(event: &Value) -> Option<Span> {
    if event["ph"] != "X" || event["pid"] != 1 {
        return None;
    }
    let (begin_us, length) = (event["ts"].as_f64()?, event["dur"].as_f64()?);
    Some(Span {
        cu: usize::try_from(event["tid"].as_u64()?.checked_sub(1)?).ok()?,
        begin_us,
        end_us: begin_us + length,
        model: event["args"]["model"].as_str()?.to_string(),
        kernel: event["name"].as_str()?.to_string(),
        class: match event["args"]["class"].as_str()?.starts_with("real-time") {
            true => ClassName::RealTime,
            false => ClassName::BestEffort,
        },
        what: match event["cat"].as_str()? {
            "killed" => SpanKind::Killed,
            "padding" => SpanKind::Padding,
            _ => SpanKind::Block,
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(cu: u64, ts: f64, dur: f64, class: &str, cat: &str) -> Value {
        json!({"ph": "X", "pid": 1, "tid": cu + 1, "ts": ts, "dur": dur, "name": "conv", "cat": cat,
               "args": {"model": "m", "class": class}})
    }

    #[test]
    fn the_stretch_shows_the_kill_and_the_first_urgent_block() {
        let events = [
            event(0, 10_000.0, 900.0, "best-effort", "block"),
            event(0, 20_000.0, 80.0, "best-effort", "killed"),
            event(0, 20_081.0, 100.0, "real-time 0", "block"),
            event(1, 20_000.0, 120.0, "best-effort", "padding"),
            event(0, 90_000.0, 80.0, "best-effort", "block"),
            json!({"ph": "M", "pid": 1, "tid": 1, "name": "thread_name"}),
            json!({"ph": "X", "pid": 2, "tid": 1, "ts": 20_000.0, "dur": 5.0}),
        ];
        let timeline = cut(&json!({"traceEvents": events}), "A", 2).unwrap();
        assert_eq!((timeline.cus, timeline.spans.len()), (2, 3));
        let first = timeline.spans.iter().find(|span| span.class == ClassName::RealTime).unwrap();
        assert_eq!(timeline.marks[0].at_us, first.begin_us);
        assert!(timeline.spans.iter().any(|span| span.what == SpanKind::Killed && span.end_us > 0.0));
        assert!(timeline.title.contains("Workload A"));
    }

    /// A unit that a real-time task leaves idle between two of its kernels is taken and taken back.
    #[test]
    fn a_kill_between_two_kernels_of_a_task_is_not_its_preemption() {
        let mut events = Vec::new();
        for request in 0..5 {
            let at = 100_000.0 * f64::from(request);
            events.push(event(0, at - 100.0, 99.0, "best-effort", "killed"));
            events.push(event(0, at, 300.0, "real-time 0", "block"));
            for kernel in 1..4 {
                let at = at + 300.0 * f64::from(kernel);
                events.push(event(1, at - 40.0, 39.0, "best-effort", "killed"));
                events.push(event(0, at, 300.0, "real-time 0", "block"));
                events.push(event(1, at, 100.0, "real-time 0", "block"));
            }
        }
        let timeline = cut(&json!({"traceEvents": events}), "A", 2).unwrap();
        let mark = timeline.marks[0].at_us;
        let urgent = timeline.spans.iter().filter(|span| span.class == ClassName::RealTime);
        assert!(urgent.clone().all(|span| span.begin_us >= mark) && urgent.count() > 2);
    }

    #[test]
    fn without_a_preemption_there_is_nothing_to_show() {
        let calm = json!({"traceEvents": [event(0, 1.0, 1.0, "best-effort", "block")]});
        assert_eq!(cut(&calm, "A", 1), None);
        assert_eq!(cut(&json!({}), "A", 1), None);
    }
}
