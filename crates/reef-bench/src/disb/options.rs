//! What a run of the benchmark is asked to do, and the models that it needs for it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reef_base::ClassName;
use reef_device::Scheme;
use reef_load::workload::{BUILT_IN, RATE_MAX_HZ, RATE_MIN_HZ};
use reef_load::{Workload, WorkloadError};
use reef_zoo::{Model, Variant};

use super::system::ModelFile;
use crate::error::BenchError;
use crate::progress::Progress;

/// What to run.
#[derive(Clone, Debug)]
pub struct DisbOptions {
    /// Workloads, as written.
    pub workloads: Vec<Workload>,
    /// Schemes of our engine; `rt-only`, the reference, is always one of them.
    pub schemes: Vec<Scheme>,
    /// Measured time of each condition and repetition; `None`: as long as is usual, see
    /// [`DisbOptions::duration_of`].
    pub duration: Option<Duration>,
    /// Played before it.
    pub warm_up: Option<Duration>,
    /// How often each condition is played; `None` for as often as is usual.
    pub repeats: Option<usize>,
    /// Chooses random arrivals and inputs.
    pub seed: u64,
    /// What becomes of the workloads' rates, one after the other.
    pub rates: Vec<Rate>,
    /// Deadlines of clients (or of the clients of a model).
    pub deadlines: Vec<(String, Duration)>,
    /// Low-resolution variants of the zoo's models.
    pub small: bool,
    /// How our engine is asked.
    pub via: Via,
    /// How long a server at a URL may take for an answer.
    pub answer_limit: Duration,
    /// A folder with the models; `None`: they are written.
    pub models: Option<PathBuf>,
    /// Where results go.
    pub out: PathBuf,
    /// Whether every request is written down too.
    pub samples: bool,
    /// Commands of adapters to peers.
    pub peers: Vec<String>,
    /// Whether the micro-benchmarks of preemption are run too.
    pub sweeps: bool,
    /// Compute units of the device.
    pub cus: usize,
}

/// How our engine is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// In-process.
    #[default]
    Engine,
    /// Over HTTP on a loopback port.
    Http,
    /// No engine of ours: the server at this address.
    Url(String),
    /// No engine at all: a simulated device, in virtual time.
    Simulated,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Via::Engine => "engine",
            Via::Http => "http",
            Via::Url(url) => url,
            Via::Simulated => "simulated",
        })
    }
}

/// What becomes of a workload's rates.
#[derive(Clone, Debug, PartialEq)]
pub enum Rate {
    /// They keep the utilisation that they had where they were chosen.
    Scaled,
    /// They stay as they are written.
    Paper,
    /// A client (or the clients of a model) at this rate.
    Of {
        /// The client or model.
        name: String,
        /// Arrivals per second.
        hz: f64,
    },
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Scaled => f.write_str("scaled"),
            Rate::Paper => f.write_str("paper"),
            Rate::Of { name, hz } => write!(f, "{name}={hz}"),
        }
    }
}

/// Where models of the zoo are written, in the folder of the results.
const MODELS_FOLDER: &str = "models";
/// Arrivals of a run at most: each is kept until the end.
const ARRIVALS_MAX: f64 = 1e6;
const DURATION_FULL: Duration = Duration::from_secs(5);
const REPEATS_FULL: usize = 8;
const REPEATS_SMALL: usize = 16;
/// Requests of each real-time client that a run with small models collects under the reference and the last
/// scheme, all repetitions together.
const SAMPLES_SMALL: f64 = 2_050.0;
const DURATION_SMALL_S: (f64, f64) = (4.0, 60.0);

impl DisbOptions {
    /// What is usual for these workloads, with our engine on two compute units; results go to `out`.
    pub fn of(workloads: Vec<Workload>, out: PathBuf) -> DisbOptions {
        DisbOptions {
            workloads,
            schemes: Scheme::ALL.to_vec(),
            duration: None,
            warm_up: None,
            repeats: None,
            seed: 0,
            rates: Vec::new(),
            deadlines: Vec::new(),
            small: false,
            via: Via::Engine,
            answer_limit: Duration::from_secs(60),
            models: None,
            out,
            samples: false,
            peers: Vec::new(),
            sweeps: false,
            cus: 2,
        }
    }

