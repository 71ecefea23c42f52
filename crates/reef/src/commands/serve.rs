//! `reef serve`: every model of a directory, until a signal asks to stop.
//!
//! | state | event | next |
//! |---|---|---|
//! | loading: live, not ready | a model cannot be loaded | loading; its clients are told why |
//! | loading | the same, with `exit_on_error` | ends with 1 |
//! | loading | all models were tried | serving; models come and go, see `control` |
//! | loading | all were tried, none is there, and none can come later | ends with 1 |
//! | loading, serving | SIGHUP | the same; certificates and tokens are read again |
//! | loading, serving | SIGINT or SIGTERM | draining; while models load there is nothing to drain |
//! | loading, serving | engine, device or a thread fails | clients are answered; ends with [`FAULT_STATUS`] |
//! | draining | all work has ended | ends with 0 |
//! | any after a signal | SIGINT or SIGTERM again | ends at once, with 128 and the signal's number |

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use reef_base::ModelKey;
use reef_device::Padding;
use reef_engine::{Engine, EngineOptions, PoolDevice, TraceOptions};
use reef_repository::{Found, Snapshot};
use reef_server::{LogControl, Running, Server, Signals};

use crate::cli::{DeviceArgs, ServeArgs};
use crate::config::Config;
use crate::control::{self, Control, Mode};
use crate::device;
use crate::logs::{self, Format};
use crate::notify::Manager;
use crate::output::say;
use crate::repository;

/// Stack of this command's threads; one of them loads models: what a main thread has.
const STACK_BYTES: usize = 8 << 20;

/// The exit status after a fault of the engine or its device: `EX_SOFTWARE` of `sysexits.h`. Whoever
/// supervises the process tells by it that a restart may help.
pub const FAULT_STATUS: u8 = 70;

/// The number of SIGHUP.
const HANGUP: i32 = 1;

/// How long best-effort work that is left may take after a fault: it was answered already.
const FAULT_DRAIN: Duration = Duration::ZERO;

/// What `reef serve` waits for.
enum Event {
    /// A model could not be loaded.
    Unavailable(ModelKey, anyhow::Error),
    /// All models were tried, and so many versions of them are there.
    Loaded(usize),
    Signal,
    /// SIGHUP: read certificates and tokens again.
    Reload,
    /// The engine has failed, or a thread of this command.
    Fault(String),
}

/// The command cannot go on because of a bug or a fault of the device.
#[derive(Debug)]
pub struct Fault(String);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// Serves until SIGINT or SIGTERM, then drains and ends; or until it cannot go on.
pub fn run(args: &ServeArgs) -> Result<()> {
    let (config, variables) = configured(args)?;
    let format = if config.value("log_format") == "json" { Format::Json } else { Format::Text };
    let log = logs::start(config.value("log"), format)?;
    for name in &config.unknown_variables {
        tracing::warn!("the variable {name} is not a setting");
    }
    serve(&config, &Manager::of(&variables), log)
}

/// The settings, and the variables of the process.
pub fn configured(args: &ServeArgs) -> Result<(Config, BTreeMap<String, String>)> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let variables: BTreeMap<String, String> = variables.collect();
    let config = Config::load(&args.given, &variables)?;
    Ok((config, variables))
}

