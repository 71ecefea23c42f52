//! Constants of a model, packed as kernels want them and shared by all its plans.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use reef_base::AlignedBytes;
use reef_graph::{ConstKey, DType, Tensor};

use crate::integer::{IntegerPanels, packed_offset};
use crate::layout::{At, Matrices, OwnLayout};

/// How a constant lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Packing {
    /// As it is: dense, row-major.
    Raw,
    /// Convolution weights `[O, I, kh, kw]` (I per group) as `[group][panel][kh][kw][I][width]`: a panel is
    /// `width` output channels of one group, the last one filled up with zeros.
    ConvPanels {
        /// Channel groups.
        groups: u32,
        /// Output channels of a panel.
        width: u32,
    },
    /// A matrix `[K, N]` as `[panel][K][width]`, a panel being `width` columns, the last filled up with
    /// zeros.
    MatrixPanels {
        /// Columns of a panel.
        width: u32,
        /// The constant is stored `[N, K]`.
        transposed: bool,
    },
    /// Depthwise weights `[C, 1, kh, kw]` as `[kh][kw][C]`.
    Depthwise,
    /// Weights of 8-bit integers, of a convolution (`[O, I, kh, kw]`, I per group) or a matrix (`[K, N]`), as
    /// [`IntegerPanels`] says.
    IntegerPanels {
        /// Channel groups; 1 for a matrix.
        groups: u32,
        /// Output channels of a panel.
        width: u32,
    },
    /// Convolution weights `[O, I, kh, kw]` (I per group), or a matrix, in a layout that a device defines.
    Own {
        /// Which layout.
        layout: OwnLayout,
        /// Channel groups; 1 for a matrix.
        groups: u32,
        /// A matrix that is stored `[N, K]`.
        transposed: bool,
    },
}

/// A packed constant that a plan uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightRef {
    /// Which constant.
    pub key: ConstKey,
    /// How it lies in memory.
    pub packing: Packing,
    /// Bytes when packed.
    pub bytes: usize,
}

/// A constant, packed.
type Packed = (ConstKey, Packing);

/// The packed constants of a model's plans, each there once while some plan uses it: constants that are made
/// for the shapes of one request go with its plan.
#[derive(Debug, Default)]
pub struct ModelWeights(Mutex<HashMap<Packed, Weak<AlignedBytes>>>);

impl ModelWeights {
    /// A store for one plan.
    pub fn store(self: &Arc<Self>) -> WeightStore {
        self.lock().retain(|_, bytes| bytes.strong_count() > 0);
        WeightStore { inner: Mutex::default(), model: Some(self.clone()) }
    }

    /// Constants that some plan uses.
    pub fn count(&self) -> usize {
        self.lock().values().filter(|bytes| bytes.strong_count() > 0).count()
    }

