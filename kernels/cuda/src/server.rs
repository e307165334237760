//! A server of CubeCL that keeps what is launched and runs nothing.

use std::sync::Arc;

use cubecl::{
    CubeCount, CubeKernel,
    bytes::Bytes,
    client::Client,
    features::{Features, Plane},
    future::DynFut,
    ir::{
        DeviceIdentity, DeviceProperties, HardwareProperties, MemoryDeviceProperties, VectorSize,
    },
    profile::{ProfileDuration, TimingMethod},
    server::{
        BufferBinding, CopyDescriptor, KernelArguments, ProfileError, ProfilingToken, Server,
        ServerCommunication, ServerError, ServerStorage, ServerUtilities,
    },
};
use cubecl_common::device::{DeviceId, DeviceService, ServerUtilitiesHandle, ServiceId};
use cubecl_environment::{backtrace::BackTrace, stream::StreamId};
use cubecl_llvm::shared::lowered_features::{GpuTarget, restrict_features};
use cubecl_server::{
    allocator::PitchedMemoryLayoutPolicy,
    dry_run::LaunchMode,
    logging::ServerLogger,
    memory_management::{ManagedMemoryHandle, MemoryAllocationMode, StreamMemoryReport},
    runtime::Runtime,
    storage::{BytesStorage, ComputeStorage, ManagedResource},
};

use crate::compile::keep;

/// A client of the one device there is here.
pub fn client() -> Client {
    Client::load::<Offline>(DeviceId::new(0, 0))
}

/// The server. What was launched on it outlives it.
#[derive(Debug)]
struct Offline {
    utilities: Arc<ServerUtilities>,
}

/// Alignment of buffers, as CubeCL's CUDA runtime has it.
const ALIGNMENT: usize = 512;

/// What CubeCL's CUDA runtime reads from the driver of an H100, as far as kernels here could ask for it:
/// matrix instructions, tensor maps and atomics of more than one word are left out.
fn properties() -> DeviceProperties {
    let memory = 80 << 30;
    let mut properties = DeviceProperties::new(
        Features::default(),
        MemoryDeviceProperties::new(memory / 4, ALIGNMENT as u64).with_max_memory(memory),
        HardwareProperties {
            load_width: 128,
            vector_register_count: None,
            plane_size_min: 32,
            plane_size_max: 32,
            max_bindings: 1024,
            max_shared_memory_size: 232_448,
            max_cube_count: (i32::MAX as u32, 65_535, 65_535),
            max_units_per_cube: 1024,
            max_cube_dim: (1024, 1024, 64),
            num_streaming_multiprocessors: Some(132),
            num_tensor_cores: Some(4),
            min_tensor_cores_dim: Some(8),
            num_cpu_cores: None,
            last_level_cache_size: None,
            max_vector_size: VectorSize::MAX,
            cube_mma_reserved_shared_memory: 0,
        },
        TimingMethod::Device,
        DeviceIdentity {
            name: "H100, not there".into(),
            fingerprint: "offline_sm90".into(),
            physical: None,
        },
    );
    cubecl_cpp::register_supported_types(&mut properties);
    let features = &mut properties.features;
    for plane in [Plane::Ops, Plane::Sync, Plane::NonUniformControlFlow] {
        features.plane.insert(plane);
    }
    features.memory_reinterpret = true;
    features.alignment = true;
    features.device_memory_scope = true;
    features.copy_async = true;
    features.cube_cluster = true;
    restrict_features(&mut properties, GpuTarget::Nvptx);
    properties
}

impl DeviceService for Offline {
    fn init(device: DeviceId) -> Self {
        // Kernels may ask for the name of the runtime, so it is the one of CUDA's.
        let (utilities, _) = ServerUtilities::init(
            ServiceId::of::<Self>(device),
            "cuda",
            properties(),
            cubecl::cuda::CudaRuntime::target_properties(),
            Arc::new(ServerLogger::default()),
            PitchedMemoryLayoutPolicy::new(ALIGNMENT),
        );
        Self {
            utilities: Arc::new(utilities),
        }
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl ServerCommunication for Offline {}

impl Server for Offline {
    fn initialize_memory(
        &mut self,
        _: ManagedMemoryHandle,
        _: u64,
        _: StreamId,
    ) -> Result<(), ServerError> {
        Ok(())
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities> {
        self.utilities.clone()
    }

    fn read(
        &mut self,
        descriptors: Vec<CopyDescriptor>,
        _: StreamId,
    ) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let zeros = descriptors.iter().map(|descriptor| {
            let bytes = descriptor.shape.iter().product::<usize>() * descriptor.elem_size;
            Bytes::from_bytes_vec(vec![0; bytes])
        });
        let zeros = zeros.collect();
        Box::pin(async move { Ok(zeros) })
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(&mut self, _: Vec<BufferBinding>, _: StreamId) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn check(&mut self, _: Vec<BufferBinding>, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    unsafe fn launch(
        &mut self,
        kernel: Box<dyn CubeKernel>,
        _: CubeCount,
        _: KernelArguments,
        _: StreamId,
        _: LaunchMode,
    ) {
        keep(kernel);
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_report(&mut self, _: StreamId) -> Option<StreamMemoryReport> {
        None
    }

    fn memory_cleanup(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        Err(nothing())
    }

    fn end_profile(
        &mut self,
        _: StreamId,
        _: ProfilingToken,
    ) -> Result<ProfileDuration, ProfileError> {
        Err(ProfileError::Server(Box::new(nothing())))
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

impl ServerStorage for Offline {
    type Storage = BytesStorage;

    fn get_resource(
        &mut self,
        _: BufferBinding,
        _: StreamId,
    ) -> Result<ManagedResource<<BytesStorage as ComputeStorage>::Resource>, ServerError> {
        Err(nothing())
    }
}

fn nothing() -> ServerError {
    ServerError::Generic {
        reason: "nothing runs on a device that is not there".into(),
        backtrace: BackTrace::capture(),
    }
}
