//! Numbers, times and dates as people read them. What is no number is shown as [`NOTHING`].

use crate::typical::Estimate;

/// Stands where there is no number.
pub const NOTHING: &str = "–";

/// From here on a number has an exponent.
const HUGE: f64 = 1e12;

/// About `digits` significant digits.
pub fn significant(value: f64, digits: i32) -> String {
    if !value.is_finite() {
        return NOTHING.to_string();
    }
    if value.abs() >= HUGE {
        return format!("{value:.1e}");
    }
    // Of the rounded number: 0.9996 has the magnitude of 1.
    let scientific = format!("{value:.*e}", (digits - 1) as usize);
    let magnitude: i32 =
        scientific.rsplit_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let decimals = (digits - 1 - magnitude).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.trim_start_matches('-').chars().all(|char| char == '0' || char == '.') {
        return "0".to_string();
    }
    grouped(&text)
}

/// A number as short as it can be: trailing zeros are cut off.
pub fn trimmed(value: f64, digits: i32) -> String {
    let text = significant(value, digits);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// A ratio: three decimals next to 1, where they matter, otherwise three digits.
pub fn ratio(value: f64) -> String {
    match value {
        v if (0.9..1.1).contains(&v) => format!("{v:.3}"),
        v => significant(v, 3),
    }
}

/// A ratio in few characters, for bars.
pub fn ratio_short(value: f64) -> String {
    match value {
        v if (0.95..1.05).contains(&v) => format!("{v:.3}"),
        v if (0.0..9.995).contains(&v) => format!("{v:.2}"),
        v if (9.995..1e4).contains(&v) => format!("{v:.0}"),
        v => significant(v, 3),
    }
}

/// A share of 1 as a percentage.
pub fn percent(value: f64) -> String {
    match value * 100.0 {
        v if !v.is_finite() => NOTHING.to_string(),
        v if v.abs() >= HUGE => format!("{v:.1e} %"),
        v if v.abs() >= 9.95 || v == 0.0 => format!("{v:.0} %"),
        v if v.abs() >= 0.095 => format!("{v:.1} %"),
        v if v.abs() >= 0.0095 => format!("{v:.2} %"),
        v if v > 0.0 => "< 0.01 %".to_string(),
        _ => "0 %".to_string(),
    }
}

/// A time with the unit that suits it.
pub fn time_us(us: f64) -> String {
    let (value, unit) = in_unit(us);
    format!("{} {unit}", significant(value, 3))
}

/// The same for ticks: without trailing zeros.
pub fn time_tick_us(us: f64) -> String {
    let (value, unit) = in_unit(us);
    format!("{} {unit}", trimmed(value, 3))
}

fn in_unit(us: f64) -> (f64, &'static str) {
    match us.abs() {
        v if v >= 999_500.0 => (us / 1e6, "s"),
        v if v >= 999.5 => (us / 1e3, "ms"),
        v if v >= 0.9995 || v == 0.0 => (us, "µs"),
        _ => (us * 1e3, "ns"),
    }
}

/// Microseconds as plain milliseconds, for columns whose head names the unit.
pub fn ms(us: f64) -> String {
    match us / 1e3 {
        v if v.is_finite() && (100.0..HUGE).contains(&v.abs()) => grouped(&format!("{v:.0}")),
        v => significant(v, 3),
    }
}

/// A memory size.
pub fn bytes(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 { format!("{} GiB", significant(mib / 1024.0, 3)) } else { format!("{mib:.0} MiB") }
}

/// A count with its thousands set apart.
pub fn count(count: u64) -> String {
    grouped(&count.to_string())
}

/// An estimate with its noise, both to the same decimal.
pub fn estimate(estimate: Estimate, format: fn(f64) -> String) -> String {
    let value = format(estimate.value);
    let decimals = value.rsplit_once('.').map_or(0, |(_, decimals)| decimals.len());
    match estimate.half_width.filter(|&half| half.is_finite() && half > 0.0 && estimate.value.is_finite()) {
        Some(half) if half >= 0.5 * 0.1f64.powi(decimals as i32) => format!("{value} ± {half:.decimals$}"),
        Some(half) => format!("{value} ± {}", significant(half, 1)),
        None => value,
    }
}

/// The same as percentages.
pub fn estimate_percent(estimate: Estimate) -> String {
    let value = percent(estimate.value);
    let half = estimate
        .half_width
        .map(percent)
        .filter(|half| half.starts_with(|first: char| first.is_ascii_digit()));
    match half.filter(|half| half != "0 %" && estimate.value.is_finite()) {
        Some(half) => format!("{} ± {half}", value.trim_end_matches(" %")),
        None => value,
    }
}

/// The smallest and the largest number, once where they look the same.
pub fn range(values: impl IntoIterator<Item = f64>, format: fn(f64) -> String) -> Option<String> {
    let (low, high) = extent(values)?;
    let (low, high) = (format(low), format(high));
    let unit = high.rsplit_once(' ').map(|(_, unit)| unit.to_string());
    let shared = unit.and_then(|unit| low.strip_suffix(&format!(" {unit}")).map(str::to_string));
    match low == high {
        true => Some(high),
        false => Some(format!("{} – {high}", shared.unwrap_or(low))),
    }
}

/// The smallest and the largest finite number.
pub fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|value| value.is_finite()).fold(None, |extent, value| {
        let (low, high) = extent.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// `2026-01-31 12:00 UTC` of seconds since 1970.
pub fn date(unix_time_s: u64) -> String {
    let (days, seconds) = (unix_time_s / 86_400, unix_time_s % 86_400);
    // Days in the proleptic Gregorian calendar, counted from March so that leap days come last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3_600, seconds % 3_600 / 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// `1 workload`, `2 workloads`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Replaces what no browser shows and XML does not allow.
pub(crate) fn without_controls(text: String) -> String {
    let shown = |char: char| !char.is_control() || matches!(char, '\n' | '\t');
    text.chars().map(|char| if shown(char) { char } else { '\u{fffd}' }).collect()
}

/// Four significant digits or so, for tables.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Sets thousands apart by thin spaces, from five digits on.
fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let digits = whole.trim_start_matches('-');
    if digits.len() < 5 {
        return number.to_string();
    }
    let mut out = whole[..whole.len() - digits.len()].to_string();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let shown: Vec<String> =
            [0.0, 0.012_34, 1.234, 12.34, 123.4, 1234.0, 123_456.0].map(|v| significant(v, 3)).into();
        assert_eq!(shown, ["0", "0.0123", "1.23", "12.3", "123", "1234", "123\u{202f}456"]);
        assert_eq!([1.0, 1.5, 20.0, 0.1].map(|v| trimmed(v, 3)), ["1", "1.5", "20", "0.1"]);
        assert_eq!([1.0049, 0.951, 1.95, 13.62, 120.4].map(ratio), ["1.005", "0.951", "1.95", "13.6", "120"]);
        assert_eq!([13.62, 1.004, 1.58, 0.91].map(ratio_short), ["14", "1.004", "1.58", "0.91"]);
        let shares = [0.0, 0.000_02, 0.000_5, 0.012, 0.8349, 1.2].map(percent);
        assert_eq!(shares, ["0 %", "< 0.01 %", "0.05 %", "1.2 %", "83 %", "120 %"]);
    }

    #[test]
    fn times_come_in_the_unit_that_suits_them() {
        let shown = [0.25, 2.81, 36.0, 999.6, 1_500.0, 48_000.0, 2.5e6].map(time_us);
        assert_eq!(shown, ["250 ns", "2.81 µs", "36.0 µs", "1.00 ms", "1.50 ms", "48.0 ms", "2.50 s"]);
        assert_eq!([1.0, 1e4, 2e6].map(time_tick_us), ["1 µs", "10 ms", "2 s"]);
        assert_eq!([2_345.6, 123_456.0].map(ms), ["2.35", "123"]);
    }

    #[test]
    fn nothing_is_printed_of_what_is_no_number() {
        for format in [ratio, ratio_short, percent, time_us, time_tick_us, ms] {
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let text = format(value);
                assert!(text.starts_with(NOTHING), "{text}");
            }
        }
        let odd = Estimate { value: f64::NAN, half_width: Some(f64::INFINITY) };
        assert_eq!(estimate(odd, ratio), NOTHING);
        assert_eq!(range([f64::NAN], ratio), None);
    }

    #[test]
    fn ranges_name_their_unit_once() {
        assert_eq!(range([1.5, 1.004], ratio).unwrap(), "1.004 – 1.50");
        assert_eq!(range([2.8, 3.5], time_us).unwrap(), "2.80 – 3.50 µs");
        assert_eq!(range([900.0, 1_500.0], time_us).unwrap(), "900 µs – 1.50 ms");
        assert_eq!(range([0.83, 0.83], percent).unwrap(), "83 %");
    }

    #[test]
    fn noise_stands_behind_its_value() {
        let noisy = Estimate { value: 1.0049, half_width: Some(0.0123) };
        assert_eq!(estimate(noisy, ratio), "1.005 ± 0.012");
        assert_eq!(estimate(Estimate { half_width: None, ..noisy }, ratio), "1.005");
        assert_eq!(estimate(Estimate { half_width: Some(0.000_31), ..noisy }, ratio), "1.005 ± 0.0003");
        assert_eq!(estimate(Estimate { value: 14.23, half_width: Some(0.06) }, ratio), "14.2 ± 0.1");
        let share = Estimate { value: 0.834, half_width: Some(0.012) };
        assert_eq!(estimate_percent(share), "83 ± 1.2 %");
        let silent = [Some(0.0), Some(0.000_01), Some(f64::NAN), None];
        let silent = silent.map(|half_width| estimate_percent(Estimate { half_width, ..share }));
        assert!(silent.iter().all(|text| text == "83 %"), "{silent:?}");
        assert_eq!(estimate(Estimate { value: 0.0, half_width: Some(0.0) }, ratio), "0");
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_827_696), "2000-02-29 12:34 UTC");
        assert_eq!(date(1_795_267_611), "2026-11-21 13:26 UTC");
    }
}
