//! How long preemption takes and what it costs: the paper's figures 12, 13, 14(a) and 15(b).

use reef_base::Summary;

use super::view;
use crate::chart::{Axis, Band, Bar, Bars, Chart, Group, Line, Lines, Rows, Scale, values};
use crate::colour::{Colour, Palette};
use crate::disb::paper;
use crate::disb::results::{ConditionResult, DeviceResult, DisbReport};
use crate::micro::{Part, Row};
use crate::page::{Block, Columns, Section};
use crate::text::{extent, percent, time_tick_us, time_us, trimmed};

/// Preemption latency per workload, and the sweeps over synthetic tasks.
pub(super) fn section(report: &DisbReport, palette: &Palette) -> Option<Section> {
    let preempts = |condition: &ConditionResult| device(condition).is_some_and(|d| d.preempt_us.is_some());
    let names = conditions_with(report, preempts);
    let sweeps: Vec<&Part> = report.sweeps.iter().filter(|part| is_plotted(part)).collect();
    if names.is_empty() && sweeps.is_empty() {
        return None;
    }
    let lead = "From the submission of a real-time task that displaces best-effort work to its first block.";
    let mut blocks = vec![Block::lead(lead)];
    if !names.is_empty() {
        blocks.push(Block::Legend(view::keys(palette, &names)));
        blocks.push(workloads(report, palette, &names));
    }
    if !sweeps.is_empty() {
        blocks.push(sweep_figures(&sweeps, palette));
    }
    Some(Section::new("preemption", "Preemption latency", blocks))
}

/// What kills cost: per workload, and per model where that was measured.
pub(super) fn waste_section(report: &DisbReport, palette: &Palette) -> Option<Section> {
    let kills = |condition: &ConditionResult| device(condition).is_some_and(|d| d.blocks_killed > 0);
    let names = conditions_with(report, kills);
    let restore = report.sweeps.iter().find(|part| part.name == "restore");
    let models = restore.map(|part| restore_groups(part, palette)).unwrap_or_default();
    if names.is_empty() && models.is_empty() {
        return None;
    }
    let mut blocks = vec![Block::lead(WASTE_LEAD)];
    if !models.is_empty() {
        blocks.push(Block::Legend(view::keys(palette, &["reset", "wait"])));
        blocks.push(restore_figure(models));
    }
    if !names.is_empty() {
        let share = |device: &DeviceResult| Some(device.wasted_share);
        let title = "Work lost, as a share of the device's time";
        let left = waste_figure(report, palette, &names, (title, share, percent));
        let lost = |device: &DeviceResult| device.wasted_us_per_preemption;
        let title = "Work lost per preemption, compute-unit time";
        let right = waste_figure(report, palette, &names, (title, lost, time_us));
        blocks.push(Block::Beside(Columns::Two, vec![vec![left], vec![right]]));
    }
    Some(Section::new("waste", "Work lost to kills", blocks))
}

const WASTE_LEAD: &str = "A killed block runs again from its begin; what it had done is lost. Compute-unit \
    time: one unit busy for a millisecond is a millisecond, eight units are eight.";

fn device(condition: &ConditionResult) -> Option<&DeviceResult> {
    condition.device.as_ref()
}

/// Names of our conditions for which `has` holds on some workload.
fn conditions_with(report: &DisbReport, has: impl Fn(&ConditionResult) -> bool) -> Vec<&str> {
    let mut names = view::compared(report);
    names.retain(|name| view::ours(report).filter_map(|ours| ours.condition(name)).any(&has));
    names
}

/// The paper's own numbers.
fn paper_bands() -> Vec<Band> {
    let band = |colour: Colour, (from, to): (f64, f64), name: &str| Band {
        colour,
        from,
        to,
        label: format!("paper, MI50: {name} {from:.0}–{to:.0} µs"),
    };
    vec![
        band(Colour::Wait, paper::WAIT_PREEMPT_US, "wait"),
        band(Colour::Reset, paper::RESET_PREEMPT_US, "reset"),
    ]
}

fn band_ends(bands: &[Band]) -> impl Iterator<Item = f64> {
    bands.iter().flat_map(|band| [band.from, band.to])
}

fn whiskered(colour: Colour, summary: &Summary, what: &str) -> Bar {
    Bar {
        colour,
        value: Some(summary.p50),
        whisker: Some((summary.p99, time_us(summary.p99))),
        label: time_us(summary.p50),
        title: format!("{what}: p50 {}, p99 {}", time_us(summary.p50), time_us(summary.p99)),
        ..Bar::default()
    }
}

