//! The report as one page of HTML that opens without a network: no script, no font, no picture from anywhere.
//!
//! | module | owns |
//! |---|---|
//! | `markup`, `svg`, `table` | writing elements, drawings and tables; text is escaped there |
//! | `text`, `scale`, `palette` | numbers for people; places on axes; which colour belongs to what |
//! | `view` | what all the others ask of a report |
//! | `bars`, `rows`, `lines` | the kinds of plots |
//! | `summary`, `headline`, `preemption`, `cdf`, `timeline` | sections with figures |
//! | `peers`, `beside_paper`, `details`, `checks` | sections with tables |
//!
//! A section that has nothing to show is left out. A number that is none is shown as a dash, and never
//! reaches a drawing.

mod bars;
mod beside_paper;
mod cdf;
mod checks;
mod details;
mod headline;
mod lines;
mod markup;
mod palette;
mod peers;
mod preemption;
mod rows;
mod scale;
mod summary;
mod svg;
mod table;
mod text;
mod timeline;
mod view;

use markup::Markup;
use palette::Palette;

use super::results::DisbReport;

/// Patterns that drawings refer to. Hidden by its size: what is not displayed has no patterns.
const PATTERNS: &str = r#"<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>
<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect class="hatch-line" width="2.4" height="6"/></pattern></defs></svg>"#;

/// A report as a page.
pub fn html(report: &DisbReport) -> String {
    let mut m = Markup::default();
    m.constant("<!DOCTYPE html>\n");
    m.element("html", &[("lang", &"en")], |m| {
        m.element("head", &[], |m| head(m, report));
        m.element("body", &[], |m| {
            m.constant(PATTERNS);
            m.element("main", &[], |m| sections(m, report));
        });
    });
    let mut page = m.finish();
    page.push('\n');
    page
}

fn head(m: &mut Markup, report: &DisbReport) {
    m.constant("<meta charset=\"utf-8\"/>\n");
    m.constant("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n");
    m.constant("<meta name=\"color-scheme\" content=\"light dark\"/>\n");
    m.leaf("title", &[], format!("reef DISB, {}", text::date(report.machine.unix_time_s)));
    m.element("style", &[], |m| m.constant(include_str!("style.css")));
}

fn sections(m: &mut Markup, report: &DisbReport) {
    let palette = Palette::new(report);
    summary::draw(m, report);
    if !report.workloads.is_empty() {
        m.element("section", &[("id", &"headline")], |m| {
            m.leaf("h2", &[], "Latency and throughput");
            headline::draw(m, report, &palette);
        });
        headline::draw_share(m, report, &palette);
    }
    preemption::draw_latency(m, report, &palette);
    preemption::draw_waste(m, report, &palette);
    cdf::draw(m, report, &palette);
    if let Some(timeline) = &report.timeline {
        timeline::draw(m, timeline);
    }
    peers::draw(m, report, &palette);
    beside_paper::draw(m, report);
    details::draw(m, report, &palette);
    checks::draw(m, report);
    checks::draw_method(m);
}

#[cfg(test)]
mod tests;
