//! Our own engine as a system: one condition per scheme, asked in-process or over HTTP. And any server of the
//! Open Inference Protocol at an address, whose scheme is its own affair.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use reef_base::{ClassName, Level, ModelKey, Nanos};
use reef_device::{DeviceCounters, Scheme};
use reef_engine::{Engine, ModelSettings, ModelSource, ModelSpec, SessionOptions};
use reef_load::{Caller, Callers, Run, RunClient};

use super::system::{Condition, DeviceUse, ModelFile, Played, System};
use crate::callers::{HttpCaller, SessionCaller, class_request, random_request};
use crate::error::BenchError;
use crate::http::{Client, InferParameters};
use crate::machine::ProcessUse;
use crate::micro::Serving;
use crate::progress::Progress;

/// Requests that may wait in the server: more than all clients together can have under way.
const QUEUE_LEN: usize = 4096;
/// How long a server may take to say that it lives.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// Where a server listens whose address does not say.
const PORT_DEFAULT: u16 = 8000;

/// Our engine.
pub struct EngineSystem {
    engine: Engine,
    schemes: Vec<Scheme>,
    /// Those that were asked for and the device has not got.
    absent: Vec<Scheme>,
    conditions: Vec<Condition>,
    /// `None` for in-process.
    server: Option<Box<dyn Serving>>,
    loaded: Vec<String>,
    seed: u64,
}

impl EngineSystem {
    /// `engine` under `schemes`, of which `rt-only` comes first whether it is named or not; over HTTP where
    /// there is a server. `seed` chooses the inputs.
    pub fn new(
        engine: Engine,
        schemes: &[Scheme],
        server: Option<Box<dyn Serving>>,
        seed: u64,
    ) -> EngineSystem {
        let shared = |scheme: &Scheme| *scheme != Scheme::RtOnly && schemes.contains(scheme);
        // The device says which schemes it has: it keeps the one before where it has not got one.
        let has = |scheme: &Scheme| {
            engine.set_scheme(*scheme);
            engine.device().scheme() == *scheme
        };
        let mut all = vec![Scheme::RtOnly];
        let (present, absent): (Vec<_>, Vec<_>) = Scheme::ALL.into_iter().filter(shared).partition(has);
        all.extend(present);
        engine.set_scheme(Scheme::RtOnly);
        let conditions = all.iter().map(|scheme| condition(*scheme)).collect();
        EngineSystem { engine, schemes: all, absent, conditions, server, loaded: Vec::new(), seed }
    }

    /// Schemes that were asked for and that the device has not got: they are left out.
    pub fn absent(&self) -> &[Scheme] {
        &self.absent
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn caller(&self, client: &RunClient, seed: u64) -> Result<Box<dyn Caller>, BenchError> {
        if let Some(server) = &self.server {
            return http_caller(Client::new(server.address()), client, seed);
        }
        let options = SessionOptions {
            class: Some(class_request(client.class)),
            priority: client.priority(),
            deadline: client.enforced_deadline.map(Nanos::from),
            ..SessionOptions::default()
        };
        Ok(Box::new(SessionCaller::with(&self.engine, &client.model, &options, seed)?))
    }
}

impl System for EngineSystem {
    fn name(&self) -> &str {
        "reef"
    }

    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn load(&mut self, models: &[ModelFile]) -> Result<(), BenchError> {
        for model in models.iter().filter(|model| !self.loaded.contains(&model.name)) {
            // Any class and level may be asked for: each client says its own.
            let settings = ModelSettings { queue_len: QUEUE_LEN, ..ModelSettings::real_time(Level::TOP) };
            self.engine.load(ModelSpec {
                key: ModelKey { name: model.name.clone(), version: "1".to_string() },
                source: ModelSource::Path(model.path.clone()),
                settings,
            })?;
        }
        self.loaded.extend(models.iter().map(|model| model.name.clone()));
        Ok(())
    }

    fn play(&mut self, condition: usize, run: &Run) -> Result<Played, BenchError> {
        self.engine.set_scheme(self.schemes[condition]);
        let mut callers =
            callers(run, self.conditions[condition].best_effort, self.seed, &|client, seed| {
                self.caller(client, seed)
            })?;
        let snapshot = || (self.engine.device().counters(), ProcessUse::now());
        let (clients, begin, end) = reef_load::play(run, &mut callers, snapshot, snapshot);
        let cus = self.engine.capabilities().cus;
        let cpu = end.1.zip(begin.1).map(|(end, begin)| end.cpu.saturating_sub(begin.cpu));
        Ok(Played {
            clients,
            device: Some(device_use(cus, &begin.0, &end.0)),
            cpu,
            memory_bytes: ProcessUse::now().map(|now| now.resident_bytes),
        })
    }
}

fn condition(scheme: Scheme) -> Condition {
    let title = match scheme {
        Scheme::RtOnly => "the device dedicated to real-time clients",
        Scheme::Sequential => "one task at a time, to its end",
        Scheme::Concurrent => "all tasks at once, compute units take turns among them",
        Scheme::Wait => "the most urgent first at every block's end",
        Scheme::Reset => "less urgent blocks are killed and run again later",
    };
    Condition {
        name: scheme.name().to_string(),
        title: title.to_string(),
        best_effort: scheme != Scheme::RtOnly,
    }
}

fn device_use(cus: usize, begin: &DeviceCounters, end: &DeviceCounters) -> DeviceUse {
    DeviceUse {
        cus,
        preemptions: end.preemptions - begin.preemptions,
        blocks_killed: end.blocks_killed - begin.blocks_killed,
        blocks_rerun: end.blocks_rerun - begin.blocks_rerun,
        wasted: end.wasted - begin.wasted,
        padding: end.padding - begin.padding,
        busy: end.busy - begin.busy,
    }
}

/// A server at an address: with real-time clients alone, and with all.
pub struct UrlSystem {
    name: String,
    address: SocketAddr,
    /// How long an answer may take.
    limit: Duration,
    conditions: [Condition; 2],
    seed: u64,
}

impl UrlSystem {
    /// The server at `url` (`http://HOST:PORT`, or without the scheme); it must answer.
    pub fn connect(
        url: &str,
        limit: Duration,
        seed: u64,
        progress: &Progress,
    ) -> Result<UrlSystem, BenchError> {
        progress.phase(format!("waiting for {url}"));
        let address = answering(url, limit.min(PROBE_LIMIT))?;
        let condition = |name: &str, title: &str, best_effort| Condition {
            name: name.to_string(),
            title: title.to_string(),
            best_effort,
        };
        let conditions = [
            condition("rt-only", "real-time clients alone", false),
            condition("all", "all clients, shared as the server does", true),
        ];
        Ok(UrlSystem { name: url.to_string(), address, limit, conditions, seed })
    }

