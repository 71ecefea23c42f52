//! The driver's calls: what reef uses of them, with errors instead of codes. All of the crate's `unsafe`
//! about the driver is here.
//!
//! The driver's library is loaded once for the process, when it is first asked for. `REEF_CUDA_DRIVER` names
//! another file to load in its place, such as the emulated driver of the tests.

mod graph;

use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

pub(crate) use self::graph::{Graph, Node};
use crate::error::{CudaError, VERSION_MIN};

/// Names another library in place of the driver's.
const DRIVER_VARIABLE: &str = "REEF_CUDA_DRIVER";

/// The functions that are used: cudarc panics about one that a driver has not got.
const FUNCTIONS: [&str; 39] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxGetStreamPriorityRange",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemHostGetDevicePointer_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8Async",
    "cuStreamCreateWithPriority",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamQuery",
    "cuStreamWriteValue32_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuGraphCreate",
    "cuGraphDestroy",
    "cuGraphAddKernelNode_v2",
    "cuGraphAddMemsetNode",
    "cuGraphInstantiateWithFlags",
    "cuGraphExecKernelNodeSetParams_v2",
    "cuGraphExecDestroy",
    "cuGraphUpload",
    "cuGraphLaunch",
];

/// Makes an error of a call's code.
fn check(call: &'static str, result: CUresult) -> Result<(), CudaError> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(CudaError::Call { call, name: format!("{result:?}"), code: result as u32 })
}

/// The driver, loaded and started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    /// The CUDA version that it is for, as in 13000.
    pub(crate) version: i32,
    /// GPUs that it sees.
    pub(crate) count: usize,
}

impl Driver {
    /// Loads the driver. The first answer is every later one's.
    pub(crate) fn load() -> Result<Driver, CudaError> {
        static DRIVER: OnceLock<Result<Driver, CudaError>> = OnceLock::new();
        DRIVER.get_or_init(Driver::open).clone()
    }

    #[allow(unsafe_code)]
    fn open() -> Result<Driver, CudaError> {
        let library = library()?;
        for name in FUNCTIONS {
            // SAFETY: the symbol is looked for, not used.
            let found = unsafe { library.get::<*const c_void>(name.as_bytes()) };
            found.map_err(|_| CudaError::NoFunction(name.into()))?;
        }
        // cudarc finds the library by its name, as it is loaded; it is to stay so.
        std::mem::forget(library);
        let (mut version, mut count) = (0, 0);
        // SAFETY: the functions exist, and the pointers are to numbers that outlive the calls.
        unsafe {
            check("cuDriverGetVersion", sys::cuDriverGetVersion(&mut version))?;
            if version < VERSION_MIN {
                return Err(CudaError::OldDriver(version));
            }
            match sys::cuInit(0) {
                CUresult::CUDA_ERROR_NO_DEVICE => return Ok(Driver { version, count: 0 }),
                result => check("cuInit", result)?,
            }
            check("cuDeviceGetCount", sys::cuDeviceGetCount(&mut count))?;
        }
        Ok(Driver { version, count: usize::try_from(count).unwrap_or(0) })
    }
}

/// Loads the driver's library under a name that cudarc finds it by.
#[allow(unsafe_code)]
fn library() -> Result<Library, CudaError> {
    // SAFETY: the driver's library is made to be loaded at run time.
    let open = |path: &Path| unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    match std::env::var_os(DRIVER_VARIABLE) {
        Some(path) => {
            open(Path::new(&path)).map_err(|why| CudaError::NoDriver(format!("{DRIVER_VARIABLE}: {why}")))
        }
        None => ["libcuda.so.1", "libcuda.so"]
            .iter()
            .find_map(|name| open(Path::new(name)).ok())
            .ok_or_else(|| CudaError::NoDriver(String::new())),
    }
}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    pub(crate) name: String,
    /// Compute capability, as in 90.
    pub(crate) arch: u32,
    /// Streaming multiprocessors.
    pub(crate) sms: usize,
    pub(crate) memory_bytes: u64,
    /// Of one block, at most.
    pub(crate) shared_bytes: usize,
    /// Bytes of shared memory of a multiprocessor.
    pub(crate) shared_bytes_of_sm: usize,
    /// 0 is the default.
    pub(crate) compute_mode: i32,
    /// Whether MPS runs contexts of several processes together; `None` where the driver cannot say.
    pub(crate) mps: Option<bool>,
}

