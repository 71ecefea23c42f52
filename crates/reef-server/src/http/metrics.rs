//! `/metrics`: the engine's statistics under the names that Triton's dashboards know, and under our own.
//!
//! Triton's families have the labels `model` and `version` and add up both classes and all devices; ours have
//! `class` and `device` too.

use std::sync::atomic::Ordering::Relaxed;

use reef_engine::{
    ClassStats, EngineStats, FailureReason, HISTOGRAM_BOUNDS_NS, Histogram, ModelStats, Nanos,
};

use crate::core::process::Process;
use crate::core::requests::{Requests, named};
use crate::core::state::State;
use crate::http::exposition::{Exposition, Kind};

/// The whole text.
pub(crate) fn text(state: &State, http_responses: &[(u16, u64)]) -> String {
    let stats = &state.engine.stats();
    let mut out = Exposition::default();
    triton_counts(&mut out, stats);
    triton_times(&mut out, stats);
    class_counts(&mut out, stats);
    class_failures(&mut out, stats);
    class_times(&mut out, stats);
    device(&mut out, stats);
    device_memory(&mut out, stats);
    server(&mut out, stats);
    process(&mut out);
    out.family("reef_http_responses_total", Kind::Counter, "HTTP responses by status code.");
    for (status, count) in http_responses {
        out.sample(&[("code", &status.to_string())], count);
    }
    requests(&mut out, &state.requests);
    out.into_text()
}

/// What was asked, by protocol; and who asks through the ring.
fn requests(out: &mut Exposition, requests: &Requests) {
    let help = "Inference requests that were answered, by protocol and how they ended.";
    out.family("reef_requests_total", Kind::Counter, help);
    for (protocol, counts) in requests.counts() {
        for (outcome, count) in named(counts) {
            out.sample(&[("protocol", protocol), ("outcome", outcome)], count);
        }
    }
    let rings = &requests.rings;
    out.family("reef_ring_open_connections", Kind::Gauge, "Clients that are connected to the ring.");
    out.sample(&[], rings.open.load(Relaxed));
    let help = "Clients of the ring that got a segment, or were turned away.";
    out.family("reef_ring_connections_total", Kind::Counter, help);
    for (outcome, count) in [("accepted", &rings.served), ("refused", &rings.refused)] {
        out.sample(&[("outcome", outcome)], count.load(Relaxed));
    }
}

fn triton_counts(out: &mut Exposition, stats: &EngineStats) {
    let mut counter = |name, help: &str, kind, what: fn(&ClassStats) -> u64| {
        out.family(name, kind, help);
        for model in &stats.models {
            let count = what(&model.real_time) + what(&model.best_effort);
            out.sample(&model_labels(model), count);
        }
    };
    let (counts, now) = (Kind::Counter, Kind::Gauge);
    let help = "Requests that got outputs.";
    counter("nv_inference_request_success", help, counts, |class| class.success);
    let help = "Inferences done: rows, of models whose rows are bounded, otherwise requests.";
    counter("nv_inference_count", help, counts, |class| class.inferences);
    counter("nv_inference_exec_count", "Tasks run to their end.", counts, |class| class.executions);
    let help = "Requests waiting for execution.";
    counter("nv_inference_pending_request_count", help, now, |class| class.queued);
    out.family("nv_inference_request_failure", Kind::Counter, "Requests that got no outputs, by reason.");
    for model in &stats.models {
        for reason in FailureReason::ALL {
            let count = model.real_time.failed(reason) + model.best_effort.failed(reason);
            let [name, version] = model_labels(model);
            out.sample(&[name, version, ("reason", reason.name())], count);
        }
    }
}

