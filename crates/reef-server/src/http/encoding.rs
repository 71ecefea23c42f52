//! Content codings of HTTP: gzip and deflate, of bodies that arrive and of answers.
//!
//! Invariants: a body that is decompressed stays within the limits of one that came as it is, counted as its
//! bytes come out, so no few bytes become many; one that ends early, or goes on behind its end, is refused.
//! More than a little is neither compressed nor decompressed on a thread that serves connections, but in the
//! lanes.

use std::io::{self, BufRead, Read, Write};

use bytes::{Buf, Bytes};
use flate2::bufread::GzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compression, Decompress, FlushDecompress, Status};
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, VARY};
use hyper::{HeaderMap, StatusCode};
use reef_engine::Class;

use crate::core::budget::Share;
use crate::core::problem::Problem;
use crate::core::state::State;
use crate::http::error::ApiError;
use crate::http::protocol::body::Body;
use crate::http::reply::{Chunks, Reply};

/// Bytes, as they come out, up to which a body is decompressed where it arrived; and of compressed ones.
const INLINE_BYTES_MAX: usize = 32 << 10;

/// Bytes of an answer that are compressed where it was made.
const INLINE_ANSWER_BYTES_MAX: usize = 16 << 10;

/// Answers with fewer bytes are not compressed, unless the client takes them no other way.
const ANSWER_BYTES_MIN: usize = 1 << 10;

/// Bytes of one piece of a decompressed body.
const PIECE_BYTES: usize = 64 << 10;

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    /// With zlib's frame, as the standard says; without it, as some send it, in requests too.
    Deflate,
}

impl Coding {
    fn from_name(name: &str) -> Option<Coding> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Coding::Gzip),
            "deflate" => Some(Coding::Deflate),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }

    fn compress(self, chunks: impl IntoIterator<Item = Bytes>) -> io::Result<Vec<u8>> {
        match self {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                chunks.into_iter().try_for_each(|chunk| encoder.write_all(&chunk))?;
                encoder.finish()
            }
            Coding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                chunks.into_iter().try_for_each(|chunk| encoder.write_all(&chunk))?;
                encoder.finish()
            }
        }
    }
}

/// How the body of a request is compressed.
pub(crate) fn of_request(headers: &HeaderMap) -> Result<Option<Coding>, ApiError> {
    let mut found = None;
    for value in headers.get_all(CONTENT_ENCODING) {
        let unknown = || {
            ApiError::encoding(format!(
                "Content-Encoding {value:?} is not supported: one of gzip and deflate is, or identity"
            ))
        };
        let names = value.to_str().map_err(|_| unknown())?.split(',').map(str::trim);
        for name in names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity")) {
            let coding = Coding::from_name(name).filter(|_| found.is_none()).ok_or_else(unknown)?;
            found = Some(coding);
        }
    }
    Ok(found)
}

/// How a client takes answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    coding: Option<Coding>,
    /// Whether it takes them as they are.
    identity: bool,
}

impl Accepted {
    /// What the header `Accept-Encoding` says; of two that are as welcome gzip is taken.
    pub(crate) fn of(headers: &HeaderMap) -> Accepted {
        let (mut best, mut quality_max) = (None, 0.0);
        let (mut identity, mut others) = (None, None);
        let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        for item in values.flat_map(|value| value.split(',')) {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let (name, quality) = (name.trim(), quality(parameters));
            if name.eq_ignore_ascii_case("identity") {
                identity = Some(quality);
            } else if name == "*" {
                others = Some(quality);
            } else if let Some(coding) = Coding::from_name(name)
                && (quality > quality_max || (quality == quality_max && coding == Coding::Gzip))
                && quality > 0.0
            {
                (best, quality_max) = (Some(coding), quality);
            }
        }
        let unwanted = identity.is_some_and(|identity| identity > quality_max);
        let identity = identity.or(others).is_none_or(|quality| quality > 0.0);
        Accepted { coding: best.filter(|_| !unwanted), identity }
    }

    /// The same for an answer that is compressed only for who takes nothing else.
    pub(crate) fn at_need(self) -> Accepted {
        Accepted { coding: self.coding.filter(|_| !self.identity), ..self }
    }

    /// How an answer is compressed. Errors are not: clients that ask for tensors read them as they are.
    fn coding(self, status: StatusCode, bytes: usize) -> Option<Coding> {
        let worth_it = bytes >= ANSWER_BYTES_MIN || (!self.identity && bytes > 0);
        self.coding.filter(|_| worth_it && status.is_success())
    }
}

/// The parameter `q`; what is not a number means no.
fn quality(parameters: &str) -> f32 {
    let value = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
    value.map_or(1.0, |value| value.trim().parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0))
}

