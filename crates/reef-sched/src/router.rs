//! Which device a request goes to, where several serve its model.
//!
//! A pure state machine above the schedulers: it is told which devices are out of service, is asked with what
//! each of the others forecasts for a request, and answers with one of them. Knows no clock, device, model or
//! lock.
//!
//! The device with the earliest expected end gets the request, whatever that does to the balance of load:
//! what is less urgent than a request counts for nothing in its forecast, and decides between equals alone.
//! The end is expected after what goes before it and its own service; a request of which nothing was measured
//! counts as much as one of this model does on the device where the model is fastest, so that neither a
//! device nor a model about which nothing is known yet looks as if it were free. A queue that is full comes
//! after every one that is not.
//!
//! Equals: who has fewer requests ahead, then fewer behind, then whose turn it is.

use reef_base::Nanos;

use crate::types::Forecast;

/// What one device offers for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The device's number.
    pub device: usize,
    /// What its scheduler forecasts.
    pub forecast: Forecast,
}

/// Picks devices for requests.
#[derive(Clone, Debug)]
pub struct Router {
    /// By device, whether it is out of service.
    out: Vec<bool>,
    /// Whose turn it is among equals.
    turn: usize,
}

impl Router {
    /// A router of so many devices, all in service.
    pub fn new(devices: usize) -> Self {
        Router { out: vec![false; devices], turn: 0 }
    }

    /// A device is out of service from now on.
    pub fn take_out(&mut self, device: usize) {
        self.out[device] = true;
    }

    /// Whether a device is out of service.
    pub fn is_out(&self, device: usize) -> bool {
        self.out[device]
    }

    /// Whether no device is in service.
    pub fn all_out(&self) -> bool {
        self.out.iter().all(|&out| out)
    }

    /// The device that the request goes to; `None` when those that offer are all out of service.
    pub fn pick(&mut self, offers: &[Offer]) -> Option<usize> {
        let fastest = offers.iter().map(|offer| offer.forecast.service).filter(|&time| time > Nanos::ZERO);
        let usual = fastest.min().unwrap_or_default();
        let devices = self.out.len();
        let distance = |device: usize| (device + devices - self.turn % devices) % devices;
        let rank = |offer: &&Offer| {
            let Forecast { ahead, behind, room, .. } = offer.forecast;
            (!room, expected_end(&offer.forecast, usual), ahead, behind, distance(offer.device))
        };
        let picked = offers.iter().filter(|offer| !self.out[offer.device]).min_by_key(rank)?.device;
        self.turn = picked + 1;
        Some(picked)
    }
}

/// From now until a request is expected to end, where `usual` stands for what was not measured.
fn expected_end(forecast: &Forecast, usual: Nanos) -> u128 {
    let known = |time: Nanos| if time == Nanos::ZERO { usual } else { time };
    let unmeasured = u128::from(usual.0) * forecast.unmeasured as u128;
    u128::from(forecast.before.0) + unmeasured + u128::from(known(forecast.service).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(device: usize, service: u64, before: u64) -> Offer {
        let (service, before) = (Nanos(service), Nanos(before));
        Offer { device, forecast: Forecast { service, before, room: true, ..Forecast::default() } }
    }

    fn with(mut offer: Offer, change: impl FnOnce(&mut Forecast)) -> Offer {
        change(&mut offer.forecast);
        offer
    }

    #[test]
    fn the_earliest_expected_end_wins_whatever_the_load() {
        let mut router = Router::new(3);
        // A slow device that is free, a fast one with work.
        assert_eq!(router.pick(&[offer(0, 100, 0), offer(1, 30, 60)]), Some(1));
        assert_eq!(router.pick(&[offer(0, 100, 0), offer(1, 30, 80)]), Some(0));
        // Less urgent work does not count against a device.
        let loaded = with(offer(2, 30, 0), |forecast| forecast.behind = 1000);
        assert_eq!(router.pick(&[offer(0, 31, 0), loaded]), Some(2));
        let idle = offer(0, 30, 0);
        assert_eq!(router.pick(&[idle, loaded]), Some(0), "but for equals");
    }

    #[test]
    fn what_was_not_measured_is_not_free() {
        let mut router = Router::new(2);
        let unknown = with(offer(1, 0, 0), |forecast| (forecast.ahead, forecast.unmeasured) = (3, 3));
        assert_eq!(router.pick(&[offer(0, 100, 250), unknown]), Some(0));
        assert_eq!(router.pick(&[offer(0, 100, 350), unknown]), Some(1));
        // Nothing is known of anybody: the shorter line, then turns.
        let line = |device, ahead| with(offer(device, 0, 0), |forecast| forecast.ahead = ahead);
        assert_eq!(router.pick(&[line(0, 2), line(1, 1)]), Some(1));
        let turns: Vec<_> = (0..4).map(|_| router.pick(&[line(0, 0), line(1, 0)]).unwrap()).collect();
        assert_eq!(turns, [0, 1, 0, 1]);
    }

    #[test]
    fn full_queues_come_last_and_devices_that_are_out_never() {
        let mut router = Router::new(2);
        let full = with(offer(0, 10, 0), |forecast| forecast.room = false);
        assert_eq!(router.pick(&[full, offer(1, 10, 1_000_000)]), Some(1));
        assert_eq!(router.pick(&[full]), Some(0), "its scheduler says why");
        router.take_out(1);
        assert_eq!(router.pick(&[full, offer(1, 10, 0)]), Some(0));
        assert!(router.is_out(1) && !router.all_out());
        router.take_out(0);
        assert_eq!(router.pick(&[full, offer(1, 10, 0)]), None);
        assert!(router.all_out());
        assert_eq!(router.pick(&[]), None);
    }
}
