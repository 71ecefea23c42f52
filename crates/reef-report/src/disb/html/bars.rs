//! Grouped bars: one group per workload or model, one bar per condition, with noise, whiskers and bounds.
//!
//! A plot of more than a few groups is drawn twice, once in one row and once in several shorter ones; the
//! style sheet shows the one that the window has room for, so that letters keep their size.

use super::markup::Markup;
use super::scale::{Kind, Scale};
use super::svg::{Anchor, Area, fitted, text_width};
use super::text::{NOTHING, extent};

const LEFT: f64 = 62.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 26.0;
const HEIGHT: f64 = 270.0;
/// What the page has room for.
const WIDTH_MAX: f64 = 1180.0;
const GROUP_WIDTH: f64 = 184.0;
const BAR_MAX: f64 = 46.0;
/// Groups in a row where there is little room.
const FEW: usize = 3;
const LABEL_SIZE: f64 = 11.0;
/// Names of groups are 13 pixels high, but bold, which makes them as wide as others of this size.
pub(super) const BOLD_SIZE: f64 = 15.5;
/// Above this ratio of largest to smallest, ratios get a logarithmic axis.
const WIDE_RANGE: f64 = 4.0;

/// One bar.
#[derive(Clone, Debug, Default)]
pub(super) struct Bar {
    /// The class of its colour.
    pub(super) class: String,
    /// Its height; `None` where nothing was measured.
    pub(super) value: Option<f64>,
    /// What stands above it.
    pub(super) label: String,
    /// Half the length of its error bar.
    pub(super) noise: Option<f64>,
    /// Where a whisker ends that begins at its top, and what stands above that.
    pub(super) whisker: Option<(f64, String)>,
    /// A mark across it.
    pub(super) bound: Option<f64>,
    /// Whether it is a lower bound.
    pub(super) saturated: bool,
    /// Shown where the pointer rests on it.
    pub(super) title: String,
}

/// Bars that stand together.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// Their common name.
    pub(super) label: String,
    /// A stretch that noise alone explains.
    pub(super) noise: Option<(f64, f64)>,
    /// The bars.
    pub(super) bars: Vec<Bar>,
}

/// A stretch of the axis that the paper names.
#[derive(Clone, Debug)]
pub(super) struct Band {
    /// The class of its colour.
    pub(super) class: String,
    pub(super) from: f64,
    pub(super) to: f64,
    /// What it is, in a few words.
    pub(super) label: String,
}

/// A whole plot.
#[derive(Clone, Debug)]
pub(super) struct BarPlot {
    /// What it shows, for who cannot see it.
    pub(super) title: String,
    /// Values of the vertical axis.
    pub(super) axis: Scale,
    /// Where bars begin.
    pub(super) base: f64,
    /// A line across the whole plot.
    pub(super) line: Option<f64>,
    /// How ticks are written.
    pub(super) tick: fn(f64) -> String,
    pub(super) bands: Vec<Band>,
    pub(super) groups: Vec<Group>,
}

/// An axis for ratios and where bars on it begin: at 0, or at 1 where the range is so wide that the axis is
/// logarithmic.
pub(super) fn ratio_axis(groups: &[Group]) -> (Scale, f64) {
    let all = || values(groups).chain([1.0]);
    match extent(all().filter(|&value| value > 0.0)) {
        Some((low, high)) if high / low.min(1.0) > WIDE_RANGE => (Scale::log(all(), 1.12), 1.0),
        _ => (Scale::from_zero(all()), 0.0),
    }
}

/// Everything that has to lie on the axis.
pub(super) fn values(groups: &[Group]) -> impl Iterator<Item = f64> {
    groups.iter().flat_map(|group| &group.bars).flat_map(|bar| {
        let top = bar.value.zip(bar.noise).map(|(value, noise)| value + noise);
        let whisker = bar.whisker.as_ref().map(|(end, _)| *end);
        [bar.value, top, whisker, bar.bound].into_iter().flatten()
    })
}

/// What is written above a bar.
struct Label<'a> {
    class: &'static str,
    text: &'a str,
    place: (f64, f64),
}

/// Where a row of groups is drawn.
struct Frame<'a> {
    plot: &'a BarPlot,
    axis: Scale,
    left: f64,
    right: f64,
    group_width: f64,
    bar_width: f64,
    upright: bool,
}

impl BarPlot {
    /// Draws it in as many rows as there is room for.
    pub(super) fn draw(&self, m: &mut Markup) {
        if self.groups.len() <= FEW {
            return self.draw_row(m, &self.groups, self.groups.len());
        }
        m.div("wide", |m| self.draw_row(m, &self.groups, self.groups.len()));
        m.div("narrow", |m| self.groups.chunks(FEW).for_each(|groups| self.draw_row(m, groups, FEW)));
    }

