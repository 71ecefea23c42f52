//! Attention in one kernel: the scores of some rows over some keys at a time, never all of them.
//!
//! A block makes a tile of rows. It walks over the keys in chunks. Of each chunk it packs k and v into
//! panels, and every group of a micro-tile's rows multiplies with them: scores, their exponentials relative
//! to the largest score so far, and the sum of v weighted by these, which is scaled down whenever a larger
//! score has come. Few rows are not worth packing for, if keys and values lie along their elements: then
//! every score is a sum along its key.
//!
//! Polls before all that is packed and before every chunk of a micro-tile. Results do not depend on the tile.

use reef_plan::{AttentionSpec, Isa, Kernel, Masking, Region};

use super::epilogue::{self, Store};
use super::integer::row_groups;
use super::math;
use super::matmul;
use super::micro::{self, Chunk, PANEL_VECTORS};
use super::vector::{Leaf, Vector};
use super::{BlockKernel, VectorKernel, bind};
use crate::context::{BlockContext, BlockEnd};
use crate::cut::attention::{AttentionParts, KEYS, parts};

/// Rows of a batch entry up to which nothing is packed.
const FEW_ROWS: usize = 3;

/// Makes attention ready.
pub(super) fn prepare(spec: &AttentionSpec, kernel: &Kernel, isa: Isa) -> Box<dyn BlockKernel> {
    let along = spec.k_strides[0] == 1 && spec.v_strides[1] == 1 && spec.q_strides[1] == 1;
    let attention = Attention {
        parts: parts(spec, spec.tile_rows),
        packs: spec.m > FEW_ROWS || !along,
        q: kernel.reads[0],
        k: kernel.reads[1],
        v: kernel.reads[2],
        mask: spec.mask.map(|_| kernel.reads[3]),
        y: kernel.writes[0],
        spec: spec.clone(),
    };
    bind(attention, isa)
}

struct Attention {
    spec: AttentionSpec,
    parts: AttentionParts,
    /// Whether k and v are packed.
    packs: bool,
    q: Region,
    k: Region,
    v: Region,
    mask: Option<Region>,
    y: Region,
}

/// A batch entry's operands.
struct Operands {
    q: *const f32,
    k: *const f32,
    v: *const f32,
    /// Null where there is none.
    mask: *const u8,
    y: *mut f32,
}

/// Some rows of a tile: the first in the batch entry, the first in the tile, and how many.
#[derive(Clone, Copy)]
struct Group {
    row: usize,
    at: usize,
    rows: usize,
}

impl VectorKernel for Attention {
    #[inline(always)]
    unsafe fn run_block<V: Vector>(&self, context: &BlockContext<'_>, block: usize) -> BlockEnd {
        let (spec, tiles) = (&self.spec, self.spec.m.div_ceil(self.spec.tile_rows));
        let first = block % tiles * spec.tile_rows;
        let rows = spec.tile_rows.min(spec.m - first);
        // SAFETY: the tile is one of the spec's, and scratch is as large as the spec says.
        let done = unsafe {
            let operands = self.operands(context, block / tiles);
            self.chunks::<V>(context, &operands, first, rows)
        };
        if done { BlockEnd::Done } else { BlockEnd::Killed }
    }
}

impl Attention {
    unsafe fn operands(&self, context: &BlockContext<'_>, plane: usize) -> Operands {
        let [q, k, v, mask, y] = self.spec.plane_offsets(plane);
        let size = self.spec.mask.map_or(0, |(masking, _)| masking.element_bytes());
        // SAFETY: the offsets are a batch entry's.
        unsafe {
            let at = |region: &Region, offset: usize| context.read_ptr(region).cast::<f32>().add(offset);
            Operands {
                q: at(&self.q, q),
                k: at(&self.k, k),
                v: at(&self.v, v),
                mask: match &self.mask {
                    Some(region) => context.read_ptr(region).add(mask * size),
                    None => std::ptr::null(),
                },
                y: context.write_ptr(&self.y).cast::<f32>().add(y),
            }
        }
    }

    /// A part of scratch.
    unsafe fn part(&self, context: &BlockContext<'_>, offset: usize) -> *mut f32 {
        // SAFETY: scratch has all parts.
        unsafe { context.scratch.add(offset).cast() }
    }

    /// Floats of sums for each row: whole panels.
    fn sums_width<V: Vector>(&self) -> usize {
        self.spec.width.next_multiple_of(PANEL_VECTORS * V::LANES)
    }

