//! Workloads: what is refused, what is built in, what scaling keeps.

use super::*;

fn parse(text: &str) -> Result<Workload, WorkloadError> {
    let file = |path: &Path| match path.to_str() {
        Some("t.json") => {
            Ok(r#"{"duration_s": 2, "unit": "ms", "arrivals": {"x": [0, 500, 1999, 2000, 3000]}}"#
                .to_string())
        }
        _ => Err("no such file".to_string()),
    };
    Workload::parse(text, "test", &file)
}

fn one(client: &str) -> Result<Workload, WorkloadError> {
    parse(&format!("name = \"w\"\n[[client]]\nmodel = \"m\"\nclass = \"real-time\"\n{client}"))
}

#[test]
fn what_cannot_be_played_is_named() {
    let periodic = "arrivals = { kind = \"periodic\", rate_hz = 5 }";
    let cases = [
        ("arrivals = { kind = \"periodic\", rate_hz = 0 }".to_string(), "rate_hz is 0"),
        ("arrivals = { kind = \"periodic\", rate_hz = nan }".to_string(), "rate_hz is NaN"),
        ("arrivals = { kind = \"periodic\", rate_hz = 5, phase = 1.0 }".to_string(), "phase is 1"),
        ("arrivals = { kind = \"periodic\" }".to_string(), "rate_hz"),
        ("arrivals = { kind = \"sometimes\" }".to_string(), "sometimes"),
        ("arrivals = { kind = \"trace\", file = \"t.json\", track = \"y\" }".to_string(), "'y'; there are x"),
        ("arrivals = { kind = \"trace\", file = \"u.json\", track = \"y\" }".to_string(), "no such file"),
        ("arrivals = { kind = \"after\", client = \"z\" }".to_string(), "'z', which is no client"),
        ("arrivals = { kind = \"after\", client = \"m\" }".to_string(), "waits for itself"),
        ("arrivals = { kind = \"closed-loop\", think_ms = -1 }".to_string(), "think_ms is -1"),
        (format!("{periodic}\ndeadline_ms = 0"), "deadline_ms is 0"),
        (format!("{periodic}\nenforce_deadline = true"), "needs deadline_ms"),
        (format!("{periodic}\nin_flight = 0"), "in_flight is 0"),
        (format!("{periodic}\nlevel = 200"), "no level 200"),
        (format!("{periodic}\npriority = 1"), "priority"),
        ("arrivals = { kind = \"closed-loop\" }\nkeep = \"newest\"".to_string(), "keep"),
        (format!("{periodic}\n[[client]]\nmodel = \"m\"\nclass = \"real-time\"\n{periodic}"), "two clients"),
        (format!("{periodic}\n[reference_ms]\nm = -3"), "reference_ms of m is -3"),
        (format!("{periodic}\n[reference_ms]\nvvg19 = 3"), "no client asks the model 'vvg19'"),
        (format!("{periodic}\n[models]\nn = \"n.onnx\""), "no client asks the model 'n'"),
        (
            "arrivals = { kind = \"after\", client = \"b\" }\n[[client]]\nname = \"b\"\nmodel = \"m\"\n\
             class = \"best-effort\"\narrivals = { kind = \"closed-loop\" }"
                .to_string(),
            "waits for 'b', which is best-effort",
        ),
    ];
    for (client, expected) in cases {
        let error = one(&client).unwrap_err().to_string();
        assert!(error.starts_with("workload test: ") && error.contains(expected), "{client}\n{error}");
    }
    let no_real_time = "name = \"w\"\n[[client]]\nmodel = \"m\"\nclass = \"best-effort\"\n";
    let error = parse(&format!("{no_real_time}arrivals = {{ kind = \"closed-loop\" }}")).unwrap_err();
    assert!(error.to_string().contains("no real-time client"), "{error}");
    let error = parse(&format!("{no_real_time}level = 1\n{periodic}")).unwrap_err();
    assert!(error.to_string().contains("neither level nor deadline"), "{error}");
    assert!(Workload::built_in("F").unwrap_err().to_string().contains("A, B, C, D, E, REAL"));
    assert!(Workload::read(Path::new("/nowhere.toml")).unwrap_err().to_string().contains("/nowhere.toml"));
}

#[test]
fn what_a_file_leaves_out_has_its_usual_value() {
    let workload = one("arrivals = { kind = \"poisson\", rate_hz = 5 }").unwrap();
    let client = &workload.clients[0];
    assert_eq!((client.name.as_str(), client.level, client.in_flight), ("m", Level::TOP, 16));
    assert!(client.deadline.is_none() && !client.newest_only && !client.enforce_deadline);
    let closed = one("arrivals = { kind = \"closed-loop\" }").unwrap();
    assert_eq!(closed.clients[0].in_flight, 1);
}

