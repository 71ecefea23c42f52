//! The GPU behind queues: order, places, flag and kill; nothing is lost whatever is done to it.

use reef_base::{Nanos, Rng};
use reef_sim::GpuConstants;
use reef_sim::profile::Model;
use reef_sim::queued::{End, Ended, Gpu, NoPadding, StreamId, StreamSpec};

fn spec(capacity: u32) -> StreamSpec {
    StreamSpec { capacity, evictable: true, padded: false }
}

fn mi50() -> GpuConstants {
    GpuConstants::built_in("mi50").unwrap()
}

/// Goes on until nothing is left to happen, or `until`.
fn go_on(gpu: &mut Gpu<&[Model]>, until: Nanos) -> Vec<(Nanos, Ended)> {
    let mut all = Vec::new();
    let mut ended = Vec::new();
    while let Some(next) = gpu.next_event().filter(|&next| next <= until) {
        assert!(next >= gpu.now(), "time goes on");
        gpu.advance(next, &mut NoPadding, &mut ended);
        all.extend(ended.drain(..).map(|ended| (next, ended)));
    }
    all
}

#[test]
fn kernels_of_a_stream_run_one_after_the_other_for_as_long_as_they_take() {
    let constants = mi50();
    let models = [Model::made_up(&constants, 50, Nanos::from_micros(100))];
    let mut gpu = Gpu::new(&constants, &models, &[spec(4)]);
    gpu.launch(StreamId(0), 0, 0, Nanos::ZERO, &mut NoPadding);
    let ended = go_on(&mut gpu, Nanos::MAX);
    let order: Vec<usize> = ended.iter().map(|(_, ended)| ended.launch.kernel).collect();
    assert_eq!(order, (0..50).collect::<Vec<_>>());
    assert!(ended.iter().all(|(_, ended)| ended.end == End::Done));
    let transmit = constants.queues.transmit_us.nanos();
    assert_eq!(ended[49].0, transmit + Nanos::from_micros(5_000), "no gaps but for the first launch");
}

#[test]
fn a_queue_of_one_place_waits_for_the_host_after_each_kernel() {
    let constants = mi50();
    let models = [Model::made_up(&constants, 50, Nanos::from_micros(100))];
    let mut gpu = Gpu::new(&constants, &models, &[spec(1)]);
    gpu.launch(StreamId(0), 0, 0, Nanos::ZERO, &mut NoPadding);
    let ended = go_on(&mut gpu, Nanos::MAX);
    let gap = constants.queues.notice_us.nanos().0 + constants.queues.transmit_us.nanos().0;
    let all = constants.queues.transmit_us.nanos().0 + 50 * 100_000 + 49 * gap;
    assert_eq!(ended[49].0, Nanos(all));
}

#[test]
fn two_streams_share_the_device_as_two_blocks_share_a_unit() {
    let constants = mi50();
    let models = [Model::made_up(&constants, 1, Nanos::from_micros(100))];
    let mut gpu = Gpu::new(&constants, &models, &[spec(4), spec(4)]);
    gpu.launch(StreamId(0), 0, 0, Nanos::ZERO, &mut NoPadding);
    gpu.launch(StreamId(1), 0, 0, Nanos::ZERO, &mut NoPadding);
    let ended = go_on(&mut gpu, Nanos::MAX);
    let alone = constants.queues.transmit_us.nanos() + Nanos::from_micros(100);
    // Each fills the device, so both take twice as long, and what they cost each other beyond that.
    assert!(ended[1].0.0 as f64 > alone.0 as f64 * 1.95, "{ended:?}");
    assert!(ended[1].0.0 as f64 <= alone.0 as f64 * 2.0 * (1.0 + constants.sharing.contention) + 5_000.0);
}

