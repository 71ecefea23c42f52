//! The constants of a simulated GPU: a TOML file, in which each says where it comes from.

use reef_base::Nanos;
use serde::Deserialize;

use crate::error::SimError;

/// A GPU with queues on the host and the device: see [`crate::queued`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuConstants {
    /// For people.
    pub name: String,
    /// Compute units.
    pub cus: u32,
    /// What measured times contain besides the kernel.
    pub measurement: Measurement,
    /// On the way to the compute units.
    pub queues: Queues,
    /// Taking the device back.
    pub preemption: Preemption,
    /// Kernels that pad another one.
    pub padding: Padding,
    /// Kernels of several streams at once.
    pub sharing: Sharing,
}

/// What measured times contain besides the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// Launch, and the wait for the end.
    pub edge_us: Micros,
}

/// On the way to the compute units.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queues {
    /// Kernels of a stream that its device queue holds, the running one included.
    pub capacity: u32,
    /// The same where nobody restricts it.
    pub capacity_unrestricted: u32,
    /// From the host queue to the device queue, for each kernel.
    pub transmit_us: Micros,
    /// From the end of a kernel until the host knows that its place is free.
    pub notice_us: Micros,
    /// Device queues that are served at the same time.
    pub pipes: u32,
}

/// Taking the device back.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preemption {
    /// Emptying a host queue, for each.
    pub reset_host_us: Micros,
    /// Freeing its memory at once, for each kernel.
    pub reclaim_us: Micros,
    /// Until kernels see the flag.
    pub flag_us: Micros,
    /// A kernel that ends at once, because it sees the flag.
    pub evict_us: Micros,
    /// Before the first of these.
    pub evict_first_us: Micros,
    /// Killing what runs; absent where the hardware cannot.
    pub kill_us: Option<Micros>,
    /// Launching the kernels of a preempted request again, before the first of them leaves the host.
    pub relaunch_us: Micros,
}

/// Kernels that pad another one.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Padding {
    /// Of a kernel's time, for launching it through a proxy.
    pub proxy_overhead: f64,
    /// Choosing, whatever there is to choose from.
    pub select_us: Micros,
    /// Choosing, for each candidate.
    pub select_candidate_us: Micros,
}

/// Kernels of several streams at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    /// Before a kernel starts while another stream's runs.
    pub dispatch_us: Micros,
    /// How much longer a kernel takes for each other one that runs, as a share of its time, beyond what
    /// sharing compute units costs.
    pub contention: f64,
}

/// A span in microseconds: finite, not negative, at most a second.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct Micros(f64);

impl Micros {
    const MAX: f64 = 1e6;

    /// To the nanosecond.
    pub fn nanos(self) -> Nanos {
        Nanos((self.0 * 1e3).round() as u64)
    }
}

impl TryFrom<f64> for Micros {
    type Error = String;

    fn try_from(micros: f64) -> Result<Micros, String> {
        if (0.0..=Micros::MAX).contains(&micros) {
            Ok(Micros(micros))
        } else {
            Err(format!("{micros} us, allowed are 0 to {}", Micros::MAX))
        }
    }
}

/// The devices whose constants are built in.
const BUILT_IN: [(&str, &str); 2] =
    [("mi50", include_str!("../data/mi50.toml")), ("v100", include_str!("../data/v100.toml"))];

impl GpuConstants {
    /// The names of the devices that are built in.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A device that is built in, by name.
    pub fn built_in(name: &str) -> Result<GpuConstants, SimError> {
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => GpuConstants::parse(name, text),
            None => {
                let known = BUILT_IN.map(|(known, _)| known).join(", ");
                Err(SimError::UnknownDevice { name: name.into(), known })
            }
        }
    }

    /// Reads constants; `name` is for errors.
    pub fn parse(name: &str, text: &str) -> Result<GpuConstants, SimError> {
        let wrong = |problem: String| SimError::Constants { name: name.into(), problem };
        let constants: GpuConstants = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        constants.check().map_err(wrong)?;
        Ok(constants)
    }

    fn check(&self) -> Result<(), String> {
        let counts = [
            ("cus", self.cus, 4096),
            ("queues.capacity", self.queues.capacity, 4096),
            ("queues.capacity_unrestricted", self.queues.capacity_unrestricted, 4096),
            ("queues.pipes", self.queues.pipes, 64),
        ];
        if let Some((key, value, most)) = counts.iter().find(|(_, value, most)| !(1..=*most).contains(value))
        {
            return Err(format!("{key} is {value}, allowed are 1 to {most}"));
        }
        if !(0.0..=1.0).contains(&self.padding.proxy_overhead) {
            return Err(format!(
                "padding.proxy_overhead is {}, allowed are 0 to 1",
                self.padding.proxy_overhead
            ));
        }
        if !(0.0..=10.0).contains(&self.sharing.contention) {
            return Err(format!("sharing.contention is {}, allowed are 0 to 10", self.sharing.contention));
        }
        Ok(())
    }
}