    /// The groups of a tile.
    fn groups<V: Vector>(&self, first: usize, rows: usize) -> impl Iterator<Item = Group> {
        let most = if self.packs { V::ROWS } else { 1 };
        row_groups(rows, most).scan(0, move |at, rows| {
            let group = Group { row: first + *at, at: *at, rows };
            *at += rows;
            Some(group)
        })
    }

    /// All chunks of keys, then the results. False when the poll said stop.
    unsafe fn chunks<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        first: usize,
        rows: usize,
    ) -> bool {
        // SAFETY: rows and keys are the operands'; scratch has room for the tile.
        unsafe {
            let (largest, totals) =
                (self.part(context, self.parts.largest), self.part(context, self.parts.totals));
            for row in 0..rows {
                largest.add(row).write(f32::NEG_INFINITY);
                totals.add(row).write(0.0);
            }
            for key in (0..self.spec.n).step_by(KEYS) {
                let keys = KEYS.min(self.spec.n - key);
                if self.packs && !self.pack::<V>(context, operands, (key, keys)) {
                    return false;
                }
                for group in self.groups::<V>(first, rows) {
                    let go_on = match self.packs {
                        true => self.scores::<V>(context, operands, group, (key, keys)),
                        false => self.score_row::<V>(context, operands, group, (key, keys)),
                    };
                    if !go_on || context.poll.stop() {
                        return false;
                    }
                    self.weigh::<V>(context, operands, group, (key, keys));
                    let go_on = match self.packs {
                        true => self.sums::<V>(context, group, (key, keys)),
                        false => self.sum_row::<V>(context, operands, group, (key, keys)),
                    };
                    if !go_on {
                        return false;
                    }
                }
            }
            for group in self.groups::<V>(first, rows) {
                if context.poll.stop() {
                    return false;
                }
                self.finish::<V>(context, operands, group);
            }
        }
        true
    }

    /// Packs a chunk's columns of k and rows of v. False when the poll said stop.
    unsafe fn pack<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        (key, keys): (usize, usize),
    ) -> bool {
        let (spec, poll) = (&self.spec, &context.poll);
        // SAFETY: the keys are the operands'; the parts have room for them.
        unsafe {
            let k = operands.k.add(key * spec.k_strides[1]);
            let v = operands.v.add(key * spec.v_strides[0]);
            let (to_k, to_v) = (self.part(context, self.parts.keys), self.part(context, self.parts.values));
            matmul::pack::<V>(poll, (k, spec.k_strides), (keys, spec.depth), to_k)
                && matmul::pack::<V>(poll, (v, spec.v_strides), (spec.width, keys), to_v)
        }
    }

    /// The scores of a group. False when the poll said stop.
    unsafe fn scores<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        group: Group,
        (_, keys): (usize, usize),
    ) -> bool {
        let depth = self.spec.depth;
        // SAFETY: rows and keys are the operands'; the panels hold the chunk.
        unsafe {
            if !self.addresses(context, operands, group) {
                return false;
            }
            let (scores, panels) =
                (self.part(context, self.parts.scores), self.part(context, self.parts.keys));
            let acc = context.scratch.cast::<f32>();
            let mut column = 0;
            while column < keys {
                let vectors = micro::vectors_at_once::<V>(group.rows, keys - column);
                if !self.multiply::<V>(context, group.rows, vectors, (panels, column, depth), acc, true) {
                    return false;
                }
                epilogue::store::<V>(&Store {
                    acc,
                    acc_stride: vectors * V::LANES,
                    rows: group.rows,
                    columns: (vectors * V::LANES).min(keys - column),
                    bias: std::ptr::null(),
                    residual: std::ptr::null(),
                    residual_stride: 0,
                    to: scores.add(column),
                    to_stride: KEYS,
                    alpha: self.spec.alpha,
                    activation: None,
                });
                column += vectors * V::LANES;
            }
        }
        true
    }

    /// The rows of the table times the panels from `column` on, each of `depth` steps. False when the poll
    /// said stop.
    #[inline(always)]
    unsafe fn multiply<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        rows: usize,
        vectors: usize,
        (panels, column, depth): (*const f32, usize, usize),
        acc: *mut f32,
        first: bool,
    ) -> bool {
        let (width, steps) = (PANEL_VECTORS * V::LANES, micro::steps_at_once::<V>(vectors));
        for offset in (0..depth).step_by(steps) {
            if context.poll.stop() {
                return false;
            }
            // SAFETY: the caller vouches for the panels and the sums.
            unsafe {
                let chunk = Chunk {
                    addresses: self.part(context, self.parts.table).cast(),
                    segments: 1,
                    offset,
                    len: steps.min(depth - offset),
                    weights: panels.add(column * depth + offset * width),
                    panel_stride: depth * width,
                    acc,
                    first: first && offset == 0,
                    apart: false,
                };
                micro::run::<V>(rows, vectors, &chunk);
            }
        }
        true
    }

    /// Fills the table with a group's rows of q, which it copies if they do not lie along their elements.
    /// False when the poll said stop.
    unsafe fn addresses(&self, context: &BlockContext<'_>, operands: &Operands, group: Group) -> bool {
        let ([m_stride, stride], depth) = (self.spec.q_strides, self.spec.depth);
        for at in 0..group.rows {
            // SAFETY: the rows are q's; scratch has room for as many.
            unsafe {
                let table = self.part(context, self.parts.table).cast::<*const f32>();
                let from = operands.q.add((group.row + at) * m_stride);
                if stride == 1 || depth == 1 {
                    table.add(at).write(from);
                    continue;
                }
                if context.poll.stop() {
                    return false;
                }
                let to = self.part(context, self.parts.rows).add(at * depth);
                for step in 0..depth {
                    to.add(step).write(*from.add(step * stride));
                }
                table.add(at).write(to);
            }
        }
        true
    }

    /// Masks the scores of a group, turns them into weights, and scales down what was summed before.
    unsafe fn weigh<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        group: Group,
        (key, keys): (usize, usize),
    ) {
        // SAFETY: rows and keys are the operands'; the scores are there.
        unsafe {
            let (scores, factors) =
                (self.part(context, self.parts.scores), self.part(context, self.parts.factors));
            if let Some((masking, strides)) = self.spec.mask {
                let first = (group.row * strides[0] + key * strides[1]) * masking.element_bytes();
                let mask = operands.mask.add(first);
                V::enter(Mask { masking, mask, strides, scores, rows: group.rows, keys });
            }
            V::enter(Weigh {
                scores,
                rows: group.rows,
                keys,
                largest: self.part(context, self.parts.largest).add(group.at),
                totals: self.part(context, self.parts.totals).add(group.at),
                factors,
            });
            if key > 0 {
                self.each_tile::<V>(group, |column, vectors| {
                    let sums = self.sums_of::<V>(context, group, column);
                    V::enter(Rescale { sums, rows: group.rows, columns: vectors * V::LANES, factors });
                });
            }
        }
    }

    /// Where the sums of a group are, from a column on.
    #[inline(always)]
    unsafe fn sums_of<V: Vector>(&self, context: &BlockContext<'_>, group: Group, column: usize) -> *mut f32 {
        // SAFETY: scratch has room for the tile's sums.
        unsafe {
            let sums = self.part(context, self.parts.sums);
            sums.add(group.at * self.sums_width::<V>() + column * group.rows)
        }
    }

    /// Calls `visit` with the first column and the vectors of every micro-tile of a group's sums.
    #[inline(always)]
    fn each_tile<V: Vector>(&self, group: Group, mut visit: impl FnMut(usize, usize)) {
        let mut column = 0;
        while column < self.spec.width {
            let vectors = micro::vectors_at_once::<V>(group.rows, self.spec.width - column);
            visit(column, vectors);
            column += vectors * V::LANES;
        }
    }

    /// Adds a chunk's values to the sums of a group. False when the poll said stop.
    unsafe fn sums<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        group: Group,
        (key, keys): (usize, usize),
    ) -> bool {
        // SAFETY: the weights and the panels are there.
        unsafe {
            let (scores, panels) =
                (self.part(context, self.parts.scores), self.part(context, self.parts.values));
            let table = self.part(context, self.parts.table).cast::<*const f32>();
            for at in 0..group.rows {
                table.add(at).write(scores.add(at * KEYS));
            }
            let mut column = 0;
            while column < self.spec.width {
                let vectors = micro::vectors_at_once::<V>(group.rows, self.spec.width - column);
                let acc = self.sums_of::<V>(context, group, column);
                if !self.multiply::<V>(context, group.rows, vectors, (panels, column, keys), acc, key == 0) {
                    return false;
                }
                column += vectors * V::LANES;
            }
        }
        true
    }

    /// The scores of one row, each along its key. False when the poll said stop.
    unsafe fn score_row<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        group: Group,
        (key, keys): (usize, usize),
    ) -> bool {
        let spec = &self.spec;
        if context.poll.stop() {
            return false;
        }
        // SAFETY: row and keys are the operands'.
        unsafe {
            V::enter(Dots {
                q: operands.q.add(group.row * spec.q_strides[0]),
                k: operands.k.add(key * spec.k_strides[1]),
                stride: spec.k_strides[1],
                depth: spec.depth,
                keys,
                alpha: spec.alpha,
                scores: self.part(context, self.parts.scores),
            });
        }
        true
    }

    /// Adds a chunk's values to the sums of one row. False when the poll said stop.
    unsafe fn sum_row<V: Vector>(
        &self,
        context: &BlockContext<'_>,
        operands: &Operands,
        group: Group,
        (key, keys): (usize, usize),
    ) -> bool {
        let spec = &self.spec;
        if context.poll.stop() {
            return false;
        }
        // SAFETY: the weights are there; the keys are v's.
        unsafe {
            V::enter(Weighted {
                weights: self.part(context, self.parts.scores),
                v: operands.v.add(key * spec.v_strides[0]),
                stride: spec.v_strides[0],
                keys,
                width: spec.width,
                sums: self.sums_of::<V>(context, group, 0),
                first: key == 0,
            });
        }
        true
    }

    /// Divides the sums of a group and stores them.
    unsafe fn finish<V: Vector>(&self, context: &BlockContext<'_>, operands: &Operands, group: Group) {
        let stride = self.spec.y_row_stride;
        // SAFETY: the sums are there; the rows are y's.
        unsafe {
            let totals = self.part(context, self.parts.totals).add(group.at);
            self.each_tile::<V>(group, |column, vectors| {
                V::enter(Divide {
                    sums: self.sums_of::<V>(context, group, column),
                    sums_stride: vectors * V::LANES,
                    rows: group.rows,
                    columns: (vectors * V::LANES).min(self.spec.width - column),
                    totals,
                    to: operands.y.add(group.row * stride + column),
                    to_stride: stride,
                });
            });
        }
    }
}

