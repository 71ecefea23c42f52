//! Figures 12 to 14 and 20: how long taking the device back takes.

use reef_base::Nanos;

use super::lab::{Lab, NAMES, RESNET, VGG, mean, preemption_us};
use super::{Basis, Figure, Printed};
use crate::clients::{Arrivals, Played};
use crate::constants::GpuConstants;
use crate::profile::Model;
use crate::server::{Client, Reset, Scheme};
use crate::workload::Workload;

use super::lab::CLOSED;

pub(super) const REEF: Scheme = Scheme::Reset(Reset::REEF);
const REEF_N: Scheme = Scheme::Reset(Reset::REEF_N);
const NEITHER: Scheme = Scheme::Reset(Reset { asynchronous: false, restricted: false, ..Reset::REEF });

/// So many times as long as others are experiments whose requests come rarely.
const LONGER: u64 = 4;
/// Between two of these, on average.
const BETWEEN: Nanos = Nanos::from_millis(30);

/// Short real-time requests at random times beside best-effort clients.
pub(super) fn interrupted(lab: &Lab, best_effort: &[usize], scheme: Scheme) -> Played {
    let short = Model::made_up(&lab.gpu, 1, Nanos::from_micros(10));
    let mut with = lab.on(lab.gpu.clone());
    with.models.push(short);
    with.length = Nanos(lab.length.0 * LONGER);
    let mut clients = vec![with.real_time(with.models.len() - 1)];
    clients.extend(best_effort.iter().map(|&model| with.best_effort(model)));
    let mut arrivals = vec![Arrivals::Poisson { mean: BETWEEN }];
    arrivals.extend(best_effort.iter().map(|_| CLOSED));
    with.watch(&clients, &arrivals, scheme)
}

fn latency_us(lab: &Lab, best_effort: &[usize], scheme: Scheme) -> f64 {
    preemption_us(&interrupted(lab, best_effort, scheme))
}

/// By workload, with their names: those with preemptions under both schemes.
fn of_workloads(lab: &Lab, schemes: [Scheme; 2]) -> Vec<(String, [f64; 2])> {
    let of = |workload: &Workload| {
        let us = schemes.map(|scheme| preemption_us(&lab.play_workload(workload, scheme)));
        (workload.name.clone(), us)
    };
    let all = Workload::all(&lab.profiles);
    all.iter()
        .filter(|workload| workload.name != "REAL")
        .map(of)
        .filter(|(_, us)| us.iter().all(|&us| us > 0.0))
        .collect()
}

pub(super) fn figure_12(lab: &Lab) -> Figure {
    let mut figure = Figure::new("Fig. 12", "Preemption latency: reset-based against wait-based");
    for (workload, [wait, reset]) in of_workloads(lab, [Scheme::Wait, REEF]) {
        figure.predicts(
            format!("(a) {workload}: wait-based over reset-based"),
            "",
            wait / reset,
            Some(Printed::range(15.3, 18.5)),
        );
    }
    for (model, name) in NAMES.iter().enumerate() {
        let (basis, paper) = match model {
            RESNET => (Basis::Fitted, Some(Printed::value(790.0))),
            VGG => (Basis::Predicted, Some(Printed::value(268.0))),
            _ => (Basis::Predicted, Some(Printed::range(268.0, 790.0))),
        };
        figure.row(
            basis,
            format!("(b) {name}: wait-based"),
            "us",
            latency_us(lab, &[model], Scheme::Wait),
            paper,
        );
        let reset = latency_us(lab, &[model], REEF);
        figure.predicts(format!("(b) {name}: reset-based"), "us", reset, Some(Printed::range(35.0, 38.0)));
    }
    figure.note("In B real-time requests hold the device all the time, so there is nothing to preempt here.");
    figure.note(
        "(a): the paper's own (b) has a ratio of 21 for ResNet-152, the best-effort model of A. With \
         several clients (C to E) its wait-based scheme loses less than kernels that leave four pipes at \
         7.5 us each; how its device serves queues at once is not in the data.",
    );
    figure
}

pub(super) fn figure_13(lab: &Lab) -> Figure {
    let mut figure = Figure::new("Fig. 13", "Preemption latency by launched kernels, and by their length");
    let made_up = |kernels: u32, us: u64, scheme| {
        let mut with = lab.on(lab.gpu.clone());
        with.models = vec![Model::made_up(&lab.gpu, kernels, Nanos::from_micros(us))];
        preemption_us(&interrupted_made_up(&with, scheme))
    };
    let mut wait_by_kernels = Vec::new();
    for kernels in [50, 100, 200, 400] {
        let what = format!("{kernels} kernels of 100 us: reset-based");
        figure.predicts(what, "us", made_up(kernels, 100, REEF), Some(Printed::below(40.0)));
        let wait = made_up(kernels, 100, Scheme::Wait);
        figure.predicts(format!("{kernels} kernels of 100 us: wait-based"), "us", wait, None);
        wait_by_kernels.push((f64::from(kernels), wait));
    }
    let mut wait_by_length = Vec::new();
    for us in [50, 100, 200, 400] {
        let what = format!("100 kernels of {us} us: reset-based");
        figure.predicts(what, "us", made_up(100, us, REEF), Some(Printed::below(40.0)));
        let wait = made_up(100, us, Scheme::Wait);
        figure.predicts(format!("100 kernels of {us} us: wait-based"), "us", wait, None);
        wait_by_length.push((us as f64, wait));
    }
    let linear = Some(Printed::range(0.98, 1.0));
    figure.predicts("wait-based is linear in kernels (r squared)", "", r_squared(&wait_by_kernels), linear);
    figure.predicts(
        "wait-based is linear in their length (r squared)",
        "",
        r_squared(&wait_by_length),
        linear,
    );
    figure
}

