//! The page as a whole: well-formed, self-contained, and sensible whatever is missing or odd.

use serde_json::Value;

use crate::disb::results::DisbReport;

fn html(report: &DisbReport) -> String {
    super::page(report).html()
}
use crate::disb::sample::sample;

/// Elements that have no end.
const VOID: [&str; 2] = ["meta", "!DOCTYPE"];

/// Checks what holds for every page, and gives it back.
fn page_of(report: &DisbReport) -> String {
    let page = html(report);
    assert_well_formed(&page);
    assert_self_contained(&page);
    for odd in ["NaN", "inf", "-inf"] {
        let mut rest = page.as_str();
        while let Some(at) = rest.find(odd) {
            let before = rest[..at].chars().next_back();
            let after = rest[at + odd.len()..].chars().next();
            let is_word = |char: Option<char>| char.is_some_and(char::is_alphabetic);
            assert!(is_word(before) || is_word(after), "{odd}: {:?}", &rest[at.saturating_sub(80)..at + 10]);
            rest = &rest[at + odd.len()..];
        }
    }
    page
}

fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for piece in page.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').expect("a tag ends");
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).expect("a tag has a name");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{tag}>");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(open, [""; 0]);
}

fn assert_self_contained(page: &str) {
    for outside in ["<script", "<link", "<img", "<iframe", "src=", "href=", "@import", "http://", "https://"]
    {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("url(").count(), page.matches("url(#hatch)").count());
}

#[test]
fn every_section_comes_in_its_order() {
    let page = page_of(&sample());
    let ids = [
        "headline",
        "best-effort",
        "preemption",
        "waste",
        "distributions",
        "timeline",
        "peers",
        "paper",
        "tables",
        "checks",
        "method",
    ];
    let places: Vec<usize> =
        ids.map(|id| page.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("{id}"))).into();
    assert!(places.is_sorted(), "{places:?}");
    for said in [
        "4 of 6 checks met",
        "Missed: B, reset: mean",
        "Not shown: E, reset: mean",
        "reef bench disb --seconds 60",
        "0.3 % at most",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert_eq!(page, html(&sample()));
    // For looking at it in a browser.
    std::fs::write(std::env::temp_dir().join("reef-disb-sample.html"), page).unwrap();
}

/// Calls `change` with every value of a report, and the key that it stands behind, if that is an object's.
fn walk(value: &mut Value, key: &str, change: &mut impl FnMut(&str, &mut Value)) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| walk(value, "", change)),
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| walk(value, key, change)),
        _ => {}
    }
    change(key, value);
}

fn changed(mut change: impl FnMut(&str, &mut Value)) -> DisbReport {
    let mut value = serde_json::to_value(sample()).unwrap();
    walk(&mut value, "", &mut change);
    serde_json::from_value(value).unwrap()
}

#[test]
fn whatever_stands_in_a_file_is_escaped() {
    let fixed =
        ["real-time", "best-effort", "block", "padding", "killed", "p50", "p99", "at_most", "at_least"];
    let mut count = 0;
    let report = changed(|_, value| {
        if let Value::String(text) = value
            && !fixed.contains(&text.as_str())
        {
            *text = format!("\"'><script>alert({count})</script>&amp;{text}");
            count += 1;
        }
    });
    assert!(count > 500, "{count}");
    let page = page_of(&report);
    assert!(page.contains("&lt;script&gt;"));
}

#[test]
fn odd_numbers_are_survived() {
    for odd in [0.0, -1.0, 1e-300, 1e300] {
        page_of(&changed(|_, value| {
            if value.is_f64() {
                *value = odd.into();
            }
        }));
    }
    // Not the flags and counts that are 0, and small enough for every type.
    for odd in [0, 1, 255] {
        page_of(&changed(|_, value| {
            if value.as_u64().is_some_and(|number| number > 0) {
                *value = odd.into();
            }
        }));
    }
}

#[test]
fn what_is_no_number_is_survived() {
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut report = sample();
        for condition in
            report.workloads.iter_mut().flat_map(|w| &mut w.systems).flat_map(|s| &mut s.conditions)
        {
            condition.overall.to_reference_bound = Some(odd);
            condition.overall.per_s.value = odd;
            condition.cpus_busy = Some(odd);
            if let Some(ratios) = &mut condition.real_time.to_reference {
                (ratios.mean.value, ratios.p99.half_width) = (odd, Some(odd));
            }
            if let Some(device) = &mut condition.device {
                (device.wasted_share, device.wasted_us_per_preemption) = (odd, Some(odd));
                device.preempt_us.iter_mut().for_each(|latency| latency.p50 = odd);
            }
            condition.clients.iter_mut().for_each(|client| client.quantiles_ms.fill(odd));
        }
        report.timeline.iter_mut().for_each(|timeline| timeline.length_us = odd);
        report.timeline.iter_mut().flat_map(|t| &mut t.marks).for_each(|mark| mark.at_us = odd);
        report.sweeps.iter_mut().flat_map(|part| &mut part.rows).for_each(|row| row.summary.p99 = odd);
        report.checks[0].value = odd;
        report.checks[1].noise = odd;
        report.workloads[0].seconds = odd;
        page_of(&report);
    }
}

