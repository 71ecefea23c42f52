//! Mean latency by workload and scheme as a picture: `chart RESULTS.json PICTURE.svg`.

use std::path::PathBuf;

use reef_report::disb::{DisbReport, latency_picture};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(results), Some(picture), None) = (paths.next(), paths.next(), paths.next()) else {
        return Err("usage: chart RESULTS.json PICTURE.svg".into());
    };
    let report = DisbReport::read(&results)?;
    let drawn = latency_picture(&report).ok_or("nothing was compared with a reference")?;
    Ok(std::fs::write(picture, drawn)?)
}
