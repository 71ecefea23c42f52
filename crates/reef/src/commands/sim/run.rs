//! `reef sim run`: a scenario, request by request.

use std::fs::OpenOptions;
use std::path::Path;

use anyhow::{Context, Result};
use reef_base::Nanos;
use reef_report::page::{Block, Page, Section};
use reef_report::table::{Cell, Head, Row, Table};
use reef_sim::fleet::{Report, Used, simulate};
use reef_sim::scenario::Scenario;
use serde_json::json;

use super::{client_head, client_json, client_line, ms, read, used_json};
use crate::cli::SimRunArgs;
use crate::output::say;

/// Devices that are printed one by one; of more the extremes are.
const LISTED_MAX: usize = 32;

/// Plays the scenario and prints what came of it.
pub fn run(args: &SimRunArgs) -> Result<()> {
    let folder = args.scenario.parent().unwrap_or(Path::new(""));
    let text = read(&args.scenario).map_err(anyhow::Error::msg)?;
    let name = args.scenario.display().to_string();
    let scenario = Scenario::parse(&text, &name, &|path| read(&folder.join(path)))?;
    if let Some(path) = &args.page {
        // Known before a long run, not after it.
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        opened.with_context(|| format!("cannot write {}", path.display()))?;
    }
    let report = simulate(&scenario.fleet, scenario.length, args.seed);
    if let Some(path) = &args.page {
        let html = page(&scenario, &report, args.seed).html();
        std::fs::write(path, html).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        say!("{}", serde_json::to_string_pretty(&as_json(&scenario, &report, args.seed))?);
    } else {
        print(&scenario, &report);
    }
    Ok(())
}

/// The devices that are shown, with their names: all, or the least used, the middle one and the most used.
fn shown<'a>(scenario: &Scenario, report: &'a Report) -> Vec<(String, &'a Used)> {
    let devices = &scenario.fleet.devices;
    let name = |at: usize| match scenario.fleet.engines {
        1 => devices[at].name.clone(),
        _ => format!("engine {} {}", at / devices.len(), devices[at % devices.len()].name),
    };
    let mut all: Vec<usize> = (0..report.used.len()).collect();
    if all.len() <= LISTED_MAX {
        return all.into_iter().map(|at| (name(at), &report.used[at])).collect();
    }
    let busy = |at: &usize| {
        let Used { real_time, best_effort, switching, .. } = report.used[*at];
        (real_time + best_effort + switching, *at)
    };
    all.sort_unstable_by_key(busy);
    let few = [("least used", 0), ("median", all.len() / 2), ("most used", all.len() - 1)];
    few.map(|(which, rank)| (format!("{which}: {}", name(all[rank])), &report.used[all[rank]])).into()
}

fn shares(used: &Used, length: Nanos) -> [f64; 4] {
    let share = |time: Nanos| 100.0 * time.0 as f64 / length.0 as f64;
    let parts = [used.real_time, used.best_effort, used.switching].map(share);
    [100.0 * used.utilisation(length), parts[0], parts[1], parts[2]]
}

fn print(scenario: &Scenario, report: &Report) {
    let (name, length) = (&scenario.name, ms(scenario.length) / 1e3);
    say!("{name}: {length} s on {} devices, {} requests", report.used.len(), report.ended());
    say!("{}", client_head());
    for (client, came) in scenario.fleet.clients.iter().zip(&report.clients) {
        say!("{}", client_line(client, came));
    }
    say!("{:40} {:>7} {:>10} {:>12} {:>10}", "device", "in use", "real-time", "best-effort", "switching");
    for (name, used) in shown(scenario, report) {
        let [all, real_time, best_effort, switching] = shares(used, report.length);
        say!("{name:40} {all:>6.1}% {real_time:>9.1}% {best_effort:>11.1}% {switching:>9.1}%");
    }
}

fn as_json(scenario: &Scenario, report: &Report, seed: u64) -> serde_json::Value {
    let clients = scenario.fleet.clients.iter().zip(&report.clients);
    let clients: Vec<_> = clients.map(|(client, came)| client_json(client, came)).collect();
    let devices = shown(scenario, report);
    let devices: Vec<_> = devices.iter().map(|(name, used)| used_json(name, used, report.length)).collect();
    json!({
        "name": scenario.name,
        "length_s": ms(scenario.length) / 1e3,
        "seed": seed,
        "engines": scenario.fleet.engines,
        "devices_in_all": report.used.len(),
        "requests": report.ended(),
        "clients": clients,
        "devices": devices,
    })
}

fn page(scenario: &Scenario, report: &Report, seed: u64) -> Page {
    let length = ms(scenario.length) / 1e3;
    let all = format!("{length} s on {} devices, seed {seed}", report.used.len());
    let about = match scenario.title.is_empty() {
        true => all,
        false => format!("{}; {all}", scenario.title),
    };
    Page {
        title: format!("{}: a simulated fleet", scenario.name),
        eyebrow: "reef sim run: devices in virtual time, at the level of tasks".into(),
        heading: scenario.name.clone(),
        head: vec![Block::lead(about)],
        sections: vec![
            Section::new("clients", "Clients", vec![Block::Table(clients_table(scenario, report))]),
            Section::new("devices", "Devices", vec![Block::Table(devices_table(scenario, report))]),
        ],
    }
}

fn clients_table(scenario: &Scenario, report: &Report) -> Table {
    let heads = vec![
        Head::Text("client"),
        Head::Text("class"),
        Head::Text("arrivals"),
        Head::Number("answers"),
        Head::Number("p50 ms"),
        Head::Number("p99 ms"),
        Head::Number("max ms"),
        Head::Number("deadlines missed"),
        Head::Number("refused, stopped or not sent"),
    ];
    let row = |(client, came): (&reef_sim::fleet::Client, &reef_sim::fleet::ClientReport)| {
        let time = |time: Nanos| Cell::number(format!("{:.3}", ms(time)));
        Row::new(vec![
            Cell::text(&client.name),
            Cell::text(client.class.name()),
            Cell::text(&client.arrivals),
            Cell::number(came.completed),
            time(came.latency.per_mille(500)),
            time(came.latency.per_mille(990)),
            time(came.latency.max()),
            Cell::number(client.deadline.map_or("-".into(), |_| came.missed.to_string())),
            Cell::number(came.ended() - came.completed),
        ])
    };
    let rows = scenario.fleet.clients.iter().zip(&report.clients).map(row).collect();
    Table { heads, rows }
}

fn devices_table(scenario: &Scenario, report: &Report) -> Table {
    let names = ["in use %", "real-time %", "best-effort %", "switching %"];
    let heads = [Head::Text("device")].into_iter().chain(names.map(Head::Number)).collect();
    let row = |(name, used): (String, &Used)| {
        let parts = shares(used, report.length).map(|share| Cell::number(format!("{share:.1}")));
        Row::new([Cell::text(name)].into_iter().chain(parts).collect())
    };
    Table { heads, rows: shown(scenario, report).into_iter().map(row).collect() }
}
