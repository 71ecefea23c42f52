//! The full tables: everything that a report says of each workload, condition and client.

use reef_base::{ClassName, Summary};

use super::markup::Markup;
use super::palette::Palette;
use super::table::Head::{Number, Text};
use super::text::{
    NOTHING, bytes, count, counted, estimate, estimate_percent, ms, percent, ratio, significant, time_us,
};
use super::view;
use crate::disb::results::{
    ClientFacts, ClientResult, ConditionResult, DisbReport, Estimate, LatencyRatios, RealTimeResult,
    SystemResult, WorkloadResult,
};
use crate::micro::Part;

/// Draws the section.
pub(super) fn draw(m: &mut Markup, report: &DisbReport, palette: &Palette) {
    if report.workloads.is_empty() && report.sweeps.is_empty() && report.models.is_empty() {
        return;
    }
    m.element("section", &[("id", &"tables")], |m| {
        m.leaf("h2", &[], "Everything that was measured");
        if !report.models.is_empty() {
            m.details("Models: time alone", |m| models(m, report));
        }
        for workload in &report.workloads {
            let played = counted(workload.clients.len(), "client");
            m.details(format!("Workload {}: {} ({played})", workload.name, workload.title), |m| {
                draw_workload(m, workload, palette);
            });
        }
        for part in &report.sweeps {
            m.details(format!("Micro-benchmark: {}", part.name), |m| draw_part(m, part));
        }
    });
}

fn models(m: &mut Markup, report: &DisbReport) {
    let heads = [
        Text("model"),
        Text("what it is"),
        Text("system"),
        Number("p50 [ms]"),
        Number("p99 [ms]"),
        Number("max [ms]"),
        Number("count"),
        Number("on the rates' reference [ms]"),
    ];
    m.p("lead", "One request after the other, the machine otherwise idle.");
    m.table(&heads, |m| {
        for model in &report.models {
            for alone in &model.alone {
                let latency = &alone.latency_us;
                m.row("", |m| {
                    m.cell(&model.name);
                    m.cell(&model.source);
                    m.cell(&alone.system);
                    [latency.p50, latency.p99, latency.max].iter().for_each(|&us| m.number(ms(us)));
                    m.number(count(latency.count));
                    m.number(maybe(model.reference_ms, |ms| significant(ms, 3)));
                });
            }
        }
    });
}

fn maybe<T>(value: Option<T>, format: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NOTHING.to_string(), format)
}

fn draw_workload(m: &mut Markup, workload: &WorkloadResult, palette: &Palette) {
    let offered = workload.systems.first().and_then(|system| system.offered).map(|offered| {
        let offered = percent(offered);
        format!(" Real-time clients offer {offered} of what the device can do.")
    });
    let seconds = significant(workload.seconds, 3);
    let offered = offered.unwrap_or_default();
    m.p("lead", format!("{seconds} s measured per condition and repetition.{offered}"));
    clients(m, workload);
    for system in &workload.systems {
        m.leaf("h4", &[], format!("{}: latency from the scheduled arrival", system.name));
        latencies(m, workload, system, palette);
        m.leaf("h4", &[], format!("{}: ratios to the reference, and what went wrong", system.name));
        ratios(m, workload, system, palette);
        m.leaf("h4", &[], format!("{}: classes", system.name));
        classes(m, system, palette);
        m.leaf("h4", &[], format!("{}: the device and the process", system.name));
        devices(m, system, palette);
        errors(m, system);
    }
}

fn clients(m: &mut Markup, workload: &WorkloadResult) {
    let heads = [
        Text("client"),
        Text("model"),
        Text("class"),
        Number("level"),
        Text("asks"),
        Number("deadline [ms]"),
    ];
    m.table(&heads, |m| {
        for client in &workload.clients {
            m.row("", |m| {
                m.cell(&client.name);
                m.cell(&client.model);
                m.cell(client.class);
                m.number(client.level);
                m.cell(&client.arrivals);
                m.number(maybe(client.deadline_ms, |ms| significant(ms, 3)));
            });
        }
    });
}

/// A condition's name with its colour.
fn condition_cell(m: &mut Markup, condition: &ConditionResult, system: &SystemResult, palette: &Palette) {
    let again = if condition.again { " (again)" } else { "" };
    let text = format!("{}{again}", condition.name);
    let title = &condition.title;
    m.element("td", &[("title", title)], |m| {
        palette.named_swatch(m, palette.key(system, &condition.name), &text);
    });
}

