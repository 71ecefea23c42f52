//! Figures 3 and 17 to 19: what kernels leave of the device, and what pads them.

use super::lab::{BERT, CLOSED, INCEPTION, Lab, NAMES, VGG, mean};
use super::preemption::REEF;
use super::{Basis, Figure, Printed};
use crate::workload::Workload;

pub(super) fn figure_3(lab: &Lab) -> Figure {
    let mut figure = Figure::new("Fig. 3(b)", "Compute units that VGG-19 uses as it runs");
    // The last two are the classifier's product, of 1,000 blocks, and its softmax, of one.
    let kernels = &lab.models[VGG].kernels;
    let seen = kernels[..kernels.len() - 2].iter();
    let shares: Vec<f64> = seen.map(|kernel| f64::from(kernel.cus) / f64::from(lab.gpu.cus)).collect();
    let least = shares.iter().copied().fold(f64::MAX, f64::min);
    let most = shares.iter().copied().fold(0.0, f64::max);
    figure.predicts(
        "least, before the classifier's last two kernels",
        "",
        least,
        Some(Printed::value(0.067)),
    );
    figure.predicts("most, of the same", "", most, Some(Printed::value(0.867)));
    figure
}

pub(super) fn figure_17(lab: &Lab) -> Figure {
    let mut figure = Figure::new("Fig. 17", "Compute units in use while real-time kernels are padded");
    for (real_time, name) in NAMES.iter().enumerate() {
        let mut own = 0.0;
        for (best_effort, other) in NAMES.iter().enumerate() {
            let clients = [lab.real_time(real_time), lab.best_effort(best_effort)];
            let seen = lab.play(&clients, &[CLOSED, CLOSED], REEF).seen;
            let all = seen.real_time.0 as f64 * f64::from(lab.gpu.cus);
            own = seen.cu_real_time / all;
            figure.predicts(format!("{name}, padded with {other}: padding"), "", seen.cu_padding / all, None);
        }
        let paper = match real_time {
            INCEPTION => Some(Printed::value(0.85)),
            BERT => Some(Printed::value(0.70)),
            _ => None,
        };
        figure.predicts(format!("{name}: real-time"), "", own, paper);
    }
    figure
}

pub(super) fn figure_18(lab: &Lab) -> Figure {
    let mut figure = Figure::new("Fig. 18", "What launching through a proxy costs");
    let overhead = lab.gpu.padding.proxy_overhead;
    figure.row(Basis::Given, "execution time", "", overhead, Some(Printed::value(0.008)));
    figure.note(
        "Function pointers, registers and the memory of fused kernels are properties of compilers and \
         kernels that the data do not have.",
    );
    figure
}

pub(super) fn figure_19(lab: &Lab) -> Figure {
    let mut figure = Figure::new("Fig. 19", "Choosing what pads a kernel, and what that costs it");
    let (mut choices, mut padded) = (0, 0);
    for workload in Workload::all(&lab.profiles).iter().filter(|workload| workload.name != "REAL") {
        let candidates = (workload.clients.len() - workload.real_time()) as f64;
        let padding = lab.gpu.padding;
        let us = padding.select_us.nanos().as_micros_f64()
            + padding.select_candidate_us.nanos().as_micros_f64() * candidates;
        let paper = if candidates > 1.0 { 0.4 } else { 0.2 };
        figure.row(Basis::Given, format!("(a) {}", workload.name), "us", us, Some(Printed::value(paper)));
        let seen = lab.play_workload(workload, REEF).seen;
        (choices, padded) = (choices + seen.choices, padded + seen.padded);
    }
    let untouched = 1.0 - padded as f64 / choices as f64;
    figure.predicts(
        "(b) real-time kernels that nothing pads",
        "",
        untouched,
        Some(Printed::range(0.37, 1.0)),
    );
    let proxy = lab.gpu.padding.proxy_overhead;
    let little = |kernel: &&crate::profile::Kernel| kernel.alone.as_micros_f64() * proxy < 4.0;
    let shares = lab
        .models
        .iter()
        .map(|model| model.kernels.iter().filter(little).count() as f64 / model.kernels.len() as f64);
    figure.predicts(
        "(b) kernels that a proxy costs less than 4 us",
        "",
        mean(shares),
        Some(Printed::range(0.9, 1.0)),
    );
    figure
}
