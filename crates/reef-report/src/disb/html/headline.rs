//! The paper's figure 11 for what was measured here: real-time latency, overall throughput, and what
//! best-effort work got of what it could have got.

use super::bars::{Bar, BarPlot, Group, ratio_axis, values};
use super::markup::Markup;
use super::palette::Palette;
use super::scale::{Kind, Scale};
use super::text::{estimate, estimate_percent, percent, ratio, ratio_short, time_us, trimmed};
use super::view::{self, Ours};
use crate::disb::results::{ConditionResult, DisbReport, Estimate, WorkloadResult};

/// One figure: what a condition's bar shows.
type BarOf = fn(&WorkloadResult, &ConditionResult) -> Bar;

/// Draws all three, or as many as there is something to show in.
pub(super) fn draw(m: &mut Markup, report: &DisbReport, palette: &Palette) {
    let names = view::compared(report);
    if names.is_empty() {
        return m.p("note", "Only the reference was played, so there is nothing to compare it with.");
    }
    let reference = view::reference_name(report);
    let line = format!("{reference} = 1");
    let mut keys = vec![("key-line", line.as_str()), ("key-bound", "bound of throughput")];
    if any_saturated(report) {
        keys.push(("key-saturated", "saturated"));
    }
    palette.legend_with(m, &names, &keys);
    // A few workloads leave room for one beside the other.
    let class = if report.workloads.len() <= 3 { "pair" } else { "" };
    m.div(class, |m| figures(m, report, palette, &names));
    if any_saturated(report) {
        m.p("note", SATURATED_NOTE);
    }
    if view::ours(report).any(is_reference_saturated) {
        m.p("note bad", "† The reference itself is saturated, so ratios to it mean little.");
    }
    m.element("dl", &[("class", &"facts")], |m| {
        for workload in &report.workloads {
            m.leaf("dt", &[], &workload.name);
            m.leaf("dd", &[], &workload.title);
        }
    });
}

fn figures(m: &mut Markup, report: &DisbReport, palette: &Palette, names: &[&str]) {
    let reference = view::reference_name(report);
    let latency = groups(report, palette, names, latency_bar);
    if has_values(&latency) {
        let (axis, base) = ratio_axis(&latency);
        let plot =
            BarPlot { axis, base, ..ratios("mean real-time latency, as a ratio to the reference", latency) };
        figure(m, "(a) Mean real-time latency", &latency_note(reference), &plot);
    }
    let throughput = groups(report, palette, names, throughput_bar);
    if has_values(&throughput) {
        let (axis, base) = ratio_axis(&throughput);
        let plot =
            BarPlot { axis, base, ..ratios("overall throughput, as a ratio to the reference", throughput) };
        figure(m, "(b) Overall throughput", &throughput_note(reference), &plot);
    }
}

/// Draws best-effort throughput as a share of its bound.
pub(super) fn draw_share(m: &mut Markup, report: &DisbReport, palette: &Palette) {
    let names = view::compared(report);
    let mut groups = groups(report, palette, &names, share_bar);
    groups.iter_mut().for_each(|group| group.noise = None);
    if !has_values(&groups) {
        return;
    }
    let axis = Scale::from_zero(values(&groups).chain([1.0]));
    let plot =
        BarPlot { axis, tick: percent, ..ratios("best-effort throughput as a share of its bound", groups) };
    m.element("section", &[("id", &"best-effort")], |m| {
        m.leaf("h2", &[], "What best-effort work got");
        palette.legend(m, &names);
        figure(m, "Best-effort throughput as a share of its bound", SHARE_NOTE, &plot);
    });
}

fn latency_note(reference: &str) -> String {
    format!(
        "Ratio to {reference}, the device dedicated to real-time clients (line at 1). Lower is better. Error \
         bars: 95 % interval over repetitions; grey band: {reference} against itself."
    )
}

fn throughput_note(reference: &str) -> String {
    format!(
        "Answers per second of both classes, as a ratio to {reference} (line at 1). Higher is better, but \
         only what leaves (a) at 1 is free. Dash across a bar: its bound, if best-effort work got exactly \
         what real-time clients leave."
    )
}

const SHARE_NOTE: &str = "100 % is all the time that real-time clients leave idle when the device is theirs \
    alone. More than that runs on compute units that real-time stages leave idle, fills pauses between the \
    requests of one client, or is taken from real-time clients. “–”: they leave less than a twentieth.";
