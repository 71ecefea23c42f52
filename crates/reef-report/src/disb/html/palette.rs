//! Which colour belongs to what: one per condition, the same in every figure.
//!
//! Schemes have fixed colours, after Okabe and Ito's palette, which people with any kind of colour vision can
//! tell apart. Systems beyond the first have one each from a further list, and so have conditions with other
//! names. The style sheet says which colour a class is, in light and dark.

use super::markup::Markup;
use crate::disb::results::{DisbReport, SystemResult};

/// Names with a colour of their own.
const SCHEMES: [&str; 5] = ["rt-only", "sequential", "concurrent", "wait", "reset"];
/// Colours of the further list in the style sheet.
const FURTHER: usize = 5;

/// What has which colour in a report.
#[derive(Clone, Debug, Default)]
pub(super) struct Palette {
    /// Names that are no scheme, in the order of their colours.
    further: Vec<String>,
    /// Systems beyond the first.
    further_systems: Vec<String>,
}

impl Palette {
    /// Colours for everything in a report.
    pub(super) fn new(report: &DisbReport) -> Palette {
        let mut palette = Palette::default();
        for workload in &report.workloads {
            for (index, system) in workload.systems.iter().enumerate() {
                match index {
                    0 => system.conditions.iter().for_each(|condition| palette.add(&condition.name)),
                    _ => {
                        palette.add(&system.name);
                        palette.further_systems.push(system.name.clone());
                    }
                }
            }
        }
        palette
    }

    /// The class of a scheme, another condition of the first system, or a system beyond it. What follows a
    /// comma does not count: `reset, padding` has the colour of `reset`.
    pub(super) fn class(&self, name: &str) -> String {
        let name = stem(name);
        if SCHEMES.contains(&name) {
            return format!("c-{name}");
        }
        let index = self.further.iter().position(|further| further == name).unwrap_or(self.further.len());
        format!("c-further-{}", index % FURTHER)
    }

    /// What the colour of a system's condition goes by: conditions of the first system have one each, any
    /// other system one for all.
    pub(super) fn key<'a>(&self, system: &'a SystemResult, condition: &'a str) -> &'a str {
        if self.further_systems.contains(&system.name) { &system.name } else { condition }
    }

    fn add(&mut self, name: &str) {
        let name = stem(name);
        if !SCHEMES.contains(&name) && !self.further.iter().any(|further| further == name) {
            self.further.push(name.to_string());
        }
    }

    /// A key to the colours of `names`.
    pub(super) fn legend(&self, m: &mut Markup, names: &[&str]) {
        self.legend_with(m, names, &[]);
    }

    /// The same with keys to what else is drawn: class of the sign, and what it means.
    pub(super) fn legend_with(&self, m: &mut Markup, names: &[&str], keys: &[(&str, &str)]) {
        m.div("legend", |m| {
            names.iter().for_each(|name| self.swatch(m, name));
            for (class, text) in keys {
                m.element("span", &[("class", &format!("swatch {class}"))], |m| {
                    m.leaf("i", &[], "");
                    m.text(text);
                });
            }
        });
    }

    /// A name with its colour.
    pub(super) fn swatch(&self, m: &mut Markup, name: &str) {
        self.named_swatch(m, name, name);
    }

    /// The colour of `name` beside another text.
    pub(super) fn named_swatch(&self, m: &mut Markup, name: &str, text: &str) {
        m.element("span", &[("class", &format!("swatch {}", self.class(name)))], |m| {
            m.leaf("i", &[], "");
            m.text(text);
        });
    }
}

fn stem(name: &str) -> &str {
    name.split_once(',').map_or(name, |(stem, _)| stem).trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disb::sample::sample;

    #[test]
    fn schemes_have_fixed_colours_and_others_one_each() {
        let mut report = sample();
        report.workloads[0].systems[0].conditions[1].name = "nice 19".into();
        let palette = Palette::new(&report);
        assert_eq!(palette.class("reset"), "c-reset");
        assert_eq!(palette.class("reset, padding"), "c-reset");
        assert_eq!(palette.class("nice 19"), "c-further-0");
        assert_eq!(palette.class(&report.workloads[0].systems[1].name), "c-further-1");
        assert_eq!(palette.class("never seen"), "c-further-2");
    }
}