fn triton_times(out: &mut Exposition, stats: &EngineStats) {
    let mut time = |name, help: &str, what: fn(&ClassStats) -> Nanos| {
        out.family(name, Kind::Counter, help);
        for model in &stats.models {
            let sum = what(&model.real_time) + what(&model.best_effort);
            out.sample(&model_labels(model), sum.0 / 1_000);
        }
    };
    let help = "Time from arrival to delivery of successful requests, microseconds.";
    time("nv_inference_request_duration_us", help, |class| class.total.sum);
    let help = "Time that successful requests waited for their first block, microseconds.";
    time("nv_inference_queue_duration_us", help, |class| class.queue);
    let help = "Time for reading inputs of successful requests, microseconds.";
    time("nv_inference_compute_input_duration_us", help, |class| class.compute_input);
    let help = "Time from first to last block of successful requests, microseconds.";
    time("nv_inference_compute_infer_duration_us", help, |class| class.compute);
    let help = "Time from last block to delivery of successful requests, microseconds.";
    time("nv_inference_compute_output_duration_us", help, |class| class.compute_output);
}

fn class_counts(out: &mut Exposition, stats: &EngineStats) {
    let mut counter = |name, help: &str, kind, what: fn(&ClassStats) -> u64| {
        out.family(name, kind, help);
        each_class(stats, |labels, class| out.sample(labels, what(class)));
    };
    let (counts, now) = (Kind::Counter, Kind::Gauge);
    let help = "Tasks of this class that displaced less urgent work.";
    counter("reef_preemptions_total", help, counts, ClassStats::preemptions);
    let help = "Blocks of this class killed for more urgent work.";
    counter("reef_blocks_killed_total", help, counts, |class| class.blocks_killed);
    let help = "Requests without outputs at their deadline: refused, stopped or late.";
    counter("reef_deadline_misses_total", help, counts, |class| class.deadline_misses);
    let help = "Blocks of less urgent tasks killed for this class.";
    counter("reef_kills_caused_total", help, counts, |class| class.kills_caused);
    counter("reef_queue_length", "Requests in the queue.", now, |class| class.queued);
    counter("reef_tasks_on_board", "Tasks on the device's board.", now, |class| class.on_board);
}

/// Requests without outputs by class, which Triton's family adds up.
fn class_failures(out: &mut Exposition, stats: &EngineStats) {
    let help = "Requests that got no outputs, by class and reason.";
    out.family("reef_request_failures_total", Kind::Counter, help);
    each_class(stats, |labels, class| {
        for reason in FailureReason::ALL {
            let labels = [labels, &[("reason", reason.name())]].concat();
            out.sample(&labels, class.failed(reason));
        }
    });
}

fn class_times(out: &mut Exposition, stats: &EngineStats) {
    let mut time = |name, help: &str, what: fn(&ClassStats) -> Nanos| {
        out.family(name, Kind::Counter, help);
        each_class(stats, |labels, class| out.sample(labels, seconds(what(class))));
    };
    let help = "Compute-unit time of killed executions of blocks.";
    time("reef_wasted_seconds_total", help, |class| class.wasted);
    let help = "Compute-unit time as padding beside more urgent work.";
    time("reef_padding_seconds_total", help, |class| class.padding);
    time("reef_cu_busy_seconds_total", "Compute-unit time of finished blocks.", |class| class.cu_time);
    let help = "What the plans of successful requests take alone, as the scheduler has learned it.";
    time("reef_time_alone_seconds_total", help, |class| class.alone);
    let mut histogram = |name, help: &str, what: fn(&ClassStats) -> &Histogram| {
        out.family(name, Kind::Histogram, help);
        each_class(stats, |labels, class| {
            let histogram = what(class);
            let bounds = HISTOGRAM_BOUNDS_NS.iter().map(|&bound| seconds(Nanos(bound)));
            let buckets = bounds.zip(histogram.buckets);
            out.histogram(labels, buckets, seconds(histogram.sum), histogram.count);
        });
    };
    let help = "From submission to the first block of tasks that displaced less urgent work.";
    histogram("reef_preemption_latency_seconds", help, |class| &class.preempt_latency);
    let help = "From arrival to delivery of successful requests.";
    histogram("reef_request_duration_seconds", help, |class| &class.total);
}

