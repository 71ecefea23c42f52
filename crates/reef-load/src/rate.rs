//! How many requests per second a steady load gets.

use std::time::Duration;

use reef_base::Nanos;

/// A stretch of time in which completions of a steady load are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The last completion before `from`; the begin of the load, where there was none.
    pub before: Nanos,
    /// When it begins.
    pub from: Nanos,
    /// When it ends.
    pub to: Nanos,
}

/// Completions per second of `window`, from the times of its completions in rising order.
///
/// Plain counting is wrong by up to one inference, which is 2 % of 50. So the time that the `n` completions
/// took counts instead of the window's: from the last completion before the window to the last one in it,
/// which is exact for a steady stream. It is never taken to be shorter than the window less one mean gap: the
/// window's end may cut off an inference under way, and anything longer without a completion is starvation.
/// The rate is therefore at most `n / (window - mean gap)`. A gap that began before the window counts whole.
pub fn rate_per_s(completions: &[Nanos], window: Window) -> f64 {
    let length = window.to.since(window.from);
    let Some(&last) = completions.last() else { return 0.0 };
    let count = completions.len() as u64;
    let taken = last.since(window.before);
    let time = taken.max(length.since(Nanos(taken.0 / count)));
    count as f64 / Duration::from(time.max(Nanos(1))).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: &[u64]) -> Vec<Nanos> {
        ms.iter().map(|&ms| Nanos::from_millis(ms)).collect()
    }

    /// The rate in a window from 1 s to 6 s; `stream` holds the times of all completions in milliseconds.
    fn rate(stream: impl IntoIterator<Item = u64>) -> f64 {
        let [from, to] = [1000, 6000].map(Nanos::from_millis);
        let all = at(&stream.into_iter().collect::<Vec<_>>());
        let before = all.iter().copied().rfind(|&time| time <= from).unwrap_or(Nanos::ZERO);
        let inside: Vec<Nanos> = all.into_iter().filter(|&time| time > from && time <= to).collect();
        rate_per_s(&inside, Window { before, from, to })
    }

    #[test]
    fn the_rate_of_a_steady_stream_is_exact_wherever_the_window_cuts_it() {
        for period in [7, 110, 333, 1000, 4000] {
            for phase in 0..period.min(200) {
                let seen = rate((0..20_000).map(|index| phase + period * index));
                let expected = 1e3 / period as f64;
                assert!((seen / expected - 1.0).abs() < 1e-9, "every {period} from {phase}: {seen}");
            }
        }
    }

    /// ResNet-152 at about 9/s, for which there is no device in a part of the window.
    #[test]
    fn a_stream_that_starves_is_not_flattered() {
        let period = 110;
        let whole = 1e3 / period as f64;
        let of_the_window = |starved: std::ops::Range<u64>| {
            rate((0..100).map(|index| period * index).filter(|time| !starved.contains(time))) / whole
        };
        for (starved, share) in [(3500..9000, 0.5), (2250..4750, 0.5), (1200..3700, 0.5), (2000..9000, 0.2)] {
            let seen = of_the_window(starved.clone());
            assert!(seen < share + 0.02 && seen > share - 0.03, "{starved:?}: {seen}");
        }
        // It began before the window, where the gap counts too.
        let seen = of_the_window(500..3500);
        assert!(seen < 0.5 && seen > 0.4, "{seen}");
    }

    #[test]
    fn bunched_completions_are_not_counted_twice() {
        for phase in 0..200 {
            // Two every 200 ms: 10/s.
            let seen = rate((0..100).flat_map(|index| [phase + 200 * index; 2]));
            assert!((9.5..=10.0 + 1e-9).contains(&seen), "from {phase}: {seen}");
        }
        // All of them at once, long after the window began.
        assert_eq!(rate([900, 3000, 3000, 3000, 3000]), 4.0 / 4.475);
    }

    #[test]
    fn few_completions_have_a_rate_too() {
        assert_eq!(rate([]), 0.0);
        assert_eq!(rate([900]), 0.0);
        assert_eq!(rate([7000]), 0.0);
        // The first one ever, 1.5 s after the load began: nothing came in the 3.5 s behind it.
        assert_eq!(rate([1500]), 1.0 / 3.5);
        // Slower than the window is long.
        assert_eq!(rate([500, 5500]), 0.2);
    }
}
