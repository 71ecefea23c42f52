//! Tables: a head that says on which side its column stands, rows of cells.

use std::fmt::Display;

use super::markup::Markup;

/// The head of a column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Head<'a> {
    /// Words; they stand on the left.
    Text(&'a str),
    /// Numbers; they stand on the right.
    Number(&'a str),
}

impl Markup {
    /// A table that scrolls where it is too wide for the window.
    pub(super) fn table(&mut self, heads: &[Head<'_>], rows: impl FnOnce(&mut Markup)) {
        self.div("scroll", |m| {
            m.element("table", &[], |m| {
                m.element("thead", &[], |m| {
                    m.row("", |m| {
                        for head in heads {
                            match head {
                                Head::Text(text) => m.leaf("th", &[], text),
                                Head::Number(text) => m.leaf("th", &[("class", &"n")], text),
                            }
                        }
                    });
                });
                m.element("tbody", &[], rows);
            });
        });
    }

    /// A row of a table.
    pub(super) fn row(&mut self, class: &str, cells: impl FnOnce(&mut Markup)) {
        match class {
            "" => self.element("tr", &[], cells),
            _ => self.element("tr", &[("class", &class)], cells),
        }
    }

    /// A row that names the rows below it.
    pub(super) fn row_over(&mut self, columns: usize, text: impl Display) {
        self.row("over", |m| m.leaf("th", &[("colspan", &columns), ("scope", &"colgroup")], text));
    }

    /// A cell with words.
    pub(super) fn cell(&mut self, text: impl Display) {
        self.leaf("td", &[], text);
    }

    /// A cell with words, of a class.
    pub(super) fn cell_of(&mut self, class: &str, text: impl Display) {
        self.leaf("td", &[("class", &class)], text);
    }

    /// A cell with a number.
    pub(super) fn number(&mut self, text: impl Display) {
        self.leaf("td", &[("class", &"n")], text);
    }

    /// Something long that is shown when asked for.
    pub(super) fn details(&mut self, summary: impl Display, content: impl FnOnce(&mut Markup)) {
        self.element("details", &[], |m| {
            m.leaf("summary", &[], summary);
            content(m);
        });
    }
}
