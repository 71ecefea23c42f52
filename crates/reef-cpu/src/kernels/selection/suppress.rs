//! Non-maximum suppression as ONNX Runtime computes it: by class, boxes leave a heap in the order of their
//! scores and are selected unless one that was overlaps them.

use std::sync::Arc;

use reef_plan::{Kernel, NonMaxSuppressionSpec, Region};

use super::{Pace, SCATTERED, Select, Stopped, store_count};
use crate::context::{BlockContext, BlockEnd, BlockFault};

pub(super) struct Suppress {
    spec: NonMaxSuppressionSpec,
    boxes: Region,
    scores: Region,
    most: Region,
    overlap: Region,
    score: Option<Region>,
    rows: Region,
    count: Region,
    name: Arc<str>,
}

/// Steps of comparing two boxes.
const BOXES_COMPARED: usize = 12;

/// What a task asks for.
struct Limits {
    /// Boxes of a class.
    most: usize,
    /// Boxes that overlap more are suppressed.
    overlap: f32,
    /// Scores must be larger.
    score: Option<f32>,
}

/// A class of a batch.
struct Class<'a> {
    /// Of all boxes of the batch.
    boxes: &'a [[f32; 4]],
    /// One for each box.
    scores: &'a [f32],
    center_point_box: bool,
}

impl Suppress {
    pub(super) fn new(spec: &NonMaxSuppressionSpec, kernel: &Kernel) -> Suppress {
        let ([boxes, scores, most, overlap, score @ ..], [rows, count]) =
            (&kernel.reads[..], &kernel.writes[..])
        else {
            unreachable!("the validator counts operands")
        };
        Suppress {
            spec: spec.clone(),
            boxes: *boxes,
            scores: *scores,
            most: *most,
            overlap: *overlap,
            score: score.first().copied(),
            rows: *rows,
            count: *count,
            name: kernel.name.as_str().into(),
        }
    }

    unsafe fn limits(&self, context: &BlockContext<'_>) -> Result<Limits, Stopped> {
        // SAFETY: each of them is one element.
        let (most, overlap, score) = unsafe {
            let number = |region| *context.read_ptr(region).cast::<f32>();
            (
                *context.read_ptr(&self.most).cast::<i64>(),
                number(&self.overlap),
                self.score.as_ref().map(number),
            )
        };
        if !(0.0..=1.0).contains(&overlap) {
            let (kernel, bits) = (self.name.clone(), overlap.to_bits());
            return Err(BlockEnd::Failed(BlockFault::Overlap { kernel, bits }));
        }
        let most = usize::try_from(most).unwrap_or(0).min(self.spec.per_class);
        Ok(Limits { most, overlap, score })
    }

    /// What class `class` of all batches is made of.
    unsafe fn class(&self, context: &BlockContext<'_>, class: usize) -> Class<'_> {
        let NonMaxSuppressionSpec { classes, boxes: count, center_point_box, .. } = self.spec;
        // SAFETY: there are as many boxes for each batch, and scores for each class of it.
        unsafe {
            let boxes = context.read_ptr(&self.boxes).cast::<[f32; 4]>().add(class / classes * count);
            let scores = context.read_ptr(&self.scores).cast::<f32>().add(class * count);
            Class {
                boxes: std::slice::from_raw_parts(boxes, count),
                scores: std::slice::from_raw_parts(scores, count),
                center_point_box,
            }
        }
    }
}

impl Select for Suppress {
    unsafe fn select(&self, context: &BlockContext<'_>, pace: &mut Pace<'_>) -> Result<(), Stopped> {
        let spec = &self.spec;
        // SAFETY: the regions are the kernel's; scratch holds all boxes of a class and those selected of one;
        // no more rows are written than classes have boxes.
        unsafe {
            let limits = self.limits(context)?;
            let rows = context.write_ptr(&self.rows).cast::<[i64; 3]>();
            let places = context.scratch.cast::<u32>();
            let heap = std::slice::from_raw_parts_mut(places, spec.boxes);
            let list = std::slice::from_raw_parts_mut(places.add(spec.boxes), spec.per_class);
            let mut made = 0;
            for class in 0..spec.batches * spec.classes {
                let [batch, own] = [class / spec.classes, class % spec.classes].map(|at| at as i64);
                let selected = self.class(context, class).select(&limits, heap, list, pace)?;
                for &place in &list[..selected] {
                    pace.steps(2)?;
                    rows.add(made).write([batch, own, i64::from(place)]);
                    made += 1;
                }
            }
            store_count(context, &self.count, made);
            pace.zero(context, &self.rows, made * size_of::<[i64; 3]>())
        }
    }
}

impl Class<'_> {
    /// Lists the boxes that are selected, and says how many they are.
    fn select(
        &self,
        limits: &Limits,
        heap: &mut [u32],
        list: &mut [u32],
        pace: &mut Pace<'_>,
    ) -> Result<usize, Stopped> {
        let mut waiting = 0;
        for (place, &score) in self.scores.iter().enumerate() {
            pace.steps(4)?;
            if limits.score.is_none_or(|threshold| score > threshold) {
                heap[waiting] = place as u32;
                waiting += 1;
            }
        }
        for at in (0..waiting / 2).rev() {
            self.sift(&mut heap[..waiting], at, pace)?;
        }
        let mut selected = 0;
        while waiting > 0 && selected < limits.most {
            let top = heap[0];
            waiting -= 1;
            heap[0] = heap[waiting];
            self.sift(&mut heap[..waiting], 0, pace)?;
            if self.is_clear(top, &list[..selected], limits.overlap, pace)? {
                list[selected] = top;
                selected += 1;
            }
        }
        Ok(selected)
    }

