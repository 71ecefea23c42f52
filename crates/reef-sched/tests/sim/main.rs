//! The scheduler with a simulated device: what is admitted, and how the device is shared.

mod admission;
mod device;
mod fairness;