fn device(out: &mut Exposition, stats: &EngineStats) {
    out.family("reef_device_busy_seconds_total", Kind::Counter, "Compute-unit time of all finished blocks.");
    for device in &stats.devices {
        out.sample(&[("device", &device.name)], seconds(device.counters.busy));
    }
    out.family("reef_device_up", Kind::Gauge, "1 while the device serves, 0 after a fault.");
    for device in &stats.devices {
        out.sample(&[("device", &device.name)], u64::from(device.fault.is_none()));
    }
    out.family("reef_device_info", Kind::Gauge, "What the device is, as a label.");
    for device in &stats.devices {
        out.sample(&[("device", &device.name), ("description", &device.description)], 1);
    }
    out.family("reef_device_compute_units", Kind::Gauge, "Compute units of the device.");
    for device in &stats.devices {
        out.sample(&[("device", &device.name)], device.cus);
    }
}

fn device_memory(out: &mut Exposition, stats: &EngineStats) {
    let help = "Bytes of weights and of what tasks work in, by device and the memory that it is in.";
    out.family("reef_device_memory_bytes", Kind::Gauge, help);
    for device in &stats.devices {
        for memory in &device.memory {
            let labels = |used: &'static str| {
                [("device", &*device.name), ("domain", memory.domain.name()), ("use", used)]
            };
            out.sample(&labels("weights"), memory.weights);
            out.sample(&labels("working"), memory.working);
        }
    }
    out.family(
        "reef_device_memory_limit_bytes",
        Kind::Gauge,
        "Bytes that the memory may hold, if that is bounded.",
    );
    for device in &stats.devices {
        for memory in &device.memory {
            if let Some(limit) = memory.limit {
                out.sample(&[("device", &device.name), ("domain", memory.domain.name())], limit);
            }
        }
    }
}

fn server(out: &mut Exposition, stats: &EngineStats) {
    out.family("reef_scheme_info", Kind::Gauge, "The scheme in force, as a label.");
    out.sample(&[("scheme", stats.scheme.name())], 1);
    out.family("reef_build_info", Kind::Gauge, "The server's version, as a label.");
    out.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.family("reef_models", Kind::Gauge, "Models that are loaded.");
    out.sample(&[], stats.models.len());
    out.family("reef_plans_compiled_total", Kind::Counter, "Plans compiled since the model was loaded.");
    for model in &stats.models {
        out.sample(&model_labels(model), model.plans_compiled);
    }
}

/// What Prometheus' client libraries say of every process, under their names.
fn process(out: &mut Exposition) {
    let Some(process) = Process::look() else { return };
    let help = "Total user and system CPU time spent in seconds.";
    out.family("process_cpu_seconds_total", Kind::Counter, help);
    out.sample(&[], process.cpu_seconds);
    out.family("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.");
    out.sample(&[], process.resident_bytes);
    out.family("process_open_fds", Kind::Gauge, "Number of open file descriptors.");
    out.sample(&[], process.open_fds);
    let help = "Start time of the process since unix epoch in seconds.";
    out.family("process_start_time_seconds", Kind::Gauge, help);
    out.sample(&[], process.start_seconds);
}

fn each_class(stats: &EngineStats, mut sample: impl FnMut(&[(&str, &str)], &ClassStats)) {
    for model in &stats.models {
        let [name, version] = model_labels(model);
        for on in &model.devices {
            let device = ("device", &*on.device);
            sample(&[name, version, ("class", "real-time"), device], &on.real_time);
            sample(&[name, version, ("class", "best-effort"), device], &on.best_effort);
        }
    }
}

fn model_labels(model: &ModelStats) -> [(&str, &str); 2] {
    [("model", &model.key.name), ("version", &model.key.version)]
}

fn seconds(time: Nanos) -> f64 {
    time.0 as f64 / 1e9
}
