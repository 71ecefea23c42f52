//! What the engine says of late: the timeline of the last second, and how times are spread.

mod doubles;

use doubles::*;
use reef_engine::trace::WATCHED_FOR;
use reef_engine::*;

const SECOND: Nanos = Nanos::from_millis(1_000);

/// The only device of a timeline.
fn look(engine: &Engine) -> DeviceTimeline {
    let mut timeline = engine.timeline(SECOND).unwrap();
    assert_eq!((timeline.devices.len(), timeline.until), (1, engine.now()));
    timeline.devices.remove(0)
}

fn names(device: &DeviceTimeline) -> Vec<&str> {
    let mut names: Vec<&str> =
        device.stretches.iter().map(|stretch| stretch.model.as_ref().map_or("?", |key| &*key.name)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn what_ran_is_told_since_somebody_looks() {
    let engine = stepped();
    load(&engine, "slow", ModelSettings::default(), 40);
    load(&engine, "fast", real_time(0), 2);
    engine.infer(&request("fast", &[2; 64])).unwrap();
    let begin = look(&engine);
    assert_eq!((begin.stretches.len(), begin.complete_from), (0, engine.now()));
    let best_effort = engine.submit(&request("slow", &[1; 64])).unwrap();
    for _ in 0..5 {
        engine.step();
        engine.infer(&request("fast", &[2; 64])).unwrap();
    }
    best_effort.wait().unwrap();
    let device = look(&engine);
    assert_eq!(names(&device), ["fast", "slow"]);
    let killed = device.stretches.iter().filter(|stretch| stretch.work == Work::Killed);
    assert!(killed.clone().count() > 0 && killed.clone().all(|stretch| !stretch.class.is_real_time()));
    for stretch in &device.stretches {
        assert!(usize::from(stretch.cu) < device.cus && stretch.from <= stretch.until);
        let fast = stretch.model.as_ref().unwrap().name == "fast";
        assert_eq!(stretch.class.is_real_time(), fast);
    }
}

#[test]
fn recording_ends_when_nobody_looks_any_more() {
    let engine = stepped();
    load(&engine, "m", ModelSettings::default(), 2);
    let begin = look(&engine).complete_from;
    // Time passes while the request runs, too.
    engine.run_until(engine.now() + Nanos(WATCHED_FOR.0 - SECOND.0));
    engine.infer(&request("m", &[1; 64])).unwrap();
    assert_eq!(names(&look(&engine)), ["m"]);
    assert_eq!(look(&engine).complete_from, begin, "it has gone on");
    engine.run_until(engine.now() + WATCHED_FOR);
    engine.infer(&request("m", &[1; 64])).unwrap();
    let anew = look(&engine);
    assert_eq!((anew.stretches.len(), anew.complete_from), (0, engine.now()), "it began anew");
}

#[test]
fn a_file_and_who_looks_share_a_recording() {
    let path = std::env::temp_dir().join(format!("reef-shared-{}.json", std::process::id()));
    let engine = stepped();
    load(&engine, "m", ModelSettings::default(), 2);
    let begin = look(&engine).complete_from;
    engine.infer(&request("m", &[1; 64])).unwrap();
    let mut written = Vec::new();
    for _ in 0..2 {
        engine.start_trace(TraceOptions::new(&path)).unwrap();
        assert!(matches!(engine.start_trace(TraceOptions::new(&path)), Err(TraceError::State(_))));
        engine.infer(&request("m", &[1; 64])).unwrap();
        assert_eq!(names(&look(&engine)), ["m"], "who looks takes nothing from the file");
        written.push(engine.stop_trace().unwrap());
        assert!(matches!(engine.stop_trace(), Err(TraceError::State(_))));
    }
    assert!(written[0].events > 0 && written[0] == written[1], "{written:?}: a file has what ran meanwhile");
    assert_eq!(look(&engine).complete_from, begin, "who looks goes on");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn an_engine_that_shuts_down_records_no_more() {
    let engine = cpu();
    load(&engine, "m", ModelSettings::default(), 2);
    engine.timeline(SECOND).unwrap();
    engine.infer(&request("m", &[1; 64])).unwrap();
    engine.shutdown(std::time::Duration::ZERO);
    assert!(matches!(engine.timeline(SECOND), Err(TraceError::State(_))));
}

#[test]
fn spreads_count_what_the_statistics_count() {
    let engine = stepped();
    load(&engine, "m", ModelSettings::default(), 2);
    let spread = || engine.distributions().into_iter().find(|model| model.key.name == "m").unwrap();
    assert_eq!(spread().best_effort.total.quantile(0.5), None);
    for _ in 0..7 {
        engine.infer(&request("m", &[1; 64])).unwrap();
    }
    let (spread, stats) = (spread(), engine.stats().models.remove(0).best_effort);
    assert_eq!((spread.best_effort.total.count(), spread.real_time.total.count()), (7, 0));
    let mean = stats.total.sum.0 as f64 / 7.0;
    let median = spread.best_effort.total.quantile(0.5).unwrap().0 as f64;
    assert!((median / mean - 1.0).abs() < 0.04, "{median} for {mean}: all take the same time");
    assert_eq!(stats.last_success, engine.now());
    assert!(stats.alone > Nanos::ZERO && stats.alone <= stats.compute);
    engine.unload("m", None, Queued::Finish).unwrap();
    load(&engine, "m", ModelSettings::default(), 2);
    assert_eq!(engine.distributions()[0].best_effort.total.count(), 0, "a model that is loaded again is new");
}

#[test]
fn failures_have_their_time() {
    let engine = stepped();
    load(&engine, "m", ModelSettings::default(), 40);
    let deadline = Some(Nanos::from_micros(1));
    engine.infer(&InferRequest { deadline, ..request("m", &[1; 64]) }).unwrap_err();
    let stats = engine.stats().models.remove(0).best_effort;
    assert_eq!((stats.failed(FailureReason::Deadline), stats.failed_time), (1, Nanos::from_micros(1)));
    assert_eq!(stats.last_success, Nanos::ZERO);
}