    /// Draws `groups` where there is room for `slots` of them.
    fn draw_row(&self, m: &mut Markup, groups: &[Group], slots: usize) {
        let margin = self.bands.iter().map(|band| text_width(&band.label, LABEL_SIZE) + 8.0);
        let margin = margin.fold(8.0, f64::max);
        let room = (WIDTH_MAX - LEFT - margin) / slots.max(1) as f64;
        let group_width = room.min(GROUP_WIDTH);
        let right = LEFT + group_width * slots as f64;
        let most = self.groups.iter().map(|group| group.bars.len()).max().unwrap_or(1).max(1);
        let bar_width = (group_width * 0.88 / most as f64).min(BAR_MAX);
        let labels = self.groups.iter().flat_map(|group| &group.bars);
        let widest = labels.map(|bar| text_width(&bar.label, LABEL_SIZE)).fold(0.0, f64::max);
        let frame = Frame {
            plot: self,
            axis: self.axis.on(HEIGHT - BOTTOM, TOP),
            left: LEFT,
            right,
            group_width,
            bar_width,
            upright: widest > bar_width + 3.0,
        };
        m.svg("plot", (right + margin, HEIGHT), &self.title, |m| frame.draw(m, groups));
    }
}

impl Frame<'_> {
    fn draw(&self, m: &mut Markup, groups: &[Group]) {
        self.bands(m);
        self.grid(m);
        let mut labels = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            let begin = self.left + self.group_width * index as f64;
            self.group(m, group, begin, &mut labels);
        }
        if let Some(value) = self.plot.line {
            let y = self.axis.at(value);
            m.line("reference", (self.left, y), (self.right, y));
        }
        labels.iter().for_each(|label| self.value(m, label));
    }

    fn bands(&self, m: &mut Markup) {
        for band in &self.plot.bands {
            let (low, high) = (self.axis.at(band.from), self.axis.at(band.to));
            let (low, high) = if low - high < 3.0 { (low + 1.5, high - 1.5) } else { (low, high) };
            let class = format!("band {}", band.class);
            m.rect(&class, Area::between((self.left, high), (self.right, low)), &band.label);
            let place = (self.right + 6.0, (low + high) / 2.0 + 4.0);
            m.label("band-label", Anchor::Start, place, &band.label);
        }
    }

    fn grid(&self, m: &mut Markup) {
        for tick in self.axis.ticks(7) {
            let y = self.axis.at(tick);
            m.line("grid", (self.left, y), (self.right, y));
            m.label("tick", Anchor::End, (self.left - 7.0, y + 4.0), (self.plot.tick)(tick));
        }
        let y = self.axis.at(self.plot.base);
        m.line("axis", (self.left, y), (self.right, y));
    }

    /// Draws a group; puts off what is written above its bars.
    fn group<'a>(&self, m: &mut Markup, group: &'a Group, begin: f64, labels: &mut Vec<Label<'a>>) {
        let middle = begin + self.group_width / 2.0;
        m.label(
            "group",
            Anchor::Middle,
            (middle, HEIGHT - 7.0),
            fitted(&group.label, BOLD_SIZE, self.group_width - 6.0),
        );
        let used = self.bar_width * group.bars.len() as f64;
        if let Some((low, high)) = group.noise {
            let corner = (middle - used / 2.0 - 5.0, self.axis.at(high));
            let opposite = (middle + used / 2.0 + 5.0, self.axis.at(low));
            m.rect("noise-band", Area::between(corner, opposite), "the reference against itself");
        }
        for (index, bar) in group.bars.iter().enumerate() {
            let begin = middle - used / 2.0 + self.bar_width * index as f64;
            self.bar(m, bar, begin, labels);
        }
    }

    fn bar<'a>(&self, m: &mut Markup, bar: &'a Bar, x: f64, labels: &mut Vec<Label<'a>>) {
        let (from, middle, to) = (x + 1.5, x + self.bar_width / 2.0, x + self.bar_width - 1.5);
        let base = self.axis.at(self.plot.base);
        let Some(value) = bar.value.filter(|value| value.is_finite()) else {
            return labels.push(Label { class: "value faint", text: NOTHING, place: (middle, base - 5.0) });
        };
        let y = self.axis.at(value);
        // So that a bar of no height can be seen.
        let (low, high) = if (base - y).abs() < 2.0 { (base + 1.0, base - 1.0) } else { (base, y) };
        let area = Area::between((from, low), (to, high));
        m.group(&format!("bar {}", bar.class), |m| {
            m.rect("fill", area, &bar.title);
            if bar.saturated {
                m.rect("hatch", area, &bar.title);
            }
        });
        let mut top = y.min(base);
        if let Some(noise) = bar.noise {
            top = top.min(self.noise(m, value, noise, middle));
        }
        if let Some(bound) = bar.bound {
            let at = self.axis.at(bound);
            m.line("bound", (from - 0.5, at), (to + 0.5, at));
            top = top.min(at);
        }
        let place = (middle, self.clear_of_line(top) - 5.0);
        if let Some((end, text)) = &bar.whisker {
            let end = self.axis.at(*end);
            // Not through the label.
            let label = if self.upright { text_width(&bar.label, LABEL_SIZE) } else { LABEL_SIZE };
            let begin = y.min(place.1 - label - 1.0);
            if end < begin {
                m.line("whisker", (middle, begin), (middle, end));
            }
            m.line("whisker", (middle - 5.0, end), (middle + 5.0, end));
            let above = (middle, (end - 5.0).min(place.1 - LABEL_SIZE - 2.0));
            if !self.upright {
                labels.push(Label { class: "value soft", text, place: above });
            }
        }
        let class = if bar.saturated { "value bad" } else { "value" };
        labels.push(Label { class, text: &bar.label, place });
    }

    /// A label that would stand on the line across the plot stands above it.
    fn clear_of_line(&self, top: f64) -> f64 {
        let line = self.plot.line.map(|value| self.axis.at(value));
        line.filter(|line| (top - 18.0..top).contains(line)).unwrap_or(top)
    }

    /// Draws an error bar; gives back its upper end.
    fn noise(&self, m: &mut Markup, value: f64, noise: f64, middle: f64) -> f64 {
        let low = match self.axis.kind {
            Kind::Log => (value - noise).max(self.axis.from),
            Kind::Linear => value - noise,
        };
        let (low, high) = (self.axis.at(low), self.axis.at(value + noise));
        m.line("error", (middle, low), (middle, high));
        m.line("error", (middle - 3.0, low), (middle + 3.0, low));
        m.line("error", (middle - 3.0, high), (middle + 3.0, high));
        high
    }

    fn value(&self, m: &mut Markup, label: &Label<'_>) {
        let (x, y) = label.place;
        if self.upright && label.text != NOTHING {
            m.label_up(label.class, (x + 4.0, y), label.text);
        } else {
            m.label(label.class, Anchor::Middle, label.place, label.text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disb::html::text::ratio;

    fn plot(bars: &[Option<f64>], groups: usize) -> String {
        let bar = |&value: &Option<f64>| Bar {
            class: "c-reset".into(),
            value,
            label: value.map_or_else(String::new, ratio),
            noise: Some(f64::NAN),
            bound: Some(1.5),
            whisker: Some((f64::INFINITY, "p99".into())),
            ..Bar::default()
        };
        let group = Group { label: "A".into(), noise: None, bars: bars.iter().map(bar).collect() };
        let groups = vec![group; groups];
        let (axis, base) = ratio_axis(&groups);
        let bands = vec![Band { class: "c-wait".into(), from: 1.0, to: 1.0, label: "so".into() }];
        let plot = BarPlot { title: "t".into(), axis, base, line: Some(1.0), tick: ratio, bands, groups };
        let mut m = Markup::default();
        plot.draw(&mut m);
        m.finish()
    }

    #[test]
    fn many_groups_are_drawn_for_both_widths() {
        assert_eq!(plot(&[Some(1.0)], 6).matches("<svg").count(), 3);
        assert_eq!(plot(&[Some(1.0)], 3).matches("<svg").count(), 1);
    }

    #[test]
    fn odd_values_leave_no_trace() {
        let text = plot(&[None, Some(f64::NAN), Some(0.0), Some(-1.0), Some(1e12)], 1);
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        assert!(!plot(&[], 2).is_empty());
    }

    #[test]
    fn a_wide_range_gets_a_logarithmic_axis_from_one() {
        let groups = |values: &[f64]| {
            let bars = values.iter().map(|&value| Bar { value: Some(value), ..Bar::default() }).collect();
            vec![Group { bars, ..Group::default() }]
        };
        let (axis, base) = ratio_axis(&groups(&[1.01, 3.2]));
        assert_eq!((axis.kind, base), (Kind::Linear, 0.0));
        let (axis, base) = ratio_axis(&groups(&[0.7, 36.0]));
        assert_eq!((axis.kind, base), (Kind::Log, 1.0));
    }
}