    /// Repetitions.
    pub fn repeats(&self) -> usize {
        self.repeats.unwrap_or(if self.small { REPEATS_SMALL } else { REPEATS_FULL })
    }

    /// Time before the measured window.
    pub fn warm_up(&self) -> Duration {
        self.warm_up.unwrap_or(Duration::from_millis(if self.small { 500 } else { 1_000 }))
    }

    /// Measured time of a workload, rates already set: as asked for, or with full models 5 s, with small
    /// ones so long that every real-time client gets 2,050 requests under the reference and the last scheme.
    pub fn duration_of(&self, workload: &Workload) -> Duration {
        let rates = workload.clients.iter().filter(|client| client.class == ClassName::RealTime);
        let slowest = rates.filter_map(|client| client.arrivals.rate_hz()).fold(f64::INFINITY, f64::min);
        let (least_s, most_s) = DURATION_SMALL_S;
        let usual = match self.small {
            true => {
                // The reference and the last scheme are played twice.
                let seconds = SAMPLES_SMALL / (2 * self.repeats()) as f64 / slowest;
                Duration::from_secs_f64(seconds.clamp(least_s, most_s).ceil())
            }
            false => DURATION_FULL,
        };
        self.duration.unwrap_or(usual)
    }

    /// The workloads with the rates and deadlines asked for. `alone_ms`: what each model takes here.
    pub fn workloads_at(&self, alone_ms: &BTreeMap<String, f64>) -> Result<Vec<Workload>, BenchError> {
        let mut workloads = self.workloads.clone();
        let paper = self.rates.contains(&Rate::Paper);
        if paper && self.rates.contains(&Rate::Scaled) {
            return Err(BenchError::Rates);
        }
        if !paper {
            workloads.iter_mut().for_each(|workload| *workload = workload.scaled(alone_ms));
        }
        for rate in &self.rates {
            if let Rate::Of { name, hz } = rate {
                apply(&mut workloads, "--rate", name, |workload| workload.with_rate(name, *hz))?;
            }
        }
        for (name, deadline) in &self.deadlines {
            apply(&mut workloads, "--deadline", name, |workload| workload.with_deadline(name, *deadline))?;
        }
        Ok(workloads)
    }

    /// Refuses what no machine can play or no report tell apart, before anything is started. `workloads`: as
    /// they will be played.
    pub fn check(&self, workloads: &[Workload]) -> Result<(), BenchError> {
        for (index, workload) in workloads.iter().enumerate() {
            let wrong = |problem: String| {
                BenchError::from(WorkloadError::Unusable { name: workload.name.clone(), problem })
            };
            if workloads[..index].iter().any(|other| other.name == workload.name) {
                return Err(wrong("there are two of this name".to_string()));
            }
            if !workload.built_in && BUILT_IN.contains(&workload.name.as_str()) {
                return Err(wrong("this name belongs to a built-in workload".to_string()));
            }
            let rates = || workload.clients.iter().filter_map(|client| client.arrivals.rate_hz());
            if let Some(rate) = rates().find(|rate| !(RATE_MIN_HZ..=RATE_MAX_HZ).contains(rate)) {
                return Err(wrong(format!("{rate} arrivals per second, not {RATE_MIN_HZ} to {RATE_MAX_HZ}")));
            }
            let seconds = (self.warm_up() + self.duration_of(workload)).as_secs_f64();
            let arrivals = rates().sum::<f64>() * seconds;
            if arrivals > ARRIVALS_MAX {
                let problem = format!(
                    "{arrivals:.0} arrivals in {seconds} s are more than the {ARRIVALS_MAX} that are kept"
                );
                return Err(wrong(problem));
            }
        }
        Ok(())
    }

