//! Figure 15: short device queues, and what preempted requests lose.

use super::lab::{CLOSED, DENSENET, Lab, NAMES, RESNET, VGG, mean, mean_ms, preemption_us};
use super::preemption::{REEF, interrupted};
use super::{Basis, Figure, Printed};

pub(super) fn figure_15(lab: &Lab) -> Figure {
    let mut figure =
        Figure::new("Fig. 15", "The capacity of device queues, and what a preempted request loses");
    let mut by_capacity = Vec::new();
    for capacity in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
        let mut gpu = lab.gpu.clone();
        gpu.queues.capacity = capacity;
        let with = lab.on(gpu);
        let ms = mean_ms(&with.play(&[with.best_effort(RESNET)], &[CLOSED], REEF).latencies[0]);
        let us = preemption_us(&interrupted(&with, &[RESNET], REEF));
        figure.predicts(format!("(a) capacity {capacity}: ResNet-152"), "ms", ms, None);
        figure.predicts(format!("(a) capacity {capacity}: preemption"), "us", us, None);
        by_capacity.push((ms, us));
    }
    let (one, four) = (by_capacity[0].0, by_capacity[2].0);
    let printed = Some(Printed::value(14.3 / 12.3));
    figure.row(Basis::Fitted, "(a) capacity 1 over capacity 4: time", "", one / four, printed);
    let beyond = by_capacity[3..].iter().map(|(ms, _)| (ms / four - 1.0).abs()).fold(0.0, f64::max);
    figure.predicts("(a) what more than 4 changes, at most", "", beyond, Some(Printed::below(0.003)));
    let step = (by_capacity[4].1 - by_capacity[3].1) / 8.0;
    let later = (by_capacity[5].1 - by_capacity[4].1) / 16.0;
    let linear = Some(Printed::range(0.9, 1.1));
    figure.predicts(
        "(a) preemption is linear: slope from 16 to 32 over that from 8 to 16",
        "",
        later / step,
        linear,
    );
    let mut of_all = Vec::new();
    for (model, name) in NAMES.iter().enumerate() {
        let played = interrupted(lab, &[model], REEF);
        let alone = lab.alone_ms(model);
        let free_ms = (played.length - played.seen.taken).as_millis_f64();
        let lost_ms = free_ms - played.latencies[1].len() as f64 * alone;
        let restore_us = lost_ms / played.seen.preemptions.len() as f64 * 1e3;
        let basis = if model == DENSENET { Basis::Fitted } else { Basis::Predicted };
        figure.row(
            basis,
            format!("(b) {name}: restore"),
            "us",
            restore_us,
            Some(Printed::range(70.0, 245.0)),
        );
        let share = restore_us / 1e3 / alone;
        // "About 2 %".
        let paper = if model == VGG { Printed::value(0.051) } else { Printed::range(0.015, 0.025) };
        figure.predicts(format!("(b) {name}: of its time"), "", share, Some(paper));
        of_all.push(share);
    }
    figure.predicts("(b) of its time, on average", "", mean(of_all.into_iter()), None);
    figure
}
