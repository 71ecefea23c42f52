//! The tiles of resampling.

use reef_graph::Taps;
use reef_plan::ResampleSpec;

fn spec() -> ResampleSpec {
    let outputs = [vec![(Some(1), 0.5), (Some(2), 0.25)], vec![(None, 2.0)], vec![], vec![(Some(0), 1.0)]];
    let taps = Taps::new(3, 8.0, &outputs).unwrap();
    ResampleSpec { taps, outer: 2, inner: 2, tile_rows: 3, tile_columns: 1 }
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
