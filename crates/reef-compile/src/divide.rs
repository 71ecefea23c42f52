//! A plan cut at stage boundaries into parts, plans as well, that several devices run one after the other.
//!
//! The kernels of a part are the whole plan's, with the same cut, so that the outputs are the same to the
//! bit. What lives across a boundary (bytes that a stage behind it reads, and that one before it wrote last)
//! is packed into one tensor by a stage of copies at the end of a part and unpacked by another one at the
//! beginning of the next: everything in between finds its bytes where the whole plan has them. An output of
//! the model that is made before the last part travels in the same way. Inputs that later parts read are
//! passed on as they are.

use std::ops::Range;
use std::sync::Arc;

use reef_base::bytes::ALIGN_BYTES;
use reef_base::limits::STAGE_KERNELS_MAX;
use reef_graph::{DType, Shape};
use reef_plan::{
    Cost, Cutter, ElemInput, ElemOp, ElementwiseSpec, IoSpec, Kernel, KernelSpec, Place, Plan, PlanParts,
    Region, Restart, Work,
};

use crate::error::CompileError;

/// One part of a plan.
#[derive(Clone, Debug)]
pub struct Division {
    /// Its plan. The last part has the outputs of the whole plan, others have one: what they leave to the
    /// next.
    pub plan: Plan,
    /// What its inputs are. The first part has those of the whole plan.
    pub inputs: Vec<DivisionInput>,
    /// The stages of its plan that are the whole plan's; before and behind them it copies.
    pub own: Range<usize>,
}

/// What an input of a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DivisionInput {
    /// The whole plan's input with this index.
    Whole(usize),
    /// What the part before leaves: its only output.
    Left,
}

/// Divides `plan`, which `cutter` has cut, before the stages `at`, which ascend. Inputs with an index in
/// `kept` are passed on to the last part whether it reads them or not.
pub fn divide(
    plan: &Plan,
    at: &[usize],
    kept: &[usize],
    cutter: &dyn Cutter,
) -> Result<Vec<Division>, CompileError> {
    (0..=at.len()).map(|index| divide_off(plan, at, index, kept, cutter)).collect()
}

/// The part with this index of what [`divide`] makes, without the others.
pub fn divide_off(
    plan: &Plan,
    at: &[usize],
    index: usize,
    kept: &[usize],
    cutter: &dyn Cutter,
) -> Result<Division, CompileError> {
    let stages = plan.stages().len();
    let bounds: Vec<usize> = [0].into_iter().chain(at.iter().copied()).chain([stages]).collect();
    if !bounds.is_sorted_by(|a, b| a < b) || index > at.len() {
        let what = format!("{stages} stages cannot be divided before {at:?}");
        return Err(CompileError::Io { what });
    }
    let space = Space::new(plan);
    let crossing = |boundary: usize| Some(Crossing::new(plan, &space, *at.get(boundary)?));
    let (before, after) = (index.checked_sub(1).and_then(crossing), crossing(index));
    let (own, before, after) = (bounds[index]..bounds[index + 1], before.as_ref(), after.as_ref());
    Cutting { plan, cutter, space: &space, own, before, after }.part(index, kept)
}

/// The arena and behind it the outputs, as one range of bytes.
struct Space {
    /// Where every output begins, and where all end.
    outputs: Vec<usize>,
}

impl Space {
    fn new(plan: &Plan) -> Space {
        let mut end = plan.arena_bytes().next_multiple_of(ALIGN_BYTES);
        let mut outputs = vec![end];
        for spec in plan.outputs() {
            end += spec.bytes().next_multiple_of(ALIGN_BYTES);
            outputs.push(end);
        }
        Space { outputs }
    }

    fn bytes(&self) -> usize {
        *self.outputs.last().expect("the end is there")
    }

    /// Where a place begins; `None` if no kernel writes it.
    fn begin(&self, place: Place) -> Option<usize> {
        match place {
            Place::Arena => Some(0),
            Place::Output(index) => Some(self.outputs[usize::from(index)]),
            Place::Input(_) | Place::Weight(_) => None,
        }
    }

    /// A range, which lies in one place, as a region of the whole plan.
    fn region(&self, plan: &Plan, range: &Range<usize>) -> Region {
        if range.start < self.outputs[0] {
            return Region::dense(Place::Arena, range.start, range.len());
        }
        let index = self.outputs.partition_point(|&begin| begin <= range.start) - 1;
        let offset = range.start - self.outputs[index];
        let bytes = range.len().min(plan.outputs()[index].bytes() - offset);
        Region::dense(Place::Output(index as u16), offset, bytes)
    }
}

