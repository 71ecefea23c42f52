//! The kernels' machine code on the device.

use std::sync::Arc;

use crate::compiler;
use crate::descriptor::{FUNCTIONS, GRAPH_END, MARK, PROXIES};
use crate::driver::{Context, Function, Module, Properties};
use crate::error::CudaError;

/// Shared memory that the device keeps for itself of each block.
const SHARED_BYTES_RESERVED: usize = 1024;
/// Blocks of 256 threads that a multiprocessor takes, whatever they use.
const TOGETHER_MAX: u32 = 6;

/// A tile function as a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    pub(crate) function: Function,
    /// As the proxies know it.
    pub(crate) number: u32,
    /// Blocks of it that a multiprocessor has registers for.
    pub(crate) registers_for: u32,
}

/// The functions of a device. The code stays as long as something may run it.
#[derive(Debug)]
pub(crate) struct Code {
    tiles: Vec<(&'static str, Tile)>,
    /// By blocks that a multiprocessor has registers for, most first.
    proxies: Vec<(u32, Function)>,
    pub(crate) mark: Function,
    pub(crate) graph_end: Function,
    shared_bytes: usize,
    _module: Module,
}

impl Code {
    /// Has the kernels compiled, unless they are there, and loads them.
    pub(crate) fn load(context: &Arc<Context>, properties: &Properties) -> Result<Code, CudaError> {
        let module = Module::load(context, &compiler::kernels(properties.arch)?);
        let module = module.map_err(|error| error.of_kernels(compiler::cache_named()))?;
        let function = |name: &str| {
            let function = module.function(name)?;
            // More than 48 KiB only for who asks.
            module.allow_shared(function, properties.shared_bytes).map(|()| function)
        };
        let tile = |(number, &(name, registers_for)): (usize, &(&'static str, u32))| {
            let number = number as u32;
            function(name).map(|function| (name, Tile { function, number, registers_for }))
        };
        let proxy = |&(name, registers_for): &(&str, u32)| function(name).map(|it| (registers_for, it));
        Ok(Code {
            tiles: FUNCTIONS.iter().enumerate().map(tile).collect::<Result<_, _>>()?,
            proxies: PROXIES.iter().map(proxy).collect::<Result<_, _>>()?,
            mark: module.function(MARK)?,
            graph_end: module.function(GRAPH_END)?,
            shared_bytes: properties.shared_bytes_of_sm,
            _module: module,
        })
    }

    /// The tile function of a name, one of [`FUNCTIONS`].
    pub(crate) fn tile(&self, name: &str) -> Tile {
        let found = self.tiles.iter().find(|(of, _)| *of == name);
        found.expect("descriptors name tile functions").1
    }

    /// Blocks of a tile function that fit a multiprocessor, each with so much shared memory.
    pub(crate) fn together(&self, tile: Tile, shared_bytes: u32) -> u32 {
        let by_memory = self.shared_bytes / (shared_bytes as usize + SHARED_BYTES_RESERVED);
        tile.registers_for.min(by_memory as u32).clamp(1, TOGETHER_MAX)
    }

    /// What runs two tile functions in one launch.
    pub(crate) fn proxy(&self, one: Tile, other: Tile) -> Function {
        let least = one.registers_for.min(other.registers_for);
        let fitting = self.proxies.iter().find(|(registers_for, _)| *registers_for <= least);
        fitting.expect("there is one for all").1
    }
}
