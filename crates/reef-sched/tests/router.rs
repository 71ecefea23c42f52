//! Properties of the router, alone and above schedulers that run what it sends them.

use proptest::prelude::*;
use reef_base::{Class, Nanos};
use reef_sched::{
    Action, Forecast, ModelId, ModelOptions, Offer, Request, RequestId, Router, SAMPLES_MIN, SchedOptions,
    Scheduler, Usage,
};

fn forecast() -> impl Strategy<Value = Forecast> {
    (0u64..1000, 0u64..10_000, 0usize..20, 0usize..20, 0usize..20, any::<bool>()).prop_map(
        |(service, before, ahead, unmeasured, behind, room)| Forecast {
            service: Nanos(service),
            before: Nanos(before),
            ahead: ahead + unmeasured,
            unmeasured,
            behind,
            room,
        },
    )
}

proptest! {
    #[test]
    fn a_device_in_service_is_picked_and_none_that_is_out(
        rounds in proptest::collection::vec(proptest::collection::vec(forecast(), 1..5), 1..20),
        out in proptest::collection::vec(any::<bool>(), 5),
    ) {
        let mut router = Router::new(5);
        (0..5).filter(|&device| out[device]).for_each(|device| router.take_out(device));
        let mut again = router.clone();
        for forecasts in rounds {
            let offers = forecasts.into_iter().enumerate();
            let offers: Vec<Offer> = offers.map(|(device, forecast)| Offer { device, forecast }).collect();
            let picked = router.pick(&offers);
            prop_assert_eq!(picked, again.pick(&offers), "equal events, equal answers");
            let serving: Vec<&Offer> = offers.iter().filter(|offer| !out[offer.device]).collect();
            prop_assert_eq!(picked.is_some(), !serving.is_empty());
            let Some(picked) = picked else { continue };
            prop_assert!(!out[picked]);
            let own = offers[picked].forecast;
            // Nobody with everything measured and a place was to end earlier.
            let measured = |forecast: &Forecast| forecast.unmeasured == 0 && forecast.service > Nanos::ZERO;
            let end = |forecast: &Forecast| forecast.before + forecast.service;
            for offer in serving.iter().filter(|offer| offer.forecast.room && measured(&offer.forecast)) {
                prop_assert!(own.room);
                prop_assert!(!measured(&own) || end(&own) <= end(&offer.forecast));
            }
        }
    }
}

/// Devices that run one task at a time, the most urgent first, each with its own speed.
struct Pool {
    router: Router,
    lanes: Vec<(Scheduler, ModelId, Nanos)>,
    now: Nanos,
}

impl Pool {
    fn new(services: &[u64]) -> Pool {
        let lane = |&service: &u64| {
            let mut sched = Scheduler::new(SchedOptions::default());
            let options = ModelOptions { class: Class::real_time(0), ..ModelOptions::default() };
            let model = sched.add_model(options).unwrap();
            (sched, model, Nanos(service))
        };
        Pool {
            router: Router::new(services.len()),
            lanes: services.iter().map(lane).collect(),
            now: Nanos(1),
        }
    }

    fn request(&self, model: ModelId, class: Class) -> Request {
        let (arrival, deadline, queue_until) = (self.now, None, None);
        Request { model, plan: 0, class, arrival, deadline, queue_until, joins: None }
    }

    fn offers(&mut self, class: Class) -> Vec<Offer> {
        let now = self.now;
        let models: Vec<ModelId> = self.lanes.iter().map(|lane| lane.1).collect();
        let requests: Vec<Request> = models.into_iter().map(|model| self.request(model, class)).collect();
        let lanes = self.lanes.iter_mut().zip(requests).enumerate();
        lanes
            .map(|(device, (lane, request))| Offer { device, forecast: lane.0.forecast(now, &request, true) })
            .collect()
    }

    fn send(&mut self, class: Class) -> (usize, RequestId) {
        let offers = self.offers(class);
        let device = self.router.pick(&offers).unwrap();
        (device, self.put(device, class))
    }

    fn put(&mut self, device: usize, class: Class) -> RequestId {
        let request = self.request(self.lanes[device].1, class);
        let (now, sched) = (self.now, &mut self.lanes[device].0);
        let id = sched.submit(now, request).unwrap();
        while sched.next_action(now).is_some() {}
        id
    }

    fn complete(&mut self, device: usize, id: RequestId) {
        let (now, service) = (self.now, self.lanes[device].2);
        let sched = &mut self.lanes[device].0;
        let usage = Usage { cu_time: service, service: Some(service), stopped_after: None };
        sched.on_complete(now, id, usage).expect("it is on the board");
        while let Some(action) = sched.next_action(now) {
            assert!(matches!(action, Action::Start { .. }));
        }
        sched.check();
    }

    fn measure(&mut self) {
        for device in 0..self.lanes.len() {
            for _ in 0..SAMPLES_MIN {
                let id = self.put(device, Class::real_time(0));
                self.complete(device, id);
            }
        }
    }
}

#[test]
fn a_burst_is_shared_by_speed() {
    // One device is three times as fast.
    let mut pool = Pool::new(&[300, 100]);
    pool.measure();
    let picked: Vec<usize> = (0..8).map(|_| pool.send(Class::real_time(0)).0).collect();
    assert_eq!(picked.iter().filter(|&&device| device == 1).count(), 6, "{picked:?}");
}

#[test]
fn best_effort_work_does_not_drive_a_real_time_request_to_a_slower_device() {
    let mut pool = Pool::new(&[100, 101]);
    pool.measure();
    for _ in 0..10 {
        pool.put(0, Class::BestEffort);
    }
    assert_eq!(pool.send(Class::BestEffort).0, 1, "best-effort work goes where it waits less");
    let (device, id) = pool.send(Class::real_time(0));
    assert_eq!(device, 0, "what it displaces is not in its way");
    pool.complete(device, id);
    let offers = pool.offers(Class::real_time(0));
    assert_eq!((offers[0].forecast.before, offers[0].forecast.ahead), (Nanos::ZERO, 0));
    assert_eq!((offers[0].forecast.behind, offers[1].forecast.behind), (10, 1));
}

#[test]
fn nothing_is_known_at_first_and_a_burst_is_shared_all_the_same() {
    let mut pool = Pool::new(&[100, 100, 100]);
    let picked: Vec<usize> = (0..9).map(|_| pool.send(Class::BestEffort).0).collect();
    assert_eq!(picked, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_forecast_counts_what_is_as_urgent_and_earlier() {
    let mut pool = Pool::new(&[100]);
    pool.measure();
    for class in [Class::real_time(0), Class::real_time(0), Class::real_time(1), Class::BestEffort] {
        pool.put(0, class);
    }
    let seen = |pool: &mut Pool, class| {
        let forecast = pool.offers(class)[0].forecast;
        (forecast.ahead, forecast.behind, forecast.before.0, forecast.service.0)
    };
    assert_eq!(seen(&mut pool, Class::real_time(0)), (2, 2, 200, 100));
    assert_eq!(seen(&mut pool, Class::real_time(1)), (3, 1, 300, 100));
    assert_eq!(seen(&mut pool, Class::BestEffort), (4, 0, 400, 100));
    let (now, model) = (pool.now, pool.lanes[0].1);
    let request = pool.request(model, Class::BestEffort);
    assert_eq!(pool.lanes[0].0.forecast(now, &request, false).service, Nanos::ZERO);
}