fn serve(config: &Config, manager: &Manager, log: Arc<dyn LogControl>) -> Result<()> {
    let (events, event) = channel();
    watch_signals(events.clone())?;
    let policy = Policy::of(config);
    let dir = config.models()?;
    let snapshot = look(&dir, config.file(), policy.mode)?;
    let models = control::chosen(&snapshot, policy.mode, &policy.load)?;
    // The ports first: a port in use should not be found out after minutes of compiling.
    let server = Server::bind(config.server()?)?;
    let engine = Engine::over(start_devices(config)?, EngineOptions::default())?;
    let trace = config.optional("trace");
    if let Some(path) = trace {
        engine.start_trace(TraceOptions::new(path))?;
    }
    let running = server.open(engine.clone())?;
    running.set_log(log);
    let control = Arc::new(Control::new(engine.clone(), &dir, config.file(), policy.mode));
    control.note(&snapshot);
    running.set_control(control.clone());
    watch_engine(engine.clone(), events.clone())?;
    manager.loading(models.len());
    load_all(control.clone(), models, events.clone())?;
    let ended = attend(&running, &event, &policy, manager, || follow(&policy, control, snapshot, events));
    manager.stopping();
    let drain = if ended.is_ok() { config.drain_timeout() } else { FAULT_DRAIN };
    if !running.shutdown(drain) {
        tracing::warn!("some connections had to be cut off");
    }
    if let Err(error) = ended {
        if error.is::<Fault>() {
            // A device that has failed may wait for ever for its own threads.
            std::mem::forget(engine);
        }
        return Err(error);
    }
    if !engine.is_idle() {
        // Everybody is answered, and nobody else uses what a host kernel may still work on.
        tracing::warn!("ending beside work that cannot be stopped");
        std::mem::forget(engine);
        return Ok(());
    }
    if trace.is_some() {
        match engine.stop_trace() {
            Ok(summary) => {
                tracing::info!(path = %summary.path.display(), events = summary.events, "trace written")
            }
            // The engine's shutdown writes it as well.
            Err(reef_engine::TraceError::State(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Which models are served, and when they are loaded.
struct Policy {
    mode: Mode,
    poll_every: Duration,
    /// Names of models to load at the start, with [`Mode::Explicit`].
    load: Vec<String>,
    exit_on_error: bool,
}

impl Policy {
    fn of(config: &Config) -> Policy {
        Policy {
            mode: match config.value("model_control_mode") {
                "poll" => Mode::Poll,
                "explicit" => Mode::Explicit,
                _ => Mode::None,
            },
            poll_every: config.seconds("repository_poll_secs"),
            load: config.list("load_model").to_vec(),
            exit_on_error: config.flag("exit_on_error"),
        }
    }
}

/// What there is to serve.
fn look(dir: &Path, file: Option<&Path>, mode: Mode) -> Result<Snapshot> {
    let snapshot = repository::scan(dir, file)?;
    snapshot.notices.iter().for_each(|notice| tracing::warn!("{notice}"));
    let fixed = mode == Mode::None;
    if let Some(name) = snapshot.strangers.first() {
        let path = file.map_or_else(|| dir.join("reef.toml"), Path::to_path_buf);
        let what = format!("{}: settings for '{name}', but there is no such model", path.display());
        if fixed {
            bail!(what);
        }
        tracing::warn!("{what} yet");
    }
    if fixed && snapshot.models.is_empty() {
        bail!("{}: no models (NAME.onnx, NAME/model.onnx or NAME/1/model.onnx)", dir.display());
    }
    Ok(snapshot)
}

/// Follows the directory from now on, if that is wanted.
fn follow(policy: &Policy, control: Arc<Control>, snapshot: Snapshot, events: Sender<Event>) -> Result<()> {
    if policy.mode != Mode::Poll {
        return Ok(());
    }
    let every = policy.poll_every;
    start_thread("reef-poll", events, move |_| {
        // Until the process ends.
        let (_running, stop) = channel();
        control::poll::run(&control, snapshot, every, &stop);
    })
}

/// How the settings have devices driven.
pub fn device_args(config: &Config) -> Result<DeviceArgs> {
    Ok(DeviceArgs {
        device: config.devices()?,
        cus: config.optional("cus").map(str::parse).transpose()?,
        nice: config.value("nice").parse()?,
        padding: config.value("padding").parse::<Padding>().map_err(anyhow::Error::msg)?,
        memory: config.optional("memory").map(str::parse).transpose()?,
    })
}

/// The devices that the settings name.
fn start_devices(config: &Config) -> Result<Vec<PoolDevice>> {
    let args = device_args(config)?;
    let devices = device::start_pool(&args, &args.device, config.scheme()?)?;
    for PoolDevice { name, device } in &devices {
        tracing::info!("device {}", device::described(name, device.as_ref()));
    }
    Ok(devices)
}

/// Follows what happens until a signal comes; an error is why the command cannot go on. `serving` is called
/// when all models were tried.
fn attend(
    running: &Running,
    events: &Receiver<Event>,
    policy: &Policy,
    manager: &Manager,
    serving: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut unavailable: Vec<anyhow::Error> = Vec::new();
    let mut serving = Some(serving);
    loop {
        let event = match events.recv_timeout(manager.alive_every()) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => {
                manager.alive();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => bail!("nobody waits for signals"),
        };
        // Events that come fast must not make it look dead.
        manager.alive();
        match event {
            Event::Signal => return Ok(()),
            Event::Reload => {
                running.reload_certificates();
                running.reload_tokens();
            }
            Event::Fault(why) => return Err(Fault(why).into()),
            Event::Unavailable(key, error) => {
                tracing::error!("model {key} is unavailable: {}", crate::message(&error));
                if policy.exit_on_error {
                    return Err(error);
                }
                unavailable.push(error);
            }
            Event::Loaded(0) if policy.mode == Mode::None => return Err(none_loaded(unavailable)),
            Event::Loaded(_) => {
                running.set_ready();
                manager.ready();
                // The log may be off: whoever asked for a free port finds it here.
                say!("serving {}", running.addresses());
                if let Some(serving) = serving.take() {
                    serving()?;
                }
            }
        }
    }
}

/// There is nothing to serve.
fn none_loaded(mut errors: Vec<anyhow::Error>) -> anyhow::Error {
    match errors.len() {
        1 => errors.remove(0),
        count => {
            let reasons: Vec<String> = errors.iter().map(crate::message).collect();
            anyhow!("none of {count} models could be loaded: {}", reasons.join("; "))
        }
    }
}

/// A thread of this command; a panic in it is a fault.
fn start_thread(
    name: &'static str,
    events: Sender<Event>,
    work: impl FnOnce(&Sender<Event>) + Send + 'static,
) -> Result<()> {
    let guarded = move || {
        if let Err(caught) = reef_base::panics::catch(|| work(&events)) {
            let _ =
                events.send(Event::Fault(format!("the thread {name} panicked, please report it: {caught}")));
        }
    };
    let builder = std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
    builder.spawn(guarded).with_context(|| format!("cannot start the thread {name}"))?;
    Ok(())
}

/// Tells when the engine has failed.
fn watch_engine(engine: Engine, events: Sender<Event>) -> Result<()> {
    start_thread("reef-watch", events, move |events| {
        if let Some(fault) = engine.wait_for_fault() {
            let _ = events.send(Event::Fault(fault.to_string()));
            // Not dropped here: that may wait for what has failed.
            std::mem::forget(engine);
        }
    })
}

/// From the start: a process that is the first one of its container is ended by no signal that it does not
/// handle.
fn watch_signals(events: Sender<Event>) -> Result<()> {
    let mut signals = Signals::install().context("cannot wait for signals")?;
    start_thread("reef-signals", events, move |events| {
        let mut next = || loop {
            match signals.wait() {
                HANGUP => drop(events.send(Event::Reload)),
                signal => return signal,
            }
        };
        next();
        let _ = events.send(Event::Signal);
        let signal = next();
        tracing::warn!(signal, "ended at once by a second signal");
        std::process::exit(128 + signal);
    })
}

/// Loads the models on a thread, so that a signal need not wait for it. One that cannot be loaded is
/// reported, and the others are loaded.
fn load_all(control: Arc<Control>, models: Vec<Found>, events: Sender<Event>) -> Result<()> {
    start_thread("reef-load", events, move |events| {
        for found in models {
            for (key, error) in control.bring_up(&found).err().unwrap_or_default() {
                let _ = events.send(Event::Unavailable(key, error));
            }
        }
        let _ = events.send(Event::Loaded(control.served()));
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};

    use reef_cpu::{CpuDevice, CpuOptions};
    use reef_engine::{ModelSettings, ModelSource, ModelSpec};
    use reef_server::ServerOptions;

    use super::*;

    fn serving() -> (Engine, Running) {
        let device = CpuDevice::start(CpuOptions { cus: Some(1), ..CpuOptions::default() }).unwrap();
        let engine = Engine::new(Arc::new(device), EngineOptions::default()).unwrap();
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = ServerOptions { http, metrics: None, ..ServerOptions::default() };
        let running = Server::bind(options).unwrap().open(engine.clone()).unwrap();
        (engine, running)
    }

    fn policy() -> Policy {
        Policy {
            mode: Mode::None,
            poll_every: Duration::from_secs(1),
            load: Vec::new(),
            exit_on_error: false,
        }
    }

    fn control(engine: &Engine) {
        let onnx = reef_zoo::build(reef_zoo::Model::Control, &reef_zoo::Variant::tiny()).unwrap();
        let key = ModelKey { name: "control".into(), version: "1".into() };
        let spec = ModelSpec { key, source: ModelSource::Bytes(onnx), settings: ModelSettings::default() };
        engine.load(spec).unwrap();
    }

    fn asked(address: SocketAddr) -> String {
        let input = serde_json::json!({
            "name": "input", "shape": [1, 3, 24, 24], "datatype": "FP32", "data": vec![0.5; 3 * 24 * 24],
        });
        let body = serde_json::json!({ "inputs": [input] }).to_string();
        let head = "POST /v2/models/control/infer HTTP/1.1\r\nHost: t\r\nConnection: close";
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_fault_of_the_device_ends_the_command_once_clients_are_answered() {
        let (engine, running) = serving();
        control(&engine);
        let (sender, events) = channel();
        watch_engine(engine.clone(), sender).unwrap();
        running.set_ready();
        engine.device().poison("planted");
        engine.wait_for_fault();
        let answer = asked(running.http_addr());
        let error = attend(&running, &events, &policy(), &Manager::default(), || Ok(())).unwrap_err();
        assert!(running.shutdown(FAULT_DRAIN), "nothing hangs");
        assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("device has failed"), "{answer}");
        assert!(error.to_string().contains("device has failed"), "{error}");
        assert_eq!(crate::status(&error), FAULT_STATUS);
    }

    #[test]
    fn a_thread_that_panics_ends_the_command() {
        let (_engine, running) = serving();
        let (sender, events) = channel();
        start_thread("reef-test", sender, |_| panic!("planted")).unwrap();
        let error = attend(&running, &events, &policy(), &Manager::default(), || Ok(())).unwrap_err();
        assert!(error.to_string().contains("reef-test panicked, please report it: planted"), "{error}");
        assert_eq!(crate::status(&error), FAULT_STATUS);
    }

    #[test]
    fn a_model_that_cannot_be_loaded_ends_who_asks_for_that() {
        let (_engine, running) = serving();
        let (sender, events) = channel();
        let key = ModelKey { name: "a".into(), version: "1".into() };
        sender.send(Event::Unavailable(key, anyhow!("a is broken"))).unwrap();
        let strict = Policy { exit_on_error: true, ..policy() };
        let error = attend(&running, &events, &strict, &Manager::default(), || Ok(())).unwrap_err();
        assert_eq!((error.to_string(), crate::status(&error)), ("a is broken".into(), 1));
    }

    #[test]
    fn without_a_model_there_is_nothing_to_serve() {
        let (_engine, running) = serving();
        let (sender, events) = channel();
        for name in ["a", "b"] {
            let key = ModelKey { name: name.into(), version: "1".into() };
            sender.send(Event::Unavailable(key, anyhow!("{name} is broken"))).unwrap();
        }
        sender.send(Event::Loaded(0)).unwrap();
        let error = attend(&running, &events, &policy(), &Manager::default(), || Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "none of 2 models could be loaded: a is broken; b is broken");
        assert_eq!(crate::status(&error), 1);
    }
}
