//! What the REEF paper (OSDI 2022) reports on an AMD MI50, to be shown beside what was measured here. Ratios
//! refer to RT-Only, the device dedicated to real-time tasks.

/// The paper's figures for one workload; a range where it gives one for several workloads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// The workload.
    pub workload: &'static str,
    /// REEF: mean real-time latency.
    pub reef_latency: &'static str,
    /// REEF: overall throughput.
    pub reef_throughput: &'static str,
    /// Sequential execution: mean real-time latency.
    pub sequential_latency: &'static str,
    /// Sequential execution: overall throughput.
    pub sequential_throughput: &'static str,
    /// Several streams: mean real-time latency.
    pub streams_latency: &'static str,
    /// Several streams: overall throughput.
    pub streams_throughput: &'static str,
}

const C_TO_E_SEQUENTIAL: (&str, &str) = ("1.51–1.86×", "1.34–2.10×");
const C_TO_E_STREAMS: (&str, &str) = ("2.65–3.31×", "3.94–8.19×");

const fn many(workload: &'static str, reef_latency: &'static str, reef_throughput: &'static str) -> Figures {
    Figures {
        workload,
        reef_latency,
        reef_throughput,
        sequential_latency: C_TO_E_SEQUENTIAL.0,
        sequential_throughput: C_TO_E_SEQUENTIAL.1,
        streams_latency: C_TO_E_STREAMS.0,
        streams_throughput: C_TO_E_STREAMS.1,
    }
}

/// Section 7.2, figure 11 and the text beside it.
pub const FIGURES: [Figures; 6] = [
    Figures {
        workload: "A",
        reef_latency: "1.005×",
        reef_throughput: "1.60×",
        sequential_latency: "1.95×",
        sequential_throughput: "1.46×",
        streams_latency: "1.84×",
        streams_throughput: "1.66×",
    },
    Figures {
        workload: "B",
        reef_latency: "1.01×",
        reef_throughput: "1.14×",
        sequential_latency: "1.12×",
        sequential_throughput: "0.96×",
        streams_latency: "1.70×",
        streams_throughput: "0.76×",
    },
    many("C", "≤ 1.015×", "close to streams"),
    many("D", "≤ 1.015×", "3.00×"),
    many("E", "≤ 1.015×", "2.96×"),
    Figures {
        workload: "REAL",
        reef_latency: "< 1.02×",
        reef_throughput: "7.7×",
        sequential_latency: "1.35×",
        sequential_throughput: "3.6×",
        streams_latency: "3.35×",
        streams_throughput: "8.3×",
    },
];

/// Preemption latency on the MI50, microseconds: reset-based, for every model and however many kernels were
/// launched (section 7.3).
pub const RESET_PREEMPT_US: (f64, f64) = (35.0, 38.0);

/// The same, wait-based: from VGG to ResNet-152.
pub const WAIT_PREEMPT_US: (f64, f64) = (268.0, 790.0);

/// Restoring a preempted task, microseconds, and as a share of the task (VGG: 5.1 %).
pub const RESTORE_US: (f64, f64) = (70.0, 245.0);

/// Choosing a best-effort kernel, microseconds: one client, five clients (section 7.4).
pub const SELECT_US: (f64, f64) = (0.2, 0.4);

/// What the paper says of a workload.
pub fn figures(workload: &str) -> Option<&'static Figures> {
    FIGURES.iter().find(|figures| figures.workload == workload)
}
