//! From a quantity to a place on the page, and where ticks stand.

use crate::text::extent;

/// How a scale divides its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Equal differences take equal lengths.
    Linear,
    /// Equal ratios take equal lengths; everything is positive.
    Log,
}

/// No axis goes beyond this, so that computing with its ends gives numbers.
const HUGE: f64 = 1e100;

/// An axis: `from..to` of the quantity lies on `begin..end` of the page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// How it divides its length.
    pub kind: Kind,
    /// The smallest value.
    pub from: f64,
    /// The largest value.
    pub to: f64,
    begin: f64,
    end: f64,
}

impl Scale {
    /// A linear scale from 0 to a little more than the largest of `values`.
    pub fn from_zero(values: impl IntoIterator<Item = f64>) -> Scale {
        let to = extent(values).map_or(1.0, |(_, high)| high.max(0.0));
        Scale::new(Kind::Linear, 0.0, if to > 0.0 { to * 1.12 } else { 1.0 })
    }

    /// A linear scale around `values`.
    pub fn linear(values: impl IntoIterator<Item = f64>) -> Scale {
        let (low, high) = extent(values).unwrap_or((0.0, 1.0));
        Scale::new(Kind::Linear, low, high)
    }

    /// A logarithmic scale around the positive ones of `values`, each side wider by the factor `room`.
    pub fn log(values: impl IntoIterator<Item = f64>, room: f64) -> Scale {
        let (low, high) = extent(values.into_iter().filter(|&value| value > 0.0)).unwrap_or((1.0, 10.0));
        Scale::new(Kind::Log, low / room, high * room)
    }

    /// The same from the power of ten below the smallest of `values`, for bars.
    pub fn log_from_decade(values: impl IntoIterator<Item = f64>, room: f64) -> Scale {
        let scale = Scale::log(values, room);
        Scale { from: 10f64.powf((scale.from * room).log10().floor()), ..scale }
    }

    fn new(kind: Kind, from: f64, to: f64) -> Scale {
        let (from, to) = (from.clamp(-HUGE, HUGE), to.clamp(-HUGE, HUGE));
        let (from, to) = match kind {
            _ if to > from => (from, to),
            Kind::Linear => (from - 0.5, from + 0.5),
            Kind::Log => (from / 2.0, from * 2.0),
        };
        Scale { kind, from, to, begin: 0.0, end: 1.0 }
    }

    /// The same on this stretch of the page; `begin` belongs to the smallest value.
    pub fn on(self, begin: f64, end: f64) -> Scale {
        Scale { begin, end, ..self }
    }

    /// Where `value` stands; what lies outside stands at the end that it is nearest to.
    pub fn at(&self, value: f64) -> f64 {
        let share = match self.kind {
            Kind::Linear => (value - self.from) / (self.to - self.from),
            Kind::Log if value <= 0.0 => 0.0,
            Kind::Log => (value / self.from).ln() / (self.to / self.from).ln(),
        };
        let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        self.begin + share * (self.end - self.begin)
    }

    /// Round values, at most about `most` of them.
    pub fn ticks(&self, most: usize) -> Vec<f64> {
        let most = most.max(2);
        match self.kind {
            Kind::Linear => self.linear_ticks(most),
            Kind::Log => self.log_ticks(most),
        }
    }

    fn linear_ticks(&self, most: usize) -> Vec<f64> {
        let rough = (self.to - self.from) / most as f64;
        let decade = 10f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
        let step = decade * steps.into_iter().find(|step| step * decade >= rough * 0.999).unwrap_or(10.0);
        let first = (self.from / step - 1e-9).ceil() as i64;
        let last = (self.to / step + 1e-9).floor() as i64;
        (first..=last).take(2 * most).map(|index| index as f64 * step).collect()
    }

    fn log_ticks(&self, most: usize) -> Vec<f64> {
        let decades = (self.from.log10().floor() as i32)..=(self.to.log10().ceil() as i32);
        let inside = |steps: &[f64]| -> Vec<f64> {
            let all = decades.clone().flat_map(|decade| steps.iter().map(move |s| s * 10f64.powi(decade)));
            all.filter(|&tick| tick >= self.from * 0.999 && tick <= self.to * 1.001).collect()
        };
        let fine = [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        let densities = [&fine[..], &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
        let fitting = densities.into_iter().map(inside).find(|ticks| ticks.len() <= most);
        fitting.unwrap_or_else(|| {
            let all = inside(&[1.0]);
            let every = all.len().div_ceil(most);
            all.into_iter().step_by(every).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_where_they_belong() {
        let linear = Scale::from_zero([5.0, 50.0 / 1.12]).on(100.0, 0.0);
        assert!((linear.at(25.0) - 50.0).abs() < 1e-9);
        assert_eq!((linear.at(-1.0), linear.at(1e9), linear.at(f64::NAN)), (100.0, 0.0, 100.0));
        let log = Scale::log([1.0, 100.0], 1.0).on(0.0, 10.0);
        assert!((log.at(10.0) - 5.0).abs() < 1e-9);
        assert_eq!((log.at(0.0), log.at(-3.0), log.at(f64::INFINITY)), (0.0, 0.0, 10.0));
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(Scale::linear([0.0, 1.0]).ticks(5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(Scale::linear([3.0, 97.0]).ticks(5), [20.0, 40.0, 60.0, 80.0]);
    }

    #[test]
    fn log_ticks_are_as_many_as_fit() {
        assert_eq!(Scale::log([1.0, 1000.0], 1.0).ticks(5), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Scale::log([0.9, 35.0], 1.0).ticks(6), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(Scale::log([1.0, 2.1], 1.0).ticks(6), [1.0, 1.2, 1.5, 2.0]);
        assert_eq!(Scale::log([1.0, 1e9], 1.0).ticks(5).len(), 5);
    }

    #[test]
    fn empty_and_single_values_have_a_scale_too() {
        let scales = [
            Scale::from_zero([]),
            Scale::from_zero([f64::NAN, 0.0]),
            Scale::linear([2.0]),
            Scale::log([], 1.0),
            Scale::log([0.0, -1.0, f64::INFINITY], 1.0),
            Scale::log([3.0], 1.0),
            Scale::log_from_decade([3.0], 1.4),
        ];
        for scale in scales {
            assert!(scale.to > scale.from && scale.at(1.0).is_finite(), "{scale:?}");
            assert!(!scale.ticks(5).is_empty() && scale.ticks(5).len() <= 12, "{scale:?}");
        }
    }
}