/// Compresses an answer as the client takes it.
pub(crate) async fn encoded(state: &State, accepted: Accepted, reply: Reply) -> Result<Reply, Problem> {
    let bytes = reply.body().len();
    let Some(coding) = accepted.coding(reply.status(), bytes) else { return Ok(reply) };
    let class = reply.extensions().get::<Class>().copied().unwrap_or(Class::BestEffort);
    let (mut head, body) = reply.into_parts();
    let compress = move || coding.compress(body.into_chunks());
    let compressed = match bytes <= INLINE_ANSWER_BYTES_MAX {
        true => compress(),
        false => state.lanes.of(class).run(compress).await?,
    };
    let compressed =
        compressed.map_err(|error| Problem::internal(format!("cannot compress the answer: {error}")))?;
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    head.headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    Ok(Reply::from_parts(head, Chunks::new(vec![compressed.into()])))
}

/// The bytes of a body that arrived compressed; `share` is what it has of the budget.
pub(crate) async fn decoded(
    state: &State,
    class: Class,
    coding: Coding,
    body: Body,
    bytes_max: usize,
    share: Option<Share>,
) -> Result<(Body, Option<Share>), ApiError> {
    let here = body.len() <= INLINE_BYTES_MAX;
    let mut inflate = Inflate::new(coding, body, bytes_max, share);
    if !here || !inflate.run(INLINE_BYTES_MAX)? {
        let finish = move || inflate.run(usize::MAX).map(|_| inflate);
        inflate = state.lanes.of(class).run(finish).await??;
    }
    Ok((inflate.out, inflate.share))
}

/// A body that is being decompressed.
struct Inflate {
    decoder: Decoder,
    out: Body,
    bytes_max: usize,
    share: Option<Share>,
    /// Compressed bytes that no longer count.
    given_back: usize,
}

impl Inflate {
    fn new(coding: Coding, body: Body, bytes_max: usize, share: Option<Share>) -> Inflate {
        let mut input = Compressed { body, front: Bytes::new(), taken: 0 };
        let decoder = match coding {
            Coding::Gzip => Decoder::Gzip(GzDecoder::new(input)),
            Coding::Deflate => {
                let zlib = input.begins_as_zlib();
                Decoder::Deflate { state: Decompress::new(zlib), input, ended: false }
            }
        };
        Inflate { decoder, out: Body::default(), bytes_max, share, given_back: 0 }
    }

    /// Goes on until `bytes` have come out, or the end, which it tells.
    fn run(&mut self, bytes: usize) -> Result<bool, ApiError> {
        while self.out.len() < bytes {
            let mut piece = vec![0; PIECE_BYTES];
            let mut len = 0;
            while len < piece.len() {
                match self.decoder.read(&mut piece[len..]).map_err(|error| damaged(&error))? {
                    0 => break,
                    count => len += count,
                }
            }
            if len == 0 {
                self.decoder.check_end()?;
                return Ok(true);
            }
            if len > self.bytes_max - self.out.len() {
                let bytes_max = self.bytes_max;
                return Err(ApiError::too_large(format!(
                    "the decompressed body has more than the allowed {bytes_max} bytes"
                )));
            }
            if let Some(share) = &mut self.share {
                let taken = self.decoder.taken();
                share.shrink(taken - self.given_back);
                self.given_back = taken;
                share.grow(len)?;
            }
            piece.truncate(len);
            piece.shrink_to_fit();
            self.out.push(piece.into());
        }
        Ok(false)
    }
}

fn damaged(error: &io::Error) -> ApiError {
    let problem = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends early".to_string(),
        _ => error.to_string(),
    };
    Problem::invalid(format!("the compressed body cannot be read: {problem}")).into()
}

enum Decoder {
    Gzip(GzDecoder<Compressed>),
    Deflate { state: Decompress, input: Compressed, ended: bool },
}

impl Decoder {
    /// The next bytes; none at the end, and only there.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (state, input, ended) = match self {
            Decoder::Gzip(decoder) => return decoder.read(out),
            Decoder::Deflate { state, input, ended } => (state, input, ended),
        };
        // The library's reader takes a stream that breaks off for one that has ended.
        while !*ended {
            let (read, written) = (state.total_in(), state.total_out());
            let available = input.fill_buf()?;
            let at_end = available.is_empty();
            let status = state.decompress(available, out, FlushDecompress::None)?;
            let (read, written) = (state.total_in() - read, state.total_out() - written);
            input.consume(read as usize);
            *ended = status == Status::StreamEnd;
            if written > 0 {
                return Ok(written as usize);
            }
            if !*ended && (at_end || read == 0) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }

    fn input(&self) -> &Compressed {
        match self {
            Decoder::Gzip(decoder) => decoder.get_ref(),
            Decoder::Deflate { input, .. } => input,
        }
    }

    fn taken(&self) -> usize {
        self.input().taken
    }

    /// Whether nothing follows the end.
    fn check_end(&self) -> Result<(), ApiError> {
        let Compressed { body, front, .. } = self.input();
        match body.len() + front.len() {
            0 => Ok(()),
            count => {
                let problem = format!("{count} bytes follow the end of the compressed body");
                Err(Problem::invalid(problem).into())
            }
        }
    }
}

