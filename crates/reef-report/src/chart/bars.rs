//! Grouped bars: one group per workload or model, one bar per condition, with noise, whiskers and bounds.
//!
//! A plot of more than a few groups is drawn twice, once in one row and once in several shorter ones; the
//! style sheet shows the one that the window has room for, so that letters keep their size.

use maud::{Markup, html};

use super::scale::{Kind, Scale};
use super::svg::{Anchor, Area, fitted, group, label, label_up, line, rect, svg, text_width};
use crate::colour::Colour;
use crate::text::{NOTHING, extent};

const LEFT: f64 = 62.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 26.0;
const HEIGHT: f64 = 270.0;
/// What a page has room for.
const PAGE_WIDTH: f64 = 1180.0;
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
pub struct Bar {
    /// Its colour.
    pub colour: Colour,
    /// Whether it is of less weight than others of this colour.
    pub light: bool,
    /// Its height; `None` where nothing was measured.
    pub value: Option<f64>,
    /// What stands above it.
    pub label: String,
    /// Half the length of its error bar.
    pub noise: Option<f64>,
    /// Where a whisker ends that begins at its top, and what stands above that.
    pub whisker: Option<(f64, String)>,
    /// A mark across it.
    pub bound: Option<f64>,
    /// Whether it is a lower bound.
    pub saturated: bool,
    /// Shown where the pointer rests on it.
    pub title: String,
}

/// Bars that stand together.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Their common name.
    pub label: String,
    /// A stretch that noise alone explains.
    pub noise: Option<(f64, f64)>,
    /// The bars.
    pub bars: Vec<Bar>,
}

/// A stretch of an axis.
#[derive(Clone, Debug)]
pub struct Band {
    /// Its colour.
    pub colour: Colour,
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// What it is, in a few words.
    pub label: String,
}

/// The chart.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What it shows, for who cannot see it.
    pub label: String,
    /// Values of the vertical axis.
    pub axis: Scale,
    /// Where bars begin.
    pub base: f64,
    /// A line across the whole plot.
    pub line: Option<f64>,
    /// How ticks are written.
    pub tick: fn(f64) -> String,
    /// Stretches of the axis that are named beside it.
    pub bands: Vec<Band>,
    /// The bars.
    pub groups: Vec<Group>,
}

/// An axis for ratios and where bars on it begin: at 0, or at 1 where the range is so wide that the axis is
/// logarithmic.
pub fn ratio_axis(groups: &[Group]) -> (Scale, f64) {
    let all = || values(groups).chain([1.0]);
    match extent(all().filter(|&value| value > 0.0)) {
        Some((low, high)) if high / low.min(1.0) > WIDE_RANGE => (Scale::log(all(), 1.12), 1.0),
        _ => (Scale::from_zero(all()), 0.0),
    }
}

/// Everything that has to lie on the axis.
pub fn values(groups: &[Group]) -> impl Iterator<Item = f64> {
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
    plot: &'a Bars,
    axis: Scale,
    left: f64,
    right: f64,
    group_width: f64,
    bar_width: f64,
    upright: bool,
}

impl Bar {
    /// Its class in the style sheet.
    pub(super) fn class(&self) -> String {
        format!("bar {}{}", self.colour.class(), if self.light { " light" } else { "" })
    }
}

impl Bars {
    /// Draws it in as many rows as there is room for.
    pub(super) fn draw(&self) -> Markup {
        let row = |groups: &[Group], slots: usize| {
            let (size, content) = self.row(groups, slots, PAGE_WIDTH);
            svg("plot", size, &self.label, content)
        };
        let all = row(&self.groups, self.groups.len());
        if self.groups.len() <= FEW {
            return all;
        }
        html! {
            div.wide { (all) }
            div.narrow { @for groups in self.groups.chunks(FEW) { (row(groups, FEW)) } }
        }
    }

    /// All groups in one row at most so wide: its size and what is drawn.
    pub(super) fn in_one_row(&self, width: f64) -> ((f64, f64), Markup) {
        self.row(&self.groups, self.groups.len(), width)
    }

    /// Some groups where there is room for `slots` of them.
    fn row(&self, groups: &[Group], slots: usize, width: f64) -> ((f64, f64), Markup) {
        let margin = self.bands.iter().map(|band| text_width(&band.label, LABEL_SIZE) + 8.0);
        let margin = margin.fold(8.0, f64::max);
        let room = (width - LEFT - margin) / slots.max(1) as f64;
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
        ((right + margin, HEIGHT), frame.draw(groups))
    }
}