impl Properties {
    /// The compute mode, if it is one in which the GPU is not used: other processes may have it, or none.
    pub(crate) fn refused_mode(&self) -> Option<&'static str> {
        match self.compute_mode {
            0 => None,
            2 => Some("prohibited"),
            _ => Some("exclusive"),
        }
    }

    /// Those of GPU `number`.
    #[allow(unsafe_code)]
    pub(crate) fn of(driver: Driver, number: usize) -> Result<Properties, CudaError> {
        if driver.count == 0 {
            return Err(CudaError::NoGpu);
        }
        if number >= driver.count {
            return Err(CudaError::NoSuchGpu { number, count: driver.count });
        }
        let (mut device, mut bytes, mut name) = (0, 0, [0u8; 256]);
        // SAFETY: the pointers are to memory of the sizes given, which outlives the calls.
        unsafe {
            check("cuDeviceGet", sys::cuDeviceGet(&mut device, number as i32))?;
            let length = name.len() as i32 - 1;
            check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr().cast(), length, device))?;
            check("cuDeviceTotalMem", sys::cuDeviceTotalMem_v2(&mut bytes, device))?;
        }
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: as above.
            let result = unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) };
            check("cuDeviceGetAttribute", result).map(|()| value)
        };
        let name = CStr::from_bytes_until_nul(&name).map(|name| name.to_string_lossy().into_owned());
        Ok(Properties {
            name: name.unwrap_or_default(),
            arch: (attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? * 10
                + attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?)
                as u32,
            sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            memory_bytes: bytes as u64,
            shared_bytes_of_sm: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )? as usize,
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?
                as usize,
            compute_mode: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE)?,
            // Drivers before 12.3 do not know it.
            mps: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MPS_ENABLED).ok().map(|on| on != 0),
        })
    }
}

/// The context of a GPU, which all of this process share.
#[derive(Debug)]
pub(crate) struct Context {
    handle: sys::CUcontext,
    device: sys::CUdevice,
}

// SAFETY: the driver's contexts may be used from any thread that makes them its current one.
#[allow(unsafe_code)]
unsafe impl Send for Context {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Context {}

impl Context {
    /// That of GPU `number`, which exists.
    #[allow(unsafe_code)]
    pub(crate) fn of(number: usize) -> Result<Arc<Context>, CudaError> {
        let (mut device, mut handle) = (0, ptr::null_mut());
        // SAFETY: the pointers are to a number and a handle that outlive the calls.
        unsafe {
            check("cuDeviceGet", sys::cuDeviceGet(&mut device, number as i32))?;
            check("cuDevicePrimaryCtxRetain", sys::cuDevicePrimaryCtxRetain(&mut handle, device))?;
        }
        Ok(Arc::new(Context { handle, device }))
    }

    /// Makes it the current one of this thread: all that follows is about its GPU. Each call that needs it
    /// begins so: threads of a caller come without one, or have another's.
    #[allow(unsafe_code)]
    fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained until `self` is dropped.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.handle) })
    }

    /// Bytes of the GPU's memory that nobody has taken.
    #[allow(unsafe_code)]
    pub(crate) fn free_bytes(&self) -> Result<u64, CudaError> {
        self.enter()?;
        let (mut free, mut all) = (0, 0);
        // SAFETY: the pointers are to numbers that outlive the call.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut all) }).map(|()| free as u64)
    }

    /// The least and the greatest priority of a stream; smaller numbers are more urgent.
    #[allow(unsafe_code)]
    pub(crate) fn priorities(&self) -> Result<(i32, i32), CudaError> {
        self.enter()?;
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: the pointers are to numbers that outlive the call.
        let result = unsafe { sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest) };
        check("cuCtxGetStreamPriorityRange", result).map(|()| (least, greatest))
    }
}

