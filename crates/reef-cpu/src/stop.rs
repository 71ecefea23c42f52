//! Stopping a thread wherever it is: a signal whose handler waits until the thread may go on.
//!
//! The signal is SIGURG: ignored by default, so that one too many does no harm, and hardly used by anybody.
//! A thread that is not in [`with_handler`] passes it on to the handler that was there before.

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;

const SIGNAL: libc::c_int = libc::SIGURG;

/// What the handler does on a thread.
type Handler = *const (dyn Fn() + 'static);

thread_local! {
    // Without a destructor and constant, so that the handler may read it at any time.
    static HANDLER: Cell<Option<Handler>> = const { Cell::new(None) };
}

/// A thread that can be stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target(libc::pthread_t);

impl Target {
    /// The calling thread.
    #[allow(unsafe_code)]
    pub(crate) fn here() -> Target {
        // SAFETY: has no preconditions.
        Target(unsafe { libc::pthread_self() })
    }

    /// Makes the thread, which must not have been joined, run its handler.
    #[allow(unsafe_code)]
    pub(crate) fn knock(self) {
        // SAFETY: companions are joined only when nobody is left that knocks.
        let status = unsafe { libc::pthread_kill(self.0, SIGNAL) };
        debug_assert_eq!(status, 0, "the thread is there and the signal is valid");
    }
}

/// Installs the handler, once per process.
#[allow(unsafe_code)]
pub(crate) fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<i32> = OnceLock::new();
    let error = *INSTALLED.get_or_init(|| {
        // SAFETY: all fields of the structure may be zero; the handler is async-signal-safe: it calls what
        // `with_handler` was given, which takes no lock and allocates nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigemptyset(&mut action.sa_mask);
            let mut before: libc::sigaction = std::mem::zeroed();
            // Read first: the handler may be called before this function goes on.
            if libc::sigaction(SIGNAL, std::ptr::null(), &mut before) != 0 {
                return io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
            }
            let _ = BEFORE.set(before);
            match libc::sigaction(SIGNAL, &action, std::ptr::null_mut()) {
                0 => 0,
                _ => io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL),
            }
        }
    });
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// The handler that was there before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Runs `body` on a thread whose handler is `wait`, which must take no lock and allocate nothing.
#[allow(unsafe_code)]
pub(crate) fn with_handler(wait: &dyn Fn(), body: impl FnOnce()) {
    // SAFETY: only the lifetime changes; the pointer is used on this thread, inside of this function.
    let handler: Handler = unsafe { std::mem::transmute::<*const dyn Fn(), Handler>(wait) };
    let _reset = Reset;
    HANDLER.set(Some(handler));
    unblock();
    body();
}

/// Takes the handler away, also when `body` panics.
struct Reset;

impl Drop for Reset {
    fn drop(&mut self) {
        HANDLER.set(None);
    }
}

/// Threads inherit the mask of who starts them.
#[allow(unsafe_code)]
fn unblock() {
    // SAFETY: the set is initialised by `sigemptyset`.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
    }
}

#[allow(unsafe_code)]
extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno is the thread's own; the handler's pointer is valid while it is set; the earlier handler
    // is called as it was registered.
    unsafe {
        let errno = *libc::__errno_location();
        match HANDLER.get() {
            Some(handler) => (*handler)(),
            None => pass_on(signal, info, context),
        }
        *libc::__errno_location() = errno;
    }
}

/// Calls the handler that was there before.
///
/// # Safety
/// The arguments are those of a signal handler.
#[allow(unsafe_code)]
unsafe fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(before) = BEFORE.get() else { return };
    if before.sa_sigaction == libc::SIG_DFL || before.sa_sigaction == libc::SIG_IGN {
        return;
    }
    // SAFETY: `sa_flags` tells which of the two kinds of handler it is.
    unsafe {
        if before.sa_flags & libc::SA_SIGINFO != 0 {
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(before.sa_sigaction);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(libc::c_int) = std::mem::transmute(before.sa_sigaction);
            handler(signal);
        }
    }
}
