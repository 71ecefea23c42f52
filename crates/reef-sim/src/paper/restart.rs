//! What the paper does not show: models use buffers again, and a request that goes on some kernels back may
//! read what a later kernel has overwritten.

use super::Figure;
use super::lab::{Lab, NAMES};
use super::preemption::{REEF, interrupted};
use crate::restart::{accesses, buffers, unsafe_share};

pub(super) fn restarts(lab: &Lab) -> Figure {
    let mut figure = Figure::new("Restarts", "Going on some kernels back, in models that use buffers again");
    let back = lab.gpu.queues.capacity as usize;
    for (model, name) in NAMES.iter().enumerate() {
        let kernels = accesses(&lab.profiles[model]).expect("built-in profiles say what is written");
        for back in [2, back] {
            let share = unsafe_share(&kernels, back);
            figure.predicts(format!("{name}: unsafe places, {back} kernels back"), "", share, None);
        }
        let seen = interrupted(lab, &[model], REEF).seen;
        let wrong = seen.wrong as f64 / seen.preemptions.len() as f64;
        figure.predicts(format!("{name}: wrong outputs for each preemption"), "", wrong, None);
        let (now, kept) = (buffers(&kernels, 0) as f64, buffers(&kernels, back) as f64);
        figure.predicts(format!("{name}: buffers for results"), "", now, None);
        figure.predicts(
            format!("{name}: buffers that make each place safe, over these"),
            "",
            kept / now,
            None,
        );
    }
    figure.note(
        "Section 4.3 goes on as many kernels back as a device queue holds. A place is unsafe if a kernel \
         of that window has overwritten what an earlier one of it reads. Buffers that are not used again \
         before the window is over make all places safe; the profiles do not have their sizes.",
    );
    figure.note(
        "DenseNet-201 joins features in one buffer, slice by slice: who writes another slice than is read \
         counts as overwriting here, so its shares are too high.",
    );
    figure
}
