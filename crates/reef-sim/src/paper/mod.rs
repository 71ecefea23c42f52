//! The figures of the REEF paper (Han et al., OSDI 2022) on the simulated MI50, each number beside the
//! paper's.
//!
//! A row says whether it is *fitted* (a constant was chosen so that it comes out), *given* (it is a
//! constant) or *predicted*. Where the paper has a number in its text or its tables it stands beside ours;
//! curves that are only drawn have ours alone.

mod concurrency;
mod lab;
mod overall;
mod padding;
mod preemption;
mod restart;
mod restore;

pub use lab::Lab;

/// Where a number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The model says so.
    Predicted,
    /// A constant was chosen so that it comes out.
    Fitted,
    /// It is a constant.
    Given,
}

/// What the paper says of a number: it lies between two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Printed {
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
}

impl Printed {
    /// One number.
    pub fn value(value: f64) -> Printed {
        Printed { low: value, high: value }
    }

    /// Between two.
    pub fn range(low: f64, high: f64) -> Printed {
        Printed { low, high }
    }

    /// At most.
    pub fn below(high: f64) -> Printed {
        Printed { low: 0.0, high }
    }
}

/// A number of a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is.
    pub what: String,
    /// Its unit: empty for ratios.
    pub unit: &'static str,
    /// Ours.
    pub ours: f64,
    /// The paper's, where it has it.
    pub paper: Option<Printed>,
    /// Where ours comes from.
    pub basis: Basis,
}

impl Row {
    /// Ours over the paper's, or the nearer end of its range; 1 within it.
    pub fn ratio(&self) -> Option<f64> {
        let Printed { low, high } = self.paper?;
        let nearest = self.ours.clamp(low, high);
        Some(if self.ours == nearest { 1.0 } else { self.ours / nearest })
    }
}

/// A figure or a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// As the paper calls it.
    pub name: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// Its numbers.
    pub rows: Vec<Row>,
    /// Why numbers differ; what cannot be had.
    pub notes: Vec<&'static str>,
}

impl Figure {
    fn new(name: &'static str, title: &'static str) -> Figure {
        Figure { name, title, rows: Vec::new(), notes: Vec::new() }
    }

    fn row(
        &mut self,
        basis: Basis,
        what: impl Into<String>,
        unit: &'static str,
        ours: f64,
        paper: Option<Printed>,
    ) {
        self.rows.push(Row { what: what.into(), unit, ours, paper, basis });
    }

    fn predicts(&mut self, what: impl Into<String>, unit: &'static str, ours: f64, paper: Option<Printed>) {
        self.row(Basis::Predicted, what, unit, ours, paper);
    }

    fn note(&mut self, note: &'static str) {
        self.notes.push(note);
    }
}

/// All figures, in the paper's order, and what it does not show.
pub fn figures(lab: &Lab) -> Vec<Figure> {
    vec![
        overall::table_1(lab),
        concurrency::figure_1(lab),
        padding::figure_3(lab),
        overall::figure_11(lab),
        preemption::figure_12(lab),
        preemption::figure_13(lab),
        preemption::figure_14(lab),
        restore::figure_15(lab),
        concurrency::figure_16(lab),
        padding::figure_17(lab),
        padding::figure_18(lab),
        padding::figure_19(lab),
        preemption::figure_20(lab),
        restart::restarts(lab),
    ]
}
