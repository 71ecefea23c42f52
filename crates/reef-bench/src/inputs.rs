//! Bytes to feed to a model of which only types and shapes are known: seeded, of order 1 for floats, small
//! and valid as token ids and masks for integers.

use reef_base::Rng;

/// Fills `bytes` with little-endian elements of `datatype`, named as the Open Inference Protocol does. Floats
/// are normal with variance 1; every other type gets ones, which every benchmark model takes as ids and
/// masks.
pub fn fill(datatype: &str, bytes: &mut [u8], rng: &mut Rng) {
    match datatype {
        "FP32" => bytes
            .chunks_exact_mut(4)
            .for_each(|element| element.copy_from_slice(&rng.normal_f32().to_le_bytes())),
        "FP64" => bytes
            .chunks_exact_mut(8)
            .for_each(|element| element.copy_from_slice(&f64::from(rng.normal_f32()).to_le_bytes())),
        _ => {
            let size = element_bytes(datatype).unwrap_or(1);
            bytes.chunks_exact_mut(size).for_each(|element| {
                element.fill(0);
                element[0] = 1;
            });
        }
    }
}

/// Bytes of one element of `datatype`; `None` for a type without a fixed size or an unknown one.
pub fn element_bytes(datatype: &str) -> Option<usize> {
    match datatype {
        "FP64" | "INT64" | "UINT64" => Some(8),
        "FP32" | "INT32" | "UINT32" => Some(4),
        "FP16" | "BF16" | "INT16" | "UINT16" => Some(2),
        "INT8" | "UINT8" | "BOOL" => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_valid_and_fixed_by_the_seed() {
        let make = |datatype, seed| {
            let mut bytes = vec![0xFF; 32];
            fill(datatype, &mut bytes, &mut Rng::new(seed));
            bytes
        };
        assert_eq!(make("FP32", 1), make("FP32", 1));
        assert_ne!(make("FP32", 1), make("FP32", 2));
        let floats = make("FP32", 1);
        assert!(floats.chunks_exact(4).all(|f| f32::from_le_bytes(f.try_into().unwrap()).is_normal()));
        let ids = make("INT64", 1);
        assert!(ids.chunks_exact(8).all(|id| i64::from_le_bytes(id.try_into().unwrap()) == 1));
        assert_eq!(make("UINT8", 1), [1; 32]);
    }
}
