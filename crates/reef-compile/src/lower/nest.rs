//! Loop nests: axes with a stride per operand, joined where one stride will do for several axes.

use smallvec::SmallVec;

use crate::view::View;

/// An axis of a loop nest: its extent and the stride of every operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// Extent.
    pub extent: usize,
    /// Stride of every operand, in elements.
    pub strides: SmallVec<[isize; 4]>,
}

/// The axes `which` (outermost first) of views with equal extents, joined; without axes of extent 1.
pub(super) fn nest(views: &[&View], which: &[usize]) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    for &axis in which {
        let extent = views[0].dims[axis];
        let strides: SmallVec<[isize; 4]> = views.iter().map(|view| view.strides[axis]).collect();
        if extent == 1 {
            continue;
        }
        let joins = axes.last().is_some_and(|outer: &Axis| {
            outer.strides.iter().zip(&strides).all(|(&outer, &inner)| outer == inner * extent as isize)
        });
        match axes.last_mut() {
            Some(outer) if joins => *outer = Axis { extent: outer.extent * extent, strides },
            _ => axes.push(Axis { extent, strides }),
        }
    }
    axes
}

#[cfg(test)]
mod tests {
    use reef_graph::DType;

    use super::*;

    #[test]
    fn axes_join_only_where_every_operand_allows() {
        let a = View::dense(0, DType::F32, &[2, 3, 4]);
        let b = View::dense(1, DType::F32, &[3, 4]).broadcast(&[2, 3, 4]);
        let axes = nest(&[&a, &b], &[0, 1, 2]);
        assert_eq!(axes.len(), 2);
        assert_eq!((axes[1].extent, &axes[1].strides[..]), (12, &[1, 1][..]));
        assert_eq!(nest(&[&a], &[0, 1, 2])[0].extent, 24);
    }
}
