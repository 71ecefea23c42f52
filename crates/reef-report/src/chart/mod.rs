//! Charts: drawings of numbers, for pages and as pictures of their own. What is no number is left out, and
//! never reaches a drawing.
//!
//! | module | owns |
//! |---|---|
//! | `bars` | groups of bars, with noise, whiskers and bounds |
//! | `rows` | horizontal bars, for few numbers with long names |
//! | `lines` | lines and cumulative distributions, in small panels |
//! | `timeline` | what ran where when |
//! | `spread` | a dot and how far it spreads, in a cell of a table |
//! | `picture` | a chart of bars as an SVG file |
//! | `scale`, `svg` | places on axes; the shapes that all are made of |

mod bars;
mod lines;
mod picture;
mod rows;
mod scale;
mod spread;
mod svg;
mod timeline;

use maud::Markup;

pub use bars::{Band, Bar, Bars, Group, ratio_axis, values};
pub use lines::{Axis, Line, Lines};
pub use picture::picture;
pub use rows::Rows;
pub use scale::{Kind, Scale};
pub use spread::Spread;
pub use timeline::{Lanes, Moment, Stretch};

/// Patterns that drawings refer to.
pub(crate) const PATTERNS: &str = r#"<defs><pattern id="hatch" width="6" height="6"
patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hatch-line" width="2.4" height="6"/>
</pattern></defs>"#;

/// The style sheet of charts.
pub(crate) const STYLE: &str = include_str!("chart.css");

/// A chart.
#[derive(Clone, Debug)]
pub enum Chart {
    /// Groups of bars.
    Bars(Bars),
    /// Horizontal bars.
    Rows(Rows),
    /// Lines in a panel.
    Lines(Lines),
    /// A timeline.
    Lanes(Lanes),
    /// A dot and how far it spreads.
    Spread(Spread),
    /// The axis of a column of these.
    SpreadAxis(Scale),
}

impl Chart {
    pub(crate) fn draw(&self) -> Markup {
        match self {
            Chart::Bars(bars) => bars.draw(),
            Chart::Rows(rows) => rows.draw(),
            Chart::Lines(lines) => lines.draw(),
            Chart::Lanes(lanes) => lanes.draw(),
            Chart::Spread(spread) => spread.draw(),
            Chart::SpreadAxis(scale) => spread::axis(*scale),
        }
    }
}
