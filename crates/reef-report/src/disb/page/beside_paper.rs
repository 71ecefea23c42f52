//! What was measured here beside what the paper reports of its MI50.

use reef_base::Summary;

use super::view::{self, Ours};
use crate::disb::paper::{self, Figures};
use crate::disb::results::{ConditionResult, DisbReport};
use crate::page::{Block, Section};
use crate::table::{Cell, Head, Row, Table, Tone};
use crate::text::{NOTHING, estimate, range, ratio, time_us};
use crate::typical::Estimate;

/// What of a condition a table is about.
type Value = fn(&ConditionResult) -> Option<Estimate>;
/// What of the paper: REEF, sequential, streams.
type Paper = [fn(&Figures) -> &'static str; 3];

/// The section, unless no workload of the paper was played.
pub(super) fn section(report: &DisbReport) -> Option<Section> {
    let both: Vec<(Ours<'_>, &Figures)> =
        view::ours(report).filter_map(|ours| Some((ours, paper::figures(&ours.workload.name)?))).collect();
    if both.is_empty() {
        return None;
    }
    let latency: Value = |condition| Some(condition.real_time.to_reference?.mean);
    let said: Paper = [|f| f.reef_latency, |f| f.sequential_latency, |f| f.streams_latency];
    let mut blocks = vec![
        Block::lead(LEAD),
        Block::small("Mean real-time latency, ratio to rt-only"),
        ratios(&both, latency, said),
    ];
    let throughput: Value = |condition| condition.overall.to_reference;
    let said: Paper = [|f| f.reef_throughput, |f| f.sequential_throughput, |f| f.streams_throughput];
    blocks.push(Block::small("Overall throughput, ratio to rt-only"));
    blocks.push(ratios(&both, throughput, said));
    blocks.extend(preemption(report));
    Some(Section::new("paper", "Beside the paper", blocks))
}

const LEAD: &str = "The paper's numbers are of an AMD MI50 (section 7.2), ours of the machine above, so only \
    ratios compare. Rates are scaled to the same load, but what a best-effort request costs beside a \
    real-time one differs, and with it what throughput can be reached.";

fn ratios(both: &[(Ours<'_>, &Figures)], value: Value, said: Paper) -> Block {
    let mut heads = vec![Head::Text("workload")];
    heads.extend(["REEF, paper", "reset, here", "SEQ, paper", "sequential, here"].map(Head::Number));
    heads.extend(["GPUStreams, paper", "concurrent, here"].map(Head::Number));
    let row = |(ours, figures): &(Ours<'_>, &Figures)| {
        let mut cells = vec![Cell::text(&ours.workload.name)];
        for (name, said) in ["reset", "sequential", "concurrent"].into_iter().zip(said) {
            cells.push(Cell::number(said(figures)).tone(Tone::Faint));
            let here = ours.condition(name).map(|condition| here(condition, value(condition)));
            cells.push(here.unwrap_or_else(|| Cell::number(NOTHING)));
        }
        Row::new(cells)
    };
    Block::Table(Table { heads, rows: both.iter().map(row).collect() })
}

fn here(condition: &ConditionResult, value: Option<Estimate>) -> Cell {
    let text = value.map_or_else(|| NOTHING.to_string(), |value| estimate(value, ratio));
    match condition.saturated {
        true => Cell::number(format!("saturated {text}")).tone(Tone::Bad),
        false => Cell::number(text),
    }
}

fn preemption(report: &DisbReport) -> Vec<Block> {
    let over_workloads = |name: &str, of: fn(&Summary) -> f64| {
        let latencies =
            view::ours(report).filter_map(|ours| ours.condition(name)?.device.as_ref()?.preempt_us);
        range(latencies.map(|latency| of(&latency)), time_us)
    };
    let said = [("reset", paper::RESET_PREEMPT_US), ("wait", paper::WAIT_PREEMPT_US)];
    let rows: Vec<Row> = said
        .into_iter()
        .filter_map(|(name, (from, to))| {
            let here = [over_workloads(name, |s| s.p50)?, over_workloads(name, |s| s.p99)?];
            let said = Cell::number(format!("{from:.0} – {to:.0} µs")).tone(Tone::Faint);
            Some(Row::new([Cell::text(name), said].into_iter().chain(here.map(Cell::number)).collect()))
        })
        .collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let [paper, p50, p99] = ["paper, MI50", "p50, here", "p99, here"].map(Head::Number);
    let table = Table { heads: vec![Head::Text("scheme"), paper, p50, p99], rows };
    vec![Block::small("Preemption latency"), Block::Table(table)]
}
