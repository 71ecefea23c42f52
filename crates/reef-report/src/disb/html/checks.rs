//! What the run had to reach, and how the page is to be read.

use super::markup::Markup;
use super::table::Head::{Number, Text};
use super::text::{NOTHING, ratio, significant};
use crate::disb::results::DisbReport;

/// Draws the table of checks, unless there is none.
pub(super) fn draw(m: &mut Markup, report: &DisbReport) {
    if report.checks.is_empty() {
        return;
    }
    m.element("section", &[("id", &"checks")], |m| {
        m.leaf("h2", &[], "Checks");
        let heads =
            [Text("workload"), Text("what"), Number("measured"), Number("bound"), Number("noise"), Text("")];
        m.table(&heads, |m| {
            for check in &report.checks {
                let side = if check.at_least { "≥" } else { "≤" };
                let (row, class, sign) = match (check.met, &check.not_shown) {
                    (true, _) => ("", "good", "✓"),
                    (false, None) => ("missed", "bad", "✗"),
                    (false, Some(_)) => ("", "", "?"),
                };
                m.row(row, |m| {
                    m.cell(&check.workload);
                    m.cell(&check.what);
                    m.number(ratio(check.value));
                    m.number(format!("{side} {}", ratio(check.bound)));
                    m.number(if check.noise == 0.0 { NOTHING.into() } else { significant(check.noise, 2) });
                    m.cell_of(class, format!("{sign} {}", check.verdict()));
                });
            }
        });
        m.p("note", NOISE_NOTE);
    });
}

const NOISE_NOTE: &str = "The noise widens the bound: A against A, half the 95 % confidence interval. \
     Nothing is added for 99th percentiles and shares; their noise is half of their own interval. Where the \
     noise is more than 0.1, only a value whose own interval lies within the bound as it is counts as met.";

/// Draws the notes on the method.
pub(super) fn draw_method(m: &mut Markup) {
    m.element("section", &[("id", &"method")], |m| {
        m.leaf("h2", &[], "How to read this");
        for (head, text) in METHOD {
            m.element("p", &[("class", &"method")], |m| {
                m.leaf("b", &[], head);
                m.text(" ");
                m.text(text);
            });
        }
    });
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
