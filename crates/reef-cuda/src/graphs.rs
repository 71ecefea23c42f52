//! A plan's kernels as executable graphs: what those who have CUDA launch in place of kernel after kernel.
//! The scheme `concurrent` does so too.
//!
//! Host steps cut a plan in several graphs. Each slot has its own, made when the plan is loaded or the scheme
//! comes, since a graph waits for its last launch. Nothing of a launch is in the nodes' parameters but the
//! slot's memory, and where that has moved the nodes are told. Kernels of a graph report nothing; a node at
//! its end does.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::board::{REPORTS, SLOTS};
use crate::descriptor::{Launch, PART_FIRST, PART_REST};
use crate::driver::{Context, Function, Graph, Grid, Node, Stream};
use crate::error::CudaError;
use crate::slots::{ARRIVALS_AT, ARRIVED, EVICTED_AT, REPORT_AT, SlotPlaces};

/// Runs of kernels of graphs have this bit, and no others; who shares tiles finds them cleared.
const RUN_OF_GRAPH: u64 = 1 << 63;
/// How long who makes graphs sleeps between two looks whether they are on the device.
const NAP: Duration = Duration::from_micros(20);

/// A kernel to be launched in a graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// In its plan.
    pub(crate) kernel: usize,
    pub(crate) function: Function,
    /// The tile function's number.
    pub(crate) number: u32,
    pub(crate) grid: Grid,
    pub(crate) descriptor: u64,
    /// Whether blocks share tiles.
    pub(crate) shares: bool,
}

/// What makes graphs of plans.
#[derive(Debug)]
pub(crate) struct GraphMaker {
    stream: Stream,
    places: SlotPlaces,
    /// What runs at the end of a graph.
    end: Function,
    /// Where the memory of each slot is or will be, as far as is known.
    bases: Mutex<[u64; SLOTS]>,
}

impl GraphMaker {
    pub(crate) fn new(
        context: &std::sync::Arc<Context>,
        places: SlotPlaces,
        end: Function,
    ) -> Result<GraphMaker, CudaError> {
        let (least, _) = context.priorities()?;
        Ok(GraphMaker { stream: Stream::new(context, least)?, places, end, bases: Mutex::new([0; SLOTS]) })
    }

    /// Slots are to have other memory.
    pub(crate) fn moves(&self, bases: impl Iterator<Item = (usize, u64)>) {
        let mut held = lock(&self.bases);
        bases.for_each(|(slot, base)| held[slot] = base);
    }

    /// Graphs of the kernels of a plan, those between host steps together. May wait for what the device runs.
    pub(crate) fn graphs(&self, parts: &[Vec<Member>]) -> Result<Graphs, CudaError> {
        let bases = *lock(&self.bases);
        let part = |members: &Vec<Member>| {
            let first = members.first().expect("a part has a kernel").kernel;
            let slots = bases.iter().enumerate().map(|(slot, &base)| self.graph(slot, base, members));
            let slots = slots.collect::<Result<_, CudaError>>()?;
            Ok(Part { kernels: first..first + members.len(), slots })
        };
        let graphs = Graphs(parts.iter().map(part).collect::<Result<_, CudaError>>()?);
        while !self.stream.is_done()? {
            std::thread::sleep(NAP);
        }
        Ok(graphs)
    }

    fn graph(&self, slot: usize, base: u64, members: &[Member]) -> Result<Mutex<SlotGraph>, CudaError> {
        let node = |(at, member): (usize, &Member)| Node {
            function: member.function,
            grid: member.grid,
            parameter: Launch {
                descriptor: member.descriptor,
                blocks: member.grid.blocks,
                function: member.number,
                kernel: member.kernel as u32,
                part: if at == 0 { PART_FIRST } else { PART_REST },
                run: RUN_OF_GRAPH | member.kernel as u64,
                ..self.launch(slot, base)
            },
        };
        let end = Node {
            function: self.end,
            grid: Grid { blocks: 1, threads: 1, shared_bytes: 0 },
            parameter: Launch {
                descriptor: self.places.reports,
                blocks: REPORTS as u32,
                ..self.launch(slot, base)
            },
        };
        let nodes: Vec<_> = members.iter().enumerate().map(node).chain([end]).collect();
        let shares = members.iter().any(|member| member.shares);
        let cleared = shares.then(|| (self.places.of(slot, ARRIVED.0), ARRIVED.1));
        let graph = Graph::new(&self.stream, cleared, &nodes)?;
        Ok(Mutex::new(SlotGraph { graph, base, nodes }))
    }

    fn launch(&self, slot: usize, base: u64) -> Launch {
        Launch {
            descriptor: 0,
            base,
            evicted: self.places.of(slot, EVICTED_AT),
            arrivals: self.places.of(slot, ARRIVALS_AT),
            report: self.places.of(slot, REPORT_AT),
            number: 0,
            first: 0,
            blocks: 1,
            function: 0,
            epoch: 0,
            kernel: 0,
            part: PART_REST,
            reserved: 0,
            run: 0,
        }
    }
}

/// A plan's graphs.
#[derive(Debug)]
pub(crate) struct Graphs(Vec<Part>);

#[derive(Debug)]
struct Part {
    kernels: Range<usize>,
    /// By slot.
    slots: Vec<Mutex<SlotGraph>>,
}

/// A graph for the tasks of one slot.
#[derive(Debug)]
pub(crate) struct SlotGraph {
    pub(crate) graph: Graph,
    base: u64,
    nodes: Vec<Node<Launch>>,
}

impl Graphs {
    /// Where the graph ends that begins with a kernel, if one does: the kernel behind it.
    pub(crate) fn end_of(&self, kernel: usize) -> Option<usize> {
        self.part(kernel).map(|part| part.kernels.end)
    }

    /// The graph that begins with a kernel, for the tasks of a slot whose memory begins at `base`.
    pub(crate) fn of(
        &self,
        slot: usize,
        kernel: usize,
        base: u64,
    ) -> Result<MutexGuard<'_, SlotGraph>, CudaError> {
        let part = self.part(kernel).expect("a graph begins there");
        let mut own = lock(&part.slots[slot]);
        own.settle(base)?;
        Ok(own)
    }

    fn part(&self, kernel: usize) -> Option<&Part> {
        self.0.iter().find(|part| part.kernels.start == kernel)
    }
}

impl SlotGraph {
    /// Tells the nodes where the slot's memory is, if they do not know.
    fn settle(&mut self, base: u64) -> Result<(), CudaError> {
        if self.base == base {
            return Ok(());
        }
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.parameter.base = base;
            self.graph.set(index, node)?;
        }
        self.base = base;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