fn workloads(report: &DisbReport, palette: &Palette, names: &[&str]) -> Block {
    let groups: Vec<Group> = view::ours(report)
        .map(|ours| {
            let bar = |name: &&str| {
                let summary = ours.condition(name).and_then(device).and_then(|d| d.preempt_us);
                let what = format!("{}, {name}", ours.workload.name);
                summary.map(|summary| whiskered(palette.colour(name), &summary, &what)).unwrap_or_default()
            };
            let bars = names.iter().map(bar).collect();
            Group { label: ours.workload.name.clone(), noise: None, bars }
        })
        .collect();
    let bands = paper_bands();
    let axis = Scale::log_from_decade(values(&groups).chain(band_ends(&bands)), 1.4);
    let bars = Bars {
        label: "preemption latency by workload".into(),
        axis,
        base: axis.from,
        line: None,
        tick: time_tick_us,
        bands,
        groups,
    };
    Block::figure("By workload", "Bar: median; whisker, value in grey: p99. Logarithmic.", Chart::Bars(bars))
}

fn is_plotted(part: &Part) -> bool {
    part.axis.is_some() && part.rows.iter().any(|row| row.point.is_some() && row.summary.count > 0)
}

fn sweep_figures(sweeps: &[&Part], palette: &Palette) -> Block {
    let mut series: Vec<&str> = Vec::new();
    for point in sweeps.iter().flat_map(|part| &part.rows).filter_map(|row| row.point.as_ref()) {
        if !series.contains(&point.series.as_str()) && !point.series.contains(',') {
            series.push(&point.series);
        }
    }
    let panel = |part: &&Part| {
        let bands: Vec<String> = sweep_bands(part).into_iter().map(|band| band.label).collect();
        let chart = Chart::Lines(sweep_chart(part, palette));
        vec![Block::small(sweep_title(part)), Block::note(bands.join("; ")), Block::chart(chart)]
    };
    let note = "Lines: medians; thin lines: p99. Shaded: the paper's own numbers on an MI50.";
    let panels = Block::Beside(Columns::Three, sweeps.iter().map(panel).collect());
    let blocks = vec![Block::Legend(view::keys(palette, &series)), panels];
    Block::Figure("Against the best-effort load".into(), note.into(), blocks)
}

fn sweep_title(part: &Part) -> String {
    match part.name.as_str() {
        "kernels" => "Number of kernels (figure 13a)".into(),
        "length" => "Length of kernels (figure 13b)".into(),
        "clients" => "Best-effort clients (figure 14a)".into(),
        "select" => "Time between two blocks (figure 19a)".into(),
        name => name.into(),
    }
}

/// Bands of the paper for a part that it has too.
fn sweep_bands(part: &Part) -> Vec<Band> {
    let (low, high) = paper::SELECT_US;
    match part.name.as_str() {
        "kernels" | "length" | "clients" => paper_bands().into_iter().skip(1).collect(),
        "select" => {
            vec![Band {
                colour: Colour::Reset,
                from: low,
                to: high,
                label: format!("paper, MI50: choosing a kernel {low}–{high} µs"),
            }]
        }
        _ => Vec::new(),
    }
}

/// Microseconds of a row's unit; `None` where it is no time.
fn unit_us(unit: &str) -> Option<f64> {
    match unit {
        "ns" => Some(1e-3),
        "µs" => Some(1.0),
        "ms" => Some(1e3),
        _ => None,
    }
}

fn sweep_chart(part: &Part, palette: &Palette) -> Lines {
    let rows: Vec<&Row> =
        part.rows.iter().filter(|row| row.point.is_some() && row.summary.count > 0).collect();
    let unit = rows.first().map_or("", |row| row.unit.as_str());
    let bands = sweep_bands(part);
    let times = unit_us(unit).unwrap_or(1.0);
    let lines = sweep_lines(&rows, palette, times);
    let xs = rows.iter().filter_map(|row| row.point.as_ref()).map(|point| point.x);
    let ys = lines.iter().flat_map(|line| line.places.iter().map(|place| place.1));
    let wide = extent(xs.clone()).is_some_and(|(low, high)| low > 0.0 && high / low > 20.0);
    let x = if wide { Scale::log(xs, 1.0) } else { Scale::linear(xs) };
    let (tick, title): (fn(f64) -> String, _) = match unit_us(unit) {
        Some(_) => (time_tick_us, ""),
        None => (|value| trimmed(value, 3), unit),
    };
    Lines {
        label: format!("{} against {}", part.name, part.axis.as_deref().unwrap_or("")),
        size: (360.0, 262.0),
        x: Axis {
            scale: x,
            title: part.axis.clone().unwrap_or_default(),
            tick: |value| trimmed(value, 3),
            ticks: 6,
        },
        y: Axis { scale: Scale::log(ys.chain(band_ends(&bands)), 1.4), title: title.into(), tick, ticks: 7 },
        bands,
        verticals: Vec::new(),
        lines,
        dots: true,
    }
}

