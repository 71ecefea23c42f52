//! Elementary functions on vectors, to about 1e-7 of the result.
//!
//! The polynomials were fitted with 40 digits (Chebyshev) over the reduced ranges given beside them.

use reef_graph::{Encoding, SmallFloat, Unary, scalar};

use super::vector::{Leaf, Vector};

/// `c[0]·xⁿ + … + c[n]`.
#[inline(always)]
fn poly<V: Vector>(x: V, coefficients: &[f32]) -> V {
    let mut sum = x.set(coefficients[0]);
    for &c in &coefficients[1..] {
        sum = sum.mul_add(x, x.set(c));
    }
    sum
}

/// `eˣ = 2ⁿ · (1 + p)`: n and p, for |x| < 127.
#[inline(always)]
fn exp_parts<V: Vector>(x: V) -> (V, V) {
    let n = (x * x.set(std::f32::consts::LOG2_E)).round();
    // ln 2 in two parts; the first has few bits, so that its product with n is exact.
    let r = n.mul_add(x.set(-0.693_359_4), x);
    let r = n.mul_add(x.set(2.121_944_4e-4), r);
    // (eʳ − 1 − r) / r² for |r| < 0.347.
    const P: [f32; 6] = [1.989_110_3e-4, 1.393_375_1e-3, 8.333_311e-3, 4.166_646_4e-2, 0.166_666_67, 0.5];
    (n, poly(r, &P).mul_add(r * r, r))
}

/// eˣ.
#[inline(always)]
pub(super) fn exp<V: Vector>(x: V) -> V {
    let inside = x.at_most(x.set(89.0)).at_least(x.set(-104.0));
    if let Some(value) = inside.exp_directly() {
        return value;
    }
    let (n, p) = exp_parts(inside);
    // Two factors, because 2ⁿ alone may be no normal number.
    let half = (n * n.set(0.5)).floor();
    let scaled = (p + p.set(1.0)) * half.exp2_integral() * (n - half).exp2_integral();
    V::select(x.equal(x), scaled, x)
}

/// eˣ − 1 for |x| < 87, without cancellation near 0.
#[inline(always)]
fn exp_minus_1_inside<V: Vector>(x: V) -> V {
    let (n, p) = exp_parts(x);
    let scale = n.exp2_integral();
    p.mul_add(scale, scale - p.set(1.0))
}

/// eˣ − 1 for x ≤ 0.
#[inline(always)]
pub(super) fn exp_minus_1_of_negative<V: Vector>(x: V) -> V {
    let value = exp_minus_1_inside(x.at_least(x.set(-80.0)));
    V::select(x.equal(x), value, x)
}

/// Natural logarithm.
#[inline(always)]
pub(super) fn log<V: Vector>(x: V) -> V {
    // Subnormal numbers are scaled up first.
    let tiny = x.less(x.set(f32::MIN_POSITIVE));
    let (m, e) = V::select(tiny, x * x.set(8_388_608.0), x).split();
    let e = V::select(tiny, e - e.set(23.0), e);
    let large = m.set(std::f32::consts::SQRT_2).less(m);
    let m = V::select(large, m * m.set(0.5), m);
    let e = V::select(large, e + e.set(1.0), e);
    // ln m = 2 artanh(f / (2 + f)) = f − s·(f − 2·R(s²)), whose first term is exact.
    let f = m - m.set(1.0);
    let s = f / (f + f.set(2.0));
    let z = s * s;
    // 2 (artanh s / s − 1) for s² < 0.0295.
    const P: [f32; 4] = [2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0];
    let rest = poly(z, &P) * z;
    let low = e.mul_add(e.set(-2.121_944_4e-4), -(s * (f - rest)));
    let value = e.mul_add(e.set(0.693_359_4), f + low);
    let infinite = x.equal(x.set(f32::INFINITY));
    let value = V::select(infinite, x, value);
    let value = V::select(x.equal(x.set(0.0)), x.set(f32::NEG_INFINITY), value);
    V::select(x.set(0.0).less_equal(x), value, x.set(f32::NAN))
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(super) fn sigmoid<V: Vector>(x: V) -> V {
    // Of 20 it is 1.
    if let Some(e) = x.at_most(x.set(20.0)).at_least(x.set(-104.0)).exp_directly() {
        return e / (e + e.set(1.0));
    }
    // As 2⁻ⁿ / (2⁻ⁿ + eʳ), which has neither very large nor very small terms; 2⁻ⁿ alone may be no normal
    // number.
    let (n, p) = exp_parts((-x).at_most(x.set(104.0)).at_least(x.set(-87.0)));
    let half = (n * n.set(0.5)).floor();
    let (a, b) = ((-half).exp2_integral(), (half - n).exp2_integral());
    (a * b + (p + p.set(1.0))).reciprocal() * a * b
}

/// Hyperbolic tangent.
#[inline(always)]
pub(super) fn tanh<V: Vector>(x: V) -> V {
    let near = x.at_most(x.set(10.0)).at_least(x.set(-10.0));
    let e = exp_minus_1_inside(near + near);
    V::select(x.equal(x), e * (e + e.set(2.0)).reciprocal(), x)
}

/// `1 / (1 + e⁻ˣ)` to 1e-7, as a quotient of polynomials whose coefficients Eigen and ONNX Runtime share:
/// theirs to the bit where sums of products are fused.
#[inline(always)]
pub(super) fn sigmoid_by_quotient<V: Vector>(x: V) -> V {
    const ABOVE: [f32; 5] = [4.370_31e-11, 1.156_273_2e-7, 6.085_749e-5, 8.513_771e-3, 0.248_287_95];
    const BELOW: [f32; 6] =
        [6.102_473_7e-13, 5.761_021_4e-9, 6.291_068e-6, 1.701_988_2e-3, 0.116_817_65, 0.993_151_9];
    let x = x.at_least(x.set(-18.0)).at_most(x.set(18.0));
    let z = x * x;
    let value = x * poly(z, &ABOVE) / poly(z, &BELOW) + x.set(0.5);
    value.at_least(x.set(0.0))
}

/// Hyperbolic tangent, likewise.
#[inline(always)]
pub(super) fn tanh_by_quotient<V: Vector>(x: V) -> V {
    const ABOVE: [f32; 7] = [
        -2.760_768_4e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297_3e-8,
        1.485_722_35e-5,
        6.372_619_5e-4,
        4.893_524_6e-3,
    ];
    const BELOW: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_7e-3, 4.893_525e-3];
    let x = x.at_least(x.set(-9.0)).at_most(x.set(9.0));
    let z = x * x;
    x * poly(z, &ABOVE) / poly(z, &BELOW)
}

