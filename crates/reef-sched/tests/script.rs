//! Schedules as text: a script of events goes in, the actions come out, and both stand in the test.

use std::collections::HashMap;
use std::fmt::Write;

use reef_base::{Class, Nanos};
use reef_sched::{Action, Drain, ModelId, ModelOptions, Request, RequestId, SchedOptions, Scheduler, Usage};

/// Runs a script and compares the actions. Lines are `TIME EVENT`:
/// `model NAME CLASS [weight=N] [queue=N] [flight=N]`, `submit MODEL ID [CLASS] [deadline=T] [until=T]`,
/// `done ID [cu=N] [service=N] [stopped=N]`, `reject ID`, `cancel ID`, `drain MODEL finish|refuse`,
/// `slots N`, `close`, `abandon`, `tick`. A board of 4 slots, 2 of them best-effort.
fn check(script: &str, expected: &str) {
    let mut run = Run::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        run.line(line);
        run.sched.check();
    }
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let got: Vec<&str> = run.log.lines().collect();
    assert_eq!(got, expected, "\n{}", run.log);
}

struct Run {
    sched: Scheduler,
    models: HashMap<String, (ModelId, Class)>,
    requests: HashMap<String, RequestId>,
    names: HashMap<RequestId, String>,
    log: String,
}

impl Run {
    fn new() -> Self {
        Run {
            sched: Scheduler::new(SchedOptions { board_slots: 4, best_effort_slots: 2 }),
            models: HashMap::new(),
            requests: HashMap::new(),
            names: HashMap::new(),
            log: String::new(),
        }
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let now = Nanos(words[0].parse().unwrap());
        let option = |name: &str| {
            let value = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.map(|value| value.parse::<u64>().unwrap())
        };
        match words[1] {
            "model" => self.add_model(&words, option),
            "submit" => self.submit(now, &words, option),
            "done" => {
                let service = option("service").map(Nanos);
                let stopped_after = option("stopped").map(Nanos);
                let usage = Usage { cu_time: Nanos(option("cu").unwrap_or(0)), service, stopped_after };
                let ended = self.sched.on_complete(now, self.requests[words[2]], usage);
                assert!(ended.is_some(), "{line}: not on the board");
            }
            "reject" => self.sched.on_rejected(now, self.requests[words[2]]),
            "cancel" => {
                let outcome = self.sched.cancel(self.requests[words[2]]);
                writeln!(self.log, "{now}: cancel {} {outcome:?}", words[2]).unwrap();
            }
            "drain" => {
                let how = if words[3] == "finish" { Drain::Finish } else { Drain::Refuse };
                self.sched.drain_model(self.models[words[2]].0, how);
            }
            "slots" => self.sched.set_best_effort_slots(words[2].parse().unwrap()),
            "close" => self.sched.close(),
            "abandon" => self.sched.abandon_best_effort(),
            "tick" => {}
            other => panic!("no event {other}"),
        }
        self.actions(now);
    }

    fn add_model(&mut self, words: &[&str], option: impl Fn(&str) -> Option<u64>) {
        let defaults = ModelOptions::default();
        let options = ModelOptions {
            class: class(words[3]).unwrap(),
            weight: option("weight").map_or(1, |weight| weight as u32),
            queue_len: option("queue").map_or(8, |len| len as usize),
            in_flight_max: option("flight").map_or(defaults.in_flight_max, |max| max as usize),
            batching: None,
        };
        let id = self.sched.add_model(options).unwrap();
        self.models.insert(words[2].to_string(), (id, options.class));
    }

    fn submit(&mut self, now: Nanos, words: &[&str], option: impl Fn(&str) -> Option<u64>) {
        let (model, configured) = self.models[words[2]];
        let request = Request {
            model,
            plan: 0,
            class: words.get(4).and_then(|word| class(word)).unwrap_or(configured),
            arrival: now,
            deadline: option("deadline").map(Nanos),
            queue_until: option("until").map(Nanos),
            joins: None,
        };
        match self.sched.submit(now, request) {
            Ok(id) => {
                self.requests.insert(words[3].to_string(), id);
                self.names.insert(id, words[3].to_string());
            }
            Err(why) => writeln!(self.log, "{now}: no {} {why:?}", words[3]).unwrap(),
        }
    }

