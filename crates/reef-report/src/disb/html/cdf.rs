//! Cumulative distributions of real-time latency: one small panel per real-time client, one curve per
//! condition.

use reef_base::ClassName;

use super::lines::{Axis, Line, LinePlot};
use super::markup::Markup;
use super::palette::Palette;
use super::scale::Scale;
use super::text::{extent, percent, time_tick_us};
use super::view::{self, Ours};
use crate::disb::results::{ClientFacts, ClientResult, DisbReport};

/// Above this ratio of slowest to fastest, time is drawn logarithmically.
const WIDE_RANGE: f64 = 5.0;

/// Draws the section, unless no client has a distribution.
pub(super) fn draw(m: &mut Markup, report: &DisbReport, palette: &Palette) {
    let plots: Vec<(Ours<'_>, Vec<LinePlot<'_>>)> = view::ours(report)
        .map(|ours| (ours, plots(ours, palette)))
        .filter(|(_, plots)| !plots.is_empty())
        .collect();
    if plots.is_empty() {
        return;
    }
    m.element("section", &[("id", &"distributions")], |m| {
        m.leaf("h2", &[], "Distributions of real-time latency");
        m.p("lead", LEAD);
        let mut names: Vec<&str> = Vec::new();
        for condition in plots.iter().flat_map(|(ours, _)| ours.conditions()) {
            if !names.contains(&condition.name.as_str()) {
                names.push(&condition.name);
            }
        }
        palette.legend(m, &names);
        m.div("panels small", |m| {
            for (ours, plots) in &plots {
                for plot in plots {
                    m.div("cell", |m| {
                        m.leaf("h4", &[], format!("{}: {}", ours.workload.name, plot.title));
                        plot.draw(m);
                    });
                }
            }
        });
    });
}

const LEAD: &str = "Share of a client's requests that were answered within a time from their scheduled \
    arrival. The closer a curve is to rt-only, the better. Time is logarithmic where it varies widely.";

fn plots<'a>(ours: Ours<'a>, palette: &Palette) -> Vec<LinePlot<'a>> {
    let real_time = ours.workload.clients.iter().filter(|client| client.class == ClassName::RealTime);
    real_time.filter_map(|client| plot(ours, client, palette)).collect()
}

fn plot<'a>(ours: Ours<'a>, client: &ClientFacts, palette: &Palette) -> Option<LinePlot<'a>> {
    let lines: Vec<Line> = ours
        .conditions()
        .filter_map(|condition| {
            let result = condition.clients.iter().find(|result| result.name == client.name)?;
            let places = places(result)?;
            Some(Line {
                class: palette.class(&condition.name),
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
    Some(LinePlot {
        title: client.name.clone(),
        size: (290.0, 190.0),
        x: Axis {
            scale,
            title: if wide { "latency (logarithmic)" } else { "latency" },
            tick: time_tick_us,
            ticks: 4,
        },
        y: Axis { scale: Scale::linear([0.0, 1.0]), title: "", tick: percent, ticks: 5 },
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
