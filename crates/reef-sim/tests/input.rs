//! What cannot be simulated is refused, by name and reason.

use reef_base::Nanos;
use reef_sim::paper::Lab;
use reef_sim::profile::Profile;
use reef_sim::{GpuConstants, SimError};

const MI50: &str = include_str!("../data/mi50.toml");
const HEAD: &str = "index,kernel,blocks,threads_per_block,solo_us,us_by_blocks_per_cu,storage_ids\n";

#[test]
fn unknown_devices_and_models_are_named_with_those_that_there_are() {
    let error = GpuConstants::built_in("mi60").unwrap_err();
    assert_eq!(error.to_string(), "no simulated device is called \"mi60\"; there are mi50, v100");
    assert!(matches!(Profile::built_in("vgg16").unwrap_err(), SimError::UnknownModel { .. }));
    assert!(Lab::new("", Nanos::from_millis(1), 0).is_err());
}

#[test]
fn constants_that_make_no_sense_are_refused() {
    let with = |from: &str, to: &str| {
        assert!(MI50.contains(from), "{from}");
        GpuConstants::parse("mine", &MI50.replacen(from, to, 1)).unwrap_err().to_string()
    };
    let cases = [
        ("evict_us = 7.5", "evict_us = -7.5", "-7.5 us, allowed are 0 to 1000000"),
        ("evict_us = 7.5", "evict_us = nan", "NaN us, allowed"),
        ("evict_us = 7.5", "evict_us = \"7\"", "invalid type"),
        ("evict_us = 7.5", "evicts_us = 7.5", "unknown field `evicts_us`"),
        ("cus = 60", "cus = 0", "cus is 0, allowed are 1 to 4096"),
        ("cus = 60", "cus = -1", "cus"),
        ("capacity = 4", "capacity = 0", "queues.capacity is 0"),
        ("pipes = 4", "", "missing field `pipes`"),
        ("contention = 0.045", "contention = -1.0", "sharing.contention is -1"),
        ("proxy_overhead = 0.008", "proxy_overhead = 2.0", "padding.proxy_overhead is 2"),
    ];
    for (from, to, expected) in cases {
        let error = with(from, to);
        assert!(error.contains(expected) && error.contains("mine"), "{to}: {error}");
    }
}

#[test]
fn profiles_that_make_no_sense_are_refused() {
    let parse = |line: &str| Profile::parse("mine", &format!("{HEAD}{line}")).unwrap_err().to_string();
    let cases = [
        ("", "it has no kernel"),
        ("0,k,0,256,14,14,1", "kernel 0: it has no blocks"),
        ("0,k,8,256,14,,1", "kernel 0: it has no blocks"),
        ("1,k,8,256,14,14,1", "kernel 0: its index is 1"),
        ("0,k,8,256,-14,14,1", "record 1"),
        ("0,k,8,256,14,14 x,1", "us_by_blocks_per_cu: \"x\" is no number"),
        ("0,k,8,256,14,4000000000,1", "more than 10000000 us"),
        ("0,k,8,256,14,14,1 two", "storage_ids: \"two\" is no number"),
        ("0,k,8,256,14", "CSV"),
    ];
    for (line, expected) in cases {
        let error = parse(line);
        assert!(error.contains(expected) && error.contains("mine"), "{line}: {error}");
    }
}
