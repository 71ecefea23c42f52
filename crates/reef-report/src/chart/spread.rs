//! A dot on a line that reaches as far as what it stands for spreads, small enough for a cell of a table.

use maud::{Markup, html};

use super::scale::Scale;
use super::svg::{Anchor, Area, dot, group, label, line, rect, svg};
use crate::colour::Colour;
use crate::text::{extent, trimmed};

const WIDTH: f64 = 240.0;
const ROW: f64 = 24.0;

/// The chart.
#[derive(Clone, Debug)]
pub struct Spread {
    /// What it shows, for who cannot see it and where the pointer rests on it.
    pub label: String,
    /// The axis, the same in all rows.
    pub scale: Scale,
    /// Its colour.
    pub colour: Colour,
    /// Where the dot is.
    pub dot: f64,
    /// How far it spreads.
    pub to: f64,
}

impl Spread {
    pub(super) fn draw(&self) -> Markup {
        let scale = placed(self.scale);
        let middle = ROW / 2.0;
        let one = (scale.at(1.0), 0.0);
        let bar = |(low, high): (f64, f64)| {
            Area::between((scale.at(low), middle - 1.5), (scale.at(high), middle + 1.5))
        };
        let shown = html! {
            @if let Some(area) = extent([self.dot, self.to]).map(bar) { (rect("fill", area, "")) }
            @if self.dot.is_finite() {
                (dot("fill", (scale.at(self.dot), middle), 5.0, &self.label))
            }
        };
        let content = html! {
            (line("reference", one, (one.0, ROW)))
            (group(&format!("bar {}", self.colour.class()), shown))
        };
        svg("cell-plot", (WIDTH, ROW), &self.label, content)
    }
}

/// The axis below a column of them.
pub(super) fn axis(scale: Scale) -> Markup {
    let scale = placed(scale);
    let content = html! {
        (line("axis", (0.0, 1.0), (WIDTH, 1.0)))
        @for tick in scale.ticks(6) {
            (line("axis", (scale.at(tick), 1.0), (scale.at(tick), 5.0)))
            (label("tick", Anchor::Middle, (scale.at(tick), 18.0), trimmed(tick, 3)))
        }
    };
    svg("cell-plot", (WIDTH, ROW), "axis", content)
}

fn placed(scale: Scale) -> Scale {
    scale.on(8.0, WIDTH - 8.0)
}
