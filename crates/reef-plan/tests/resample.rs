//! Resampling on a host, and the tiles of blocks.

use reef_graph::Taps;
use reef_plan::{ResampleSpec, resample};

fn spec() -> ResampleSpec {
    let outputs = [vec![(Some(1), 0.5), (Some(2), 0.25)], vec![(None, 2.0)], vec![], vec![(Some(0), 1.0)]];
    let taps = Taps::new(3, 8.0, &outputs).unwrap();
    ResampleSpec { taps, outer: 2, inner: 2, tile_rows: 3, tile_columns: 1 }
}

#[test]
fn a_host_computes_what_the_operator_means() {
    let x: Vec<u8> = (0..12u8).flat_map(|at| f32::from(at).to_le_bytes()).collect();
    let mut y = vec![0xFF; 2 * 4 * 2 * 4];
    resample(&spec(), &x, &mut y);
    let made: Vec<f32> =
        y.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    let first = [2.0 * 0.5 + 4.0 * 0.25, 3.0 * 0.5 + 5.0 * 0.25, 16.0, 16.0, 0.0, 0.0, 0.0, 1.0];
    let second = [8.0 * 0.5 + 10.0 * 0.25, 9.0 * 0.5 + 11.0 * 0.25, 16.0, 16.0, 0.0, 0.0, 6.0, 7.0];
    assert_eq!(made, [first, second].concat());
}

#[test]
fn tiles_cover_the_output_once() {
    for (tile_rows, tile_columns) in [(3, 1), (8, 2), (1, 1), (5, 2)] {
        let spec = ResampleSpec { tile_rows, tile_columns, ..spec() };
        let mut made = vec![0; spec.rows() * spec.inner];
        for block in 0..spec.blocks() {
            let (rows, columns) = spec.tile(block);
            for row in rows {
                columns.clone().for_each(|column| made[row * spec.inner + column] += 1);
            }
        }
        assert!(made.iter().all(|&times| times == 1), "{tile_rows} {tile_columns}: {made:?}");
    }
}
