//! Sources and their order, what is refused and where.

use super::*;

fn directory(name: &str, toml: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("reef-config-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("reef.toml"), toml).unwrap();
    dir
}

fn load(dir: &Path, flags: &[(&'static str, &str)], variables: &[(&str, &str)]) -> Result<Config> {
    let mut given = Given::default();
    given.flags.insert("models", vec![dir.to_str().unwrap().to_string()]);
    for (name, value) in flags {
        given.flags.entry(name).or_default().push(value.to_string());
    }
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Config::load(&given, &variables.collect())
}

fn error(toml: &str) -> String {
    let dir = directory("error", toml);
    let loaded = load(&dir, &[], &[]).and_then(|config| config.server().map(drop));
    let text = crate::message(&loaded.unwrap_err());
    text.replace(dir.to_str().unwrap(), "DIR")
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let dir = directory("order", "# first\nhttp_port = 1\nio_threads = 5\ndrain_timeout = 0.5\n");
    let source = |flags: &[(&'static str, &str)], variables: &[(&str, &str)], name: &str| {
        let config = load(&dir, flags, variables).unwrap();
        let (_, values, source) = config.effective().find(|(key, ..)| key.name == name).unwrap();
        (values.join(" "), source.to_string().replace(dir.to_str().unwrap(), "DIR"))
    };
    let pair = |value: &str, source: &str| (value.to_string(), source.to_string());
    let variable = [("REEF_HTTP_PORT", "2")];
    assert_eq!(source(&[("http_port", "3")], &variable, "http_port"), pair("3", "--http-port"));
    assert_eq!(source(&[], &variable, "http_port"), pair("2", "REEF_HTTP_PORT"));
    assert_eq!(source(&[], &[], "http_port"), pair("1", "DIR/reef.toml:2"));
    assert_eq!(source(&[], &[], "metrics_port"), pair("8002", "default"));
    let config = load(&dir, &[], &[("REEF_DEVICES", "cpu:0,1; cpu:2")]).unwrap();
    assert_eq!(config.devices().unwrap().len(), 2);
    assert_eq!(config.server().unwrap().threads, 5);
    assert_eq!(config.drain_timeout(), Duration::from_millis(500));
}

#[test]
fn a_file_may_lie_elsewhere_and_names_paths_from_there() {
    let dir = directory("elsewhere", "models = \"m\"\ntls_certificate = \"c.pem\"\ntls_key = \"/k.pem\"");
    let given = Given { config: Some(dir.join("reef.toml")), ..Given::default() };
    let config = Config::load(&given, &BTreeMap::new()).unwrap();
    assert_eq!(config.models().unwrap(), dir.join("m"));
    let tls = config.server().unwrap().tls.unwrap();
    assert_eq!((tls.certificate, tls.key), (dir.join("c.pem"), PathBuf::from("/k.pem")));
    let none = Given { config: Some(dir.join("none.toml")), ..Given::default() };
    assert!(Config::load(&none, &BTreeMap::new()).unwrap_err().to_string().contains("none.toml"));
    let variables = [("REEF_CONFIG".to_string(), dir.join("reef.toml").to_str().unwrap().to_string())];
    assert!(Config::load(&Given::default(), &variables.into_iter().collect()).unwrap().file().is_some());
    let nothing = Config::load(&Given::default(), &BTreeMap::new()).unwrap();
    assert!(nothing.models().unwrap_err().to_string().contains("which models?"));
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let table = [
        ("\nhttp_prot = 1", "DIR/reef.toml:2: there is no key 'http_prot'; did you mean 'http_port'?"),
        ("[clients.a]", "DIR/reef.toml:1: there is no key 'clients'; did you mean 'client'?"),
        ("zzzzzz = 1", "DIR/reef.toml:1: there is no key 'zzzzzz'"),
        ("http_port = \"1\"", "DIR/reef.toml:1: http_port: this takes a whole number"),
        ("http_port = 65536", "DIR/reef.toml:1: http_port: 65536 is not in 0..=65535"),
        ("http_port = 99999999999999999999", "DIR/reef.toml:1: http_port: this number is too large"),
        ("http_port = [1]", "DIR/reef.toml:1: http_port: this takes a whole number"),
        ("drain_timeout = -1", "DIR/reef.toml:1: drain_timeout: 0 to 1000000 seconds"),
        ("drain_timeout = nan", "DIR/reef.toml:1: drain_timeout: 0 to 1000000 seconds"),
        ("idle_timeout = 0", "DIR/reef.toml:1: idle_timeout: 0.001 to 1000000 seconds"),
        ("address = \"here\"", "DIR/reef.toml:1: address: 'here' is not an IP address"),
        ("log_format = \"xml\"", "DIR/reef.toml:1: log_format: 'xml': there are text, json"),
        ("public = \"health\"", "DIR/reef.toml:1: public: this takes a list"),
        ("otlp_endpoint = \"localhost:4318\"", "does not begin with http://"),
        ("a = 1\nhttp_port = 1\nhttp_port = 2", "DIR/reef.toml:3: duplicate key"),
        ("tls_key = \"k\"", "need tls_certificate"),
        ("tls_certificate = \"c\"", "tls_certificate needs tls_key"),
        ("tls_client_certificates = \"required\"", "needs tls_client_ca"),
        ("[client.a]", "client.a: it has no credentials"),
        ("[client.a]\ntokn = \"x\"", "DIR/reef.toml:2: unknown field `tokn`"),
        ("[client.a]\ntoken = \"short\"", "client.a: token: a token has at least 16 letters"),
        ("[client.a]\ntoken_sha256 = [\"12\"]", "client.a: token_sha256: a SHA-256 digest has 64"),
        ("[client.a]\ntoken_file = \"none\"", "client.a: token_file: cannot read DIR/none"),
        ("[client.a]\ntoken_variable = \"NONE\"", "client.a: token_variable: there is no variable NONE"),
        ("[client.a]\ncertificates = [\"t\"]", "neither a subject"),
        ("[client.a]\ncertificates = [\"dns:t\"]", "client.a: certificates need tls_client_ca"),
    ];
    for (toml, expected) in table {
        let error = error(toml);
        assert!(error.contains(expected), "{toml}: {error}");
    }
    assert!(error("[client.a]\ntokn = \"x\"").contains("did you mean 'token'?"));
    let with = |line: &str| error(&format!("[client.a]\ntoken = \"0123456789abcdef\"\n{line}"));
    for (line, expected) in [
        ("class = \"urgent\"", "there are \"real-time\" and \"best-effort\""),
        ("class = \"best-effort\"\nlevel = 1", "level needs"),
        ("level = 99", "no such level"),
        ("allow = [\"all\"]", "there are infer, metrics, admin"),
        ("requests_per_s = 0", "0.000001 to"),
        ("requests_per_s = nan", "0.000001 to"),
        ("burst = 3", "burst means something"),
        ("max_in_flight = 0", "1 at least"),
        ("[client.b]\ntoken = \"0123456789abcdef\"", "'a' and 'b' have the same token"),
    ] {
        let error = with(line);
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn no_error_says_a_secret() {
    for toml in [
        "[client.a]\ntoken = sekret-without-quotes",
        "[client.a]\ntoken = \"sekret-without-an-end",
        "[client.a]\ntoken = [\"sekret-in-a-list-1\"]",
        "[client.a]\ntoken = \"sekret\"",
        "[client.a]\ntoken = \"sekret with spaces in it\"",
        "[client.a]\nno_key = \"sekret-of-no-key-01\"",
        "[client]\ntoken = \"sekret-in-the-wrong-table\"",
    ] {
        let error = error(toml);
        assert!(!error.contains("sekret"), "{toml}: {error}");
    }
}

#[test]
fn clients_are_read_with_tokens_from_everywhere() {
    let toml = "[client.a]\ntoken_file = \"tokens\"\ntoken_variable = \"A_TOKEN\"\nclass = \"best-effort\"\n\
                models = [\"x-*\"]\nrequests_per_s = 2.5\nallow = [\"infer\", \"metrics\"]\n\
                max_in_flight = 4\n";
    let dir = directory("clients", toml);
    std::fs::write(dir.join("tokens"), "first-token-of-a-client\n\n  second-token-of-a-client \n").unwrap();
    let config = load(&dir, &[], &[("A_TOKEN", "third-token-of-a-client\n")]).unwrap();
    let [client] = config.clients() else { panic!("one client") };
    let in_file = client.token_file.as_ref().map_or(0, |file| file.tokens().len());
    assert_eq!((&*client.name, client.tokens.len(), in_file, client.in_flight_max), ("a", 1, 2, Some(4)));
    assert_eq!(client.class_max, reef_base::Class::BestEffort);
    std::fs::write(dir.join("tokens"), "\n").unwrap();
    assert!(load(&dir, &[], &[("A_TOKEN", "third-token-of-a-client")]).is_err());
}

#[test]
fn variables_that_are_no_keys_are_found() {
    let dir = directory("variables", "");
    let config = load(&dir, &[], &[("REEF_HTPP_PORT", "1"), ("REEF_LOG", "warn"), ("OTHER", "")]).unwrap();
    assert_eq!(config.unknown_variables, ["REEF_HTPP_PORT"]);
    let error = load(&dir, &[], &[("REEF_HTTP_PORT", "tcp://10.0.0.1:80")]).unwrap_err();
    assert!(error.to_string().starts_with("REEF_HTTP_PORT: 'tcp"), "{error}");
}

/// Whatever a file became, it is read or refused.
#[test]
fn damaged_files_never_panic() {
    let good = "http_port = 1\npublic = [\"health\"]\ndevices = [\"cpu:0\"]\ndrain_timeout = 1.5\n\
                [client.a]\ntoken = \"0123456789abcdef\"\nlevel = 3\n[client.b]\nallow = []\n";
    let dir = directory("damaged", good);
    let (mut read, mut refused) = (0, 0);
    for at in 0..good.len() {
        for byte in [b' ', b'\n', b'"', b'9', b'[', 0xFF] {
            let mut bytes = good.as_bytes().to_vec();
            bytes[at] = byte;
            std::fs::write(dir.join("reef.toml"), &bytes).unwrap();
            let used = load(&dir, &[], &[]).and_then(|config| config.server().and(config.devices()));
            *(if used.is_ok() { &mut read } else { &mut refused }) += 1;
        }
    }
    assert!(refused > 100, "{read} read, {refused} refused");
}
