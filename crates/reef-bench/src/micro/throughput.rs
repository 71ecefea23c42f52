//! Part `polling`: best-effort throughput of this binary in short bursts. What polls cost is the ratio of two
//! binaries, one built with reef-cpu's feature `no-polls`: `scripts/polling-cost.sh` runs both in turns.

use std::time::Duration;

use reef_base::Class;
use reef_zoo::Model;

use super::Bench;
use crate::error::BenchError;
use crate::recorder::Samples;
use crate::report::{Part, Row};

pub(super) const NAME: &str = "polling";

pub(super) fn run(bench: &Bench<'_>) -> Result<Part, BenchError> {
    let (bursts, time) = bench.pick((5, Duration::from_secs(3)), (3, Duration::from_millis(300)));
    let mut rows = Vec::new();
    for model in [Model::Resnet152, Model::Distilbert] {
        let rig = bench.rig(bench.options.cus, 0)?;
        bench.load(&rig, model, Class::BestEffort)?;
        let load = rig.saturate(model)?;
        bench.progress.phase(format!("throughput of {model}"));
        bench.progress.sleep(time / 2);
        let mut rates = Samples::default();
        for _ in 0..bursts {
            load.restart();
            bench.progress.sleep(time);
            if let Some(rate) = load.take().into_ok()?.rate_per_s() {
                rates.push(rate);
            }
        }
        load.stop().into_ok()?;
        rows.push(Row::new(format!("{model} best-effort"), "1/s", &rates));
    }
    let method = format!("{bursts} bursts of {time:?}; scripts/polling-cost.sh compares two builds");
    Ok(Part::new(NAME, method, rows))
}
