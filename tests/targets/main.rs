//! What holds on every target, written once over [`Target`] and run on each that is compiled in.
//!
//! A target that is compiled in and has no device fails: it is not skipped.

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod devices;
mod gradients;
mod memory;
mod models;
mod opening;
mod operations;
mod optimizer;
mod verify;
mod weights;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Leave for a test to run, for as long as it is held.
#[allow(dead_code, reason = "held, not read")]
enum Turn {
    Together(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Waits for it. Tests that ask a device for its memory have the device for themselves.
fn turn(group: &str) -> Turn {
    static DEVICE: RwLock<()> = RwLock::new(());
    match group {
        "memory" => Turn::Alone(DEVICE.write().unwrap_or_else(PoisonError::into_inner)),
        _ => Turn::Together(DEVICE.read().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// Runs every test on the target.
macro_rules! suite {
    ($module:ident, $feature:literal, $target:ident) => {
        #[cfg(feature = $feature)]
        mod $module {
            suite!(@tests firebox::$target:
                opening::a_device_is_opened_by_its_index,
                opening::a_device_of_another_target_is_refused,
                opening::types_that_a_device_lacks_become_f32,
                weights::packing_gives_the_hosts_bits,
                weights::special_values_pack_as_on_the_host,
                weights::dequantizing_gives_the_hosts_values,
                weights::errors_are_those_of_the_dense_weight,
                operations::products_are_those_of_the_dense_weight,
                operations::rows_are_those_of_the_dense_weight,
                operations::shapes_are_as_announced,
                operations::operations_join_others,
                adapters::adapters_get_the_dense_gradients,
                gradients::the_activation_gets_the_dense_gradient,
                gradients::streamed_weights_give_the_loaded_gradient,
                gradients::losses_give_the_gradients_of_an_ordinary_graph,
                devices::spread_models_answer_as_loaded_ones_do,
                devices::a_model_three_times_as_large_as_its_device_makes_text,
                memory::a_load_keeps_to_the_memory_of_its_device,
                memory::no_dense_weight_waits_for_the_backward_pass,
                models::logits_are_those_of_transformers,
                models::logits_of_other_families_are_those_of_transformers,
                models::halves_stay_halves,
                models::packed_models_answer_as_their_dense_weights_do,
                models::tiles_and_parts_change_nothing,
                models::mapped_models_answer_as_read_ones_do,
                models::streamed_models_answer_as_loaded_ones_do,
                models::saved_files_are_those_of_the_cpu,
                models::greedy_text_is_that_of_transformers,
                optimizer::steps_are_those_of_the_host,
                optimizer::gradients_are_clipped_by_their_norm,
                verify::verified_weights_are_as_far_as_on_the_host,
            );
        }
    };
    (@tests $target:ty: $($group:ident::$test:ident,)*) => {
        $(
            #[test]
            fn $test() {
                let _turn = crate::turn(stringify!($group));
                crate::$group::$test::<$target>();
            }
        )*
    };
}

suite!(cpu, "cpu", Cpu);
suite!(ndarray, "ndarray", NdArray);
suite!(cuda, "cuda", Cuda);
suite!(vulkan, "vulkan", Vulkan);
suite!(webgpu, "webgpu", WebGpu);
suite!(metal, "metal", Metal);
suite!(wgpu, "wgpu", Wgpu);