    /// What is there already, or `bytes` from now on.
    fn the_one(&self, packed: Packed, bytes: impl FnOnce() -> Arc<AlignedBytes>) -> Arc<AlignedBytes> {
        let known = self.lock().get(&packed).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let bytes = bytes();
            self.lock().insert(packed, Arc::downgrade(&bytes));
            bytes
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Packed, Weak<AlignedBytes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The packed constants of a plan, or of several, each made once.
#[derive(Debug, Default)]
pub struct WeightStore {
    inner: Mutex<HashMap<Packed, Arc<AlignedBytes>>>,
    /// Those of the model's other plans.
    model: Option<Arc<ModelWeights>>,
}

impl WeightStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Packs `tensor` unless it is packed already, and names the packing.
    pub fn insert(&self, tensor: &Tensor, packing: Packing) -> WeightRef {
        let key = tensor.key();
        if let Some(bytes) = self.get(key, packing) {
            return WeightRef { key, packing, bytes: bytes.len() };
        }
        // A clone: bytes that had to be read for this go with it.
        let pack = || pack(&tensor.clone(), packing);
        let bytes = match &self.model {
            Some(model) => model.the_one((key, packing), pack),
            None => pack(),
        };
        let len = bytes.len();
        self.lock().entry((key, packing)).or_insert(bytes);
        WeightRef { key, packing, bytes: len }
    }

    /// The packed bytes, if they were inserted.
    pub fn get(&self, key: ConstKey, packing: Packing) -> Option<Arc<AlignedBytes>> {
        self.lock().get(&(key, packing)).cloned()
    }

    /// Bytes of all packings.
    pub fn packed_bytes(&self) -> usize {
        self.lock().values().map(|bytes| bytes.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Packed, Arc<AlignedBytes>>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pack(tensor: &Tensor, packing: Packing) -> Arc<AlignedBytes> {
    let dims = tensor.shape();
    match packing {
        Packing::Raw => tensor.bytes().clone(),
        Packing::ConvPanels { groups, width } => {
            let (of, at) = conv_weights(tensor, groups as usize);
            pack_panels(of, width as usize, at)
        }
        Packing::MatrixPanels { width, transposed } => {
            let (of, at) = matrix(tensor, transposed);
            pack_panels(of, width as usize, at)
        }
        Packing::Depthwise => {
            let (channels, taps) = (dims[0], dims[2] * dims[3]);
            let source = tensor.values::<f32>();
            let mut bytes = AlignedBytes::zeroed(channels * taps * 4);
            for (index, value) in bytes.typed_mut::<f32>().iter_mut().enumerate() {
                *value = source[(index % channels) * taps + index / channels];
            }
            Arc::new(bytes)
        }
        Packing::IntegerPanels { groups, width } => pack_integers(tensor, groups as usize, width as usize),
        Packing::Own { layout, groups, .. } if dims.rank() == 4 => {
            pack_own(layout, conv_weights(tensor, groups as usize))
        }
        Packing::Own { layout, transposed, .. } => pack_own(layout, matrix(tensor, transposed)),
    }
}

/// Convolution weights as matrices, and how to read them.
fn conv_weights(tensor: &Tensor, groups: usize) -> (Matrices, impl Fn(At) -> f32 + '_) {
    let dims = tensor.shape();
    let (outputs, inputs, taps) = (dims[0] / groups, dims[1], dims[2] * dims[3]);
    let source = tensor.values::<f32>();
    let at = move |at: At| {
        let (tap, input) = (at.k / inputs, at.k % inputs);
        source[((at.group * outputs + at.output) * inputs + input) * taps + tap]
    };
    (Matrices { groups, outputs, depth: taps * inputs }, at)
}

/// A matrix, and how to read it.
fn matrix(tensor: &Tensor, transposed: bool) -> (Matrices, impl Fn(At) -> f32 + '_) {
    let dims = tensor.shape();
    let (k, n) = if transposed { (dims[1], dims[0]) } else { (dims[0], dims[1]) };
    let source = tensor.values::<f32>();
    let at = move |at: At| {
        if transposed { source[at.output * k + at.k] } else { source[at.k * n + at.output] }
    };
    (Matrices { groups: 1, outputs: n, depth: k }, at)
}

fn pack_integers(tensor: &Tensor, groups: usize, width: usize) -> Arc<AlignedBytes> {
    let (dims, offset) = (tensor.shape(), packed_offset(tensor.dtype()));
    let source = tensor.bytes().as_slice();
    let signed = tensor.dtype() == DType::I8;
    let value = |index: usize| if signed { i32::from(source[index] as i8) } else { i32::from(source[index]) };
    let packed = |of: Matrices, at: &dyn Fn(At) -> i32| {
        let panels = IntegerPanels { of, width };
        let mut bytes = AlignedBytes::zeroed(panels.bytes());
        panels.pack(at, offset, bytes.as_mut_slice());
        Arc::new(bytes)
    };
    if dims.rank() == 4 {
        let (outputs, inputs, taps) = (dims[0] / groups, dims[1], dims[2] * dims[3]);
        return packed(Matrices { groups, outputs, depth: taps * inputs }, &|At { group, output, k }| {
            value(((group * outputs + output) * inputs + k % inputs) * taps + k / inputs)
        });
    }
    let (depth, outputs) = (dims[0], dims[1]);
    packed(Matrices { groups: 1, outputs, depth }, &|at| value(at.k * outputs + at.output))
}

fn pack_own(layout: OwnLayout, (of, at): (Matrices, impl Fn(At) -> f32)) -> Arc<AlignedBytes> {
    let mut bytes = AlignedBytes::zeroed(layout.0.bytes(of));
    layout.0.pack(of, &at, bytes.as_mut_slice());
    Arc::new(bytes)
}

fn pack_panels(of: Matrices, width: usize, at: impl Fn(At) -> f32) -> Arc<AlignedBytes> {
    let Matrices { groups, outputs, depth: k } = of;
    let panels = outputs.div_ceil(width);
    let mut bytes = AlignedBytes::zeroed(groups * panels * k * width * 4);
    for (index, panel) in bytes.typed_mut::<f32>().chunks_exact_mut((k * width).max(1)).enumerate() {
        let (group, first) = (index / panels, index % panels * width);
        for (column, output) in (first..outputs.min(first + width)).enumerate() {
            for row in 0..k {
                panel[row * width + column] = at(At { group, output, k: row });
            }
        }
    }
    Arc::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;

    fn ramp(shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        Tensor::f32(shape.to_vec(), &(0..count).map(|i| i as f32).collect::<Vec<_>>())
    }

    #[test]
    fn matrix_panels_do_not_depend_on_how_the_matrix_was_stored() {
        let store = WeightStore::new();
        let plain = Tensor::f32([2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let stored_transposed = Tensor::f32([3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let a = Packing::MatrixPanels { width: 2, transposed: false };
        let b = Packing::MatrixPanels { width: 2, transposed: true };
        store.insert(&plain, a);
        store.insert(&stored_transposed, b);
        let packed = store.get(plain.key(), a).unwrap();
        assert_eq!(packed.typed::<f32>(), [0.0, 1.0, 3.0, 4.0, 2.0, 0.0, 5.0, 0.0]);
        assert_eq!(store.get(stored_transposed.key(), b).unwrap().as_slice(), packed.as_slice());
    }

    #[test]
    fn convolution_panels_put_channels_inside_taps() {
        let store = WeightStore::new();
        let weights = ramp(&[4, 2, 1, 3]);
        let packing = Packing::ConvPanels { groups: 2, width: 4 };
        let weight = store.insert(&weights, packing);
        assert_eq!(weight.bytes, 2 * 3 * 2 * 4 * 4);
        let packed = store.get(weight.key, packing).unwrap();
        // Group 1, tap 2, input channel 1: output channels 2 and 3, then padding.
        let at = ((3 + 2) * 2 + 1) * 4;
        let index = |o: usize, i: usize, tap: usize| ((o * 2 + i) * 3 + tap) as f32;
        assert_eq!(
            packed.typed::<f32>()[at + 4 * 2 - 4 * 2..][..4],
            [index(2, 1, 2), index(3, 1, 2), 0.0, 0.0]
        );
    }

    #[test]
    fn integers_lie_in_fours_before_their_sums() {
        let store = WeightStore::new();
        let values: Vec<u8> = (0..15).map(|i| 120 + i).collect();
        let matrix = Tensor::from_slice(DType::U8, [5, 3].into(), &values);
        let packing = Packing::IntegerPanels { groups: 1, width: 2 };
        let weight = store.insert(&matrix, packing);
        assert_eq!(weight.bytes, 2 * (2 + 1) * 2 * 4);
        let packed = store.get(weight.key, packing).unwrap();
        let signed: Vec<i8> = packed.as_slice()[..16].iter().map(|&byte| byte as i8).collect();
        assert_eq!(signed, [-8, -5, -2, 1, -7, -4, -1, 2, 4, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(packed.typed::<i32>()[4..6], [-10, -5]);
        assert_eq!(packed.typed::<i32>()[10..12], [0, 0], "the last panel has one column");
        // Group 1, tap 2, input channel 1 of a convolution.
        let bytes: Vec<u8> = (0..24).collect();
        let conv = Tensor::from_slice(DType::I8, [4, 2, 1, 3].into(), &bytes);
        let weight = store.insert(&conv, Packing::IntegerPanels { groups: 2, width: 4 });
        let packed = store.get(weight.key, weight.packing).unwrap();
        let panels = IntegerPanels { of: Matrices { groups: 2, outputs: 2, depth: 6 }, width: 4 };
        assert_eq!(weight.bytes, panels.bytes());
        assert_eq!(packed.as_slice()[panels.place(At { group: 1, output: 1, k: 5 })], 23);
    }

    /// Halves, one group after the other, column by column.
    struct Columns;

    impl Layout for Columns {
        fn name(&self) -> &'static str {
            "columns"
        }

        fn bytes(&self, of: Matrices) -> usize {
            of.groups * of.outputs * of.depth
        }

        fn pack(&self, of: Matrices, at: &dyn Fn(At) -> f32, into: &mut [u8]) {
            for (index, byte) in into.iter_mut().enumerate() {
                let (k, output) = (index % of.depth, index / of.depth % of.outputs);
                *byte = at(At { group: index / of.depth / of.outputs, output, k }) as u8;
            }
        }

        fn read(&self, of: Matrices, packed: &[u8], at: At) -> f32 {
            f32::from(packed[(at.group * of.outputs + at.output) * of.depth + at.k])
        }
    }

    #[test]
    fn a_layout_of_a_devices_own_sees_matrices() {
        let store = WeightStore::new();
        let own = |groups, transposed| Packing::Own { layout: OwnLayout(&Columns), groups, transposed };
        let matrix = Tensor::f32([2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        for (transposed, expected) in [(false, [0u8, 3, 1, 4, 2, 5]), (true, [0, 1, 2, 3, 4, 5])] {
            let weight = store.insert(&matrix, own(1, transposed));
            assert_eq!(weight.bytes, 6, "a layout has its own size");
            assert_eq!(store.get(weight.key, weight.packing).unwrap().as_slice(), expected);
        }
        // Group 1, output 1: taps outside, channels inside.
        let conv = ramp(&[4, 2, 1, 3]);
        let weight = store.insert(&conv, own(2, false));
        let packed = store.get(weight.key, weight.packing).unwrap();
        assert_eq!(packed.as_slice()[18..], [18, 21, 19, 22, 20, 23]);
        let of = Matrices { groups: 2, outputs: 2, depth: 6 };
        assert_eq!(Columns.read(of, packed.as_slice(), At { group: 1, output: 1, k: 3 }), 22.0);
    }

    #[test]
    fn a_packing_is_made_once() {
        let store = WeightStore::new();
        let tensor = ramp(&[3, 1, 2, 2]);
        store.insert(&tensor, Packing::Depthwise);
        let first = store.get(tensor.key(), Packing::Depthwise).unwrap();
        store.insert(&tensor, Packing::Depthwise);
        assert!(Arc::ptr_eq(&first, &store.get(tensor.key(), Packing::Depthwise).unwrap()));
        assert_eq!(store.packed_bytes(), 48);
        assert_eq!(first.typed::<f32>()[..3], [0.0, 4.0, 8.0]);
    }

    #[test]
    fn a_constant_goes_with_the_last_plan_that_uses_it() {
        let model = Arc::new(ModelWeights::default());
        let (tensor, other) = (ramp(&[2, 3]), ramp(&[4]));
        let (first, second) = (model.store(), model.store());
        let bytes = first.insert(&tensor, Packing::Raw);
        second.insert(&tensor, Packing::Raw);
        second.insert(&other, Packing::Raw);
        assert_eq!(bytes.bytes, 24);
        let of = |store: &WeightStore| store.get(bytes.key, Packing::Raw).expect("it was inserted");
        assert!(Arc::ptr_eq(&of(&first), &of(&second)), "both plans share it");
        drop((tensor, other));
        assert_eq!(model.count(), 2);
        drop(second);
        assert_eq!(model.count(), 1, "what one plan alone used has gone with it");
        drop(first);
        assert_eq!(model.count(), 0);
    }
}
