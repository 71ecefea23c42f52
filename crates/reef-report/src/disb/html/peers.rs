//! Other systems beside ours: each against its own reference, and in absolute times.

use super::markup::Markup;
use super::palette::Palette;
use super::scale::Scale;
use super::svg::{Anchor, Area};
use super::table::Head::{Number, Text};
use super::text::{NOTHING, estimate, estimate_percent, extent, ms, percent, ratio, trimmed};
use super::view;
use crate::disb::results::{ConditionResult, DisbReport, SystemResult, WorkloadResult};

const WIDTH: f64 = 240.0;
const ROW: f64 = 24.0;

/// Draws the section, unless there is no system but ours.
pub(super) fn draw(m: &mut Markup, report: &DisbReport, palette: &Palette) {
    let played: Vec<&WorkloadResult> =
        report.workloads.iter().filter(|workload| workload.systems.len() > 1).collect();
    if played.is_empty() {
        return;
    }
    m.element("section", &[("id", &"peers")], |m| {
        m.leaf("h2", &[], "Beside other systems");
        m.p("lead", LEAD);
        for workload in played {
            m.leaf("h3", &[], format!("{}: {}", workload.name, workload.title));
            table(m, workload, palette);
        }
    });
}

const LEAD: &str = "Every system gets the same arrivals. Ratios are to the system's own reference, so that a \
    system that is slower alone has no advantage; milliseconds are absolute. Dot: mean; line: up to p99; \
    on a logarithmic axis from 1. Offered: real-time arrivals × time alone on that system.";

fn table(m: &mut Markup, workload: &WorkloadResult, palette: &Palette) {
    let all = || workload.systems.iter().flat_map(view::firsts);
    let real_time = |condition: &ConditionResult| condition.real_time.to_reference;
    let ratios = all().filter_map(real_time).flat_map(|ratios| [ratios.mean.value, ratios.p99.value]);
    let scale = Scale::log(ratios.chain([1.0, 2.0]), 1.05).on(8.0, WIDTH - 8.0);
    let heads = [
        Text("condition"),
        Number("mean [ms]"),
        Number("p99 [ms]"),
        Number("mean, ratio"),
        Number("p99, ratio"),
        Text("real-time latency, ratio"),
        Number("best-effort, of its bound"),
        Number("overall, ratio"),
    ];
    m.table(&heads, |m| {
        for system in &workload.systems {
            let offered = system.offered.map(|offered| format!(", {} offered", percent(offered)));
            m.row_over(heads.len(), format!("{}{}", system.name, offered.unwrap_or_default()));
            for condition in view::firsts(system) {
                let class = if condition.saturated { "saturated" } else { "" };
                m.row(class, |m| row(m, (system, condition), scale, palette));
            }
        }
        m.row("axis-row", |m| {
            m.leaf("td", &[("colspan", &5)], "");
            m.element("td", &[("class", &"plot-cell")], |m| axis(m, scale));
            m.leaf("td", &[("colspan", &2)], "");
        });
    });
}

fn row(
    m: &mut Markup,
    (system, condition): (&SystemResult, &ConditionResult),
    scale: Scale,
    palette: &Palette,
) {
    let real_time = &condition.real_time;
    let maybe = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_string());
    let key = palette.key(system, &condition.name);
    m.element("td", &[("title", &condition.title)], |m| palette.named_swatch(m, key, &condition.name));
    m.number(maybe(real_time.latency_us.map(|latency| ms(latency.mean))));
    m.number(maybe(real_time.latency_us.map(|latency| ms(latency.p99))));
    m.number(maybe(real_time.to_reference.map(|ratios| estimate(ratios.mean, ratio))));
    m.number(maybe(real_time.to_reference.map(|ratios| estimate(ratios.p99, ratio))));
    let (mean, p99) = match real_time.to_reference {
        Some(ratios) => (ratios.mean.value, ratios.p99.value),
        None => (1.0, 1.0),
    };
    m.element("td", &[("class", &"plot-cell")], |m| dot_row(m, &palette.class(key), (mean, p99), scale));
    let share = condition.best_effort.as_ref().and_then(|best_effort| best_effort.of_bound);
    m.number(maybe(share.map(estimate_percent)));
    m.number(maybe(condition.overall.to_reference.map(|value| estimate(value, ratio))));
}

fn dot_row(m: &mut Markup, class: &str, (mean, p99): (f64, f64), scale: Scale) {
    let title = format!("mean {}, p99 {}", ratio(mean), ratio(p99));
    m.svg("cell-plot", (WIDTH, ROW), &title, |m| {
        m.line("reference", (scale.at(1.0), 0.0), (scale.at(1.0), ROW));
        let middle = ROW / 2.0;
        m.group(&format!("bar {class}"), |m| {
            if let Some((low, high)) = extent([mean, p99]) {
                let corner = (scale.at(low), middle - 1.5);
                m.rect("fill", Area::between(corner, (scale.at(high), middle + 1.5)), "");
            }
            if mean.is_finite() {
                m.dot("fill", (scale.at(mean), middle), 5.0, &title);
            }
        });
    });
}

fn axis(m: &mut Markup, scale: Scale) {
    m.svg("cell-plot", (WIDTH, ROW), "axis", |m| {
        m.line("axis", (0.0, 1.0), (WIDTH, 1.0));
        for tick in scale.ticks(6) {
            m.line("axis", (scale.at(tick), 1.0), (scale.at(tick), 5.0));
            m.label("tick", Anchor::Middle, (scale.at(tick), 18.0), trimmed(tick, 3));
        }
    });
}
