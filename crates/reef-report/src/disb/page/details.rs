//! The full tables: everything that a report says of each workload, condition and client.

use reef_base::{ClassName, Summary};

use super::view;
use crate::colour::Palette;
use crate::disb::results::{
    ClientFacts, ClientResult, ConditionResult, DisbReport, LatencyRatios, SystemResult, WorkloadResult,
};
use crate::micro::Part;
use crate::page::{Block, Section};
use crate::table::{Cell, Head, Row, Table, Tone};
use crate::text::{
    NOTHING, bytes, count, counted, estimate, estimate_percent, ms, percent, ratio, significant, time_us,
};
use crate::typical::Estimate;

/// The section, unless nothing was measured.
pub(super) fn section(report: &DisbReport, palette: &Palette) -> Option<Section> {
    let mut blocks = Vec::new();
    if !report.models.is_empty() {
        let lead = Block::lead("One request after the other, the machine otherwise idle.");
        blocks.push(Block::Details("Models: time alone".into(), vec![lead, models(report)]));
    }
    for workload in &report.workloads {
        let played = counted(workload.clients.len(), "client");
        let title = format!("Workload {}: {} ({played})", workload.name, workload.title);
        blocks.push(Block::Details(title, workload_blocks(workload, palette)));
    }
    let title = |part: &Part| format!("Micro-benchmark: {}", part.name);
    blocks.extend(report.sweeps.iter().map(|part| Block::Details(title(part), part_blocks(part))));
    (!blocks.is_empty()).then(|| Section::new("tables", "Everything that was measured", blocks))
}

/// A column of words, then columns of numbers.
fn heads(first: &'static str, numbers: &[&'static str]) -> Vec<Head> {
    [Head::Text(first)].into_iter().chain(numbers.iter().map(|name| Head::Number(name))).collect()
}

fn maybe<T>(value: Option<T>, format: impl FnOnce(T) -> String) -> Cell {
    Cell::number(value.map_or_else(|| NOTHING.to_string(), format))
}

fn models(report: &DisbReport) -> Block {
    let mut heads = vec![Head::Text("model"), Head::Text("what it is"), Head::Text("system")];
    heads.extend(["p50 [ms]", "p99 [ms]", "max [ms]", "count"].map(Head::Number));
    heads.push(Head::Number("on the rates' reference [ms]"));
    let mut rows = Vec::new();
    for model in &report.models {
        for alone in &model.alone {
            let latency = &alone.latency_us;
            let mut cells = [&model.name, &model.source, &alone.system].map(Cell::text).to_vec();
            cells.extend([latency.p50, latency.p99, latency.max].map(|us| Cell::number(ms(us))));
            cells.push(Cell::number(count(latency.count)));
            cells.push(maybe(model.reference_ms, |ms| significant(ms, 3)));
            rows.push(Row::new(cells));
        }
    }
    Block::Table(Table { heads, rows })
}

fn workload_blocks(workload: &WorkloadResult, palette: &Palette) -> Vec<Block> {
    let offered = workload.systems.first().and_then(|system| system.offered).map(|offered| {
        let offered = percent(offered);
        format!(" Real-time clients offer {offered} of what the device can do.")
    });
    let seconds = significant(workload.seconds, 3);
    let offered = offered.unwrap_or_default();
    let mut blocks = vec![
        Block::lead(format!("{seconds} s measured per condition and repetition.{offered}")),
        clients(workload),
    ];
    for system in &workload.systems {
        let tables = Tables { workload, system, palette };
        let title = |what: &str| Block::small(format!("{}: {what}", system.name));
        blocks.extend([title("latency from the scheduled arrival"), tables.latencies()]);
        blocks.extend([title("ratios to the reference, and what went wrong"), tables.ratios()]);
        blocks.extend([title("classes"), tables.classes(), Block::note(CLASSES_NOTE)]);
        blocks.extend([title("the device and the process"), tables.devices()]);
        blocks.extend(errors(system));
    }
    blocks
}

fn clients(workload: &WorkloadResult) -> Block {
    let mut heads = ["client", "model", "class"].map(Head::Text).to_vec();
    heads.extend([Head::Number("level"), Head::Text("asks"), Head::Number("deadline [ms]")]);
    let row = |client: &ClientFacts| {
        Row::new(vec![
            Cell::text(&client.name),
            Cell::text(&client.model),
            Cell::text(client.class),
            Cell::number(client.level),
            Cell::text(&client.arrivals),
            maybe(client.deadline_ms, |ms| significant(ms, 3)),
        ])
    };
    Block::Table(Table { heads, rows: workload.clients.iter().map(row).collect() })
}

