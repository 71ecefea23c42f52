//! What happens to a micro-tile's sums before they are stored: scale or bias, residual, activation.

use reef_graph::Unary;

use super::math::{self, Map};
use super::vector::{Leaf, Vector};

/// A tile of sums and where it goes.
pub(super) struct Store {
    /// The sums, `[row][columns rounded up to whole vectors]`, dense.
    pub(super) acc: *mut f32,
    /// Floats from one row of sums to the next.
    pub(super) acc_stride: usize,
    /// Rows.
    pub(super) rows: usize,
    /// Columns.
    pub(super) columns: usize,
    /// The bias of the first column, or null.
    pub(super) bias: *const f32,
    /// The residual of the first row and column, or null.
    pub(super) residual: *const f32,
    /// Floats from one row of the residual to the next.
    pub(super) residual_stride: usize,
    /// Where the first row's first column goes.
    pub(super) to: *mut f32,
    /// Floats from one row of the output to the next.
    pub(super) to_stride: usize,
    /// Factor of every sum.
    pub(super) alpha: f32,
    /// Applied last.
    pub(super) activation: Option<Unary>,
}

/// Finishes and stores a tile.
///
/// # Safety
/// Inside `V::enter`; the addresses are valid for rows × columns.
#[inline(always)]
pub(super) unsafe fn store<V: Vector>(tile: &Store) {
    // SAFETY: passed on from the caller; the sums are whole vectors.
    unsafe {
        match tile.activation {
            None => V::enter(Finish(tile, Plain)),
            Some(Unary::Relu) => V::enter(Finish(tile, Relu)),
            Some(Unary::Clip(low, high)) => V::enter(Finish(tile, Clip(low, high))),
            Some(Unary::LeakyRelu(alpha)) => V::enter(Finish(tile, LeakyRelu(alpha))),
            Some(Unary::Sigmoid) => V::enter(Finish(tile, Sigmoid)),
            Some(Unary::Silu) => V::enter(Finish(tile, Silu)),
            Some(Unary::HardSigmoid(alpha, beta)) => V::enter(Finish(tile, HardSigmoid(alpha, beta))),
            Some(Unary::HardSwish) => V::enter(Finish(tile, HardSwish)),
            Some(Unary::Gelu) => V::enter(Finish(tile, Gelu)),
            Some(function) => {
                // Bias and residual first, in place; then the function over all sums; then out.
                let (stride, columns) = (tile.acc_stride, tile.columns.next_multiple_of(V::LANES));
                let sums = Store { to: tile.acc, to_stride: stride, activation: None, ..*tile };
                V::enter(Finish(&sums, Plain));
                for row in 0..tile.rows {
                    let at = tile.acc.add(row * stride);
                    V::enter(Map { function, from: at, to: at, count: columns });
                }
                let plain = std::ptr::null();
                V::enter(Finish(&Store { bias: plain, residual: plain, alpha: 1.0, ..*tile }, Plain));
            }
        }
    }
}

trait Activate: Copy {
    fn apply<V: Vector>(self, x: V) -> V;
}

/// Functions that are applied on the way to the store, as [`Map`] has them.
macro_rules! functions {
    ($($name:ident$(($($parameter:ident),*))?: $x:ident => $value:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name$(($(functions!(@float $parameter)),*))?;

        impl Activate for $name {
            #[inline(always)]
            fn apply<V: Vector>(self, $x: V) -> V {
                $(let $name($($parameter),*) = self;)?
                $value
            }
        }
    )*};
    (@float $parameter:ident) => { f32 };
}

functions! {
    Plain: x => x;
    Relu: x => x.at_least(x.set(0.0));
    LeakyRelu(alpha): x => V::select(x.less(x.set(0.0)), x * x.set(alpha), x);
    Clip(low, high): x => x.at_least(x.set(low)).at_most(x.set(high));
    Sigmoid: x => math::sigmoid(x);
    Silu: x => x * math::sigmoid(x);
    HardSigmoid(alpha, beta): x => math::hard_sigmoid(x, alpha, beta);
    HardSwish: x => x * math::hard_sigmoid(x, 1.0 / 6.0, 0.5);
    Gelu: x => math::gelu(x);
}

struct Finish<'a, A>(&'a Store, A);

impl<A: Activate> Leaf for Finish<'_, A> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Finish(tile, activation) = self;
        // Column by column of vectors, so that the bias stays in a register.
        for column in (0..tile.columns).step_by(V::LANES) {
            let count = (tile.columns - column).min(V::LANES);
            // SAFETY: the columns `column .. column + count` of every row are valid; sums are whole vectors.
            unsafe {
                let bias = match tile.bias.is_null() {
                    true => V::splat(0.0),
                    false => V::load_part(tile.bias.add(column), count),
                };
                let alpha = V::splat(tile.alpha);
                for row in 0..tile.rows {
                    let mut x = V::load(tile.acc.add(row * tile.acc_stride + column));
                    x = x.mul_add(alpha, bias);
                    if !tile.residual.is_null() {
                        x = x + V::load_part(tile.residual.add(row * tile.residual_stride + column), count);
                    }
                    let x = activation.apply(x);
                    let to = tile.to.add(row * tile.to_stride + column);
                    if count == V::LANES {
                        x.store(to);
                    } else {
                        x.store_part(to, count);
                    }
                }
            }
        }
    }
}