/// Masks scores, `[row][KEYS]`.
struct Mask {
    masking: Masking,
    /// At the first row and key.
    mask: *const u8,
    strides: [usize; 2],
    scores: *mut f32,
    rows: usize,
    keys: usize,
}

impl Leaf for Mask {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and keys of both.
            unsafe {
                let scores = self.scores.add(row * KEYS);
                let first = row * self.strides[0];
                match (self.masking, self.strides[1]) {
                    (Masking::Add, 1) => {
                        let mask = self.mask.cast::<f32>().add(first);
                        for at in 0..self.keys {
                            *scores.add(at) += *mask.add(at);
                        }
                    }
                    (Masking::Add, stride) => {
                        let mask = self.mask.cast::<f32>().add(first);
                        for at in 0..self.keys {
                            *scores.add(at) += *mask.add(at * stride);
                        }
                    }
                    (Masking::Replace { when, value }, stride) => {
                        let mask = self.mask.add(first);
                        for at in 0..self.keys {
                            let there = (*mask.add(at * stride) != 0) == when;
                            *scores.add(at) = if there { value } else { *scores.add(at) };
                        }
                    }
                }
            }
        }
    }
}

/// Turns the scores of some rows into `exp(score − largest so far)`.
struct Weigh {
    scores: *mut f32,
    rows: usize,
    keys: usize,
    /// The largest score of every row before, which becomes that until now.
    largest: *mut f32,
    /// The sum of the weights of every row, likewise.
    totals: *mut f32,
    /// By what sums of before are to be multiplied.
    factors: *mut f32,
}

