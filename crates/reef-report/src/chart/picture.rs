//! A chart of bars as a picture of its own: an SVG file that brings its title, its key and its style sheet,
//! in light and in dark.

use maud::{PreEscaped, html};

use super::bars::Bars;
use super::svg::{Anchor, Area, Px, group, label, line, rect, text_width};
use super::{PATTERNS, STYLE};
use crate::colour::{Colour, Key};
use crate::text::without_controls;

const PADDING: f64 = 18.0;
const TITLE: f64 = 62.0;
const LEGEND: f64 = 30.0;
const LEGEND_SIZE: f64 = 13.0;

/// The picture, at most so wide. `note` says how it is to be read.
pub fn picture(title: &str, note: &str, keys: &[Key], bars: &Bars, width: f64) -> String {
    let ((inner, height), drawn) = bars.in_one_row(width - 2.0 * PADDING);
    let width = inner + 2.0 * PADDING;
    let height = TITLE + LEGEND + height + PADDING;
    let view = format!("0 0 {} {}", Px(width), Px(height));
    let place = format!("translate({} {})", Px(PADDING), Px(TITLE + LEGEND));
    let mut x = PADDING;
    let mut key = |key: &Key| {
        let (class, text) = key.parts();
        let begin = x;
        x += text_width(text, LEGEND_SIZE) + 44.0;
        let y = TITLE + LEGEND / 2.0;
        let sign = match key {
            Key::Line(_) => line("reference", (begin, y - 4.0), (begin + 16.0, y - 4.0)),
            Key::Bound(_) => line("bound", (begin, y - 4.0), (begin + 16.0, y - 4.0)),
            Key::Saturated(_) | Key::Hatched(_) => html! {
                (group(Colour::default().class(), rect("fill", sign(begin, y), "")))
                (rect("hatch", sign(begin, y), ""))
            },
            Key::Colour(..) => group(class, rect("fill", sign(begin, y), "")),
        };
        html! { (sign) (label("key", Anchor::Start, (begin + 22.0, y), text)) }
    };
    let picture = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(view) width=(Px(width)) height=(Px(height))
            role="img" aria-label=(bars.label)
        {
            style { (PreEscaped(STYLE)) }
            (PreEscaped(PATTERNS))
            rect.card x="0.5" y="0.5" width=(Px(width - 1.0)) height=(Px(height - 1.0)) rx="10" {}
            (label("title", Anchor::Start, (PADDING, 32.0), title))
            (label("subtitle", Anchor::Start, (PADDING, 52.0), note))
            @for one in keys { (key(one)) }
            g transform=(place) { (drawn) }
        }
    };
    without_controls(picture.into_string()) + "\n"
}

fn sign(begin: f64, y: f64) -> Area {
    Area::between((begin, y - 10.0), (begin + 14.0, y + 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::{Bar, Group, ratio_axis};

    #[test]
    fn a_picture_is_xml_of_its_own() {
        let bar = Bar { value: Some(2.0), label: "2 < 3".into(), ..Bar::default() };
        let groups = vec![Group { label: "A & B".into(), bars: vec![bar], noise: None }];
        let (axis, base) = ratio_axis(&groups);
        let tick = |value: f64| format!("{value:.0}");
        let bars = Bars { label: "l".into(), axis, base, line: None, tick, bands: Vec::new(), groups };
        let keys = [Key::Colour(Colour::Reset, "reset\u{1}".into()), Key::Line("rt-only = 1".into())];
        let text = picture("<title>", "so", &keys, &bars, 800.0);
        assert!(text.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 "), "{text}");
        assert!(text.contains("prefers-color-scheme: dark") && !text.contains("<script"), "{text}");
        assert!(text.contains("&lt;title&gt;") && text.contains("A &amp; B") && !text.contains('\u{1}'));
        assert_eq!(text.matches("http").count(), 1, "nothing from outside");
        let opened = text.matches('<').count() - text.matches("</").count();
        let closed = text.matches("</").count() + text.matches("/>").count();
        assert_eq!(opened, closed, "{text}");
    }
}
