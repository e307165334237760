//! Optimizers: AdamW with moments in `f32` and in 8 bits, clipping, and their state in a file.

mod adamw;
mod config;
mod device;
mod error;
mod file;
mod gradients;
mod module;
mod moments;

pub use adamw::AdamW;
pub use config::{MomentForm, OptimizerConfig, OptimizerSpecError};
pub use error::OptimizerError;
pub use gradients::{GradientError, GradientSum, clip};
pub use module::Optimizer;
pub use moments::Moments;