    fn actions(&mut self, now: Nanos) {
        while let Some(action) = self.sched.next_action(now) {
            let line = match action {
                Action::Start { request, key } => match key.class() {
                    Class::RealTime(level) => format!("start {} rt{}", self.names[&request], level.get()),
                    Class::BestEffort => format!("start {} be", self.names[&request]),
                },
                Action::Refuse { request, why } => format!("refuse {} {why:?}", self.names[&request]),
                Action::CancelRunning { request } => format!("stop {}", self.names[&request]),
                Action::StartBatch { .. } | Action::Leave { .. } => unreachable!("no model batches here"),
            };
            writeln!(self.log, "{now}: {line}").unwrap();
        }
    }
}

fn class(word: &str) -> Option<Class> {
    match word {
        "be" => Some(Class::BestEffort),
        word => word.strip_prefix("rt")?.parse().ok().map(Class::real_time),
    }
}

#[test]
fn levels_then_deadlines_then_arrival() {
    check(
        "0 model a rt0
         0 model b rt1
         0 submit a run1
         0 submit b run2
         1 submit b late deadline=900
         2 submit a none
         3 submit b none2
         4 submit a far deadline=800
         5 submit a near deadline=700
         6 done run1
         7 done near
         8 done far
         9 done none
         10 done late
         11 tick",
        "0 ns: start run1 rt0
         2 ns: start none rt0
         6 ns: start near rt0
         7 ns: start far rt0
         9 ns: start late rt1
         10 ns: start run2 rt1",
    );
}

#[test]
fn a_less_urgent_level_leaves_a_slot_for_each_more_urgent_one() {
    check(
        "0 model a rt0
         0 model b rt1
         0 submit b b1
         0 submit b b2
         0 submit a a1
         1 done b1",
        "0 ns: start b1 rt1
         0 ns: start a1 rt0",
    );
}

/// Two slots, and two levels that are more urgent: they cannot have one each and leave one.
#[test]
fn the_least_urgent_level_starts_where_there_are_more_levels_than_slots() {
    check(
        "0 model a rt0
         0 model b rt1
         0 model c rt2
         0 submit c c1
         0 submit c c2
         0 submit a a1",
        "0 ns: start c1 rt2
         0 ns: start a1 rt0",
    );
}

#[test]
fn real_time_work_leaves_the_best_effort_slots_alone_and_the_other_way_round() {
    check(
        "0 model a rt0
         0 model z be
         0 submit a a1
         0 submit a a2
         0 submit a a3
         0 submit z z1
         0 submit z z2
         0 submit z z3
         5 done z1
         6 done a1",
        "0 ns: start a1 rt0
         0 ns: start a2 rt0
         0 ns: start z1 be
         0 ns: start z2 be
         5 ns: start z3 be
         6 ns: start a3 rt0",
    );
}

#[test]
fn weights_share_the_device_by_its_time() {
    check(
        "0 model light be weight=1
         0 model heavy be weight=3
         0 slots 1
         0 submit light l1
         0 submit light l2
         0 submit light l3
         0 submit heavy h1
         0 submit heavy h2
         0 submit heavy h3
         0 submit heavy h4
         10 done l1 cu=10 service=10
         20 done h1 cu=10 service=10
         30 done h2 cu=10 service=10
         40 done h3 cu=10 service=10
         50 done h4 cu=10 service=10
         60 done l2 cu=10 service=10",
        "0 ns: start l1 be
         10 ns: start h1 be
         20 ns: start h2 be
         30 ns: start h3 be
         40 ns: start h4 be
         50 ns: start l2 be
         60 ns: start l3 be",
    );
}

/// However a task ends, its model pays for what it used: one whose tasks never end well gets its share, not
/// the device.
#[test]
fn a_model_whose_tasks_never_end_well_pays_for_them() {
    check(
        "0 model bad be
         0 model good be
         0 slots 1
         0 submit bad b1
         0 submit bad b2
         0 submit bad b3
         0 submit good g1
         0 submit good g2
         10 done b1 cu=10000
         20 done g1 cu=10000 service=10
         50 done b2 cu=30000
         60 done g2 cu=10000 service=10",
        "0 ns: start b1 be
         10 ns: start g1 be
         20 ns: start b2 be
         50 ns: start g2 be
         60 ns: start b3 be",
    );
}

#[test]
fn an_idle_model_banks_no_credit() {
    check(
        "0 model a be
         0 model b be
         0 slots 1
         0 submit a a1
         0 submit a a2
         0 submit a a3
         0 submit a a4
         1000 done a1 cu=1000 service=1000
         2000 done a2 cu=1000 service=1000
         2000 submit b b1
         2000 submit b b2
         2000 submit b b3
         3000 done a3 cu=1000 service=1000
         4000 done b1 cu=1000 service=1000
         5000 done a4 cu=1000 service=1000",
        "0 ns: start a1 be
         1000 ns: start a2 be
         2000 ns: start a3 be
         3000 ns: start b1 be
         4000 ns: start a4 be
         5000 ns: start b2 be",
    );
}

