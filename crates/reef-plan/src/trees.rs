//! Ensembles of decision trees: their specification, and how a host computes them over bytes for devices that
//! have no code of their own for them.

use reef_graph::{Aggregate, Forest, trees::NODE_WORDS};

/// Rows taken through decision trees ([`reef_graph::Op::TreeEnsemble`]); everything is dense.
///
/// Reads x `[rows, features]`, and of the trees nodes, roots, targets and weights, which are constants as the
/// model has them; writes y `[rows, targets]`. Block b makes rows `b · tile ..`. Votes are added up in single
/// precision and the order of the trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreesSpec {
    /// What becomes of votes.
    pub aggregate: Aggregate,
    /// Rows of x and y.
    pub rows: usize,
    /// Columns of x.
    pub features: usize,
    /// Columns of y.
    pub targets: usize,
    /// Nodes of all trees.
    pub nodes: usize,
    /// Trees.
    pub trees: usize,
    /// Votes of all leaves.
    pub votes: usize,
    /// Rows of a block.
    pub tile: usize,
}

impl TreesSpec {
    /// Elements (of four bytes) of what is read.
    pub fn reads(&self) -> [usize; 5] {
        let x = self.rows * self.features;
        [x, self.nodes * NODE_WORDS, self.trees, self.votes, self.votes]
    }
}

pub(crate) fn words(bytes: &[u8], count: usize) -> Vec<i32> {
    let word = |bytes: &[u8]| i32::from_le_bytes(bytes.try_into().expect("an element's bytes"));
    bytes.chunks_exact(4).take(count).map(word).collect()
}

pub(crate) fn floats(bytes: &[u8], count: usize) -> Vec<f32> {
    let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("an element's bytes"));
    bytes.chunks_exact(4).take(count).map(float).collect()
}

/// Writes all of the output of `spec`; operands are as it says, little endian. The error says what is wrong
/// with the trees.
pub fn trees(spec: &TreesSpec, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), String> {
    let counts = spec.reads();
    let array = |at: usize| words(inputs[at], counts[at]);
    let weights = floats(inputs[4], spec.votes);
    let forest = Forest { nodes: &array(1), roots: &array(2), targets: &array(3), weights: &weights };
    if let Some(flaw) = forest.flaw(spec.features, spec.targets) {
        return Err(format!("TreeEnsemble: {flaw}"));
    }
    let mut made = vec![0.0; spec.targets];
    for row in 0..spec.rows {
        let own = floats(&inputs[0][row * spec.features * 4..], spec.features);
        forest.of_row(spec.aggregate, &own, &mut made);
        let to = &mut outputs[0][row * spec.targets * 4..][..spec.targets * 4];
        for (bytes, value) in to.chunks_exact_mut(4).zip(&made) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reef_graph::trees::LEAF;

    #[test]
    fn a_host_takes_rows_through_trees() {
        let nodes = [0, 1, 0.5f32.to_bits() as i32, 1, 2, LEAF, 0, 0, 0, 1, LEAF, 0, 0, 1, 2];
        let spec = TreesSpec {
            aggregate: Aggregate::Sum,
            rows: 3,
            features: 2,
            targets: 2,
            nodes: 3,
            trees: 2,
            votes: 3,
            tile: 3,
        };
        let bytes = |words: &[i32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let floats =
            |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let x = floats(&[9.0, 0.0, 9.0, 1.0, 9.0, 0.5]);
        let (roots, targets, weights) = (bytes(&[0, 0]), bytes(&[0, 0, 1]), floats(&[1.0, 2.0, 3.0]));
        let mut y = vec![0xFF; 24];
        let given = bytes(&nodes);
        trees(&spec, &[&x, &given, &roots, &targets, &weights], &mut [&mut y]).unwrap();
        assert_eq!(y, floats(&[2.0, 0.0, 4.0, 6.0, 2.0, 0.0]));
        let mut lost = nodes;
        lost[3] = 0;
        let fault =
            trees(&spec, &[&x, &bytes(&lost), &roots, &targets, &weights], &mut [&mut y]).unwrap_err();
        assert_eq!(fault, "TreeEnsemble: the nodes below a branch do not lie behind it");
    }
}
