//! The client for C: what `include/reef.h` declares. The header says what each call means; here pointers
//! become values and back.
//!
//! Invariants: every pointer is checked for null, no panic leaves (it would end the process), and an
//! error's text stays until the next call on the same connection.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::ptr::null;
use std::time::Duration;

use crate::client::{Client, Completion, Error, Model, Options, Slot, Terms};
use crate::protocol::{Class, OpenModel, Status, Token};
use crate::trace::TraceParent;

/// A connection and what was wrong last.
pub struct Reef {
    client: Option<Client>,
    error: CString,
    /// Why the server refused, if it did.
    status: Status,
    message: CString,
}

/// An input, as C says it.
#[repr(C)]
pub struct ReefInput {
    name: *const c_char,
    datatype: *const c_char,
    shape: *const usize,
    rank: usize,
}

/// An output that is wanted, as C says it.
#[repr(C)]
pub struct ReefWanted {
    name: *const c_char,
    bytes: usize,
}

/// What a request asks of the scheduler.
#[repr(C)]
pub struct ReefTerms {
    class: u32,
    priority: u16,
    has_deadline: u8,
    has_timeout: u8,
    deadline_us: u64,
    timeout_us: u64,
    traceparent: *const c_char,
}

/// A request has ended.
#[repr(C)]
pub struct ReefCompletion {
    slot: u32,
    status: u32,
    tag: u64,
    queue_ns: u64,
    compute_ns: u64,
    total_ns: u64,
    message: *const c_char,
    preempted: u8,
    late: u8,
}

/// An output.
#[repr(C)]
pub struct ReefOutput {
    data: *const u8,
    bytes: usize,
    shape: [usize; 8],
    rank: usize,
}

const OK: i32 = 0;
const NOTHING: i32 = 1;
const REFUSED: i32 = -1;
const GONE: i32 = -2;
const MISUSE: i32 = -3;

impl Reef {
    /// Runs `call` and keeps its error; what is returned in C stands for.
    fn call(&mut self, call: impl FnOnce(&mut Reef, &mut Client) -> Result<i32, Error>) -> i32 {
        let Some(mut client) = self.client.take() else { return GONE };
        self.status = Status::Done;
        let result = call(self, &mut client);
        self.client = Some(client);
        match result {
            Ok(code) => code,
            Err(error) => self.keep(&error),
        }
    }

    fn keep(&mut self, error: &Error) -> i32 {
        self.error = text(&error.to_string());
        self.status = match error {
            Error::Refused { status, .. } | Error::Dismissed { status, .. } => *status,
            _ => Status::Done,
        };
        match error {
            Error::Refused { .. } => REFUSED,
            Error::Gone(_) | Error::Dismissed { .. } | Error::Connect { .. } => GONE,
            Error::Misuse(_) => MISUSE,
        }
    }
}

/// Without the zero bytes that C takes for the end.
fn text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

/// The text at a pointer.
///
/// # Safety
/// It is null, or points to a text that a zero byte ends.
unsafe fn read_text<'a>(pointer: *const c_char) -> Result<&'a str, Error> {
    if pointer.is_null() {
        return Err(Error::Misuse("a text is missing"));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Error::Misuse("a text is not UTF-8"))
}

/// The row at a pointer.
///
/// # Safety
/// There are `count` elements, or none and a null pointer.
unsafe fn row<'a, T>(pointer: *const T, count: usize) -> Result<&'a [T], Error> {
    match (pointer.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Error::Misuse("a list is missing")),
        // SAFETY: the caller's promise.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(pointer, count) }),
    }
}

/// # Safety
/// `path` is null or a text that a zero byte ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_connect(path: *const c_char, depth: usize, tensor_bytes: usize) -> *mut Reef {
    // SAFETY: the caller's promise.
    unsafe { reef_connect_as(path, null(), depth, tensor_bytes) }
}

/// # Safety
/// `path` and `token` are null or texts that a zero byte ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_connect_as(
    path: *const c_char,
    token: *const c_char,
    depth: usize,
    tensor_bytes: usize,
) -> *mut Reef {
    let defaults = Options::default();
    let or = |value: usize, default| if value == 0 { default } else { value };
    let options = Options {
        depth: or(depth, defaults.depth),
        tensor_bytes: or(tensor_bytes, defaults.tensor_bytes),
        ..defaults
    };
    let connected = || {
        let token = match token.is_null() {
            true => None,
            // SAFETY: the caller's promise.
            false => Some(Token::from(unsafe { read_text(token) }?)),
        };
        // SAFETY: the caller's promise.
        let path = unsafe { read_text(path) }?;
        Client::connect(path, &Options { token, ..options })
    };
    let connected = connected();
    let (error, message) = (CString::default(), CString::default());
    let mut reef = Reef { client: None, error, status: Status::Done, message };
    match connected {
        Ok(client) => reef.client = Some(client),
        Err(error) => _ = reef.keep(&error),
    }
    Box::into_raw(Box::new(reef))
}