/// What lives across a boundary.
struct Crossing {
    /// Ranges of the space, of whole cache lines; none spans two places.
    ranges: Vec<Range<usize>>,
}

impl Crossing {
    /// Of the boundary before `stage`.
    fn new(plan: &Plan, space: &Space, stage: usize) -> Crossing {
        let mut live = Bits::new(space.bytes());
        let kernels = |stage: usize| {
            let own = &plan.stages()[stage].kernels;
            &plan.kernels()[own.start as usize..own.end as usize]
        };
        for (index, spec) in plan.outputs().iter().enumerate() {
            live.set(space.outputs[index]..space.outputs[index] + spec.bytes(), true);
        }
        let mark = |bits: &mut Bits, place: Place, range: Range<usize>, value: bool| {
            if let Some(begin) = space.begin(place) {
                bits.set(begin + range.start..begin + range.end, value);
            }
        };
        for later in (stage..plan.stages().len()).rev() {
            for kernel in kernels(later) {
                plan.each_written(kernel, |place, range| mark(&mut live, place, range, false));
            }
            for region in kernels(later).iter().flat_map(|kernel| &kernel.reads) {
                rows(region).for_each(|row| mark(&mut live, region.place, row, true));
            }
        }
        let mut written = Bits::new(space.bytes());
        for kernel in (0..stage).flat_map(kernels) {
            plan.each_written(kernel, |place, range| mark(&mut written, place, range, true));
        }
        live.keep(&written);
        let ends = [0].iter().chain(&space.outputs).zip(&space.outputs);
        let ranges = ends.flat_map(|(&begin, &end)| fewer(live.lines(begin..end)));
        Crossing { ranges: ranges.collect() }
    }

    fn bytes(&self) -> usize {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    /// The tensor that carries it.
    fn spec(&self) -> IoSpec {
        let shape = Shape::from([self.bytes().max(ALIGN_BYTES)]);
        IoSpec { name: "left".into(), dtype: DType::U8, shape }
    }
}

/// The bytes of a region in its place, row by row.
fn rows(region: &Region) -> impl Iterator<Item = Range<usize>> {
    let (stride, width) = match region.lane {
        None => (region.bytes.max(1), region.bytes),
        Some(lane) => (lane.stride, lane.width),
    };
    let (begin, end) = (region.offset, region.end());
    (0..region.bytes.div_ceil(stride)).map(move |row| {
        let begin = begin + row * stride;
        begin..(begin + width).min(end)
    })
}

/// As many ranges as a stage has kernels for, with the smallest gaps between them filled.
fn fewer(ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let surplus = ranges.len().saturating_sub(STAGE_KERNELS_MAX / 2);
    let gap = |at: usize| ranges[at + 1].start - ranges[at].end;
    let mut gaps: Vec<usize> = (0..ranges.len().saturating_sub(1)).collect();
    gaps.sort_by_key(|&at| gap(at));
    let mut filled = vec![false; ranges.len()];
    gaps[..surplus].iter().for_each(|&at| filled[at + 1] = true);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for (range, joins) in ranges.iter().zip(filled) {
        match merged.last_mut().filter(|_| joins) {
            Some(last) => last.end = range.end,
            None => merged.push(range.clone()),
        }
    }
    merged
}

/// One part that is being made.
struct Cutting<'a> {
    plan: &'a Plan,
    cutter: &'a dyn Cutter,
    space: &'a Space,
    own: Range<usize>,
    before: Option<&'a Crossing>,
    after: Option<&'a Crossing>,
}

