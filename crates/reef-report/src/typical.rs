//! What repetitions have in common: a centre that a single odd one does not move, and how sure it is.
//!
//! A virtual machine now and then loses its processor for a second; one such repetition would decide a mean.
//! The centre is therefore that of Hodges and Lehmann, the median of the means of all pairs, and the
//! interval Wilcoxon's signed-rank one at 95 %, which fits it. Below six repetitions that interval does not
//! exist; then it is Student's.

use serde::{Deserialize, Serialize};

/// A number that was measured once in each repetition: a rate, a share, a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean of rates and shares, the centre of ratios (see [`typical`]).
    pub value: f64,
    /// Half the width of the 95 % confidence interval, as the repetitions differ; `None` with fewer than two.
    pub half_width: Option<f64>,
}

/// A centre and half the width of its 95 % confidence interval; `None` below two values, or where they are
/// not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Typical {
    /// The centre.
    pub centre: f64,
    /// Half the width of the interval.
    pub half_width: Option<f64>,
}

/// Two-sided critical values of Wilcoxon's signed-rank test at 5 %, for 6 to 20 values: this many of the
/// ordered pairwise means lie outside of the interval on either side.
const OUTSIDE: [usize; 15] = [0, 2, 3, 5, 8, 10, 13, 17, 21, 25, 29, 34, 40, 46, 52];
const OUTSIDE_FIRST: usize = 6;

/// The centre of `values` and how sure it is; not a number without any.
pub fn typical(values: &[f64]) -> Typical {
    let mut pairs = Vec::with_capacity(values.len() * (values.len() + 1) / 2);
    for (index, one) in values.iter().enumerate() {
        pairs.extend(values[index..].iter().map(|other| (one + other) / 2.0));
    }
    pairs.sort_by(f64::total_cmp);
    let centre = median(&pairs);
    let finite = values.len() >= 2 && values.iter().all(|value| value.is_finite());
    let width = || match outside(values.len()) {
        Some(outside) => (pairs[pairs.len() - 1 - outside] - pairs[outside]) / 2.0,
        None => student_half_width(values),
    };
    Typical { centre, half_width: finite.then(width) }
}

/// As [`typical`] for ratios, on a logarithmic scale, where 1/2 and 2 are equally far from 1.
pub fn typical_ratio(ratios: &[f64]) -> Typical {
    let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    let Typical { centre, half_width } = typical(&logs);
    Typical { centre: centre.exp(), half_width: half_width.map(|width| width * centre.exp()) }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

fn outside(count: usize) -> Option<usize> {
    let known = OUTSIDE.get(count.checked_sub(OUTSIDE_FIRST)?).copied();
    let n = count as f64;
    let approximate = || n * (n + 1.0) / 4.0 - 1.96 * (n * (n + 1.0) * (2.0 * n + 1.0) / 24.0).sqrt();
    Some(known.unwrap_or_else(|| approximate() as usize))
}

/// Half the width of Student's interval of the mean.
fn student_half_width(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    student_t(values.len() - 1) * (variance / count).sqrt()
}

/// The 97.5 % quantile of Student's t distribution.
pub fn student_t(degrees: usize) -> f64 {
    const T: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
        2.045, 2.042,
    ];
    T.get(degrees.wrapping_sub(1)).copied().unwrap_or(if degrees == 0 { f64::INFINITY } else { 1.96 })
}

#[cfg(test)]
mod tests {
    use reef_base::Rng;

    use super::*;

    #[test]
    fn known_values() {
        assert_eq!((student_t(1), student_t(4), student_t(99)), (12.706, 2.776, 1.96));
        assert_eq!(typical(&[3.0]), Typical { centre: 3.0, half_width: None });
        assert!(typical(&[]).centre.is_nan());
        // Standard deviation 1, 3 values: 4.303 / √3.
        let three = typical(&[1.0, 2.0, 3.0]);
        assert_eq!(three.centre, 2.0);
        assert!((three.half_width.unwrap() - 4.303 / 3f64.sqrt()).abs() < 1e-9);
        // 36 pairwise means of 8 values from 1 to 8, in steps of a half: the fourth from below is 2, from
        // above 7.
        let eight: Vec<f64> = (1..=8).map(f64::from).collect();
        assert_eq!(typical(&eight), Typical { centre: 4.5, half_width: Some(2.5) });
        assert!((typical_ratio(&[0.5, 2.0]).centre - 1.0).abs() < 1e-12);
        assert_eq!(typical(&[1.0, f64::INFINITY]).half_width, None);
    }

    #[test]
    fn one_odd_repetition_does_not_move_the_centre_far() {
        let mut values = vec![1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.0];
        let before = typical(&values).centre;
        values[3] = 30.0;
        let after = typical(&values);
        assert!((after.centre - before).abs() < 0.02, "{after:?}");
    }

    /// The interval holds the true centre in about 95 of 100 experiments.
    #[test]
    fn intervals_hold_what_they_promise() {
        let mut rng = Rng::new(5);
        for count in [4, 6, 8, 16, 24] {
            let held = (0..1000).filter(|_| {
                let values: Vec<f64> = (0..count).map(|_| f64::from(rng.normal_f32())).collect();
                let Typical { centre, half_width } = typical(&values);
                centre.abs() <= half_width.unwrap()
            });
            let held = held.count();
            assert!((930..=985).contains(&held), "{count} values: {held} of 1000");
        }
    }
}
