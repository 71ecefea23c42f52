//! What the run had to reach, and how the page is to be read.

use crate::disb::results::{Check, DisbReport};
use crate::page::{Block, Section, Tone};
use crate::table::{self, Cell, Head, Row, Table};
use crate::text::{NOTHING, ratio, significant};

/// The table of checks, unless there is none.
pub(super) fn section(report: &DisbReport) -> Option<Section> {
    if report.checks.is_empty() {
        return None;
    }
    let [workload, what, end] = ["workload", "what", ""].map(Head::Text);
    let [measured, bound, noise] = ["measured", "bound", "noise"].map(Head::Number);
    let heads = vec![workload, what, measured, bound, noise, end];
    let table = Table { heads, rows: report.checks.iter().map(row).collect() };
    Some(Section::new("checks", "Checks", vec![Block::Table(table), Block::note(NOISE_NOTE)]))
}

fn row(check: &Check) -> Row {
    let side = if check.at_least { "≥" } else { "≤" };
    let (missed, tone, sign) = match (check.met, &check.not_shown) {
        (true, _) => (false, table::Tone::Good, "✓"),
        (false, None) => (true, table::Tone::Bad, "✗"),
        (false, Some(_)) => (false, table::Tone::Plain, "?"),
    };
    let noise = if check.noise == 0.0 { NOTHING.into() } else { significant(check.noise, 2) };
    let cells = vec![
        Cell::text(&check.workload),
        Cell::text(&check.what),
        Cell::number(ratio(check.value)),
        Cell::number(format!("{side} {}", ratio(check.bound))),
        Cell::number(noise),
        Cell::text(format!("{sign} {}", check.verdict())).tone(tone),
    ];
    Row::new(cells).marked(missed)
}

const NOISE_NOTE: &str = "The noise widens the bound: A against A, half the 95 % confidence interval. \
     Nothing is added for 99th percentiles and shares; their noise is half of their own interval. Where the \
     noise is more than 0.1, only a value whose own interval lies within the bound as it is counts as met.";

/// The notes on the method.
pub(super) fn method() -> Section {
    let paragraph = |(begin, rest): (&str, &str)| Block::Text(Tone::Plain, begin.into(), rest.into());
    Section::new("method", "How to read this", METHOD.into_iter().map(paragraph).collect())
}

const METHOD: [(&str, &str); 6] = [
    (
        "Open loop.",
        "Real-time clients with a rate ask at their times whatever the server does. Latency counts from the \
         scheduled arrival, so a server that stalls cannot hide the requests that it kept from being sent; \
         arrivals that were never sent count with the time after which they were given up.",
    ),
    (
        "Interleaved.",
        "A repetition plays every condition of every system in random order, then comes the next one, so \
         that a machine that drifts disturbs all alike. Arrivals depend on seed, workload and repetition \
         alone: all conditions of a repetition see the same ones. A ratio is the centre of the repetitions' \
         own ratios, which a single odd one does not move; percentiles of which a repetition has too few \
         requests are compared over all repetitions together.",
    ),
    (
        "Noise.",
        "The reference is played twice in each repetition. What it shows against itself (A against A) is \
         what no other difference may be smaller than to mean anything.",
    ),
    (
        "Schemes.",
        "rt-only runs no best-effort work; sequential runs one task after the other; concurrent lets all \
         compete as equals; wait favours real-time work at block boundaries; reset also kills running \
         blocks.",
    ),
    (
        "Bounds.",
        "Real-time clients leave 1 − their busy share under rt-only. Best-effort work gets more only \
         on compute units that a real-time stage does not need, in the pauses between the requests of one \
         client, which several fill for each other, or by taking it from real-time clients; its share of \
         that bound says how much of what was left idle was put to use.",
    ),
    (
        "Saturated.",
        "Where a client asks for more than the system can hold, a queue grows until the run ends. Its \
         latency then says how long the run was, and is shown as a lower bound.",
    ),
];
