//! How long preemption takes and what it costs: the paper's figures 12, 13, 14(a) and 15(b).

use reef_base::Summary;

use super::bars::{Band, Bar, BarPlot, Group, values};
use super::lines::{Axis, Line, LinePlot};
use super::markup::Markup;
use super::palette::Palette;
use super::scale::Scale;
use super::text::{extent, percent, time_tick_us, time_us, trimmed};
use super::view;
use crate::disb::paper;
use crate::disb::results::{ConditionResult, DeviceResult, DisbReport};
use crate::micro::{Part, Row};

/// Draws preemption latency per workload and the sweeps over synthetic tasks.
pub(super) fn draw_latency(m: &mut Markup, report: &DisbReport, palette: &Palette) {
    let preempts = |condition: &ConditionResult| device(condition).is_some_and(|d| d.preempt_us.is_some());
    let names = conditions_with(report, preempts);
    let sweeps: Vec<&Part> = report.sweeps.iter().filter(|part| is_plotted(part)).collect();
    if names.is_empty() && sweeps.is_empty() {
        return;
    }
    m.element("section", &[("id", &"preemption")], |m| {
        m.leaf("h2", &[], "Preemption latency");
        m.p(
            "lead",
            "From the submission of a real-time task that displaces best-effort work to its first block.",
        );
        if !names.is_empty() {
            palette.legend(m, &names);
            workloads(m, report, palette, &names);
        }
        if !sweeps.is_empty() {
            draw_sweeps(m, &sweeps, palette);
        }
    });
}

/// Draws what kills cost: per workload, and per model where that was measured.
pub(super) fn draw_waste(m: &mut Markup, report: &DisbReport, palette: &Palette) {
    let kills = |condition: &ConditionResult| device(condition).is_some_and(|d| d.blocks_killed > 0);
    let names = conditions_with(report, kills);
    let restore = report.sweeps.iter().find(|part| part.name == "restore");
    let models = restore.map(|part| restore_groups(part, palette)).unwrap_or_default();
    if names.is_empty() && models.is_empty() {
        return;
    }
    m.element("section", &[("id", &"waste")], |m| {
        m.leaf("h2", &[], "Work lost to kills");
        m.p("lead", WASTE_LEAD);
        if !models.is_empty() {
            palette.legend(m, &["reset", "wait"]);
            restore_figure(m, models);
        }
        if !names.is_empty() {
            m.div("pair", |m| {
                let share = |device: &DeviceResult| Some(device.wasted_share);
                let title = "Work lost, as a share of the device's time";
                waste_figure(m, report, palette, &names, (title, share, percent));
                let lost = |device: &DeviceResult| device.wasted_us_per_preemption;
                let title = "Work lost per preemption, compute-unit time";
                waste_figure(m, report, palette, &names, (title, lost, time_us));
            });
        }
    });
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
    let band = |class: &str, (from, to): (f64, f64), name: &str| Band {
        class: class.into(),
        from,
        to,
        label: format!("paper, MI50: {name} {from:.0}–{to:.0} µs"),
    };
    vec![band("c-wait", paper::WAIT_PREEMPT_US, "wait"), band("c-reset", paper::RESET_PREEMPT_US, "reset")]
}

fn band_ends(bands: &[Band]) -> impl Iterator<Item = f64> {
    bands.iter().flat_map(|band| [band.from, band.to])
}

fn whiskered(class: String, summary: &Summary, what: &str) -> Bar {
    Bar {
        class,
        value: Some(summary.p50),
        whisker: Some((summary.p99, time_us(summary.p99))),
        label: time_us(summary.p50),
        title: format!("{what}: p50 {}, p99 {}", time_us(summary.p50), time_us(summary.p99)),
        ..Bar::default()
    }
}

fn workloads(m: &mut Markup, report: &DisbReport, palette: &Palette, names: &[&str]) {
    let groups: Vec<Group> = view::ours(report)
        .map(|ours| {
            let bar = |name: &&str| {
                let summary = ours.condition(name).and_then(device).and_then(|d| d.preempt_us);
                let what = format!("{}, {name}", ours.workload.name);
                summary.map(|summary| whiskered(palette.class(name), &summary, &what)).unwrap_or_default()
            };
            let bars = names.iter().map(bar).collect();
            Group { label: ours.workload.name.clone(), noise: None, bars }
        })
        .collect();
    let bands = paper_bands();
    let axis = Scale::log_from_decade(values(&groups).chain(band_ends(&bands)), 1.4);
    let plot = BarPlot {
        title: "preemption latency by workload".into(),
        axis,
        base: axis.from,
        line: None,
        tick: time_tick_us,
        bands,
        groups,
    };
    caption(m, "By workload", "Bar: median; whisker, value in grey: p99. Logarithmic.", |m| plot.draw(m));
}

