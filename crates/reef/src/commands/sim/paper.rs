//! `reef sim paper`: the paper's figures.

use anyhow::Result;
use reef_base::Nanos;
use reef_sim::paper::{Basis, Figure, Lab, Printed, Row, figures};
use serde_json::json;

use crate::cli::SimPaperArgs;
use crate::output::say;

/// Prints the paper's figures.
pub fn run(args: &SimPaperArgs) -> Result<()> {
    let lab = Lab::new(&args.device, Nanos::from_millis(args.length * 1000), args.seed)?;
    let figures = figures(&lab);
    if args.json {
        let all: Vec<_> = figures.iter().map(as_json).collect();
        let run = json!({ "device": args.device, "length_s": args.length, "seed": args.seed });
        say!("{}", serde_json::to_string_pretty(&json!({ "run": run, "figures": all }))?);
    } else {
        figures.iter().for_each(print);
    }
    Ok(())
}

fn basis(row: &Row) -> &'static str {
    match row.basis {
        Basis::Predicted => "predicted",
        Basis::Fitted => "fitted",
        Basis::Given => "given",
    }
}

fn as_json(figure: &Figure) -> serde_json::Value {
    let row = |row: &Row| {
        json!({
            "what": row.what,
            "unit": row.unit,
            "ours": row.ours,
            "paper": row.paper.map(|Printed { low, high }| [low, high]),
            "ratio": row.ratio(),
            "basis": basis(row),
        })
    };
    let rows: Vec<_> = figure.rows.iter().map(row).collect();
    json!({ "name": figure.name, "title": figure.title, "rows": rows, "notes": figure.notes })
}

fn print(figure: &Figure) {
    say!("{}: {}", figure.name, figure.title);
    for row in &figure.rows {
        let paper = match row.paper {
            None => String::new(),
            Some(Printed { low, high }) if low == high => format!("{low:.4}"),
            Some(Printed { low, high }) => format!("{low}..{high}"),
        };
        let ratio = row.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let (what, ours, unit) = (&row.what, digits(row.ours), row.unit);
        say!("  {what:66} {ours:>10} {unit:3} {paper:>13} {ratio:>5}  {}", basis(row));
    }
    for note in &figure.notes {
        say!("  {note}");
    }
    say!("");
}

/// Four digits, or as many as there are before the point.
fn digits(value: f64) -> String {
    let before = value.abs().max(1.0).log10() as usize + 1;
    format!("{value:.0$}", 4usize.saturating_sub(before))
}
