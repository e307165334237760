//! A kernel as CubeCL's CUDA runtime would compile it.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
};

use cubecl::{
    Compiler, CubeKernel,
    client::Client,
    cuda::{CudaCompilationOptions, CudaCompiler, CudaRepresentation, compiler::CudaBackend},
    define_kernel,
    ir::{DeviceProperties, nvidia::SmArch},
};
use cubecl_llvm::nvptx::ptx_version::PtxVersion;
use cubecl_server::validation;

/// What came of a kernel.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The path of the function that it is made from, and its type arguments.
    pub name: &'static str,
    /// PTX by LLVM, or why there is none.
    pub ptx: Result<String, String>,
    /// CUDA C++, or why there is none.
    pub cpp: Result<String, String>,
}

/// What was launched and not yet taken, by what CubeCL tells kernels apart by.
static LAUNCHED: Mutex<BTreeMap<String, Box<dyn CubeKernel>>> = Mutex::new(BTreeMap::new());

/// Every kernel launched on `client` since this was called before, once each.
pub fn launched(client: &Client) -> Vec<Box<dyn CubeKernel>> {
    client.flush().expect("the server flushes");
    let mut launched = LAUNCHED.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *launched).into_values().collect()
}

/// Keeps `kernel` for later.
pub(crate) fn keep(kernel: Box<dyn CubeKernel>) {
    let mut launched = LAUNCHED.lock().unwrap_or_else(PoisonError::into_inner);
    launched.entry(kernel.id().to_string()).or_insert(kernel);
}

/// Compiles `kernel`, which was launched on `client`.
pub fn compile(client: &Client, kernel: &dyn CubeKernel) -> Compiled {
    let properties = client.properties();
    let by = |backend| {
        // What the runtime asks before it compiles.
        let id = kernel.id();
        validation::validate_cube_dim(properties, &id).map_err(|error| error.to_string())?;
        validation::validate_units(properties, &id).map_err(|error| error.to_string())?;
        text(kernel, properties, backend)
    };
    Compiled {
        name: kernel.name(),
        ptx: by(CudaBackend::Llvm),
        cpp: by(CudaBackend::Cpp),
    }
}

fn text(
    kernel: &dyn CubeKernel,
    properties: &DeviceProperties,
    backend: CudaBackend,
) -> Result<String, String> {
    let definition = define_kernel(kernel).map_err(|error| error.to_string())?;
    // A compiler's panic on the device thread would be logged and forgotten.
    let representation = catch_unwind(AssertUnwindSafe(|| {
        CudaCompiler::new(backend).compile(definition, &options())
    }))
    .map_err(|_| "the compiler panicked".to_owned())?
    .map_err(|error| error.to_string())?;
    let (shared, most) = (
        representation.shared_memory_size(),
        properties.hardware.max_shared_memory_size,
    );
    if shared > most {
        return Err(format!("{shared} bytes of shared memory, of {most}"));
    }
    Ok(match representation {
        CudaRepresentation::Cpp(kernel) => kernel.to_string(),
        CudaRepresentation::Llvm(module) => {
            // SAFETY: the module says that it ends with NUL.
            let ptx = unsafe { CStr::from_ptr(module.ptx.as_ptr()) };
            ptx.to_string_lossy().into_owned()
        }
    })
}

/// As the runtime chooses them for an H100 under a driver of CUDA 13.0.
fn options() -> CudaCompilationOptions {
    let mut options = CudaCompilationOptions {
        arch: Some(SmArch::new(90, true)),
        ptx_version: PtxVersion::for_driver(13_000),
        ..Default::default()
    };
    options.cpp.warp_size = 32;
    let features = &mut options.cpp.supports_features;
    features.fast_math = true;
    features.dp4a = true;
    features.grid_constants = true;
    features.fast_tanh = true;
    features.clusters = true;
    features.elect_sync = true;
    options
}
