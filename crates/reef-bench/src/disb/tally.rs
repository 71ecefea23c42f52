//! From records to results: what a condition gave, over all its repetitions, and as a ratio to the reference.
//!
//! Every repetition has its own ratio, of two sides that were played close together on the same arrivals, so
//! that a machine that drifts moves both. A ratio of the whole is the centre of these ([`typical`]). The
//! exception are percentiles of which a repetition has too few requests: their ratio is that of the two
//! percentiles over all repetitions together, its interval the bootstrap's over repetitions. Summaries of
//! latencies are over all repetitions together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use reef_base::{ClassName, Nanos, Rng, Samples, Summary};
use reef_load::{Arrivals, PlayedClient, Record, Run, Workload};
use reef_report::disb::results::{
    BestEffortResult, ClientResult, ConditionResult, DeviceResult, LatencyRatios, OverallResult,
    RealTimeResult,
};
use reef_report::typical::{Estimate, Typical, typical, typical_ratio};

use super::system::{Condition, DeviceUse, Played};

/// Below this share of the device, nothing worth measuring is left for best-effort work.
const BOUND_MIN: f64 = 0.05;
/// A client is saturated if its backlog grows by more than this share of the arrivals of the window, over all
/// repetitions, …
const BACKLOG_SHARE_MAX: f64 = 0.03;
/// … and by more than so many requests in a repetition: it comes and goes by some.
const BACKLOG_GROWTH_MIN: f64 = 2.0;

/// How often repetitions are drawn for the interval of a percentile over all of them.
const RESAMPLES: usize = 400;

/// What a model takes alone, measured beside one repetition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AloneTime {
    /// Median latency, microseconds.
    pub latency_us: f64,
    /// Answers per second in a closed loop.
    pub per_s: f64,
}

/// One repetition of one condition.
#[derive(Clone, Debug)]
pub struct Repeated {
    /// What was played.
    pub run: Arc<Run>,
    /// What came of it.
    pub played: Played,
    /// Every model's time alone on the same system, next to this repetition.
    pub alone: BTreeMap<String, AloneTime>,
}

/// All repetitions of a condition, and of what it is compared with.
pub struct Tally<'a> {
    /// The workload as it was played.
    pub workload: &'a Workload,
    /// The condition.
    pub condition: &'a Condition,
    /// Whether this is the second time, A against A.
    pub again: bool,
    /// Its repetitions; of a condition that is played twice all of both times, unless this is the second time
    /// by itself.
    pub own: &'a [&'a Repeated],
    /// What ratios refer to, one for each of its own; for the reference itself its own.
    pub reference: &'a [&'a Repeated],
    /// The repetitions of the reference condition, from which comes what is left for best-effort work.
    pub dedicated: &'a [&'a Repeated],
}

