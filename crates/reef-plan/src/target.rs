//! What a plan is compiled for.

use std::fmt;

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
}

impl Target {
    /// A CPU target.
    pub const fn cpu(isa: Isa, cus: usize) -> Target {
        Target { device: DeviceKind::Cpu, isa, cus, window: 0 }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{} cus/window {}", self.device, self.isa, self.cus, self.window)
    }
}
