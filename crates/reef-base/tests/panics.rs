//! Which panics are printed: alone in a process, because the hook is the process's, and other tests panic
//! too.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use reef_base::panics::catch;

static PRINTED: AtomicUsize = AtomicUsize::new(0);

/// One test, because the hook is the process's.
#[test]
fn panics_inside_are_values_and_all_others_are_printed() {
    std::panic::set_hook(Box::new(|_| {
        PRINTED.fetch_add(1, Ordering::Relaxed);
    }));
    assert_eq!(catch(|| 7), Ok(7));
    let caught = catch(|| panic!("at {}", 7)).map(|()| 0).unwrap_err();
    assert_eq!(caught.message, "at 7");
    assert!(caught.location.as_ref().is_some_and(|at| at.starts_with("panics.rs:")), "{caught}");
    let nested = catch(|| {
        let _ = catch(|| panic!("inner"));
        panic!("outer")
    });
    assert_eq!(nested.map(|()| 0).unwrap_err().message, "outer");
    assert_eq!(PRINTED.load(Ordering::Relaxed), 0);

    let foreign = catch(|| std::thread::spawn(|| panic!("another thread's")).join().is_err());
    assert_eq!(foreign, Ok(true));
    assert_eq!(PRINTED.load(Ordering::Relaxed), 1, "that panic was not caught here");
    let _ = catch_unwind(|| panic!("outside"));
    assert_eq!(PRINTED.load(Ordering::Relaxed), 2);

    let caught = catch(|| std::panic::panic_any(Bomb)).map(|()| 0).unwrap_err();
    assert_eq!(caught.message, "without a message");
    assert_eq!(PRINTED.load(Ordering::Relaxed), 2);
    let _ = std::panic::take_hook();
}

/// A payload that panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}
