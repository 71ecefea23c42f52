//! `reef sim plan`: how many devices a load needs, and which models go where.

use anyhow::{Context, Result, anyhow};
use reef_base::Nanos;
use reef_sim::fleet::Model;
use reef_sim::plan::{Attempt, Question, clients, devices, target};
use reef_sim::scenario::{constants, profile};
use serde_json::{Value, json};

use super::{client_head, client_json, client_line, read, used_json, workload};
use crate::cli::SimPlanArgs;
use crate::output::say;

/// Finds the answer and prints it, beside what one device less comes to.
pub fn run(args: &SimPlanArgs) -> Result<()> {
    let question = question(args)?;
    let answer = question.answer()?;
    let less = answer.minus_one.as_ref();
    if args.json {
        let json = json!({
            "devices": answer.found.devices,
            "binding": answer.binding.to_string(),
            "answer": attempt_json(&question, &answer.found),
            "minus_one": less.map(|attempt| attempt_json(&question, attempt)),
        });
        say!("{}", serde_json::to_string_pretty(&json)?);
        return Ok(());
    }
    say!("{} {} will do; binding is {}", answer.found.devices, plural(answer.found.devices), answer.binding);
    print(&question, &answer.found);
    if let Some(less) = less {
        let what = if less.meets() { "would do, too" } else { "will not do" };
        say!("");
        say!("{} {} {what}:", less.devices, plural(less.devices));
        print(&question, less);
    }
    Ok(())
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "device" } else { "devices" }
}

fn question(args: &SimPlanArgs) -> Result<Question> {
    let target = target(&args.target)?;
    let devices = devices(&args.devices)?;
    let workload = workload(&args.load)?;
    let model = |name: &&str| model(args, name);
    let models: Vec<Model> = workload.models_asked().iter().map(model).collect::<Result<_>>()?;
    Ok(Question {
        clients: clients(&workload, &models)?,
        models,
        constants: constants(&args.kind)?,
        memory_bytes: args.memory.map(|mib| mib << 20),
        target,
        devices,
        length: Nanos::from_millis(args.length * 1000),
        seed: args.seed,
    })
}

fn model(args: &SimPlanArgs, name: &str) -> Result<Model> {
    let path = args.profiles.join(format!("{name}.json"));
    let text = read(&path).map_err(|problem| anyhow!("model {name} has no profile: {problem}"))?;
    let (service, memory) =
        profile(&text).map_err(anyhow::Error::msg).with_context(|| format!("profile {}", path.display()))?;
    if args.memory.is_some() && memory.is_none() {
        let path = path.display();
        return Err(anyhow!("profile {path}: there is no memory_bytes, which --memory compares"));
    }
    Ok(Model { name: name.into(), service, memory_bytes: memory.unwrap_or(0), weight: 1 })
}

fn names<'a>(question: &'a Question, models: &[usize]) -> Vec<&'a str> {
    models.iter().map(|&model| &question.models[model].name[..]).collect()
}

fn print(question: &Question, attempt: &Attempt) {
    let Some(report) = &attempt.report else {
        say!("the memory of the models does not fit");
        return;
    };
    for (at, (models, used)) in attempt.placement.iter().zip(&report.used).enumerate() {
        let busy = 100.0 * used.utilisation(report.length);
        let real_time = 100.0 * used.real_time.0 as f64 / report.length.0 as f64;
        let names = names(question, models).join(", ");
        say!("  device {at}: {busy:5.1}% in use, {real_time:5.1}% real-time: {names}");
    }
    say!("  {}", client_head());
    for (index, (client, came)) in question.clients.iter().zip(&report.clients).enumerate() {
        let mark = if attempt.failing.contains(&index) { "!" } else { " " };
        say!("{mark} {}", client_line(client, came));
    }
}

fn attempt_json(question: &Question, attempt: &Attempt) -> Value {
    let Some(report) = &attempt.report else {
        return json!({ "devices": attempt.devices, "meets": false, "fits": false });
    };
    let placed = attempt.placement.iter().zip(&report.used).enumerate();
    let device = |(at, (models, used)): (usize, (&Vec<usize>, _))| {
        let mut json = used_json(&at.to_string(), used, report.length);
        json["models"] = json!(names(question, models));
        json
    };
    let clients = question.clients.iter().zip(&report.clients).enumerate();
    let client = |(index, (client, came))| {
        let mut json = client_json(client, came);
        json["meets"] = json!(!attempt.failing.contains(&index));
        json
    };
    json!({
        "devices": attempt.devices,
        "meets": attempt.meets(),
        "fits": true,
        "placement": placed.map(device).collect::<Vec<_>>(),
        "clients": clients.map(client).collect::<Vec<_>>(),
    })
}