impl Leaf for Weigh {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let whole = self.keys - self.keys % V::LANES;
        let rest = self.keys - whole;
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and keys.
            unsafe {
                let scores = self.scores.add(row * KEYS);
                let before = *self.largest.add(row);
                let mut most = V::splat(before);
                for at in (0..whole).step_by(V::LANES) {
                    most = V::load(scores.add(at)).max(most);
                }
                let mut largest = before;
                let lanes = most.lanes();
                let tail = std::slice::from_raw_parts(scores.add(whole).cast_const(), rest);
                for &lane in lanes[..V::LANES].iter().chain(tail) {
                    largest = if lane > largest || lane.is_nan() { lane } else { largest };
                }
                // As long as every score is −∞, so is the largest; what counts then has no weight.
                let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
                let by = V::splat(shift);
                let mut sum = V::splat(0.0);
                for at in (0..whole).step_by(V::LANES) {
                    let weight = math::exp(V::load(scores.add(at)) - by);
                    weight.store(scores.add(at));
                    sum = sum + weight;
                }
                if rest > 0 {
                    let weight = math::exp(V::load_part(scores.add(whole), rest) - by);
                    weight.store_part(scores.add(whole), rest);
                    sum = sum + V::load_part(scores.add(whole), rest);
                }
                let factor = math::exp(V::splat(before) - by).lanes()[0];
                self.factors.add(row).write(factor);
                self.largest.add(row).write(largest);
                self.totals.add(row).write(*self.totals.add(row) * factor + sum.sum());
            }
        }
    }
}

