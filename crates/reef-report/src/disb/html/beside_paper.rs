//! What was measured here beside what the paper reports of its MI50.

use reef_base::Summary;

use super::markup::Markup;
use super::table::Head::{self, Number, Text};
use super::text::{NOTHING, estimate, range, ratio, time_us};
use super::view::{self, Ours};
use crate::disb::paper::{self, Figures};
use crate::disb::results::{ConditionResult, DisbReport, Estimate};

/// What of a condition a table is about.
type Value = fn(&ConditionResult) -> Option<Estimate>;
/// What of the paper: REEF, sequential, streams.
type Paper = [fn(&Figures) -> &'static str; 3];

/// Draws the section, unless no workload of the paper was played.
pub(super) fn draw(m: &mut Markup, report: &DisbReport) {
    let both: Vec<(Ours<'_>, &Figures)> =
        view::ours(report).filter_map(|ours| Some((ours, paper::figures(&ours.workload.name)?))).collect();
    if both.is_empty() {
        return;
    }
    m.element("section", &[("id", &"paper")], |m| {
        m.leaf("h2", &[], "Beside the paper");
        m.p("lead", LEAD);
        let latency: Value = |condition| Some(condition.real_time.to_reference?.mean);
        let said: Paper = [|f| f.reef_latency, |f| f.sequential_latency, |f| f.streams_latency];
        m.leaf("h4", &[], "Mean real-time latency, ratio to rt-only");
        ratios(m, &both, latency, said);
        let throughput: Value = |condition| condition.overall.to_reference;
        let said: Paper = [|f| f.reef_throughput, |f| f.sequential_throughput, |f| f.streams_throughput];
        m.leaf("h4", &[], "Overall throughput, ratio to rt-only");
        ratios(m, &both, throughput, said);
        preemption(m, report);
    });
}

const LEAD: &str = "The paper's numbers are of an AMD MI50 (section 7.2), ours of the machine above, so only \
    ratios compare. Rates are scaled to the same load, but what a best-effort request costs beside a \
    real-time one differs, and with it what throughput can be reached.";

fn ratios(m: &mut Markup, both: &[(Ours<'_>, &Figures)], value: Value, said: Paper) {
    let heads: [Head<'_>; 7] = [
        Text("workload"),
        Number("REEF, paper"),
        Number("reset, here"),
        Number("SEQ, paper"),
        Number("sequential, here"),
        Number("GPUStreams, paper"),
        Number("concurrent, here"),
    ];
    m.table(&heads, |m| {
        for (ours, figures) in both {
            m.row("", |m| {
                m.cell(&ours.workload.name);
                for (name, said) in ["reset", "sequential", "concurrent"].into_iter().zip(said) {
                    m.cell_of("n faint", said(figures));
                    match ours.condition(name) {
                        Some(condition) => here(m, condition, value(condition)),
                        None => m.number(NOTHING),
                    }
                }
            });
        }
    });
}

fn here(m: &mut Markup, condition: &ConditionResult, value: Option<Estimate>) {
    let text = value.map_or_else(|| NOTHING.to_string(), |value| estimate(value, ratio));
    match condition.saturated {
        true => m.element("td", &[("class", &"n bad")], |m| {
            m.leaf("small", &[], "saturated ");
            m.text(text);
        }),
        false => m.number(text),
    }
}

fn preemption(m: &mut Markup, report: &DisbReport) {
    let over_workloads = |name: &str, of: fn(&Summary) -> f64| {
        let latencies =
            view::ours(report).filter_map(|ours| ours.condition(name)?.device.as_ref()?.preempt_us);
        range(latencies.map(|latency| of(&latency)), time_us)
    };
    let said = [("reset", paper::RESET_PREEMPT_US), ("wait", paper::WAIT_PREEMPT_US)];
    let rows: Vec<_> = said
        .into_iter()
        .filter_map(|(name, said)| {
            Some((name, said, over_workloads(name, |s| s.p50)?, over_workloads(name, |s| s.p99)?))
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    m.leaf("h4", &[], "Preemption latency");
    m.table(&[Text("scheme"), Number("paper, MI50"), Number("p50, here"), Number("p99, here")], |m| {
        for (name, (from, to), p50, p99) in rows {
            m.row("", |m| {
                m.cell(name);
                m.cell_of("n faint", format!("{from:.0} – {to:.0} µs"));
                m.number(p50);
                m.number(p99);
            });
        }
    });
}
