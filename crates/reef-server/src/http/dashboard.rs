//! The dashboard: one page that brings everything along, and the numbers that it asks for.
//!
//! The page itself holds nothing of this server: it is the same for everybody. What is to be protected are
//! its numbers (as the metrics are) and the requests that its form sends (as any inference).
//!
//! Its policy lets run and fetch nothing but what stands in it and this server; the scripts' digests are made
//! of what is served, so that they cannot be out of step.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use sha2::{Digest, Sha256};

use crate::core::dashboard::Dashboard;
use crate::core::problem::Problem;
use crate::core::state::State;
use crate::http::reply::{Reply, reply};

const HTML: &str = include_str!("../../assets/dashboard.html");
const STYLE: &str = include_str!("../../assets/dashboard.css");
const SCRIPT: &str = include_str!("../../assets/dashboard.js");

/// The page and its policy.
static PAGE: LazyLock<(Bytes, HeaderValue)> = LazyLock::new(|| {
    let page = HTML.replace("/*style*/", STYLE).replace("/*script*/", SCRIPT);
    let digest = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest(SCRIPT),
        digest(STYLE)
    );
    let policy = HeaderValue::from_str(&policy).expect("a policy is plain text");
    (page.into(), policy)
});

/// The page.
pub(crate) fn page() -> Reply {
    let (page, policy) = &*PAGE;
    let mut reply = reply(StatusCode::OK, "text/html; charset=utf-8", vec![page.clone()]);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

/// Its numbers. They are put together on a thread that may take its time.
pub(crate) async fn data(state: &Arc<State>, dashboard: &Arc<Dashboard>) -> Result<Reply, Problem> {
    let (server, dashboard) = (state.clone(), dashboard.clone());
    let work = move || dashboard.report(&server);
    let report = state.lanes.viewers().run(work).await?;
    let mut reply = reply(StatusCode::OK, "application/json", vec![report.into()]);
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply)
}
