//! The top of the page: what came of it in a sentence, a few numbers, where and how.

use super::view::{self, Ours};
use crate::disb::results::{Check, ConditionResult, DisbReport};
use crate::page::{Block, Fact, Tone};
use crate::text::{count, counted, percent, range, ratio, significant, time_us};
use crate::typical::Estimate;

/// Verdict, warnings, numbers and facts.
pub(super) fn blocks(report: &DisbReport) -> Vec<Block> {
    let mut blocks = vec![verdict(report)];
    blocks.extend(warnings(report).into_iter().map(Block::warning));
    blocks.extend(tiles(report));
    blocks.push(facts(report));
    blocks
}

fn verdict(report: &DisbReport) -> Block {
    let (met, all) = report.checks_met();
    if all == 0 {
        let played = counted(report.workloads.len(), "workload");
        let text = format!("{played} played; nothing had to be reached.");
        return Block::Text(Tone::Verdict, String::new(), text);
    }
    if met == all {
        let checks = if all == 1 { "The check is".to_string() } else { format!("All {all} checks are") };
        return Block::Text(Tone::Good, "✓".into(), format!("{checks} met."));
    }
    let open = report.checks.iter().filter(|check| !check.met);
    let (not_shown, missed): (Vec<&Check>, Vec<&Check>) = open.partition(|check| check.not_shown.is_some());
    let mut said = Vec::new();
    if !missed.is_empty() {
        said.push(format!("Missed: {}.", some_in_words(&missed)));
    }
    if !not_shown.is_empty() {
        let begin = if missed.is_empty() { "None is missed; not shown" } else { "Not shown" };
        said.push(format!("{begin}: {}.", some_in_words(&not_shown)));
    }
    let tone = if missed.is_empty() { Tone::Verdict } else { Tone::Bad };
    Block::Text(tone, format!("{met} of {all} checks met."), said.join(" "))
}

/// The first few of some checks, and how many more there are.
fn some_in_words(checks: &[&Check]) -> String {
    const NAMED: usize = 3;
    let mut names: Vec<String> = checks.iter().take(NAMED).map(|check| in_words(check)).collect();
    if checks.len() > NAMED {
        names.push(format!("and {} more", checks.len() - NAMED));
    }
    names.join("; ")
}

fn in_words(check: &Check) -> String {
    let side = if check.at_least { "at least" } else { "at most" };
    let (value, bound) = (ratio(check.value), ratio(check.bound));
    let noise =
        if check.noise == 0.0 { String::new() } else { format!(" ± {}", significant(check.noise, 2)) };
    let why = check.not_shown.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
    format!("{}, {} ({value}, has to be {side} {bound}{noise}{why})", check.workload, check.what)
}

/// Why numbers are doubtful.
fn warnings(report: &DisbReport) -> Vec<String> {
    let mut warnings = Vec::new();
    if report.others_cpu.disturbed() {
        warnings.push(report.others_cpu.to_string().trim().to_string());
    }
    if !report.finished {
        let text = "Not finished: the run that wrote this was still under way, or was stopped.";
        warnings.push(text.to_string());
    }
    warnings.extend(report.notes.iter().cloned());
    if report.setup.small {
        warnings.push("Low-resolution variants of the models: shorter tasks, more samples.".to_string());
    }
    if report.machine.profile != "release" {
        let profile = &report.machine.profile;
        warnings.push(format!("Built as {profile}, not release: times mean nothing."));
    }
    warnings
}

/// What the scheme that the report is about reached, over all workloads that it could hold.
fn tiles(report: &DisbReport) -> Option<Block> {
    let hero = view::hero(report)?;
    let reference = view::reference_name(report);
    let held = || view::ours(report).filter_map(|ours| ours.condition(hero)).filter(|c| !c.saturated);
    let latency = |condition: &ConditionResult| Some(condition.real_time.to_reference?.mean.value);
    let throughput = |condition: &ConditionResult| Some(condition.overall.to_reference?.value);
    let share = |condition: &ConditionResult| Some(condition.best_effort.as_ref()?.of_bound?.value);
    let preempt = |condition: &ConditionResult| Some(condition.device.as_ref()?.preempt_us?.p50);
    let tiles = [
        (
            times(range(held().filter_map(latency), ratio)),
            format!("mean real-time latency against {reference}"),
        ),
        (
            times(range(held().filter_map(throughput), |value| significant(value, 3))),
            format!("overall throughput against {reference}"),
        ),
        (range(held().filter_map(share), percent), "of what is left goes to best-effort work".into()),
        (range(held().filter_map(preempt), time_us), "preemption latency, median".into()),
    ];
    let tiles: Vec<(String, String)> =
        tiles.into_iter().filter_map(|(value, name)| Some((value?, name))).collect();
    let played = counted(held().count(), "workload");
    (!tiles.is_empty()).then(|| Block::Tiles(format!("{hero}, over {played}"), tiles))
}

