//! What a task will want: how wide its stages are, from the one that is open to its last.

/// How wide a stage is, and for how long no later one is wider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Compute units that the stage can use at once.
    pub width: u32,
    /// Stages behind it until a wider one; [`Outlook::FOR_GOOD`] when none comes.
    pub calm: u32,
}

impl Outlook {
    /// No later stage is wider.
    pub const FOR_GOOD: u32 = u32::MAX;
}

/// The outlook of each stage of a plan on `cus` compute units, from the stages' blocks.
pub fn outlooks(blocks: impl Iterator<Item = u32>, cus: u32) -> Vec<Outlook> {
    let widths: Vec<u32> = blocks.map(|blocks| blocks.min(cus)).collect();
    let mut outlooks = vec![Outlook::default(); widths.len()];
    // Stages behind the present one that may be the next wider one: each wider than the one before it.
    let mut wider: Vec<usize> = Vec::new();
    for (stage, &width) in widths.iter().enumerate().rev() {
        while wider.last().is_some_and(|&other| widths[other] <= width) {
            wider.pop();
        }
        let calm = wider.last().map_or(Outlook::FOR_GOOD, |&other| (other - stage - 1) as u32);
        outlooks[stage] = Outlook { width, calm };
        wider.push(stage);
    }
    outlooks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlook_reaches_to_the_next_wider_stage() {
        let calm = |blocks: &[u32], cus| -> Vec<(u32, Option<u32>)> {
            let outlooks = outlooks(blocks.iter().copied(), cus);
            let finite = |calm| (calm != Outlook::FOR_GOOD).then_some(calm);
            outlooks.iter().map(|outlook| (outlook.width, finite(outlook.calm))).collect()
        };
        assert_eq!(calm(&[1, 1, 9], 2), [(1, Some(1)), (1, Some(0)), (2, None)]);
        assert_eq!(calm(&[3, 1, 3, 2, 1], 4), [(3, None), (1, Some(0)), (3, None), (2, None), (1, None)]);
        assert_eq!(
            calm(&[2, 1, 1, 3, 9], 8),
            [(2, Some(2)), (1, Some(1)), (1, Some(0)), (3, Some(0)), (8, None)]
        );
    }
}
