//! Rows of a micro-benchmark, their targets, and how they are written for people and machines.

use std::fmt;

use serde::{Deserialize, Serialize};

use reef_base::{Samples, Summary};

use crate::machine::{Machine, Others};
use crate::text::short;

/// A number of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stat {
    /// The median.
    P50,
    /// The 99th percentile.
    P99,
}

/// On which side of its bound a number has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// At most the bound.
    AtMost,
    /// At least the bound.
    AtLeast,
}

/// What a row has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Which number.
    pub stat: Stat,
    /// On which side of the bound.
    pub side: Side,
    /// The bound, in the row's unit.
    pub bound: f64,
    /// Whether it was reached.
    pub met: bool,
}

/// Where a row stands in a plot of its part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The line that it belongs to.
    pub series: String,
    /// Where on the part's axis.
    pub x: f64,
}

/// One quantity that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The unit: `µs`, `ratio`, `1/s`, …
    pub unit: String,
    /// Its place in a plot, in parts with an axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<Point>,
    /// The numbers.
    #[serde(flatten)]
    pub summary: Summary,
    /// What they have to reach, if anything.
    pub targets: Vec<Target>,
}

impl Row {
    /// A row of `samples`; without any, all its numbers are zero and no target of it is met.
    pub fn new(name: impl Into<String>, unit: &str, samples: &Samples) -> Row {
        Row {
            name: name.into(),
            unit: unit.to_string(),
            point: None,
            summary: samples.summary().unwrap_or_default(),
            targets: Vec::new(),
        }
    }

    /// The same at `x` of the part's axis, on the line `series`.
    pub fn at(self, series: impl Into<String>, x: f64) -> Row {
        Row { point: Some(Point { series: series.into(), x }), ..self }
    }

    /// The same with a target: `stat` is at most `bound`.
    pub fn at_most(self, stat: Stat, bound: f64) -> Row {
        self.target(stat, Side::AtMost, bound)
    }

    /// The same with a target: `stat` is at least `bound`.
    pub fn at_least(self, stat: Stat, bound: f64) -> Row {
        self.target(stat, Side::AtLeast, bound)
    }

    fn target(mut self, stat: Stat, side: Side, bound: f64) -> Row {
        let value = match stat {
            Stat::P50 => self.summary.p50,
            Stat::P99 => self.summary.p99,
        };
        let reached = match side {
            Side::AtMost => value <= bound,
            Side::AtLeast => value >= bound,
        };
        self.targets.push(Target { stat, side, bound, met: reached && self.summary.count > 0 });
        self
    }
}

/// A part of the benchmark: rows that were measured together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its name on the command line.
    pub name: String,
    /// How it was measured, in a sentence or two.
    pub method: String,
    /// What the rows' points are over, in parts that can be plotted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axis: Option<String>,
    /// What others took of the machine meanwhile, as a share.
    pub others_cpu: Others,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// Everything that `bench micro` measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MicroReport {
    /// Where.
    pub machine: Machine,
    /// Whether models were tiny and runs short: such numbers only show that the benchmark works.
    pub quick: bool,
    /// What.
    pub parts: Vec<Part>,
}

impl Part {
    /// A part; what others took of the machine is filled in by who ran it.
    pub fn new(name: &str, method: String, rows: Vec<Row>) -> Part {
        Part { name: name.to_string(), method, axis: None, others_cpu: Others(None), rows }
    }

    /// The same with an axis: rows have points on it.
    pub fn over(self, axis: impl Into<String>) -> Part {
        Part { axis: Some(axis.into()), ..self }
    }
}

impl MicroReport {
    /// As indented JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has no map with other keys than strings")
    }

    /// Targets that were met, and all targets.
    pub fn targets_met(&self) -> (usize, usize) {
        let targets = || self.parts.iter().flat_map(|part| &part.rows).flat_map(|row| &row.targets);
        (targets().filter(|target| target.met).count(), targets().count())
    }
}

