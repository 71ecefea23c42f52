//! How mean and variance travel through a network with random weights.
//!
//! The builder follows them from the input to the output to choose running statistics and gains, so that
//! activations stay of order 1 through 200 layers, as they would in a trained network. Predictions need to be
//! right to some ten per cent only; they decide about scales, never about results.

use std::f64::consts::PI;

/// Mean and variance of a tensor's elements, over channels, positions and inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) mean: f64,
    pub(crate) var: f64,
}

impl Moments {
    /// Of an input drawn from the standard normal distribution.
    pub(crate) const STANDARD: Moments = Moments { mean: 0.0, var: 1.0 };

    /// After `max(x, 0)`, for a bell-shaped `x`.
    pub(crate) fn relu(self) -> Moments {
        let sd = self.var.sqrt();
        let z = self.mean / sd;
        let density = (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
        // Page's approximation of the normal distribution function.
        let below = 0.5 * (1.0 + ((2.0 / PI).sqrt() * (z + 0.044715 * z.powi(3))).tanh());
        let mean = self.mean * below + sd * density;
        let square = (self.mean * self.mean + self.var) * below + self.mean * sd * density;
        Moments { mean, var: square - mean * mean }
    }

    /// After the maximum over a window of `kernel` × `kernel` rectified neighbours (fitted to measured
    /// networks).
    pub(crate) fn max_pool(self, kernel: usize) -> Moments {
        let lift = if kernel == 2 { 0.8 } else { 1.5 };
        Moments { mean: self.mean + lift * self.var.sqrt(), var: 1.3 * self.var }
    }

    /// After the mean over `count` neighbours.
    pub(crate) fn average_pool(self, count: usize) -> Moments {
        // What differs between channels but not between positions does not average out (share as measured).
        const FIXED: f64 = 0.7;
        Moments { mean: self.mean, var: self.var * (FIXED + (1.0 - FIXED) / count as f64) }
    }

    /// Of the sum of two independent tensors.
    pub(crate) fn add(self, other: Moments) -> Moments {
        Moments { mean: self.mean + other.mean, var: self.var + other.var }
    }

    /// Of tensors laid side by side: each with its number of channels.
    pub(crate) fn concat(parts: &[(usize, Moments)]) -> Moments {
        let channels = parts.iter().map(|(channels, _)| *channels as f64).sum::<f64>();
        let average = |of: fn(&Moments) -> f64| {
            parts.iter().map(|(channels, part)| *channels as f64 * of(part)).sum::<f64>() / channels
        };
        let mean = average(|part| part.mean);
        Moments { mean, var: average(|part| part.var + part.mean * part.mean) - mean * mean }
    }

    /// Variance of a weighted sum of `taps` elements whose weights have root mean square `std` and lost the
    /// share `centring` of their mean.
    pub(crate) fn weighted_sum(self, taps: f64, std: f64, centring: f64) -> f64 {
        let kept = (1.0 - centring).powi(2);
        taps * std * std * (self.var + kept * self.mean * self.mean)
    }
}

/// The scale rounded to a coarse grid, so that the last bit of a platform's `exp` cannot change a file.
pub(crate) fn on_grid(scale: f64) -> f32 {
    const STEPS: f64 = (1_u64 << 20) as f64;
    ((scale * STEPS).round() / STEPS) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rectified_standard_normal_has_the_known_moments() {
        let after = Moments::STANDARD.relu();
        assert!((after.mean - 0.3989).abs() < 1e-3 && (after.var - 0.3408).abs() < 1e-3);
    }

    #[test]
    fn concatenation_counts_the_spread_of_means() {
        let a = Moments { mean: 1.0, var: 0.0 };
        let b = Moments { mean: -1.0, var: 0.0 };
        assert_eq!(Moments::concat(&[(4, a), (4, b)]), Moments { mean: 0.0, var: 1.0 });
    }
}
