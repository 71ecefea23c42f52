//! How a segment is cut over devices: its whole plan, and the stages before which it is cut, so that all
//! devices are busy for about as long. Pure: knows plans and times, no device.
//!
//! Before anything is measured, times are guessed by the work that kernels do. Where better cuts come from
//! later (transfers that cost, devices of several kinds), [`balance`] is what they replace.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use reef_compile::{Division, DivisionInput};
use reef_plan::{Cutter, Kernel, Plan};
use reef_program::{HandOver, ProgramError, Source, Transfer};

use crate::fault::Foreign;

/// Operations that take about as long as moving a byte.
const FLOPS_PER_BYTE: u64 = 8;

/// Requests after which the cut is looked at again, by what was measured meanwhile.
const LOOKS: [u32; 3] = [8, 64, 512];

/// Boundaries that are considered at most.
const BOUNDARIES_MAX: usize = 2048;

/// The share by which the longest part must shrink for another cut to be made.
const GAIN_MIN: f64 = 0.02;

/// A segment that is cut.
#[derive(Debug)]
pub(crate) struct Divided {
    /// The whole plan for every device, and what has cut it.
    wholes: Vec<Whole>,
    /// What comes after it.
    next: Option<HandOver>,
    /// The stages before which it is cut.
    at: Vec<usize>,
    /// Compute units of every device.
    cus: Vec<usize>,
    /// Requests that were cut so.
    began: AtomicU32,
}

/// A segment's whole plan for one device, and the cutter that has cut it.
type Whole = (Foreign<Arc<Plan>>, Arc<dyn Cutter>);

/// One part, to be loaded on its device.
pub(crate) struct PartPlan {
    pub(crate) plan: Arc<Plan>,
    /// How its values come to the next part; `None` for the last one.
    pub(crate) transfer: Option<Transfer>,
    /// What comes after the last one, if something does.
    pub(crate) next: Option<HandOver>,
}

impl Divided {
    /// Cuts a segment by guesses. `wholes` are its plans for devices with `cus` compute units.
    pub(crate) fn guess(
        wholes: Vec<(Arc<Plan>, Arc<dyn Cutter>)>,
        next: Option<HandOver>,
        cus: Vec<usize>,
    ) -> Result<Divided, String> {
        let stages = wholes[0].0.stages().len();
        if wholes.iter().any(|(plan, _)| plan.stages().len() != stages) {
            return Err("its plans for these devices cannot be put together".into());
        }
        let work = stage_work(&wholes[0].0, |_| None);
        let at = balance(&work, &cus);
        let wholes = wholes.into_iter().map(|(plan, cutter)| (Foreign::from(plan), cutter)).collect();
        Ok(Divided { wholes, next, at, cus, began: AtomicU32::new(0) })
    }

    /// Parts that it has: one for every device, if it has as many stages.
    pub(crate) fn len(&self) -> usize {
        self.at.len() + 1
    }

    /// The parts in their order.
    pub(crate) fn parts(&self) -> Result<Vec<PartPlan>, String> {
        let sources = self.next.iter().flat_map(HandOver::sources);
        let inputs = sources.filter_map(|source| match source {
            Source::Input(index) => Some(index),
            Source::Output(_) => None,
        });
        let kept: Vec<usize> = inputs.collect();
        let part = |index: usize| self.division(index, &kept);
        let parts = (0..self.len()).map(part).collect::<Result<Vec<_>, _>>()?;
        let plans: Vec<Arc<Plan>> = parts.iter().map(|part| Arc::new(part.plan.clone())).collect();
        let made = |index: usize| -> Result<PartPlan, ProgramError> {
            let plan = plans[index].clone();
            let Some(after) = parts.get(index + 1) else {
                let next = self.next.as_ref();
                let next = next.map(|next| behind(next, &plan, &parts[index].inputs)).transpose()?;
                return Ok(PartPlan { plan, transfer: None, next });
            };
            let source = |input: &DivisionInput| match input {
                DivisionInput::Left => Source::Output(0),
                DivisionInput::Whole(_) => {
                    let at = parts[index].inputs.iter().position(|own| own == input);
                    Source::Input(at.unwrap_or(usize::MAX))
                }
            };
            let sources = after.inputs.iter().map(source).collect();
            let transfer = Transfer::new(&plan, &plans[index + 1], sources)?;
            Ok(PartPlan { plan, transfer: Some(transfer), next: None })
        };
        (0..self.len()).map(made).collect::<Result<_, _>>().map_err(|error| error.to_string())
    }

    fn division(&self, index: usize, kept: &[usize]) -> Result<Division, String> {
        let (plan, cutter) = &self.wholes[index];
        let part = reef_compile::divide_off(plan, &self.at, index, kept, cutter.as_ref());
        part.map_err(|error| error.to_string())
    }

