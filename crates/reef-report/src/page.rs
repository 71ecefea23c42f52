//! A page: a title and sections of texts, tables and charts, written as one file of HTML that opens without a
//! network and is read without a script, in light and in dark.
//!
//! Whatever is not a constant of this crate is escaped; control characters, which no browser shows, become
//! U+FFFD.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::chart::{self, Chart};
use crate::colour::Key;
use crate::table::{Table, swatch};
use crate::text::without_controls;

const STYLE: &str = include_str!("page.css");

/// A page.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The window's.
    pub title: String,
    /// A line above the heading: what this is a result of, and when.
    pub eyebrow: String,
    /// What it says, in a few words.
    pub heading: String,
    /// What came of it, before the sections.
    pub head: Vec<Block>,
    /// The rest.
    pub sections: Vec<Section>,
}

/// A part of a page.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// By what a link finds it.
    pub id: &'static str,
    /// Its heading.
    pub title: String,
    /// What stands in it.
    pub blocks: Vec<Block>,
}

/// What stands in a section.
#[derive(Clone, Debug)]
pub enum Block {
    /// A paragraph: its begin, which stands out, and the rest.
    Text(Tone, String, String),
    /// A heading in the section, or below another one.
    Heading(Size, String),
    /// A few numbers that stand for many: a title, then values and what they are.
    Tiles(String, Vec<(String, String)>),
    /// Names and what is behind them.
    Facts(Vec<(String, Fact)>),
    /// What colours and signs mean.
    Legend(Vec<Key>),
    /// A table.
    Table(Table),
    /// A chart.
    Chart(Box<Chart>),
    /// What belongs together: a title, how it is to be read, and charts.
    Figure(String, String, Vec<Block>),
    /// Blocks beside each other where there is room, each a group of its own.
    Beside(Columns, Vec<Vec<Block>>),
    /// Something long that is shown when asked for: its title, and what it is.
    Details(String, Vec<Block>),
}

/// How a paragraph is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// What the blocks below it show.
    Lead,
    /// How the blocks above it are to be read.
    Note,
    /// The same, about something that is not as it should be.
    BadNote,
    /// Numbers are doubtful.
    Warning,
    /// What came of everything.
    Verdict,
    /// The same: all is as it should be.
    Good,
    /// The same: something is not.
    Bad,
}

/// Which heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// In a section.
    Large,
    /// Below another one.
    Small,
}

/// A fact.
#[derive(Clone, Debug)]
pub enum Fact {
    /// In words.
    Text(String),
    /// As it is typed.
    Code(String),
}

/// How many blocks stand beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Two.
    Two,
    /// Three or so.
    Three,
    /// Four or so.
    Four,
}

impl Block {
    /// What the blocks below show.
    pub fn lead(text: impl Into<String>) -> Block {
        Block::Text(Tone::Lead, String::new(), text.into())
    }

    /// How the blocks above are to be read.
    pub fn note(text: impl Into<String>) -> Block {
        Block::Text(Tone::Note, String::new(), text.into())
    }

    /// A note about something that is not as it should be.
    pub fn bad_note(text: impl Into<String>) -> Block {
        Block::Text(Tone::BadNote, String::new(), text.into())
    }

    /// A reason to doubt numbers.
    pub fn warning(text: impl Into<String>) -> Block {
        Block::Text(Tone::Warning, String::new(), text.into())
    }

    /// A chart with a title and how it is to be read.
    pub fn figure(title: impl Into<String>, note: impl Into<String>, chart: Chart) -> Block {
        Block::Figure(title.into(), note.into(), vec![Block::chart(chart)])
    }

    /// A chart without a title.
    pub fn chart(chart: Chart) -> Block {
        Block::Chart(Box::new(chart))
    }

    /// A heading below another one.
    pub fn small(text: impl Into<String>) -> Block {
        Block::Heading(Size::Small, text.into())
    }
}

impl Section {
    /// A section; `id` is unique in a page.
    pub fn new(id: &'static str, title: impl Into<String>, blocks: Vec<Block>) -> Section {
        Section { id, title: title.into(), blocks }
    }
}

