//! What changed between two runs of the benchmark, beyond their own noise.
//!
//! Workloads, systems, conditions and clients are matched by name. A metric changed when it differs by more
//! than max(floor, 3 × noise):
//!
//! | metric | noise of the difference | floor |
//! |---|---|---|
//! | estimates (ratios, shares, rates) | both standard errors, from the widths of the intervals | 2 % |
//! | absolute ones | what a condition played twice differs from itself, the larger of both | 2 % |
//! | any whose noise neither run knows | – | 5 % |
//!
//! A run of one repetition does not tell its noise: metrics that differ by more than the floor are counted
//! then, and called neither better nor worse.
//!
//! For a condition that was played once, the one of the same system and workload that was played twice stands
//! in. Latencies of saturated conditions say how long the run was, and are not compared.

use std::fmt;

use serde::Serialize;

use reef_base::{ClassName, Summary};

use super::results::{
    ClientFacts, ClientResult, ConditionResult, DisbReport, LatencyRatios, SystemResult, WorkloadResult,
};
use crate::text::short;
use crate::typical::Estimate;
use crate::typical::student_t;

/// A change is beyond this many times the noise.
const TIMES_NOISE: f64 = 3.0;
/// Smaller relative changes never count.
const FLOOR: f64 = 0.02;
/// The same where no noise is known.
const FLOOR_UNKNOWN: f64 = 0.05;

/// What changed from one run to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Why the runs may not be comparable: other machines, rates, repeats, …
    pub warnings: Vec<String>,
    /// Metrics that changed.
    pub changed: Vec<Change>,
    /// How many metrics did not.
    pub unchanged: usize,
    /// How many differ by more than the floor, where a run of one repetition does not tell whether by chance.
    pub not_judged: usize,
    /// What only the first run has.
    pub only_before: Vec<String>,
    /// What only the second run has.
    pub only_after: Vec<String>,
}

/// A metric that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Whose.
    #[serde(flatten)]
    pub place: Place,
    /// What: `p99 latency`, …
    pub metric: String,
    /// Its unit; empty for ratios.
    pub unit: String,
    /// In the first run.
    pub before: f64,
    /// In the second run.
    pub after: f64,
    /// Relative change; `None` where it was 0 before.
    pub change: Option<f64>,
    /// The relative change that it had to exceed.
    pub threshold: f64,
    /// Which way it went.
    pub verdict: Verdict,
}

/// Whose a metric is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The workload.
    pub workload: String,
    /// The system.
    pub system: String,
    /// The condition.
    pub condition: String,
    /// The client; `None` where it is about all clients of a class, or the device.
    pub client: Option<String>,
}

/// What a metric may differ by without having changed.
#[derive(Clone, Copy, Debug)]
enum Noise {
    /// So much is noise, relatively; `None` where neither run knows.
    Of(Option<f64>),
    /// One of the runs has one repetition.
    Untold,
}

/// Which way a metric went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// To the better.
    Better,
    /// To the worse.
    Worse,
}

/// Compares a run with a later one.
pub fn compare(before: &DisbReport, after: &DisbReport) -> Comparison {
    let mut comparison = Comparison { warnings: setup_warnings(before, after), ..Comparison::default() };
    let repeats = [before.setup.repeats, after.setup.repeats];
    let pairs = matched(&before.workloads, &after.workloads, |workload| &workload.name);
    for workloads in comparison.both(pairs, |name| format!("workload {name}")) {
        let pairs = matched(&workloads[0].clients, &workloads[1].clients, |client| &client.name);
        comparison.both(pairs, |name| format!("{}: client {name}", workloads[0].name));
        let pairs = matched(&workloads[0].systems, &workloads[1].systems, |system| &system.name);
        for systems in comparison.both(pairs, |name| format!("{}: system {name}", workloads[0].name)) {
            Systems { workloads, systems, repeats }.compare(&mut comparison);
        }
    }
    comparison
}

impl Comparison {
    /// How many metrics changed for the worse.
    pub fn worse(&self) -> usize {
        self.changed.iter().filter(|change| change.verdict == Verdict::Worse).count()
    }