    fn client(&self) -> Client {
        Client::new(self.address).called(authority(&self.name)).within(self.limit)
    }
}

impl System for UrlSystem {
    fn name(&self) -> &str {
        &self.name
    }

    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// A server may refuse to serve as real-time what it has as best-effort.
    fn alone(&self, real_time: bool) -> (usize, ClassName) {
        if real_time { (0, ClassName::RealTime) } else { (1, ClassName::BestEffort) }
    }

    /// The server has its models already: only asks whether it does.
    fn load(&mut self, models: &[ModelFile]) -> Result<(), BenchError> {
        let mut client = self.client();
        models.iter().try_for_each(|model| client.metadata(&model.name).map(|_| ()))
    }

    fn play(&mut self, condition: usize, run: &Run) -> Result<Played, BenchError> {
        let best_effort = self.conditions[condition].best_effort;
        let mut callers =
            callers(run, best_effort, self.seed, &|client, seed| http_caller(self.client(), client, seed))?;
        let (clients, ..) = reef_load::play(run, &mut callers, || (), || ());
        Ok(Played { clients, ..Played::default() })
    }
}

/// Makes a caller of a client, with inputs from a seed.
type MakeCaller<'a> = &'a dyn Fn(&RunClient, u64) -> Result<Box<dyn Caller>, BenchError>;

/// Callers of a run's clients; none for best-effort clients where they do not take part.
fn callers(run: &Run, best_effort: bool, seed: u64, caller: MakeCaller<'_>) -> Result<Callers, BenchError> {
    let mut callers = Callers::new();
    for client in &run.clients {
        let plays = best_effort || client.class == ClassName::RealTime;
        let count = if plays { client.in_flight } else { 0 };
        let own: Result<Vec<_>, _> =
            (0..count as u64).map(|index| caller(client, seed.wrapping_add(index))).collect();
        callers.push(own?);
    }
    Ok(callers)
}

fn http_caller(mut connection: Client, client: &RunClient, seed: u64) -> Result<Box<dyn Caller>, BenchError> {
    let metadata = connection.metadata(&client.model)?;
    let parameters = InferParameters {
        class: Some(client.class.name()),
        priority: client.priority(),
        deadline_us: client.enforced_deadline.map(|deadline| deadline.as_micros() as u64),
    };
    let request = random_request(&metadata, parameters, seed)?;
    Ok(Box::new(HttpCaller::new(connection, Arc::new(request))))
}

/// Host and port of a URL, as it says them.
fn authority(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/')
}

/// The first address of a server that answers.
fn answering(url: &str, limit: Duration) -> Result<SocketAddr, BenchError> {
    let wrong = |problem: String| BenchError::Url { url: url.to_string(), problem };
    let rest = url.strip_prefix("http://").unwrap_or(url);
    if rest.contains("://") {
        return Err(wrong("only http:// is spoken".to_string()));
    }
    let host = authority(url);
    let with_port = match host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        true => host.to_string(),
        false => format!("{host}:{PORT_DEFAULT}"),
    };
    let addresses = with_port.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    let mut last = wrong("it has no address".to_string());
    for address in addresses {
        match Client::new(address).called(host).within(limit).text("/v2/health/live") {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use reef_device::{DummyDevice, DummyOptions};
    use reef_engine::EngineOptions;

    use super::*;

    #[test]
    fn schemes_that_the_device_has_not_got_are_left_out() {
        let schemes = &[Scheme::RtOnly, Scheme::Sequential, Scheme::Reset];
        let device = DummyDevice::new(DummyOptions { schemes, ..DummyOptions::default() });
        let engine = Engine::new(Arc::new(device), EngineOptions::default()).unwrap();
        let system = EngineSystem::new(engine, &[Scheme::Wait, Scheme::Reset], None, 0);
        let names: Vec<&str> = system.conditions().iter().map(|condition| &*condition.name).collect();
        assert_eq!((&names[..], system.absent()), (&["rt-only", "reset"][..], &[Scheme::Wait][..]));
        assert_eq!(system.engine().device().scheme(), Scheme::RtOnly);
    }
}
