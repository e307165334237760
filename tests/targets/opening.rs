//! Devices, and what they say of themselves.

use firebox::{
    DType, Error, LoadConfig, Loader, Target,
    target::{Capabilities, MemoryKind, TargetError, ToBurn},
};

use crate::common::Golden;

/// Catches a panic in place of an error, and a target that takes what is not its own.
pub(crate) fn a_device_is_opened_by_its_index<T: Target>() {
    let device = T::device(0).unwrap_or_else(|error| panic!("{error}"));
    assert!(T::owns(&device));
    assert!(T::owns(&device.clone().autodiff()));

    let Capabilities {
        name,
        dtypes,
        largest_allocation,
        memory,
        planes,
        ..
    } = T::capabilities(&device);
    assert!(!name.is_empty());
    assert!(dtypes.contains(&DType::F32));
    let on_device = T::MEMORY == MemoryKind::Device;
    assert_eq!(planes.is_some(), on_device, "{planes:?}");
    assert_eq!(largest_allocation.is_some(), on_device);
    if let Some([fewest, most]) = planes {
        assert!(0 < fewest && fewest <= most, "{planes:?}");
    }
    if let (Some(largest), Some(memory)) = (largest_allocation, memory) {
        assert!(0 < largest && largest <= memory, "{largest} of {memory}");
    }

    let error = T::device(4711).expect_err("no machine has that many devices");
    let text = error.to_string();
    match error {
        TargetError::NoDevice {
            target,
            index,
            found,
        } => {
            assert_eq!((target, index), (T::NAME, 4711));
            assert!(found > 0);
            assert!(
                text.contains("4711") && text.contains(&found.to_string()),
                "{text}"
            );
        }
        other => panic!("{other}"),
    }
}

pub(crate) fn a_device_of_another_target_is_refused<T: Target>() {
    let config = || LoadConfig::new(Golden("llama_f32_tied").path("").to_string_lossy());
    let own = T::device(0).expect("a device");
    Loader::<T>::on(config(), own.clone()).expect("a device of its own");

    let others = [
        #[cfg(feature = "cpu")]
        firebox::Cpu::device(0),
        #[cfg(feature = "ndarray")]
        firebox::NdArray::device(0),
        #[cfg(feature = "vulkan")]
        firebox::Vulkan::device(0),
        #[cfg(feature = "cuda")]
        firebox::Cuda::device(0),
    ];
    for device in others {
        let device = device.unwrap_or_else(|error| panic!("{error}"));
        // The best graphics driver may be Vulkan's, under another name.
        if T::owns(&device) {
            continue;
        }
        match Loader::<T>::on(config(), device) {
            Err(Error::Target(TargetError::Foreign { target, .. })) => assert_eq!(target, T::NAME),
            other => panic!("{other:?}"),
        }
    }
}

/// Catches a substitution that nobody is told of, and one by a type that loses values.
pub(crate) fn types_that_a_device_lacks_become_f32<T: Target>() {
    let device = T::device(0).expect("a device");
    let has = T::capabilities(&device).dtypes;
    for asked in DType::ALL {
        let config = LoadConfig::new(Golden("qwen2_bf16_tied").path("").to_string_lossy());
        let loader = Loader::<T>::on(config.dtype(asked), device.clone()).expect("a loader");
        let loaded = loader
            .load::<firebox::model::CausalLm>()
            .unwrap_or_else(|error| panic!("{asked}: {error}"));
        let report = loaded.report;
        assert_eq!(report.dtype_wanted, asked);
        let expected = if has.contains(&asked) {
            asked
        } else {
            DType::F32
        };
        assert_eq!(report.dtype, expected);
        let told = report.to_string().contains("does not compute in");
        assert_eq!(told, expected != asked, "{report}");
        let norm = loaded.model.norm.scale.val().dtype();
        assert_eq!(norm, expected.burn().into());
    }
}
