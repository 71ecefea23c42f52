//! A thread that has patience for a request does its work, and the request has ended when it is back.

mod doubles;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use doubles::*;
use reef_cpu::{CpuDevice, CpuOptions};
use reef_engine::*;

fn engine() -> Engine {
    let device = CpuDevice::start(CpuOptions::default()).unwrap();
    Engine::new(Arc::new(device), EngineOptions::default()).unwrap()
}

#[test]
fn a_short_request_has_ended_when_its_submitter_is_back() {
    let engine = engine();
    let plan = load(&engine, "m", real_time(0), 1);
    let mut context = Context::from_waker(Waker::noop());
    // The unit of the core where this thread runs need not sleep every time.
    let end = Instant::now() + Duration::from_secs(20);
    let mut count = 0;
    loop {
        let asked = request("m", &[7; 64]);
        let future = engine.submit_with_patience(&asked, Nanos::from_millis(1)).unwrap();
        count += 1;
        let mut future = pin!(future);
        match future.as_mut().poll(&mut context) {
            Poll::Ready(answer) => {
                assert_exact(&plan, &[7; 64], &answer.unwrap());
                break;
            }
            Poll::Pending => assert!(Instant::now() < end, "never"),
        }
        while future.as_mut().poll(&mut context).is_pending() {
            std::thread::yield_now();
        }
    }
    assert_eq!(engine.stats().models[0].real_time.success, count);
}

#[test]
fn patience_loses_nothing_whatever_the_class_and_however_many_ask() {
    let engine = engine();
    let plans =
        [load(&engine, "urgent", real_time(0), 1), load(&engine, "other", ModelSettings::default(), 1)];
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let (engine, plans) = (&engine, &plans);
            scope.spawn(move || {
                for i in 0..200u8 {
                    let model = usize::from(i % 3 == 0);
                    let data = [thread ^ i; 64];
                    let asked = request(["urgent", "other"][model], &data);
                    let patience = Nanos(u64::from(i % 4) * 100_000);
                    let future = engine.submit_with_patience(&asked, patience).unwrap();
                    match i % 5 {
                        0 => drop(future),
                        _ => assert_exact(&plans[model], &data, &future.wait().unwrap()),
                    }
                }
            });
        }
    });
    engine.shutdown(Duration::from_secs(20));
    assert!(engine.is_idle());
}
