//! Every micro-kernel of this machine has the sums that plain loops have, at every size.

use reef_base::Rng;
use reef_plan::Isa;

use super::dot::{Chunk, Dot};
use crate::cut::integer::{INTEGER_COLUMNS as COLUMNS, INTEGER_ROWS};
use crate::kernels::best;

#[test]
fn micro_kernels_agree_at_every_size() {
    let mut rng = Rng::new(1);
    let isas = [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| *isa <= best());
    let dots: Vec<Dot> = isas.flat_map(Dot::all).collect();
    assert!(!dots.is_empty());
    for steps in [1, 2, 7, 40] {
        // Extremes only in the first: what saturates at 16 bits does so there.
        let extreme = steps == 7;
        let mut byte = |extremes: [u8; 2]| match extreme {
            true => extremes[rng.below(2) as usize],
            false => rng.below(256) as u8,
        };
        let a: Vec<u8> = (0..INTEGER_ROWS * steps * 4).map(|_| byte([255, 254])).collect();
        let b: Vec<u8> = (0..4 * steps * COLUMNS * 4).map(|_| byte([0x80, 0x7f])).collect();
        for dot in &dots {
            for rows in 1..=dot.rows {
                for left in 1..=4 {
                    let panels = dot.panels_at_once(rows, left);
                    let mut acc = vec![7i32; rows * panels * COLUMNS];
                    let mut chunk = Chunk {
                        a: a.as_ptr(),
                        a_stride: steps * 4,
                        b: b.as_ptr(),
                        panel_bytes: steps * COLUMNS * 4,
                        steps,
                        acc: acc.as_mut_ptr(),
                        first: true,
                    };
                    // SAFETY: the machine has the instructions; the chunk is as large as it says.
                    unsafe {
                        dot.run(rows, panels, &chunk);
                        chunk.first = false;
                        dot.run(rows, panels, &chunk);
                    }
                    for (at, sum) in acc.iter().enumerate() {
                        let (row, column) = (at / (panels * COLUMNS), at % (panels * COLUMNS));
                        let (panel, column) = (column / COLUMNS, column % COLUMNS);
                        let product = |k: usize| {
                            let from = (panel * steps + k / 4) * COLUMNS * 4 + column * 4 + k % 4;
                            i32::from(a[row * steps * 4 + k]) * i32::from(b[from] as i8)
                        };
                        let expected = 2 * (0..steps * 4).map(product).sum::<i32>();
                        assert_eq!(
                            *sum, expected,
                            "{rows} rows, {panels} panels, {steps} steps, {row} {column}"
                        );
                    }
                }
            }
        }
    }
}
