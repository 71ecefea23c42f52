//! The page of a report.
//!
//! | module | owns |
//! |---|---|
//! | `view` | what all the others ask of a report |
//! | `summary` | the top of the page |
//! | `headline`, `preemption`, `distributions`, `timeline` | sections with charts |
//! | `peers`, `beside_paper`, `details`, `checks` | sections with tables |
//!
//! A section that has nothing to show is left out. A number that is none is shown as a dash.

mod beside_paper;
mod checks;
mod details;
mod distributions;
mod headline;
mod peers;
mod preemption;
mod summary;
mod timeline;
mod view;

pub use headline::latency_picture;

use super::results::DisbReport;
use crate::page::{Page, Section};
use crate::text::date;

/// A report as a page.
pub fn page(report: &DisbReport) -> Page {
    let palette = view::palette(report);
    let sections: [Option<Section>; 11] = [
        headline::section(report, &palette),
        headline::share_section(report, &palette),
        preemption::section(report, &palette),
        preemption::waste_section(report, &palette),
        distributions::section(report, &palette),
        report.timeline.as_ref().and_then(timeline::section),
        peers::section(report, &palette),
        beside_paper::section(report),
        details::section(report, &palette),
        checks::section(report),
        Some(checks::method()),
    ];
    let date = match report.machine.unix_time_s {
        0 => "simulated".to_string(),
        seconds => date(seconds),
    };
    Page {
        title: format!("reef DISB, {date}"),
        eyebrow: format!("reef · DISB · {date}"),
        heading: "Real-time inference beside best-effort work".into(),
        head: summary::blocks(report),
        sections: sections.into_iter().flatten().collect(),
    }
}

#[cfg(test)]
mod tests;