    /// The models that the workloads ask, as files. Those of the zoo are written unless a folder is given.
    pub fn model_files(&self, progress: &Progress) -> Result<Vec<ModelFile>, BenchError> {
        let mut files: Vec<ModelFile> = Vec::new();
        for workload in &self.workloads {
            for name in workload.models_asked() {
                let mut asking = workload.clients.iter().filter(|client| client.model == name);
                let real_time = asking.any(|client| client.class == ClassName::RealTime);
                let (path, zoo) = self.find(workload, name)?;
                match files.iter_mut().find(|file| file.name == name) {
                    Some(file) if file.path == path => file.real_time |= real_time,
                    Some(file) => {
                        let (own, other) = (path.display(), file.path.display());
                        let problem = format!("its model {name} is {own}, that of another workload {other}");
                        return Err(WorkloadError::Unusable { name: workload.name.clone(), problem }.into());
                    }
                    None => files.push(ModelFile { name: name.to_string(), path, real_time, zoo }),
                }
            }
        }
        if !matches!(self.via, Via::Url(_) | Via::Simulated) || !self.peers.is_empty() {
            self.write_zoo(&files, progress)?;
        }
        Ok(files)
    }

    /// Where a model is, and whether it is one of the zoo's that has to be written there.
    fn find(&self, workload: &Workload, name: &str) -> Result<(PathBuf, bool), BenchError> {
        if self.via == Via::Simulated {
            return Ok((PathBuf::new(), false));
        }
        let missing = |looked: String| BenchError::NoModel {
            model: name.to_string(),
            workload: workload.name.clone(),
            looked,
        };
        if let Some(path) = workload.models.get(name) {
            let found = path.is_file().then(|| (path.clone(), false));
            return found.ok_or_else(|| missing(path.display().to_string()));
        }
        if let Some(folder) = &self.models {
            let places =
                [folder.join(format!("{name}.onnx")), folder.join(name).join("1").join("model.onnx")];
            let found = places.iter().find(|path| path.is_file()).map(|path| (path.clone(), false));
            let looked = || places.each_ref().map(|path| path.display().to_string()).join(", ");
            return found.ok_or_else(|| missing(looked()));
        }
        match name.parse::<Model>() {
            Ok(_) => Ok((self.out.join(MODELS_FOLDER).join(format!("{name}.onnx")), true)),
            Err(_) if matches!(self.via, Via::Url(_)) && self.peers.is_empty() => Ok((PathBuf::new(), false)),
            Err(error) => Err(missing(format!("the zoo: {error}"))),
        }
    }

    fn write_zoo(&self, files: &[ModelFile], progress: &Progress) -> Result<(), BenchError> {
        for file in files.iter().filter(|file| file.zoo) {
            let model: Model = file.name.parse()?;
            progress.phase(format!("writing {model}"));
            make_folder(&self.out.join(MODELS_FOLDER))?;
            reef_zoo::write(model, &self.variant(model), &file.path)?;
        }
        Ok(())
    }

    /// What a model of the zoo is built as.
    pub fn variant(&self, model: Model) -> Variant {
        let full = Variant::full();
        match (self.small, model) {
            (false, _) | (true, Model::Control | Model::Lstm | Model::Upscale) => full,
            (true, Model::InceptionV3) => full.image_size(75),
            (true, Model::Distilbert) => full.sequence(8),
            (true, _) => full.image_size(32),
        }
    }

    /// What a model is, for people.
    pub fn source(&self, file: &ModelFile) -> String {
        match file.name.parse::<Model>() {
            Ok(model) if file.zoo => {
                let variant = self.variant(model);
                match (variant.image_size, variant.sequence) {
                    (Some(pixels), _) => format!("zoo, {pixels}×{pixels} pixels"),
                    (_, Some(tokens)) => format!("zoo, {tokens} tokens"),
                    _ => "zoo, full size".to_string(),
                }
            }
            _ if self.via == Via::Simulated => "as it was measured".to_string(),
            _ => file.path.display().to_string(),
        }
    }
}

/// Makes a folder and those above it.
pub fn make_folder(path: &Path) -> Result<(), BenchError> {
    std::fs::create_dir_all(path).map_err(|source| BenchError::Write { path: path.to_path_buf(), source })
}