/// A line of medians and one of 99th percentiles for each series.
fn sweep_lines(rows: &[&Row], palette: &Palette, times: f64) -> Vec<Line> {
    let mut series: Vec<&str> = Vec::new();
    for point in rows.iter().filter_map(|row| row.point.as_ref()) {
        if !series.contains(&point.series.as_str()) {
            series.push(&point.series);
        }
    }
    let line = |name: &str, faint: bool| {
        let of_series = |row: &&&Row| row.point.as_ref().is_some_and(|point| point.series == name);
        let place = |row: &&Row| {
            let value = if faint { row.summary.p99 } else { row.summary.p50 };
            (row.point.as_ref().map_or(0.0, |point| point.x), value * times)
        };
        let mut places: Vec<(f64, f64)> = rows.iter().filter(of_series).map(place).collect();
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        let dashed = name.contains(',');
        Line { colour: palette.colour(name), name: name.into(), places, faint, dashed }
    };
    series.iter().flat_map(|name| [line(name, true), line(name, false)]).collect()
}

/// A group per model: work lost under `reset`, and extra time under `reset` and `wait`.
fn restore_groups(part: &Part, palette: &Palette) -> Vec<Group> {
    let find = |model: &str, what: &str| {
        let row = part.rows.iter().find(|row| row.name == format!("{model} {what}"))?;
        (row.summary.count > 0).then_some(row)
    };
    let models = part.rows.iter().filter_map(|row| row.name.strip_suffix(" reset: work lost"));
    let group = |model: &str| {
        let bar = |scheme: &str, what: &str| {
            let row = find(model, what)?;
            let bar = whiskered(palette.colour(scheme), &row.summary, &row.name);
            let of_alone = find(model, &format!("{scheme}: extra, of alone"));
            let share = of_alone.filter(|_| !what.ends_with("lost"));
            let share = share.map(|row| format!(", {} of the task alone", percent(row.summary.p50 / 100.0)));
            Some(Bar { title: bar.title + &share.unwrap_or_default(), ..bar })
        };
        let bars = [
            bar("reset", "reset: work lost").map(|bar| Bar { light: true, ..bar }),
            bar("reset", "reset: extra time"),
            bar("wait", "wait: extra time"),
        ];
        Group { label: model.into(), noise: None, bars: bars.into_iter().flatten().collect() }
    };
    models.map(group).collect()
}

fn restore_figure(groups: Vec<Group>) -> Block {
    let (from, to) = paper::RESTORE_US;
    let label = format!("paper, MI50: restore {from:.0}–{to:.0} µs");
    let bands = vec![Band { colour: Colour::Reset, from, to, label }];
    let bars = Bars {
        label: "cost of one preemption by model".into(),
        axis: Scale::from_zero(values(&groups).chain([to])),
        base: 0.0,
        line: None,
        tick: time_tick_us,
        bands,
        groups,
    };
    let title = "Cost of one preemption to the best-effort task, by model";
    Block::figure(title, RESTORE_NOTE, Chart::Bars(bars))
}

const RESTORE_NOTE: &str = "From left to right: work lost under reset (light), extra time under reset, extra \
    time under wait, which kills nothing. Bar: median; whisker, value in grey: p99.";

type Waste = (&'static str, fn(&DeviceResult) -> Option<f64>, fn(f64) -> String);

fn waste_figure(
    report: &DisbReport,
    palette: &Palette,
    names: &[&str],
    (title, value, format): Waste,
) -> Block {
    let groups: Vec<Group> = view::ours(report)
        .flat_map(|ours| names.iter().map(move |name| (ours, name)))
        .map(|(ours, name)| (ours, name, ours.condition(name).and_then(device).and_then(value)))
        .map(|(ours, name, value)| Bar {
            colour: palette.colour(name),
            value,
            label: value.map(format).unwrap_or_default(),
            title: format!("{}, {name}", ours.workload.name),
            ..Bar::default()
        })
        .zip(view::ours(report).flat_map(|ours| names.iter().map(move |_| ours.workload.name.clone())))
        .map(|(bar, label)| Group { label, noise: None, bars: vec![bar] })
        .collect();
    Block::figure(title, "", Chart::Rows(Rows { label: title.into(), groups }))
}