impl Tally<'_> {
    /// What the condition gave.
    pub fn result(&self) -> ConditionResult {
        let clients: Vec<ClientResult> = (0..self.workload.clients.len()).map(|i| self.client(i)).collect();
        let is_reference = self.is_reference();
        let best_effort = self.condition.best_effort && !self.clients_of(ClassName::BestEffort).is_empty();
        let best_effort = best_effort.then(|| self.best_effort());
        ConditionResult {
            name: self.condition.name.clone(),
            title: self.condition.title.clone(),
            again: self.again,
            real_time: self.real_time(is_reference, &clients),
            overall: self.overall(is_reference, best_effort.as_ref()),
            best_effort,
            device: self.device(),
            cpus_busy: self.cpus_busy(),
            memory_bytes: self.own.iter().filter_map(|one| one.played.memory_bytes).max(),
            // Best-effort clients may starve: that is the other class's good right.
            saturated: self.clients_of(ClassName::RealTime).iter().any(|&index| clients[index].saturated),
            clients,
        }
    }

    /// Whether this is what the others are compared with.
    fn is_reference(&self) -> bool {
        std::ptr::eq(self.own, self.reference)
    }

    fn clients_of(&self, class: ClassName) -> Vec<usize> {
        let clients = self.workload.clients.iter().enumerate();
        clients.filter(|(_, client)| client.class == class).map(|(index, _)| index).collect()
    }

    fn client(&self, index: usize) -> ClientResult {
        let spec = &self.workload.clients[index];
        let latency = |one: &Repeated| latencies(one, index);
        let pooled = pooled(self.own, latency);
        let real_time = spec.class == ClassName::RealTime;
        let compared = real_time && !self.is_reference();
        let count =
            |of: fn(&PlayedClient) -> u64| self.own.iter().map(|one| of(&one.played.clients[index])).sum();
        ClientResult {
            name: spec.name.clone(),
            latency_us: pooled.summary(),
            slowdown: pooled_slowdown(self.own, &[index]).summary(),
            to_reference: compared.then(|| ratios(self.own, self.reference, latency)).flatten(),
            quantiles_ms: if real_time { quantiles_ms(&pooled) } else { Vec::new() },
            per_s: estimate(self.own, |one| client_per_s(one, index)),
            misses: self.own.iter().map(|one| misses(one, index, spec.deadline)).sum(),
            failed: count(|client| client.failed.len() as u64),
            unsent: self.own.iter().map(|one| unsent(one, index).count() as u64).sum(),
            dropped: count(|client| client.dropped),
            saturated: is_saturated(self.own, index),
            first_error: self.own.iter().find_map(|one| one.played.clients[index].first_error.clone()),
        }
    }

    fn real_time(&self, is_reference: bool, clients: &[ClientResult]) -> RealTimeResult {
        let own = self.clients_of(ClassName::RealTime);
        let latency = |one: &Repeated| all(&own, |index| latencies(one, index));
        let slowdown = |one: &Repeated| all(&own, |index| slowdowns(one, index));
        let compare = |of: &dyn Fn(&Repeated) -> Samples| {
            (!is_reference).then(|| ratios(self.own, self.reference, of)).flatten()
        };
        RealTimeResult {
            latency_us: pooled(self.own, latency).summary(),
            slowdown: pooled(self.own, slowdown).summary(),
            to_reference: compare(&latency),
            slowdown_to_reference: compare(&slowdown),
            per_s: estimate(self.own, |one| self.per_s(one, ClassName::RealTime)),
            busy: estimate(self.own, |one| busy(one, &own)),
            misses: own.iter().map(|&index| clients[index].misses).sum(),
        }
    }

    fn best_effort(&self) -> BestEffortResult {
        let real_time = self.clients_of(ClassName::RealTime);
        let left: Vec<f64> = self.dedicated.iter().map(|one| 1.0 - busy(one, &real_time)).collect();
        let bound = mean(&left);
        let share = |one: &Repeated| self.device_share(one);
        let shares: Vec<f64> = self.own.iter().map(|one| share(one)).collect();
        let of_bound = || {
            let each: Vec<f64> = shares.iter().zip(&left).map(|(share, left)| share / left).collect();
            let Typical { centre, half_width } = typical(&each);
            Estimate { value: centre, half_width }
        };
        BestEffortResult {
            per_s: estimate(self.own, |one| self.per_s(one, ClassName::BestEffort)),
            device_share: estimate(self.own, share),
            bound,
            of_bound: (bound >= BOUND_MIN).then(of_bound),
        }
    }

    /// Sum over best-effort clients of rate × time alone.
    fn device_share(&self, one: &Repeated) -> f64 {
        let of = |&index: &usize| {
            let alone = one.alone.get(&self.workload.clients[index].model);
            alone.map_or(0.0, |alone| client_per_s(one, index) / alone.per_s)
        };
        self.clients_of(ClassName::BestEffort).iter().map(of).sum()
    }

    fn per_s(&self, one: &Repeated, class: ClassName) -> f64 {
        self.clients_of(class).iter().map(|&index| client_per_s(one, index)).sum()
    }

    fn overall(&self, is_reference: bool, best_effort: Option<&BestEffortResult>) -> OverallResult {
        let total =
            |one: &Repeated| self.per_s(one, ClassName::RealTime) + self.per_s(one, ClassName::BestEffort);
        let normalised = |one: &Repeated| self.normalised(one);
        let own = estimate(self.own, total);
        let reference = mean(&self.reference.iter().map(|one| total(one)).collect::<Vec<_>>());
        let bound = best_effort.filter(|_| !self.again).and_then(|be| {
            let at_bound = be.per_s.value / be.of_bound?.value;
            Some((own.value - be.per_s.value + at_bound) / reference).filter(|ratio| ratio.is_finite())
        });
        OverallResult {
            per_s: own,
            to_reference: (!is_reference).then(|| rate_ratio(self.own, self.reference, total)).flatten(),
            to_reference_bound: bound,
            normalised_to_reference: (!is_reference)
                .then(|| rate_ratio(self.own, self.reference, normalised))
                .flatten(),
        }
    }

    /// Answers per second, best-effort ones counted as many real-time ones as they take time alone.
    fn normalised(&self, one: &Repeated) -> f64 {
        let real_time_per_s = self.per_s(one, ClassName::RealTime);
        let alone_s = |index: usize| {
            one.alone.get(&self.workload.clients[index].model).map_or(0.0, |alone| 1.0 / alone.per_s)
        };
        let work = |class| -> f64 {
            self.clients_of(class).iter().map(|&index| client_per_s(one, index) * alone_s(index)).sum()
        };
        match real_time_per_s > 0.0 {
            true => real_time_per_s * (1.0 + work(ClassName::BestEffort) / work(ClassName::RealTime)),
            false => 0.0,
        }
    }

    fn device(&self) -> Option<DeviceResult> {
        let mut sum = DeviceUse::default();
        let mut time = 0.0;
        for one in self.own {
            let device = one.played.device?;
            sum.preemptions += device.preemptions;
            sum.blocks_killed += device.blocks_killed;
            sum.blocks_rerun += device.blocks_rerun;
            sum.wasted += device.wasted;
            sum.padding += device.padding;
            sum.busy += device.busy;
            time += device.cus as f64 * one.run.measured.as_secs_f64() * 1e9;
        }
        let preempt = |one: &Repeated| {
            let records = one.played.clients.iter().flat_map(|client| &client.records);
            let window = one.run.window();
            let inside = records.filter(|record| window.contains(&record.due));
            inside.filter_map(|record| record.preempt).map(Nanos::as_micros_f64).collect::<Samples>()
        };
        let per_preemption = sum.wasted.as_micros_f64() / sum.preemptions as f64;
        Some(DeviceResult {
            preemptions: sum.preemptions,
            preempt_us: pooled(self.own, preempt).summary(),
            blocks_killed: sum.blocks_killed,
            blocks_rerun: sum.blocks_rerun,
            wasted_share: sum.wasted.0 as f64 / time,
            wasted_us_per_preemption: (sum.preemptions > 0).then_some(per_preemption),
            padding_share: sum.padding.0 as f64 / time,
            cu_utilisation: sum.busy.0 as f64 / time,
        })
    }

    fn cpus_busy(&self) -> Option<f64> {
        let cpu: Option<f64> = self.own.iter().map(|one| Some(one.played.cpu?.as_secs_f64())).sum();
        let time: f64 = self.own.iter().map(|one| one.run.measured.as_secs_f64()).sum();
        cpu.map(|cpu| cpu / time)
    }
}

