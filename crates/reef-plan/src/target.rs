//! What a plan is compiled for.

use std::fmt;
use std::str::FromStr;

/// Kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Threads of this machine.
    Cpu,
    /// The virtual-time dummy.
    Dummy,
    /// A GPU of NVIDIA.
    Cuda,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Dummy => "dummy",
            DeviceKind::Cuda => "cuda",
        })
    }
}

/// Instruction set of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What every machine has.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// A GPU's compute capability, as in 90 for 9.0.
    Sm(u16),
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Isa::Portable => f.write_str("portable"),
            Isa::Avx2 => f.write_str("avx2"),
            Isa::Avx512 => f.write_str("avx512"),
            Isa::Sm(arch) => write!(f, "sm_{arch}"),
        }
    }
}

/// What convolutions and matrix products multiply: f32 elements, rounded to this. Sums are f32, and so is
/// what lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// To 10 bits behind the point, with f32's exponents.
    Tf32,
    /// To f16: 10 bits behind the point; beyond 65,504 is infinite.
    F16,
    /// To bf16: 7 bits behind the point, with f32's exponents.
    Bf16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 4] = [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16];

    /// Its name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Precision::ALL.into_iter().find(|precision| precision.name() == name);
        known.ok_or_else(|| {
            let names = Precision::ALL.map(|precision| format!("\"{precision}\""));
            format!("there is no precision \"{name}\"; there are {}", names.join(", "))
        })
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a plan is compiled for: a name for all that a device's [cutter](crate::Cutter) goes by. Outputs of
/// one plan do not depend on how many compute units run it; `cus` only guides how finely kernels are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Kind of device.
    pub device: DeviceKind,
    /// Instruction set.
    pub isa: Isa,
    /// Compute units to cut kernels for.
    pub cus: usize,
    /// Restart window: how many stages back a queued executor may restart. Inputs of the last `window` stages
    /// stay alive. 0 for a resident executor, which never goes back.
    pub window: usize,
    /// What is multiplied. A device runs plans of every precision that its cutters are asked for; its own
    /// target has f32.
    pub precision: Precision,
}

impl Target {
    /// A CPU target.
    pub const fn cpu(isa: Isa, cus: usize) -> Target {
        Target { device: DeviceKind::Cpu, isa, cus, window: 0, precision: Precision::F32 }
    }

    /// The same device, without regard to precision.
    pub const fn device(self) -> Target {
        Target { precision: Precision::F32, ..self }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{} cus/window {}", self.device, self.isa, self.cus, self.window)?;
        match self.precision {
            Precision::F32 => Ok(()),
            other => write!(f, "/{other}"),
        }
    }
}