#[test]
fn a_full_queue_refuses_per_class() {
    check(
        "0 model a rt0 queue=1
         0 slots 0
         0 submit a z1 be
         0 submit a z2 be
         0 submit a a1
         0 submit a a2
         0 submit a a3
         0 submit a a4",
        "0 ns: no z2 QueueFull
         0 ns: start a1 rt0
         0 ns: start a2 rt0
         0 ns: no a4 QueueFull",
    );
}

#[test]
fn timeouts_count_in_the_queue_only_and_deadlines_everywhere() {
    check(
        "0 model a rt0 flight=1
         0 submit a run deadline=100 until=10
         0 submit a impatient until=50
         0 submit a hurried deadline=60
         20 submit a dead deadline=20
         50 tick
         60 tick
         100 tick
         101 tick",
        "0 ns: start run rt0
         20 ns: no dead DeadlinePassed
         50 ns: refuse impatient Timeout
         60 ns: refuse hurried DeadlinePassed
         100 ns: stop run",
    );
}

#[test]
fn deadlines_that_cannot_be_met_are_refused_once_times_are_known() {
    let learn: String = (0..8).map(|n| format!("{n} submit a l{n}\n{n} done l{n} service=100\n")).collect();
    let started: String = (0..8).map(|n| format!("{n} ns: start l{n} rt0\n")).collect();
    let script = "10 submit a tight deadline=109
         10 submit a first deadline=400
         10 submit a second deadline=211
         11 submit a third deadline=300
         12 submit a fourth deadline=1000
         13 submit a between deadline=212";
    let expected = "10 ns: no tight DeadlineUnreachable { needed: Nanos(100), left: Nanos(99) }
         10 ns: start first rt0
         11 ns: no third DeadlineUnreachable { needed: Nanos(299), left: Nanos(289) }";
    // `third` would wait behind `first`, which runs since 1 ns, and `second`.
    let script = format!("0 model a rt0 flight=1\n{learn}{script}");
    let expected = format!(
        "{started}{expected}
         13 ns: no between DeadlineUnreachable {{ needed: Nanos(297), left: Nanos(199) }}"
    );
    check(&script, &expected);
}

/// Seconds after the last measurement: the estimate is doubted, but not what goes before.
#[test]
fn a_probe_must_have_time_left_behind_what_goes_before_it() {
    let learn: String = (0..8).map(|n| format!("{n} submit a l{n}\n{n} done l{n} service=100\n")).collect();
    let started: String = (0..8).map(|n| format!("{n} ns: start l{n} rt0\n")).collect();
    let script = "2000000000 submit a run
         2000000000 submit a hopeless deadline=2000000080
         2000000000 submit a probe deadline=2000000150
         2000000100 done run";
    let expected = "2000.0 ms: start run rt0
         2000.0 ms: no hopeless DeadlineUnreachable { needed: Nanos(200), left: Nanos(80) }
         2000.0 ms: start probe rt0";
    check(&format!("0 model a rt0 flight=1\n{learn}{script}"), &format!("{started}{expected}"));
}

#[test]
fn cancellation_drops_what_waits_and_stops_what_runs_once() {
    check(
        "0 model z be flight=1
         0 submit z z1
         0 submit z z2
         1 cancel z2
         1 cancel z1
         2 cancel z1
         3 done z1
         4 cancel z1",
        "0 ns: start z1 be
         1 ns: cancel z2 Dropped
         1 ns: cancel z1 Stopping
         1 ns: stop z1
         2 ns: cancel z1 Stopping
         4 ns: cancel z1 Unknown",
    );
}

#[test]
fn a_rejected_task_keeps_its_place_and_is_tried_again() {
    let mut run = Run::new();
    run.line("0 model z be");
    run.line("0 slots 1");
    run.line("0 submit z z1");
    run.line("0 submit z z2");
    run.line("0 reject z1");
    assert_eq!(run.log, "0 ns: start z1 be\n");
    let retry = run.sched.next_wakeup().unwrap();
    run.line(&format!("{} tick", retry.0));
    assert!(run.log.ends_with("start z1 be\n"), "{}", run.log);
    assert_eq!(run.sched.next_wakeup(), None);
}

