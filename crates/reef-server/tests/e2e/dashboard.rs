//! The dashboard: its page and its numbers, on both ports.

use std::collections::BTreeSet;

use reef_engine::{Level, ModelSettings, Queued};
use serde_json::Value;

use crate::client::{Client, request};
use crate::fixture::{Fixture, until, x, y};

const INPUT: &str = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}"#;

/// New numbers: those that were put together a moment ago are told again.
fn look(client: &mut Client, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut data = Value::Null;
    until(|| {
        let answer = client.get("/dashboard/data");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.headers["cache-control"], "no-store");
        data = answer.json();
        wanted(&data)
    });
    data
}

fn class<'a>(data: &'a Value, model: &str, class: &str) -> &'a Value {
    let models = data["models"].as_array().unwrap();
    let model = models.iter().find(|found| found["name"] == model).unwrap();
    let classes = model["classes"].as_array().unwrap();
    classes.iter().find(|found| found["class"] == class).unwrap_or(&Value::Null)
}

#[test]
fn the_page_is_on_both_ports_and_may_run_nothing_but_itself() {
    let fixture = Fixture::with_m();
    let mut pages = BTreeSet::new();
    for mut client in
        [fixture.client(), Client::connect(fixture.running().metrics_addr().expect("the fixture has one"))]
    {
        let page = client.get("/");
        assert_eq!(page.status, 200);
        assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
        let policy = page.headers["content-security-policy"].clone();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        for what in ["frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "connect-src 'self'"]
        {
            assert!(policy.contains(what), "{policy}");
        }
        let text = page.text();
        assert!(!text.contains("/*style*/") && !text.contains("/*script*/"), "the page is not whole");
        let outside: Vec<_> = text.match_indices("http").map(|(at, _)| &text[at..at + 26]).collect();
        assert!(
            outside.iter().all(|url| url.starts_with("http://www.w3.org/2000/svg") || !url.contains("//"))
        );
        assert_eq!(client.request("POST", "/", &[], b"").status, 405);
        assert_eq!(client.request("POST", "/dashboard/data", &[], b"").status, 405);
        pages.insert(text.to_string());
    }
    assert_eq!(pages.len(), 1, "the page is the same for everybody");
}

#[test]
fn the_numbers_are_those_of_the_statistics() {
    let fixture = Fixture::with_m();
    fixture.model("rt", &[x()], &[y()], ModelSettings::real_time(Level::TOP));
    let mut client = fixture.client();
    let before = look(&mut client, |_| true);
    assert_eq!(class(&before, "m", "best-effort")["success"], 0);
    assert_eq!(class(&before, "m", "real-time"), &Value::Null, "m never served that class");
    for _ in 0..3 {
        assert_eq!(client.infer(INPUT).status, 200);
    }
    let late = INPUT.replace("{\"inputs\"", "{\"parameters\":{\"deadline_us\":1},\"inputs\"");
    assert_eq!(client.request("POST", "/v2/models/rt/infer", &[], late.as_bytes()).status, 504);
    let mut metrics = Client::connect(fixture.running().metrics_addr().unwrap());
    let data = look(&mut metrics, |data| class(data, "rt", "real-time")["deadline_misses"] == 1);
    let (m, rt) = (class(&data, "m", "best-effort"), class(&data, "rt", "real-time"));
    let stats = client.get("/v2/models/m/stats").json();
    assert_eq!(m["success"], stats["model_stats"][0]["inference_stats"]["success"]["count"]);
    assert_eq!((&m["success"], &m["queued"], &m["on_board"]), (&3.into(), &0.into(), &0.into()));
    assert_eq!(m["latency"]["count"], 3);
    assert!(m["latency"]["p50_us"].as_f64() > Some(0.0) && m["latency"]["p50_us"] == m["latency"]["p99_us"]);
    assert!(m["alone_us"].as_f64() > Some(0.0) && m["cu_share"].as_f64() > Some(0.0));
    assert_eq!((&rt["failures"]["DEADLINE"], &rt["latency"]["count"]), (&1.into(), &0.into()));
    assert_eq!(rt["latency"]["p99_us"], Value::Null);
    assert_eq!(data["devices"][0]["name"], "dummy:0");
    assert_eq!(data["server"]["state"], "serving");
    assert_eq!(data["server"]["http_port"], fixture.running().http_addr().port());
}

#[test]
fn the_timeline_has_what_ran_since_somebody_looks() {
    let fixture = Fixture::with_m();
    let mut client = fixture.client();
    assert_eq!(client.infer(INPUT).status, 200);
    let before = look(&mut client, |_| true);
    let stretches = |data: &Value| data["timeline"]["devices"][0]["stretches"].as_array().unwrap().len();
    assert_eq!(stretches(&before), 0, "nobody looked when it ran");
    assert_eq!(client.infer(INPUT).status, 200);
    let data = look(&mut client, |data| stretches(data) > 0);
    let timeline = &data["timeline"];
    assert_eq!(timeline["models"], serde_json::json!(["m"]));
    for stretch in timeline["devices"][0]["stretches"].as_array().unwrap() {
        let cu = stretch[0].as_u64().unwrap();
        assert!(cu < timeline["devices"][0]["cus"].as_u64().unwrap());
        let end = stretch[1].as_f64().unwrap() + stretch[2].as_f64().unwrap();
        assert!(end <= timeline["span_us"].as_f64().unwrap() + 0.2);
        assert_eq!((&stretch[3], &stretch[4], &stretch[5]), (&0.into(), &1.into(), &0.into()));
    }
}

#[test]
fn models_come_and_go_under_the_eyes_of_a_viewer() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert_eq!(look(&mut client, |_| true)["models"], serde_json::json!([]));
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    for _ in 0..5 {
        assert_eq!(client.infer(INPUT).status, 200);
    }
    let five = |data: &Value| class(data, "m", "best-effort")["success"] == 5;
    look(&mut client, |data| !data["models"].as_array().unwrap().is_empty() && five(data));
    fixture.engine.unload("m", None, Queued::Finish).unwrap();
    look(&mut client, |data| data["models"].as_array().unwrap().is_empty());
    fixture.model("m", &[x()], &[y()], ModelSettings::default());
    assert_eq!(client.infer(INPUT).status, 200);
    let one = |data: &Value| class(data, "m", "best-effort")["success"] == 1;
    let data = look(&mut client, |data| !data["models"].as_array().unwrap().is_empty() && one(data));
    assert_eq!(class(&data, "m", "best-effort")["latency"]["count"], 1, "what was before is not subtracted");
    fixture.running().set_unavailable(crate::fixture::key("<b>"), "no such \"file\"".into());
    let data = look(&mut client, |data| data["models"].as_array().unwrap().len() == 2);
    assert_eq!(data["models"][1]["reason"], "no such \"file\"");
    assert_eq!(data["models"][1]["state"], "unavailable");
}

#[test]
fn loading_and_draining_are_told() {
    let mut fixture = Fixture::with_m();
    let loading = fixture.loading("slow");
    let mut metrics = Client::connect(fixture.running().metrics_addr().unwrap());
    let data = look(&mut metrics, |data| data["models"].as_array().unwrap().len() == 2);
    assert_eq!(
        (&data["models"][1]["name"], &data["models"][1]["state"]),
        (&"slow".into(), &"loading".into())
    );
    loading.finish();
    fixture.gate.freeze();
    let mut sender = fixture.client();
    sender.send(&request("POST", "/v2/models/m/infer", &[], INPUT.as_bytes()));
    fixture.wait_for("m", reef_engine::ClassStats::pending, 1);
    let shutting_down = fixture.shut_down(std::time::Duration::from_secs(60));
    let data = look(&mut metrics, |data| data["server"]["state"] == "draining");
    assert_eq!(data["timeline"], Value::Null, "an engine that shuts down records nothing");
    fixture.gate.flow();
    assert_eq!(sender.answer().status, 200);
    drop((sender, metrics));
    assert!(shutting_down.join().unwrap());
}