const SATURATED_NOTE: &str = "Hatched, red value: saturated. More was asked than the system could hold, so \
    latency grows with the length of the run, and what is shown is a lower bound.";

fn figure(m: &mut Markup, title: &str, note: &str, plot: &BarPlot) {
    m.element("figure", &[], |m| {
        m.element("figcaption", &[], |m| {
            m.leaf("b", &[], title);
            m.text(" ");
            m.text(note);
            if plot.axis.kind == Kind::Log {
                m.text(" Logarithmic.");
            }
        });
        plot.draw(m);
    });
}

fn ratios(title: &str, groups: Vec<Group>) -> BarPlot {
    let axis = Scale::from_zero([1.0]);
    let tick = |value| format!("{}×", trimmed(value, 3));
    BarPlot { title: title.into(), axis, base: 0.0, line: Some(1.0), tick, bands: Vec::new(), groups }
}

fn groups(report: &DisbReport, palette: &Palette, names: &[&str], bar: BarOf) -> Vec<Group> {
    let group = |ours: Ours<'_>| {
        let bar = |name: &&str| {
            let filled = ours.condition(name).map(|condition| bar(ours.workload, condition));
            Bar { class: palette.class(name), ..filled.unwrap_or_default() }
        };
        let noise = ours.again().and_then(|again| Some(again.real_time.to_reference?.mean));
        Group { label: label(ours), noise: noise.map(noise_band), bars: names.iter().map(bar).collect() }
    };
    view::ours(report).map(group).collect()
}

/// The workload's name, marked where the reference is saturated.
fn label(ours: Ours<'_>) -> String {
    let mark = if is_reference_saturated(ours) { " †" } else { "" };
    format!("{}{mark}", ours.workload.name)
}

fn is_reference_saturated(ours: Ours<'_>) -> bool {
    ours.conditions().next().is_some_and(|reference| reference.saturated)
}

/// What the reference shows against itself, 1 included.
fn noise_band(again: Estimate) -> (f64, f64) {
    let half = again.half_width.unwrap_or(0.0);
    ((again.value - half).min(1.0), (again.value + half).max(1.0))
}

fn has_values(groups: &[Group]) -> bool {
    groups.iter().flat_map(|group| &group.bars).any(|bar| bar.value.is_some())
}

fn any_saturated(report: &DisbReport) -> bool {
    view::ours(report).any(|ours| ours.conditions().any(|condition| condition.saturated))
}

fn latency_bar(workload: &WorkloadResult, condition: &ConditionResult) -> Bar {
    let mean = condition.real_time.to_reference.map(|ratios| ratios.mean);
    let absolute = condition.real_time.latency_us.map(|latency| time_us(latency.mean));
    let text = mean.map(|mean| {
        let absolute = absolute.map(|absolute| format!(" ({absolute})")).unwrap_or_default();
        format!("{}, {}: {} × the reference{absolute}", workload.name, condition.name, estimate(mean, ratio))
    });
    Bar { saturated: condition.saturated, ..ratio_bar(mean, text) }
}

fn throughput_bar(workload: &WorkloadResult, condition: &ConditionResult) -> Bar {
    let overall = &condition.overall;
    let text = overall.to_reference.map(|value| {
        let bound = overall.to_reference_bound.map(|bound| format!(", bound {}", ratio(bound)));
        let value = estimate(value, ratio);
        let (name, bound) = (&condition.name, bound.unwrap_or_default());
        format!("{}, {name}: {value} × the reference{bound}", workload.name)
    });
    let bar = ratio_bar(overall.to_reference, text);
    Bar { bound: overall.to_reference_bound, saturated: condition.saturated, ..bar }
}

fn share_bar(workload: &WorkloadResult, condition: &ConditionResult) -> Bar {
    let share = condition.best_effort.as_ref().and_then(|best_effort| best_effort.of_bound);
    let text =
        share.map(|share| format!("{}, {}: {}", workload.name, condition.name, estimate_percent(share)));
    Bar { label: share.map(|share| percent(share.value)).unwrap_or_default(), ..ratio_bar(share, text) }
}

fn ratio_bar(value: Option<Estimate>, title: Option<String>) -> Bar {
    Bar {
        value: value.map(|value| value.value),
        label: value.map(|value| ratio_short(value.value)).unwrap_or_default(),
        noise: value.and_then(|value| value.half_width),
        title: title.unwrap_or_default(),
        ..Bar::default()
    }
}