impl fmt::Display for MicroReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        if self.quick {
            writeln!(
                f,
                "quick: tiny models and few samples; the numbers only show that the benchmark works"
            )?;
        }
        for part in &self.parts {
            write!(f, "\n{part}")?;
        }
        let (met, all) = self.targets_met();
        if all > 0 {
            write!(f, "\n{met} of {all} targets met\n")?;
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.method)?;
        write!(f, "{}", self.others_cpu)?;
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let columns = ["min", "p50", "p99", "mean", "max", "count"];
        write!(f, "  {:width$}  {:5}", "", "")?;
        columns.iter().try_for_each(|column| write!(f, " {column:>9}"))?;
        writeln!(f)?;
        let mut group = None;
        for row in &self.rows {
            // Rows of one place on the axis stand together.
            let x = row.point.as_ref().map(|point| point.x);
            if group.replace(x).is_some_and(|last| last != x) {
                writeln!(f)?;
            }
            let s = &row.summary;
            write!(f, "  {:width$}  {:5}", row.name, row.unit)?;
            [s.min, s.p50, s.p99, s.mean, s.max].iter().try_for_each(|&v| write!(f, " {:>9}", short(v)))?;
            write!(f, " {:>9}", s.count)?;
            row.targets.iter().try_for_each(|target| write!(f, "  {target}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stat = match self.stat {
            Stat::P50 => "p50",
            Stat::P99 => "p99",
        };
        let side = match self.side {
            Side::AtMost => "≤",
            Side::AtLeast => "≥",
        };
        let verdict = if self.met { "met" } else { "not met" };
        write!(f, "{stat} {side} {}: {verdict}", self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> MicroReport {
        let samples: Samples = (1..=100).map(f64::from).collect();
        let rows = vec![
            Row::new("first block", "µs", &samples).at_most(Stat::P50, 50.0).at_most(Stat::P99, 98.5),
            Row::new("throughput", "1/s", &samples).at_least(Stat::P50, 51.0),
            Row::new("nothing", "µs", &Samples::default()).at_most(Stat::P50, 1.0),
        ];
        let part = Part { others_cpu: Others(Some(0.5)), ..Part::new("preempt", "so".into(), rows) };
        MicroReport { machine: crate::disb::sample::sample().machine, quick: true, parts: vec![part] }
    }

    fn plotted() -> Part {
        let samples: Samples = [1.0, 2.0].into_iter().collect();
        let row = |series: &str, x| Row::new(format!("{x} {series}"), "µs", &samples).at(series, x);
        let rows = vec![row("wait", 1.0), row("reset", 1.0), row("wait", 2.5), row("reset", 2.5)];
        Part::new("kernels", "so".into(), rows).over("kernels")
    }

    #[test]
    fn targets_look_at_their_number_and_need_samples() {
        let report = report();
        let met: Vec<bool> =
            report.parts[0].rows.iter().flat_map(|row| &row.targets).map(|target| target.met).collect();
        assert_eq!(met, [true, false, false, false]);
        assert_eq!(report.targets_met(), (1, 4));
    }

    #[test]
    fn the_json_has_one_flat_object_per_row() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        let row = &json["parts"][0]["rows"][0];
        for (key, value) in [("min", 1.0), ("p50", 50.0), ("p99", 99.0), ("max", 100.0), ("mean", 50.5)] {
            assert_eq!(row[key], value, "{key}");
        }
        assert_eq!(
            (&row["name"], &row["unit"], &row["count"]),
            (&"first block".into(), &"µs".into(), &100.into())
        );
        let target = serde_json::json!({"stat": "p99", "side": "at_most", "bound": 98.5, "met": false});
        assert_eq!(row["targets"][1], target);
        for key in ["cpu", "cores", "kernel", "governor", "load_average", "rustc", "command"] {
            assert!(json["machine"].get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn a_report_is_read_back_as_it_was_written() {
        let mut report = report();
        report.parts.push(plotted());
        let read: MicroReport = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(read, report);
    }

    #[test]
    fn only_rows_of_plots_have_points() {
        let mut report = report();
        report.parts.push(plotted());
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let [plain, plot] = [0, 1].map(|index| &json["parts"][index]);
        assert!(plain.get("axis").is_none() && plain["rows"][0].get("point").is_none(), "{plain}");
        assert_eq!(plot["axis"], "kernels");
        assert_eq!(plot["rows"][2]["point"], serde_json::json!({"series": "wait", "x": 2.5}));
    }

    #[test]
    fn the_table_sets_points_apart() {
        let text = plotted().to_string();
        let lines: Vec<bool> = text.lines().map(str::is_empty).collect();
        assert_eq!(lines, [false, false, false, false, true, false, false], "{text}");
    }

    #[test]
    fn the_table_names_every_verdict() {
        let text = report().to_string();
        assert!(text.contains("p50 ≤ 50: met"), "{text}");
        assert!(text.contains("p99 ≤ 98.5: not met"), "{text}");
        assert!(text.contains("1 of 4 targets met"), "{text}");
        assert!(text.contains("DISTURBED: others took 50 %"), "{text}");
    }
}
