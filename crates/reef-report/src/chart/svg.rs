//! The few shapes that charts are made of. Lengths are CSS pixels of the drawing's own size; colours come
//! from classes of the style sheet.

use std::fmt::{self, Display};

use maud::{Markup, html};

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
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
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

/// A drawing of this size; `label` says what it shows to who cannot see it.
pub(super) fn svg(class: &str, (width, height): (f64, f64), label: &str, content: Markup) -> Markup {
    let (width, height) = (Px(width), Px(height));
    let view = format!("0 0 {width} {height}");
    html! {
        svg class=(class) viewBox=(view) width=(width) height=(height) role="img" aria-label=(label) {
            (content)
        }
    }
}

/// A group of a class.
pub(super) fn group(class: &str, content: Markup) -> Markup {
    html! { g class=(class) { (content) } }
}

/// A line.
pub(super) fn line(class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> Markup {
    html! { line class=(class) x1=(Px(x1)) y1=(Px(y1)) x2=(Px(x2)) y2=(Px(y2)) {} }
}

/// A rectangle; `title` is shown where the pointer rests on it, unless it is empty.
pub(super) fn rect(class: &str, area: Area, title: &str) -> Markup {
    let [x, y, width, height] = [area.x, area.y, area.width, area.height].map(Px);
    html! { rect class=(class) x=(x) y=(y) width=(width) height=(height) { (hint(title)) } }
}

/// A text.
pub(super) fn label(class: &str, anchor: Anchor, (x, y): (f64, f64), text: impl Display) -> Markup {
    html! { text class=(class) x=(Px(x)) y=(Px(y)) text-anchor=(anchor.name()) { (text) } }
}

/// A text that reads upwards from its place.
pub(super) fn label_up(class: &str, (x, y): (f64, f64), text: impl Display) -> Markup {
    let turn = format!("translate({} {}) rotate(-90)", Px(x), Px(y));
    html! { text class=(class) transform=(turn) { (text) } }
}

/// A line through several places.
pub(super) fn polyline(class: &str, places: &[(f64, f64)]) -> Markup {
    let points: Vec<String> = places.iter().map(|&(x, y)| format!("{},{}", Px(x), Px(y))).collect();
    html! { polyline class=(class) points=(points.join(" ")) {} }
}

/// A dot; `title` is shown where the pointer rests on it.
pub(super) fn dot(class: &str, (x, y): (f64, f64), radius: f64, title: &str) -> Markup {
    html! { circle class=(class) cx=(Px(x)) cy=(Px(y)) r=(Px(radius)) { (hint(title)) } }
}

fn hint(title: &str) -> Markup {
    html! { @if !title.is_empty() { title { (title) } } }
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
        let shape = rect("c", Area::between((5.0, 6.0), (1.0, 2.0)), "so");
        let word = label("t", Anchor::Middle, (1.0, 2.0), "x");
        let text = svg("plot", (10.0, 20.0), "a < b", html! { (shape) (word) }).into_string();
        assert!(
            text.contains(r#"viewBox="0 0 10 20""#) && text.contains(r#"aria-label="a &lt; b""#),
            "{text}"
        );
        let rect = r#"<rect class="c" x="1" y="2" width="4" height="4"><title>so</title></rect>"#;
        assert!(text.contains(rect), "{text}");
        assert!(text.contains(r#"<text class="t" x="1" y="2" text-anchor="middle">x</text>"#), "{text}");
    }
}