impl Page {
    /// As HTML.
    pub fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    style { (PreEscaped(chart::STYLE)) (PreEscaped(STYLE)) }
                }
                body {
                    // Hidden by its size: what is not displayed has no patterns.
                    svg width="0" height="0" style="position:absolute" aria-hidden="true" {
                        (PreEscaped(chart::PATTERNS))
                    }
                    main {
                        header {
                            p.eyebrow { (self.eyebrow) }
                            h1 { (self.heading) }
                            (blocks(&self.head))
                        }
                        @for section in &self.sections {
                            section id=(section.id) {
                                h2 { (section.title) }
                                (blocks(&section.blocks))
                            }
                        }
                    }
                }
            }
        };
        without_controls(page.into_string()) + "\n"
    }
}

fn blocks(all: &[Block]) -> Markup {
    html! { @for block in all { (block.html()) } }
}

impl Block {
    fn html(&self) -> Markup {
        match self {
            Block::Text(tone, begin, rest) => paragraph(*tone, begin, rest),
            Block::Heading(Size::Large, text) => html! { h3 { (text) } },
            Block::Heading(Size::Small, text) => html! { h4 { (text) } },
            Block::Tiles(title, tiles) => html! {
                p.tiles-title { (title) }
                div.tiles { @for (value, name) in tiles { div.tile { b { (value) } span { (name) } } } }
            },
            Block::Facts(facts) => html! {
                dl.facts {
                    @for (name, fact) in facts {
                        dt { (name) }
                        @match fact {
                            Fact::Text(text) => dd { (text) },
                            Fact::Code(text) => dd { code { (text) } },
                        }
                    }
                }
            },
            Block::Legend(keys) => html! {
                div.legend {
                    @for (class, text) in keys.iter().map(Key::parts) { (swatch(class, text)) }
                }
            },
            Block::Table(table) => table.html(),
            Block::Chart(chart) => chart.draw(),
            Block::Figure(title, note, content) => html! {
                figure { figcaption { b { (title) } " " (note) } (blocks(content)) }
            },
            Block::Beside(columns, groups) => html! {
                div class=(columns.class()) { @for group in groups { div.cell { (blocks(group)) } } }
            },
            Block::Details(title, content) => html! {
                details { summary { (title) } (blocks(content)) }
            },
        }
    }
}

fn paragraph(tone: Tone, begin: &str, rest: &str) -> Markup {
    let class = match tone {
        Tone::Plain => "method",
        Tone::Lead => "lead",
        Tone::Note => "note",
        Tone::BadNote => "note bad",
        Tone::Warning => "warning",
        Tone::Verdict => "verdict",
        Tone::Good => "verdict good",
        Tone::Bad => "verdict bad",
    };
    html! { p class=(class) { @if !begin.is_empty() { b { (begin) } " " } (rest) } }
}

impl Columns {
    fn class(self) -> &'static str {
        match self {
            Columns::Two => "pair",
            Columns::Three => "panels",
            Columns::Four => "panels small",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Cell, Head, Row};

    #[test]
    fn whatever_is_said_is_escaped() {
        let evil = "\"><script>alert('x')</script>\u{1}&";
        let row = Row::new(vec![Cell::text(evil).title(evil), Cell::number(evil)]);
        let table = Table { heads: vec![Head::Text("a"), Head::Number("b")], rows: vec![row] };
        let page = Page {
            title: evil.into(),
            eyebrow: evil.into(),
            heading: evil.into(),
            head: vec![Block::warning(evil), Block::Tiles(evil.into(), vec![(evil.into(), evil.into())])],
            sections: vec![Section::new("s", evil, vec![Block::Table(table), Block::note(evil)])],
        };
        let html = page.html();
        assert!(!html.contains("<script") && !html.contains('\u{1}'), "{html}");
        assert_eq!(html.matches("&quot;&gt;&lt;script&gt;").count(), 12);
    }
}