#[test]
fn drains_finish_or_refuse_and_then_the_model_can_go() {
    check(
        "0 model a be flight=1
         0 model b be flight=1
         0 submit a a1
         0 submit a a2
         0 submit b b1
         0 submit b b2
         1 drain a finish
         1 drain b refuse
         2 submit a a3
         3 done a1
         4 done a2
         5 done b1",
        "0 ns: start a1 be
         0 ns: start b1 be
         1 ns: refuse b2 Draining
         2 ns: no a3 Draining
         3 ns: start a2 be",
    );
}

#[test]
fn shutdown_finishes_real_time_work_and_gives_up_the_rest() {
    check(
        "0 model a rt0 flight=1
         0 model z be flight=1
         0 submit a a1
         0 submit a a2
         0 submit z z1
         0 submit z z2
         1 close
         1 submit a a3
         2 abandon
         3 done z1
         4 done a1",
        "0 ns: start a1 rt0
         0 ns: start z1 be
         1 ns: no a3 ShuttingDown
         2 ns: stop z1
         2 ns: refuse z2 ShuttingDown
         4 ns: start a2 rt0",
    );
}

#[test]
fn best_effort_tasks_carry_the_share_of_their_model() {
    let mut sched = Scheduler::new(SchedOptions::default());
    let models =
        [5, 7].map(|weight| sched.add_model(ModelOptions { weight, ..ModelOptions::default() }).unwrap());
    let class = Class::BestEffort;
    for model in models {
        let request = Request {
            model,
            plan: 0,
            class,
            arrival: Nanos::ZERO,
            deadline: None,
            queue_until: None,
            joins: None,
        };
        sched.submit(Nanos::ZERO, request).unwrap();
    }
    let shares: Vec<_> = std::iter::from_fn(|| match sched.next_action(Nanos::ZERO)? {
        Action::Start { key, .. } => Some((key.share().owner, key.share().weight)),
        other => panic!("{other:?}"),
    })
    .collect();
    assert_eq!(shares, [(0, 5), (1, 7)]);
}

#[test]
fn a_model_in_the_place_of_another_is_another_owner() {
    let mut sched = Scheduler::new(SchedOptions::default());
    let mut owners = Vec::new();
    // As many owners as models: then the first one comes again, unless a model has it.
    let stays = sched.add_model(ModelOptions::default()).unwrap();
    for _ in 0..reef_base::limits::MODELS_MAX {
        let model = sched.add_model(ModelOptions::default()).unwrap();
        let (class, arrival) = (Class::BestEffort, Nanos::ZERO);
        let request =
            Request { model, plan: 0, class, arrival, deadline: None, queue_until: None, joins: None };
        sched.submit(Nanos::ZERO, request).unwrap();
        let Some(Action::Start { request, key }) = sched.next_action(Nanos::ZERO) else { panic!("no start") };
        owners.push(key.share().owner);
        let used = Usage { cu_time: Nanos(1), service: None, stopped_after: None };
        sched.on_complete(Nanos::ZERO, request, used);
        assert!(sched.remove_model(model) && model != stays);
    }
    let last = reef_base::limits::MODELS_MAX as u16 - 1;
    assert_eq!(owners, (1..=last).chain([1]).collect::<Vec<_>>());
}

#[test]
fn a_long_task_of_another_model_is_waited_for_only_as_its_weight_is_due() {
    // What takes 10 alone takes 20 beside a model of its weight, 40 beside one of three times that.
    // Two of its tasks get no more than one.
    let cases = [(1, 25, true), (1, 15, false), (3, 45, true), (3, 35, false)];
    for (tasks, (weight, left, fits)) in [1, 2].into_iter().flat_map(|tasks| cases.map(|case| (tasks, case)))
    {
        let mut run = Run::new();
        run.sched = Scheduler::new(SchedOptions { board_slots: 8, best_effort_slots: 4 });
        run.line(&format!("0 model long be weight={weight}"));
        run.line("0 model short be");
        // As often as it takes to know their times.
        for round in 0..8 {
            let (begin, end) = (round * 2000, round * 2000 + 1000);
            run.line(&format!("{begin} submit long l{round}"));
            run.line(&format!("{end} done l{round} cu=1000 service=1000"));
            run.line(&format!("{end} submit short s{round}"));
            run.line(&format!("{} done s{round} cu=10 service=10", end + 10));
        }
        (0..tasks).for_each(|task| run.line(&format!("20000 submit long m{task}")));
        run.line(&format!("20000 submit short s8 deadline={}", 20_000 + left));
        let answer = if fits { "start s8 be" } else { "no s8 DeadlineUnreachable" };
        let found = run.log.lines().any(|line| line.contains(answer));
        assert!(found, "{tasks} {weight} {left}: {}", run.log);
    }
}
