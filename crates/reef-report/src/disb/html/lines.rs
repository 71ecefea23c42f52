//! Line plots in small panels: sweeps, and cumulative distributions of latencies.

use super::bars::Band;
use super::markup::Markup;
use super::scale::Scale;
use super::svg::{Anchor, Area};

const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 42.0;

/// One line.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// The class of its colour.
    pub(super) class: String,
    /// Shown where the pointer rests on one of its dots.
    pub(super) name: String,
    pub(super) places: Vec<(f64, f64)>,
    /// Drawn thin, without dots.
    pub(super) faint: bool,
    /// Drawn with dashes.
    pub(super) dashed: bool,
}

/// One axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis<'a> {
    pub(super) scale: Scale,
    /// What it is, with the unit unless ticks have it.
    pub(super) title: &'a str,
    /// How ticks are written.
    pub(super) tick: fn(f64) -> String,
    /// About how many ticks there is room for.
    pub(super) ticks: usize,
}

/// A plot.
#[derive(Clone, Debug)]
pub(super) struct LinePlot<'a> {
    /// What it shows, for who cannot see it.
    pub(super) title: String,
    /// Width and height.
    pub(super) size: (f64, f64),
    pub(super) x: Axis<'a>,
    pub(super) y: Axis<'a>,
    pub(super) bands: Vec<Band>,
    /// Vertical lines with a name.
    pub(super) verticals: Vec<(f64, String)>,
    pub(super) lines: Vec<Line>,
    /// Whether measured places have dots.
    pub(super) dots: bool,
}

impl LinePlot<'_> {
    /// Draws it.
    pub(super) fn draw(&self, m: &mut Markup) {
        m.svg("panel", self.size, &self.title, |m| {
            let (width, height) = self.size;
            let top = if self.y.title.is_empty() { 10.0 } else { 24.0 };
            let x = self.x.scale.on(LEFT, width - RIGHT);
            let y = self.y.scale.on(height - BOTTOM, top);
            self.bands(m, y);
            self.grid(m, x, y);
            self.verticals(m, x, top);
            self.lines.iter().for_each(|line| self.line(m, line, x, y));
        });
    }

    fn bands(&self, m: &mut Markup, y: Scale) {
        let right = self.size.0 - RIGHT;
        for band in &self.bands {
            let (low, high) = (y.at(band.from), y.at(band.to));
            let (low, high) = if low - high < 3.0 { (low + 1.5, high - 1.5) } else { (low, high) };
            let class = format!("band {}", band.class);
            m.rect(&class, Area::between((LEFT, high), (right, low)), &band.label);
        }
    }

    fn grid(&self, m: &mut Markup, x: Scale, y: Scale) {
        let (width, height) = self.size;
        let floor = height - BOTTOM;
        for tick in y.ticks(self.y.ticks) {
            let at = y.at(tick);
            m.line("grid", (LEFT, at), (width - RIGHT, at));
            m.label("tick", Anchor::End, (LEFT - 6.0, at + 4.0), (self.y.tick)(tick));
        }
        for tick in x.ticks(self.x.ticks) {
            let at = x.at(tick);
            m.line("axis", (at, floor), (at, floor + 4.0));
            m.label("tick", Anchor::Middle, (at, floor + 17.0), (self.x.tick)(tick));
        }
        m.line("axis", (LEFT, floor), (width - RIGHT, floor));
        let middle = (LEFT + width - RIGHT) / 2.0;
        m.label("axis-title", Anchor::Middle, (middle, height - 6.0), self.x.title);
        if !self.y.title.is_empty() {
            m.label("axis-title", Anchor::Start, (4.0, 12.0), self.y.title);
        }
    }

    fn verticals(&self, m: &mut Markup, x: Scale, top: f64) {
        for (value, name) in &self.verticals {
            let at = x.at(*value);
            m.line("deadline", (at, top), (at, self.size.1 - BOTTOM));
            let floor = self.size.1 - BOTTOM;
            m.label("band-label halo", Anchor::End, (at - 3.0, floor - 5.0), name);
        }
    }

    fn line(&self, m: &mut Markup, line: &Line, x: Scale, y: Scale) {
        let finite = line.places.iter().filter(|(at, value)| at.is_finite() && value.is_finite());
        let places: Vec<(f64, f64)> = finite.map(|&(at, value)| (x.at(at), y.at(value))).collect();
        let style = match (line.faint, line.dashed) {
            (true, _) => "curve faint",
            (false, true) => "curve dashed",
            (false, false) => "curve",
        };
        m.group(&format!("{style} {}", line.class), |m| {
            m.polyline("stroke", &places);
            if self.dots && !line.faint {
                places.iter().for_each(|&place| m.dot("fill", place, 3.2, &line.name));
            }
        });
    }
}
