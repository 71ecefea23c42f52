//! Tables: a head that says on which side its column stands, rows of cells.

use std::fmt::Display;

use maud::{Markup, html};

use crate::chart::Chart;
use crate::colour::Colour;

/// A table; it scrolls where it is too wide for the window.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The head of each column.
    pub heads: Vec<Head>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// The head of a column.
#[derive(Clone, Copy, Debug)]
pub enum Head {
    /// Words; they stand on the left.
    Text(&'static str),
    /// Numbers; they stand on the right.
    Number(&'static str),
}

/// A row.
#[derive(Clone, Debug, Default)]
pub struct Row {
    kind: Kind,
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Kind {
    #[default]
    Plain,
    Marked,
    Over,
    Axis,
}

/// A cell.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    number: bool,
    tone: Tone,
    title: String,
    span: usize,
    colour: Option<Colour>,
    chart: Option<Box<Chart>>,
}

/// How a cell's text is to be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// Of less weight.
    Faint,
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Something to look at.
    Warn,
}

impl Row {
    /// Cells, one per column.
    pub fn new(cells: Vec<Cell>) -> Row {
        Row { kind: Kind::Plain, cells }
    }

    /// The same, set apart if something is wrong with it.
    pub fn marked(self, wrong: bool) -> Row {
        Row { kind: if wrong { Kind::Marked } else { self.kind }, ..self }
    }

    /// A row that names the rows below it.
    pub fn over(columns: usize, text: impl Display) -> Row {
        Row { kind: Kind::Over, cells: vec![Cell::text(text).span(columns)] }
    }

    /// The row below charts, which holds their axis.
    pub fn axis(cells: Vec<Cell>) -> Row {
        Row { kind: Kind::Axis, cells }
    }
}

impl Cell {
    /// Words.
    pub fn text(text: impl Display) -> Cell {
        Cell { text: text.to_string(), span: 1, ..Cell::default() }
    }

    /// A number.
    pub fn number(text: impl Display) -> Cell {
        Cell { number: true, ..Cell::text(text) }
    }

    /// A small chart.
    pub fn chart(chart: Chart) -> Cell {
        Cell { chart: Some(Box::new(chart)), ..Cell::text("") }
    }

    /// The same with a tone.
    pub fn tone(self, tone: Tone) -> Cell {
        Cell { tone, ..self }
    }

    /// The same with what is shown where the pointer rests on it.
    pub fn title(self, title: impl Display) -> Cell {
        Cell { title: title.to_string(), ..self }
    }

    /// The same over so many columns.
    pub fn span(self, columns: usize) -> Cell {
        Cell { span: columns, ..self }
    }

    /// The same with the colour that it is known by.
    pub fn colour(self, colour: Colour) -> Cell {
        Cell { colour: Some(colour), ..self }
    }

    fn class(&self) -> Option<String> {
        let tone = match self.tone {
            Tone::Plain => "",
            Tone::Faint => "faint",
            Tone::Good => "good",
            Tone::Bad => "bad",
            Tone::Warn => "warn",
        };
        let plot = if self.chart.is_some() { "plot-cell" } else { "" };
        let all = [if self.number { "n" } else { "" }, tone, plot];
        let class = all.into_iter().filter(|class| !class.is_empty()).collect::<Vec<_>>().join(" ");
        (!class.is_empty()).then_some(class)
    }

    fn html(&self) -> Markup {
        let title = (!self.title.is_empty()).then_some(&self.title);
        let span = (self.span != 1).then_some(self.span);
        html! {
            td class=[self.class()] title=[title] colspan=[span] {
                @if let Some(chart) = &self.chart {
                    (chart.draw())
                } @else if let Some(colour) = self.colour {
                    (swatch(colour.class(), &self.text))
                } @else {
                    (self.text)
                }
            }
        }
    }
}

impl Table {
    pub(crate) fn html(&self) -> Markup {
        html! {
            div.scroll {
                table {
                    thead {
                        tr {
                            @for head in &self.heads {
                                @match head {
                                    Head::Text(text) => th { (text) },
                                    Head::Number(text) => th.n { (text) },
                                }
                            }
                        }
                    }
                    tbody { @for row in &self.rows { (row.html()) } }
                }
            }
        }
    }
}

impl Row {
    fn html(&self) -> Markup {
        let class = match self.kind {
            Kind::Plain => None,
            Kind::Marked => Some("marked"),
            Kind::Over => Some("over"),
            Kind::Axis => Some("axis-row"),
        };
        html! {
            tr class=[class] {
                @for cell in &self.cells {
                    @match self.kind {
                        Kind::Over => th colspan=(cell.span) scope="colgroup" { (cell.text) },
                        _ => (cell.html()),
                    }
                }
            }
        }
    }
}

/// A name with its colour, or another sign that the style sheet knows.
pub(crate) fn swatch(class: &str, text: &str) -> Markup {
    html! { span class={ "swatch " (class) } { i {} (text) } }
}
