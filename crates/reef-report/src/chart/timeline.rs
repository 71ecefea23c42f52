//! What ran where when: a lane per place, stretches in their colours, what was given up hatched, moments as
//! vertical lines.

use maud::{Markup, html};

use super::scale::Scale;
use super::svg::{Anchor, Area, group, label, line, rect, svg, text_width};
use crate::colour::Colour;
use crate::text::{time_tick_us, time_us};

const WIDTH: f64 = 1120.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const LANE: f64 = 24.0;
const MARK_ROW: f64 = 15.0;
/// More than this many lanes are not drawn: nobody could tell them apart.
const LANES_MAX: usize = 1024;

/// The chart. Times are microseconds from its begin.
#[derive(Clone, Debug, Default)]
pub struct Lanes {
    /// What it shows, for who cannot see it.
    pub label: String,
    /// What a lane is called, before its number.
    pub lane: &'static str,
    /// How many there are at least.
    pub lanes: usize,
    /// Its length.
    pub length_us: f64,
    /// What ran.
    pub stretches: Vec<Stretch>,
    /// What happened.
    pub moments: Vec<Moment>,
}

/// Something that ran for a while in a lane.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// The lane, from 0.
    pub lane: usize,
    /// When it began; may lie before the chart.
    pub begin_us: f64,
    /// When it ended; may lie behind it.
    pub end_us: f64,
    /// Its colour.
    pub colour: Colour,
    /// Whether what it did is lost.
    pub lost: bool,
    /// Written on it where there is room.
    pub name: String,
    /// Shown where the pointer rests on it.
    pub title: String,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Moment {
    /// When.
    pub at_us: f64,
    /// What.
    pub what: String,
}

impl Lanes {
    /// Whether there is anything that can be drawn.
    pub fn is_drawn(&self) -> bool {
        let length = self.length_us > 0.0 && self.length_us.is_finite();
        !self.stretches.is_empty() && length && self.count() <= LANES_MAX
    }

    fn count(&self) -> usize {
        self.stretches.iter().map(|stretch| stretch.lane.saturating_add(1)).max().unwrap_or(0).max(self.lanes)
    }

    pub(super) fn draw(&self) -> Markup {
        if !self.is_drawn() {
            return Markup::default();
        }
        let x = Scale::linear([0.0, self.length_us]).on(LEFT, WIDTH - RIGHT);
        let rows = moment_rows(&self.moments, x);
        let top = 6.0 + MARK_ROW * rows.iter().map(|row| row + 1).max().unwrap_or(0) as f64;
        let floor = top + LANE * self.count() as f64;
        let lane = |lane: usize| {
            let y = top + LANE * lane as f64;
            let area = Area::between((LEFT, y + 1.0), (WIDTH - RIGHT, y + LANE - 1.0));
            let name = format!("{} {lane}", self.lane);
            html! {
                (rect("lane", area, ""))
                (label("tick", Anchor::End, (LEFT - 7.0, y + LANE / 2.0 + 4.0), name))
            }
        };
        let content = html! {
            @for index in 0..self.count() { (lane(index)) }
            @for tick in x.ticks(10) {
                (line("axis", (x.at(tick), floor), (x.at(tick), floor + 4.0)))
                (label("tick", Anchor::Middle, (x.at(tick), floor + 17.0), time_tick_us(tick)))
            }
            (label("axis-title", Anchor::Middle, ((LEFT + WIDTH) / 2.0, floor + 34.0), "time"))
            @for stretch in &self.stretches { (stretch.draw(x, top)) }
            @for (moment, row) in self.moments.iter().zip(rows) {
                (moment.draw(x, (6.0 + MARK_ROW * row as f64, floor)))
            }
        };
        html! { div.scroll { (svg("plot timeline", (WIDTH, floor + 40.0), &self.label, content)) } }
    }
}

impl Stretch {
    fn draw(&self, x: Scale, top: f64) -> Markup {
        if !(self.end_us > x.from && self.begin_us < x.to) {
            return Markup::default();
        }
        let (from, to) = (x.at(self.begin_us), x.at(self.end_us));
        let y = top + LANE * self.lane as f64;
        let area = Area::between((from, y + 2.0), (to.max(from + 0.8), y + LANE - 2.0));
        let named = text_width(&self.name, 10.0) + 8.0 < area.width && !self.lost;
        let class = format!("{}{}", self.colour.class(), if self.lost { " t-killed" } else { "" });
        let content = html! {
            (rect("fill", area, &self.title))
            @if self.lost { (rect("hatch", area, &self.title)) }
            @if named { (label("span", Anchor::Start, (from + 4.0, y + LANE / 2.0 + 3.5), &self.name)) }
        };
        group(&class, content)
    }
}

impl Moment {
    fn draw(&self, x: Scale, (top, floor): (f64, f64)) -> Markup {
        let (at, text) = (x.at(self.at_us), self.text());
        let name = match at + text_width(&text, 11.5) + 6.0 > WIDTH {
            true => label("mark-label", Anchor::End, (at - 5.0, top + 9.0), text),
            false => label("mark-label", Anchor::Start, (at + 5.0, top + 9.0), text),
        };
        html! { (line("mark", (at, top), (at, floor))) (name) }
    }

    fn text(&self) -> String {
        format!("{} {}", self.what, time_us(self.at_us))
    }
}

/// In which row each moment's name stands, so that no two overlap.
fn moment_rows(moments: &[Moment], x: Scale) -> Vec<usize> {
    let mut taken: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut row_of = |moment: &Moment| {
        let (at, width) = (x.at(moment.at_us), text_width(&moment.text(), 11.5) + 14.0);
        // A name near the right edge stands left of its line.
        let (from, to) = if at + width > WIDTH { (at - width, at + 5.0) } else { (at - 5.0, at + width) };
        let is_free = |row: &Vec<(f64, f64)>| row.iter().all(|&(begin, end)| to <= begin || from >= end);
        let row = taken.iter().position(is_free).unwrap_or(taken.len());
        if row == taken.len() {
            taken.push(Vec::new());
        }
        taken[row].push((from, to));
        row
    };
    moments.iter().map(&mut row_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_moments_do_not_overlap() {
        let moment = |at_us: f64| Moment { at_us, what: "first block".into() };
        let x = Scale::linear([0.0, 1000.0]).on(LEFT, WIDTH - RIGHT);
        let crowded = [moment(100.0), moment(102.0), moment(104.0), moment(600.0)];
        assert_eq!(moment_rows(&crowded, x), [0, 1, 2, 0]);
        assert_eq!(moment_rows(&[moment(990.0), moment(995.0)], x), [0, 1]);
    }

    #[test]
    fn what_lies_outside_is_left_out() {
        let stretch = |begin_us, end_us| Stretch {
            lane: 0,
            begin_us,
            end_us,
            colour: Colour::BestEffort,
            lost: true,
            name: "k".into(),
            title: "t".into(),
        };
        let all = [(-20.0, -10.0), (-5.0, 5.0), (f64::NAN, f64::NAN), (200.0, 300.0)];
        let stretches = all.map(|(begin, end)| stretch(begin, end)).into();
        let lanes = Lanes { lane: "CU", lanes: 1, length_us: 100.0, stretches, ..Lanes::default() };
        assert_eq!(lanes.draw().into_string().matches("class=\"hatch\"").count(), 1);
    }
}
