//! Kernels of vision models, in both layouts, against the operators' meaning.

use reef_graph::reference::vision::of_unit;
use reef_graph::vision::{Col2Im, Coordinates, GridSample, Interpolation, Outside, RoiAlign, SEGMENT};
use reef_graph::{Shape, Vision};
use reef_plan::{KernelSpec, VisionSpec};

use super::{Case, check, random};

/// Checks a kernel on these inputs, cut into tiles of several sizes.
fn checked(
    name: String,
    vision: Vision,
    shapes: &[&[usize]],
    inputs: &[Vec<f32>],
    last: bool,
    tolerance: f64,
) {
    let inputs_of: Vec<Shape> = shapes.iter().map(|dims| Shape::new(dims)).collect();
    let whole =
        VisionSpec { vision: vision.clone(), inputs: inputs_of.clone(), channels_last: last, tile: 1 };
    let units = whole.units();
    let mut load = |input: usize, at: usize| f64::from(inputs[input][at]);
    let mut expected = vec![];
    for unit in 0..units {
        expected.extend(of_unit(&vision, &inputs_of, last, unit, &mut load).unwrap());
    }
    assert_eq!(expected.len(), whole.writes().unwrap(), "{name}: units make all of the output");
    let cut = |tile: usize| {
        let spec = VisionSpec { tile, ..whole.clone() };
        move |_| KernelSpec::Vision(spec.clone())
    };
    let mut case = Case::f32(name, cut(units)).cut(cut(1)).cut(cut(units.div_ceil(3)));
    for (operand, values) in inputs.iter().enumerate() {
        case = match vision.dtypes()[operand] {
            reef_graph::DType::I64 => {
                let whole: Vec<i64> = values.iter().map(|&value| value as i64).collect();
                case.bytes(bytemuck::cast_slice(&whole))
            }
            _ => case.input(values),
        };
    }
    case.tolerance = tolerance;
    let elements = expected.len();
    check(&case.expects(elements, expected));
}

#[test]
fn samplings() {
    use Interpolation::{Cubic, Linear, Nearest};
    let images: [(&[usize], &[usize]); 5] = [
        (&[2, 3, 5, 6], &[2, 4, 7, 2]),
        (&[1, 21, 1, 4], &[1, 3, 3, 2]),
        (&[2, 5, 9], &[2, 37, 1]),
        (&[1, 9, 3, 4, 5], &[1, 3, 2, 4, 3]),
        (&[1, 2, 8, 9], &[1, 20, 30, 2]),
    ];
    let ways = [Nearest, Linear, Cubic];
    let outsides = [Outside::Zeros, Outside::Border, Outside::Reflection];
    let coordinates = [
        Coordinates::Unit { align_corners: false },
        Coordinates::Unit { align_corners: true },
        Coordinates::Elements,
    ];
    for (image, points) in images {
        for (interpolation, outside) in
            ways.into_iter().flat_map(|way| outsides.map(|outside| (way, outside)))
        {
            for (seed, coordinates) in coordinates.into_iter().enumerate() {
                let last = (seed + image.len() + interpolation.taps()) % 2 == 0;
                let mut x = random(3, image.iter().product());
                // What lies outside does not count, whatever the first element is.
                x[0] = if outside == Outside::Zeros { f32::INFINITY } else { x[0] };
                let reach = if coordinates == Coordinates::Elements { 6.0 } else { 1.8 };
                let mut grid: Vec<f32> =
                    random(seed as u64, points.iter().product()).iter().map(|at| at * reach).collect();
                let count = grid.len();
                (grid[count - 1], grid[count / 2]) = (f32::NAN, 300.25);
                if interpolation == Linear {
                    grid[0] = -1e30;
                }
                if outside != Outside::Zeros {
                    grid.iter_mut().for_each(|at| *at = if at.abs() < 99.0 { *at } else { 0.0 });
                }
                let name = format!("{interpolation:?} {outside:?} {coordinates:?} {image:?} {last}");
                let vision = Vision::GridSample(GridSample { interpolation, outside, coordinates });
                checked(name, vision, &[image, points], &[x, grid], last, 3e-5);
            }
        }
    }
}

