//! A report in a terminal: per workload one line per condition, then what had to be reached.

use std::fmt;

use reef_base::ClassName;

use super::results::{Check, ConditionResult, DisbReport, SystemResult, WorkloadResult};
use crate::text::short;
use crate::typical::Estimate;

impl fmt::Display for DisbReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        write!(f, "{}", self.others_cpu)?;
        let setup = &self.setup;
        let small = if setup.small { ", small models" } else { "" };
        let rate = setup.rate.join(" ");
        writeln!(f, "{} repetitions, rates {rate}, seed {}{small}", setup.repeats, setup.seed)?;
        for model in &self.models {
            let alone = model
                .alone
                .iter()
                .map(|alone| format!("{} {} ms", alone.system, short(alone.latency_us.p50 / 1e3)));
            writeln!(f, "  {:14} alone: {}", model.name, alone.collect::<Vec<_>>().join(", "))?;
        }
        self.workloads.iter().try_for_each(|workload| write!(f, "\n{workload}"))?;
        if !self.finished {
            writeln!(f, "NOT FINISHED: the run that wrote this was still under way, or was stopped")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        if !self.checks.is_empty() {
            writeln!(f)?;
            self.checks.iter().try_for_each(|check| writeln!(f, "{check}"))?;
            let (met, all) = self.checks_met();
            writeln!(f, "{met} of {all} targets met")?;
        }
        Ok(())
    }
}

const COLUMNS: [&str; 9] = [
    "rt mean",
    "rt p50",
    "rt p95",
    "rt p99",
    "rt slow p95",
    "be of bound",
    "overall",
    "preempt µs",
    "wasted",
];

impl fmt::Display for WorkloadResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}; {} s a run", self.name, self.title, self.seconds)?;
        for client in self.clients.iter().filter(|client| client.class == ClassName::RealTime) {
            let deadline = client.deadline_ms.map_or(String::new(), |ms| format!(", deadline {ms} ms"));
            writeln!(f, "  real-time {}: {} on {}{deadline}", client.name, client.arrivals, client.model)?;
        }
        write!(f, "  {:22}", "ratios to rt-only")?;
        COLUMNS.iter().try_for_each(|column| write!(f, "{column:>13}"))?;
        writeln!(f)?;
        self.systems.iter().try_for_each(|system| write!(f, "{system}"))
    }
}

impl fmt::Display for SystemResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}", self.name)?;
        self.conditions.iter().try_for_each(|condition| line(f, condition))?;
        let mut told: Vec<(&str, &str)> = Vec::new();
        for client in self.conditions.iter().flat_map(|condition| &condition.clients) {
            let Some(error) = client.first_error.as_deref().filter(|_| client.failed > 0) else { continue };
            if !told.contains(&(&client.name, error)) {
                writeln!(f, "    {}, first failure: {error}", client.name)?;
                told.push((&client.name, error));
            }
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, condition: &ConditionResult) -> fmt::Result {
    let again = if condition.again { ", again" } else { "" };
    write!(f, "    {:20}", format!("{}{again}", condition.name))?;
    let number = |value: Option<f64>| value.map_or("–".to_string(), |value| format!("{value:.3}"));
    let real_time = condition.real_time.to_reference;
    let slowdown = condition.real_time.slowdown_to_reference;
    let best_effort = condition.best_effort.as_ref().and_then(|best_effort| best_effort.of_bound);
    let device = condition.device.as_ref();
    let preempt = device.and_then(|device| device.preempt_us).map(|summary| short(summary.p50));
    let wasted = device.map(|device| format!("{:.2} %", device.wasted_share * 100.0));
    let cells = [
        with_noise(real_time.map(|ratios| ratios.mean)),
        number(real_time.map(|ratios| ratios.p50.value)),
        number(real_time.map(|ratios| ratios.p95.value)),
        number(real_time.map(|ratios| ratios.p99.value)),
        number(slowdown.map(|ratios| ratios.p95.value)),
        with_noise(best_effort),
        number(condition.overall.to_reference.map(|estimate| estimate.value)),
        preempt.unwrap_or("–".to_string()),
        wasted.unwrap_or("–".to_string()),
    ];
    cells.iter().try_for_each(|cell| write!(f, "{cell:>13}"))?;
    let lost = |of: fn(&super::results::ClientResult) -> u64| condition.clients.iter().map(of).sum::<u64>();
    let counts = [
        ("missed", condition.real_time.misses),
        ("failed", lost(|client| client.failed)),
        ("unsent", lost(|client| client.unsent)),
        ("dropped", lost(|client| client.dropped)),
    ];
    for (what, count) in counts.iter().filter(|(_, count)| *count > 0) {
        write!(f, "  {count} {what}")?;
    }
    if condition.saturated {
        write!(f, "  SATURATED: more than it can hold")?;
    }
    writeln!(f)
}

fn with_noise(estimate: Option<Estimate>) -> String {
    match estimate {
        None => "–".to_string(),
        Some(Estimate { value, half_width: None }) => format!("{value:.3}"),
        Some(Estimate { value, half_width: Some(half) }) => format!("{value:.3}±{half:.3}"),
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.at_least { "≥" } else { "≤" };
        let sign = if self.at_least { "-" } else { "+" };
        let noise = if self.noise > 0.0 { format!(" {sign} {:.3}", self.noise) } else { String::new() };
        let verdict = if self.met { self.verdict() } else { self.verdict().to_uppercase() };
        write!(
            f,
            "{:5} {}: {:.3} {side} {:.3}{noise}: {verdict}",
            self.workload, self.what, self.value, self.bound
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::disb::sample::sample;

    /// What the sample's result lacks: two of its targets are not met, one of them for noise.
    #[test]
    fn a_report_tells_what_was_missed_and_what_is_missing() {
        let mut report = sample();
        report.finished = true;
        assert_eq!(report.checks_missed(), 1);
        assert_eq!(report.missing(), ["1 targets could not be judged"]);
        report.failed_systems = vec!["peer 1".to_string()];
        report.finished = false;
        let expected = ["peer 1 failed", "the run was not finished", "1 targets could not be judged"];
        assert_eq!(report.missing(), expected);
    }

    #[test]
    fn the_first_failure_of_each_client_is_told_once() {
        let mut report = sample();
        report.finished = true;
        let why = "the server answered 400 to an inference: wrong shape";
        for condition in &mut report.workloads[0].systems[0].conditions {
            let client = &mut condition.clients[0];
            (client.failed, client.latency_us) = (7, None);
            client.first_error = Some(why.to_string());
        }
        let text = report.to_string();
        assert_eq!(text.matches(why).count(), 1, "{text}");
        let name = &report.workloads[0].clients[0].name;
        assert!(text.contains(&format!("{name}, first failure: {why}")), "{text}");
        let missing = report.missing();
        let failed = missing.iter().filter(|line| line.ends_with(&format!("every request of {name} failed")));
        assert_eq!(failed.count(), report.workloads[0].systems[0].conditions.len(), "{missing:?}");
    }
}
