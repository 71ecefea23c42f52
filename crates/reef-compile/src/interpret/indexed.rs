//! Kernels that take what indices name, put something there, or tell where the largest of a window is.

use reef_graph::reference::indexed::join;
use reef_graph::scalar::Element;
use reef_graph::{DType, Putting};
use reef_plan::{MaxPoolSpec, PutSpec, TakeSpec};

use super::{Access, part};

/// Elements are moved as they are, in integers of their size.
fn bits(dtype: DType) -> DType {
    match dtype.bytes() {
        8 => DType::I64,
        4 => DType::I32,
        2 => DType::I16,
        _ => DType::I8,
    }
}

pub(super) fn take(spec: &TakeSpec, access: &mut Access<'_, '_>, block: usize) -> Result<(), String> {
    let dtype = bits(spec.dtype);
    for at in part(block, spec.tile, spec.indexing.moved()) {
        let index = |pick| access.load(1, spec.index_dtype, pick).int();
        let from = spec.indexing.locate(at, index).map_err(|bad| format!("{}: {bad}", spec.operator()))?;
        let value = access.load(0, dtype, from);
        access.store(dtype, at, value);
    }
    Ok(())
}

pub(super) fn put(spec: &PutSpec, access: &mut Access<'_, '_>, block: usize) -> Result<(), String> {
    let dtype = if spec.putting == Putting::Replace { bits(spec.dtype) } else { spec.dtype };
    let ([_, places, inner], [planes, own, columns]) = (spec.extents(), spec.part(block));
    // Where an element of y is in the block's part, if it is there.
    let inside = |at: usize| {
        let (plane, place, column) = (at / inner / places, at / inner % places, at % inner);
        let is_own = planes.contains(&plane) && own.contains(&place) && columns.contains(&column);
        let row = || (plane - planes.start) * own.len() + place - own.start;
        is_own.then(|| row() * columns.len() + column - columns.start)
    };
    let all: Vec<usize> = (0..spec.indexing.data()).filter(|&at| inside(at).is_some()).collect();
    let mut made: Vec<Element> = all.iter().map(|&at| access.load(0, dtype, at)).collect();
    for update in 0..spec.indexing.moved() {
        let index = |pick| access.load(1, spec.index_dtype, pick).int();
        let to = spec.indexing.locate(update, index).map_err(|bad| format!("{}: {bad}", spec.operator()))?;
        let Some(to) = inside(to) else { continue };
        let update = access.load(2, dtype, update);
        made[to] = join(spec.putting, dtype, made[to], update);
    }
    all.into_iter().zip(made).for_each(|(at, made)| access.store(dtype, at, made));
    Ok(())
}

pub(super) fn max_pool(spec: &MaxPoolSpec, access: &mut Access<'_, '_>, block: usize) {
    for number in part(block, spec.tile, spec.count()) {
        let (largest, place) = spec.largest(number, |at| access.load(0, spec.dtype, at));
        access.store_to(0, spec.dtype, number, largest);
        access.store_to(1, DType::I64, number, Element::Int(place as i64));
    }
}
