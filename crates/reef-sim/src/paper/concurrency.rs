//! Figures 1 and 16: several streams at once, and instead.

use reef_base::Nanos;

use super::lab::{BERT, CLOSED, INCEPTION, Lab, NAMES, RESNET, VGG, mean, mean_ms, quantile_ms};
use super::preemption::REEF;
use super::{Basis, Figure, Printed};
use crate::clients::Arrivals;
use crate::server::Scheme;

pub(super) fn figure_1(lab: &Lab) -> Figure {
    let title =
        "VGG-19 as real-time and ResNet-152 as best-effort model under schemes that were there before";
    let mut figure = Figure::new("Fig. 1", title);
    let fixed =
        |rate_hz: u64| Arrivals::Periodic { period: Nanos(1_000_000_000 / rate_hz), phase: Nanos::ZERO };
    let per_s = lab.length.as_millis_f64() / 1e3;
    let alone = lab.alone_ms(VGG);
    figure.predicts("(b) alone: latency", "ms", alone, Some(Printed::value(4.0)));
    for clients in 1..=5 {
        let mut all = vec![lab.real_time(VGG)];
        all.extend(vec![lab.best_effort(RESNET); clients]);
        let mut arrivals = vec![fixed(100)];
        arrivals.extend(vec![CLOSED; clients]);
        let streams = lab.play(&all, &arrivals, Scheme::Streams);
        let throughput = streams.requests() as f64 / per_s;
        figure.predicts(
            format!("(a) streams, {clients} best-effort clients: throughput"),
            "1/s",
            throughput,
            None,
        );
        let latencies = &streams.latencies[0];
        figure.predicts(
            format!("(b) streams, {clients}: median latency"),
            "ms",
            quantile_ms(latencies, 0.5),
            None,
        );
        figure.predicts(
            format!("(b) streams, {clients}: 99th percentile"),
            "ms",
            quantile_ms(latencies, 0.99),
            None,
        );
        let wait = lab.play(&all, &arrivals, Scheme::Wait);
        figure.predicts(
            format!("(c) wait-based, {clients}: mean latency"),
            "ms",
            mean_ms(&wait.latencies[0]),
            None,
        );
    }
    for rate_hz in [25, 50, 100, 150, 200, 220] {
        let clients = [lab.real_time(VGG), lab.best_effort(RESNET)];
        let wait = lab.play(&clients, &[fixed(rate_hz), CLOSED], Scheme::Wait);
        let best_effort = wait.latencies[1].len() as f64 / per_s;
        let starved = (rate_hz == 220).then(|| Printed::below(1.0));
        let what = format!("(d) wait-based, {rate_hz} real-time requests/s: best-effort throughput");
        figure.predicts(what, "1/s", best_effort, starved);
    }
    figure.note(
        "The tail \"close to 50 ms\" of (b) is a single number of a drawn curve. Here kernels that meet \
         share evenly, so all requests take about as long.",
    );
    figure
}

pub(super) fn figure_16(lab: &Lab) -> Figure {
    let mut figure = Figure::new("Fig. 16", "Two models at once, each without pause");
    let alone: Vec<f64> = (0..lab.models.len()).map(|model| lab.alone_ms(model)).collect();
    let per_ms = lab.length.as_millis_f64();
    // Latency and throughput of real-time requests over those alone, and all work over that alone.
    let measure = |real_time: usize, best_effort: usize, scheme| {
        let clients = [lab.real_time(real_time), lab.best_effort(best_effort)];
        let played = lab.play(&clients, &[CLOSED, CLOSED], scheme);
        let urgent = mean_ms(&played.latencies[0]) / alone[real_time];
        let own = played.latencies[0].len() as f64 * alone[real_time] / per_ms;
        let other = played.latencies[1].len() as f64 * alone[best_effort] / per_ms;
        [urgent, own, own + other]
    };
    let pairs: Vec<(usize, usize)> =
        (0..NAMES.len()).flat_map(|first| (0..NAMES.len()).map(move |second| (first, second))).collect();
    let of = |scheme| -> Vec<[f64; 3]> {
        pairs.iter().map(|&(real_time, best_effort)| measure(real_time, best_effort, scheme)).collect()
    };
    let (streams, reef) = (of(Scheme::Streams), of(REEF));
    let average = |of: &[[f64; 3]], at: usize| mean(of.iter().map(|row| row[at]));
    let (least, most) =
        streams.iter().fold((f64::MAX, 0.0f64), |(low, high), row| (low.min(row[0]), high.max(row[0])));
    figure.row(
        Basis::Fitted,
        "streams: latency, average",
        "",
        average(&streams, 0),
        Some(Printed::value(1.35)),
    );
    figure.predicts("streams: latency, least", "", least, Some(Printed::value(1.04)));
    figure.predicts("streams: latency, most", "", most, Some(Printed::value(1.70)));
    let loss = 1.0 - average(&streams, 1);
    figure.predicts("streams: real-time throughput lost", "", loss, Some(Printed::value(0.244)));
    figure.predicts("streams: all work, average", "", average(&streams, 2), Some(Printed::value(1.52)));
    let most = reef.iter().map(|row| row[0]).fold(0.0, f64::max);
    figure.predicts("reef: latency, average", "", average(&reef, 0), Some(Printed::value(1.01)));
    figure.predicts("reef: latency, most", "", most, Some(Printed::below(1.03)));
    let all_work = |real_time: usize| {
        mean(pairs.iter().zip(&reef).filter(|(pair, _)| pair.0 == real_time).map(|(_, row)| row[2]))
    };
    let of_vgg = reef[pairs.iter().position(|&pair| pair == (VGG, RESNET)).expect("it is a pair")][2];
    figure.predicts("reef: VGG-19 padded with ResNet-152, all work", "", of_vgg, Some(Printed::value(1.41)));
    let hardly = (all_work(INCEPTION) + all_work(BERT)) / 2.0;
    figure.predicts(
        "reef: Inception and Bert padded, all work, average",
        "",
        hardly,
        Some(Printed::value(1.06)),
    );
    for (model, name) in NAMES.iter().enumerate() {
        figure.predicts(format!("reef: {name} padded, all work, average"), "", all_work(model), None);
    }
    figure
}
