//! Resampling along an axis.

use reef_graph::Taps;
use reef_plan::{KernelSpec, ResampleSpec};

use super::{Case, check, random};

/// Made-up taps: numbers of them that differ, some outside of the axis.
fn taps(extent: usize, outputs: usize, most: usize) -> Taps {
    let weights = random(11, outputs * most);
    let outputs: Vec<Vec<(Option<usize>, f32)>> = (0..outputs)
        .map(|output| {
            let count = if output % 4 == 3 { 0 } else { most - output % most.min(3) };
            let tap = |at: usize| {
                let index = (output * 5 + at * 3) % (extent + 1);
                ((index < extent).then_some(index), weights[output * most + at])
            };
            (0..count).map(tap).collect()
        })
        .collect();
    Taps::new(extent, 0.75, &outputs).unwrap()
}

#[test]
fn resamplings() {
    let table = [
        // Outer, extent, outputs, inner, most taps, tiles.
        (2, 5, 11, 70, 2, [(1, 70), (22, 70), (3, 32)]),
        (3, 7, 6, 1, 4, [(1, 1), (18, 1), (5, 1)]),
        (1, 9, 4, 3, 3, [(4, 3), (1, 3), (2, 1)]),
        (2, 3, 4, 5000, 2, [(1, 5000), (8, 5000), (2, 640)]),
        (1, 40, 3, 17, 2500, [(3, 17), (1, 17), (1, 16)]),
        (1, 40, 3, 2, 5000, [(3, 2), (1, 2), (1, 1)]),
        (2, 1, 300, 8, 1, [(600, 8), (7, 8), (64, 8)]),
        (1, 4, 1, 64, 4, [(1, 64), (1, 16), (1, 48)]),
    ];
    for (outer, extent, outputs, inner, most, tiles) in table {
        let taps = taps(extent, outputs, most);
        let x = random(5, outer * extent * inner);
        let mut expected = vec![];
        for at in 0..outer * outputs * inner {
            let (row, column) = (at / inner, at % inner);
            let (from, weights) = taps.of(row % outputs);
            let value = |from: i32| match from {
                -1 => 0.75,
                from => f64::from(x[(row / outputs * extent + from as usize) * inner + column]),
            };
            let terms = from.iter().zip(weights).map(|(&from, &weight)| f64::from(weight) * value(from));
            expected.push((at, terms.sum::<f64>()));
        }
        let cut = |(tile_rows, tile_columns): (usize, usize)| {
            let spec = ResampleSpec { taps: taps.clone(), outer, inner, tile_rows, tile_columns };
            move |_| KernelSpec::Resample(spec.clone())
        };
        let name = format!("resample {outer}x{extent}x{inner} to {outputs} with {most}");
        let mut case = Case::f32(name, cut(tiles[0])).cut(cut(tiles[1])).cut(cut(tiles[2])).input(&x);
        // Thousands of terms of either sign.
        case.tolerance = 1e-5 * (most as f64).sqrt();
        check(&case.expects(outer * outputs * inner, expected));
    }
}
