//! What the headers of a request show of who asks, over HTTP and gRPC alike.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use crate::core::problem::Problem;

/// What stands before a bearer token.
const BEARER: &str = "Bearer ";

/// The header of API keys.
const API_KEY: &str = "x-api-key";

/// The bearer token or API key that a request shows. Where nobody asks for one, something else may be shown:
/// it is for somebody before this server.
pub(crate) fn token(headers: &HeaderMap, asked: bool) -> Result<Option<&[u8]>, Problem> {
    match shown(headers) {
        Err(_) if !asked => Ok(None),
        shown => shown,
    }
}

fn shown(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let bearer = headers.get_all(AUTHORIZATION).iter().map(|value| {
        let scheme = value.as_bytes().split_at_checked(BEARER.len());
        let token = scheme.and_then(|(scheme, token)| {
            scheme.eq_ignore_ascii_case(BEARER.as_bytes()).then(|| token.trim_ascii())
        });
        token.ok_or_else(|| Problem::unauthenticated("only bearer tokens are taken in Authorization"))
    });
    let keys = headers.get_all(API_KEY).iter().map(|value| Ok(value.as_bytes().trim_ascii()));
    let mut shown = bearer.chain(keys);
    let first = shown.next().transpose()?;
    match shown.next() {
        None => Ok(first),
        // Which one was meant is not for us to choose.
        Some(_) => Err(Problem::unauthenticated("more than one token is shown")),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::core::problem::Kind;

    #[test]
    fn one_token_is_shown_or_none() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.append(*name, HeaderValue::from_static(value));
            }
            map
        };
        let table: [(&[_], Option<&[u8]>); 5] = [
            (&[], None),
            (&[("authorization", "Bearer abc")], Some(b"abc")),
            (&[("authorization", "bEARER   abc ")], Some(b"abc")),
            (&[("x-api-key", "abc")], Some(b"abc")),
            (&[("authorization", "Bearer ")], Some(b"")),
        ];
        for (pairs, expected) in table {
            assert_eq!(token(&headers(pairs), true), Ok(expected), "{pairs:?}");
        }
        let wrong: [&[_]; 5] = [
            &[("authorization", "Basic YTpi")],
            &[("authorization", "")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer a"), ("authorization", "Bearer a")],
            &[("authorization", "Bearer a"), ("x-api-key", "a")],
        ];
        for pairs in wrong {
            let headers = headers(pairs);
            assert_eq!(token(&headers, true).unwrap_err().kind, Kind::Unauthenticated, "{pairs:?}");
            assert_eq!(token(&headers, false), Ok(None), "{pairs:?}");
        }
    }
}