/// Multiplies the sums of some rows, a factor each.
struct Rescale {
    sums: *mut f32,
    rows: usize,
    /// Whole vectors.
    columns: usize,
    factors: *const f32,
}

impl Leaf for Rescale {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns.
            unsafe {
                let factor = *self.factors.add(row);
                if factor == 1.0 {
                    continue;
                }
                let (sums, factor) = (self.sums.add(row * self.columns), V::splat(factor));
                for at in (0..self.columns).step_by(V::LANES) {
                    (V::load(sums.add(at)) * factor).store(sums.add(at));
                }
            }
        }
    }
}

/// `scores[i] = alpha · q · k[i]`, keys that lie along their elements.
struct Dots {
    q: *const f32,
    k: *const f32,
    /// From key to key.
    stride: usize,
    depth: usize,
    keys: usize,
    alpha: f32,
    scores: *mut f32,
}

impl Leaf for Dots {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let whole = self.depth - self.depth % V::LANES;
        for key in 0..self.keys {
            // SAFETY: the caller vouches for the row and the keys.
            unsafe {
                let k = self.k.add(key * self.stride);
                let mut sum = V::splat(0.0);
                for at in (0..whole).step_by(V::LANES) {
                    sum = V::load(self.q.add(at)).mul_add(V::load(k.add(at)), sum);
                }
                let rest = self.depth - whole;
                if rest > 0 {
                    let (q, k) = (V::load_part(self.q.add(whole), rest), V::load_part(k.add(whole), rest));
                    sum = q.mul_add(k, sum);
                }
                self.scores.add(key).write(sum.sum() * self.alpha);
            }
        }
    }
}

/// `sums += Σ weights[i] · v[i]`, values that lie along their elements.
struct Weighted {
    weights: *const f32,
    v: *const f32,
    /// From key to key.
    stride: usize,
    keys: usize,
    width: usize,
    /// As many floats as whole vectors of the width have.
    sums: *mut f32,
    /// Start at zero rather than at `sums`.
    first: bool,
}

/// Vectors of a row that are summed together.
const ABREAST: usize = 4;

impl Leaf for Weighted {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let mut column = 0;
        // SAFETY: the caller vouches for weights, values and sums.
        unsafe {
            while column + ABREAST * V::LANES <= self.width {
                let to = self.sums.add(column);
                let mut sums = [V::splat(0.0); ABREAST];
                for vector in 0..ABREAST {
                    if !self.first {
                        sums[vector] = V::load(to.add(vector * V::LANES));
                    }
                }
                for key in 0..self.keys {
                    let (weight, v) =
                        (V::splat(*self.weights.add(key)), self.v.add(key * self.stride + column));
                    for vector in 0..ABREAST {
                        sums[vector] = weight.mul_add(V::load(v.add(vector * V::LANES)), sums[vector]);
                    }
                }
                for vector in 0..ABREAST {
                    sums[vector].store(to.add(vector * V::LANES));
                }
                column += ABREAST * V::LANES;
            }
            while column < self.width {
                let (to, count) = (self.sums.add(column), V::LANES.min(self.width - column));
                let mut sum = if self.first { V::splat(0.0) } else { V::load(to) };
                for key in 0..self.keys {
                    let v = V::load_part(self.v.add(key * self.stride + column), count);
                    sum = V::splat(*self.weights.add(key)).mul_add(v, sum);
                }
                sum.store(to);
                column += V::LANES;
            }
        }
    }
}

/// Divides the sums of some rows by their totals.
struct Divide {
    sums: *const f32,
    sums_stride: usize,
    rows: usize,
    columns: usize,
    totals: *const f32,
    to: *mut f32,
    to_stride: usize,
}

impl Leaf for Divide {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in 0..self.rows {
            // SAFETY: the caller vouches for rows and columns on both sides.
            unsafe {
                let factor = V::splat(1.0 / *self.totals.add(row));
                let (from, to) = (self.sums.add(row * self.sums_stride), self.to.add(row * self.to_stride));
                for at in (0..self.columns).step_by(V::LANES) {
                    let value = V::load(from.add(at)) * factor;
                    value.store_part(to.add(at), V::LANES.min(self.columns - at));
                }
            }
        }
    }
}
