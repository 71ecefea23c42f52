//! What models take alone, and models that take what was measured.

use reef_base::{Class, Level, Nanos};

use super::constants::ResidentConstants;
use super::executor::{Executor, Rules};
use super::model::ResidentModel;
use crate::server::Client;

/// From request to answer, alone on a device whose units have just become idle. Units that a narrow stage
/// leaves idle for long sleep meanwhile.
pub fn alone(model: &ResidentModel, device: &ResidentConstants) -> Nanos {
    let models = std::slice::from_ref(model);
    let clients = [Client { model: 0, class: Class::RealTime(Level::TOP) }];
    let mut executor = Executor::new(device, models, &clients, Rules::RESET);
    executor.submit(0);
    let mut ended = Vec::new();
    while let Some(next) = executor.next_event() {
        executor.advance(next, &mut ended);
    }
    ended[0].at
}

/// The model with blocks so much longer or shorter that it takes `time` alone: medians of blocks do not add
/// up to the median of a whole. As near as it gets, since what does not scale is small.
pub fn calibrated(model: &ResidentModel, device: &ResidentConstants, time: Nanos) -> ResidentModel {
    const STEPS: usize = 8;
    let mut factor = 1.0;
    for _ in 0..STEPS {
        factor *= time.0 as f64 / alone(&model.scaled(factor), device).0 as f64;
    }
    ResidentModel { measured: Some(time), ..model.scaled(factor) }
}
