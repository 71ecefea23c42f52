//! What pads a launch: the board's rules of the paper's dynamic kernel padding.

use reef_device::policy::share;

use super::{Blocks, Board, Kernels, Outstanding, Pads, Step, Task, What};

impl<P: Kernels> Board<P> {
    /// What is to pad the next launch of a task.
    pub(super) fn padding_of(&mut self, slot: usize) -> Option<Pads> {
        let host = self.tasks[slot].as_ref()?;
        let Some(Step::Device(blocks)) = host.next_step().filter(|_| self.scheme.is_prioritised()) else {
            return None;
        };
        let fit = host.submission.payload.fit(host.next, self.units);
        let wave = self.units as u32 * fit.together;
        let left = (wave - (blocks - host.from) % wave) % wave;
        let fits = |task: &Task<P>| {
            let own = task.submission.payload.fit(task.next, self.units);
            own.together >= fit.together && own.wave.is_some() && own.wave <= fit.wave
        };
        let count = |task: &Task<P>| {
            let of_all = task.next_step().map_or(0, Step::blocks) - task.from;
            let grain = task.submission.payload.fit(task.next, self.units).grain;
            if of_all <= left { of_all } else { left - left % grain }
        };
        let candidate = |(at, task): &(usize, &Task<P>)| {
            let step = task.next_step().filter(|_| *at != slot && count(task) > 0);
            let lesser = host.submission.key.preempts(task.submission.key);
            matches!(step, Some(Step::Device(_))) && lesser && task.may_pad(slot) && fits(task)
        };
        let tasks = self.tasks.iter().enumerate().filter_map(|(at, task)| Some((at, task.as_ref()?)));
        let rank = |task: &Task<P>| {
            let key = task.submission.key;
            // Of best-effort ones who had the least.
            if task.is_real_time() {
                (key.get(), 0)
            } else {
                (u64::MAX, self.passes[share::index_of(key.share())])
            }
        };
        let (at, task) = tasks.filter(candidate).min_by_key(|(_, task)| rank(task))?;
        Some(Pads { slot: at, kernel: task.next, from: task.from, blocks: count(task), number: 0 })
    }

    /// Has blocks pad the next launch of the task in slot `of`.
    pub(super) fn pad(&mut self, of: usize, pads: Pads) -> Pads {
        let pads = Pads { number: self.next_number(), ..pads };
        let host = self.task_mut(of).submission.key;
        let task = self.task_mut(pads.slot);
        let Pads { kernel, from, blocks: count, number, .. } = pads;
        let all = task.next_step().map_or(0, Step::blocks);
        (task.next, task.from) = if from + count < all { (kernel, from + count) } else { (kernel + 1, 0) };
        let what = What::Kernel(Blocks { kernel, from, count, pads: Some((of, host)), padded: false });
        task.outstanding.push_back(Outstanding { number: Some(number), what });
        pads
    }
}
