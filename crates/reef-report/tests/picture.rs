//! The README's picture is that of the committed results.

use std::path::Path;

use reef_report::disb::{DisbReport, latency_picture};

const RESULTS: &str = "docs/results/2026-11-21/disb-full/results.json";
const PICTURE: &str = "docs/latency.svg";

#[test]
fn the_picture_in_the_readme_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let report = DisbReport::read(&root.join(RESULTS)).unwrap();
    let drawn = latency_picture(&report).unwrap();
    let committed = std::fs::read_to_string(root.join(PICTURE)).unwrap();
    assert!(
        drawn == committed,
        "{PICTURE} is out of date: cargo run -p reef-report --example chart -- {RESULTS} {PICTURE}"
    );
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    assert!(readme.contains(PICTURE), "README.md shows {PICTURE}");
}
