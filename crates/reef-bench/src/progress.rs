//! The progress line of a long measurement: on a terminal a bar with the time left, elsewhere one line per
//! phase.

use std::io::IsTerminal;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How far a measurement is, for people. Writes to standard error only.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    lines: bool,
}

impl Progress {
    /// A progress line on standard error.
    pub fn on_stderr() -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style());
        Progress { bar, lines: !std::io::stderr().is_terminal() }
    }

    /// Says nothing.
    pub fn hidden() -> Progress {
        Progress { bar: ProgressBar::hidden(), lines: false }
    }

    /// How long everything will take, about.
    pub fn expect(&self, total: Duration) {
        self.bar.set_length(total.as_millis() as u64);
        self.bar.set_position(0);
        self.bar.reset_eta();
    }

    /// What is being done from now on.
    pub fn phase(&self, what: impl Into<String>) {
        let what = what.into();
        if self.lines {
            eprintln!("{what}");
        }
        self.bar.set_message(what);
        self.bar.tick();
    }

    /// Moves the line forward.
    pub fn advance(&self, time: Duration) {
        self.bar.inc(time.as_millis() as u64);
    }

    /// Waits `time` while the line moves.
    pub fn sleep(&self, time: Duration) {
        const STEP: Duration = Duration::from_millis(200);
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let step = left.min(STEP);
            thread::sleep(step);
            self.advance(step);
        }
    }

    /// Does `work` on another thread while the line moves for `time`, which it should take about.
    pub fn during<R: Send>(&self, time: Duration, work: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let working = scope.spawn(work);
            self.sleep(time);
            working.join().expect("measuring does not panic")
        })
    }

    /// Removes the line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{wide_bar:.cyan} {eta:>4}  {msg:44!}");
    style.expect("the template is valid").progress_chars("━╸ ")
}
