//! Families: requests of a model that differ in their rows alone, and the plans that their batches run.
//!
//! A family has plans for some numbers of rows, made when the model is loaded and kept as long as it is
//! there: one row, the preferred sizes, or where there are none the powers of two, and the most. A request
//! that has another number of rows has buffers of its own, and runs with the next larger plan.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use reef_base::limits;
use reef_graph::Shape;
use reef_plan::IoSpec;
use reef_program::{Given, SegmentKey};
use reef_sched::{Joins, Size};

use crate::error::InferError;
use crate::model::{Batching, ModelSettings, TensorInfo};
use crate::plans::{Buffers, IdleRoom, IoPool, PlanEntry};

/// One family of a model on one device.
pub(crate) struct Family {
    /// Its shapes for one row, one per input.
    shapes: Vec<Shape>,
    /// Rows that there are plans for, the smallest first.
    sizes: Vec<FamilySize>,
    /// By rows, less one: buffers of requests that no plan is for.
    pools: Mutex<Vec<Option<Arc<IoPool>>>>,
    /// For what these keep.
    room: Arc<IdleRoom>,
}

struct FamilySize {
    rows: usize,
    key: SegmentKey,
    plan: u16,
}

impl Family {
    /// A family of these shapes with `plans`, the smallest first, which stay; `room` is its model's.
    pub(crate) fn new(shapes: Vec<Shape>, plans: &[Arc<PlanEntry>], room: Arc<IdleRoom>) -> Family {
        let size = |plan: &Arc<PlanEntry>| FamilySize {
            rows: plan.pool.inputs[0].shape[0],
            key: plan.key().clone(),
            plan: plan.index,
        };
        Family { shapes, sizes: plans.iter().map(size).collect(), pools: Mutex::default(), room }
    }

    /// Its rows, if inputs of these shapes are of it.
    pub(crate) fn rows_of(&self, shapes: &[Shape]) -> Option<usize> {
        let rows = *shapes.first()?.iter().next()?;
        let same = |(own, given): (&Shape, &Shape)| {
            own.rank() == given.rank() && given[0] == rows && own.iter().skip(1).eq(given.iter().skip(1))
        };
        let most = self.sizes.last()?.rows;
        ((1..=most).contains(&rows) && self.shapes.iter().zip(shapes).all(same)).then_some(rows)
    }

    /// The key of the smallest plan that has room for so many rows.
    pub(crate) fn key_for(&self, rows: usize) -> &SegmentKey {
        let size = self.sizes.iter().find(|size| size.rows >= rows);
        &size.expect("a family has a plan for the most rows").key
    }

    /// Buffers of a request with so many rows, which `plan` has room for.
    pub(crate) fn buffers(&self, rows: usize, plan: &PlanEntry) -> Result<Buffers, InferError> {
        let own = |spec: &IoSpec| {
            let shape = std::iter::once(rows).chain(spec.shape.iter().skip(1).copied()).collect();
            IoSpec { shape, ..spec.clone() }
        };
        if plan.pool.inputs[0].shape[0] == rows {
            return plan.buffers();
        }
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.len() < rows {
            pools.resize(rows, None);
        }
        let pool = pools[rows - 1].get_or_insert_with(|| {
            let of = |specs: &[IoSpec]| specs.iter().map(own).collect();
            let room = Some(self.room.clone());
            Arc::new(IoPool::of(of(&plan.pool.inputs), of(&plan.pool.outputs), room))
        });
        let pool = pool.clone();
        drop(pools);
        pool.host_buffers().ok_or(InferError::NoMemory)
    }

    /// Lets go of the buffers that wait for requests.
    pub(crate) fn close(&self) {
        let pools = std::mem::take(&mut *self.pools.lock().unwrap_or_else(PoisonError::into_inner));
        drop(pools);
    }

    /// What the scheduler is to know of it.
    pub(crate) fn sizes(&self, batching: &Batching) -> Vec<Size> {
        let size = |size: &FamilySize| Size {
            rows: size.rows as u32,
            plan: size.plan,
            preferred: batching.preferred.contains(&size.rows),
        };
        self.sizes.iter().map(size).collect()
    }
}

/// The family, of a model's, that inputs of these shapes are of.
pub(crate) fn find(families: &[Family], shapes: &[Shape]) -> Option<Joins> {
    let found = families.iter().enumerate().find_map(|(at, family)| Some((at, family.rows_of(shapes)?)));
    found.map(|(family, rows)| Joins { family: family as u16, rows: rows as u32 })
}

