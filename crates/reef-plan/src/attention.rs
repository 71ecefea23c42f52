//! Attention in one kernel.

use reef_graph::DType;

/// What the mask of attention does to the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Masking {
    /// It is f32, and added.
    Add,
    /// It is boolean: where it is `when`, a score is `value` whatever it was.
    Replace {
        /// When a score is replaced.
        when: bool,
        /// By what.
        value: f32,
    },
}

/// Attention, batched: `y = softmax(alpha · q·k [masked]) · v`, softmax by rows; sums over the keys n in
/// blocks that are the device's own.
///
/// Reads q `[m, depth]`, k `[depth, n]`, v `[n, width]`, `[mask [m, n]]`; writes y `[m, width]`. Block b
/// makes row tile `b % row tiles` of batch entry `b / row tiles`.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Batch axes, outermost first: extent and the strides of q, k, v, mask and y.
    pub batch: Vec<[usize; 6]>,
    /// Rows of q and y: queries.
    pub m: usize,
    /// Columns of k, rows of v: keys. At least 1.
    pub n: usize,
    /// Columns of q, rows of k. At least 1.
    pub depth: usize,
    /// Columns of v and y.
    pub width: usize,
    /// Strides of q along m and depth.
    pub q_strides: [usize; 2],
    /// Strides of k along depth and n.
    pub k_strides: [usize; 2],
    /// Strides of v along n and width.
    pub v_strides: [usize; 2],
    /// The mask, if there is one, and its strides along m and n; 0 broadcasts.
    pub mask: Option<(Masking, [usize; 2])>,
    /// Stride of y along m; along width it is 1.
    pub y_row_stride: usize,
    /// Factor of every product of q and k.
    pub alpha: f32,
    /// Rows of a block.
    pub tile_rows: usize,
}

impl Masking {
    /// Bytes of an element of the mask.
    pub fn element_bytes(self) -> usize {
        match self {
            Masking::Add => DType::F32.bytes(),
            Masking::Replace { .. } => DType::Bool.bytes(),
        }
    }
}

impl AttentionSpec {
    /// Entries of the batch.
    pub fn planes(&self) -> usize {
        self.batch.iter().map(|axis| axis[0]).product()
    }

    /// Element offsets of q, k, v, mask and y for batch entry `plane`.
    pub fn plane_offsets(&self, plane: usize) -> [usize; 5] {
        let mut rest = plane;
        let mut offsets = [0; 5];
        for axis in self.batch.iter().rev() {
            let at = rest % axis[0];
            rest /= axis[0];
            for operand in 0..5 {
                offsets[operand] += at * axis[operand + 1];
            }
        }
        offsets
    }
}
