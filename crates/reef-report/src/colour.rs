//! Which colour belongs to what: one per name, the same in every chart and table of a page.
//!
//! Schemes and classes have fixed colours, after Okabe and Ito's palette, which people with any kind of
//! colour vision can tell apart; other names get one each from a further list. The style sheet says which
//! colour a class is, in light and dark.

/// A colour of the style sheet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colour {
    /// The scheme `rt-only`, or anything else that is a reference.
    #[default]
    RtOnly,
    /// The scheme `sequential`.
    Sequential,
    /// The scheme `concurrent`.
    Concurrent,
    /// The scheme `wait`.
    Wait,
    /// The scheme `reset`.
    Reset,
    /// Of the further list, which begins again at its end.
    Further(usize),
    /// Real-time work.
    RealTime,
    /// Best-effort work.
    BestEffort,
    /// Best-effort work as padding.
    Padding,
}

/// Colours of the further list in the style sheet.
const FURTHER: usize = 5;

impl Colour {
    /// Its class in the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Colour::RtOnly => "c-rt-only",
            Colour::Sequential => "c-sequential",
            Colour::Concurrent => "c-concurrent",
            Colour::Wait => "c-wait",
            Colour::Reset => "c-reset",
            Colour::Further(index) => {
                ["c-further-0", "c-further-1", "c-further-2", "c-further-3", "c-further-4"][index % FURTHER]
            }
            Colour::RealTime => "t-real-time",
            Colour::BestEffort => "t-best-effort",
            Colour::Padding => "t-padding",
        }
    }

    fn of_scheme(name: &str) -> Option<Colour> {
        Some(match name {
            "rt-only" => Colour::RtOnly,
            "sequential" => Colour::Sequential,
            "concurrent" => Colour::Concurrent,
            "wait" => Colour::Wait,
            "reset" => Colour::Reset,
            _ => return None,
        })
    }
}

/// What a colour or a sign of a chart means.
#[derive(Clone, Debug)]
pub enum Key {
    /// A colour.
    Colour(Colour, String),
    /// The same where something is hatched.
    Hatched(String),
    /// A line across a chart.
    Line(String),
    /// A dash across a bar.
    Bound(String),
    /// A bar that is a lower bound.
    Saturated(String),
}

impl Key {
    /// The sign's class, and what it means.
    pub(crate) fn parts(&self) -> (&'static str, &str) {
        match self {
            Key::Colour(colour, text) => (colour.class(), text),
            Key::Hatched(text) => ("t-killed", text),
            Key::Line(text) => ("key-line", text),
            Key::Bound(text) => ("key-bound", text),
            Key::Saturated(text) => ("key-saturated", text),
        }
    }
}

/// What has which colour in a page.
#[derive(Clone, Debug, Default)]
pub struct Palette {
    /// Names that are no scheme, in the order of their colours.
    further: Vec<String>,
}

impl Palette {
    /// Gives a name a colour, unless it has one. What follows a comma does not count: `reset, padding` has
    /// the colour of `reset`.
    pub fn add(&mut self, name: &str) {
        let name = stem(name);
        if Colour::of_scheme(name).is_none() && !self.further.iter().any(|further| further == name) {
            self.further.push(name.to_string());
        }
    }

    /// The colour of a name; all that were not added share one.
    pub fn colour(&self, name: &str) -> Colour {
        let name = stem(name);
        let place = || self.further.iter().position(|further| further == name);
        Colour::of_scheme(name).unwrap_or_else(|| Colour::Further(place().unwrap_or(self.further.len())))
    }
}

fn stem(name: &str) -> &str {
    name.split_once(',').map_or(name, |(stem, _)| stem).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_have_fixed_colours_and_others_one_each() {
        let mut palette = Palette::default();
        ["rt-only", "nice 19", "reset", "ort", "nice 19"].iter().for_each(|name| palette.add(name));
        assert_eq!(palette.colour("reset"), Colour::Reset);
        assert_eq!(palette.colour("reset, padding"), Colour::Reset);
        assert_eq!(palette.colour("nice 19"), Colour::Further(0));
        assert_eq!(palette.colour("ort"), Colour::Further(1));
        assert_eq!(palette.colour("never seen"), Colour::Further(2));
        assert_eq!(Colour::Further(7).class(), "c-further-2");
    }
}
