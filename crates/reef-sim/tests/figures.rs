//! The paper's figures: which numbers are within a tenth of the paper's, and which are not, by name.

use reef_base::Nanos;
use reef_sim::paper::{Lab, figures};

/// What differs by more than a tenth, and is explained beside its figure.
const DIFFERENT: &[&str] = &[
    "Table 1: ResNet: kernels",
    "Table 1: VGG: kernels",
    "Fig. 1: (b) alone: latency",
    "Fig. 11: A, streams: latency",
    "Fig. 11: B, sequential: latency",
    "Fig. 11: B, streams: latency",
    "Fig. 11: B, streams: throughput",
    "Fig. 11: E, sequential: latency",
    "Fig. 11: E, streams: latency",
    "Fig. 11: REAL, sequential: throughput",
    "Fig. 11: REAL, streams: latency",
    "Fig. 12: (a) A: wait-based over reset-based",
    "Fig. 12: (a) C: wait-based over reset-based",
    "Fig. 12: (a) D: wait-based over reset-based",
    "Fig. 12: (a) E: wait-based over reset-based",
    "Fig. 12: (b) DenseNet: reset-based",
    "Fig. 14: (b) without: host queue",
    "Fig. 15: (b) VGG: of its time",
    "Fig. 20: MI50, C: REEF-N over REEF",
    "Fig. 20: MI50: REEF-N over REEF, on average",
];

#[test]
fn numbers_are_within_a_tenth_of_the_papers_but_for_those_that_are_named() {
    let lab = Lab::new("mi50", Nanos::from_millis(5_000), 1).unwrap();
    let mut different = Vec::new();
    let mut near = 0;
    for figure in figures(&lab) {
        for row in figure.rows {
            match row.ratio() {
                Some(ratio) if (0.9..=1.1).contains(&ratio) => near += 1,
                Some(_) => different.push(format!("{}: {}", figure.name, row.what)),
                None => {}
            }
        }
    }
    assert_eq!(different, DIFFERENT);
    assert!(near > 80, "{near}");
}
