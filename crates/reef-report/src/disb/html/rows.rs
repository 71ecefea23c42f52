//! Horizontal bars with their values, for few numbers with long names.

use super::bars::{BOLD_SIZE, Group, values};
use super::markup::Markup;
use super::scale::Scale;
use super::svg::{Anchor, Area, fitted, text_width};
use super::text::NOTHING;

const WIDTH: f64 = 520.0;
const ROW: f64 = 26.0;
const VALUE_ROOM: f64 = 76.0;

/// Draws every bar of every group in a row of its own; bars of the same group stand close together.
pub(super) fn draw(m: &mut Markup, groups: &[Group], format: fn(f64) -> String) {
    let widest = groups.iter().map(|group| text_width(&group.label, BOLD_SIZE)).fold(20.0, f64::max);
    let left = (widest + 14.0).min(WIDTH / 3.0);
    let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
    let scale = Scale::from_zero(values(groups)).on(left, WIDTH - VALUE_ROOM + 30.0);
    m.svg("plot", (WIDTH, ROW * rows as f64 + 6.0), "bars", |m| {
        let mut y = 4.0;
        for group in groups {
            let height = ROW * group.bars.len() as f64;
            let name = fitted(&group.label, BOLD_SIZE, left - 12.0);
            m.label("group", Anchor::End, (left - 8.0, y + height / 2.0 + 3.0), name);
            for bar in &group.bars {
                let value = bar.value.filter(|value| value.is_finite());
                let end = scale.at(value.unwrap_or(0.0));
                m.group(&format!("bar {}", bar.class), |m| {
                    let area = Area::between((left, y + 3.0), (end.max(left + 1.0), y + ROW - 5.0));
                    m.rect("fill", area, &bar.title);
                });
                let text = value.map_or_else(|| NOTHING.to_string(), format);
                m.label("value", Anchor::Start, (end + 6.0, y + ROW / 2.0 + 3.0), text);
                y += ROW;
            }
        }
        m.line("axis", (left, 2.0), (left, y));
    });
}
