//! Seeded weights, made while they are written, so that memory holds one row of one tensor at a time.
//!
//! A tensor's values depend on the model's name, the seed and the tensor's name and shape, and on nothing
//! else: a graph may gain or reorder tensors without changing the others. Arithmetic is integer until the
//! last step and uses no transcendental function, so the bits are the same on every machine.

use std::io::{self, Write};

use reef_base::Rng;

/// A tensor that the file carries, described but not yet made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weight {
    pub(crate) name: String,
    /// Extents; empty for a scalar.
    pub(crate) dims: Vec<usize>,
    pub(crate) fill: Fill,
    pub(crate) role: Role,
}

/// What a framework would call the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Trained: counted by [`crate::Model::param_count`].
    Parameter,
    /// Saved but not trained: running statistics, position numbers.
    Buffer,
    /// Written by the exporter: shapes, scalars.
    Constant,
}

/// The values of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fill {
    /// One filter per index of the first axis: bell-shaped, its root mean square exactly `std` before the
    /// share `centring` of the filter's own mean is taken away. Exact norms keep narrow models as well scaled
    /// as wide ones.
    Filters { std: f32, centring: f32 },
    /// Bell-shaped.
    Bell { mean: f32, std: f32 },
    /// Uniform in `low..high`.
    Uniform { low: f32, high: f32 },
    /// These values.
    F32(Vec<f32>),
    /// These values.
    I64(Vec<i64>),
}

impl Weight {
    /// Number of elements.
    pub(crate) fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Bytes that [`Self::write_data`] writes.
    pub(crate) fn data_bytes(&self) -> usize {
        self.elements() * if matches!(self.fill, Fill::I64(_)) { 8 } else { 4 }
    }

    /// Writes the values in little endian, row major.
    pub(crate) fn write_data(&self, model: &str, seed: u64, out: &mut impl Write) -> io::Result<()> {
        let mut rng = Rng::new(stream(model, seed, &self.name));
        match &self.fill {
            Fill::Filters { std, centring } => {
                let rows = self.dims[0];
                let mut row = vec![0.0; self.elements() / rows];
                (0..rows).try_for_each(|_| {
                    fill_filter(&mut row, *std, *centring, &mut rng);
                    write_f32(&row, out)
                })
            }
            Fill::Bell { mean, std } => self.write_each(|| mean + std * bell(&mut rng), out),
            Fill::Uniform { low, high } => {
                self.write_each(|| low + (high - low) * rng.unit_f64() as f32, out)
            }
            Fill::F32(values) => write_f32(values, out),
            Fill::I64(values) => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
        }
    }

    fn write_each(&self, mut next: impl FnMut() -> f32, out: &mut impl Write) -> io::Result<()> {
        const CHUNK: usize = 16 * 1024;
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut left = self.elements();
        while left > 0 {
            chunk.clear();
            chunk.extend((0..left.min(CHUNK)).map(|_| next()));
            write_f32(&chunk, out)?;
            left -= chunk.len();
        }
        Ok(())
    }
}

/// The seed of one tensor's numbers: FNV-1a over what names it.
fn stream(model: &str, seed: u64, tensor: &str) -> u64 {
    let bytes = model.bytes().chain([0]).chain(tensor.bytes()).chain(seed.to_le_bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// A number with mean 0, variance 1 and no tail beyond 3.47: the sum of four uniform 16-bit numbers.
fn bell(rng: &mut Rng) -> f32 {
    const MEAN: i32 = 4 * 0xFFFF / 2;
    // sqrt(4 × (65536² - 1) / 12)
    const STD: f32 = 37_837.227;
    let bits = rng.next_u64();
    let sum = (0..4).map(|lane| (bits >> (16 * lane)) as u16).fold(0, |sum, lane| sum + i32::from(lane));
    (sum - MEAN) as f32 / STD
}

fn fill_filter(row: &mut [f32], std: f32, centring: f32, rng: &mut Rng) {
    let (mut sum, mut squares) = (0.0_f64, 0.0_f64);
    for weight in row.iter_mut() {
        *weight = bell(rng);
        sum += f64::from(*weight);
        squares += f64::from(*weight) * f64::from(*weight);
    }
    let count = row.len() as f64;
    let scale = f64::from(std) / (squares / count).sqrt().max(1e-3);
    // A lone weight is its own mean: centring would take it away.
    let mean = if row.len() > 1 { f64::from(centring) * sum / count } else { 0.0 };
    for weight in row.iter_mut() {
        *weight = ((f64::from(*weight) - mean) * scale) as f32;
    }
}

fn write_f32(values: &[f32], out: &mut impl Write) -> io::Result<()> {
    const CHUNK: usize = 4096;
    let mut bytes = [0_u8; 4 * CHUNK];
    for part in values.chunks(CHUNK) {
        for (to, value) in bytes.chunks_exact_mut(4).zip(part) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        out.write_all(&bytes[..4 * part.len()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(fill: Fill, dims: &[usize], seed: u64) -> Vec<f32> {
        let weight = Weight { name: "w".to_string(), dims: dims.to_vec(), fill, role: Role::Parameter };
        let mut bytes = Vec::new();
        weight.write_data("m", seed, &mut bytes).unwrap();
        assert_eq!(bytes.len(), weight.data_bytes());
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn bells_have_the_asked_mean_and_deviation() {
        let sample = values(Fill::Bell { mean: 3.0, std: 2.0 }, &[40_000], 1);
        let mean = sample.iter().sum::<f32>() / 40_000.0;
        let variance = sample.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 40_000.0;
        assert!((mean - 3.0).abs() < 0.05 && (variance - 4.0).abs() < 0.1, "{mean} {variance}");
    }

    #[test]
    fn filters_have_exact_norms_and_lose_their_mean() {
        let rows = values(Fill::Filters { std: 0.5, centring: 0.0 }, &[3, 10], 1);
        for row in rows.chunks(10) {
            let square = row.iter().map(|x| x * x).sum::<f32>() / 10.0;
            assert!((square - 0.25).abs() < 1e-5);
        }
        let rows = values(Fill::Filters { std: 0.5, centring: 1.0 }, &[3, 10], 1);
        assert!(rows.chunks(10).all(|row| row.iter().sum::<f32>().abs() < 1e-5));
    }

    #[test]
    fn seeds_and_names_give_different_numbers() {
        let fill = Fill::Uniform { low: -1.0, high: 1.0 };
        assert_eq!(values(fill.clone(), &[100], 1), values(fill.clone(), &[100], 1));
        assert_ne!(values(fill.clone(), &[100], 1), values(fill, &[100], 2));
        assert_ne!(stream("a", 1, "b"), stream("ab", 1, ""));
    }
}
