//! OLMo 3: OLMo 2 with a window on three layers of four, which are not stretched to longer texts.

use super::{
    common::{self, Defaults},
    family::Family,
    olmo2,
    rotary::RotaryDefaults,
};
use crate::model::{decoder::Spec, error::ConfigError, fields::Fields};

pub(super) static FAMILY: Family = Family::new("olmo3", read).verified(&["olmo3_bf16"]);

const FAR: RotaryDefaults = RotaryDefaults {
    kind: Some("full_attention"),
    theta: 500_000.0,
    ..RotaryDefaults::LLAMA
};

/// Of layers with a window.
const NEAR: RotaryDefaults = RotaryDefaults {
    kind: Some("sliding_attention"),
    scaled: false,
    ..FAR
};

const DEFAULTS: Defaults = Defaults {
    norm_eps: 1e-5,
    rotary: FAR,
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = olmo2::olmo(family, fields, &DEFAULTS)?;
    let window = common::window(fields)?;
    common::windows(fields, &mut spec, window, |layer| (layer + 1) % 4 != 0)?;
    common::rotary_near(fields, &mut spec, &NEAR)?;
    Ok(spec)
}
