//! Horizontal bars with their values, for few numbers with long names.

use maud::{Markup, html};

use super::bars::{BOLD_SIZE, Group, values};
use super::scale::Scale;
use super::svg::{Anchor, Area, fitted, group, label, line, rect, svg, text_width};
use crate::text::NOTHING;

const WIDTH: f64 = 520.0;
const ROW: f64 = 26.0;
const VALUE_ROOM: f64 = 76.0;

/// The chart: every bar of every group in a row of its own, bars of the same group close together.
#[derive(Clone, Debug)]
pub struct Rows {
    /// What it shows, for who cannot see it.
    pub label: String,
    /// The bars.
    pub groups: Vec<Group>,
}

impl Rows {
    pub(super) fn draw(&self) -> Markup {
        let widest = self.groups.iter().map(|group| text_width(&group.label, BOLD_SIZE)).fold(20.0, f64::max);
        let left = (widest + 14.0).min(WIDTH / 3.0);
        let scale = Scale::from_zero(values(&self.groups)).on(left, WIDTH - VALUE_ROOM + 30.0);
        let mut drawn = Vec::new();
        let mut y = 4.0;
        for Group { label: name, bars, .. } in &self.groups {
            let middle = y + ROW * bars.len() as f64 / 2.0 + 3.0;
            let name = fitted(name, BOLD_SIZE, left - 12.0);
            drawn.push(label("group", Anchor::End, (left - 8.0, middle), name));
            for bar in bars {
                let value = bar.value.filter(|value| value.is_finite());
                let end = scale.at(value.unwrap_or(0.0));
                let area = Area::between((left, y + 3.0), (end.max(left + 1.0), y + ROW - 5.0));
                drawn.push(group(&bar.class(), rect("fill", area, &bar.title)));
                let text = if value.is_some() { &bar.label } else { NOTHING };
                drawn.push(label("value", Anchor::Start, (end + 6.0, y + ROW / 2.0 + 3.0), text));
                y += ROW;
            }
        }
        drawn.push(line("axis", (left, 2.0), (left, y)));
        svg("plot", (WIDTH, y + 2.0), &self.label, html! { @for shape in &drawn { (shape) } })
    }
}