/// What every client of the workload did under each condition, if anything.
fn by_client<'a>(
    workload: &'a WorkloadResult,
    system: &'a SystemResult,
) -> Vec<(&'a ClientFacts, Vec<(&'a ConditionResult, &'a ClientResult)>)> {
    let of = |client: &'a ClientFacts| {
        let results = system.conditions.iter().filter_map(|condition| {
            let result = condition.clients.iter().find(|result| result.name == client.name)?;
            took_part(result).then_some((condition, result))
        });
        (client, results.collect())
    };
    workload.clients.iter().map(of).collect()
}

fn took_part(result: &ClientResult) -> bool {
    let counts = [result.misses, result.failed, result.unsent, result.dropped];
    result.latency_us.is_some() || result.per_s.value > 0.0 || counts.iter().any(|&count| count > 0)
}

fn latencies(m: &mut Markup, workload: &WorkloadResult, system: &SystemResult, palette: &Palette) {
    let mut heads = vec![Text("condition"), Number("count"), Number("mean [ms]")];
    heads.extend(["p50", "p90", "p95", "p99", "max"].map(Number));
    heads.extend([Number("slowdown p50"), Number("p99"), Number("answers/s")]);
    let row = |m: &mut Markup, condition: &ConditionResult, latency: &Latency<'_>| {
        m.row(if latency.saturated { "saturated" } else { "" }, |m| {
            condition_cell(m, condition, system, palette);
            latency_cells(m, latency);
        });
    };
    m.table(&heads, |m| {
        if workload.clients.iter().filter(|client| client.class == ClassName::RealTime).count() > 1 {
            m.row_over(heads.len(), "all real-time clients");
            for condition in &system.conditions {
                let ConditionResult { real_time, saturated, .. } = condition;
                let RealTimeResult { latency_us, slowdown, per_s, .. } = real_time;
                let (latency_us, slowdown) = (latency_us.as_ref(), slowdown.as_ref());
                row(m, condition, &Latency { latency_us, slowdown, per_s: *per_s, saturated: *saturated });
            }
        }
        for (client, results) in by_client(workload, system) {
            m.row_over(heads.len(), format!("{} ({})", client.name, client.class));
            for (condition, result) in results {
                let ClientResult { latency_us, slowdown, per_s, saturated, .. } = result;
                let (latency_us, slowdown) = (latency_us.as_ref(), slowdown.as_ref());
                row(m, condition, &Latency { latency_us, slowdown, per_s: *per_s, saturated: *saturated });
            }
        }
    });
}

/// What a row about latency shows.
struct Latency<'a> {
    latency_us: Option<&'a Summary>,
    slowdown: Option<&'a Summary>,
    per_s: Estimate,
    saturated: bool,
}

fn latency_cells(m: &mut Markup, row: &Latency<'_>) {
    let latency = row.latency_us;
    m.number(maybe(latency, |latency| count(latency.count)));
    let numbers: [fn(&Summary) -> f64; 6] =
        [|s| s.mean, |s| s.p50, |s| s.p90, |s| s.p95, |s| s.p99, |s| s.max];
    numbers.iter().for_each(|of| m.number(maybe(latency, |latency| ms(of(latency)))));
    m.number(maybe(row.slowdown, |slowdown| ratio(slowdown.p50)));
    m.number(maybe(row.slowdown, |slowdown| ratio(slowdown.p99)));
    m.number(rate(row.per_s));
}

fn rate(per_s: Estimate) -> String {
    estimate(per_s, |value| significant(value, 3))
}

fn ratios(m: &mut Markup, workload: &WorkloadResult, system: &SystemResult, palette: &Palette) {
    let mut heads = vec![Text("condition")];
    heads.extend(["mean", "p50", "p95", "p99", "missed", "failed", "unsent", "dropped"].map(Number));
    heads.push(Text(""));
    m.table(&heads, |m| {
        for (client, results) in by_client(workload, system) {
            m.row_over(heads.len(), format!("{} ({})", client.name, client.class));
            for (condition, result) in results {
                m.row(if result.saturated { "saturated" } else { "" }, |m| {
                    condition_cell(m, condition, system, palette);
                    ratio_cells(m, result.to_reference);
                    for failures in [result.misses, result.failed, result.unsent, result.dropped] {
                        m.cell_of(if failures > 0 { "n warn" } else { "n" }, count(failures));
                    }
                    m.cell_of("bad", if result.saturated { "saturated" } else { "" });
                });
            }
        }
    });
}

fn ratio_cells(m: &mut Markup, ratios: Option<LatencyRatios>) {
    let numbers: [fn(LatencyRatios) -> Estimate; 4] = [|r| r.mean, |r| r.p50, |r| r.p95, |r| r.p99];
    numbers.iter().for_each(|of| m.number(maybe(ratios, |ratios| estimate(of(ratios), ratio))));
}