/// The tables of one system on one workload.
struct Tables<'a> {
    workload: &'a WorkloadResult,
    system: &'a SystemResult,
    palette: &'a Palette,
}

impl<'a> Tables<'a> {
    /// A condition's name with its colour.
    fn name(&self, condition: &ConditionResult) -> Cell {
        let again = if condition.again { " (again)" } else { "" };
        let colour = view::colour(self.workload, self.system, condition, self.palette);
        Cell::text(format!("{}{again}", condition.name)).title(&condition.title).colour(colour)
    }

    /// A row that begins with the condition's name.
    fn row(&self, condition: &ConditionResult, cells: Vec<Cell>) -> Row {
        Row::new([self.name(condition)].into_iter().chain(cells).collect())
    }

    /// What every client of the workload did under each condition, if anything.
    fn by_client(&self) -> Vec<(&'a ClientFacts, Vec<(&'a ConditionResult, &'a ClientResult)>)> {
        let of = |client: &'a ClientFacts| {
            let results = self.system.conditions.iter().filter_map(|condition| {
                let result = condition.clients.iter().find(|result| result.name == client.name)?;
                took_part(result).then_some((condition, result))
            });
            (client, results.collect())
        };
        self.workload.clients.iter().map(of).collect()
    }

    fn latencies(&self) -> Block {
        let mut heads = heads("condition", &["count", "mean [ms]", "p50", "p90", "p95", "p99", "max"]);
        heads.extend(["slowdown p50", "p99", "answers/s"].map(Head::Number));
        let mut rows = Vec::new();
        let real_time = self.workload.clients.iter().filter(|client| client.class == ClassName::RealTime);
        if real_time.count() > 1 {
            rows.push(Row::over(heads.len(), "all real-time clients"));
            for condition in &self.system.conditions {
                let all = &condition.real_time;
                let cells = latency_cells(all.latency_us.as_ref(), all.slowdown.as_ref(), all.per_s);
                rows.push(self.row(condition, cells).marked(condition.saturated));
            }
        }
        for (client, results) in self.by_client() {
            rows.push(Row::over(heads.len(), format!("{} ({})", client.name, client.class)));
            for (condition, result) in results {
                let cells = latency_cells(result.latency_us.as_ref(), result.slowdown.as_ref(), result.per_s);
                rows.push(self.row(condition, cells).marked(result.saturated));
            }
        }
        Block::Table(Table { heads, rows })
    }

    fn ratios(&self) -> Block {
        let numbers = ["mean", "p50", "p95", "p99", "missed", "failed", "unsent", "dropped"];
        let mut heads = heads("condition", &numbers);
        heads.push(Head::Text(""));
        let mut rows = Vec::new();
        for (client, results) in self.by_client() {
            rows.push(Row::over(heads.len(), format!("{} ({})", client.name, client.class)));
            for (condition, result) in results {
                rows.push(self.row(condition, ratio_cells(result)).marked(result.saturated));
            }
        }
        Block::Table(Table { heads, rows })
    }

    fn classes(&self) -> Block {
        let mut heads = heads("condition", &["real-time mean", "p99", "slowdown p99", "device busy"]);
        heads.extend(["best-effort/s", "device share", "of its bound"].map(Head::Number));
        heads.extend(["overall/s", "to reference", "bound", "normalised"].map(Head::Number));
        let row = |condition| self.row(condition, class_cells(condition)).marked(condition.saturated);
        Block::Table(Table { heads, rows: self.system.conditions.iter().map(row).collect() })
    }

    fn devices(&self) -> Block {
        let mut heads = heads("condition", &["preemptions", "latency p50", "p99", "blocks killed"]);
        heads.extend(["run again", "wasted", "per preemption", "padding"].map(Head::Number));
        heads.extend(["CU utilisation", "processors busy", "memory"].map(Head::Number));
        let row = |condition| self.row(condition, device_cells(condition));
        Block::Table(Table { heads, rows: self.system.conditions.iter().map(row).collect() })
    }
}

fn took_part(result: &ClientResult) -> bool {
    let counts = [result.misses, result.failed, result.unsent, result.dropped];
    result.latency_us.is_some() || result.per_s.value > 0.0 || counts.iter().any(|&count| count > 0)
}

fn latency_cells(latency: Option<&Summary>, slowdown: Option<&Summary>, per_s: Estimate) -> Vec<Cell> {
    let numbers: [fn(&Summary) -> f64; 6] =
        [|s| s.mean, |s| s.p50, |s| s.p90, |s| s.p95, |s| s.p99, |s| s.max];
    let mut cells = vec![maybe(latency, |latency| count(latency.count))];
    cells.extend(numbers.map(|of| maybe(latency, |latency| ms(of(latency)))));
    cells.push(maybe(slowdown, |slowdown| ratio(slowdown.p50)));
    cells.push(maybe(slowdown, |slowdown| ratio(slowdown.p99)));
    cells.push(Cell::number(rate(per_s)));
    cells
}