    /// Whether something could not be compared: it is in one of the runs alone, or its noise is not known.
    pub fn is_incomplete(&self) -> bool {
        self.not_judged > 0 || !self.only_before.is_empty() || !self.only_after.is_empty()
    }

    /// Keeps what both runs have, and remembers the names of the rest.
    fn both<'a, T>(
        &mut self,
        pairs: Vec<Matched<'a, T>>,
        describe: impl Fn(&str) -> String,
    ) -> Vec<[&'a T; 2]> {
        let mut both = Vec::new();
        for pair in pairs {
            match pair {
                Matched::Both(before, after) => both.push([before, after]),
                Matched::Before(name) => self.only_before.push(describe(name)),
                Matched::After(name) => self.only_after.push(describe(name)),
            }
        }
        both
    }

    /// Compares one metric of both runs.
    fn metric(&mut self, place: &Place, metric: &Metric, values: [Option<f64>; 2], noise: Noise) {
        let [before, after] = match values.map(|value| value.filter(|value| value.is_finite())) {
            [Some(before), Some(after)] => [before, after],
            [Some(_), None] => return self.only_before.push(format!("{place}: {}", metric.name)),
            [None, Some(_)] => return self.only_after.push(format!("{place}: {}", metric.name)),
            [None, None] => return,
        };
        let threshold = match noise {
            Noise::Of(Some(noise)) if noise.is_finite() => FLOOR.max(TIMES_NOISE * noise),
            Noise::Of(_) | Noise::Untold => FLOOR_UNKNOWN,
        };
        let difference = after - before;
        if difference.abs() <= metric.least || difference.abs() <= threshold * before.abs() {
            self.unchanged += 1;
            return;
        }
        if matches!(noise, Noise::Untold) {
            self.not_judged += 1;
            return;
        }
        let is_better = (difference > 0.0) == metric.more_is_better;
        self.changed.push(Change {
            place: place.clone(),
            metric: metric.name.into(),
            unit: metric.unit.into(),
            before,
            after,
            change: (before != 0.0).then(|| difference / before.abs()),
            threshold,
            verdict: if is_better { Verdict::Better } else { Verdict::Worse },
        });
    }
}

/// Two lists side by side.
enum Matched<'a, T> {
    Both(&'a T, &'a T),
    Before(&'a str),
    After(&'a str),
}

/// In the order of the first list, then what only the second one has.
fn matched<'a, T>(
    before: impl IntoIterator<Item = &'a T> + Clone,
    after: impl IntoIterator<Item = &'a T> + Clone,
    name: impl Fn(&T) -> &str,
) -> Vec<Matched<'a, T>> {
    let same = |a: &T, b: &T| name(a) == name(b);
    let mut pairs: Vec<Matched<'a, T>> = Vec::new();
    for one in before.clone() {
        let other = after.clone().into_iter().find(|other| same(one, other));
        pairs.push(other.map_or(Matched::Before(name(one)), |other| Matched::Both(one, other)));
    }
    for other in after {
        if !before.clone().into_iter().any(|one| same(one, other)) {
            pairs.push(Matched::After(name(other)));
        }
    }
    pairs
}

/// A metric: absolute differences up to `least` never count.
struct Metric {
    name: &'static str,
    unit: &'static str,
    more_is_better: bool,
    least: f64,
}

impl Metric {
    const fn less(name: &'static str, unit: &'static str) -> Metric {
        Metric { name, unit, more_is_better: false, least: 0.0 }
    }

    const fn more(name: &'static str, unit: &'static str) -> Metric {
        Metric { name, unit, more_is_better: true, least: 0.0 }
    }

    const fn at_least(self, least: f64) -> Metric {
        Metric { least, ..self }
    }
}

type OfSummary = fn(&Summary) -> f64;
type OfRatios = fn(&LatencyRatios) -> Estimate;
type OfCondition = fn(&ConditionResult) -> Option<f64>;
type Of<'a> = &'a dyn Fn(&ConditionResult) -> Option<f64>;

const LATENCIES: [(Metric, OfSummary); 4] = [
    (Metric::less("mean latency", "µs"), |latency| latency.mean),
    (Metric::less("p50 latency", "µs"), |latency| latency.p50),
    (Metric::less("p95 latency", "µs"), |latency| latency.p95),
    (Metric::less("p99 latency", "µs"), |latency| latency.p99),
];

