//! Lines in small panels: what depends on what, and cumulative distributions.

use maud::{Markup, html};

use super::bars::Band;
use super::scale::Scale;
use super::svg::{Anchor, Area, dot, group, label, line, polyline, rect, svg};
use crate::colour::Colour;

const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 42.0;

/// One line.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Its colour.
    pub colour: Colour,
    /// Shown where the pointer rests on one of its dots.
    pub name: String,
    /// Where it goes.
    pub places: Vec<(f64, f64)>,
    /// Drawn thin, without dots.
    pub faint: bool,
    /// Drawn with dashes.
    pub dashed: bool,
}

/// One axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Its values.
    pub scale: Scale,
    /// What it is, with the unit unless ticks have it.
    pub title: String,
    /// How ticks are written.
    pub tick: fn(f64) -> String,
    /// About how many ticks there is room for.
    pub ticks: usize,
}

/// The chart.
#[derive(Clone, Debug)]
pub struct Lines {
    /// What it shows, for who cannot see it.
    pub label: String,
    /// Width and height.
    pub size: (f64, f64),
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Stretches of the vertical axis.
    pub bands: Vec<Band>,
    /// Vertical lines with a name.
    pub verticals: Vec<(f64, String)>,
    /// The lines.
    pub lines: Vec<Line>,
    /// Whether measured places have dots.
    pub dots: bool,
}

impl Lines {
    pub(super) fn draw(&self) -> Markup {
        let (width, height) = self.size;
        let top = if self.y.title.is_empty() { 10.0 } else { 24.0 };
        let x = self.x.scale.on(LEFT, width - RIGHT);
        let y = self.y.scale.on(height - BOTTOM, top);
        let content = html! {
            @for band in &self.bands { (band.draw((LEFT, width - RIGHT), y)) }
            (self.grid(x, y))
            @for (value, name) in &self.verticals { (self.vertical(x.at(*value), name, top)) }
            @for line in &self.lines { (self.line(line, x, y)) }
        };
        svg("panel", self.size, &self.label, content)
    }

    fn grid(&self, x: Scale, y: Scale) -> Markup {
        let (width, height) = self.size;
        let floor = height - BOTTOM;
        let middle = (LEFT + width - RIGHT) / 2.0;
        html! {
            @for (tick, at) in y.ticks(self.y.ticks).into_iter().map(|tick| (tick, y.at(tick))) {
                (line("grid", (LEFT, at), (width - RIGHT, at)))
                (label("tick", Anchor::End, (LEFT - 6.0, at + 4.0), (self.y.tick)(tick)))
            }
            @for (tick, at) in x.ticks(self.x.ticks).into_iter().map(|tick| (tick, x.at(tick))) {
                (line("axis", (at, floor), (at, floor + 4.0)))
                (label("tick", Anchor::Middle, (at, floor + 17.0), (self.x.tick)(tick)))
            }
            (line("axis", (LEFT, floor), (width - RIGHT, floor)))
            (label("axis-title", Anchor::Middle, (middle, height - 6.0), &self.x.title))
            @if !self.y.title.is_empty() {
                (label("axis-title", Anchor::Start, (4.0, 12.0), &self.y.title))
            }
        }
    }

    fn vertical(&self, at: f64, name: &str, top: f64) -> Markup {
        let floor = self.size.1 - BOTTOM;
        html! {
            (line("deadline", (at, top), (at, floor)))
            (label("band-label halo", Anchor::End, (at - 3.0, floor - 5.0), name))
        }
    }

    fn line(&self, line: &Line, x: Scale, y: Scale) -> Markup {
        let finite = line.places.iter().filter(|(at, value)| at.is_finite() && value.is_finite());
        let places: Vec<(f64, f64)> = finite.map(|&(at, value)| (x.at(at), y.at(value))).collect();
        let style = match (line.faint, line.dashed) {
            (true, _) => "curve faint",
            (false, true) => "curve dashed",
            (false, false) => "curve",
        };
        let content = html! {
            (polyline("stroke", &places))
            @if self.dots && !line.faint {
                @for &place in &places { (dot("fill", place, 3.2, &line.name)) }
            }
        };
        group(&format!("{style} {}", line.colour.class()), content)
    }
}

impl Band {
    /// Draws the stretch over the whole width between two places.
    pub(super) fn draw(&self, (left, right): (f64, f64), y: Scale) -> Markup {
        let (low, high) = self.ends(y);
        let class = format!("band {}", self.colour.class());
        rect(&class, Area::between((left, high), (right, low)), &self.label)
    }

    /// Where it begins and ends on the page, at least so far apart that it can be seen.
    pub(super) fn ends(&self, y: Scale) -> (f64, f64) {
        let (low, high) = (y.at(self.from), y.at(self.to));
        if low - high < 3.0 { (low + 1.5, high - 1.5) } else { (low, high) }
    }
}