/// # Safety
/// `reef` is null or from `reef_connect`, and not closed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_is_connected(reef: *const Reef) -> i32 {
    // SAFETY: the caller's promise.
    i32::from(unsafe { reef.as_ref() }.is_some_and(|reef| reef.client.is_some()))
}

/// # Safety
/// `reef` is null or from `reef_connect`, and not closed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_error(reef: *const Reef) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { reef.as_ref() }.map_or(null(), |reef| reef.error.as_ptr())
}

/// # Safety
/// `reef` is null or from `reef_connect`, and not closed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_refusal(reef: *const Reef) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { reef.as_ref() }.map_or(Status::Done, |reef| reef.status) as u32
}

/// # Safety
/// `reef` is null or from `reef_connect`, and not closed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_connection(reef: *const Reef) -> u64 {
    // SAFETY: the caller's promise.
    let client = unsafe { reef.as_ref() }.and_then(|reef| reef.client.as_ref());
    client.map_or(0, Client::connection)
}

/// # Safety
/// `reef` is null or from `reef_connect`, and not closed yet; nothing of it is used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_close(reef: *mut Reef) {
    if !reef.is_null() {
        // SAFETY: the caller's promise; it came from a box.
        drop(unsafe { Box::from_raw(reef) });
    }
}

/// # Safety
/// `reef` is from `reef_connect`; texts end with a zero byte; lists have as many elements as is said.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)] // C has no builders.
pub unsafe extern "C" fn reef_open(
    reef: *mut Reef,
    name: *const c_char,
    version: *const c_char,
    inputs: *const ReefInput,
    input_count: usize,
    outputs: *const ReefWanted,
    output_count: usize,
    slots: usize,
) -> i32 {
    // SAFETY: the caller's promise.
    let Some(reef) = (unsafe { reef.as_mut() }) else { return MISUSE };
    reef.call(|_, client| {
        // SAFETY: the caller's promise.
        let mut open = OpenModel::new(unsafe { read_text(name) }?).slots(slots);
        if !version.is_null() {
            // SAFETY: the caller's promise.
            open.version = Some(unsafe { read_text(version) }?.into());
        }
        // SAFETY: the caller's promise.
        for input in unsafe { row(inputs, input_count) }? {
            // SAFETY: the caller's promise.
            let (name, datatype) = unsafe { (read_text(input.name)?, read_text(input.datatype)?) };
            // SAFETY: the caller's promise.
            open = open.input(name, datatype, unsafe { row(input.shape, input.rank) }?);
        }
        // SAFETY: the caller's promise.
        for output in unsafe { row(outputs, output_count) }? {
            // SAFETY: the caller's promise.
            let name = unsafe { read_text(output.name) }?;
            open = open.output(name, (output.bytes > 0).then_some(output.bytes));
        }
        let model = client.open(&open)?;
        i32::try_from(model.number()).map_err(|_| Error::Misuse("too many models"))
    })
}

/// # Safety
/// `reef` is from `reef_connect`; `slot` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_acquire(reef: *mut Reef, model: i32, slot: *mut u32) -> i32 {
    // SAFETY: the caller's promise.
    let (Some(reef), false) = (unsafe { reef.as_mut() }, slot.is_null()) else { return MISUSE };
    reef.call(|_, client| {
        let model = usize::try_from(model).map_err(|_| Error::Misuse("there is no such model"))?;
        let Some(acquired) = client.acquire(Model::from_number(model)) else { return Ok(NOTHING) };
        // SAFETY: the caller's promise.
        unsafe { slot.write(acquired.number()) };
        Ok(OK)
    })
}

/// # Safety
/// `reef` is from `reef_connect`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_release(reef: *mut Reef, slot: u32) -> i32 {
    // SAFETY: the caller's promise.
    let Some(reef) = (unsafe { reef.as_mut() }) else { return MISUSE };
    reef.call(|_, client| client.release(Slot::from_number(slot)).map(|()| OK))
}

/// # Safety
/// `reef` is from `reef_connect`; `data` and `bytes` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_input(
    reef: *mut Reef,
    slot: u32,
    index: usize,
    data: *mut *mut u8,
    bytes: *mut usize,
) -> i32 {
    // SAFETY: the caller's promise.
    let Some(reef) = (unsafe { reef.as_mut() }) else { return MISUSE };
    if data.is_null() || bytes.is_null() {
        return MISUSE;
    }
    reef.call(|_, client| {
        let input = client.input_mut(Slot::from_number(slot), index)?;
        // SAFETY: the caller's promise.
        unsafe {
            data.write(input.as_mut_ptr());
            bytes.write(input.len());
        }
        Ok(OK)
    })
}

