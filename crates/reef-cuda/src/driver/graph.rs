//! Executable graphs: kernels that are launched together, one after the other.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::{Context, Function, Grid, Stream, check};
use crate::error::CudaError;

/// A kernel of a graph, and the parameter that it is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<T> {
    pub(crate) function: Function,
    pub(crate) grid: Grid,
    pub(crate) parameter: T,
}

impl<T: Copy> Node<T> {
    /// What the driver is told; it copies the parameter, to which `at` is to point.
    fn raw(&self, at: &mut [*mut c_void; 1]) -> sys::CUDA_KERNEL_NODE_PARAMS {
        *at = [ptr::from_ref(&self.parameter).cast_mut().cast()];
        let Grid { blocks, threads, shared_bytes } = self.grid;
        sys::CUDA_KERNEL_NODE_PARAMS {
            func: self.function.0,
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes,
            kernelParams: at.as_mut_ptr(),
            extra: ptr::null_mut(),
            kern: ptr::null_mut(),
            ctx: ptr::null_mut(),
        }
    }
}

/// Kernels that run one after the other, instantiated.
#[derive(Debug)]
pub(crate) struct Graph {
    context: Arc<Context>,
    graph: sys::CUgraph,
    exec: sys::CUgraphExec,
    /// Of the kernels.
    nodes: Vec<sys::CUgraphNode>,
}

// SAFETY: graphs may be used from any thread, by one at a time: who changes one has it for itself, and
// nothing is done with a shared one but its launch, which the one thread makes that launches.
#[allow(unsafe_code)]
unsafe impl Send for Graph {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Graph {}

impl Graph {
    /// Makes one and has it brought to the device, in some stream that has nothing else to do. Before its
    /// kernels it fills `cleared`, an address and so many bytes, with zeros.
    #[allow(unsafe_code)]
    pub(crate) fn new<T: Copy>(
        stream: &Stream,
        cleared: Option<(u64, usize)>,
        kernels: &[Node<T>],
    ) -> Result<Graph, CudaError> {
        let context = stream.context.clone();
        context.enter()?;
        let mut made = Graph { context, graph: ptr::null_mut(), exec: ptr::null_mut(), nodes: Vec::new() };
        // SAFETY: the pointer is to a handle that outlives the call.
        check("cuGraphCreate", unsafe { sys::cuGraphCreate(&mut made.graph, 0) })?;
        let mut last = cleared.map(|(address, len)| made.add_clearing(address, len)).transpose()?;
        for kernel in kernels {
            let (mut at, mut node) = ([ptr::null_mut()], ptr::null_mut());
            let (raw, count) = (kernel.raw(&mut at), usize::from(last.is_some()));
            let before = last.unwrap_or(ptr::null_mut());
            // SAFETY: the graph exists, and so does the node before; the driver copies the parameter.
            let result = unsafe { sys::cuGraphAddKernelNode_v2(&mut node, made.graph, &before, count, &raw) };
            check("cuGraphAddKernelNode", result)?;
            made.nodes.push(node);
            last = Some(node);
        }
        // SAFETY: the graph is whole, and the stream exists.
        unsafe {
            let result = sys::cuGraphInstantiateWithFlags(&mut made.exec, made.graph, 0);
            check("cuGraphInstantiate", result)?;
            check("cuGraphUpload", sys::cuGraphUpload(made.exec, stream.handle))?;
        }
        Ok(made)
    }

    #[allow(unsafe_code)]
    fn add_clearing(&self, address: u64, len: usize) -> Result<sys::CUgraphNode, CudaError> {
        let what = sys::CUDA_MEMSET_NODE_PARAMS {
            dst: address,
            pitch: 0,
            value: 0,
            elementSize: 1,
            width: len,
            height: 1,
        };
        let mut node = ptr::null_mut();
        let (graph, context) = (self.graph, self.context.handle);
        // SAFETY: graph and context exist, and the pointers outlive the call.
        let result = unsafe { sys::cuGraphAddMemsetNode(&mut node, graph, ptr::null(), 0, &what, context) };
        check("cuGraphAddMemsetNode", result).map(|()| node)
    }

    /// Gives kernel number `index` another parameter from the next launch on.
    #[allow(unsafe_code)]
    pub(crate) fn set<T: Copy>(&mut self, index: usize, kernel: &Node<T>) -> Result<(), CudaError> {
        self.context.enter()?;
        let mut at = [ptr::null_mut()];
        let raw = kernel.raw(&mut at);
        // SAFETY: the node is of the graph that this was made of, and the driver copies the parameter.
        let result = unsafe { sys::cuGraphExecKernelNodeSetParams_v2(self.exec, self.nodes[index], &raw) };
        check("cuGraphExecKernelNodeSetParams", result)
    }
}

impl Drop for Graph {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made in `new`, as far as they are there. What still runs goes on to its end.
            unsafe {
                if !self.exec.is_null() {
                    let _ = sys::cuGraphExecDestroy(self.exec);
                }
                if !self.graph.is_null() {
                    let _ = sys::cuGraphDestroy(self.graph);
                }
            }
        }
    }
}

impl Stream {
    /// Starts a graph's kernels, when all before it is done.
    ///
    /// # Safety
    /// Parameters are what the kernels take, and what they point to lives until the last one has ended.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn launch_graph(&self, graph: &Graph) -> Result<(), CudaError> {
        self.context.enter()?;
        // SAFETY: the graph exists; the rest is the caller's word.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(graph.exec, self.handle) })
    }
}