fn classes(m: &mut Markup, system: &SystemResult, palette: &Palette) {
    let heads = [
        Text("condition"),
        Number("real-time mean"),
        Number("p99"),
        Number("slowdown p99"),
        Number("device busy"),
        Number("best-effort/s"),
        Number("device share"),
        Number("of its bound"),
        Number("overall/s"),
        Number("to reference"),
        Number("bound"),
        Number("normalised"),
    ];
    m.table(&heads, |m| {
        for condition in &system.conditions {
            m.row(if condition.saturated { "saturated" } else { "" }, |m| {
                condition_cell(m, condition, system, palette);
                class_cells(m, condition);
            });
        }
    });
    m.p(
        "note",
        "Real-time columns are ratios to the reference; “again” is the same condition against itself. \
         Normalised: best-effort answers count with their time alone over a real-time request's.",
    );
}

fn class_cells(m: &mut Markup, condition: &ConditionResult) {
    let (real_time, overall) = (&condition.real_time, &condition.overall);
    let best_effort = condition.best_effort.as_ref();
    let to_reference = real_time.to_reference;
    m.number(maybe(to_reference, |ratios| estimate(ratios.mean, ratio)));
    m.number(maybe(to_reference, |ratios| estimate(ratios.p99, ratio)));
    m.number(maybe(real_time.slowdown_to_reference, |ratios| estimate(ratios.p99, ratio)));
    m.number(estimate_percent(real_time.busy));
    m.number(maybe(best_effort, |best_effort| rate(best_effort.per_s)));
    m.number(maybe(best_effort, |best_effort| estimate_percent(best_effort.device_share)));
    m.number(maybe(best_effort.and_then(|best_effort| best_effort.of_bound), estimate_percent));
    m.number(rate(overall.per_s));
    m.number(maybe(overall.to_reference, |value| estimate(value, ratio)));
    m.number(maybe(overall.to_reference_bound, ratio));
    m.number(maybe(overall.normalised_to_reference, |value| estimate(value, ratio)));
}

fn devices(m: &mut Markup, system: &SystemResult, palette: &Palette) {
    let heads = [
        Text("condition"),
        Number("preemptions"),
        Number("latency p50"),
        Number("p99"),
        Number("blocks killed"),
        Number("run again"),
        Number("wasted"),
        Number("per preemption"),
        Number("padding"),
        Number("CU utilisation"),
        Number("processors busy"),
        Number("memory"),
    ];
    m.table(&heads, |m| {
        for condition in &system.conditions {
            let device = condition.device.as_ref();
            let preempt = device.and_then(|device| device.preempt_us);
            m.row("", |m| {
                condition_cell(m, condition, system, palette);
                m.number(maybe(device, |device| count(device.preemptions)));
                m.number(maybe(preempt, |latency| time_us(latency.p50)));
                m.number(maybe(preempt, |latency| time_us(latency.p99)));
                m.number(maybe(device, |device| count(device.blocks_killed)));
                m.number(maybe(device, |device| count(device.blocks_rerun)));
                m.number(maybe(device, |device| percent(device.wasted_share)));
                m.number(maybe(device.and_then(|device| device.wasted_us_per_preemption), time_us));
                m.number(maybe(device, |device| percent(device.padding_share)));
                m.number(maybe(device, |device| percent(device.cu_utilisation)));
                m.number(maybe(condition.cpus_busy, |cpus| significant(cpus, 3)));
                m.number(maybe(condition.memory_bytes, bytes));
            });
        }
    });
}

fn errors(m: &mut Markup, system: &SystemResult) {
    for condition in view::firsts(system) {
        for client in &condition.clients {
            if let Some(error) = &client.first_error {
                m.p("note bad", format!("{}, {}: first failure: {error}", condition.name, client.name));
            }
        }
    }
}

fn draw_part(m: &mut Markup, part: &Part) {
    m.p("lead", &part.method);
    if part.others_cpu.disturbed() {
        m.p("note bad", part.others_cpu);
    }
    let mut heads = vec![Text("what"), Text("unit")];
    heads.extend(["min", "p50", "p99", "mean", "max", "count"].map(Number));
    heads.push(Text("target"));
    m.table(&heads, |m| {
        for row in &part.rows {
            let s = &row.summary;
            let targets: Vec<String> = row.targets.iter().map(ToString::to_string).collect();
            m.row("", |m| {
                m.cell(&row.name);
                m.cell(&row.unit);
                [s.min, s.p50, s.p99, s.mean, s.max]
                    .iter()
                    .for_each(|&value| m.number(significant(value, 4)));
                m.number(count(s.count));
                m.cell(targets.join("; "));
            });
        }
    });
}
