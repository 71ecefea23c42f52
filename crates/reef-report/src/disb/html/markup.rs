//! Writing HTML and SVG: elements are closed in order, and whatever is not a constant of this program is
//! escaped. Nothing else in the page's code writes a `<`.

use std::fmt::{self, Display, Write as _};

/// Attributes of an element; their values are escaped.
pub(super) type Attributes<'a> = &'a [(&'a str, &'a dyn Display)];

/// Markup that is being written.
#[derive(Debug, Default)]
pub(super) struct Markup {
    out: String,
}

impl Markup {
    /// The text so far.
    pub(super) fn finish(self) -> String {
        self.out
    }

    /// An element with what `content` writes inside of it.
    pub(super) fn element(
        &mut self,
        name: &str,
        attributes: Attributes<'_>,
        content: impl FnOnce(&mut Markup),
    ) {
        self.open(name, attributes);
        self.out.push('>');
        content(self);
        let _ = write!(self.out, "</{name}>");
    }

    /// An element that holds text.
    pub(super) fn leaf(&mut self, name: &str, attributes: Attributes<'_>, text: impl Display) {
        self.element(name, attributes, |m| m.text(text));
    }

    /// An element without content.
    pub(super) fn void(&mut self, name: &str, attributes: Attributes<'_>) {
        self.open(name, attributes);
        self.out.push_str("/>");
    }

    /// Text.
    pub(super) fn text(&mut self, text: impl Display) {
        let _ = write!(Escaped(&mut self.out), "{text}");
    }

    /// Markup or a style sheet of this program's own, as it is.
    pub(super) fn constant(&mut self, markup: &'static str) {
        self.out.push_str(markup);
    }

    /// A `<div>` of a class.
    pub(super) fn div(&mut self, class: &str, content: impl FnOnce(&mut Markup)) {
        self.element("div", &[("class", &class)], content);
    }

    /// A paragraph of a class.
    pub(super) fn p(&mut self, class: &str, text: impl Display) {
        self.leaf("p", &[("class", &class)], text);
    }

    fn open(&mut self, name: &str, attributes: Attributes<'_>) {
        let _ = write!(self.out, "<{name}");
        for (key, value) in attributes {
            let _ = write!(self.out, " {key}=\"");
            let _ = write!(Escaped(&mut self.out), "{value}");
            self.out.push('"');
        }
    }
}

/// Escapes what is written through it. Control characters, which no browser shows, become U+FFFD.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            match char {
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '&' => self.0.push_str("&amp;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(char),
                _ if char.is_control() => self.0.push('\u{fffd}'),
                _ => self.0.push(char),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_are_escaped() {
        let mut m = Markup::default();
        let evil = "\"><script>alert('x')</script>\u{1}&";
        m.leaf("p", &[("title", &evil), ("width", &1.5)], evil);
        let escaped = "&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\u{fffd}&amp;";
        assert_eq!(m.finish(), format!("<p title=\"{escaped}\" width=\"1.5\">{escaped}</p>"));
    }

    #[test]
    fn elements_are_closed_in_order() {
        let mut m = Markup::default();
        m.div("a", |m| {
            m.element("p", &[], |m| m.leaf("b", &[], 1));
            m.void("br", &[]);
        });
        assert_eq!(m.finish(), "<div class=\"a\"><p><b>1</b></p><br/></div>");
    }
}