/// # Safety
/// `reef` is from `reef_connect`; `terms` is null or can be read, and so can the text in it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_submit(reef: *mut Reef, slot: u32, terms: *const ReefTerms) -> i32 {
    // SAFETY: the caller's promise.
    let (Some(reef), terms) = (unsafe { (reef.as_mut(), terms.as_ref()) }) else { return MISUSE };
    reef.call(|_, client| {
        let terms = match terms {
            None => Terms::default(),
            Some(terms) => Terms {
                class: match terms.class {
                    0 => Class::Default,
                    1 => Class::RealTime,
                    2 => Class::BestEffort,
                    _ => return Err(Error::Misuse("there is no such class")),
                },
                priority: terms.priority,
                deadline_us: (terms.has_deadline != 0).then_some(terms.deadline_us),
                timeout_us: (terms.has_timeout != 0).then_some(terms.timeout_us),
                trace: match terms.traceparent.is_null() {
                    true => None,
                    // SAFETY: the caller's promise.
                    false => TraceParent::parse(unsafe { read_text(terms.traceparent) }?),
                },
            },
        };
        client.submit(Slot::from_number(slot), &terms).map(|_| OK)
    })
}

/// # Safety
/// `reef` is from `reef_connect`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_cancel(reef: *mut Reef, slot: u32) -> i32 {
    // SAFETY: the caller's promise.
    let Some(reef) = (unsafe { reef.as_mut() }) else { return MISUSE };
    reef.call(|_, client| client.cancel(Slot::from_number(slot)).map(|()| OK))
}

/// # Safety
/// `reef` is from `reef_connect`; `completion` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_wait(reef: *mut Reef, timeout_us: i64, completion: *mut ReefCompletion) -> i32 {
    // SAFETY: the caller's promise.
    let (Some(reef), false) = (unsafe { reef.as_mut() }, completion.is_null()) else { return MISUSE };
    reef.call(|reef, client| {
        let ended = match u64::try_from(timeout_us) {
            Ok(0) => client.poll()?,
            Ok(timeout) => client.wait(Some(Duration::from_micros(timeout)))?,
            Err(_) => client.wait(None)?,
        };
        let Some(ended) = ended else { return Ok(NOTHING) };
        reef.message = text(&ended.message);
        // SAFETY: the caller's promise.
        unsafe { completion.write(for_c(&ended, &reef.message)) };
        Ok(OK)
    })
}

fn for_c(ended: &Completion, message: &CString) -> ReefCompletion {
    ReefCompletion {
        slot: ended.slot.number(),
        status: ended.status as u32,
        tag: ended.tag,
        queue_ns: ended.queue_ns,
        compute_ns: ended.compute_ns,
        total_ns: ended.total_ns,
        message: if ended.status == Status::Done { null() } else { message.as_ptr() },
        preempted: ended.preempted.into(),
        late: ended.late.into(),
    }
}

/// # Safety
/// `reef` is from `reef_connect`; `output` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reef_output(
    reef: *mut Reef,
    slot: u32,
    index: usize,
    output: *mut ReefOutput,
) -> i32 {
    // SAFETY: the caller's promise.
    let (Some(reef), false) = (unsafe { reef.as_mut() }, output.is_null()) else { return MISUSE };
    reef.call(|_, client| {
        let found = client.output(Slot::from_number(slot), index)?;
        let (data, bytes) = (found.data.as_ptr(), found.data.len());
        // SAFETY: the caller's promise.
        unsafe { output.write(ReefOutput { data, bytes, shape: found.shape, rank: found.rank }) };
        Ok(OK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `include/reef.h` says a name stands for.
    fn in_header(name: &str) -> Option<i64> {
        let header = include_str!("../include/reef.h");
        let value = |line: &str| {
            let rest = line.trim().strip_prefix(name)?.strip_prefix(" = ")?;
            rest.split([',', ' ']).next()?.parse().ok()
        };
        header.lines().find_map(value)
    }

    #[test]
    fn the_header_has_every_code_with_its_number() {
        for status in Status::ALL {
            let name = format!("REEF_{}", status.name().to_uppercase());
            assert_eq!(in_header(&name), Some(i64::from(status as u32)), "{name}");
        }
        for (name, code) in [
            ("REEF_OK", OK),
            ("REEF_NOTHING", NOTHING),
            ("REEF_REFUSED", REFUSED),
            ("REEF_GONE", GONE),
            ("REEF_MISUSE", MISUSE),
        ] {
            assert_eq!(in_header(name), Some(code.into()), "{name}");
        }
        assert_eq!(in_header("REEF_NO_SUCH"), None);
    }
}