#[test]
fn what_is_missing_is_left_out() {
    let with = |change: fn(&mut DisbReport)| {
        let mut report = sample();
        change(&mut report);
        page_of(&report)
    };
    let has = |page: &str, id: &str| page.contains(&format!("id=\"{id}\""));
    assert!(!has(&with(|report| report.timeline = None), "timeline"));
    assert!(!has(&with(|report| report.timeline.as_mut().unwrap().spans.clear()), "timeline"));
    assert!(!has(&with(|report| report.checks.clear()), "checks"));
    assert!(!has(&with(|report| report.workloads.iter_mut().for_each(|w| w.systems.truncate(1))), "peers"));
    let page = with(|report| report.workloads.iter_mut().for_each(|w| w.name = "parking".into()));
    assert!(!has(&page, "paper"));
    let page = with(|report| report.workloads.clear());
    assert!(!has(&page, "headline") && has(&page, "preemption"), "sweeps alone");
    let page = with(|report| (report.workloads, report.sweeps, report.models) = Default::default());
    assert!(!has(&page, "tables") && has(&page, "method"));
    with(|report| report.workloads.truncate(1));
    with(|report| report.workloads.iter_mut().for_each(|w| w.systems.clear()));
    with(|report| {
        report.workloads.iter_mut().flat_map(|w| &mut w.systems).for_each(|s| s.conditions.clear())
    });
    let page = with(|report| {
        report.workloads.iter_mut().flat_map(|w| &mut w.systems).for_each(|s| s.conditions.truncate(1));
    });
    assert!(page.contains("Only the reference was played"));
}

#[test]
fn everything_optional_may_be_missing() {
    let optional = [
        "half_width",
        "offered",
        "rate_hz",
        "deadline_ms",
        "to_reference",
        "slowdown",
        "slowdown_to_reference",
        "best_effort",
        "of_bound",
        "to_reference_bound",
        "normalised_to_reference",
        "device",
        "cpus_busy",
        "memory_bytes",
        "preempt_us",
        "wasted_us_per_preemption",
        "reference_ms",
        "cpu",
        "governor",
        "load_average",
        "others_cpu",
        "timeline",
        "axis",
        "point",
    ];
    let without = |gone: &[&str]| {
        changed(|key, value| {
            let is_device_name = key == "device" && value.is_string();
            if gone.contains(&key) && !is_device_name {
                *value = Value::Null;
            }
        })
    };
    page_of(&without(&optional));
    for key in optional {
        page_of(&without(&[key]));
    }
    let mut report = sample();
    for condition in report.workloads.iter_mut().flat_map(|w| &mut w.systems).flat_map(|s| &mut s.conditions)
    {
        condition.real_time.latency_us = None;
        for client in &mut condition.clients {
            client.latency_us = None;
            client.quantiles_ms.clear();
        }
    }
    report.machine.kernel = None;
    let page = page_of(&report);
    assert!(!page.contains("id=\"distributions\""));
}

#[test]
fn doubtful_numbers_are_said_to_be() {
    let mut report = sample();
    report.others_cpu.0 = Some(0.2);
    report.setup.small = true;
    report.machine.profile = "debug".into();
    let page = page_of(&report);
    for warning in ["DISTURBED: others took 20 %", "Low-resolution", "not release"] {
        assert!(page.contains(warning), "{warning}");
    }
    assert!(page.contains("tr class=\"marked\""));
    report.checks.iter_mut().for_each(|check| check.met = true);
    assert!(page_of(&report).contains("All 6 checks are met."));
    report.checks.iter_mut().for_each(|check| check.met = false);
    assert!(page_of(&report).contains("and 2 more"));
}

#[test]
fn a_saturated_reference_is_marked() {
    assert!(!page_of(&sample()).contains('†'));
    let mut report = sample();
    report.workloads[1].systems[0].conditions[0].saturated = true;
    let page = page_of(&report);
    assert!(page.contains("B †") && page.contains("† The reference itself is saturated"));
}
