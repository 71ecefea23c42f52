//! What the text of the metrics says about models, and what changed between two of them.
//!
//! Invariant: a server that was started anew in between, whose counters are lower, is one that began at 0.

use std::collections::BTreeMap;

/// A model's requests of one class: name, version, class.
type Key = (String, String, String);

/// The counters of one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample(BTreeMap<Key, Counters>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Counters {
    /// Requests by their upper bounds in seconds, added up.
    buckets: Vec<(f64, f64)>,
    done: f64,
    queued: f64,
    running: f64,
    missed: f64,
    preemptions: f64,
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The model's name and version.
    pub model: String,
    /// `real-time` or `best-effort`.
    pub class: String,
    /// Requests done per second.
    pub per_s: f64,
    /// Percentiles of the time from arrival to delivery, seconds, as fine as the buckets are; `None` where
    /// nothing was done. Infinite beyond the last bucket.
    pub p50_s: Option<f64>,
    /// The same.
    pub p99_s: Option<f64>,
    /// In the queue now.
    pub queued: u64,
    /// On devices now.
    pub running: u64,
    /// Deadlines missed per second.
    pub missed_per_s: f64,
    /// Tasks per second that displaced less urgent work.
    pub preemptions_per_s: f64,
}

impl Sample {
    /// Reads the Prometheus text format; what it does not know it passes over.
    pub fn parse(text: &str) -> Sample {
        let mut sample = Sample::default();
        for line in text.lines().filter(|line| line.starts_with("reef_")) {
            let Some((name, labels, value)) = split(line) else { continue };
            let of = |key: &str| labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
            let (Some(model), Some(version), Some(class)) = (of("model"), of("version"), of("class")) else {
                continue;
            };
            // Devices are added up.
            let counters = sample.0.entry((model, version, class)).or_default();
            match name {
                "reef_request_duration_seconds_bucket" => {
                    let bound = of("le").map_or(f64::NAN, |bound| bound.parse().unwrap_or(f64::INFINITY));
                    match counters.buckets.iter_mut().find(|(known, _)| *known == bound) {
                        Some((_, count)) => *count += value,
                        None => counters.buckets.push((bound, value)),
                    }
                }
                "reef_request_duration_seconds_count" => counters.done += value,
                "reef_queue_length" => counters.queued += value,
                "reef_tasks_on_board" => counters.running += value,
                "reef_deadline_misses_total" => counters.missed += value,
                "reef_preemptions_total" => counters.preemptions += value,
                _ => {}
            }
        }
        sample.0.values_mut().for_each(|counters| counters.buckets.sort_by(|a, b| a.0.total_cmp(&b.0)));
        sample
    }
}

/// What happened in `seconds` from one look to the next, the busiest first within a class. Models and classes
/// without a request ever are left out, but for one line per model.
pub fn rows(before: &Sample, now: &Sample, seconds: f64) -> Vec<Row> {
    let nothing = Counters::default();
    let mut rows: Vec<Row> = Vec::new();
    for (key, counters) in &now.0 {
        let (model, version, class) = key;
        let used = counters.done + counters.queued + counters.running + counters.missed > 0.0;
        let other = now.0.iter().filter(|((name, number, _), _)| (name, number) == (model, version));
        let only =
            other.clone().all(|(_, counters)| counters.done + counters.queued + counters.running == 0.0)
                && other.clone().next().is_some_and(|(first, _)| first == key);
        if used || only {
            let before = before.0.get(key).filter(|before| before.done <= counters.done).unwrap_or(&nothing);
            rows.push(row((format!("{model}/{version}"), class.clone()), before, counters, seconds));
        }
    }
    rows.sort_by(|a, b| b.class.cmp(&a.class).then(b.per_s.total_cmp(&a.per_s)).then(a.model.cmp(&b.model)));
    rows
}