impl Drop for Context {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: retained once, in `of`. What it says is nobody's business any more.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Memory of the device.
#[derive(Debug)]
pub(crate) struct DeviceBytes {
    context: Arc<Context>,
    address: u64,
    len: usize,
}

impl DeviceBytes {
    /// So many bytes, of any content.
    #[allow(unsafe_code)]
    pub(crate) fn new(context: &Arc<Context>, len: usize) -> Result<DeviceBytes, CudaError> {
        context.enter()?;
        let mut address = 0;
        // SAFETY: the pointer is to a number that outlives the call.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&mut address, len.max(1)) })?;
        Ok(DeviceBytes { context: context.clone(), address, len })
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for DeviceBytes {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated in `new`, and who drops it says that nothing uses it any more.
            let _ = unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}

/// Memory of the host that the device reads and writes.
#[derive(Debug)]
pub(crate) struct PinnedBytes {
    context: Arc<Context>,
    at: *mut u8,
    len: usize,
}

// SAFETY: it is memory like any other; who writes it has it for itself.
#[allow(unsafe_code)]
unsafe impl Send for PinnedBytes {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for PinnedBytes {}

impl PinnedBytes {
    /// Reserves alignment and readability past the end that buffers promise.
    const GRAIN: usize = 64;
    /// The device may address it: `CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP`.
    const FLAGS: u32 = 3;

    /// So many zeros.
    #[allow(unsafe_code)]
    pub(crate) fn zeroed(context: &Arc<Context>, len: usize) -> Result<PinnedBytes, CudaError> {
        context.enter()?;
        let bytes = len.max(1).next_multiple_of(Self::GRAIN);
        let mut at: *mut c_void = ptr::null_mut();
        // SAFETY: the pointer is to a pointer that outlives the call; then `at` has `bytes` bytes.
        unsafe {
            check("cuMemHostAlloc", sys::cuMemHostAlloc(&mut at, bytes, Self::FLAGS))?;
            ptr::write_bytes(at.cast::<u8>(), 0, bytes);
        }
        Ok(PinnedBytes { context: context.clone(), at: at.cast(), len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.at
    }

    /// Its address for the device.
    #[allow(unsafe_code)]
    pub(crate) fn device_address(&self) -> Result<u64, CudaError> {
        self.context.enter()?;
        let mut address = 0;
        // SAFETY: the pointer is to a number that outlives the call, and the memory is this one's.
        let result = unsafe { sys::cuMemHostGetDevicePointer_v2(&mut address, self.at.cast(), 0) };
        check("cuMemHostGetDevicePointer", result).map(|()| address)
    }

    #[allow(unsafe_code)]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: it has so many bytes, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

impl Drop for PinnedBytes {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated in `zeroed`.
            let _ = unsafe { sys::cuMemFreeHost(self.at.cast()) };
        }
    }
}

/// A queue of the device.
#[derive(Debug)]
pub(crate) struct Stream {
    context: Arc<Context>,
    handle: sys::CUstream,
}

// SAFETY: streams may be used from any thread.
#[allow(unsafe_code)]
unsafe impl Send for Stream {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Stream {}

impl Stream {
    /// `CU_STREAM_NON_BLOCKING`: it does not wait for the default one.
    const FLAGS: u32 = 1;

    #[allow(unsafe_code)]
    pub(crate) fn new(context: &Arc<Context>, priority: i32) -> Result<Stream, CudaError> {
        context.enter()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is to a handle that outlives the call.
        let result = unsafe { sys::cuStreamCreateWithPriority(&mut handle, Self::FLAGS, priority) };
        check("cuStreamCreateWithPriority", result)?;
        Ok(Stream { context: context.clone(), handle })
    }

    /// Copies to the device, when all before it is done.
    ///
    /// # Safety
    /// `from` has `len` bytes, and `to` is of the device and has as many, until the copy is done; nobody
    /// writes the ones or uses the others meanwhile.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn upload(&self, to: u64, from: *const u8, len: usize) -> Result<(), CudaError> {
        if len == 0 {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: the caller's word.
        check("cuMemcpyHtoDAsync", unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), len, self.handle) })
    }

    /// Copies from the device, when all before it is done.
    ///
    /// # Safety
    /// As [`Stream::upload`], the other way round.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn download(&self, to: *mut u8, from: u64, len: usize) -> Result<(), CudaError> {
        if len == 0 {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: the caller's word.
        check("cuMemcpyDtoHAsync", unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, len, self.handle) })
    }

    /// Fills memory with zeros, when all before it is done.
    #[allow(unsafe_code)]
    pub(crate) fn clear(&self, bytes: &DeviceBytes) -> Result<(), CudaError> {
        self.context.enter()?;
        // SAFETY: the memory is that large; it is the caller's, whose `&` says that it lives now, and freeing
        // it waits for what uses it.
        let result = unsafe { sys::cuMemsetD8Async(bytes.address, 0, bytes.len, self.handle) };
        check("cuMemsetD8Async", result)
    }