#[test]
fn regions() {
    let (image, bins) = ([2, 37, 9, 11], [[3, 2], [1, 1], [5, 7]]);
    let regions = [
        [0.0, 0.0, 5.0, 4.0],
        [1.5, 2.25, 6.0, 7.5],
        [-3.0, -4.0, 19.0, 30.0],
        [8.0, 8.0, 2.0, 3.0],
        [4.0, 4.0, 4.0, 4.0],
        [-30.0, -30.0, -20.0, -25.0],
        [10.0, 8.0, 10.5, 8.5],
        [1.0, f32::NAN, 3.0, f32::INFINITY],
    ];
    let batch: Vec<f32> = (0..regions.len()).map(|at| (at % 2) as f32).collect();
    for (bins, samples) in bins.into_iter().flat_map(|bins| [0, 1, 2, 5].map(|samples| (bins, samples))) {
        for (half_pixel, largest) in [(true, false), (false, false), (true, true), (false, true)] {
            let align = RoiAlign { bins, samples, scale: 0.8, half_pixel, largest };
            let name = format!("{align:?}");
            let inputs = [random(3, image.iter().product()), regions.concat(), batch.clone()];
            let shapes: [&[usize]; 3] = [&image, &[regions.len(), 4], &[regions.len()]];
            checked(name, Vision::RoiAlign(align), &shapes, &inputs, true, 1e-5);
        }
    }
}

#[test]
fn sums_of_windows() {
    let fold = |image: &[usize], block: &[usize], strides: &[usize], dilations: &[usize], pads: &[usize]| {
        let windows = (0..image.len()).map(|axis| {
            let field = (block[axis] - 1) * dilations[axis] + 1;
            (image[axis] + 2 * pads[axis] - field) / strides[axis] + 1
        });
        Col2Im {
            image: image.to_vec(),
            block: block.to_vec(),
            windows: windows.collect(),
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            before: pads.to_vec(),
        }
    };
    let table = [
        fold(&[5, 5], &[1, 5], &[1, 1], &[1, 1], &[0, 0]),
        fold(&[7, 9], &[3, 2], &[2, 3], &[1, 2], &[1, 1]),
        fold(&[2 * SEGMENT + 77], &[40], &[8], &[1], &[16]),
        fold(&[SEGMENT + 3], &[7], &[1], &[3], &[9]),
        fold(&[4, 5, 6], &[2, 3, 2], &[1, 2, 2], &[2, 1, 1], &[1, 0, 1]),
    ];
    for fold in table {
        let shape = [2, 3 * fold.block_elements(), fold.windows.iter().product()];
        let x = random(9, shape.iter().product());
        checked(format!("{fold:?}"), Vision::Col2Im(fold), &[&shape], &[x], false, 1e-5);
    }
    // More windows than reach the image, and some before it.
    let fold = Col2Im {
        image: vec![6],
        block: vec![3],
        windows: vec![9],
        strides: vec![2],
        dilations: vec![2],
        before: vec![5],
    };
    let x = random(9, 27);
    checked(format!("{fold:?}"), Vision::Col2Im(fold), &[&[1, 3, 9]], &[x], false, 1e-5);
}

#[test]
fn determinants() {
    for (count, size) in [(7, 1), (5, 2), (3, 3), (2, 17), (1, 40)] {
        let mut x = random(7, count * size * size);
        // The first element of a column may be no pivot.
        x[0] = 0.0;
        if count == 3 {
            x[size * size..2 * size * size].fill(1.0);
        }
        checked(format!("{size}"), Vision::Det, &[&[count, size, size]], &[x], false, 1e-5);
    }
}
