//! Paths: which question a method and a path ask, and what it needs.
//!
//! A new question is a variant of [`Route`], and the compiler asks what it needs ([`RouteKind::need`]) and
//! where it is ([`RouteKind::example`]); a test asks each of them with every kind of credentials.

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
    Live,
    Ready,
    Metadata,
    Metrics,
    RepositoryIndex,
    /// Statistics of one model, or of all.
    Stats(Option<ModelPath<'a>>),
    Model(ModelPath<'a>),
    ModelReady(ModelPath<'a>),
    ModelConfig(ModelPath<'a>),
    Infer(ModelPath<'a>),
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

/// Every route of the server.
pub fn routes() -> Vec<RouteInfo> {
    let info = |kind: RouteKind| {
        let (method, path) = kind.example();
        RouteInfo { method, path, need: kind.need() }
    };
    RouteKind::iter().map(info).collect()
}

impl RouteKind {
    /// What whoever asks must have.
    pub(crate) fn need(self) -> Need {
        match self {
            RouteKind::Live | RouteKind::Ready => Need::Health,
            RouteKind::Metrics => Need::Metrics,
            RouteKind::Metadata
            | RouteKind::RepositoryIndex
            | RouteKind::Stats
            | RouteKind::Model
            | RouteKind::ModelReady
            | RouteKind::ModelConfig => Need::Read,
            RouteKind::Infer => Need::Infer,
        }
    }

    /// A method and a path that lead there.
    fn example(self) -> (&'static str, &'static str) {
        match self {
            RouteKind::Live => ("GET", "/v2/health/live"),
            RouteKind::Ready => ("GET", "/v2/health/ready"),
            RouteKind::Metadata => ("GET", "/v2"),
            RouteKind::Metrics => ("GET", "/metrics"),
            RouteKind::RepositoryIndex => ("POST", "/v2/repository/index"),
            RouteKind::Stats => ("GET", "/v2/models/stats"),
            RouteKind::Model => ("GET", "/v2/models/m"),
            RouteKind::ModelReady => ("GET", "/v2/models/m/ready"),
            RouteKind::ModelConfig => ("GET", "/v2/models/m/config"),
            RouteKind::Infer => ("POST", "/v2/models/m/infer"),
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
        RouteKind::from(self).example().1
    }

    /// The model that it is about, if it is about one.
    pub(crate) fn model(&self) -> Option<&str> {
        match self {
            Route::Live | Route::Ready | Route::Metadata | Route::Metrics | Route::RepositoryIndex => None,
            Route::Stats(model) => model.as_ref().map(|model| &*model.name),
            Route::Model(model)
            | Route::ModelReady(model)
            | Route::ModelConfig(model)
            | Route::Infer(model) => Some(&model.name),
        }
    }
}

/// A model in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelPath<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) version: Option<Cow<'a, str>>,
}

/// What `method` and `path` ask.
pub(crate) fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, ApiError> {
    let route = find(path)?;
    let wants_post = matches!(route, Route::Infer(_) | Route::RepositoryIndex);
    let allowed =
        if wants_post { *method == Method::POST } else { matches!(*method, Method::GET | Method::HEAD) };
    if !allowed {
        let needed = if wants_post { "POST" } else { "GET" };
        return Err(ApiError::method(format!("{path} takes {needed}, not {method}")));
    }
    Ok(route)
}

fn find(path: &str) -> Result<Route<'_>, ApiError> {
    let unknown = || ApiError::not_found(format!("there is nothing at {path}"));
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    let mut parts = trimmed.split('/').skip(1);
    let mut next = || parts.next();
    match (next(), next(), next()) {
        (Some("metrics"), None, None) => Ok(Route::Metrics),
        (Some("v2"), None, None) => Ok(Route::Metadata),
        (Some("v2"), Some("health"), Some("live")) if next().is_none() => Ok(Route::Live),
        (Some("v2"), Some("health"), Some("ready")) if next().is_none() => Ok(Route::Ready),
        (Some("v2"), Some("repository"), Some("index")) if next().is_none() => Ok(Route::RepositoryIndex),
        (Some("v2"), Some("models"), Some("stats")) if next().is_none() => Ok(Route::Stats(None)),
        (Some("v2"), Some("models"), Some(name)) => {
            let name = decode(name)?;
            let (version, verb) = match (next(), next(), next()) {
                (Some("versions"), Some(version), verb) => (Some(decode(version)?), verb),
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
        ];
        for (path, expected) in table {
            assert_eq!(route(&Method::GET, path), Ok(expected.clone()), "{path}");
            assert_eq!(route(&Method::HEAD, path), Ok(expected), "{path}");
            assert_eq!(route(&Method::DELETE, path).unwrap_err().status.as_u16(), 405, "{path}");
        }
        let infer = Route::Infer(model("m", Some("1")));
        assert_eq!(route(&Method::POST, "/v2/models/m/versions/1/infer"), Ok(infer));
        assert_eq!(route(&Method::POST, "/v2/repository/index"), Ok(Route::RepositoryIndex));
        assert_eq!(route(&Method::GET, "/v2/models/m/infer").unwrap_err().status.as_u16(), 405);
    }

    #[test]
    fn examples_lead_to_their_routes() {
        for kind in RouteKind::iter() {
            let (method, path) = kind.example();
            let found = route(&method.parse().unwrap(), path).unwrap();
            assert_eq!(RouteKind::from(&found), kind, "{method} {path}");
            let named = path.contains("/m/") || path.ends_with("/m");
            assert_eq!(found.model(), named.then_some("m"), "{path}");
        }
    }

    #[test]
    fn other_paths_are_nothing() {
        let paths = [
            "/",
            "",
            "/v1",
            "/v2/health",
            "/v2/health/well",
            "/v2/health/live/x",
            "/v2/models/m/versions",
            "/v2/models/m/nothing",
            "/v2/models/m/versions/1/infer/x",
            "/v2/repository/index/x",
            "/metrics/x",
        ];
        for path in paths {
            assert_eq!(route(&Method::GET, path).unwrap_err().status.as_u16(), 404, "{path}");
        }
        for path in ["/v2/models/%", "/v2/models/%4", "/v2/models/%zz", "/v2/models/%ff"] {
            assert_eq!(route(&Method::GET, path).unwrap_err().status.as_u16(), 400, "{path}");
        }
    }
}
