//! Paths: which question a method and a path ask, and what it needs.
//!
//! A new question is a variant of [`Route`], and the compiler asks what it needs ([`RouteKind::need`]) and
//! where it is ([`RouteKind::examples`]); a test asks each of them with every kind of credentials.

use std::borrow::Cow;

use hyper::Method;
use strum::{EnumDiscriminants, EnumIter, IntoEnumIterator};

use crate::core::access::Need;
use crate::core::problem::Problem;
use crate::http::error::ApiError;

/// A question that the server answers.
#[derive(Clone, Debug, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(name(RouteKind), vis(pub(crate)), derive(EnumIter))]
pub(crate) enum Route<'a> {
    /// The dashboard's page.
    Dashboard,
    /// The dashboard's numbers.
    DashboardData,
    Live,
    Ready,
    Metadata,
    Metrics,
    RepositoryIndex,
    /// Load a model of this name.
    Load(Cow<'a, str>),
    /// Unload it.
    Unload(Cow<'a, str>),
    /// Statistics of one model, or of all.
    Stats(Option<ModelPath<'a>>),
    Model(ModelPath<'a>),
    ModelReady(ModelPath<'a>),
    ModelConfig(ModelPath<'a>),
    Infer(ModelPath<'a>),
    /// KServe's first protocol: names of models.
    V1Models,
    /// Whether a model is ready, in its words.
    V1Model(ModelPath<'a>),
    /// An inference in its words.
    Predict(ModelPath<'a>),
    /// What it has for explainers.
    Explain(ModelPath<'a>),
    /// Trace settings of one model, or of all.
    Trace(Option<ModelPath<'a>>),
    /// The same, to be changed.
    TraceChange(Option<ModelPath<'a>>),
    /// Log settings.
    Log,
    /// The same, to be changed.
    LogChange,
    /// Regions of shared memory of a kind: all, or one.
    RegionStatus(Memory, Option<Cow<'a, str>>),
    RegionRegister(Memory, Cow<'a, str>),
    RegionUnregister(Memory, Option<Cow<'a, str>>),
}

/// Where regions of shared memory may be, in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    System,
    Cuda,
}

/// A route, for who wants to know all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// The method that it takes.
    pub method: &'static str,
    /// A path that leads to it.
    pub path: &'static str,
    /// What whoever asks must have.
    pub need: Need,
}

/// Every route of the server, with a path of each form that it has.
pub fn routes() -> Vec<RouteInfo> {
    let infos = |kind: RouteKind| {
        let (method, paths) = kind.examples();
        paths.iter().map(move |path| RouteInfo { method, path, need: kind.need() })
    };
    RouteKind::iter().flat_map(infos).collect()
}

impl RouteKind {
    /// What whoever asks must have.
    pub(crate) fn need(self) -> Need {
        match self {
            RouteKind::Live | RouteKind::Ready => Need::Health,
            // The same for everybody: a browser shows it, and it asks for its numbers with a token.
            RouteKind::Dashboard => Need::Nothing,
            RouteKind::DashboardData | RouteKind::Metrics => Need::Metrics,
            RouteKind::Metadata
            | RouteKind::RepositoryIndex
            | RouteKind::Stats
            | RouteKind::Model
            | RouteKind::ModelReady
            | RouteKind::ModelConfig
            | RouteKind::V1Models
            | RouteKind::V1Model
            | RouteKind::Trace
            | RouteKind::Log
            | RouteKind::RegionStatus => Need::Read,
            RouteKind::Infer | RouteKind::Predict | RouteKind::Explain => Need::Infer,
            RouteKind::Load
            | RouteKind::Unload
            | RouteKind::TraceChange
            | RouteKind::LogChange
            | RouteKind::RegionRegister
            | RouteKind::RegionUnregister => Need::Admin,
        }
    }

    /// What method leads there, and paths of every form, with a model `m` where there is one.
    fn examples(self) -> (&'static str, &'static [&'static str]) {
        match self {
            RouteKind::Dashboard => ("GET", &["/"]),
            RouteKind::DashboardData => ("GET", &["/dashboard/data"]),
            RouteKind::Live => ("GET", &["/v2/health/live"]),
            RouteKind::Ready => ("GET", &["/v2/health/ready"]),
            RouteKind::Metadata => ("GET", &["/v2"]),
            RouteKind::Metrics => ("GET", &["/metrics"]),
            RouteKind::RepositoryIndex => ("POST", &["/v2/repository/index"]),
            RouteKind::Load => ("POST", &["/v2/repository/models/m/load"]),
            RouteKind::Unload => ("POST", &["/v2/repository/models/m/unload"]),
            RouteKind::Stats => {
                ("GET", &["/v2/models/stats", "/v2/models/m/stats", "/v2/models/m/versions/1/stats"])
            }
            RouteKind::Model => ("GET", &["/v2/models/m", "/v2/models/m/versions/1"]),
            RouteKind::ModelReady => ("GET", &["/v2/models/m/ready", "/v2/models/m/versions/1/ready"]),
            RouteKind::ModelConfig => ("GET", &["/v2/models/m/config", "/v2/models/m/versions/1/config"]),
            RouteKind::Infer => ("POST", &["/v2/models/m/infer", "/v2/models/m/versions/1/infer"]),
            RouteKind::V1Models => ("GET", &["/v1/models"]),
            RouteKind::V1Model => ("GET", &["/v1/models/m"]),
            RouteKind::Predict => ("POST", &["/v1/models/m:predict"]),
            RouteKind::Explain => ("POST", &["/v1/models/m:explain"]),
            RouteKind::Trace => ("GET", &["/v2/trace/setting", "/v2/models/m/trace/setting"]),
            RouteKind::TraceChange => ("POST", &["/v2/trace/setting", "/v2/models/m/trace/setting"]),
            RouteKind::Log => ("GET", &["/v2/logging"]),
            RouteKind::LogChange => ("POST", &["/v2/logging"]),
            RouteKind::RegionStatus => (
                "GET",
                &[
                    "/v2/systemsharedmemory/status",
                    "/v2/systemsharedmemory/region/r/status",
                    "/v2/cudasharedmemory/status",
                    "/v2/cudasharedmemory/region/r/status",
                ],
            ),
            RouteKind::RegionRegister => (
                "POST",
                &["/v2/systemsharedmemory/region/r/register", "/v2/cudasharedmemory/region/r/register"],
            ),
            RouteKind::RegionUnregister => (
                "POST",
                &[
                    "/v2/systemsharedmemory/unregister",
                    "/v2/systemsharedmemory/region/r/unregister",
                    "/v2/cudasharedmemory/unregister",
                    "/v2/cudasharedmemory/region/r/unregister",
                ],
            ),
        }
    }
}

impl Route<'_> {
    /// What whoever asks must have.
    pub(crate) fn need(&self) -> Need {
        RouteKind::from(self).need()
    }

    /// The kind of path, for traces: many paths have the same.
    pub(crate) fn pattern(&self) -> &'static str {
        RouteKind::from(self).examples().1[0]
    }

    /// The model that it is about, if it is about one.
    pub(crate) fn model(&self) -> Option<&str> {
        match self {
            Route::Dashboard
            | Route::DashboardData
            | Route::Live
            | Route::Ready
            | Route::Metadata
            | Route::Metrics
            | Route::RepositoryIndex
            | Route::V1Models
            | Route::Log
            | Route::LogChange
            | Route::RegionStatus(..)
            | Route::RegionRegister(..)
            | Route::RegionUnregister(..) => None,
            Route::Load(name) | Route::Unload(name) => Some(name),
            Route::Stats(model) | Route::Trace(model) | Route::TraceChange(model) => {
                model.as_ref().map(|model| &*model.name)
            }
            Route::Model(model)
            | Route::ModelReady(model)
            | Route::ModelConfig(model)
            | Route::Infer(model)
            | Route::V1Model(model)
            | Route::Predict(model)
            | Route::Explain(model) => Some(&model.name),
        }
    }
}

/// A model in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelPath<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) version: Option<Cow<'a, str>>,
}

impl ModelPath<'_> {
    /// One that outlives the path.
    pub(crate) fn into_owned(self) -> ModelPath<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        ModelPath { name: owned(self.name), version: self.version.map(owned) }
    }
}

/// What `method` and `path` ask.
pub(crate) fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, ApiError> {
    let route = find(path)?;
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let writes = *method == Method::POST;
    let (allowed, needed) = match route {
        Route::Infer(_)
        | Route::Predict(_)
        | Route::Explain(_)
        | Route::RepositoryIndex
        | Route::RegionRegister(..)
        | Route::RegionUnregister(..)
        | Route::Load(_)
        | Route::Unload(_) => (writes, "POST"),
        Route::Trace(_) | Route::Log => (reads || writes, "GET and POST"),
        _ => (reads, "GET"),
    };
    match (allowed, route) {
        (true, Route::Trace(model)) if writes => Ok(Route::TraceChange(model)),
        (true, Route::Log) if writes => Ok(Route::LogChange),
        (true, route) => Ok(route),
        (false, _) => Err(ApiError::method(format!("{path} takes {needed}, not {method}"))),
    }
}

fn find(path: &str) -> Result<Route<'_>, ApiError> {
    let unknown = || ApiError::not_found(format!("there is nothing at {path}"));
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    let mut parts = trimmed.split('/').skip(1);
    let mut next = || parts.next();
    match (next(), next(), next()) {
        (None, None, None) if path == "/" => Ok(Route::Dashboard),
        (Some("dashboard"), Some("data"), None) => Ok(Route::DashboardData),
        (Some("metrics"), None, None) => Ok(Route::Metrics),
        (Some("v1"), Some("models"), None) => Ok(Route::V1Models),
        (Some("v1"), Some("models"), Some(name)) if next().is_none() => v1_model(name, unknown),
        (Some("v2"), None, None) => Ok(Route::Metadata),
        (Some("v2"), Some("health"), Some("live")) if next().is_none() => Ok(Route::Live),
        (Some("v2"), Some("health"), Some("ready")) if next().is_none() => Ok(Route::Ready),
        (Some("v2"), Some("repository"), Some("index")) if next().is_none() => Ok(Route::RepositoryIndex),
        (Some("v2"), Some("trace"), Some("setting")) if next().is_none() => Ok(Route::Trace(None)),
        (Some("v2"), Some("logging"), None) => Ok(Route::Log),
        (Some("v2"), Some("systemsharedmemory"), verb) => {
            regions(Memory::System, verb, [next(), next(), next()], unknown)
        }
        (Some("v2"), Some("cudasharedmemory"), verb) => {
            regions(Memory::Cuda, verb, [next(), next(), next()], unknown)
        }
        (Some("v2"), Some("repository"), Some("models")) => match (next(), next(), next()) {
            (Some(name), Some("load"), None) => Ok(Route::Load(decode(name)?)),
            (Some(name), Some("unload"), None) => Ok(Route::Unload(decode(name)?)),
            _ => Err(unknown()),
        },
        (Some("v2"), Some("models"), Some("stats")) if next().is_none() => Ok(Route::Stats(None)),
        (Some("v2"), Some("models"), Some(name)) => {
            let name = decode(name)?;
            let (version, verb) = match (next(), next(), next()) {
                (Some("versions"), Some(version), verb) => (Some(decode(version)?), verb),
                (Some("trace"), Some("setting"), None) => {
                    return Ok(Route::Trace(Some(ModelPath { name, version: None })));
                }
                (verb, None, None) => (None, verb),
                _ => return Err(unknown()),
            };
            let model = ModelPath { name, version };
            match (verb, next()) {
                (None, None) => Ok(Route::Model(model)),
                (Some("ready"), None) => Ok(Route::ModelReady(model)),
                (Some("config"), None) => Ok(Route::ModelConfig(model)),
                (Some("stats"), None) => Ok(Route::Stats(Some(model))),
                (Some("infer"), None) => Ok(Route::Infer(model)),
                _ => Err(unknown()),
            }
        }
        _ => Err(unknown()),
    }
}

/// What is asked of a model in KServe's first protocol, which knows no versions: `NAME` or `NAME:VERB`. A
/// colon of the name's own is percent-encoded.
fn v1_model(segment: &str, unknown: impl Fn() -> ApiError) -> Result<Route<'_>, ApiError> {
    let (name, verb) = segment.rsplit_once(':').map_or((segment, None), |(name, verb)| (name, Some(verb)));
    let model = ModelPath { name: decode(name)?, version: None };
    match verb {
        None => Ok(Route::V1Model(model)),
        Some("predict") => Ok(Route::Predict(model)),
        Some("explain") => Ok(Route::Explain(model)),
        Some(_) => Err(unknown()),
    }
}

/// What stands behind the kind of memory: `status`, `unregister`, or `region/NAME/VERB`.
fn regions<'a>(
    memory: Memory,
    first: Option<&'a str>,
    rest: [Option<&'a str>; 3],
    unknown: impl Fn() -> ApiError,
) -> Result<Route<'a>, ApiError> {
    match (first, rest) {
        (Some("status"), [None, ..]) => Ok(Route::RegionStatus(memory, None)),
        (Some("unregister"), [None, ..]) => Ok(Route::RegionUnregister(memory, None)),
        (Some("region"), [Some(name), Some(verb), None]) => {
            let name = decode(name)?;
            match verb {
                "status" => Ok(Route::RegionStatus(memory, Some(name))),
                "register" => Ok(Route::RegionRegister(memory, name)),
                "unregister" => Ok(Route::RegionUnregister(memory, Some(name))),
                _ => Err(unknown()),
            }
        }
        _ => Err(unknown()),
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let wrong = || Problem::invalid(format!("'{text}' in the path is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or_else(wrong)?;
        let hex = |digit: u8| char::from(digit).to_digit(16).ok_or_else(wrong);
        bytes.push((hex(digits[0])? * 16 + hex(digits[1])?) as u8);
        rest = tail;
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, version: Option<&str>) -> ModelPath<'static> {
        ModelPath {
            name: Cow::Owned(name.to_string()),
            version: version.map(|version| Cow::Owned(version.to_string())),
        }
    }

    #[test]
    fn every_path_has_its_question() {
        let table = [
            ("/", Route::Dashboard),
            ("/dashboard/data", Route::DashboardData),
            ("/v2", Route::Metadata),
            ("/v2/", Route::Metadata),
            ("/metrics", Route::Metrics),
            ("/v2/health/live", Route::Live),
            ("/v2/health/ready", Route::Ready),
            ("/v2/models/stats", Route::Stats(None)),
            ("/v2/models/m", Route::Model(model("m", None))),
            ("/v2/models/m/versions/3", Route::Model(model("m", Some("3")))),
            ("/v2/models/m/ready", Route::ModelReady(model("m", None))),
            ("/v2/models/m/versions/3/ready", Route::ModelReady(model("m", Some("3")))),
            ("/v2/models/a%20b%2fc/config", Route::ModelConfig(model("a b/c", None))),
            ("/v2/models/m/versions/3/stats", Route::Stats(Some(model("m", Some("3"))))),
            ("/v1/models", Route::V1Models),
            ("/v1/models/", Route::V1Models),
            ("/v1/models/m", Route::V1Model(model("m", None))),
            ("/v1/models/a%20b%3Apredict", Route::V1Model(model("a b:predict", None))),
            ("/v2/systemsharedmemory/status", Route::RegionStatus(Memory::System, None)),
            (
                "/v2/systemsharedmemory/region/a%2fb/status",
                Route::RegionStatus(Memory::System, Some("a/b".into())),
            ),
            ("/v2/cudasharedmemory/region/r/status", Route::RegionStatus(Memory::Cuda, Some("r".into()))),
        ];
        for (path, expected) in table {
            assert_eq!(route(&Method::GET, path), Ok(expected.clone()), "{path}");
            assert_eq!(route(&Method::HEAD, path), Ok(expected), "{path}");
            assert_eq!(route(&Method::DELETE, path).unwrap_err().status.as_u16(), 405, "{path}");
        }
        let m = Some(model("m", None));
        let settings = [
            ("/v2/trace/setting", Route::Trace(None), Route::TraceChange(None)),
            ("/v2/models/m/trace/setting", Route::Trace(m.clone()), Route::TraceChange(m)),
            ("/v2/logging", Route::Log, Route::LogChange),
        ];
        for (path, read, changed) in settings {
            assert_eq!(route(&Method::GET, path), Ok(read), "{path}");
            assert_eq!(route(&Method::POST, path), Ok(changed), "{path}");
            assert_eq!(route(&Method::PUT, path).unwrap_err().status.as_u16(), 405, "{path}");
        }
        let infer = Route::Infer(model("m", Some("1")));
        assert_eq!(route(&Method::POST, "/v2/models/m/versions/1/infer"), Ok(infer));
        assert_eq!(route(&Method::POST, "/v2/repository/index"), Ok(Route::RepositoryIndex));
        let load = "/v2/repository/models/a%2Fb/load";
        assert_eq!(route(&Method::POST, load), Ok(Route::Load("a/b".into())));
        assert_eq!(route(&Method::GET, load).unwrap_err().status.as_u16(), 405);
        let unload = "/v2/repository/models/m/unload";
        assert_eq!(route(&Method::POST, unload), Ok(Route::Unload("m".into())));
        assert_eq!(route(&Method::GET, "/v2/models/m/infer").unwrap_err().status.as_u16(), 405);
        let posts = [
            ("/v2/systemsharedmemory/unregister", Route::RegionUnregister(Memory::System, None)),
            (
                "/v2/systemsharedmemory/region/r/unregister",
                Route::RegionUnregister(Memory::System, Some("r".into())),
            ),
            ("/v2/cudasharedmemory/region/r/register", Route::RegionRegister(Memory::Cuda, "r".into())),
            ("/v1/models/m:predict", Route::Predict(model("m", None))),
            ("/v1/models/a%2Fb%3Ac:predict", Route::Predict(model("a/b:c", None))),
            ("/v1/models/m:explain", Route::Explain(model("m", None))),
        ];
        for (path, expected) in posts {
            assert_eq!(route(&Method::POST, path), Ok(expected), "{path}");
            assert_eq!(route(&Method::GET, path).unwrap_err().status.as_u16(), 405, "{path}");
        }
    }

    #[test]
    fn examples_lead_to_their_routes() {
        for kind in RouteKind::iter() {
            let (method, paths) = kind.examples();
            for path in paths {
                let found = route(&method.parse().unwrap(), path).unwrap();
                assert_eq!(RouteKind::from(&found), kind, "{method} {path}");
                let named = path.contains("/m/") || path.contains("/m:") || path.ends_with("/m");
                assert_eq!(found.model(), named.then_some("m"), "{path}");
            }
        }
    }

    #[test]
    fn other_paths_are_nothing() {
        let paths = [
            "",
            "//",
            "/dashboard",
            "/dashboard/data/x",
            "/v1",
            "/v1/models/m/versions/1:predict",
            "/v1/models/m:",
            "/v1/models/m:predict:x",
            "/v1/models/m/predict",
            "/v1/health/live",
            "/v2/health",
            "/v2/health/well",
            "/v2/health/live/x",
            "/v2/models/m/versions",
            "/v2/models/m/nothing",
            "/v2/models/m/versions/1/infer/x",
            "/v2/repository/index/x",
            "/v2/logging/x",
            "/v2/trace",
            "/v2/trace/setting/x",
            "/v2/models/m/trace",
            "/v2/models/m/versions/1/trace/setting",
            "/v2/repository/models",
            "/v2/repository/models/m",
            "/v2/repository/models/m/load/x",
            "/metrics/x",
            "/v2/systemsharedmemory",
            "/v2/systemsharedmemory/status/x",
            "/v2/systemsharedmemory/region/r",
            "/v2/systemsharedmemory/region/r/register/x",
            "/v2/systemsharedmemory/register",
        ];
        for path in paths {
            assert_eq!(route(&Method::GET, path).unwrap_err().status.as_u16(), 404, "{path}");
        }
        for path in
            ["/v1/models/%zz:predict", "/v2/models/%", "/v2/models/%4", "/v2/models/%zz", "/v2/models/%ff"]
        {
            assert_eq!(route(&Method::GET, path).unwrap_err().status.as_u16(), 400, "{path}");
        }
    }
}
