//! The simulated GPU as a device: what it takes for a model, how owners share it, what it makes of a clock
//! that others move, and which options are refused. What every device promises is in `conformance`.

use std::sync::Arc;

use reef_base::{Class, Clock, Level, Nanos, Share, TaskKey};
use reef_device::{Completion, Device, LoadedPlan, Scheme};
use reef_sim::clients::{Arrivals, play};
use reef_sim::device::{Measured, gpu, plan_of};
use reef_sim::profile::{Model, Profile};
use reef_sim::server::{self, Client, Server};
use reef_sim::{GpuConstants, GpuDevice, GpuOptions, SimError};

fn mi50() -> GpuOptions {
    GpuOptions::new(GpuConstants::built_in("mi50").unwrap())
}

/// A device that knows these models' times, with a plan of each.
fn with(models: &[Model], options: GpuOptions) -> (GpuDevice, Vec<LoadedPlan>) {
    let device = gpu(GpuOptions { costs: Arc::new(Measured(models.to_vec())), ..options }).unwrap();
    let target = device.capabilities().target;
    let load = |model: &Model| device.load(Arc::new(plan_of(model, target).unwrap())).unwrap();
    let plans = models.iter().map(load).collect();
    (device, plans)
}

fn made_up(kernels: u32, each: Nanos) -> Model {
    Model::made_up(&mi50().constants, kernels, each)
}

fn submit(device: &GpuDevice, plan: LoadedPlan, key: TaskKey, token: u64) {
    let io = device.alloc_io(plan).unwrap();
    device.submit(plan, key, io, token).unwrap();
}

fn ends(device: &GpuDevice) -> Vec<Completion> {
    while device.advance() {}
    std::iter::from_fn(|| device.try_complete()).collect()
}

#[test]
fn a_model_alone_takes_as_long_as_by_the_queued_model() {
    for profile in Profile::all() {
        let options = mi50();
        let models = [Model::of(&profile, &options.constants)];
        let clients = [Client { model: 0, class: Class::real_time(0) }];
        let server = Server::new(&options.constants, &models, &clients, server::Scheme::RtOnly);
        let second = Nanos::from_millis(1_000);
        let played = play(server, &[Arrivals::Once(Nanos::ZERO)], second, 0);
        // With device queues as long as the ones here, or longer: a short kernel may come too late.
        let least = played.latencies[0][0].as_micros_f64();
        let (device, plans) = with(&models, options);
        submit(&device, plans[0], TaskKey::best_effort(0), 0);
        let done = ends(&device).pop().unwrap();
        let took = (done.finished - done.submitted).as_micros_f64();
        assert!((least..least * 1.1).contains(&took), "{}: {took} us, {least} us", profile.name);
    }
}

#[test]
fn tasks_of_two_owners_run_at_once_and_those_of_one_in_order() {
    let [long, short] = [made_up(50, Nanos::from_micros(100)), made_up(10, Nanos::from_micros(50))];
    for (owner, order) in [(1, [1, 0]), (0, [0, 1])] {
        let (device, plans) = with(&[long.clone(), short.clone()], mi50());
        submit(&device, plans[0], TaskKey::best_effort(0), 0);
        submit(&device, plans[1], TaskKey::best_effort(1).on(Share { owner, weight: 1 }), 1);
        let done = ends(&device);
        let tokens: Vec<u64> = done.iter().map(|done| done.token).collect();
        assert_eq!(tokens, order);
        let [first, last] = [&done[0], &done[1]];
        let began = |done: &Completion| done.first_block.unwrap();
        assert_eq!(began(last) < first.finished, owner == 1, "whether both were there at once");
        // Each fills the device, so whoever is not alone takes twice as long, and a little more.
        let took = (first.finished - began(first)).0 as f64;
        let alone = if owner == 1 { short.alone() } else { long.alone() }.0 as f64;
        let slower = if owner == 1 { 2.0..2.6 } else { 1.0..1.01 };
        assert!(slower.contains(&(took / alone)), "{took} {alone}");
    }
}

#[test]
fn the_gpu_goes_on_by_itself_while_others_move_the_clock() {
    let options = mi50();
    let clock = options.clock.clone();
    let (device, plans) = with(&[made_up(10, Nanos::from_micros(100))], options);
    submit(&device, plans[0], TaskKey::best_effort(0), 0);
    clock.advance_to(Nanos::from_micros(555));
    assert_eq!(device.next_event(), Some(Nanos::from_micros(555)), "something has happened, unseen");
    assert!(device.advance());
    assert_eq!(device.counters().blocks_done, 5 * u64::from(mi50().constants.cus));
    clock.advance_to(Nanos::from_millis(5));
    let done = device.try_complete().expect("it has ended meanwhile");
    assert_eq!(done.finished - done.first_block.unwrap(), Nanos::from_micros(1_000) + Nanos(1));
    assert!(device.advance());
    assert_eq!((device.now(), device.next_event(), device.advance()), (clock.now(), None, false));
}

#[test]
fn emptying_host_queues_at_once_takes_longer_than_leaving_it_to_a_thread() {
    let urgent_waits = |asynchronous: bool| {
        let models = [made_up(200, Nanos::from_micros(100)), made_up(1, Nanos::from_micros(10))];
        let (device, plans) = with(&models, GpuOptions { asynchronous, ..mi50() });
        submit(&device, plans[0], TaskKey::best_effort(0), 0);
        while device.now() < Nanos::from_millis(1) {
            device.advance();
        }
        submit(&device, plans[1], TaskKey::real_time(Level::TOP, None, device.now()), 1);
        let urgent = ends(&device).into_iter().find(|done| done.token == 1).unwrap();
        (urgent.first_block.unwrap() - urgent.submitted).as_micros_f64()
    };
    let [sooner, later] = [true, false].map(urgent_waits);
    // Some 185 of its 201 kernels are on the host.
    let reclaimed = 185.0 * 0.38;
    assert!((later - sooner - reclaimed).abs() < 5.0, "{sooner} us, {later} us");
}

#[test]
fn options_that_make_no_device_are_refused() {
    let problem = |options: GpuOptions| match gpu(options) {
        Err(SimError::Device { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    for jitter in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
        assert!(problem(GpuOptions { jitter, ..mi50() }).contains("jitter"));
    }
    for (slots, slots_real_time) in [(0, 0), (4, 4), (4, 5)] {
        assert!(problem(GpuOptions { slots, slots_real_time, ..mi50() }).contains("slots"));
    }
    assert!(gpu(GpuOptions { scheme: Scheme::RtOnly, ..mi50() }).is_ok());
}
