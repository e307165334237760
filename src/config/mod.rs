//! What the caller asks for, as data: every type here can be cloned, compared and written to a file.
//!
//! Nothing here opens a file, listens or holds a device. A source, observers and shared memory are given to a
//! [`LoadRequest`](crate::LoadRequest).

mod adapter;
mod budget;
mod device_map;
mod expand;
mod hub;
mod known;
mod kv_cache;
mod load;
mod max_memory;
mod near;
mod parallel;
mod policy;
#[cfg(any(feature = "hub", feature = "remote"))]
mod push;
pub(crate) mod quant;
mod reading;
mod role;
mod save;
mod size;
mod stated;
mod strategy;
mod to;
mod train_type;
mod verify;
mod workers;

pub use adapter::{AdapterConfig, AdapterSpecError, LoraConfig, TrainedBiases};
pub use budget::{Budget, BudgetError};
pub use device_map::{Destination, DeviceMap, DeviceMapError};
pub(crate) use expand::NEW_BLOCKS;
pub use expand::{Expand, ExpandSpecError};
pub(crate) use hub::HubConfig;
#[cfg(feature = "hub")]
pub(crate) use hub::Secret;
pub use known::Known;
pub use kv_cache::KvCacheDtype;
pub use load::LoadConfig;
pub(crate) use load::{PackConfig, PlaceConfig, ReadConfig};
pub use max_memory::{MaxMemory, MaxMemoryError};
pub(crate) use near::{letters, nearest};
pub(crate) use parallel::RankConfig;
pub use parallel::{Parallel, Ranks};
pub(crate) use policy::can_be_packed;
pub use policy::{Pattern, Policy, Rule, RuleError};
#[cfg(any(feature = "hub", feature = "remote"))]
pub use push::PushConfig;
pub use quant::Auto;
pub use reading::Reading;
pub use role::Role;
pub use save::SaveConfig;
pub use size::{Bytes, SizeError};
pub use stated::{DeviceMemories, StatedMemory, StatedMemoryError};
pub use strategy::{Strategy, StreamFrom};
pub use to::{To, UnknownDialect};
pub use train_type::{TrainType, UnknownTrainType};
pub use verify::{Beyond, Limit, Limits, VerifyConfig};
pub use workers::Workers;