fn rate(per_s: Estimate) -> String {
    estimate(per_s, |value| significant(value, 3))
}

fn ratio_cells(result: &ClientResult) -> Vec<Cell> {
    let numbers: [fn(LatencyRatios) -> Estimate; 4] = [|r| r.mean, |r| r.p50, |r| r.p95, |r| r.p99];
    let ratios = numbers.map(|of| maybe(result.to_reference, |ratios| estimate(of(ratios), ratio)));
    let failures = [result.misses, result.failed, result.unsent, result.dropped].map(|failures| {
        let tone = if failures > 0 { Tone::Warn } else { Tone::Plain };
        Cell::number(count(failures)).tone(tone)
    });
    let saturated = Cell::text(if result.saturated { "saturated" } else { "" }).tone(Tone::Bad);
    ratios.into_iter().chain(failures).chain([saturated]).collect()
}

const CLASSES_NOTE: &str = "Real-time columns are ratios to the reference; “again” is the same condition \
    against itself. Normalised: best-effort answers count with their time alone over a real-time request's.";

fn class_cells(condition: &ConditionResult) -> Vec<Cell> {
    let (real_time, overall) = (&condition.real_time, &condition.overall);
    let best_effort = condition.best_effort.as_ref();
    let to_reference = real_time.to_reference;
    vec![
        maybe(to_reference, |ratios| estimate(ratios.mean, ratio)),
        maybe(to_reference, |ratios| estimate(ratios.p99, ratio)),
        maybe(real_time.slowdown_to_reference, |ratios| estimate(ratios.p99, ratio)),
        Cell::number(estimate_percent(real_time.busy)),
        maybe(best_effort, |best_effort| rate(best_effort.per_s)),
        maybe(best_effort, |best_effort| estimate_percent(best_effort.device_share)),
        maybe(best_effort.and_then(|best_effort| best_effort.of_bound), estimate_percent),
        Cell::number(rate(overall.per_s)),
        maybe(overall.to_reference, |value| estimate(value, ratio)),
        maybe(overall.to_reference_bound, ratio),
        maybe(overall.normalised_to_reference, |value| estimate(value, ratio)),
    ]
}

fn device_cells(condition: &ConditionResult) -> Vec<Cell> {
    let device = condition.device.as_ref();
    let preempt = device.and_then(|device| device.preempt_us);
    vec![
        maybe(device, |device| count(device.preemptions)),
        maybe(preempt, |latency| time_us(latency.p50)),
        maybe(preempt, |latency| time_us(latency.p99)),
        maybe(device, |device| count(device.blocks_killed)),
        maybe(device, |device| count(device.blocks_rerun)),
        maybe(device, |device| percent(device.wasted_share)),
        maybe(device.and_then(|device| device.wasted_us_per_preemption), time_us),
        maybe(device, |device| percent(device.padding_share)),
        maybe(device, |device| percent(device.cu_utilisation)),
        maybe(condition.cpus_busy, |cpus| significant(cpus, 3)),
        maybe(condition.memory_bytes, bytes),
    ]
}

fn errors(system: &SystemResult) -> Vec<Block> {
    let mut errors = Vec::new();
    for condition in view::firsts(system) {
        errors.extend(condition.clients.iter().filter_map(|client| {
            let error = client.first_error.as_ref()?;
            Some(Block::bad_note(format!("{}, {}: first failure: {error}", condition.name, client.name)))
        }));
    }
    errors
}

fn part_blocks(part: &Part) -> Vec<Block> {
    let mut heads = vec![Head::Text("what"), Head::Text("unit")];
    heads.extend(["min", "p50", "p99", "mean", "max", "count"].map(Head::Number));
    heads.push(Head::Text("target"));
    let row = |row: &crate::micro::Row| {
        let s = &row.summary;
        let targets: Vec<String> = row.targets.iter().map(ToString::to_string).collect();
        let mut cells = vec![Cell::text(&row.name), Cell::text(&row.unit)];
        cells.extend([s.min, s.p50, s.p99, s.mean, s.max].map(|value| Cell::number(significant(value, 4))));
        cells.extend([Cell::number(count(s.count)), Cell::text(targets.join("; "))]);
        Row::new(cells)
    };
    let disturbed = part.others_cpu.disturbed().then(|| Block::bad_note(part.others_cpu.to_string()));
    let table = Block::Table(Table { heads, rows: part.rows.iter().map(row).collect() });
    [Block::lead(&part.method)].into_iter().chain(disturbed).chain([table]).collect()
}