impl Cutting<'_> {
    fn part(&self, index: usize, kept: &[usize]) -> Result<Division, CompileError> {
        let plan = self.plan;
        let inputs = self.inputs(kept);
        let mut stages: Vec<Vec<Kernel>> = Vec::with_capacity(self.own.len() + 2);
        let left = inputs.len() - 1;
        let unpack = self.before.map(|crossing| self.copies(crossing, Place::Input(left as u16), true));
        stages.extend(unpack.into_iter().flatten());
        let own = stages.len()..stages.len() + self.own.len();
        for stage in &plan.stages()[self.own.clone()] {
            let own = &plan.kernels()[stage.kernels.start as usize..stage.kernels.end as usize];
            stages.push(own.iter().map(|kernel| self.kernel(kernel, &inputs)).collect());
        }
        let pack = self.after.map(|crossing| self.copies(crossing, Place::Output(0), false));
        stages.extend(pack.into_iter().flatten());
        let (weights, host_kernels) = renumber(plan, &mut stages);
        let spec = |input: &DivisionInput| match (input, self.before) {
            (DivisionInput::Whole(index), _) => plan.inputs()[*index].clone(),
            (DivisionInput::Left, Some(crossing)) => crossing.spec(),
            (DivisionInput::Left, None) => unreachable!("the first part is left nothing"),
        };
        let outputs = self.after.map_or_else(|| plan.outputs().to_vec(), |crossing| vec![crossing.spec()]);
        let parts = PlanParts {
            name: format!("{} part {}", plan.name(), index + 1),
            target: plan.target(),
            inputs: inputs.iter().map(spec).collect(),
            outputs,
            weights,
            store: plan.store().clone(),
            host_kernels,
            stages,
            arena_bytes: if self.after.is_some() { self.space.bytes() } else { self.space.outputs[0] },
        };
        Ok(Division { plan: Plan::cut_by(self.cutter, parts)?, inputs, own })
    }

    /// The inputs that this part, or a later one, reads.
    fn inputs(&self, kept: &[usize]) -> Vec<DivisionInput> {
        let all = 0..self.plan.inputs().len();
        if self.before.is_none() {
            return all.map(DivisionInput::Whole).collect();
        }
        let from = self.plan.stages()[self.own.start].kernels.start as usize;
        let reads = || self.plan.kernels()[from..].iter().flat_map(|kernel| &kernel.reads);
        let read = |index: &usize| reads().any(|region| region.place == Place::Input(*index as u16));
        let whole = all.filter(|index| kept.contains(index) || read(index)).map(DivisionInput::Whole);
        whole.chain([DivisionInput::Left]).collect()
    }

    /// A kernel of the whole plan, with places of the part.
    fn kernel(&self, kernel: &Kernel, inputs: &[DivisionInput]) -> Kernel {
        let place = |region: &Region| match region.place {
            Place::Input(index) => {
                let whole = DivisionInput::Whole(index.into());
                let index = inputs.iter().position(|&input| input == whole);
                Region { place: Place::Input(index.expect("what is read is passed on") as u16), ..*region }
            }
            Place::Arena | Place::Output(_) => self.inside(region),
            Place::Weight(_) => *region,
        };
        let reads = kernel.reads.iter().map(place).collect();
        Kernel { reads, writes: kernel.writes.iter().map(place).collect(), ..kernel.clone() }
    }

    /// Outputs of the model are in the arena of all parts but the last.
    fn inside(&self, region: &Region) -> Region {
        match self.space.begin(region.place) {
            Some(begin) if self.after.is_some() => {
                Region { place: Place::Arena, offset: begin + region.offset, ..*region }
            }
            _ => *region,
        }
    }

    /// Stages that copy what crosses a boundary from or to the tensor that carries it.
    fn copies(&self, crossing: &Crossing, carried: Place, unpack: bool) -> Vec<Vec<Kernel>> {
        let mut offset = 0;
        let copy = |range: &Range<usize>| {
            let here = self.inside(&self.space.region(self.plan, range));
            let there = Region::dense(carried, offset, here.bytes);
            offset += range.len();
            let (from, to) = if unpack { (there, here) } else { (here, there) };
            copy(from, to, self.cutter)
        };
        let copies: Vec<Kernel> = crossing.ranges.iter().map(copy).collect();
        copies.chunks(STAGE_KERNELS_MAX).map(<[Kernel]>::to_vec).collect()
    }
}

/// A kernel that copies a dense region, eight bytes at a time where that is possible.
fn copy(from: Region, to: Region, cutter: &dyn Cutter) -> Kernel {
    let wide = [from.offset, to.offset, from.bytes].iter().all(|bytes| bytes.is_multiple_of(8));
    let dtype = if wide { DType::I64 } else { DType::U8 };
    let spec = ElementwiseSpec {
        dims: vec![from.bytes / dtype.bytes()],
        inputs: vec![ElemInput { dtype, offset: 0, strides: vec![1] }],
        program: vec![ElemOp::Load(0)],
        out_dtype: dtype,
        out_strides: vec![1],
        tile: from.bytes / dtype.bytes(),
    };
    let work = Work { bytes: 2.0 * from.bytes as f64, ..Work::default() };
    Kernel {
        name: "what crosses".into(),
        spec: cutter.cut(KernelSpec::Elementwise(spec), &work),
        reads: vec![from],
        writes: vec![to],
        restart: Restart::Safe,
        cost: Cost { flops: 0, bytes: 2 * from.bytes as u64 },
    }
}