fn row((model, class): (String, String), before: &Counters, now: &Counters, seconds: f64) -> Row {
    let rate = |now: f64, before: f64| (now - before).max(0.0) / seconds.max(1e-9);
    let buckets: Vec<(f64, f64)> = now
        .buckets
        .iter()
        .map(|&(bound, count)| {
            let earlier =
                before.buckets.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, count)| *count);
            (bound, (count - earlier).max(0.0))
        })
        .collect();
    Row {
        model,
        class,
        per_s: rate(now.done, before.done),
        p50_s: percentile(&buckets, 0.5),
        p99_s: percentile(&buckets, 0.99),
        queued: now.queued as u64,
        running: now.running as u64,
        missed_per_s: rate(now.missed, before.missed),
        preemptions_per_s: rate(now.preemptions, before.preemptions),
    }
}

/// The upper bound of the bucket that has it: no better than that is known.
fn percentile(buckets: &[(f64, f64)], part: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|&count| count > 0.0)?;
    buckets.iter().find(|(_, count)| *count >= part * total).map(|(bound, _)| *bound)
}

type Labels = Vec<(String, String)>;

/// Name, labels and value of a sample.
fn split(line: &str) -> Option<(&str, Labels, f64)> {
    let (head, value) = line.rsplit_once(' ')?;
    let value: f64 = value.parse().ok().filter(|value: &f64| value.is_finite())?;
    let Some((name, rest)) = head.split_once('{') else { return Some((head, Vec::new(), value)) };
    let mut labels = Vec::new();
    let mut letters = rest.strip_suffix('}')?.chars().peekable();
    while letters.peek().is_some() {
        let key: String = letters.by_ref().take_while(|&letter| letter != '=').collect();
        if letters.next() != Some('"') {
            return None;
        }
        let mut text = String::new();
        loop {
            match letters.next()? {
                '"' => break,
                '\\' => text.push(match letters.next()? {
                    'n' => '\n',
                    escaped => escaped,
                }),
                letter => text.push(letter),
            }
        }
        labels.push((key, text));
        letters.next_if_eq(&',');
    }
    Some((name, labels, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(done: [u64; 3], queued: u64) -> String {
        let labels = "model=\"m{},=\",version=\"1\",class=\"real-time\",device=\"cpu:0\"";
        let mut text = String::from("# HELP reef_queue_length x\nnv_inference_count{model=\"m\"} 3\n");
        for (bound, count) in ["0.001", "0.01", "+Inf"].iter().zip(done) {
            text += &format!("reef_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {count}\n");
        }
        text += &format!("reef_request_duration_seconds_count{{{labels}}} {}\n", done[2]);
        text + &format!("reef_queue_length{{{labels}}} {queued}\n")
    }

    #[test]
    fn rates_and_percentiles_are_of_what_happened_between_two_looks() {
        let (before, now) =
            (Sample::parse(&text([100, 100, 100], 0)), Sample::parse(&text([100, 196, 200], 3)));
        let [row] = &rows(&before, &now, 2.0)[..] else { panic!("one row") };
        assert_eq!((&*row.model, &*row.class, row.per_s, row.queued), ("m{},=/1", "real-time", 50.0, 3));
        assert_eq!((row.p50_s, row.p99_s), (Some(0.01), Some(f64::INFINITY)));
        let idle = rows(&now, &now, 2.0);
        assert_eq!((idle[0].per_s, idle[0].p50_s), (0.0, None));
        // Started anew.
        let anew = rows(&now, &Sample::parse(&text([10, 10, 10], 0)), 1.0);
        assert_eq!((anew[0].per_s, anew[0].p99_s), (10.0, Some(0.001)));
    }

    #[test]
    fn devices_are_added_up_and_strange_lines_passed_over() {
        let one = text([1, 1, 1], 2);
        let two = one.replace("cpu:0", "cpu:1");
        let strange = "reef_x\nreef_queue_length{model=\"m\nreef_queue_length{a} 1\n\
                       reef_queue_length{a=\"\\\" 1\n\
                       reef_queue_length{model=\"m\",version=\"1\",class=\"c\"} NaN\n";
        let sample = Sample::parse(&format!("{one}{strange}{two}"));
        let rows = rows(&Sample::default(), &sample, 1.0);
        assert_eq!((rows.len(), rows[0].per_s, rows[0].queued), (1, 2.0, 4));
    }
}
