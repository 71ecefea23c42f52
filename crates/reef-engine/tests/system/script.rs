//! What happens to a system: made of a seed, and shorter versions of it.

use reef_base::{Level, Nanos, Rng};
use reef_device::Scheme;
use reef_engine::{Batching, ClassRequest, ModelSettings, Placement};

use super::chaotic::Chaos;

/// Names that models have.
pub const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A system, and what is done to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    pub seed: u64,
    pub devices: Vec<DeviceSpec>,
    pub best_effort_slots: usize,
    pub compile_queue_len: usize,
    pub steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    pub cus: usize,
    pub slots: usize,
    pub slots_real_time: usize,
    pub memory_bytes: Option<u64>,
    pub chaos: Chaos,
}

/// After so much time has passed.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub after: Nanos,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A model of this name is loaded, in the place of the one that there is, or refused beside it.
    Load {
        name: usize,
        kind: Kind,
        settings: Box<ModelSettings>,
        replace: bool,
    },
    Unload {
        name: usize,
        finish: bool,
    },
    /// So many times the same.
    Submit {
        name: usize,
        count: usize,
        ask: Ask,
    },
    /// So many times the same to each model.
    Flood {
        count: usize,
        ask: Ask,
    },
    /// The client of one of the requests that are under way goes away.
    Cancel {
        which: usize,
    },
    Scheme(Scheme),
    Poison {
        device: usize,
    },
    /// Time passes at once: nobody is there to do what is due meanwhile.
    Jump(Nanos),
    Wait,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The first byte of its first row; those of the others follow.
    pub fill: u8,
    /// Rows, where any number goes.
    pub size: usize,
    pub class: Option<ClassRequest>,
    pub priority: u32,
    pub deadline: Option<Nanos>,
    pub timeout: Option<Nanos>,
    /// It arrived so long before it is submitted.
    pub ago: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One plan of so many stages.
    Plan { stages: usize },
    /// A plan for each length.
    AnyLength,
    /// Rows, which may be joined; where they are picky, a task with a bad one fails.
    Rows { picky: bool },
    /// Segments, going round until a value says stop.
    Wheel { ends: u8 },
}

impl Script {
    /// The script of a seed.
    pub fn new(seed: u64) -> Script {
        let rng = &mut Rng::new(seed);
        let devices: Vec<DeviceSpec> = (0..1 + rng.below(3)).map(|_| device(rng)).collect();
        let count = devices.len();
        let mut steps: Vec<Step> =
            (0..1 + rng.below(NAMES.len() as u64)).map(|name| load(rng, name as usize, count)).collect();
        steps.extend((0..20 + rng.below(80)).map(|_| step(rng, count)));
        let compile_queue_len = if rng.below(4) == 0 { 1 } else { 64 };
        Script { seed, devices, best_effort_slots: 1 + rng.below(3) as usize, compile_queue_len, steps }
    }

    /// The shortest script that is found for which `fails` is still true.
    pub fn shrunk(self, fails: impl Fn(&Script) -> bool) -> Script {
        let mut script = self;
        let mut part = script.steps.len().div_ceil(2);
        while part > 0 {
            let mut at = 0;
            let mut shorter = false;
            while at < script.steps.len() {
                let mut fewer = script.clone();
                fewer.steps.drain(at..(at + part).min(script.steps.len()));
                if fails(&fewer) {
                    (script, shorter) = (fewer, true);
                } else {
                    at += part;
                }
            }
            if !shorter || part > 1 {
                part /= 2;
            }
        }
        script
    }
}

fn device(rng: &mut Rng) -> DeviceSpec {
    let slots = 2 + rng.below(7) as usize;
    DeviceSpec {
        cus: 1 + rng.below(4) as usize,
        slots,
        slots_real_time: 1 + rng.below(slots as u64 - 1) as usize,
        memory_bytes: (rng.below(4) == 0).then(|| 2_000 + rng.below(20_000)),
        chaos: Chaos {
            late_max: [Nanos::ZERO, Nanos(30_000), Nanos::from_millis(2)][rng.below(3) as usize],
            refuses: [0, 0, 5, 2][rng.below(4) as usize],
        },
    }
}