type Used = (Vec<reef_plan::WeightRef>, Vec<Arc<dyn reef_plan::HostKernel>>);

/// Names the weights and host kernels that `stages` use by their place among them, and gives them.
fn renumber(plan: &Plan, stages: &mut [Vec<Kernel>]) -> Used {
    let (mut weights, mut hosts): (Vec<u32>, Vec<usize>) = (vec![], vec![]);
    for kernel in stages.iter_mut().flatten() {
        for region in &mut kernel.reads {
            if let Place::Weight(index) = &mut region.place {
                *index = number(&mut weights, *index) as u32;
            }
        }
        if let KernelSpec::Host(index) = &mut kernel.spec {
            *index = number(&mut hosts, *index);
        }
    }
    let weights = weights.iter().map(|&index| plan.weights()[index as usize].clone()).collect();
    (weights, hosts.iter().map(|&index| plan.host_kernels()[index].clone()).collect())
}

/// The place of `what` among those that are known; it is from now on.
fn number<T: PartialEq>(known: &mut Vec<T>, what: T) -> usize {
    known.iter().position(|other| *other == what).unwrap_or_else(|| {
        known.push(what);
        known.len() - 1
    })
}

/// A set of bytes.
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Bits {
        Bits(vec![0; len.div_ceil(64)])
    }

    fn set(&mut self, range: Range<usize>, value: bool) {
        let mut at = range.start;
        while at < range.end {
            let (word, bit) = (at / 64, at % 64);
            let count = (64 - bit).min(range.end - at);
            let mask = (u64::MAX >> (64 - count)) << bit;
            if value {
                self.0[word] |= mask;
            } else {
                self.0[word] &= !mask;
            }
            at += count;
        }
    }

    fn keep(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own &= other);
    }

    /// The cache lines with a byte of the set, of those in `range`, as ranges of bytes.
    fn lines(&self, range: Range<usize>) -> Vec<Range<usize>> {
        const _: () = assert!(ALIGN_BYTES == 64, "a line is a word of bits");
        let mut ranges: Vec<Range<usize>> = vec![];
        for line in range.start / 64..range.end.div_ceil(64) {
            if self.0[line] == 0 {
                continue;
            }
            match ranges.last_mut().filter(|last| last.end == line * 64) {
                Some(last) => last.end += 64,
                None => ranges.push(line * 64..(line + 1) * 64),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_and_found() {
        let mut bits = Bits::new(1000);
        bits.set(3..200, true);
        bits.set(64..128, false);
        bits.set(900..901, true);
        assert_eq!(bits.lines(0..1000), [0..64, 128..256, 896..960]);
        assert_eq!(bits.lines(192..960), [192..256, 896..960]);
        let mut other = Bits::new(1000);
        other.set(0..150, true);
        bits.keep(&other);
        assert_eq!(bits.lines(0..1000), [0..64, 128..192]);
    }

    #[test]
    fn rows_of_a_column_are_its_bytes() {
        let column = Region::column(Place::Arena, 100, 3, 4, 16);
        assert_eq!(rows(&column).collect::<Vec<_>>(), [100..104, 116..120, 132..136]);
        assert_eq!(rows(&Region::dense(Place::Arena, 5, 7)).next(), Some(5..12));
        assert_eq!(rows(&Region::dense(Place::Arena, 5, 0)).count(), 0);
    }

    #[test]
    fn the_smallest_gaps_are_filled() {
        let many = STAGE_KERNELS_MAX / 2 + 2;
        let ranges: Vec<Range<usize>> = (0..many)
            .map(|index| {
                let begin = index * 1000 + if index >= 5 { 500 } else { 0 };
                begin..begin + if index == 3 || index == 7 { 990 } else { 10 }
            })
            .collect();
        let merged = fewer(ranges.clone());
        assert_eq!(merged.len(), STAGE_KERNELS_MAX / 2);
        assert_eq!(merged[3], 3000..4010);
        assert_eq!(merged[6], 7500..8510);
        assert_eq!(fewer(ranges[..4].to_vec()), ranges[..4]);
    }
}