const RATIOS: [(Metric, OfRatios); 4] = [
    (Metric::less("mean latency to reference", ""), |ratios| ratios.mean),
    (Metric::less("p50 latency to reference", ""), |ratios| ratios.p50),
    (Metric::less("p95 latency to reference", ""), |ratios| ratios.p95),
    (Metric::less("p99 latency to reference", ""), |ratios| ratios.p99),
];

/// What a clock and a kernel's bookkeeping cannot tell apart does not count.
const DEVICE: [(Metric, OfCondition); 4] = [
    (Metric::less("preemption latency p50", "µs").at_least(0.2), |condition| {
        Some(condition.device.as_ref()?.preempt_us?.p50)
    }),
    (Metric::less("preemption latency p99", "µs").at_least(0.2), |condition| {
        Some(condition.device.as_ref()?.preempt_us?.p99)
    }),
    (Metric::less("wasted share", "").at_least(0.001), |condition| {
        Some(condition.device.as_ref()?.wasted_share)
    }),
    (Metric::less("memory", "MiB").at_least(1.0), |condition| {
        Some(condition.memory_bytes? as f64 / f64::from(1 << 20))
    }),
];

/// One system on one workload in both runs.
struct Systems<'a> {
    workloads: [&'a WorkloadResult; 2],
    systems: [&'a SystemResult; 2],
    repeats: [usize; 2],
}

impl Systems<'_> {
    fn compare(&self, comparison: &mut Comparison) {
        let [before, after] = self.systems.map(|system| system.conditions.iter().filter(|c| !c.again));
        let place = Place {
            workload: self.workloads[0].name.clone(),
            system: self.systems[0].name.clone(),
            ..Place::default()
        };
        let pairs = matched(before, after, |condition| &condition.name);
        let describe = |name: &str| format!("{}, {}: condition {name}", place.workload, place.system);
        for conditions in comparison.both(pairs, describe) {
            let place = Place { condition: conditions[0].name.clone(), ..place.clone() };
            self.condition(comparison, &place, conditions);
            self.clients(comparison, &place, conditions);
        }
    }

    fn condition(&self, comparison: &mut Comparison, place: &Place, conditions: [&ConditionResult; 2]) {
        let saturated = conditions.map(|condition| condition.saturated);
        if saturated.contains(&true) {
            comparison.warnings.push(saturation(place, saturated));
        } else {
            for (metric, of) in &LATENCIES {
                let of = |condition: &ConditionResult| Some(of(&condition.real_time.latency_us?));
                self.absolute(comparison, place, conditions, (metric, &of));
            }
            for (metric, of) in &RATIOS {
                let values = conditions.map(|condition| condition.real_time.to_reference.as_ref().map(of));
                self.estimate(comparison, place, metric, values);
            }
        }
        let of_bound = conditions.map(|condition| condition.best_effort.as_ref()?.of_bound);
        self.estimate(comparison, place, &Metric::more("best-effort share of bound", ""), of_bound);
        let throughput = conditions.map(|condition| Some(condition.overall.per_s));
        self.estimate(comparison, place, &Metric::more("overall throughput", "1/s"), throughput);
        let to_reference = conditions.map(|condition| condition.overall.to_reference);
        self.estimate(comparison, place, &Metric::more("overall throughput to reference", ""), to_reference);
        for (metric, of) in &DEVICE {
            self.absolute(comparison, place, conditions, (metric, of));
        }
    }

    /// Clients of their own where there are several of a class: one may lose what another one gains.
    fn clients(&self, comparison: &mut Comparison, place: &Place, conditions: [&ConditionResult; 2]) {
        let clients = self.workloads.map(|workload| &workload.clients);
        let is_of = |class: ClassName, name: &str| {
            clients[0].iter().any(|client| client.name == name && client.class == class)
        };
        let count = |class| clients[0].iter().filter(|client| client.class == class).count();
        for one in &conditions[0].clients {
            let Some(other) = conditions[1].clients.iter().find(|other| other.name == one.name) else {
                continue;
            };
            let (results, name) = ([one, other], one.name.clone());
            let place = Place { client: Some(name.clone()), ..place.clone() };
            if count(ClassName::RealTime) > 1 && is_of(ClassName::RealTime, &name) {
                self.client(comparison, &place, conditions, results);
            }
            if count(ClassName::BestEffort) > 1 && is_of(ClassName::BestEffort, &name) {
                let values = results.map(|result| Some(result.per_s));
                self.estimate(comparison, &place, &Metric::more("throughput", "1/s"), values);
            }
        }
    }

    fn client(
        &self,
        comparison: &mut Comparison,
        place: &Place,
        conditions: [&ConditionResult; 2],
        results: [&ClientResult; 2],
    ) {
        if results.iter().any(|result| result.saturated) {
            return;
        }
        let find = |condition: &ConditionResult| {
            condition.clients.iter().find(|client| client.name == results[0].name).and_then(|c| c.latency_us)
        };
        for (metric, of) in &LATENCIES {
            let of = |condition: &ConditionResult| Some(of(&find(condition)?));
            self.absolute(comparison, place, conditions, (metric, &of));
        }
        for (metric, of) in &RATIOS {
            let values = results.map(|result| result.to_reference.as_ref().map(of));
            self.estimate(comparison, place, metric, values);
        }
    }

    /// A metric whose noise shows in conditions that were played twice.
    fn absolute(
        &self,
        comparison: &mut Comparison,
        place: &Place,
        conditions: [&ConditionResult; 2],
        (metric, of): (&Metric, Of<'_>),
    ) {
        let noises = self.systems.map(|system| against_itself(system, &place.condition, of));
        let noise = noises.into_iter().flatten().reduce(f64::max);
        comparison.metric(place, metric, conditions.map(of), self.told(noise));
    }

    /// A metric that states its noise.
    fn estimate(
        &self,
        comparison: &mut Comparison,
        place: &Place,
        metric: &Metric,
        values: [Option<Estimate>; 2],
    ) {
        let errors = [0, 1].map(|run| relative_error(values[run]?, self.repeats[run]));
        let noise = errors[0].zip(errors[1]).map(|(before, after)| before.hypot(after));
        comparison.metric(place, metric, values.map(|value| Some(value?.value)), self.told(noise));
    }

    /// What both runs say of the noise, if they were played often enough to say anything.
    fn told(&self, noise: Option<f64>) -> Noise {
        if self.repeats.iter().any(|&repeats| repeats < 2) { Noise::Untold } else { Noise::Of(noise) }
    }
}

/// How much a metric of a condition differs from itself, relatively: of the same condition where it was
/// played twice, otherwise of any that was.
fn against_itself(system: &SystemResult, condition: &str, of: Of<'_>) -> Option<f64> {
    let difference = |again: &ConditionResult| {
        let first = system.conditions.iter().find(|first| !first.again && first.name == again.name)?;
        let (first, again) = (of(first)?, of(again)?);
        // The first row holds both times, so that it lies half-way between them.
        (first != 0.0).then(|| 2.0 * ((again - first) / first).abs())
    };
    let again = || system.conditions.iter().filter(|condition| condition.again);
    let own = again().filter(|again| again.name == condition).filter_map(difference).reduce(f64::max);
    own.or_else(|| again().filter_map(difference).reduce(f64::max))
}

/// The standard error of an estimate, relative to it.
fn relative_error(estimate: Estimate, repeats: usize) -> Option<f64> {
    let half_width = estimate.half_width?;
    let freedom = repeats.checked_sub(1).filter(|&freedom| freedom > 0)?;
    (estimate.value != 0.0).then(|| half_width / student_t(freedom) / estimate.value.abs())
}

fn saturation(place: &Place, [before, after]: [bool; 2]) -> String {
    match (before, after) {
        (true, true) => format!("{place}: saturated, latencies are not compared"),
        (true, false) => format!("{place}: no longer saturated, latencies are not compared"),
        _ => format!("{place}: saturated now, latencies are not compared"),
    }
}

/// Everything about how the runs were made that has to be the same for their numbers to be comparable.
fn setup_warnings(before: &DisbReport, after: &DisbReport) -> Vec<String> {
    let facts = [before, after].map(facts);
    let [one, other] = &facts;
    let mut warnings: Vec<String> = one
        .iter()
        .zip(other)
        .filter(|((_, one), (_, other))| one != other)
        .map(|((what, one), (_, other))| format!("{what} differs: {one}, then {other}"))
        .collect();
    for (run, report) in [("first", before), ("second", after)] {
        if report.others_cpu.disturbed() {
            warnings.push(format!("the {run} run was disturbed: {}", report.others_cpu.to_string().trim()));
        }
    }
    for workload in &before.workloads {
        let Some(later) = after.workloads.iter().find(|later| later.name == workload.name) else { continue };
        if workload.seconds != later.seconds {
            let (one, other) = (workload.seconds, later.seconds);
            warnings.push(format!("seconds of {} differ: {one}, then {other}", workload.name));
        }
        if !same_clients(&workload.clients, &later.clients) {
            warnings.push(format!("clients of {} differ", workload.name));
        }
    }
    warnings
}

/// Whether clients are the same. Scaled rates come from a measurement and never agree to the last digit.
fn same_clients(before: &[ClientFacts], after: &[ClientFacts]) -> bool {
    const RATES_DIFFER: f64 = 0.03;
    let same = |(one, other): (&ClientFacts, &ClientFacts)| {
        let rates = match (one.rate_hz, other.rate_hz) {
            (Some(one), Some(other)) => (one / other - 1.0).abs() <= RATES_DIFFER,
            (one, other) => one == other,
        };
        let facts =
            |facts: &ClientFacts| ClientFacts { rate_hz: None, arrivals: String::new(), ..facts.clone() };
        rates && facts(one) == facts(other)
    };
    before.len() == after.len() && before.iter().zip(after).all(same)
}

fn facts(report: &DisbReport) -> Vec<(&'static str, String)> {
    let (machine, setup) = (&report.machine, &report.setup);
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
    vec![
        ("processor", or_unknown(&machine.cpu)),
        ("number of cores", machine.cores.to_string()),
        ("kernel", or_unknown(&machine.kernel)),
        ("governor", or_unknown(&machine.governor)),
        ("device", machine.device.clone()),
        ("compiler", machine.rustc.clone()),
        ("profile", machine.profile.clone()),
        ("size of the models", if setup.small { "small" } else { "full" }.into()),
        ("way of asking", setup.via.clone()),
        ("seed", setup.seed.to_string()),
        ("number of repetitions", setup.repeats.to_string()),
        ("warm-up", format!("{} s", setup.warm_up_s)),
        ("rate option", setup.rate.join(", ")),
        ("number of compute units", setup.cus.to_string()),
    ]
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.workload, self.system, self.condition)?;
        self.client.iter().try_for_each(|client| write!(f, ", {client}"))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
        })
    }
}