fn all(indices: &[usize], of: impl Fn(usize) -> Samples) -> Samples {
    let mut all = Samples::default();
    indices.iter().for_each(|&index| all.extend(&of(index)));
    all
}

fn pooled(repeated: &[&Repeated], of: impl Fn(&Repeated) -> Samples) -> Samples {
    let mut all = Samples::default();
    repeated.iter().for_each(|one| all.extend(&of(one)));
    all
}

fn pooled_slowdown(repeated: &[&Repeated], indices: &[usize]) -> Samples {
    pooled(repeated, |one| all(indices, |index| slowdowns(one, index)))
}

fn measured(one: &Repeated, index: usize) -> impl Iterator<Item = &Record> {
    one.run.records(index, &one.played.clients[index])
}

fn unsent(one: &Repeated, index: usize) -> impl Iterator<Item = &Nanos> {
    one.run.unsent(&one.played.clients[index])
}

/// In microseconds.
fn latencies(one: &Repeated, index: usize) -> Samples {
    one.run.latencies_us(index, &one.played.clients[index])
}

fn slowdowns(one: &Repeated, index: usize) -> Samples {
    let Some(alone) = one.alone.get(&one.run.clients[index].model) else { return Samples::default() };
    latencies(one, index).as_slice().iter().map(|latency| latency / alone.latency_us).collect()
}