/// Applies `change` to every workload; a name that changes nothing is a mistake.
fn apply(
    workloads: &mut [Workload],
    option: &str,
    name: &str,
    change: impl Fn(Workload) -> (Workload, usize),
) -> Result<(), BenchError> {
    let mut changed = 0;
    for workload in workloads.iter_mut() {
        let (new, count) = change(workload.clone());
        *workload = new;
        changed += count;
    }
    if changed == 0 {
        let clients = workloads.iter().flat_map(|workload| &workload.clients);
        let mut known: Vec<&str> = clients
            .filter(|client| client.class == ClassName::RealTime)
            .map(|client| client.name.as_str())
            .collect();
        known.sort_unstable();
        known.dedup();
        let known = known.join(", ");
        return Err(BenchError::NoClient { option: option.to_string(), name: name.to_string(), known });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn options(names: &[&str]) -> DisbOptions {
        let workloads = names.iter().map(|name| Workload::built_in(name).unwrap()).collect();
        DisbOptions::of(workloads, PathBuf::from("/nowhere"))
    }

    #[test]
    fn names_that_change_nothing_are_refused() {
        let none = BTreeMap::new();
        let rate = |name: &str| Rate::Of { name: name.to_string(), hz: 2.0 };
        let mut wrong = options(&["A"]);
        wrong.rates = vec![rate("nobody")];
        let error = wrong.workloads_at(&none).unwrap_err().to_string();
        assert!(error.contains("--rate") && error.contains("'nobody'") && error.contains("vgg19"), "{error}");
        // B's real-time client has no rate.
        wrong = options(&["B"]);
        wrong.rates = vec![rate("vgg19")];
        assert!(wrong.workloads_at(&none).is_err());
        wrong = options(&["A"]);
        wrong.deadlines = vec![("resnet152".to_string(), Duration::from_millis(1))];
        assert!(wrong.workloads_at(&none).unwrap_err().to_string().contains("--deadline"));
    }

    #[test]
    fn rates_are_scaled_unless_the_papers_are_asked_for() {
        let alone: BTreeMap<String, f64> =
            [("vgg19", 44.0), ("resnet152", 136.0)].map(|(name, ms)| (name.to_string(), ms)).into();
        let hz = |options: &DisbOptions| {
            options.workloads_at(&alone).unwrap()[0].clients[0].arrivals.rate_hz().unwrap()
        };
        let mut options = options(&["A"]);
        assert!((hz(&options) - 10.0).abs() < 1e-9);
        options.rates = vec![Rate::Paper];
        assert_eq!(hz(&options), 100.0);
        options.rates = vec![Rate::Scaled, Rate::Of { name: "vgg19".to_string(), hz: 3.0 }];
        assert_eq!(hz(&options), 3.0);
    }

    #[test]
    fn missing_models_are_named_with_the_places_searched() {
        let mut wrong = options(&["A"]);
        wrong.models = Some(PathBuf::from("/no/models"));
        let error = wrong.model_files(&Progress::hidden()).unwrap_err().to_string();
        assert!(error.contains("vgg19") && error.contains("/no/models/vgg19.onnx"), "{error}");
        wrong = options(&["A"]);
        wrong.workloads[0].clients[0].model = "yolo".to_string();
        let error = wrong.model_files(&Progress::hidden()).unwrap_err().to_string();
        assert!(error.contains("yolo") && error.contains("resnet152"), "{error}");
    }

    #[test]
    fn what_no_machine_can_play_and_no_report_tell_apart_is_refused() {
        let refused = |options: &DisbOptions, expected: &str| {
            let error = options.check(&options.workloads).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        assert!(options(&["A", "REAL"]).check(&options(&["A", "REAL"]).workloads).is_ok());
        refused(&options(&["A", "D", "A"]), "two of this name");
        let mut taken = options(&["A"]);
        taken.workloads[0].built_in = false;
        refused(&taken, "built-in");
        let mut many = options(&["A"]);
        many.duration = Some(Duration::from_secs(1_000_000));
        refused(&many, "arrivals");
        let mut rare = options(&["A"]);
        rare.workloads[0] = rare.workloads[0].clone().with_rate("vgg19", 1e-9).0;
        refused(&rare, "arrivals per second");
    }

    #[test]
    fn small_runs_last_until_every_client_has_its_samples() {
        let mut small = options(&["REAL", "B"]);
        small.small = true;
        assert_eq!(small.duration_of(&small.workloads[0]), Duration::from_secs(15));
        assert_eq!(small.duration_of(&small.workloads[1]), Duration::from_secs(4));
        small.duration = Some(Duration::from_secs(2));
        assert_eq!(small.duration_of(&small.workloads[0]), Duration::from_secs(2));
    }
}
