//! `reef top`: a running server's models, as they are now.

mod sample;
mod view;

use std::time::Instant;

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::cli::TopArgs;
use crate::output::say;
use crate::remote::Remote;
use sample::{Row, Sample, rows};

/// Shows the server until a key ends it, or once.
pub fn run(args: &TopArgs) -> Result<()> {
    let remote = Remote::new(&args.remote)?;
    let first = Sample::parse(&remote.get("/metrics")?);
    if args.once {
        std::thread::sleep(args.interval);
        let second = Sample::parse(&remote.get("/metrics")?);
        for line in view::text(&rows(&first, &second, args.interval.as_secs_f64())) {
            say!("{line}");
        }
        return Ok(());
    }
    let mut terminal = ratatui::try_init()?;
    let ended = watch(&mut terminal, &remote, args, first);
    ratatui::restore();
    ended
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    remote: &Remote,
    args: &TopArgs,
    mut before: Sample,
) -> Result<()> {
    let mut since = Instant::now();
    let mut shown: Vec<Row> = rows(&before, &before, 1.0);
    let mut trouble: Option<String> = None;
    loop {
        terminal.draw(|frame| view::draw(frame, remote.url(), &shown, trouble.as_deref()))?;
        if ends_within(args.interval.saturating_sub(since.elapsed()))? {
            return Ok(());
        }
        if since.elapsed() < args.interval {
            continue;
        }
        // A server that restarts is waited for.
        match remote.get("/metrics") {
            Ok(text) => {
                let now = Sample::parse(&text);
                shown = rows(&before, &now, since.elapsed().as_secs_f64());
                (before, trouble) = (now, None);
            }
            Err(error) => trouble = Some(crate::message(&error)),
        }
        since = Instant::now();
    }
}

/// Whether a key that ends comes in this time; also ends early for what has the screen drawn anew.
fn ends_within(time: std::time::Duration) -> Result<bool> {
    if !event::poll(time)? {
        return Ok(false);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind == KeyEventKind::Press => {
            let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
            interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
        }
        _ => false,
    })
}