impl Change {
    fn cells(&self) -> [String; 6] {
        let percent = |value: f64| format!("{:+.1} %", value * 100.0);
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        [
            self.place.to_string(),
            self.metric.clone(),
            format!("{}{unit}", short(self.before)),
            format!("{}{unit}", short(self.after)),
            self.change.map_or_else(|| "–".into(), percent),
            format!("{:.1} %", self.threshold * 100.0),
        ]
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.warnings.iter().try_for_each(|warning| writeln!(f, "WARNING: {warning}"))?;
        self.only_before.iter().try_for_each(|what| writeln!(f, "only in the first: {what}"))?;
        self.only_after.iter().try_for_each(|what| writeln!(f, "only in the second: {what}"))?;
        if !self.changed.is_empty() {
            self.table(f)?;
        }
        let count = |verdict| self.changed.iter().filter(|change| change.verdict == verdict).count();
        let (better, worse) = (count(Verdict::Better), count(Verdict::Worse));
        write!(f, "{better} better, {worse} worse, {} unchanged", self.unchanged)?;
        if self.not_judged > 0 {
            let count = self.not_judged;
            write!(f, ", {count} differ and are not judged: one repetition does not tell the noise")?;
        }
        writeln!(f)
    }
}

impl Comparison {
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["where", "what", "before", "after", "change", "beyond"].map(String::from);
        let rows: Vec<[String; 6]> = self.changed.iter().map(Change::cells).collect();
        let width = |column: usize| {
            let cells = rows.iter().chain([&heads]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        let mut line = |verdict: &str, cells: &[String; 6]| {
            write!(f, "{verdict:6}")?;
            for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
                // Words on the left, numbers on the right.
                if column < 2 { write!(f, "  {cell:width$}")? } else { write!(f, "  {cell:>width$}")? }
            }
            writeln!(f)
        };
        line("", &heads)?;
        for (change, row) in self.changed.iter().zip(&rows) {
            line(&change.verdict.to_string(), row)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disb::sample::sample;

    /// The sample with a change of one condition of workload A.
    fn with(name: &str, change: impl Fn(&mut ConditionResult)) -> DisbReport {
        let mut report = sample();
        let conditions = &mut report.workloads[0].systems[0].conditions;
        let condition = conditions.iter_mut().find(|condition| condition.name == name && !condition.again);
        change(condition.unwrap());
        report
    }

    fn scale_p99(condition: &mut ConditionResult, times: f64) {
        condition.real_time.latency_us.as_mut().unwrap().p99 *= times;
    }

    #[test]
    fn equal_runs_differ_in_nothing() {
        let comparison = compare(&sample(), &sample());
        assert_eq!((&comparison.changed, &comparison.only_before), (&vec![], &vec![]));
        // The two saturated conditions of B say so.
        assert_eq!(comparison.warnings.len(), 2, "{comparison}");
        assert!(comparison.unchanged > 300, "{}", comparison.unchanged);
        assert!(comparison.to_string().contains("0 better, 0 worse"), "{comparison}");
    }

    #[test]
    fn a_planted_change_is_named() {
        for (times, verdict) in [(1.1, Verdict::Worse), (0.9, Verdict::Better)] {
            let comparison = compare(&sample(), &with("reset", |condition| scale_p99(condition, times)));
            let [change] = &comparison.changed[..] else { panic!("{comparison}") };
            assert_eq!((change.metric.as_str(), change.verdict), ("p99 latency", verdict));
            assert_eq!((change.place.workload.as_str(), change.place.condition.as_str()), ("A", "reset"));
            assert!((change.change.unwrap() - (times - 1.0)).abs() < 1e-9);
            let text = comparison.to_string();
            assert!(text.contains(&verdict.to_string()) && text.contains("A, reef, reset"), "{text}");
        }
        let faster = with("reset", |condition| condition.overall.per_s.value *= 1.1);
        let comparison = compare(&sample(), &faster);
        assert_eq!(comparison.changed[0].verdict, Verdict::Better, "{comparison}");
    }

    #[test]
    fn noise_hides_what_lies_within_it() {
        // The second time is 2.5 % off both times together: A differs from A by 5 %.
        let noisy = |mut report: DisbReport| {
            let conditions = &mut report.workloads[0].systems[0].conditions;
            let first = conditions[0].real_time.latency_us.unwrap().p99;
            conditions[1].real_time.latency_us.as_mut().unwrap().p99 = first * 1.025;
            report
        };
        let slower = with("reset", |condition| scale_p99(condition, 1.1));
        assert_eq!(compare(&sample(), &slower).changed.len(), 1);
        assert_eq!(compare(&noisy(sample()), &slower).changed, []);
        assert_eq!(compare(&sample(), &noisy(slower)).changed, []);
        let much_slower = with("reset", |condition| scale_p99(condition, 1.2));
        assert_eq!(compare(&noisy(sample()), &much_slower).changed.len(), 1);
        // An estimate: its own interval counts.
        let share = |value: f64, half_width: Option<f64>| {
            with("reset", |condition| {
                let best_effort = condition.best_effort.as_mut().unwrap();
                best_effort.of_bound = Some(Estimate { value, half_width });
            })
        };
        let changed = |noise: Option<f64>| compare(&share(0.9, noise), &share(0.8, noise)).changed.len();
        assert_eq!([Some(0.02), Some(0.2), None].map(changed), [1, 0, 1]);
        let slightly = |noise| compare(&share(0.90, noise), &share(0.87, noise)).changed.len();
        assert_eq!([Some(0.001), None].map(slightly), [1, 0]);
    }

    #[test]
    fn nothing_is_claimed_of_runs_of_one_repetition() {
        let once = |mut report: DisbReport| {
            report.setup.repeats = 1;
            report
        };
        let slower = || with("reset", |condition| scale_p99(condition, 3.0));
        for (before, after) in
            [(once(sample()), once(slower())), (sample(), once(slower())), (once(sample()), slower())]
        {
            let comparison = compare(&before, &after);
            assert_eq!((&comparison.changed, comparison.not_judged), (&vec![], 1), "{comparison}");
            assert_eq!((comparison.is_incomplete(), comparison.worse()), (true, 0));
            assert!(comparison.to_string().contains("1 differ and are not judged"), "{comparison}");
        }
        let comparison = compare(&sample(), &slower());
        assert_eq!((comparison.is_incomplete(), comparison.worse()), (false, 1), "{comparison}");
    }

    #[test]
    fn floors_hold_where_no_noise_is_known() {
        let alone = |mut report: DisbReport| {
            report
                .workloads
                .iter_mut()
                .flat_map(|w| &mut w.systems)
                .for_each(|s| s.conditions.retain(|c| !c.again));
            report
        };
        for (times, count) in [(1.04, 0), (1.06, 1)] {
            let slower = alone(with("reset", |condition| scale_p99(condition, times)));
            assert_eq!(compare(&alone(sample()), &slower).changed.len(), count, "{times}");
        }
        let wasted =
            |share: f64| with("reset", |condition| condition.device.as_mut().unwrap().wasted_share = share);
        assert_eq!(compare(&wasted(0.000_1), &wasted(0.000_9)).changed, []);
        let comparison = compare(&wasted(0.0), &wasted(0.01));
        assert_eq!((comparison.changed.len(), comparison.changed[0].change), (1, None));
        assert!(comparison.to_string().contains('–'));
    }

    #[test]
    fn what_only_one_has_is_named() {
        let mut less = sample();
        less.workloads.remove(1);
        less.workloads[2].systems.truncate(1);
        less.workloads[0].systems[0].conditions.retain(|condition| condition.name != "wait");
        less.workloads[0].systems[0].conditions.last_mut().unwrap().device = None;
        less.workloads[1].clients.pop();
        let comparison = compare(&sample(), &less);
        let named = [
            "A, reef: condition wait",
            "A, reef, reset: preemption latency p50",
            "A, reef, reset: preemption latency p99",
            "A, reef, reset: wasted share",
            "workload B",
            "C: client distilbert be",
            "D: system onnxruntime 1.23",
        ];
        let mut only = comparison.only_before.clone();
        only.sort_unstable();
        assert_eq!(only, {
            let mut named = named;
            named.sort_unstable();
            named
        });
        let comparison = compare(&less, &sample());
        assert_eq!((comparison.only_before.len(), comparison.only_after.len()), (0, named.len()));
        assert!(comparison.to_string().contains("only in the second: workload B"), "{comparison}");
    }

    #[test]
    fn other_setups_are_warned_of() {
        let mut other = sample();
        other.machine.cpu = Some("Other".into());
        other.setup.small = true;
        other.setup.repeats = 3;
        other.setup.rate = vec!["paper".into()];
        other.setup.seed = 2;
        other.setup.via = "http".into();
        other.others_cpu.0 = Some(0.5);
        other.workloads[3].clients[0].rate_hz = Some(1.0);
        let text = compare(&sample(), &other).to_string();
        let warnings = [
            "processor differs: AMD EPYC 9B14, then Other",
            "size of the models differs: full, then small",
            "number of repetitions differs: 5, then 3",
            "rate option differs: scaled, then paper",
            "seed differs: 1, then 2",
            "way of asking differs: engine, then http",
            "the second run was disturbed",
            "clients of D differ",
        ];
        warnings.into_iter().for_each(|warning| assert!(text.contains(warning), "{warning}: {text}"));
    }

    #[test]
    fn it_becomes_json() {
        let comparison = compare(&sample(), &with("reset", |condition| scale_p99(condition, 1.5)));
        let json = serde_json::to_value(&comparison).unwrap();
        let change = &json["changed"][0];
        assert_eq!((&change["workload"], &change["verdict"]), (&"A".into(), &"worse".into()));
        assert_eq!(change["client"], serde_json::Value::Null);
    }
}
