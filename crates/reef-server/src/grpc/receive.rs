//! Messages on their way in: looked through, then built.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use hyper::HeaderMap;
use prost::Message;
use tonic::Status;
use tonic::codec::{CompressionEncoding, DecodeBuf, Decoder, Streaming};

use crate::core::budget::Share;
use crate::core::problem::Problem;
use crate::core::state::State;
use crate::grpc::meter::{Metered, Shares};
use crate::grpc::scan::{self, Rule};
use crate::grpc::status::{received, status};

/// The header that says how messages are packed.
const ENCODING: &str = "grpc-encoding";

/// The header with the time that the client gives the RPC.
const TIMEOUT: &str = "grpc-timeout";

/// Digits of a time at most.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// The messages of an RPC.
pub(crate) struct Messages<M> {
    stream: Streaming<M>,
    shares: Shares,
}

impl<M: Message + Default + 'static> Messages<M> {
    /// What `body` brings. `rules` bound what a message may hold.
    pub(crate) fn new(
        state: &Arc<State>,
        headers: &HeaderMap,
        body: Metered,
        rules: &'static [Rule],
    ) -> Result<Messages<M>, Status> {
        let encoding = encoding(headers)?;
        let shares = body.shares();
        let read = Read { state: state.clone(), shares: shares.clone(), rules, message: PhantomData };
        // Of what a packed message becomes, too.
        let bytes_max = body.bytes_max();
        let stream = Streaming::new_request(read, body, encoding, Some(bytes_max));
        Ok(Messages { stream, shares })
    }

    /// The next message and its part of the budget, which is to be let go when its bytes are.
    pub(crate) async fn next(&mut self) -> Result<Option<(M, Option<Share>)>, Status> {
        let message = self.stream.message().await.map_err(received)?;
        Ok(message.map(|message| (message, self.shares.take())))
    }

    /// The only message.
    pub(crate) async fn only(mut self) -> Result<(M, Option<Share>), Status> {
        let none = || status(Problem::invalid("the RPC has no message"));
        let message = self.next().await?.ok_or_else(none)?;
        match self.next().await? {
            None => Ok(message),
            Some(_) => Err(status(Problem::invalid("the RPC has more than one message"))),
        }
    }
}

/// How messages are packed.
fn encoding(headers: &HeaderMap) -> Result<Option<CompressionEncoding>, Status> {
    match headers.get(ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => Ok(None),
        Some(b"gzip") => Ok(Some(CompressionEncoding::Gzip)),
        Some(b"deflate") => Ok(Some(CompressionEncoding::Deflate)),
        Some(other) => {
            let other =
                crate::core::parameter::quoted(&String::from_utf8_lossy(other)).escape_debug().to_string();
            let unsupported = format!("grpc-encoding '{other}' is not supported: gzip and deflate are");
            Err(status(Problem::unsupported(unsupported)))
        }
    }
}

/// How long the client waits for the RPC's end.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let wrong = || status(Problem::invalid(format!("grpc-timeout {value:?} is not a time")));
    let text = value.to_str().map_err(|_| wrong())?;
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let digits = (1..=TIMEOUT_DIGITS_MAX).contains(&number.len());
    if !digits || !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(wrong()),
    }))
}

/// Reads one message.
struct Read<M> {
    state: Arc<State>,
    shares: Shares,
    rules: &'static [Rule],
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default + 'static> Decoder for Read<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        self.shares.cover(&self.state, bytes.remaining())?;
        // All of the message is in one piece.
        scan::check(bytes.chunk(), self.rules).map_err(status)?;
        let broken = |error| Problem::invalid(format!("the message cannot be read: {error}"));
        M::decode(bytes).map(Some).map_err(|error| status(broken(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn times_have_a_unit() {
        let read = |value| timeout(&headers(TIMEOUT, value));
        let seconds = Duration::from_secs;
        let table = [("1S", seconds(1)), ("2M", seconds(120)), ("99999999H", seconds(99_999_999 * 3_600))];
        let short =
            [("7m", Duration::from_millis(7)), ("8u", Duration::from_micros(8)), ("0n", Duration::ZERO)];
        for (value, time) in table.into_iter().chain(short) {
            assert_eq!(read(value).unwrap(), Some(time), "{value}");
        }
        for value in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S", "1SS"] {
            let error = read(value).unwrap_err();
            assert_eq!(error.code(), tonic::Code::InvalidArgument, "{value}");
        }
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn packing_that_is_unknown_is_named() {
        assert!(encoding(&headers(ENCODING, "gzip")).unwrap().is_some());
        assert!(encoding(&headers(ENCODING, "identity")).unwrap().is_none());
        let error = encoding(&headers(ENCODING, "snappy")).unwrap_err();
        assert!(error.code() == tonic::Code::Unimplemented && error.message().contains("'snappy'"));
    }
}
