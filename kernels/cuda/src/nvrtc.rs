//! NVIDIA's compiler of CUDA C++, where its library can be loaded.

use std::ffi::{CStr, CString};

use cubecl::cuda::install;
use cudarc::nvrtc::{result, sys};

use crate::ARCHITECTURE;

/// Whether the library is there. Its headers are looked for where CubeCL does: in `CUDA_PATH`, or where CUDA is
/// usually installed.
pub fn is_present() -> bool {
    // SAFETY: the call only tries to load the library.
    unsafe { sys::is_culib_present() && install::cuda_path().is_some() }
}

/// PTX of CUDA C++, with the options that CubeCL's CUDA runtime sets.
///
/// # Errors
///
/// What the compiler says.
pub fn compile(source: &str) -> Result<String, String> {
    let architecture = format!("--gpu-architecture={ARCHITECTURE}");
    let include = |path: std::path::PathBuf| format!("--include-path={}", path.display());
    let includes = [install::include_path(), install::cccl_include_path()].map(include);
    let options = [&architecture, &includes[0], &includes[1], "-lineinfo"];
    let source = CString::new(source).map_err(|error| error.to_string())?;
    // SAFETY: the source ends with NUL and outlives the program, which is not used once it is destroyed; a
    // log and PTX end with NUL.
    unsafe {
        let program = result::create_program(&source, None).map_err(|error| error.to_string())?;
        let compiled = result::compile_program(program, &options);
        let text = match compiled {
            Ok(()) => result::get_ptx(program),
            Err(_) => result::get_program_log(program),
        };
        let text = text.map(|text| CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned());
        result::destroy_program(program).map_err(|error| error.to_string())?;
        let text = text.map_err(|error| error.to_string())?;
        compiled.map(|()| text.clone()).map_err(|_| text)
    }
}