    /// Counts a request; whether it is time to look at the cut again.
    pub(crate) fn count(&self) -> bool {
        let count = self.began.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        LOOKS.contains(&count)
    }

    /// Another cut of the same segment, if that is better by what was measured: for every part the times of
    /// one block of every kernel, as devices tell them.
    pub(crate) fn better(&self, measured: &[Vec<Option<u64>>]) -> Option<Divided> {
        let bounds: Vec<Range<usize>> = self.bounds();
        let mut block_ns: Vec<Option<u64>> = vec![None; self.wholes[0].0.kernels().len()];
        for (index, (bounds, times)) in bounds.iter().zip(measured).enumerate() {
            let part = self.division(index, &[]).ok()?;
            let kernels = |plan: &Plan, stages: &Range<usize>| {
                let stages = &plan.stages()[stages.clone()];
                let first = stages.first().map_or(0, |stage| stage.kernels.start as usize);
                first..stages.last().map_or(0, |stage| stage.kernels.end as usize)
            };
            let (own, whole) = (kernels(&part.plan, &part.own), kernels(&self.wholes[index].0, bounds));
            block_ns.get_mut(whole)?.copy_from_slice(times.get(own)?);
        }
        let plan = &self.wholes[0].0;
        let total = |kernel: usize| Some(block_ns[kernel]? * plan.kernels()[kernel].spec.blocks() as u64);
        let work = stage_work(plan, total);
        let at = balance(&work, &self.cus);
        let gain = 1.0 - longest(&work, &self.cus, &at) / longest(&work, &self.cus, &self.at);
        (gain >= GAIN_MIN).then(|| {
            let wholes = self
                .wholes
                .iter()
                .map(|(plan, cutter)| (Foreign::from(Arc::clone(plan)), cutter.clone()))
                .collect();
            let began = AtomicU32::new(LOOKS[0]);
            Divided { wholes, next: self.next.clone(), at, cus: self.cus.clone(), began }
        })
    }

    fn bounds(&self) -> Vec<Range<usize>> {
        bounds(&self.at, self.wholes[0].0.stages().len()).collect()
    }
}

/// The stages of every part.
fn bounds(at: &[usize], stages: usize) -> impl Iterator<Item = Range<usize>> {
    let begins = [0].into_iter().chain(at.iter().copied());
    begins.zip(at.iter().copied().chain([stages])).map(|(begin, end)| begin..end)
}

/// What comes after the whole segment, with the places that values have in its last part.
fn behind(next: &HandOver, last: &Plan, inputs: &[DivisionInput]) -> Result<HandOver, ProgramError> {
    next.after(last, |source| match source {
        Source::Output(_) => source,
        Source::Input(index) => {
            let at = inputs.iter().position(|&input| input == DivisionInput::Whole(index));
            Source::Input(at.unwrap_or(usize::MAX))
        }
    })
}

/// Time of a compute unit that every stage takes, by `measured` for a kernel of the plan, and in proportion
/// to their work for those of which nothing was measured.
fn stage_work(plan: &Plan, measured: impl Fn(usize) -> Option<u64>) -> Vec<f64> {
    let guess = |kernel: &Kernel| kernel.cost.flops.max(kernel.cost.bytes * FLOPS_PER_BYTE).max(1) as f64;
    let both = plan
        .kernels()
        .iter()
        .enumerate()
        .filter_map(|(at, kernel)| Some((measured(at)? as f64, guess(kernel))));
    let (time, guessed) = both.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    let scale = if guessed > 0.0 { time / guessed } else { 1.0 };
    let kernel = |at: usize| measured(at).map_or(guess(&plan.kernels()[at]) * scale, |time| time as f64);
    let stage = |stage: &reef_plan::Stage| -> f64 {
        (stage.kernels.start as usize..stage.kernels.end as usize).map(kernel).sum()
    };
    plan.stages().iter().map(stage).collect()
}

/// How long the part takes that takes longest.
fn longest(work: &[f64], cus: &[usize], at: &[usize]) -> f64 {
    let parts = bounds(at, work.len()).zip(cus);
    parts.map(|(stages, &cus)| work[stages].iter().sum::<f64>() / cus.max(1) as f64).fold(0.0, f64::max)
}