impl Frame<'_> {
    fn draw(&self, groups: &[Group]) -> Markup {
        let mut labels = Vec::new();
        let place = |index: usize| self.left + self.group_width * index as f64;
        let groups: Vec<Markup> = groups
            .iter()
            .enumerate()
            .map(|(index, group)| self.group(group, place(index), &mut labels))
            .collect();
        html! {
            @for band in &self.plot.bands { (self.band(band)) }
            (self.grid())
            @for group in &groups { (group) }
            @if let Some(y) = self.plot.line.map(|value| self.axis.at(value)) {
                (line("reference", (self.left, y), (self.right, y)))
            }
            @for label in &labels { (self.value(label)) }
        }
    }

    fn band(&self, band: &Band) -> Markup {
        let (low, high) = band.ends(self.axis);
        let place = (self.right + 6.0, (low + high) / 2.0 + 4.0);
        html! {
            (band.draw((self.left, self.right), self.axis))
            (label("band-label", Anchor::Start, place, &band.label))
        }
    }

    fn grid(&self) -> Markup {
        let base = self.axis.at(self.plot.base);
        html! {
            @for (tick, y) in self.axis.ticks(7).into_iter().map(|tick| (tick, self.axis.at(tick))) {
                (line("grid", (self.left, y), (self.right, y)))
                (label("tick", Anchor::End, (self.left - 7.0, y + 4.0), (self.plot.tick)(tick)))
            }
            (line("axis", (self.left, base), (self.right, base)))
        }
    }

    /// Draws a group; puts off what is written above its bars.
    fn group<'a>(&self, group: &'a Group, begin: f64, labels: &mut Vec<Label<'a>>) -> Markup {
        let middle = begin + self.group_width / 2.0;
        let name = fitted(&group.label, BOLD_SIZE, self.group_width - 6.0);
        let used = self.bar_width * group.bars.len() as f64;
        let noise = group.noise.map(|(low, high)| {
            let corner = (middle - used / 2.0 - 5.0, self.axis.at(high));
            let opposite = (middle + used / 2.0 + 5.0, self.axis.at(low));
            rect("noise-band", Area::between(corner, opposite), "the reference against itself")
        });
        let place = |index: usize| middle - used / 2.0 + self.bar_width * index as f64;
        html! {
            (label("group", Anchor::Middle, (middle, HEIGHT - 7.0), name))
            @if let Some(noise) = noise { (noise) }
            @for (index, bar) in group.bars.iter().enumerate() { (self.bar(bar, place(index), labels)) }
        }
    }

    fn bar<'a>(&self, bar: &'a Bar, x: f64, labels: &mut Vec<Label<'a>>) -> Markup {
        let (from, middle, to) = (x + 1.5, x + self.bar_width / 2.0, x + self.bar_width - 1.5);
        let base = self.axis.at(self.plot.base);
        let Some(value) = bar.value.filter(|value| value.is_finite()) else {
            labels.push(Label { class: "value faint", text: NOTHING, place: (middle, base - 5.0) });
            return Markup::default();
        };
        let y = self.axis.at(value);
        // So that a bar of no height can be seen.
        let (low, high) = if (base - y).abs() < 2.0 { (base + 1.0, base - 1.0) } else { (base, y) };
        let area = Area::between((from, low), (to, high));
        let fill = html! {
            (rect("fill", area, &bar.title))
            @if bar.saturated { (rect("hatch", area, &bar.title)) }
        };
        let noise = bar.noise.map(|noise| self.noise(value, noise, middle));
        let bound = bar.bound.map(|bound| self.axis.at(bound));
        let tops = [noise.as_ref().map(|noise| noise.0), bound];
        let top = tops.into_iter().flatten().fold(y.min(base), f64::min);
        let place = (middle, self.clear_of_line(top) - 5.0);
        let whisker =
            bar.whisker.as_ref().map(|(end, text)| self.whisker(bar, (*end, text), (y, place), labels));
        let class = if bar.saturated { "value bad" } else { "value" };
        labels.push(Label { class, text: &bar.label, place });
        html! {
            (group(&bar.class(), fill))
            @if let Some((_, noise)) = noise { (noise) }
            @if let Some(at) = bound { (line("bound", (from - 0.5, at), (to + 0.5, at))) }
            @if let Some(whisker) = whisker { (whisker) }
        }
    }

    /// Draws a whisker from the top of a bar, not through its label at `place`.
    fn whisker<'a>(
        &self,
        bar: &'a Bar,
        (end, text): (f64, &'a str),
        (top, place): (f64, (f64, f64)),
        labels: &mut Vec<Label<'a>>,
    ) -> Markup {
        let (middle, end) = (place.0, self.axis.at(end));
        let height = if self.upright { text_width(&bar.label, LABEL_SIZE) } else { LABEL_SIZE };
        let begin = top.min(place.1 - height - 1.0);
        if !self.upright {
            let above = (middle, (end - 5.0).min(place.1 - LABEL_SIZE - 2.0));
            labels.push(Label { class: "value soft", text, place: above });
        }
        html! {
            @if end < begin { (line("whisker", (middle, begin), (middle, end))) }
            (line("whisker", (middle - 5.0, end), (middle + 5.0, end)))
        }
    }

    /// A label that would stand on the line across the plot stands above it.
    fn clear_of_line(&self, top: f64) -> f64 {
        let line = self.plot.line.map(|value| self.axis.at(value));
        line.filter(|line| (top - 18.0..top).contains(line)).unwrap_or(top)
    }

    /// An error bar: its upper end, and what is drawn.
    fn noise(&self, value: f64, noise: f64, middle: f64) -> (f64, Markup) {
        let low = match self.axis.kind {
            Kind::Log => (value - noise).max(self.axis.from),
            Kind::Linear => value - noise,
        };
        let (low, high) = (self.axis.at(low), self.axis.at(value + noise));
        let drawn = html! {
            (line("error", (middle, low), (middle, high)))
            (line("error", (middle - 3.0, low), (middle + 3.0, low)))
            (line("error", (middle - 3.0, high), (middle + 3.0, high)))
        };
        (high, drawn)
    }

    fn value(&self, written: &Label<'_>) -> Markup {
        let Label { class, text, place } = *written;
        match self.upright && text != NOTHING {
            true => label_up(class, (place.0 + 4.0, place.1), text),
            false => label(class, Anchor::Middle, place, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::ratio;

    fn plot(bars: &[Option<f64>], groups: usize) -> String {
        let bar = |&value: &Option<f64>| Bar {
            colour: Colour::Reset,
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
        let bands = vec![Band { colour: Colour::Wait, from: 1.0, to: 1.0, label: "so".into() }];
        let plot = Bars { label: "t".into(), axis, base, line: Some(1.0), tick: ratio, bands, groups };
        plot.draw().into_string()
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
