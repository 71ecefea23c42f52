//! Prints the paper's figures: `cargo run --release -p reef-sim --example figures [seconds]`.
use reef_base::Nanos;
use reef_sim::paper::{Lab, figures};

fn main() {
    let seconds: u64 = std::env::args().nth(1).map_or(5, |seconds| seconds.parse().expect("seconds"));
    let lab = Lab::new("mi50", Nanos::from_millis(seconds * 1000), 1).expect("it is built in");
    for figure in figures(&lab) {
        println!("\n{}: {}", figure.name, figure.title);
        for row in &figure.rows {
            let ratio = row.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
            println!(
                "{:74} {:>10.3} {:4} {:?} {ratio} {:?}",
                row.what, row.ours, row.unit, row.paper, row.basis
            );
        }
    }
}