    /// Whether box `a` comes before box `b`.
    fn before(&self, a: u32, b: u32) -> bool {
        let (first, second) = (self.scores[a as usize], self.scores[b as usize]);
        match first.partial_cmp(&second) {
            Some(order) => order.is_gt() || order.is_eq() && a < b,
            None if first.is_nan() == second.is_nan() => a < b,
            None => second.is_nan(),
        }
    }

    /// Lets entry `at` of a heap sink to where it belongs.
    fn sift(&self, heap: &mut [u32], mut at: usize, pace: &mut Pace<'_>) -> Result<(), Stopped> {
        loop {
            pace.steps(SCATTERED)?;
            let mut first = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < heap.len() && self.before(heap[child], heap[first]) {
                    first = child;
                }
            }
            if first == at {
                return Ok(());
            }
            heap.swap(at, first);
            at = first;
        }
    }

    /// Whether no selected box overlaps box `place` too much.
    fn is_clear(
        &self,
        place: u32,
        selected: &[u32],
        overlap: f32,
        pace: &mut Pace<'_>,
    ) -> Result<bool, Stopped> {
        let own = self.corners(place);
        for &other in selected {
            pace.steps(BOXES_COMPARED)?;
            if own.overlap(&self.corners(other)) > overlap {
                return Ok(false);
            }
        }
        Ok(true)
    }

    #[inline]
    fn corners(&self, place: u32) -> Corners {
        let [a, b, c, d] = self.boxes[place as usize];
        let ([x_min, x_max], [y_min, y_max]) = if self.center_point_box {
            let (half_width, half_height) = (c / 2.0, d / 2.0);
            ([a - half_width, a + half_width], [b - half_height, b + half_height])
        } else {
            (sorted(b, d), sorted(a, c))
        };
        Corners { x_min, x_max, y_min, y_max }
    }
}

fn sorted(a: f32, b: f32) -> [f32; 2] {
    if a >= b { [b, a] } else { [a, b] }
}

struct Corners {
    x_min: f32,
    x_max: f32,
    y_min: f32,
    y_max: f32,
}

impl Corners {
    fn area(&self) -> f32 {
        (self.x_max - self.x_min) * (self.y_max - self.y_min)
    }

    /// The common area as a share of the whole; below 0 where one of them is none, so that a threshold of 0
    /// is not exceeded either.
    #[inline]
    fn overlap(&self, other: &Corners) -> f32 {
        let common = Corners {
            x_min: self.x_min.max(other.x_min),
            x_max: self.x_max.min(other.x_max),
            y_min: self.y_min.max(other.y_min),
            y_max: self.y_max.min(other.y_max),
        };
        if common.x_max <= common.x_min || common.y_max <= common.y_min || common.area() <= 0.0 {
            return -1.0;
        }
        let (a, b) = (self.area(), other.area());
        let union = a + b - common.area();
        if a <= 0.0 || b <= 0.0 || union <= 0.0 { -1.0 } else { common.area() / union }
    }
}
