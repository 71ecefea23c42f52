//! Clients that keep the device busy while something else is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::BACK_OFF;
use crate::caller::{CallError, Caller};

/// Clients that ask again as soon as they are answered, until they are stopped or this is dropped.
#[derive(Debug)]
pub struct Background {
    stop: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<Result<(), CallError>>>,
}

impl Background {
    /// One client thread per caller.
    pub fn start(callers: Vec<Box<dyn Caller>>) -> Background {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |caller: Box<dyn Caller>| {
            let stop = stop.clone();
            thread::spawn(move || keep_asking(caller, &stop))
        };
        let clients = callers.into_iter().map(spawn).collect();
        Background { stop, clients }
    }

    /// Lets the clients finish their requests and ends them. An error is the first failure of one of them:
    /// the device was less busy than it should have been.
    pub fn stop(mut self) -> Result<(), CallError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), CallError> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |client: thread::JoinHandle<_>| client.join().expect("a caller does not panic");
        // All of them, also behind one that failed.
        self.clients.drain(..).map(join).fold(Ok(()), Result::and)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Who wants to know of failures has stopped it.
        let _ = self.end();
    }
}

fn keep_asking(mut caller: Box<dyn Caller>, stop: &AtomicBool) -> Result<(), CallError> {
    let mut seen = Ok(());
    while !stop.load(Ordering::Relaxed) {
        let answer = caller.call().map(|_| ());
        if answer.is_err() {
            thread::sleep(BACK_OFF);
        }
        seen = seen.and(answer);
    }
    seen
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::caller::Reply;
    use crate::caller::tests::fake;

    #[test]
    fn it_asks_until_it_is_stopped() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let load = Background::start(vec![fake(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Reply::default())
        })]);
        while asked.load(Ordering::Relaxed) < 3 {
            thread::yield_now();
        }
        load.stop().unwrap();
        let at_the_end = asked.load(Ordering::Relaxed);
        thread::sleep(BACK_OFF);
        assert_eq!(asked.load(Ordering::Relaxed), at_the_end);
    }

    #[test]
    fn one_failure_is_told_at_the_end_and_does_not_end_the_load() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let failing = fake(move || match count.fetch_add(1, Ordering::Relaxed) {
            0 => Err("the first".into()),
            _ => Ok(Reply::default()),
        });
        let load = Background::start(vec![failing, fake(|| Ok(Reply::default()))]);
        while asked.load(Ordering::Relaxed) < 3 {
            thread::yield_now();
        }
        assert_eq!(load.stop().unwrap_err().to_string(), "the first");
    }
}
