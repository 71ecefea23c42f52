//! `reef serve --check`: what a server would be started with, and what is wrong with it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, bail};
use reef_server::ServerOptions;

use crate::cli::ServeArgs;
use crate::commands::serve;
use crate::config::Config;
use crate::config::keys::{Key, Kind};
use crate::output::say;
use crate::repository;

/// Prints every setting with its source, and everything that is wrong; an error if anything is.
pub fn run(args: &ServeArgs) -> Result<()> {
    let config = &serve::configured(args)?.0;
    print(config);
    let mut problems = Vec::new();
    let mut note = |result: Result<()>| problems.extend(result.err());
    note(crate::logs::filter(config.value("log")).map(drop));
    note(models(config));
    match config.server() {
        Ok(server) => {
            note(server.tls.as_ref().map_or(Ok(()), |tls| Ok(tls.check()?)));
            ports(&server).into_iter().for_each(&mut note);
        }
        Err(error) => note(Err(error)),
    }
    note(
        serve::device_args(config)
            .and_then(|args| crate::spec::pool(&args.device, &reef_cpu::allowed_cores()).map(drop)),
    );
    for problem in &problems {
        say!("# wrong: {}", crate::message(problem));
    }
    match problems.len() {
        0 => {
            say!("# all is well");
            Ok(())
        }
        count => bail!("{count} of the settings cannot be served with"),
    }
}

/// The settings as a file would have them.
fn print(config: &Config) {
    match config.file() {
        Some(path) => say!("# settings of {}", path.display()),
        None => say!("# there is no file of settings"),
    }
    for (key, values, source) in config.effective() {
        let text = written(key, values);
        // A key without a value is not there.
        let hidden = if values.is_empty() && !key.list { "# " } else { "" };
        say!("{hidden}{} = {text}  # {source}", key.name);
    }
    for client in config.clients() {
        say!(
            "# client {}: {} tokens, {:?}, may {:?} with {:?} at most",
            client.name,
            client.tokens.len(),
            client.certificates,
            client.allow,
            client.class_max
        );
    }
    for name in &config.unknown_variables {
        say!("# the variable {name} is not a setting");
    }
}

fn written(key: &Key, values: &[String]) -> String {
    let one = |value: &String| match key.kind {
        Kind::Whole { .. } | Kind::Seconds { .. } | Kind::Flag => value.clone(),
        _ => toml::Value::String(value.clone()).to_string(),
    };
    let values: Vec<String> = values.iter().map(one).collect();
    match key.list {
        true => format!("[{}]", values.join(", ")),
        false => values.join(""),
    }
}

/// The settings of every model.
fn models(config: &Config) -> Result<()> {
    let dir = config.models()?;
    let found = repository::scan(&dir, config.file())?;
    if found.models.is_empty() && config.value("model_control_mode") == "none" {
        bail!("{}: no models (NAME.onnx, NAME/model.onnx or NAME/1/model.onnx)", dir.display());
    }
    if let Some(name) = found.strangers.first() {
        bail!("settings for the model '{name}', but there is no such model in {}", dir.display());
    }
    for model in found.models.values() {
        if let Some(fault) = &model.fault {
            bail!("model {}: {fault}", model.name);
        }
        repository::settings(model)?;
        model.versions.iter().try_for_each(|version| readable(&version.path))?;
    }
    say!("# {} models in {}", found.models.len(), dir.display());
    Ok(())
}

fn readable(path: &Path) -> Result<()> {
    std::fs::File::open(path).map(drop).with_context(|| format!("cannot read {}", path.display()))
}

/// Whether the ports can be had.
fn ports(server: &ServerOptions) -> Vec<Result<()>> {
    let ports =
        [("http_port", Some(server.http)), ("grpc_port", server.grpc), ("metrics_port", server.metrics)];
    let ports: Vec<_> = ports.into_iter().filter_map(|(name, address)| Some((name, address?))).collect();
    let try_it = |(index, &(name, address)): (usize, &(&str, SocketAddr))| {
        let same = ports[..index].iter().find(|(_, other)| *other == address && address.port() != 0);
        if let Some((other, _)) = same {
            bail!("{other} and {name} are the same");
        }
        TcpListener::bind(address).map(drop).with_context(|| format!("cannot listen on {address}"))
    };
    ports.iter().enumerate().map(try_it).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;
    use crate::config::Given;
    use crate::config::keys::KEYS;

    /// Rows below a heading of docs/CONFIGURATION.md: what their first cell has between backquotes.
    fn documented(heading: &str) -> BTreeSet<String> {
        let page = include_str!("../../../../docs/CONFIGURATION.md");
        let section = page.split(&format!("\n## {heading}\n")).nth(1).expect("the heading is there");
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        rows.map(String::from).collect()
    }

    #[test]
    fn documentation_flags_and_keys_are_the_same() {
        let keys: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_string()).collect();
        assert_eq!(keys.len(), KEYS.len(), "a key is there twice");
        assert_eq!(documented("Keys of the server"), keys);
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        let flags = serve.get_arguments().filter_map(|argument| argument.get_long());
        let flags: BTreeSet<&str> =
            flags.filter(|flag| !["config", "check", "help"].contains(flag)).collect();
        let expected: Vec<String> = KEYS.iter().map(Key::flag).filter(|flag| flag != "models").collect();
        assert_eq!(flags, expected.iter().map(String::as_str).collect());
        for key in KEYS {
            key.default_values().iter().for_each(|value| key.kind.check(value).unwrap());
        }
    }

    #[test]
    fn the_tables_of_models_and_clients_are_documented() {
        // What serde says that it knows.
        let fields = |toml: &str| {
            let dir = std::env::temp_dir().join(format!("reef-check-fields-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("reef.toml"), toml).unwrap();
            std::fs::write(dir.join("m.onnx"), "").unwrap();
            let given = Given { config: Some(dir.join("reef.toml")), ..Given::default() };
            let mut found = repository::scan(&dir, None).unwrap();
            let fault = found.models.remove("m").and_then(|model| model.fault);
            let refused = || crate::message(&Config::load(&given, &BTreeMap::new()).unwrap_err());
            let error = fault.unwrap_or_else(refused);
            let known = error.split("expected one of ").nth(1).unwrap().split(';').next().unwrap();
            known.split(", ").map(|name| name.trim_matches('`').to_string()).collect::<BTreeSet<_>>()
        };
        assert_eq!(documented("A model"), fields("[model.m]\nnothing = 1"));
        assert_eq!(documented("A client"), fields("[client.c]\nnothing = 1"));
    }
}
