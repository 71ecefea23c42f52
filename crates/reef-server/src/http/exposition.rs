//! The Prometheus text format, version 0.0.4: families with HELP and TYPE lines, samples with labels.
//!
//! Written by hand because the names that dashboards know from Triton have no `_total` suffix, which the
//! usual client library appends. Invariant: the samples of a family stand together, below its TYPE line.

use std::fmt::{Display, Write};

/// The content type of [`Exposition`].
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of numbers a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A text under construction.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Opens a family; the samples that follow are its.
    pub(crate) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.family = name;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the open family.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// A histogram of the open family: `buckets` are (upper bound in seconds, count in that bucket alone) in
    /// rising order; `sum` is in seconds. `count` includes what is above the last bound.
    pub(crate) fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        sum: f64,
        count: u64,
    ) {
        let mut below = 0;
        for (bound, in_bucket) in buckets {
            below += in_bucket;
            self.line("_bucket", labels, Some(&bound.to_string()), below);
        }
        self.line("_bucket", labels, Some("+Inf"), count);
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, count);
    }

    /// The text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], le: Option<&str>, value: impl Display) {
        self.text.push_str(self.family);
        self.text.push_str(suffix);
        let mut open = '{';
        for (name, value) in labels.iter().copied().chain(le.map(|le| ("le", le))) {
            let _ = write!(self.text, "{open}{name}=\"");
            value.chars().for_each(|letter| match letter {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            });
            self.text.push('"');
            open = ',';
        }
        if open == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_samples_and_histograms() {
        let mut text = Exposition::default();
        text.family("a_total", Kind::Counter, "Things.");
        text.sample(&[("model", "m\"\\\n"), ("version", "1")], 7);
        text.sample(&[], 0.5);
        text.family("h_seconds", Kind::Histogram, "Times.");
        text.histogram(&[("class", "x")], [(0.000001, 2), (0.5, 1)], 0.25, 4);
        let expected = concat!(
            "# HELP a_total Things.\n# TYPE a_total counter\n",
            "a_total{model=\"m\\\"\\\\\\n\",version=\"1\"} 7\na_total 0.5\n",
            "# HELP h_seconds Times.\n# TYPE h_seconds histogram\n",
            "h_seconds_bucket{class=\"x\",le=\"0.000001\"} 2\n",
            "h_seconds_bucket{class=\"x\",le=\"0.5\"} 3\n",
            "h_seconds_bucket{class=\"x\",le=\"+Inf\"} 4\n",
            "h_seconds_sum{class=\"x\"} 0.25\nh_seconds_count{class=\"x\"} 4\n",
        );
        assert_eq!(text.into_text(), expected);
    }
}
