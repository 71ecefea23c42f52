//! `reef demo`: writes models, serves them to itself over HTTP, and compares the schemes.

use std::time::Duration;

use anyhow::{Context, Result};
use reef_bench::Progress;
use reef_bench::demo::{self, DemoOptions};
use reef_device::Scheme;
use reef_engine::{Engine, EngineOptions};
use reef_server::{Server, ServerOptions};

use crate::cli::DemoArgs;
use crate::device;
use crate::output::say;

/// Runs the demo, prints its table and says what it wrote.
pub fn run(args: &DemoArgs) -> Result<()> {
    let models = args.out.join("models");
    let trace = args.out.join("trace.json");
    let results = args.out.join("results.json");
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make the directory {}", args.out.display()))?;
    let progress = Progress::on_stderr();
    let specs = demo::write_models(&models, args.quick, &progress)?;
    let server = Server::bind(ServerOptions {
        http: ([127, 0, 0, 1], 0).into(),
        metrics: Some(([127, 0, 0, 1], 0).into()),
        ..ServerOptions::default()
    })?;
    let engine = Engine::over(vec![device::start(&args.device, Scheme::Reset)?], EngineOptions::default())?;
    for spec in specs {
        progress.phase(format!("loading {}", spec.key.name));
        engine.load(spec)?;
    }
    let running = server.start(engine.clone())?;
    let options = DemoOptions::new(args.quick, args.seconds, Some(trace.clone()));
    let report = demo::run(&options, &engine, running.http_addr(), &progress);
    running.shutdown(Duration::from_secs(1));
    let report = report?;
    report.write_json(&results)?;
    say!("{report}");
    match &report.trace_error {
        None => say!("timeline   {} (open it at https://ui.perfetto.dev)", trace.display()),
        Some(why) if trace.exists() => say!("timeline   none: {why}; what is there is of an earlier run"),
        Some(why) => say!("timeline   none: {why}"),
    }
    say!("results    {}", results.display());
    say!("serve these models:  reef serve {}", models.display());
    say!("serve your own:      reef serve DIR, with DIR/NAME.onnx and a DIR/reef.toml like that one");
    Ok(())
}
