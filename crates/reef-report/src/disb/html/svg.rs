//! The few shapes that figures are made of. Lengths are CSS pixels of the drawing's own size; colours come
//! from classes of the style sheet.

use std::fmt::{self, Display};

use super::markup::Markup;

/// A length; never anything but a number with a decimal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Px(pub(super) f64);

impl Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded = (self.0 * 10.0).round() / 10.0;
        // Plus zero: no "-0".
        if rounded.is_finite() { write!(f, "{}", rounded + 0.0) } else { f.write_str("0") }
    }
}

/// Where a text's given place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// At its begin.
    Start,
    /// In its middle.
    Middle,
    /// At its end.
    End,
}

impl Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        })
    }
}

/// A rectangle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    /// Between two corners, whichever way round.
    pub(super) fn between((x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> Area {
        Area { x: x1.min(x2), y: y1.min(y2), width: (x2 - x1).abs(), height: (y2 - y1).abs() }
    }
}

/// About how wide a text is in a font of `size`.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let width = |char: char| match char {
        '.' | ',' | ' ' | '\u{202f}' | 'i' | 'l' | 'j' | ':' | '\'' | '|' => 0.3,
        'm' | 'w' | 'M' | 'W' | '%' | '×' => 0.85,
        'A'..='Z' => 0.68,
        _ => 0.56,
    };
    text.chars().map(width).sum::<f64>() * size
}

/// As much of a text as has room.
pub(super) fn fitted(text: &str, size: f64, room: f64) -> String {
    if text_width(text, size) <= room {
        return text.to_string();
    }
    let mut used = text_width("…", size);
    let fits = |char: &char| {
        used += text_width(char.encode_utf8(&mut [0; 4]), size);
        used <= room
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

impl Markup {
    /// A drawing of this size; `label` says what it shows to who cannot see it.
    pub(super) fn svg(
        &mut self,
        class: &str,
        (width, height): (f64, f64),
        label: &str,
        content: impl FnOnce(&mut Markup),
    ) {
        let view = format!("0 0 {} {}", Px(width), Px(height));
        let (width, height) = (Px(width), Px(height));
        self.element(
            "svg",
            &[
                ("class", &class),
                ("viewBox", &view),
                ("width", &width),
                ("height", &height),
                ("role", &"img"),
                ("aria-label", &label),
            ],
            content,
        );
    }

    /// A group of a class.
    pub(super) fn group(&mut self, class: &str, content: impl FnOnce(&mut Markup)) {
        self.element("g", &[("class", &class)], content);
    }

    /// A line.
    pub(super) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(Px);
        self.void("line", &[("class", &class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)]);
    }

    /// A rectangle; `title` is shown where the pointer rests on it, unless it is empty.
    pub(super) fn rect(&mut self, class: &str, area: Area, title: &str) {
        let [x, y, width, height] = [area.x, area.y, area.width, area.height].map(Px);
        let attributes: [(&str, &dyn Display); 5] =
            [("class", &class), ("x", &x), ("y", &y), ("width", &width), ("height", &height)];
        match title {
            "" => self.void("rect", &attributes),
            _ => self.element("rect", &attributes, |m| m.leaf("title", &[], title)),
        }
    }

    /// A text.
    pub(super) fn label(&mut self, class: &str, anchor: Anchor, (x, y): (f64, f64), text: impl Display) {
        let [x, y] = [x, y].map(Px);
        self.leaf("text", &[("class", &class), ("x", &x), ("y", &y), ("text-anchor", &anchor)], text);
    }

    /// A text that reads upwards from its place.
    pub(super) fn label_up(&mut self, class: &str, (x, y): (f64, f64), text: impl Display) {
        let turn = format!("translate({} {}) rotate(-90)", Px(x), Px(y));
        self.leaf("text", &[("class", &class), ("transform", &turn)], text);
    }

    /// A line through several places.
    pub(super) fn polyline(&mut self, class: &str, places: &[(f64, f64)]) {
        let points: Vec<String> = places.iter().map(|&(x, y)| format!("{},{}", Px(x), Px(y))).collect();
        self.void("polyline", &[("class", &class), ("points", &points.join(" "))]);
    }

    /// A dot; `title` is shown where the pointer rests on it.
    pub(super) fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64, title: &str) {
        let [x, y, r] = [x, y, radius].map(Px);
        self.element("circle", &[("class", &class), ("cx", &x), ("cy", &y), ("r", &r)], |m| {
            if !title.is_empty() {
                m.leaf("title", &[], title);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_always_numbers() {
        let shown = [1.0, 2.345, -0.01, f64::NAN, f64::INFINITY].map(|px| Px(px).to_string());
        assert_eq!(shown, ["1", "2.3", "0", "0", "0"]);
    }

    #[test]
    fn what_has_no_room_is_cut_off() {
        assert_eq!(fitted("REAL", 13.0, 100.0), "REAL");
        let cut = fitted("a rather long name", 13.0, 60.0);
        assert!(cut.ends_with('…') && cut.starts_with("a rat") && text_width(&cut, 13.0) <= 60.0, "{cut}");
        assert_eq!(fitted("name", 13.0, 0.0), "…");
    }

    #[test]
    fn shapes_are_written_as_svg() {
        let mut m = Markup::default();
        m.svg("plot", (10.0, 20.0), "a < b", |m| {
            m.rect("c", Area::between((5.0, 6.0), (1.0, 2.0)), "so");
            m.label("t", Anchor::Middle, (1.0, 2.0), "x");
        });
        let text = m.finish();
        assert!(
            text.contains(r#"viewBox="0 0 10 20""#) && text.contains(r#"aria-label="a &lt; b""#),
            "{text}"
        );
        let rect = r#"<rect class="c" x="1" y="2" width="4" height="4"><title>so</title></rect>"#;
        assert!(text.contains(rect), "{text}");
        assert!(text.contains(r#"<text class="t" x="1" y="2" text-anchor="middle">x</text>"#), "{text}");
    }
}