    /// Writes a word of some memory, when all before it is done; no multiprocessor is needed for it.
    #[allow(unsafe_code)]
    pub(crate) fn write(&self, bytes: &DeviceBytes, at: usize, value: u32) -> Result<(), CudaError> {
        assert!(at + size_of::<u32>() <= bytes.len && at.is_multiple_of(size_of::<u32>()), "it is inside");
        self.context.enter()?;
        // SAFETY: the word is inside the memory, which is the caller's: its `&` says that it lives now, and
        // freeing it waits for what uses it.
        let result =
            unsafe { sys::cuStreamWriteValue32_v2(self.handle, bytes.address + at as u64, value, 0) };
        check("cuStreamWriteValue32", result)
    }

    /// Starts a kernel of one parameter, when all before it is done.
    ///
    /// # Safety
    /// The parameter is what the kernel takes, and what it points to lives until the kernel has ended.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn launch<T: Copy>(
        &self,
        function: Function,
        grid: Grid,
        parameter: &T,
    ) -> Result<(), CudaError> {
        self.context.enter()?;
        let mut parameters = [ptr::from_ref(parameter).cast_mut().cast::<c_void>()];
        let Grid { blocks, threads, shared_bytes } = grid;
        // SAFETY: the driver copies the parameter before it returns; the rest is the caller's word.
        let result = unsafe {
            sys::cuLaunchKernel(
                function.0,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                shared_bytes,
                self.handle,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check("cuLaunchKernel", result)
    }

    /// Whether all is done; the error that the device has had, if it has.
    #[allow(unsafe_code)]
    pub(crate) fn is_done(&self) -> Result<bool, CudaError> {
        self.context.enter()?;
        // SAFETY: the stream exists.
        match unsafe { sys::cuStreamQuery(self.handle) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => check("cuStreamQuery", result).map(|()| true),
        }
    }

    /// Waits until all is done.
    #[allow(unsafe_code)]
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        self.context.enter()?;
        // SAFETY: the stream exists.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.handle) })
    }
}

impl Drop for Stream {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made in `new`.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.handle) };
        }
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
}

/// A kernel of a module, which stays loaded while the device is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function(sys::CUfunction);

// SAFETY: a handle.
#[allow(unsafe_code)]
unsafe impl Send for Function {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Function {}

/// Machine code on the device.
#[derive(Debug)]
pub(crate) struct Module {
    context: Arc<Context>,
    handle: sys::CUmodule,
}

// SAFETY: a handle.
#[allow(unsafe_code)]
unsafe impl Send for Module {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Module {}

impl Module {
    /// Loads a CUBIN.
    #[allow(unsafe_code)]
    pub(crate) fn load(context: &Arc<Context>, cubin: &[u8]) -> Result<Module, CudaError> {
        context.enter()?;
        let mut handle = ptr::null_mut();
        // SAFETY: an ELF file says itself how long it is, and the driver copies it.
        let result = unsafe { sys::cuModuleLoadData(&mut handle, cubin.as_ptr().cast()) };
        check("cuModuleLoadData", result)?;
        Ok(Module { context: context.clone(), handle })
    }

    /// The kernel of a name.
    #[allow(unsafe_code)]
    pub(crate) fn function(&self, name: &str) -> Result<Function, CudaError> {
        self.context.enter()?;
        let name = CString::new(name).expect("kernels' names have no NUL");
        let mut function = ptr::null_mut();
        // SAFETY: the pointers outlive the call.
        let result = unsafe { sys::cuModuleGetFunction(&mut function, self.handle, name.as_ptr()) };
        check("cuModuleGetFunction", result).map(|()| Function(function))
    }

    /// Lets blocks of a kernel of this module have up to so much shared memory.
    #[allow(unsafe_code)]
    pub(crate) fn allow_shared(&self, function: Function, bytes: usize) -> Result<(), CudaError> {
        self.context.enter()?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is of this module, which is loaded.
        check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(function.0, attribute, bytes as i32) })
    }
}

impl Drop for Module {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: loaded in `load`.
            let _ = unsafe { sys::cuModuleUnload(self.handle) };
        }
    }
}