/// Compressed bytes, from which decoders read.
struct Compressed {
    body: Body,
    front: Bytes,
    taken: usize,
}

impl Compressed {
    /// Whether the first two bytes are a header of zlib (RFC 1950): method, window, check bits, no
    /// dictionary.
    fn begins_as_zlib(&mut self) -> bool {
        if self.body.len() < 2 {
            return true;
        }
        let first = self.body.take(2);
        let (method, flags) = (first[0], first[1]);
        // In front of the rest again.
        self.front = first;
        let checked = u16::from_be_bytes([method, flags]).is_multiple_of(31);
        checked && method & 0xf == 8 && method >> 4 <= 7 && flags & 0x20 == 0
    }
}

impl BufRead for Compressed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.front.is_empty() {
            self.front = self.body.pop().unwrap_or_default();
        }
        Ok(&self.front)
    }

    fn consume(&mut self, count: usize) {
        self.front.advance(count);
        self.taken += count;
    }
}

impl Read for Compressed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// The bytes of a compressed body that arrived in pieces.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn inflate(
    coding: Coding,
    bytes: &[u8],
    piece: usize,
    bytes_max: usize,
) -> Result<Vec<u8>, ApiError> {
    let mut body = Body::default();
    bytes.chunks(piece).for_each(|piece| body.push(Bytes::copy_from_slice(piece)));
    let mut inflate = Inflate::new(coding, body, bytes_max, None);
    while !inflate.run(inflate.out.len() + 1)? {}
    Ok(inflate.out.take(inflate.out.len()).to_vec())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flate2::write::DeflateEncoder;
    use reef_base::Rng;

    use super::*;
    use crate::core::budget::Budget;

    fn headers(name: hyper::header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|value| _ = headers.append(&name, value.parse().unwrap()));
        headers
    }

    fn raw_deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn compressed(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        coding.compress([Bytes::copy_from_slice(bytes)]).unwrap()
    }

    /// Of every kind: what is sent, and what it means.
    fn samples() -> Vec<(Coding, Vec<u8>, Vec<u8>)> {
        let mut rng = Rng::new(3);
        let random: Vec<u8> = (0..200_000).map(|_| rng.next_u64() as u8).collect();
        let mut samples = Vec::new();
        for bytes in [b"".to_vec(), b"{}".to_vec(), vec![b' '; 300_000], random] {
            samples.push((Coding::Gzip, compressed(Coding::Gzip, &bytes), bytes.clone()));
            samples.push((Coding::Deflate, compressed(Coding::Deflate, &bytes), bytes.clone()));
            samples.push((Coding::Deflate, raw_deflate(&bytes), bytes));
        }
        samples
    }

    #[test]
    fn every_form_is_read_however_it_arrives() {
        for (coding, sent, bytes) in samples() {
            for piece in [1, 1000, 1 << 20] {
                assert_eq!(inflate(coding, &sent, piece, 1 << 20), Ok(bytes.clone()), "{coding:?} {piece}");
            }
        }
    }

    #[test]
    fn what_ends_early_or_goes_on_is_refused() {
        for (coding, sent, _) in samples() {
            let mut rng = Rng::new(5);
            for _ in 0..20 {
                let cut = rng.below(sent.len() as u64) as usize;
                let error = inflate(coding, &sent[..cut], 4096, 1 << 20).unwrap_err();
                assert_eq!(error.status, StatusCode::BAD_REQUEST, "{error:?}");
                assert!(error.message.contains("it ends early"), "{coding:?} at {cut}: {error:?}");
            }
            let error = inflate(coding, &[&sent[..], b"x"].concat(), 4096, 1 << 20).unwrap_err();
            assert!(error.message.contains("1 bytes follow the end"), "{error:?}");
        }
    }

    #[test]
    fn damaged_bytes_are_an_error_or_other_bytes() {
        let mut rng = Rng::new(7);
        let text: Vec<u8> = (0..20_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
        for coding in [Coding::Gzip, Coding::Deflate] {
            let sent = compressed(coding, &text);
            let mut refused = 0;
            for _ in 0..500 {
                let mut sent = sent.clone();
                let at = rng.below(sent.len() as u64) as usize;
                sent[at] ^= 1 << rng.below(8);
                // The header of gzip has bytes that mean nothing.
                match inflate(coding, &sent, 4096, 1 << 20) {
                    Ok(bytes) => assert_eq!(bytes, text, "a sum is checked"),
                    Err(error) => {
                        assert_eq!(error.status, StatusCode::BAD_REQUEST, "{error:?}");
                        refused += 1;
                    }
                }
            }
            assert!(refused > 450, "{refused}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_by_the_limit_and_by_the_budget() {
        let bomb = vec![0; 32 << 20];
        for coding in [Coding::Gzip, Coding::Deflate] {
            let sent = compressed(coding, &bomb);
            assert!(sent.len() < 1 << 20);
            let error = inflate(coding, &sent, 4096, 1 << 20).unwrap_err();
            assert_eq!(error.status, StatusCode::PAYLOAD_TOO_LARGE, "{error:?}");
            let budget = Arc::new(Budget::new(0, 2 << 20));
            let mut share = budget.share(Class::BestEffort);
            share.grow(sent.len()).unwrap();
            let body = Body::from(sent);
            let mut inflate = Inflate::new(coding, body, usize::MAX, Some(share));
            let error = inflate.run(usize::MAX).unwrap_err();
            assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE, "{error:?}");
            assert!(inflate.out.len() <= 2 << 20);
            drop(inflate);
            assert!(budget.share(Class::BestEffort).grow(2 << 20).is_ok(), "all is given back");
        }
    }

    #[test]
    fn a_body_of_the_largest_size_fits_the_budget_compressed_too() {
        let mut rng = Rng::new(3);
        let random: Vec<u8> = (0..1 << 20).map(|_| rng.next_u64() as u8).collect();
        let sent = compressed(Coding::Gzip, &random);
        let budget = Arc::new(Budget::new(0, random.len() + (PIECE_BYTES << 2)));
        let mut share = budget.share(Class::BestEffort);
        share.grow(sent.len()).unwrap();
        let mut body = Body::default();
        sent.chunks(8192).for_each(|piece| body.push(Bytes::copy_from_slice(piece)));
        let mut inflate = Inflate::new(Coding::Gzip, body, random.len(), Some(share));
        assert_eq!(inflate.run(usize::MAX), Ok(true));
        assert_eq!(inflate.out.take(random.len()), random);
    }

    #[test]
    fn the_coding_of_a_request_is_known_or_refused() {
        let of = |values: &[&str]| of_request(&headers(CONTENT_ENCODING, values));
        for none in [&[][..], &["identity"], &["", "Identity"]] {
            assert_eq!(of(none), Ok(None));
        }
        assert_eq!(of(&["GZip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["identity, x-gzip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["deflate"]), Ok(Some(Coding::Deflate)));
        for values in [&["br"][..], &["gzip, gzip"], &["gzip", "deflate"], &["zstd"], &["gzip;q=1"]] {
            let error = of(values).unwrap_err();
            assert_eq!(error.status.as_u16(), 415);
            assert!(error.message.contains("gzip and deflate"), "{error:?}");
        }
    }

    #[test]
    fn answers_are_compressed_as_clients_take_them() {
        let coding = |values: &[&str], bytes| {
            Accepted::of(&headers(ACCEPT_ENCODING, values)).coding(StatusCode::OK, bytes)
        };
        let (gzip, deflate) = (Some(Coding::Gzip), Some(Coding::Deflate));
        let table = [
            (&[][..], None),
            (&["identity"], None),
            (&["*"], None),
            (&["br, zstd"], None),
            (&["gzip"], gzip),
            (&["deflate"], deflate),
            (&["deflate, gzip, br"], gzip),
            (&["deflate", "gzip"], gzip),
            (&["gzip;q=0.5, deflate; q=0.8"], deflate),
            (&["gzip;q=0, deflate;q=0.1"], deflate),
            (&["gzip;q=0"], None),
            (&["gzip;q=x, gzip;q=7"], None),
            (&["identity, gzip;q=0.5"], None),
        ];
        for (values, expected) in table {
            assert_eq!(coding(values, 4096), expected, "{values:?}");
            assert_eq!(coding(values, 100), None, "{values:?}");
        }
        assert_eq!(coding(&["gzip, identity;q=0"], 100), gzip);
        assert_eq!(coding(&["gzip, *;q=0"], 100), gzip);
        let accepted = Accepted::of(&headers(ACCEPT_ENCODING, &["gzip"]));
        assert_eq!(accepted.coding(StatusCode::BAD_REQUEST, 4096), None);
    }
}