fn load(rng: &mut Rng, name: usize, devices: usize) -> Step {
    let kind = match rng.below(6) {
        0 => Kind::AnyLength,
        1 | 2 => Kind::Rows { picky: rng.below(2) == 0 },
        3 => Kind::Wheel { ends: 2 + rng.below(4) as u8 },
        _ => Kind::Plan { stages: 1 + rng.below(12) as usize },
    };
    let mut settings = match rng.below(2) {
        0 => ModelSettings::default(),
        _ => ModelSettings::real_time(Level::new(rng.below(3) as u8).expect("there are more")),
    };
    settings.weight = 1 + rng.below(4) as u32;
    settings.deadline = (rng.below(4) == 0).then(|| Nanos(rng.below(3_000_000)));
    settings.timeout = (rng.below(4) == 0).then(|| Nanos(rng.below(2_000_000)));
    settings.queue_len = [1, 4, 64][rng.below(3) as usize];
    settings.in_flight_max = (rng.below(3) == 0).then(|| 1 + rng.below(2) as usize);
    settings.placement = match (kind, rng.below(3)) {
        (Kind::Plan { stages }, 2) if stages >= devices => Placement::Split,
        (_, 1) => Placement::Replicate,
        _ => Placement::One,
    };
    if matches!(kind, Kind::Rows { .. }) {
        let most = 2 + rng.below(6) as usize;
        settings.batch_rows_max = Some(most);
        settings.batching = (rng.below(4) > 0).then(|| Batching {
            delay: [Nanos::ZERO, Nanos::from_micros(500)][rng.below(2) as usize],
            preferred: if rng.below(3) == 0 { vec![1 + rng.below(most as u64) as usize] } else { vec![] },
            optional: false,
        });
    }
    let replace = rng.below(2) == 0;
    Step { after: Nanos::ZERO, action: Action::Load { name, kind, settings: Box::new(settings), replace } }
}

fn ask(rng: &mut Rng) -> Ask {
    let often = |rng: &mut Rng, most: u64| (rng.below(5) == 0).then(|| Nanos(rng.below(most)));
    let late = rng.below(40) == 0;
    Ask {
        fill: if rng.below(8) == 0 { u8::MAX } else { rng.below(256) as u8 },
        size: 1 + rng.below(4) as usize,
        class: match rng.below(10) {
            0 => Some(ClassRequest::RealTime),
            1 | 2 => Some(ClassRequest::BestEffort),
            _ => None,
        },
        priority: if rng.below(6) == 0 { 1 + rng.below(4) as u32 } else { 0 },
        deadline: if late { Some(Nanos(rng.below(2))) } else { often(rng, 3_000_000) },
        timeout: if late { Some(Nanos(rng.below(2))) } else { often(rng, 1_000_000) },
        ago: if rng.below(10) == 0 { Nanos(rng.below(1_000_000)) } else { Nanos::ZERO },
    }
}

fn step(rng: &mut Rng, devices: usize) -> Step {
    let name = rng.below(NAMES.len() as u64) as usize;
    let action = match rng.below(40) {
        0..26 => {
            let most = [4, 12, 40][rng.below(3) as usize];
            let count = if rng.below(8) == 0 { 2 + rng.below(most) as usize } else { 1 };
            Action::Submit { name, count, ask: ask(rng) }
        }
        26 => Action::Flood { count: 2 + rng.below(20) as usize, ask: ask(rng) },
        27..30 => Action::Cancel { which: rng.below(64) as usize },
        30 => {
            let most = [20_000, 2_000_000][rng.below(2) as usize];
            Action::Jump(Nanos(rng.below(most)))
        }
        31..33 => return Step { after: Nanos(rng.below(200_000)), ..load(rng, name, devices) },
        33..35 => Action::Unload { name, finish: rng.below(2) == 0 },
        35..37 => {
            let all = Scheme::ALL;
            Action::Scheme(all[rng.below(all.len() as u64) as usize])
        }
        37 if rng.below(6) == 0 => Action::Poison { device: rng.below(devices as u64) as usize },
        _ => Action::Wait,
    };
    // Often at once, sometimes after a long while.
    let after = match rng.below(10) {
        0..5 => Nanos::ZERO,
        5..9 => Nanos(rng.below(200_000)),
        _ => Nanos(rng.below(20_000_000)),
    };
    Step { after, action }
}