#[test]
fn what_has_not_begun_sees_the_flag_and_what_runs_is_killed() {
    let constants = mi50();
    let models = [Model::made_up(&constants, 50, Nanos::from_micros(100))];
    let mut gpu = Gpu::new(&constants, &models, &[spec(4)]);
    gpu.launch(StreamId(0), 0, 0, Nanos::ZERO, &mut NoPadding);
    let at = Nanos::from_micros(1_050);
    let before = go_on(&mut gpu, at).len();
    gpu.advance(at, &mut NoPadding, &mut Vec::new());
    let on_host = gpu.reset_host(StreamId(0));
    gpu.set_flag(at);
    gpu.kill(at + Nanos::from_micros(2));
    let after = go_on(&mut gpu, Nanos::MAX);
    let ends: Vec<End> = after.iter().map(|(_, ended)| ended.end).collect();
    assert_eq!(
        ends,
        [End::Killed, End::Evicted, End::Evicted, End::Evicted],
        "the running one, and three behind"
    );
    assert_eq!(before + after.len() + on_host, 50);
    assert!(gpu.is_empty(StreamId(0)));
    let costs = constants.preemption;
    let leave = costs.evict_first_us.nanos().0 + 3 * costs.evict_us.nanos().0;
    assert_eq!(after[3].0, at + Nanos::from_micros(2) + Nanos(leave));
    gpu.clear_flag();
    gpu.launch(StreamId(0), 0, 49, Nanos::ZERO, &mut NoPadding);
    assert_eq!(go_on(&mut gpu, Nanos::MAX).last().unwrap().1.end, End::Done, "kernels run again");
}

#[test]
fn what_is_not_evictable_goes_on_beside_flag_and_kill() {
    let constants = mi50();
    let models = [Model::made_up(&constants, 20, Nanos::from_micros(100))];
    let own = StreamSpec { evictable: false, ..spec(4) };
    let mut gpu = Gpu::new(&constants, &models, &[own]);
    gpu.launch(StreamId(0), 0, 0, Nanos::ZERO, &mut NoPadding);
    gpu.set_flag(Nanos::ZERO);
    gpu.kill(Nanos::from_micros(500));
    assert!(go_on(&mut gpu, Nanos::MAX).iter().all(|(_, ended)| ended.end == End::Done));
}

/// Every kernel that is launched ends once, or was on the host when that was emptied.
#[test]
fn nothing_is_lost_and_nothing_ends_twice() {
    let constants = mi50();
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let models: Vec<Model> = (0..3)
            .map(|_| Model::made_up(&constants, 1 + rng.below(30) as u32, Nanos(1 + rng.below(200_000))))
            .collect();
        let streams = 1 + rng.below(6) as usize;
        let specs: Vec<StreamSpec> = (0..streams)
            .map(|_| StreamSpec { evictable: rng.below(3) > 0, ..spec(1 + rng.below(8) as u32) })
            .collect();
        let mut gpu = Gpu::new(&constants, &models, &specs);
        let (mut launched, mut over) = (0, 0);
        let mut ended = Vec::new();
        for _ in 0..300 {
            let stream = StreamId(rng.below(streams as u64) as usize);
            match rng.below(12) {
                0..4 => {
                    let model = rng.below(3) as usize;
                    let from = rng.below(models[model].kernels.len() as u64) as usize;
                    gpu.launch(stream, model, from, Nanos(rng.below(50_000)), &mut NoPadding);
                    launched += models[model].kernels.len() - from;
                }
                4 => over += gpu.reset_host(stream),
                5 => gpu.set_flag(gpu.now() + Nanos(rng.below(20_000))),
                6 => gpu.clear_flag(),
                7 => gpu.kill(gpu.now() + Nanos(rng.below(20_000))),
                _ => {
                    let until = gpu.now() + Nanos(rng.below(300_000));
                    while let Some(next) = gpu.next_event().filter(|&next| next <= until) {
                        gpu.advance(next, &mut NoPadding, &mut ended);
                    }
                }
            }
        }
        gpu.clear_flag();
        while let Some(next) = gpu.next_event() {
            gpu.advance(next, &mut NoPadding, &mut ended);
        }
        assert_eq!(over + ended.len(), launched, "seed {seed}");
        assert_eq!(gpu.kernels_ended(), ended.len() as u64, "seed {seed}");
        assert!((0..streams).all(|at| gpu.is_empty(StreamId(at))), "seed {seed}");
    }
}
