//! The bytes of a batch: rows of its members' inputs put one after the other into the buffers of one task,
//! and rows of its outputs taken apart again. Both happen outside of every lock but this one's own, which
//! nobody else waits for.
//!
//! A plan with more rows than there are is filled up with copies of the last one: what is computed for them
//! is thrown away, and cannot fail where the row itself does not.

use std::sync::{Mutex, MutexGuard, PoisonError};

use reef_base::Buffer;
use reef_device::Io;

use crate::error::InferError;
use crate::plans::PlanEntry;

/// What the members of a batch brought.
#[derive(Debug)]
pub(crate) struct Gathering {
    /// Rows of each member, in the batch's order.
    rows: Box<[usize]>,
    /// Their buffers; empty once given back.
    ios: Mutex<Vec<Io>>,
}

impl Gathering {
    /// Of members with so many rows and these buffers.
    pub(crate) fn new(members: Vec<(usize, Io)>) -> Gathering {
        let (rows, ios): (Vec<usize>, Vec<Io>) = members.into_iter().unzip();
        Gathering { rows: rows.into(), ios: Mutex::new(ios) }
    }

    /// Rows of all members.
    pub(crate) fn rows(&self) -> usize {
        self.rows.iter().sum()
    }

    /// Bytes of the inputs of all members.
    pub(crate) fn bytes(&self) -> usize {
        self.ios().iter().flat_map(|io| &io.inputs).map(Buffer::len).sum()
    }

    /// Buffers for a task of `plan` with the inputs of all members in them.
    pub(crate) fn gather(&self, plan: &PlanEntry) -> Result<Io, InferError> {
        let mut io = std::mem::take(&mut plan.buffers()?.io);
        let ios = self.ios();
        for (index, to) in io.inputs.iter_mut().enumerate() {
            let row = row_bytes(&plan.pool.inputs[index].shape, to);
            let (to, mut at) = (to.as_mut_slice(), 0);
            for (own, rows) in ios.iter().zip(&self.rows) {
                let from = &own.inputs[index].as_slice()[..rows * row];
                to[at..at + from.len()].copy_from_slice(from);
                at += from.len();
            }
            while row > 0 && at < to.len() {
                to.copy_within(at - row..at, at);
                at += row;
            }
        }
        Ok(io)
    }

    /// The buffers of the member at `place`; with its rows of the outputs in them, if the batch `made` any.
    pub(crate) fn give_back(&self, place: usize, made: Option<(&PlanEntry, &Io)>) -> Io {
        let mut io = std::mem::take(&mut self.ios()[place]);
        let Some((plan, batch)) = made else { return io };
        let (first, rows) = (self.rows[..place].iter().sum::<usize>(), self.rows[place]);
        for (index, (from, to)) in batch.outputs.iter().zip(&mut io.outputs).enumerate() {
            let row = row_bytes(&plan.pool.outputs[index].shape, from);
            let to = &mut to.as_mut_slice()[..rows * row];
            to.copy_from_slice(&from.as_slice()[first * row..][..rows * row]);
        }
        io
    }

    fn ios(&self) -> MutexGuard<'_, Vec<Io>> {
        self.ios.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a row of a buffer with this shape.
fn row_bytes(shape: &reef_graph::Shape, buffer: &Buffer) -> usize {
    buffer.len() / shape[0].max(1)
}