#[test]
fn the_built_in_workloads_are_those_of_the_paper() {
    let models = ["resnet152", "densenet201", "vgg19", "inceptionv3", "distilbert"];
    let of = |name| Workload::built_in(name).unwrap();
    for name in BUILT_IN {
        let workload = of(name);
        assert_eq!(workload.name, name);
        let best_effort: Vec<&str> = workload
            .clients
            .iter()
            .filter(|client| client.class == ClassName::BestEffort)
            .map(|client| client.model.as_str())
            .collect();
        assert_eq!(best_effort, if "AB".contains(name) { &models[..1] } else { &models[..] }, "{name}");
        for model in workload.models_asked() {
            assert!(workload.reference_ms.contains_key(model), "{name}: {model}");
        }
    }
    let load = |name| -> f64 {
        let workload = of(name);
        let load =
            |client: &Client| Some(client.arrivals.rate_hz()? * workload.reference_ms[&client.model] / 1e3);
        workload.clients.iter().filter_map(load).sum()
    };
    assert!((load("A") - 0.44).abs() < 1e-9 && (load("C") - 0.44).abs() < 1e-9);
    assert!((load("D") - 0.704).abs() < 1e-9 && (load("E") - 0.704).abs() < 1e-9);
    assert!((0.3..0.34).contains(&load("REAL")), "{}", load("REAL"));
    let real = of("REAL");
    let arrivals: usize = real
        .clients
        .iter()
        .filter_map(|client| match &client.arrivals {
            ArrivalSpec::Trace { track, .. } => Some(track.times.len()),
            _ => None,
        })
        .sum();
    assert_eq!(arrivals, 1684 - 24);
}

#[test]
fn scaling_keeps_the_utilisation_and_the_shape_of_traces() {
    let slower = |factors: &[(&str, f64)]| -> BTreeMap<String, f64> {
        factors.iter().map(|(model, ms)| (model.to_string(), *ms)).collect()
    };
    let here = slower(&[
        ("resnet152", 136.0),
        ("densenet201", 70.0),
        ("vgg19", 220.0),
        ("inceptionv3", 83.0),
        ("distilbert", 54.0),
    ]);
    let load = |workload: &Workload, ms: &BTreeMap<String, f64>| -> f64 {
        let of = |client: &Client| Some(client.arrivals.rate_hz()? * ms[&client.model]);
        workload.clients.iter().filter_map(of).sum()
    };
    for name in ["A", "C", "D", "E", "REAL"] {
        let paper = Workload::built_in(name).unwrap();
        let scaled = paper.scaled(&here);
        let (there, here) = (load(&paper, &paper.reference_ms), load(&scaled, &here));
        assert!((here / there - 1.0).abs() < 1e-9, "{name}: {there} {here}");
    }
    let scaled = Workload::built_in("A").unwrap().scaled(&here);
    assert_eq!(scaled.clients[0].arrivals, ArrivalSpec::Periodic { rate_hz: 2.0, phase: 0.0 });
    let stretches: Vec<f64> = Workload::built_in("REAL")
        .unwrap()
        .scaled(&here)
        .clients
        .iter()
        .filter_map(|client| match client.arrivals {
            ArrivalSpec::Trace { stretch, .. } => Some(stretch),
            _ => None,
        })
        .collect();
    assert!(stretches.len() == 5 && stretches.iter().all(|&stretch| stretch == stretches[0]));
    // Without a reference there is nothing to scale by.
    let own = one("arrivals = { kind = \"periodic\", rate_hz = 5 }").unwrap();
    assert_eq!(own.scaled(&slower(&[("m", 3.0)])), own);
}

#[test]
fn rates_and_deadlines_are_set_by_client_or_model() {
    let real = Workload::built_in("REAL").unwrap();
    let (changed, count) = real.clone().with_rate("vgg19", 3.0);
    assert_eq!(count, 1);
    let client = changed.clients.iter().find(|client| client.name == "vgg19-rt").unwrap();
    assert!((client.arrivals.rate_hz().unwrap() - 3.0).abs() < 1e-9);
    assert_eq!(real.clone().with_rate("nobody", 3.0).1, 0);
    let (changed, count) = real.with_deadline("vgg19-rt", Duration::from_millis(5));
    assert_eq!(count, 1);
    assert_eq!(changed.clients.iter().filter(|client| client.deadline.is_some()).count(), 1);
}

#[test]
fn arrivals_behind_the_end_of_a_trace_are_counted_and_named() {
    let client = |track: &str| {
        format!(
            "[[client]]\nname = \"{track}\"\nmodel = \"m\"\nclass = \"real-time\"\n\
             arrivals = {{ kind = \"trace\", file = \"t.json\", track = \"{track}\" }}\n"
        )
    };
    let text = format!("name = \"w\"\n{}{}", client("whole"), client("cut"));
    let trace =
        r#"{"duration_s": 1, "unit": "ms", "arrivals": {"whole": [0, 999], "cut": [5, 1000, 7, 2000]}}"#;
    let workload = Workload::parse(&text, "w", &|_| Ok(trace.to_string())).unwrap();
    let expected =
        "w, client cut: 2 of 4 arrivals of its trace lie at or behind its end, 1s, and are not played";
    assert_eq!(workload.left_out(), [expected]);
    let real = Workload::built_in("REAL").unwrap();
    assert_eq!(real.left_out().len(), 4, "{:?}", real.left_out());
}
