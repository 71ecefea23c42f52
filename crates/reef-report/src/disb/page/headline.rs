//! The paper's figure 11 for what was measured here: real-time latency, overall throughput, and what
//! best-effort work got of what it could have got.

use super::view::{self, Ours};
use crate::chart::{Bar, Bars, Chart, Group, Kind, Scale, picture, ratio_axis, values};
use crate::colour::{Key, Palette};
use crate::disb::results::{ConditionResult, DisbReport, WorkloadResult};
use crate::page::{Block, Columns, Fact, Section};
use crate::text::{estimate, estimate_percent, percent, ratio, ratio_short, time_us, trimmed};
use crate::typical::Estimate;

/// What a page of a code host has room for.
const PICTURE_WIDTH: f64 = 860.0;

/// One figure: what a condition's bar shows.
type BarOf = fn(&WorkloadResult, &ConditionResult) -> Bar;

/// Latency and throughput, unless nothing was played.
pub(super) fn section(report: &DisbReport, palette: &Palette) -> Option<Section> {
    let title = "Latency and throughput";
    if report.workloads.is_empty() {
        return None;
    }
    let names = view::compared(report);
    if names.is_empty() {
        let alone = "Only the reference was played, so there is nothing to compare it with.";
        return Some(Section::new("headline", title, vec![Block::note(alone)]));
    }
    let figures: Vec<Vec<Block>> = [latency(report, palette), throughput(report, palette)]
        .into_iter()
        .flatten()
        .map(|one| vec![one])
        .collect();
    let mut blocks = vec![Block::Legend(keys(report, palette))];
    // A few workloads leave room for one beside the other.
    match report.workloads.len() <= 3 {
        true => blocks.push(Block::Beside(Columns::Two, figures)),
        false => blocks.extend(figures.into_iter().flatten()),
    }
    if any_saturated(report) {
        blocks.push(Block::note(SATURATED_NOTE));
    }
    if view::ours(report).any(is_reference_saturated) {
        blocks.push(Block::bad_note("† The reference itself is saturated, so ratios to it mean little."));
    }
    let title_of = |workload: &WorkloadResult| (workload.name.clone(), Fact::Text(workload.title.clone()));
    blocks.push(Block::Facts(report.workloads.iter().map(title_of).collect()));
    Some(Section::new("headline", title, blocks))
}

/// Best-effort throughput as a share of its bound.
pub(super) fn share_section(report: &DisbReport, palette: &Palette) -> Option<Section> {
    let names = view::compared(report);
    let mut groups = groups(report, palette, share_bar);
    groups.iter_mut().for_each(|group| group.noise = None);
    if !has_values(&groups) {
        return None;
    }
    let title = "Best-effort throughput as a share of its bound";
    let axis = Scale::from_zero(values(&groups).chain([1.0]));
    let bars = Bars { axis, tick: percent, ..ratios(title, groups) };
    let blocks =
        vec![Block::Legend(view::keys(palette, &names)), Block::figure(title, SHARE_NOTE, Chart::Bars(bars))];
    Some(Section::new("best-effort", "What best-effort work got", blocks))
}

/// Mean real-time latency by workload and scheme as an SVG file of its own; `None` where there is none.
pub fn latency_picture(report: &DisbReport) -> Option<String> {
    let palette = view::palette(report);
    let mut bars = latency_bars(report, &palette)?;
    // There is less room than in a page.
    for bar in bars.groups.iter_mut().flat_map(|group| &mut group.bars) {
        bar.label = bar.value.map(|value| format!("{value:.2}")).unwrap_or_default();
    }
    let reference = view::reference_name(report);
    let logarithmic = if bars.axis.kind == Kind::Log { "; logarithmic" } else { "" };
    let note = format!(
        "Ratio to {reference}, the device without best-effort work; lower is better{logarithmic}; grey band: \
         {reference} against itself."
    );
    let mut keys = view::keys(&palette, &view::compared(report));
    keys.push(Key::Line(format!("{reference} = 1")));
    if any_saturated(report) {
        keys.push(Key::Saturated("saturated: a lower bound".into()));
    }
    Some(picture("DISB: mean real-time latency beside best-effort work", &note, &keys, &bars, PICTURE_WIDTH))
}

fn keys(report: &DisbReport, palette: &Palette) -> Vec<Key> {
    let mut keys = view::keys(palette, &view::compared(report));
    keys.push(Key::Line(format!("{} = 1", view::reference_name(report))));
    keys.push(Key::Bound("bound of throughput".into()));
    if any_saturated(report) {
        keys.push(Key::Saturated("saturated".into()));
    }
    keys
}

fn latency_bars(report: &DisbReport, palette: &Palette) -> Option<Bars> {
    let groups = groups(report, palette, latency_bar);
    let (axis, base) = ratio_axis(&groups);
    let any = has_values(&groups);
    any.then(|| Bars { axis, base, ..ratios("mean real-time latency, as a ratio to the reference", groups) })
}

fn latency(report: &DisbReport, palette: &Palette) -> Option<Block> {
    let note = latency_note(view::reference_name(report));
    Some(figure("(a) Mean real-time latency", note, latency_bars(report, palette)?))
}

fn throughput(report: &DisbReport, palette: &Palette) -> Option<Block> {
    let groups = groups(report, palette, throughput_bar);
    if !has_values(&groups) {
        return None;
    }
    let (axis, base) = ratio_axis(&groups);
    let bars = Bars { axis, base, ..ratios("overall throughput, as a ratio to the reference", groups) };
    Some(figure("(b) Overall throughput", throughput_note(view::reference_name(report)), bars))
}

fn figure(title: &str, note: String, bars: Bars) -> Block {
    let logarithmic = if bars.axis.kind == Kind::Log { " Logarithmic." } else { "" };
    Block::figure(title, note + logarithmic, Chart::Bars(bars))
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

fn ratios(title: &str, groups: Vec<Group>) -> Bars {
    let axis = Scale::from_zero([1.0]);
    let tick = |value| format!("{}×", trimmed(value, 3));
    Bars { label: title.into(), axis, base: 0.0, line: Some(1.0), tick, bands: Vec::new(), groups }
}

fn groups(report: &DisbReport, palette: &Palette, bar: BarOf) -> Vec<Group> {
    let names = view::compared(report);
    let group = |ours: Ours<'_>| {
        let bar = |name: &&str| {
            let filled = ours.condition(name).map(|condition| bar(ours.workload, condition));
            Bar { colour: palette.colour(name), ..filled.unwrap_or_default() }
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
