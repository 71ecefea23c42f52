//! Probabilities of classes from those of pairs of them, as classifiers by support vectors have them: a host
//! kernel, because how often a row is improved depends on its numbers.
//!
//! The method is that of Wu, Lin and Weng, "Probability Estimates for Multi-class Classification by Pairwise
//! Coupling" (2004), the second, with the bounds and the precision that libsvm and ONNX Runtime give it.

use reef_graph::{DType, Shape};
use reef_plan::{HostFault, HostKernel, HostState, TensorSpec};

/// What the error may be, for one class.
const ERROR_MAX: f32 = 0.005;

/// Rounds of a row at least; as many as there are classes, if these are more.
const ROUNDS_MIN: usize = 100;

/// Pairs of so many classes.
pub(crate) fn pairs(classes: usize) -> usize {
    classes * classes.saturating_sub(1) / 2
}

/// From rows of probabilities that the first of two classes is the right one, `[rows, pairs]` with the pairs
/// in order, rows of probabilities of classes.
#[derive(Debug)]
pub(crate) struct Coupling {
    classes: usize,
    inputs: [TensorSpec; 1],
    outputs: [TensorSpec; 1],
}

impl Coupling {
    pub fn new(rows: usize, classes: usize) -> Coupling {
        let spec = |columns| TensorSpec { dtype: DType::F32, shape: Shape::from([rows, columns]) };
        Coupling { classes, inputs: [spec(pairs(classes))], outputs: [spec(classes)] }
    }
}

impl HostKernel for Coupling {
    fn name(&self) -> &str {
        "SVMClassifier"
    }

    fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    fn new_state(&self) -> Result<Box<dyn HostState>, HostFault> {
        Ok(Box::new(Row::new(self.classes)))
    }
}

/// What a row needs, once for all.
struct Row {
    classes: usize,
    /// By two classes: that it is the first of them, and the matrix of which the minimum is looked for.
    either: Vec<f32>,
    q: Vec<f32>,
    qp: Vec<f32>,
}

impl HostState for Row {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), HostFault> {
        let floats = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|&element| f32::from_le_bytes(element)).collect()
        };
        let (pairs, made) = (floats(inputs[0]), outputs[0].as_chunks_mut::<4>().0);
        let mut estimates = vec![0.0; self.classes];
        for (row, made) in pairs.chunks_exact(pairs_of(self)).zip(made.chunks_exact_mut(self.classes)) {
            self.couple(row, &mut estimates);
            made.iter_mut().zip(&estimates).for_each(|(place, value)| *place = value.to_le_bytes());
        }
        Ok(())
    }
}

fn pairs_of(row: &Row) -> usize {
    pairs(row.classes)
}

impl Row {
    fn new(classes: usize) -> Row {
        let square = vec![0.0; classes * classes];
        Row { classes, either: square.clone(), q: square, qp: vec![0.0; classes] }
    }

    /// The probabilities of one row.
    fn couple(&mut self, row: &[f32], p: &mut [f32]) {
        let k = self.classes;
        let mut pair = row.iter();
        for i in 0..k {
            for j in i + 1..k {
                let first = *pair.next().expect("there is one for each pair");
                (self.either[i * k + j], self.either[j * k + i]) = (first, 1.0 - first);
            }
        }
        for t in 0..k {
            let r = |i: usize, j: usize| self.either[i * k + j];
            self.q[t * k + t] = (0..k).filter(|&j| j != t).map(|j| r(j, t) * r(j, t)).sum();
            for j in (0..k).filter(|&j| j != t) {
                self.q[t * k + j] = -r(j, t) * r(t, j);
            }
        }
        p.fill(1.0 / k as f32);
        for _ in 0..ROUNDS_MIN.max(k) {
            if self.improve(p) {
                break;
            }
        }
    }

    /// One round over all classes; whether there is no need for one.
    fn improve(&mut self, p: &mut [f32]) -> bool {
        let k = self.classes;
        let mut total = 0.0;
        for t in 0..k {
            self.qp[t] = (0..k).map(|j| self.q[t * k + j] * p[j]).sum();
            total += p[t] * self.qp[t];
        }
        let error = self.qp.iter().fold(0.0f32, |worst, value| worst.max((value - total).abs()));
        if error < ERROR_MAX / k as f32 {
            return true;
        }
        for t in 0..k {
            let own = self.q[t * k + t];
            let step = (total - self.qp[t]) / own;
            p[t] += step;
            total = (total + step * (step * own + 2.0 * self.qp[t])) / (1.0 + step) / (1.0 + step);
            let row = &self.q[t * k..][..k];
            for ((qp, q), p) in self.qp.iter_mut().zip(row).zip(p.iter_mut()) {
                *qp = (*qp + step * q) / (1.0 + step);
                *p /= 1.0 + step;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coupled(pairs: &[f32], classes: usize) -> Vec<f32> {
        let kernel = Coupling::new(1, classes);
        let bytes: Vec<u8> = pairs.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut made = vec![0; 4 * classes];
        kernel.new_state().unwrap().run(&[&bytes], &mut [&mut made]).unwrap();
        made.as_chunks().0.iter().map(|&element| f32::from_le_bytes(element)).collect()
    }

    #[test]
    fn consistent_pairs_give_their_classes() {
        let p = [0.2f32, 0.5, 0.3];
        let pair = |i: usize, j: usize| p[i] / (p[i] + p[j]);
        let made = coupled(&[pair(0, 1), pair(0, 2), pair(1, 2)], 3);
        assert!(made.iter().zip(p).all(|(made, p)| (made - p).abs() < 0.01), "{made:?}");
        let two = coupled(&[0.9], 2);
        assert!((two[0] - 0.9).abs() < 0.01 && (two[0] + two[1] - 1.0).abs() < 1e-6, "{two:?}");
    }

    #[test]
    fn what_is_no_number_ends_too() {
        // No class is more probable than another one, as ONNX Runtime has it.
        assert_eq!(coupled(&[f32::NAN, 0.5, 0.5], 3), [1.0 / 3.0; 3]);
        let sure = coupled(&[1.0 - 1e-7, 1.0 - 1e-7, 1e-7], 3);
        assert!((sure[0] - 1.0).abs() < 0.01, "{sure:?}");
    }
}