fn interrupted_made_up(lab: &Lab, scheme: Scheme) -> Played {
    let length = Nanos(lab.length.0 * LONGER);
    let mut with = Lab {
        gpu: lab.gpu.clone(),
        models: lab.models.clone(),
        profiles: Vec::new(),
        length,
        seed: lab.seed,
    };
    with.models.push(Model::made_up(&lab.gpu, 1, Nanos::from_micros(10)));
    let clients: [Client; 2] = [with.real_time(with.models.len() - 1), with.best_effort(0)];
    with.play(&clients, &[Arrivals::Poisson { mean: BETWEEN }, CLOSED], scheme)
}

/// How much of the values' spread a line explains.
fn r_squared(points: &[(f64, f64)]) -> f64 {
    let (x, y) = (mean(points.iter().map(|p| p.0)), mean(points.iter().map(|p| p.1)));
    let sum = |term: &dyn Fn(f64, f64) -> f64| -> f64 { points.iter().map(|p| term(p.0 - x, p.1 - y)).sum() };
    let (xy, xx, yy) = (sum(&|dx, dy| dx * dy), sum(&|dx, _| dx * dx), sum(&|_, dy| dy * dy));
    xy * xy / (xx * yy)
}

pub(super) fn figure_14(lab: &Lab) -> Figure {
    let mut figure =
        Figure::new("Fig. 14", "Preemption latency by best-effort clients of ResNet-152, and its parts");
    for clients in 1..=5 {
        let models = vec![RESNET; clients];
        let wait = latency_us(lab, &models, Scheme::Wait);
        let neither = latency_us(lab, &models, NEITHER);
        let both = latency_us(lab, &models, REEF);
        figure.predicts(format!("(a) {clients} clients: reset-based"), "us", both, None);
        let what = format!("(a) {clients} clients: what both optimisations save");
        figure.predicts(what, "", 1.0 - both / neither, Some(Printed::range(0.87, 0.92)));
        let what = format!("(a) {clients} clients: wait-based over reset-based without them");
        figure.predicts(what, "", wait / neither, Some(Printed::range(1.7, 3.0)));
    }
    let parts = |scheme| {
        let played = interrupted(lab, &[RESNET], scheme);
        let seen = &played.seen.preemptions;
        let part =
            |of: fn(&crate::server::Preempted) -> Nanos| mean(seen.iter().map(|one| of(one).as_micros_f64()));
        [part(|one| one.host), part(|one| one.device), part(|one| one.kill)]
    };
    let [host, device, kill] = parts(NEITHER);
    figure.row(Basis::Fitted, "(b) without: host queue", "us", host, Some(Printed::value(17.0)));
    figure.row(Basis::Fitted, "(b) without: device queue", "us", device, Some(Printed::value(424.0)));
    figure.row(Basis::Given, "(b) without: compute units", "us", kill, Some(Printed::below(3.0)));
    let [host, device, _] = parts(REEF);
    figure.row(Basis::Given, "(b) with: host queue", "us", host, Some(Printed::value(3.0)));
    figure.row(Basis::Fitted, "(b) with: device queue", "us", device, Some(Printed::value(31.0)));
    figure
}

pub(super) fn figure_20(lab: &Lab) -> Figure {
    let mut figure = Figure::new("Fig. 20", "REEF-N: nothing that runs is killed");
    let v100 = lab.on(GpuConstants::built_in("v100").expect("it is built in"));
    for (workload, [wait, reef_n]) in of_workloads(&v100, [Scheme::Wait, REEF_N]) {
        figure.predicts(format!("V100, {workload}: REEF-N"), "us", reef_n, Some(Printed::range(71.0, 288.0)));
        let what = format!("V100, {workload}: wait-based over REEF-N");
        figure.predicts(what, "", wait / reef_n, Some(Printed::range(6.3, 12.3)));
    }
    let on_mi50 = of_workloads(lab, [REEF_N, REEF]);
    for (workload, [reef_n, reef]) in &on_mi50 {
        let paper = (workload == "C").then(|| Printed::value(2.3));
        figure.predicts(format!("MI50, {workload}: REEF-N over REEF"), "", reef_n / reef, paper);
    }
    let average = mean(on_mi50.iter().map(|(_, [reef_n, reef])| reef_n / reef));
    figure.predicts("MI50: REEF-N over REEF, on average", "", average, Some(Printed::value(2.0)));
    figure.note(
        "REEF-N waits for the kernels that run: half of their time at random, by the profiles 70 us of \
         ResNet-152, twice what the paper's ratios leave for it.",
    );
    figure.note("There are no measured kernels of a V100: the MI50's run on its 80 multiprocessors.");
    figure
}