/// Numbers of rows that plans are made for.
pub(crate) fn sizes(batching: &Batching, rows_max: usize) -> Vec<usize> {
    let powers = || (0..usize::BITS).map(|exponent| 1 << exponent).take_while(|&rows| rows < rows_max);
    let between: Vec<usize> =
        if batching.preferred.is_empty() { powers().collect() } else { batching.preferred.clone() };
    let all: BTreeSet<usize> = between.into_iter().chain([1, rows_max]).collect();
    all.into_iter().collect()
}

/// The shapes of one row of each family that these settings name; none where it is not known what requests
/// have in common.
pub(crate) fn shapes(settings: &ModelSettings, inputs: &[TensorInfo]) -> Vec<Vec<Shape>> {
    let named = |set: &[(String, Shape)], info: &TensorInfo| {
        let given = set.iter().find(|(name, _)| *name == info.name).map(|(_, shape)| shape.iter().copied());
        let extents: Option<Vec<usize>> = match given {
            Some(given) => Some(given.collect()),
            None => {
                let first = std::iter::once(Some(1));
                first.chain(info.dims.iter().skip(1).map(|&dim| usize::try_from(dim).ok())).collect()
            }
        };
        let mut extents = extents?;
        *extents.first_mut()? = 1;
        Some(extents.into_iter().collect::<Shape>())
    };
    let none = vec![];
    let sets = if settings.shapes.is_empty() { std::slice::from_ref(&none) } else { &settings.shapes[..] };
    let mut families: Vec<Vec<Shape>> = vec![];
    for set in sets {
        let shapes: Option<Vec<Shape>> = inputs.iter().map(|info| named(set, info)).collect();
        families.extend(shapes.filter(|shapes| !families.contains(shapes)));
    }
    families
}

/// What is wrong with what settings say of rows and batches.
pub(crate) fn check_settings(settings: &ModelSettings) -> Result<(), String> {
    let Some(rows_max) = settings.batch_rows_max else {
        return match settings.batching {
            Some(_) => Err("requests are joined up to some number of rows: max_batch_size is missing".into()),
            None => Ok(()),
        };
    };
    if !(1..=limits::BATCH_ROWS_MAX).contains(&rows_max) {
        return Err(format!("max_batch_size must be 1 to {}, not {rows_max}", limits::BATCH_ROWS_MAX));
    }
    let Some(batching) = &settings.batching else { return Ok(()) };
    if let Some(size) = batching.preferred.iter().find(|size| !(1..=rows_max).contains(size)) {
        return Err(format!("preferred batch sizes must be 1 to max_batch_size ({rows_max}), not {size}"));
    }
    if sizes(batching, rows_max).len() > limits::BATCH_SIZES_MAX {
        return Err(format!("at most {} preferred batch sizes", limits::BATCH_SIZES_MAX - 2));
    }
    if settings.placement == crate::model::Placement::Split {
        return Err("requests of a model that is split over devices cannot be joined".into());
    }
    Ok(())
}

/// The key of a family's plan with so many rows.
pub(crate) fn key(shapes: &[Shape], inputs: &[TensorInfo], rows: usize) -> SegmentKey {
    let given = shapes.iter().zip(inputs).map(|(shape, info)| {
        let extents = std::iter::once(rows).chain(shape.iter().skip(1).copied());
        Given::Tensor(info.dtype, extents.collect())
    });
    SegmentKey { part: None, given: given.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reef_base::Nanos;

    #[test]
    fn plans_are_made_for_preferred_sizes_or_powers_of_two() {
        let of = |preferred: &[usize]| Batching { delay: Nanos::ZERO, preferred: preferred.to_vec() };
        assert_eq!(sizes(&of(&[]), 12), [1, 2, 4, 8, 12]);
        assert_eq!(sizes(&of(&[]), 16), [1, 2, 4, 8, 16]);
        assert_eq!(sizes(&of(&[]), 1), [1]);
        assert_eq!(sizes(&of(&[6, 3, 6]), 10), [1, 3, 6, 10]);
    }

    #[test]
    fn settings_that_contradict_each_other_are_told_apart() {
        let told = |rows: Option<usize>, preferred: &[usize]| {
            let batching = Some(Batching { preferred: preferred.to_vec(), ..Batching::default() });
            let settings = ModelSettings { batch_rows_max: rows, batching, ..ModelSettings::default() };
            check_settings(&settings).unwrap_err()
        };
        assert!(told(None, &[]).contains("max_batch_size is missing"));
        assert!(told(Some(0), &[]).contains("must be 1 to"));
        assert!(told(Some(usize::MAX), &[]).contains("must be 1 to"));
        assert!(told(Some(4), &[0]).contains("not 0"));
        assert!(told(Some(4), &[5]).contains("(4), not 5"));
        assert!(told(Some(64), &(2..60).collect::<Vec<_>>()).contains("at most"));
    }
}