/// The stages before which to cut, so that the part that takes longest takes the least: part by part on
/// devices with `cus` compute units, in their order. As many parts as devices, or stages if these are fewer.
fn balance(work: &[f64], cus: &[usize]) -> Vec<usize> {
    // Of very many stages some are not considered.
    let step = work.len().div_ceil(BOUNDARIES_MAX).max(1);
    let sums: Vec<f64> = [0.0]
        .into_iter()
        .chain(work.chunks(step).scan(0.0, |sum, chunk| {
            *sum += chunk.iter().sum::<f64>();
            Some(*sum)
        }))
        .collect();
    let ends = sums.len() - 1;
    let parts = cus.len().min(ends);
    let time = |part: usize, begin: usize, end: usize| (sums[end] - sums[begin]) / cus[part].max(1) as f64;
    // For every end the least that the longest of the parts so far can take, and where the last of them
    // begins.
    let mut least: Vec<f64> = (0..=ends).map(|end| time(0, 0, end)).collect();
    let mut begins: Vec<Vec<usize>> = Vec::with_capacity(parts);
    for part in 1..parts {
        let best = |end: usize| {
            let longest = |begin: usize| (least[begin].max(time(part, begin, end)), begin);
            (part..end).map(longest).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, 0))
        };
        let (next, begin_of) = (0..=ends).map(best).unzip();
        least = next;
        begins.push(begin_of);
    }
    let mut at = Vec::with_capacity(parts.saturating_sub(1));
    let mut end = ends;
    for begin_of in begins.iter().rev() {
        end = begin_of[end];
        at.push(end * step);
    }
    at.reverse();
    at
}

#[cfg(test)]
mod tests {
    use reef_base::Rng;
    use reef_cpu::CpuCutter;
    use reef_plan::{SyntheticStage, Target, synthetic_plan};

    use super::*;

    #[test]
    fn parts_are_as_even_as_stages_let_them_be() {
        assert_eq!(balance(&[1.0, 1.0, 1.0, 1.0], &[1, 1]), [2]);
        assert_eq!(balance(&[5.0, 1.0, 1.0, 1.0], &[1, 1]), [1]);
        assert_eq!(balance(&[1.0, 1.0, 1.0, 1.0], &[3, 1]), [3]);
        assert_eq!(balance(&[1.0, 2.0, 3.0], &[1, 1, 1]), [1, 2]);
        assert_eq!(balance(&[1.0, 1.0], &[1, 1, 1]), [1]);
        assert_eq!(balance(&[1.0], &[1, 1]), [0; 0]);
        assert_eq!(balance(&[8.0, 8.0, 0.0], &[4, 1]), [2]);
        let many = balance(&[1.0; 60_000], &[1, 2, 1]);
        assert!(many[0].abs_diff(15_000) < 60 && many[1].abs_diff(45_000) < 60, "{many:?}");
    }

    #[test]
    fn no_cut_is_better() {
        let mut rng = Rng::new(3);
        for _ in 0..300 {
            let work: Vec<f64> = (0..3 + rng.below(9)).map(|_| rng.below(50) as f64).collect();
            let cus: Vec<usize> =
                (0..1 + rng.below(4).min(work.len() as u64 - 1)).map(|_| 1 + rng.below(4) as usize).collect();
            let found = longest(&work, &cus, &balance(&work, &cus));
            let best = every_cut(work.len(), cus.len())
                .into_iter()
                .map(|at| longest(&work, &cus, &at))
                .fold(f64::INFINITY, f64::min);
            assert!((found - best).abs() < 1e-9, "{work:?} over {cus:?}: {found}, not {best}");
        }
    }

    fn every_cut(stages: usize, parts: usize) -> Vec<Vec<usize>> {
        let mut cuts = vec![vec![]];
        for _ in 1..parts {
            let longer = cuts.iter().flat_map(|cut: &Vec<usize>| {
                (cut.last().map_or(1, |last| last + 1)..stages).map(|at| [&cut[..], &[at]].concat())
            });
            cuts = longer.collect();
        }
        cuts
    }

    #[test]
    fn what_was_measured_moves_the_cut() {
        let stage = SyntheticStage { blocks: 2, polls: 1, poll_ns: 1 };
        let target = Target::cpu(reef_plan::Isa::Portable, 1);
        let plan = Arc::new(synthetic_plan("p", target, 1, &[stage; 5]).unwrap());
        let cutter: Arc<dyn Cutter> = Arc::new(CpuCutter::new(target));
        let divided = Divided::guess(vec![(plan, cutter); 2], None, vec![1, 1]).unwrap();
        assert_eq!(
            (divided.len(), divided.at.clone()),
            (2, vec![3]),
            "nothing is known of synthetic kernels"
        );
        let parts = divided.parts().unwrap();
        // The last three stages take the longer, the copies do not count.
        let times = |part: usize, own: u64| -> Vec<Option<u64>> {
            parts[part]
                .plan
                .kernels()
                .iter()
                .map(|kernel| match kernel.name.as_str() {
                    "what crosses" => Some(1_000_000),
                    _ => Some(own),
                })
                .collect()
        };
        let better = divided.better(&[times(0, 10), times(1, 100)]).unwrap();
        assert_eq!(better.at, [4]);
        assert!(divided.better(&[times(0, 50), times(1, 50)]).is_none(), "it is as good as can be");
        assert_eq!((0..600).filter(|_| divided.count()).count(), LOOKS.len());
    }
}