fn times(range: Option<String>) -> Option<String> {
    range.map(|range| format!("{range} ×"))
}

fn facts(report: &DisbReport) -> Block {
    let (machine, setup) = (&report.machine, &report.setup);
    let mut facts: Vec<(&str, String)> = Vec::new();
    let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
    let kernel = machine.kernel.as_ref().map(|kernel| format!(", kernel {kernel}")).unwrap_or_default();
    let governor = machine.governor.as_ref().map(|name| format!(", governor {name}")).unwrap_or_default();
    if machine.cores > 0 {
        facts.push(("Machine", format!("{cpu}, {}{kernel}{governor}", counted(machine.cores, "core"))));
    }
    let cus = if setup.cus > 0 { format!(", {}", counted(setup.cus, "compute unit")) } else { String::new() };
    let via = match setup.via.as_str() {
        "engine" => "asked in-process".to_string(),
        "http" => "asked over HTTP".to_string(),
        "simulated" => "simulated, in virtual time".to_string(),
        url => format!("asked at {url}"),
    };
    facts.push(("Device", format!("{}{cus}; {via}", machine.device)));
    facts.push(("Build", format!("{}, {}", machine.rustc, machine.profile)));
    if let Some([one, five, fifteen]) = machine.load_average {
        let others = report.others_cpu.0.map(|share| format!("; others took {} meanwhile", percent(share)));
        let load = format!("{one:.2}, {five:.2}, {fifteen:.2} (1, 5, 15 minutes before the run)");
        facts.push(("Load", load + &others.unwrap_or_default()));
    }
    facts.push(("Run", run(report)));
    facts.push(("Noise", noise(report)));
    let text = |(name, fact): (&str, String)| (name.to_string(), Fact::Text(fact));
    let mut facts: Vec<(String, Fact)> = facts.into_iter().map(text).collect();
    facts.push(("Command".into(), Fact::Code(machine.command.clone())));
    Block::Facts(facts)
}

fn run(report: &DisbReport) -> String {
    let setup = &report.setup;
    let seconds = range(report.workloads.iter().map(|workload| workload.seconds), |s| significant(s, 3));
    let seconds =
        seconds.map(|seconds| format!("{seconds} s per condition and repetition, ")).unwrap_or_default();
    let rate =
        if setup.rate.is_empty() { String::new() } else { format!(", rates {}", setup.rate.join(", ")) };
    let (repeats, warm_up) = (counted(setup.repeats, "repetition"), significant(setup.warm_up_s, 2));
    format!("{repeats}, {seconds}{warm_up} s of warm-up, seed {}{rate}", count(setup.seed))
}

fn noise(report: &DisbReport) -> String {
    let bars = match report.setup.repeats {
        0 | 1 => "one repetition only: no interval is known".to_string(),
        repeats => format!("± is half the 95 % confidence interval over {repeats} repetitions"),
    };
    let against_itself = |ours: Ours<'_>| Some(ours.again()?.real_time.to_reference?.mean);
    let all: Vec<Estimate> = view::ours(report).filter_map(against_itself).collect();
    let largest = |of: fn(&Estimate) -> f64| all.iter().map(of).filter(|v| v.is_finite()).reduce(f64::max);
    let width = largest(|again| again.half_width.unwrap_or(0.0)).filter(|width| *width > 0.0);
    let width = width.map(|width| format!(", known to ± {} at worst", percent(width))).unwrap_or_default();
    match largest(|again| (again.value - 1.0).abs()) {
        Some(largest) => format!(
            "{bars}; the reference was played twice (A against A), and its mean latency differs from \
             itself by {} at most{width}",
            percent(largest)
        ),
        None => format!("{bars}; no condition was played twice"),
    }
}
