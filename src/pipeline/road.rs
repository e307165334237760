//! How a tensor becomes its finished weight: straight, or through a converter.

use firebox_kernels::{arith::float::DType, format::PART_VALUES_MAX};

use super::{
    convert::{
        Convert,
        adopted::Adopted,
        carried::Carried,
        dense::{DenseRows, DenseWhole},
        device::DevicePacker,
        packed::{PackRows, PackWhole},
    },
    error::PipelineError,
    settings::Settings,
};
use crate::plan::{Action, Step, Stored};

/// How a tensor becomes its finished weight.
pub(super) enum Road {
    /// It is stored as it stays, in this type: the reader reads to where the weight stays.
    Straight(DType),
    /// Tile by tile, through a converter.
    Tiles(Box<dyn Convert>),
}

impl Road {
    /// The road of `step`; `by_rows` for a sink that takes its rows one batch after another.
    pub(super) fn of(
        step: &Step,
        settings: &Settings<'_>,
        by_rows: bool,
    ) -> Result<Self, PipelineError> {
        let shape @ [rows, cols] = step.matrix();
        let failed = |source| PipelineError::Format {
            tensor: step.slot.name.clone(),
            source,
        };
        let converter: Box<dyn Convert> = match (&step.stored, &step.action) {
            (Stored::Other(_), _) | (_, Action::Carry) => Box::new(Carried::new(by_rows)),
            (Stored::Packed(adopt), Action::Adopt(_)) => Box::new(Adopted::new(step, adopt)?),
            (_, Action::Dense(dtype)) if by_rows => {
                Box::new(DenseRows::new(step.float(), *dtype, cols))
            }
            // Bytes of a file are values as they are on little-endian machines.
            (Stored::Plain(source), Action::Dense(dtype))
                if dtype == source
                    && step.merge.is_none()
                    && step.scaling.is_none()
                    && cfg!(target_endian = "little") =>
            {
                return Ok(Self::Straight(*dtype));
            }
            (_, Action::Dense(dtype)) => Box::new(DenseWhole::new(step, step.float(), *dtype)?),
            (_, Action::Pack(spec, _)) => {
                let method = spec
                    .method()
                    .expect("a step is packed because its spec has a method");
                match (settings.device(step), method.on_device()) {
                    // A weight without values has no tile to upload, and one with more than kernels count to is cut into
                    // parts, which a sink of whole weights does not take.
                    (Some(device), Some(packing))
                        if rows * cols > 0
                            && (settings.allocation_max.is_some()
                                || rows * cols <= PART_VALUES_MAX) =>
                    {
                        let packer =
                            DevicePacker::new(step, packing, device, settings.allocation_max);
                        Box::new(packer.map_err(failed)?)
                    }
                    _ => {
                        let packer = method.packer(shape, step.float()).map_err(failed)?;
                        if by_rows {
                            Box::new(PackRows::new(packer))
                        } else {
                            Box::new(PackWhole::new(step, packer)?)
                        }
                    }
                }
            }
            (Stored::Plain(_), Action::Adopt(format)) => {
                return Err(PipelineError::NotPacked {
                    tensor: step.slot.name.clone(),
                    format: *format,
                });
            }
        };
        Ok(Self::Tiles(converter))
    }
}