fn caption(m: &mut Markup, title: &str, note: &str, content: impl FnOnce(&mut Markup)) {
    m.element("figure", &[], |m| {
        m.element("figcaption", &[], |m| {
            m.leaf("b", &[], title);
            m.text(" ");
            m.text(note);
        });
        content(m);
    });
}

fn is_plotted(part: &Part) -> bool {
    part.axis.is_some() && part.rows.iter().any(|row| row.point.is_some() && row.summary.count > 0)
}

fn draw_sweeps(m: &mut Markup, sweeps: &[&Part], palette: &Palette) {
    let mut series: Vec<&str> = Vec::new();
    for point in sweeps.iter().flat_map(|part| &part.rows).filter_map(|row| row.point.as_ref()) {
        if !series.contains(&point.series.as_str()) && !point.series.contains(',') {
            series.push(&point.series);
        }
    }
    let note = "Lines: medians; thin lines: p99. Shaded: the paper's own numbers on an MI50.";
    caption(m, "Against the best-effort load", note, |m| {
        palette.legend(m, &series);
        m.div("panels", |m| {
            for part in sweeps {
                m.div("cell", |m| {
                    m.leaf("h4", &[], sweep_title(part));
                    let bands: Vec<String> = sweep_bands(part).into_iter().map(|band| band.label).collect();
                    m.p("note", bands.join("; "));
                    sweep_plot(part, palette).draw(m);
                });
            }
        });
    });
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
                class: "c-reset".into(),
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

fn sweep_plot<'a>(part: &'a Part, palette: &Palette) -> LinePlot<'a> {
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
    LinePlot {
        title: format!("{} against {}", part.name, part.axis.as_deref().unwrap_or("")),
        size: (360.0, 262.0),
        x: Axis {
            scale: x,
            title: part.axis.as_deref().unwrap_or(""),
            tick: |value| trimmed(value, 3),
            ticks: 6,
        },
        y: Axis { scale: Scale::log(ys.chain(band_ends(&bands)), 1.4), title, tick, ticks: 7 },
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
        Line { class: palette.class(name), name: name.into(), places, faint, dashed }
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
            let bar = whiskered(palette.class(scheme), &row.summary, &row.name);
            let of_alone = find(model, &format!("{scheme}: extra, of alone"));
            let share = of_alone.filter(|_| !what.ends_with("lost"));
            let share = share.map(|row| format!(", {} of the task alone", percent(row.summary.p50 / 100.0)));
            Some(Bar { title: bar.title + &share.unwrap_or_default(), ..bar })
        };
        let bars = [
            bar("reset", "reset: work lost").map(|bar| Bar { class: format!("{} light", bar.class), ..bar }),
            bar("reset", "reset: extra time"),
            bar("wait", "wait: extra time"),
        ];
        Group { label: model.into(), noise: None, bars: bars.into_iter().flatten().collect() }
    };
    models.map(group).collect()
}

fn restore_figure(m: &mut Markup, groups: Vec<Group>) {
    let (from, to) = paper::RESTORE_US;
    let label = format!("paper, MI50: restore {from:.0}–{to:.0} µs");
    let bands = vec![Band { class: "c-reset".into(), from, to, label }];
    let plot = BarPlot {
        title: "cost of one preemption by model".into(),
        axis: Scale::from_zero(values(&groups).chain([to])),
        base: 0.0,
        line: None,
        tick: time_tick_us,
        bands,
        groups,
    };
    caption(m, "Cost of one preemption to the best-effort task, by model", RESTORE_NOTE, |m| plot.draw(m));
}

const RESTORE_NOTE: &str = "From left to right: work lost under reset (light), extra time under reset, extra \
    time under wait, which kills nothing. Bar: median; whisker, value in grey: p99.";

type Waste = (&'static str, fn(&DeviceResult) -> Option<f64>, fn(f64) -> String);

fn waste_figure(
    m: &mut Markup,
    report: &DisbReport,
    palette: &Palette,
    names: &[&str],
    (title, value, format): Waste,
) {
    let groups: Vec<Group> = view::ours(report)
        .flat_map(|ours| names.iter().map(move |name| (ours, name)))
        .map(|(ours, name)| (ours, name, ours.condition(name).and_then(device).and_then(value)))
        .map(|(ours, name, value)| Bar {
            class: palette.class(name),
            value,
            label: value.map(format).unwrap_or_default(),
            title: format!("{}, {name}", ours.workload.name),
            ..Bar::default()
        })
        .zip(view::ours(report).flat_map(|ours| names.iter().map(move |_| ours.workload.name.clone())))
        .map(|(bar, label)| Group { label, noise: None, bars: vec![bar] })
        .collect();
    caption(m, title, "", |m| super::rows::draw(m, &groups, format));
}