/// Answers per second in the measured window.
fn client_per_s(one: &Repeated, index: usize) -> f64 {
    one.run.per_s(index, &one.played.clients[index])
}

fn misses(one: &Repeated, index: usize, deadline: Option<Duration>) -> u64 {
    let Some(deadline) = deadline.map(Nanos::from) else { return 0 };
    let late = measured(one, index).filter(|record| record.done.since(record.due) > deadline).count();
    let client = &one.played.clients[index];
    (late + client.failed.len() + unsent(one, index).count()) as u64 + client.dropped
}

/// Whether a client asked for more than it could get: arrivals that were never sent, or a backlog that grew;
/// see [`BACKLOG_SHARE_MAX`].
fn is_saturated(repeated: &[&Repeated], index: usize) -> bool {
    let growth: f64 = repeated.iter().map(|one| backlog_growth(one, index)).sum();
    let arrivals: usize = repeated.iter().map(|one| measured(one, index).count()).sum();
    let usual = BACKLOG_GROWTH_MIN * repeated.len() as f64;
    let unsent = repeated.iter().any(|one| unsent(one, index).next().is_some());
    unsent || growth > usual.max(BACKLOG_SHARE_MAX * arrivals as f64)
}

/// Requests due and not answered at the end of the window, less those at its begin. A closed loop has no
/// backlog.
fn backlog_growth(one: &Repeated, index: usize) -> f64 {
    if matches!(one.run.clients[index].arrivals, Arrivals::Closed { .. }) {
        return 0.0;
    }
    let client = &one.played.clients[index];
    let waiting = |at: Nanos| {
        let answered = client.records.iter().filter(|record| record.due <= at && record.done > at).count();
        answered + client.unsent.iter().filter(|due| **due <= at).count()
    };
    let window = one.run.window();
    waiting(window.end) as f64 - waiting(window.start) as f64
}

/// Share of the window in which one of the clients had a request on the device; where the system does not
/// say, in which one was being answered.
fn busy(one: &Repeated, clients: &[usize]) -> f64 {
    let window = one.run.window();
    let records = clients.iter().flat_map(|&index| &one.played.clients[index].records);
    let mut spans: Vec<Range<Nanos>> = records
        .map(|record| record.on_device.unwrap_or((record.sent, record.done)))
        .map(|(begin, end)| begin.max(window.start)..end.min(window.end))
        .filter(|span| !span.is_empty())
        .collect();
    spans.sort_by_key(|span| span.start);
    let mut covered = Nanos::ZERO;
    let mut until = window.start;
    for span in spans {
        covered += span.end.since(span.start.max(until));
        until = until.max(span.end);
    }
    covered.0 as f64 / window.end.since(window.start).0.max(1) as f64
}

