//! The page of a run's results again: `page RESULTS.json PAGE.html`.

use std::path::PathBuf;

use reef_report::disb::{DisbReport, html};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(results), Some(page)) = (paths.next(), paths.next()) else {
        return Err("usage: page RESULTS.json PAGE.html".into());
    };
    Ok(std::fs::write(page, html::html(&DisbReport::read(&results)?))?)
}
