//! Other systems beside ours: each against its own reference, and in absolute times.

use super::view;
use crate::chart::{Chart, Scale, Spread};
use crate::colour::Palette;
use crate::disb::results::{ConditionResult, DisbReport, SystemResult, WorkloadResult};
use crate::page::{Block, Section, Size};
use crate::table::{Cell, Head, Row, Table};
use crate::text::{NOTHING, estimate, estimate_percent, ms, percent, ratio};

/// The section, unless there is no system but ours.
pub(super) fn section(report: &DisbReport, palette: &Palette) -> Option<Section> {
    let played = report.workloads.iter().filter(|workload| workload.systems.len() > 1);
    let tables: Vec<Block> = played
        .flat_map(|workload| {
            let title = format!("{}: {}", workload.name, workload.title);
            [Block::Heading(Size::Large, title), table(workload, palette)]
        })
        .collect();
    if tables.is_empty() {
        return None;
    }
    let blocks = [Block::lead(LEAD)].into_iter().chain(tables).collect();
    Some(Section::new("peers", "Beside other systems", blocks))
}

const LEAD: &str = "Every system gets the same arrivals. Ratios are to the system's own reference, so that a \
    system that is slower alone has no advantage; milliseconds are absolute. Dot: mean; line: up to p99; \
    on a logarithmic axis from 1. Offered: real-time arrivals × time alone on that system.";

fn table(workload: &WorkloadResult, palette: &Palette) -> Block {
    let all = workload.systems.iter().flat_map(view::firsts);
    let ratios = all.filter_map(|condition| condition.real_time.to_reference);
    let ends = ratios.flat_map(|ratios| [ratios.mean.value, ratios.p99.value]);
    let scale = Scale::log(ends.chain([1.0, 2.0]), 1.05);
    let mut heads = vec![Head::Text("condition")];
    heads.extend(["mean [ms]", "p99 [ms]", "mean, ratio", "p99, ratio"].map(Head::Number));
    heads.push(Head::Text("real-time latency, ratio"));
    heads.extend(["best-effort, of its bound", "overall, ratio"].map(Head::Number));
    let mut rows = Vec::new();
    for system in &workload.systems {
        let offered = system.offered.map(|offered| format!(", {} offered", percent(offered)));
        rows.push(Row::over(heads.len(), format!("{}{}", system.name, offered.unwrap_or_default())));
        let row = |condition| Row::new(cells(workload, (system, condition), scale, palette));
        rows.extend(view::firsts(system).map(|condition| row(condition).marked(condition.saturated)));
    }
    let axis = Cell::chart(Chart::SpreadAxis(scale));
    rows.push(Row::axis(vec![Cell::text("").span(5), axis, Cell::text("").span(2)]));
    Block::Table(Table { heads, rows })
}

fn cells(
    workload: &WorkloadResult,
    (system, condition): (&SystemResult, &ConditionResult),
    scale: Scale,
    palette: &Palette,
) -> Vec<Cell> {
    let (latency, ratios) = (condition.real_time.latency_us, condition.real_time.to_reference);
    let maybe = |text: Option<String>| Cell::number(text.unwrap_or_else(|| NOTHING.to_string()));
    let colour = view::colour(workload, system, condition, palette);
    let (dot, to) = ratios.map_or((1.0, 1.0), |ratios| (ratios.mean.value, ratios.p99.value));
    let label = format!("mean {}, p99 {}", ratio(dot), ratio(to));
    let share = condition.best_effort.as_ref().and_then(|best_effort| best_effort.of_bound);
    vec![
        Cell::text(&condition.name).title(&condition.title).colour(colour),
        maybe(latency.map(|latency| ms(latency.mean))),
        maybe(latency.map(|latency| ms(latency.p99))),
        maybe(ratios.map(|ratios| estimate(ratios.mean, ratio))),
        maybe(ratios.map(|ratios| estimate(ratios.p99, ratio))),
        Cell::chart(Chart::Spread(Spread { label, scale, colour, dot, to })),
        maybe(share.map(estimate_percent)),
        maybe(condition.overall.to_reference.map(|value| estimate(value, ratio))),
    ]
}
