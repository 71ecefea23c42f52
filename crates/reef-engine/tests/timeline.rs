//! The timeline: what the file holds, and that it is bounded.

mod doubles;

use std::sync::Arc;

use doubles::*;
use reef_engine::*;
use serde_json::Value;

fn traced(name: &str, events_max: usize) -> (Vec<Value>, TraceSummary) {
    let path = std::env::temp_dir().join(format!("reef-{name}-{}.json", std::process::id()));
    let engine = stepped();
    load(&engine, "slow", ModelSettings::default(), 40);
    load(&engine, "fast", real_time(0), 2);
    engine.start_trace(TraceOptions { events_max, ..TraceOptions::new(&path) }).unwrap();
    let best_effort = engine.submit(&request("slow", &[1; 64])).unwrap();
    for _ in 0..5 {
        engine.step();
        engine.infer(&request("fast", &[2; 64])).unwrap();
    }
    best_effort.wait().unwrap();
    let summary = engine.stop_trace().unwrap();
    let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    (json["traceEvents"].as_array().unwrap().clone(), summary)
}

#[test]
fn blocks_kills_and_requests_are_on_the_timeline() {
    let (events, summary) = traced("all", 1 << 16);
    let count = |wanted: &dyn Fn(&Value) -> bool| events.iter().filter(|event| wanted(event)).count();
    // 40 stages of 4 blocks and a last one; some again after they were killed.
    let slow = |event: &Value| event["ph"] == "X" && event["args"]["model"] == "slow";
    assert!(count(&slow) > 161);
    assert_eq!(count(&|e| e["ph"] == "X" && e["args"]["model"] == "fast"), 5 * 9);
    assert_eq!(count(&|e| e["args"]["model"] == "fast" && e["name"] == "synthetic0"), 5 * 4);
    assert!(count(&|e| e["ph"] == "i" && e["name"] == "preempted") > 0);
    assert_eq!(count(&|e| e["ph"] == "b" && e["name"] == "fast"), 5);
    assert_eq!(count(&|e| e["ph"] == "b"), count(&|e| e["ph"] == "e"));
    assert_eq!(count(&|e| e["ph"] == "M" && e["name"] == "thread_name"), 2);
    assert_eq!(count(&|e| e["name"] == "?" || e["args"]["model"] == "?"), 0, "every block has its names");
    assert_eq!(summary.dropped, 0);
}

#[test]
fn only_the_newest_events_are_kept() {
    let (events, summary) = traced("few", 20);
    assert!(summary.dropped > 100);
    let blocks = events.iter().filter(|event| event["ph"] == "X").count();
    assert!(blocks <= 20);
    assert!(events.iter().any(|event| event["args"]["model"] == "slow"));
}

#[test]
fn a_trace_that_cannot_be_written_fails_at_once() {
    let engine = stepped();
    let started = engine.start_trace(TraceOptions::new("/no/such/folder/trace.json"));
    assert!(matches!(started, Err(TraceError::Write { .. })));
    assert!(matches!(engine.stop_trace(), Err(TraceError::State(_))));
}

#[test]
fn a_trace_that_cannot_be_finished_leaves_nothing_behind() {
    let folder = std::env::temp_dir().join(format!("reef-unfinished-{}", std::process::id()));
    let path = folder.join("trace.json");
    std::fs::create_dir_all(path.join("in the way")).unwrap();
    let engine = stepped();
    engine.start_trace(TraceOptions::new(&path)).unwrap();
    assert!(matches!(engine.stop_trace(), Err(TraceError::Write { .. })));
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(left, ["trace.json"]);
}

#[test]
fn a_trace_keeps_no_plan() {
    let path = std::env::temp_dir().join(format!("reef-unloaded-{}.json", std::process::id()));
    let engine = stepped();
    let plan = Arc::downgrade(&load(&engine, "m", ModelSettings::default(), 2));
    engine.start_trace(TraceOptions::new(&path)).unwrap();
    engine.infer(&request("m", &[1; 64])).unwrap();
    engine.unload("m", None, Queued::Finish).unwrap();
    assert!(plan.upgrade().is_none());
    assert!(engine.stop_trace().unwrap().events > 0);
    std::fs::remove_file(&path).unwrap();
}