fn quantiles_ms(samples: &Samples) -> Vec<f64> {
    let mut sorted = samples.as_slice().to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return Vec::new() };
    let at = |percent: usize| sorted[(percent * last + 50) / 100] / 1e3;
    // Three decimals, a microsecond, are enough for plots and keep the file small.
    (0..=100).map(|percent| (at(percent) * 1e3).round() / 1e3).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn estimate(repeated: &[&Repeated], of: impl Fn(&Repeated) -> f64) -> Estimate {
    let each: Vec<f64> = repeated.iter().map(|one| of(one)).collect();
    Estimate { value: mean(&each), half_width: typical(&each).half_width }
}

/// The ratio of two rates; `None` where the reference is zero.
fn rate_ratio(own: &[&Repeated], reference: &[&Repeated], of: impl Fn(&Repeated) -> f64) -> Option<Estimate> {
    let ratios: Vec<f64> = own.iter().zip(reference).map(|(own, base)| of(own) / of(base)).collect();
    centre(&ratios)
}

/// The centre of ratios; `None` where one is not finite, for want of something to compare with.
fn centre(ratios: &[f64]) -> Option<Estimate> {
    let Typical { centre, half_width } = typical_ratio(ratios);
    let finite = !ratios.is_empty() && ratios.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0);
    finite.then_some(Estimate { value: centre, half_width })
}

/// Ratios of latencies; `None` where one side has none.
fn ratios(
    own: &[&Repeated],
    reference: &[&Repeated],
    of: impl Fn(&Repeated) -> Samples,
) -> Option<LatencyRatios> {
    let samples: Vec<(Samples, Samples)> =
        own.iter().zip(reference).map(|(own, base)| (of(own), of(base))).collect();
    let each: Vec<(Summary, Summary)> =
        samples.iter().filter_map(|(own, base)| Some((own.summary()?, base.summary()?))).collect();
    let (all, base) = (pooled(own, &of).summary()?, pooled(reference, &of).summary()?);
    // `requests`: as many as a repetition needs at least for its number to be one.
    let ratio = |number: fn(&Summary) -> f64, requests: u64| {
        let ratios: Vec<f64> = each.iter().map(|(own, base)| number(own) / number(base)).collect();
        let Typical { centre, half_width } = typical_ratio(&ratios);
        match each.iter().all(|(own, base)| own.count.min(base.count) >= requests) {
            true => Estimate { value: centre, half_width },
            false => {
                Estimate { value: number(&all) / number(&base), half_width: resampled(&samples, number) }
            }
        }
    };
    (!each.is_empty()).then(|| LatencyRatios {
        mean: ratio(|summary| summary.mean, 1),
        p50: ratio(|summary| summary.p50, 1),
        p95: ratio(|summary| summary.p95, 20),
        p99: ratio(|summary| summary.p99, 100),
    })
}

/// Half the width of the 95 % interval of a ratio of numbers over all repetitions together: the ratio of as
/// many repetitions, drawn with replacement, again and again (the bootstrap). `None` below two repetitions.
fn resampled(samples: &[(Samples, Samples)], number: fn(&Summary) -> f64) -> Option<f64> {
    if samples.len() < 2 {
        return None;
    }
    let mut rng = Rng::new(samples.len() as u64);
    let draw = |_| {
        let (mut own, mut base) = (Samples::default(), Samples::default());
        for _ in samples {
            let (one, its_base) = &samples[rng.below(samples.len() as u64) as usize];
            own.extend(one);
            base.extend(its_base);
        }
        Some(number(&own.summary()?) / number(&base.summary()?))
    };
    let mut ratios: Vec<f64> = (0..RESAMPLES).filter_map(draw).filter(|ratio| ratio.is_finite()).collect();
    ratios.sort_by(f64::total_cmp);
    let last = ratios.len().checked_sub(1)?;
    Some((ratios[last - last / 40] - ratios[last / 40]) / 2.0)
}

#[cfg(test)]
mod tests;
