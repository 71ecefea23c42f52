//! Which model's best-effort request goes on the board next, as `reef-sched` shares among models: the one
//! that was charged least, with all that a request takes when it starts. Models without work bank nothing.

use super::model::ResidentModel;

/// What models were charged.
#[derive(Debug)]
pub(super) struct Shares {
    /// By model: unit time.
    pub(super) passes: Vec<f64>,
    /// The largest of those that started.
    now: f64,
    /// Requests of each that wait or run.
    requests: Vec<u32>,
    /// What a request of each takes.
    takes: Vec<f64>,
}

impl Shares {
    pub(super) fn new(models: &[ResidentModel]) -> Shares {
        let kernels = |model: &ResidentModel| {
            let all = model.stages.iter().flat_map(|stage| &stage.kernels);
            all.map(|kernel| f64::from(kernel.count) * kernel.time.0 as f64).sum()
        };
        Shares {
            passes: vec![0.0; models.len()],
            now: 0.0,
            requests: vec![0; models.len()],
            takes: models.iter().map(kernels).collect(),
        }
    }

    /// A request comes.
    pub(super) fn comes(&mut self, model: usize) {
        if self.requests[model] == 0 {
            self.passes[model] = self.passes[model].max(self.now);
        }
        self.requests[model] += 1;
    }

    /// One of those that wait goes on the board.
    pub(super) fn starts(&mut self, model: usize) {
        self.now = self.now.max(self.passes[model]);
        self.passes[model] += self.takes[model];
    }

    /// It is done.
    pub(super) fn ends(&mut self, model: usize) {
        self.requests[model] -= 1;
    }
}
