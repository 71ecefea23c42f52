//! One engine in virtual time: its clients, the router, and a scheduler for each of its devices.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use reef_base::{Class, Nanos, limits};
use reef_load::workload::ArrivalSpec;
use reef_sched::{ModelId, ModelOptions, Offer, Request, Router, SchedOptions};

use super::clients::{Arrived, Source};
use super::device::{Answer, Device, Info, Outcome, Used};
use super::{ClientReport, Fleet};

pub(super) struct Engine<'a> {
    fleet: &'a Fleet,
    devices: Vec<Device>,
    /// Of each model, the devices that have it and what it is called there.
    replicas: Vec<Vec<(usize, ModelId)>>,
    router: Router,
    sources: Vec<Source<'a>>,
    /// By time, then in the order in which they became known.
    due: BinaryHeap<Reverse<(Nanos, u64, u32)>>,
    scheduled: u64,
    answers: Vec<Answer>,
    offers: Vec<Offer>,
}

impl<'a> Engine<'a> {
    /// One whose clients' schedules are joined at `begin`.
    pub fn new(fleet: &'a Fleet, seed: u64, begin: Nanos) -> Engine<'a> {
        let mut devices: Vec<Device> = fleet
            .devices
            .iter()
            .map(|device| Device::new(device.constants, SchedOptions::default()))
            .collect();
        let replicas = (0..fleet.models.len()).map(|model| place(fleet, model, &mut devices)).collect();
        let source = |(index, client)| {
            Source::new(client, seed ^ (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15), begin)
        };
        Engine {
            fleet,
            router: Router::new(devices.len()),
            devices,
            replicas,
            sources: fleet.clients.iter().enumerate().map(source).collect(),
            due: BinaryHeap::new(),
            scheduled: 0,
            answers: Vec::new(),
            offers: Vec::new(),
        }
    }

    /// Plays until `length`; adds what came of it to the clients' reports. How each device was used.
    pub fn play(mut self, length: Nanos, reports: &mut [ClientReport]) -> Vec<Used> {
        for client in 0..self.sources.len() {
            for at in self.sources[client].first() {
                self.schedule(at, client);
            }
        }
        loop {
            let devices = self.devices.iter().enumerate();
            let event = devices.map(|(index, device)| (device.next_event(), index)).min();
            let (event, device) = event.unwrap_or((Nanos::MAX, 0));
            let arrival = self.due.peek().map_or(Nanos::MAX, |Reverse((at, ..))| *at);
            let now = event.min(arrival);
            if now >= length {
                break;
            }
            if event <= arrival {
                self.devices[device].advance(now, &mut self.answers);
            } else {
                let Reverse((_, _, client)) = self.due.pop().expect("just seen");
                self.arrive(now, client as usize, reports);
            }
            self.take_answers(now, reports);
        }
        for (source, report) in self.sources.iter().zip(reports) {
            report.unfinished += source.open();
        }
        let mut nobody = Vec::new();
        let finish = |mut device: Device| {
            // Nothing is due before the end: time passes, and that is all.
            device.advance(length, &mut nobody);
            device.used
        };
        self.devices.into_iter().map(finish).collect()
    }

    fn schedule(&mut self, at: Nanos, client: usize) {
        self.scheduled += 1;
        self.due.push(Reverse((at, self.scheduled, client as u32)));
    }

    fn arrive(&mut self, now: Nanos, client: usize, reports: &mut [ClientReport]) {
        reports[client].arrived += 1;
        match self.sources[client].arrive(now) {
            Arrived::Ask => self.ask(now, client, now),
            Arrived::Waits => {}
            Arrived::Replaces => reports[client].dropped += 1,
            Arrived::Unsent => reports[client].unsent += 1,
        }
        if let Some(at) = self.sources[client].following() {
            self.schedule(at, client);
        }
    }

    fn ask(&mut self, now: Nanos, client: usize, scheduled: Nanos) {
        let source = &mut self.sources[client];
        let (model, class) = (source.client.model, source.client.class);
        let work = source.work(&self.fleet.models[model].service);
        let deadline = source.client.enforced_deadline.map(|deadline| scheduled + deadline);
        let request = |id| Request {
            model: id,
            plan: 0,
            class,
            arrival: now,
            deadline,
            queue_until: None,
            joins: None,
        };
        let replicas = &self.replicas[model];
        let (device, id) = match replicas[..] {
            [only] => only,
            _ => {
                self.offers.clear();
                for &(device, id) in replicas {
                    let forecast = self.devices[device].forecast(now, &request(id));
                    self.offers.push(Offer { device, forecast });
                }
                let picked = self.router.pick(&self.offers).expect("no device is out of service");
                *replicas.iter().find(|(device, _)| *device == picked).expect("it offered")
            }
        };
        let info = Info { client: client as u32, scheduled, work };
        self.devices[device].submit(now, request(id), info, &mut self.answers);
    }

    fn take_answers(&mut self, now: Nanos, reports: &mut [ClientReport]) {
        while let Some(answer) = self.answers.pop() {
            let client = answer.client as usize;
            let completed = answer.outcome == Outcome::Completed;
            reports[client].count(
                answer.outcome,
                now.since(answer.scheduled),
                self.fleet.clients[client].deadline,
            );
            if let Some(scheduled) = self.sources[client].answered() {
                self.ask(now, client, scheduled);
            }
            if let Some(at) = self.sources[client].again(now, completed) {
                self.schedule(at, client);
            }
            if completed {
                self.follow(now, client);
            }
        }
    }

    /// Clients that ask after this one's answers.
    fn follow(&mut self, now: Nanos, client: usize) {
        for follower in 0..self.sources.len() {
            if let ArrivalSpec::After { client: other, think } = self.sources[follower].client.arrivals
                && other == client
            {
                self.schedule(now + Nanos::from(think), follower);
            }
        }
    }
}

/// Puts a model on its devices.
fn place(fleet: &Fleet, model: usize, devices: &mut [Device]) -> Vec<(usize, ModelId)> {
    let asks = fleet.clients.iter().filter(|client| client.model == model);
    let class = asks.map(|client| client.class).min().unwrap_or(Class::BestEffort);
    let weight = fleet.models[model].weight;
    let has = |device: &usize| fleet.devices[*device].models.contains(&model);
    let add = |device: usize| {
        let options = ModelOptions { class, weight, ..ModelOptions::default() };
        let id = devices[device].sched.add_model(options);
        (device, id.unwrap_or_else(|| panic!("a fleet has at most {} models", limits::MODELS_MAX)))
    };
    (0..fleet.devices.len()).filter(has).map(add).collect()
}
