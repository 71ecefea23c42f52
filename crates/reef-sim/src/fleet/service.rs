//! How long a model takes with a device for itself: a distribution given by some of its percentiles.

use reef_base::{Nanos, Rng};

/// A distribution of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// Percentiles, with straight lines between them.
    Quantiles(Quantiles),
    /// Exponential, with this mean: for comparison with what queueing theory says.
    Exponential(Nanos),
}

/// Percentiles in rising order, from 0 to 1 (in units of 2⁻³²), and their times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantiles(Vec<(u64, Nanos)>);

const ONE: u64 = 1 << 32;

impl Quantiles {
    /// Of times at shares in thousandths; the first is at 0 and the last at 1000. `None` where times or
    /// shares fall.
    pub fn new(knots: &[(u64, Nanos)]) -> Option<Quantiles> {
        let (first, last) = (knots.first()?, knots.last()?);
        let rising = knots.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let whole = first.0 == 0 && last.0 == 1000;
        let scaled = || knots.iter().map(|&(share, time)| (share * ONE / 1000, time)).collect();
        (rising && whole).then(|| Quantiles(scaled()))
    }

    fn at(&self, share: u64) -> Nanos {
        let next = self.0.partition_point(|&(at, _)| at <= share);
        let Some(&(to, high)) = self.0.get(next) else { return self.0[self.0.len() - 1].1 };
        let (from, low) = self.0[next - 1];
        if low == high {
            return low;
        }
        let above = u128::from(high.0 - low.0) * u128::from(share - from) / u128::from(to - from);
        Nanos(low.0 + above as u64)
    }
}

impl Service {
    /// Always the same.
    pub fn fixed(time: Nanos) -> Service {
        Service::Quantiles(Quantiles(vec![(0, time), (ONE, time)]))
    }

    /// One time.
    pub fn sample(&self, rng: &mut Rng) -> Nanos {
        match self {
            Service::Quantiles(quantiles) => quantiles.at(rng.next_u64() >> 32),
            Service::Exponential(mean) => exponential(*mean, rng),
        }
    }

    /// The mean.
    pub fn mean(&self) -> Nanos {
        let Service::Quantiles(Quantiles(knots)) = self else { return self.per_mille(0) };
        let part = |pair: &[(u64, Nanos)]| {
            let both = u128::from(pair[0].1.0) + u128::from(pair[1].1.0);
            both * u128::from(pair[1].0 - pair[0].0)
        };
        Nanos((knots.windows(2).map(part).sum::<u128>() / u128::from(2 * ONE)) as u64)
    }

    /// What so many thousandths of the times do not exceed; of an exponential one its mean.
    pub fn per_mille(&self, share: u64) -> Nanos {
        match self {
            Service::Quantiles(quantiles) => quantiles.at(share * ONE / 1000),
            Service::Exponential(mean) => *mean,
        }
    }
}

/// An exponential distance; the same on every machine.
pub(crate) fn exponential(mean: Nanos, rng: &mut Rng) -> Nanos {
    Nanos((-libm::log(1.0 - rng.unit_f64()) * mean.0 as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_the_percentiles_that_were_given() {
        let knots = [(0, 100), (500, 200), (990, 1000), (1000, 5000)];
        let knots = knots.map(|(share, time)| (share, Nanos(time)));
        let service = Service::Quantiles(Quantiles::new(&knots).unwrap());
        let mut rng = Rng::new(1);
        let all: Vec<Nanos> = (0..100_000).map(|_| service.sample(&mut rng)).collect();
        for (time, expected) in [(150, 0.25), (200, 0.5), (1000, 0.99)] {
            let share = all.iter().filter(|sample| sample.0 <= time).count() as f64 / 1e5;
            assert!((share - expected).abs() < 0.006, "{time}: {share}");
        }
        let mean = all.iter().map(|time| time.0).sum::<u64>() as f64 / 1e5;
        assert!((mean / service.mean().0 as f64 - 1.0).abs() < 0.01, "{mean} {}", service.mean());
        assert_eq!(service.mean(), Nanos(75 + 294 + 30), "75 of the lower half, 0.49 of 600, 0.01 of 3000");
        assert_eq!(service.per_mille(1000), Nanos(5000));
    }

    #[test]
    fn percentiles_that_fall_are_none() {
        let new = |knots: &[(u64, u64)]| {
            let knots: Vec<_> = knots.iter().map(|&(share, time)| (share, Nanos(time))).collect();
            Quantiles::new(&knots)
        };
        assert!(new(&[(0, 2), (1000, 1)]).is_none() && new(&[(500, 1), (0, 1), (1000, 2)]).is_none());
        assert!(new(&[]).is_none() && new(&[(500, 1), (1000, 1)]).is_none());
    }
}
