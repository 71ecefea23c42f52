//! Cumulative distributions of real-time latency: one small panel per real-time client, one curve per
//! condition.

use reef_base::ClassName;

use super::view::{self, Ours};
use crate::chart::{Axis, Chart, Line, Lines, Scale};
use crate::colour::Palette;
use crate::disb::results::{ClientFacts, ClientResult, DisbReport};
use crate::page::{Block, Columns, Section};
use crate::text::{extent, percent, time_tick_us};

/// Above this ratio of slowest to fastest, time is drawn logarithmically.
const WIDE_RANGE: f64 = 5.0;

/// The section, unless no client has a distribution.
pub(super) fn section(report: &DisbReport, palette: &Palette) -> Option<Section> {
    let mut names: Vec<&str> = Vec::new();
    let mut panels = Vec::new();
    for ours in view::ours(report) {
        let real_time = ours.workload.clients.iter().filter(|client| client.class == ClassName::RealTime);
        let charts: Vec<Lines> = real_time.filter_map(|client| chart(ours, client, palette)).collect();
        if !charts.is_empty() {
            names.extend(ours.conditions().map(|condition| condition.name.as_str()));
        }
        panels.extend(charts.into_iter().map(|lines| {
            let title = format!("{}: {}", ours.workload.name, lines.label);
            vec![Block::small(title), Block::chart(Chart::Lines(lines))]
        }));
    }
    if panels.is_empty() {
        return None;
    }
    let mut seen = Vec::new();
    names.retain(|name| !seen.contains(name) && (seen.push(*name), true).1);
    let blocks = vec![
        Block::lead(LEAD),
        Block::Legend(view::keys(palette, &names)),
        Block::Beside(Columns::Four, panels),
    ];
    Some(Section::new("distributions", "Distributions of real-time latency", blocks))
}

const LEAD: &str = "Share of a client's requests that were answered within a time from their scheduled \
    arrival. The closer a curve is to rt-only, the better. Time is logarithmic where it varies widely.";

fn chart(ours: Ours<'_>, client: &ClientFacts, palette: &Palette) -> Option<Lines> {
    let lines: Vec<Line> = ours
        .conditions()
        .filter_map(|condition| {
            let result = condition.clients.iter().find(|result| result.name == client.name)?;
            let places = places(result)?;
            Some(Line {
                colour: palette.colour(&condition.name),
                name: condition.name.clone(),
                places,
                ..Line::default()
            })
        })
        .collect();
    let times = || lines.iter().flat_map(|line| line.places.iter().map(|place| place.0));
    let (low, high) = extent(times())?;
    let wide = low > 0.0 && high / low > WIDE_RANGE;
    let scale = if wide {
        Scale::log(times(), 1.12)
    } else {
        Scale::linear([low - (high - low) * 0.05, high + (high - low) * 0.03])
    };
    let deadline = client.deadline_ms.map(|ms| ms * 1e3).filter(|&us| us > scale.from && us < scale.to);
    Some(Lines {
        label: client.name.clone(),
        size: (290.0, 190.0),
        x: Axis {
            scale,
            title: if wide { "latency (logarithmic)" } else { "latency" }.into(),
            tick: time_tick_us,
            ticks: 4,
        },
        y: Axis { scale: Scale::linear([0.0, 1.0]), title: String::new(), tick: percent, ticks: 5 },
        bands: Vec::new(),
        verticals: deadline.map(|us| (us, "deadline".to_string())).into_iter().collect(),
        lines,
        dots: false,
    })
}

/// A curve from quantiles; `None` without any.
fn places(result: &ClientResult) -> Option<Vec<(f64, f64)>> {
    let last = result.quantiles_ms.len().checked_sub(1)?;
    let share = |index: usize| if last == 0 { 1.0 } else { index as f64 / last as f64 };
    let finite = |(index, ms): (usize, &f64)| ms.is_finite().then(|| (ms * 1e3, share(index)));
    Some(result.quantiles_ms.iter().enumerate().filter_map(finite).collect())
}