/// The error function.
#[inline(always)]
pub(super) fn erf<V: Vector>(x: V) -> V {
    let a = x.abs();
    let z = a * a;
    // erf(a) / a in a² for a < 1.
    const NEAR: [f32; 7] = [
        7.875_875e-5,
        -8.016_864_3e-4,
        5.189_087_4e-3,
        -2.685_421_2e-2,
        0.112_835_95,
        -0.376_126_27,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    // −ln(1 − erf(a)) for 0.96 < a < 4, where erf rounds to 1.
    const FAR: [f32; 9] = [
        -1.641_964e-6,
        4.615_167_4e-5,
        -5.975_773e-4,
        4.763_1e-3,
        -2.643_068_5e-2,
        0.110_095_98,
        0.631_810_36,
        1.130_241_8,
        -3.219_426e-4,
    ];
    let near = poly(z, &NEAR) * a;
    let far = a.set(1.0) - exp(-poly(a.at_most(a.set(4.0)), &FAR));
    V::select(a.less(a.set(1.0)), near, far).copysign(x)
}

/// `x · Φ(x)`.
#[inline(always)]
pub(super) fn gelu<V: Vector>(x: V) -> V {
    let half = x * x.set(0.5);
    erf(x * x.set(std::f32::consts::FRAC_1_SQRT_2)).mul_add(half, half)
}

/// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
#[inline(always)]
pub(super) fn gelu_tanh<V: Vector>(x: V) -> V {
    let half = x * x.set(0.5);
    let inner = (x * x * x.set(0.044_715)).mul_add(x, x) * x.set(0.797_884_6);
    tanh(inner).mul_add(half, half)
}

/// `ln(1 + eˣ)`.
#[inline(always)]
pub(super) fn softplus<V: Vector>(x: V) -> V {
    let u = exp(-x.abs());
    let w = u + u.set(1.0);
    // What the rounding of 1 + u lost, put back.
    let log1p = log(w) + (u - (w - w.set(1.0))) / w;
    x.at_least(x.set(0.0)) + log1p
}

/// `min(max(alpha·x + beta, 0), 1)`.
#[inline(always)]
pub(super) fn hard_sigmoid<V: Vector>(x: V, alpha: f32, beta: f32) -> V {
    x.mul_add(x.set(alpha), x.set(beta)).at_least(x.set(0.0)).at_most(x.set(1.0))
}

/// −1, 0 or 1; NaN stays.
#[inline(always)]
fn sign<V: Vector>(x: V) -> V {
    let zero = x.set(0.0);
    let value = V::select(x.less(zero), x.set(-1.0), x);
    V::select(zero.less(x), x.set(1.0), value)
}

/// A function without vector form, lane by lane.
#[inline(always)]
fn each_lane<V: Vector>(x: V, function: impl Fn(f32) -> f32) -> V {
    let mut lanes = x.lanes();
    for lane in &mut lanes[..V::LANES] {
        *lane = function(*lane);
    }
    // SAFETY: `x` shows that the instruction set is enabled; there are 16 lanes.
    unsafe { V::load(lanes.as_ptr()) }
}

/// The reference's function, of a float.
#[inline(always)]
fn wide(function: Unary, x: f32) -> f32 {
    scalar::unary(function, f64::from(x)) as f32
}

/// A way between numbers and their codes in a small format.
#[derive(Clone, Copy)]
enum Code {
    To(Encoding),
    Of(SmallFloat),
}

/// Codes of numbers, or numbers of codes, lane by lane.
#[inline(always)]
fn each_code<V: Vector>(x: V, code: Code) -> V {
    let mut lanes = x.lanes();
    for lane in &mut lanes[..V::LANES] {
        *lane = match code {
            Code::To(encoding) => f32::from(encoding.encode(*lane)),
            Code::Of(format) => format.decode(*lane as u8),
        };
    }
    // SAFETY: `x` shows that the instruction set is enabled; there are 16 lanes.
    unsafe { V::load(lanes.as_ptr()) }
}

/// `to[i] = function(from[i])` for `count` floats; `to` may be `from`.
pub(super) struct Map {
    pub(super) function: Unary,
    pub(super) from: *const f32,
    pub(super) to: *mut f32,
    pub(super) count: usize,
}

impl Leaf for Map {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        macro_rules! each {
            ($x:ident => $value:expr) => {{
                let whole = self.count - self.count % V::LANES;
                // SAFETY: the caller vouches for `count` floats on both sides.
                unsafe {
                    for at in (0..whole).step_by(V::LANES) {
                        let $x = V::load(self.from.add(at));
                        $value.store(self.to.add(at));
                    }
                    if whole < self.count {
                        let $x = V::load_part(self.from.add(whole), self.count - whole);
                        $value.store_part(self.to.add(whole), self.count - whole);
                    }
                }
            }};
        }
        match self.function {
            Unary::Relu => each!(x => x.at_least(x.set(0.0))),
            Unary::LeakyRelu(alpha) => each!(x => V::select(x.less(x.set(0.0)), x * x.set(alpha), x)),
            Unary::Elu(alpha) => {
                each!(x => V::select(
                    x.less(x.set(0.0)),
                    exp_minus_1_of_negative(x.at_most(x.set(0.0))) * x.set(alpha),
                    x,
                ))
            }
            Unary::Clip(low, high) => each!(x => x.at_least(x.set(low)).at_most(x.set(high))),
            Unary::Sigmoid => each!(x => sigmoid(x)),
            Unary::HardSigmoid(alpha, beta) => each!(x => hard_sigmoid(x, alpha, beta)),
            Unary::Silu => each!(x => x * sigmoid(x)),
            Unary::HardSwish => each!(x => x * hard_sigmoid(x, 1.0 / 6.0, 0.5)),
            Unary::Tanh => each!(x => tanh(x)),
            Unary::Gelu => each!(x => gelu(x)),
            Unary::GeluTanh => each!(x => gelu_tanh(x)),
            Unary::Erf => each!(x => erf(x)),
            Unary::Softplus => each!(x => softplus(x)),
            Unary::Exp => each!(x => exp(x)),
            Unary::Log => each!(x => log(x)),
            Unary::Sqrt => each!(x => x.sqrt()),
            Unary::Rsqrt => each!(x => x.set(1.0) / x.sqrt()),
            Unary::Recip => each!(x => x.set(1.0) / x),
            Unary::Square => each!(x => x * x),
            Unary::Abs => each!(x => x.abs()),
            Unary::Neg => each!(x => -x),
            Unary::Sign => each!(x => sign(x)),
            Unary::Floor => each!(x => x.floor()),
            Unary::Ceil => each!(x => x.ceil()),
            Unary::Round => each!(x => x.round()),
            Unary::Sin => each!(x => each_lane(x, f32::sin)),
            Unary::Cos => each!(x => each_lane(x, f32::cos)),
            // In double precision, rounded once.
            function @ (Unary::Tan
            | Unary::Asin
            | Unary::Acos
            | Unary::Atan
            | Unary::Sinh
            | Unary::Cosh
            | Unary::Asinh
            | Unary::Acosh
            | Unary::Atanh) => each!(x => each_lane(x, |x| wide(function, x))),
            Unary::BitNot => unreachable!("floats have no bits to turn"),
            Unary::Encode(encoding) => each!(x => each_code(x, Code::To(encoding))),
            Unary::Decode(format) => each!(x => each_code(x, Code::Of(format))),
            // Of a register that holds floats, against all sense: 1 for 0.
            Unary::Not => each!(x => V::select(x.equal(x.set(0.0)), x.set(1.0), x.set(0.0))),
        }
    }
}
