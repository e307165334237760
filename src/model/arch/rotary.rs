//! The rotation of queries and keys, in both dialects of transformers.
//!
//! ```text
//!            version 5                                    version 4
//! base       rope_parameters.rope_theta                   rope_theta
//! scaling    rope_parameters.{rope_type, ..}              rope_scaling.{rope_type or type, ..}, or null
//! part       rope_parameters.partial_rotary_factor        partial_rotary_factor
//! by kind    rope_parameters.full_attention.{..}, ..      fields of the family
//! ```
//!
//! Which field wins, and the meaning of an absent one, are those of transformers 5.23 (`modeling_rope_utils.py`).

use crate::{
    config::Known,
    model::{
        error::ConfigError,
        fields::Fields,
        layers::{Pairs, Rope, RopeScaling, RotarySpec},
    },
};

/// The values of a family for fields that its files may leave out, and the names of the fields in version 4.
#[derive(Debug, Clone, Copy)]
pub(super) struct RotaryDefaults {
    /// The layers that turn in this way, by their word in `layer_types`; `None`: all of them.
    pub(super) kind: Option<&'static str>,
    /// Whether what version 4 says in `rope_scaling` is about these layers.
    pub(super) scaled: bool,
    /// Of the base.
    pub(super) theta: f64,
    /// The part of a head that turns; `None`: whole heads, and a file that asks for a part is refused.
    pub(super) part: Option<f64>,
    /// Which features turn together.
    pub(super) pairs: Pairs,
    /// Of `original_max_position_embeddings`; `None`: all positions.
    pub(super) original_positions: Option<usize>,
    /// Where version 4 has the base.
    pub(super) theta_field: &'static str,
    /// Where version 4 has the part.
    pub(super) part_field: &'static str,
}

impl RotaryDefaults {
    /// Those of Llama: halves of whole heads, base 10,000.
    pub(super) const LLAMA: Self = Self {
        kind: None,
        scaled: true,
        theta: 10_000.0,
        part: None,
        pairs: Pairs::Halves,
        original_positions: None,
        theta_field: "rope_theta",
        part_field: "partial_rotary_factor",
    };
}

/// The rotation of heads of `head_features` in a model of `positions`.
pub(super) fn rotary(
    fields: Fields<'_>,
    head_features: usize,
    positions: usize,
    defaults: &RotaryDefaults,
) -> Result<RotarySpec, ConfigError> {
    let (rope, original) = match defaults.kind {
        // A field beside the others wins over the one among them.
        None => (
            place(fields)?,
            fields.count(ORIGINAL)?.or(defaults.original_positions),
        ),
        Some(kind) => (place_of_kind(fields, kind, defaults.scaled)?, None),
    };
    let reader = RotaryReader {
        fields,
        rope,
        positions,
        original,
        defaults,
    };
    reader.read(head_features)
}

/// The fields of the rotation, in either dialect, where all layers turn alike.
pub(super) fn place(fields: Fields<'_>) -> Result<Option<Fields<'_>>, ConfigError> {
    let rope = match fields.inside("rope_scaling")? {
        Some(old) if !old.is_empty() => Some(old),
        _ => fields.inside("rope_parameters")?,
    };
    // A rotation for each kind of layer: to read it as one for all would pass for the default.
    match rope.and_then(|rope| Some((rope, rope.nested()?))) {
        Some((rope, kind)) => {
            Err(rope.unsupported(kind, "frequencies of its own", "one kind for all layers"))
        }
        None => Ok(rope),
    }
}

/// The same for one kind of layers; `old`: what version 4 says in `rope_scaling` is about them.
fn place_of_kind<'a>(
    fields: Fields<'a>,
    kind: &'static str,
    old: bool,
) -> Result<Option<Fields<'a>>, ConfigError> {
    let new = fields.inside("rope_parameters")?;
    if let Some(new) = new
        && let Some((field, _)) = new.entries().find(|(_, value)| !value.is_object())
    {
        return Err(new.unsupported(field, "one rotation for all layers", "one for each kind"));
    }
    let scaling = fields.inside("rope_scaling")?;
    if old && new.is_some() && scaling.is_some_and(|scaling| !scaling.is_empty()) {
        let found = "another rotation beside `rope_parameters`";
        return Err(fields.unsupported("rope_scaling", found, "one of the two fields"));
    }
    match new.map(|new| new.inside(kind)).transpose()?.flatten() {
        Some(rope) => Ok(Some(rope)),
        None => Ok(scaling.filter(|_| old)),
    }
}

const ORIGINAL: &str = "original_max_position_embeddings";

const PART: &str = "partial_rotary_factor";

/// Where one rotation is read from.
struct RotaryReader<'a, 'd> {
    /// Of the model.
    fields: Fields<'a>,
    /// Of the rotation.
    rope: Option<Fields<'a>>,
    /// Of the model.
    positions: usize,
    /// Positions of the first training, where the fields of the rotation do not decide them.
    original: Option<usize>,
    defaults: &'d RotaryDefaults,
}

impl RotaryReader<'_, '_> {
    fn read(&self, head_features: usize) -> Result<RotarySpec, ConfigError> {
        let theta = self.either("rope_theta", self.defaults.theta_field)?;
        let theta = theta.unwrap_or(self.defaults.theta);
        let part = self.part()?;
        let mut rotary = RotarySpec {
            pairs: self.defaults.pairs,
            ..RotarySpec::new((head_features as f64 * part) as usize, theta)
        };
        if let Some(rope) = self.rope {
            match kind(rope)? {
                // The frequencies of whole heads, of which the first turn.
                (_, "proportional") => {
                    let turning = (head_features as f64 * part / 2.0) as usize;
                    rotary.features = head_features;
                    rotary.still = head_features / 2 - turning;
                    if let Some(factor) = rope.positive("factor")? {
                        let factor = factor as f32;
                        rotary.scaling = RopeScaling::Linear { factor };
                    }
                }
                _ => rotary.scaling = self.scaling(rope, rotary.features)?,
            }
        }
        let expected = match (rotary.features, &rotary.scaling) {
            (0, _) => Some("that is a pair at least"),
            (odd, RopeScaling::Yarn { .. }) if odd % 2 != 0 => Some("that is even, for yarn"),
            _ => None,
        };
        if let Some(expected) = expected {
            let (fields, field) = self.part_field();
            let expected = format!("a part of {head_features} features {expected}");
            return Err(fields.value(field, part, expected));
        }
        match Rope::new(rotary.clone()).reaches(self.positions) {
            true => Ok(rotary),
            false => {
                let (positions, scaling) = (self.positions, &rotary.scaling);
                Err(self.fields.value(
                    self.defaults.theta_field,
                    theta,
                    format!(
                        "a base that with {scaling:?} gives finite angles at {positions} positions"
                    ),
                ))
            }
        }
    }

    /// A number among the fields of the rotation or, in version 4, among those of the model.
    fn either(&self, field: &str, old: &str) -> Result<Option<f64>, ConfigError> {
        let new = self.rope.map(|rope| rope.positive(field)).transpose()?;
        match new.flatten() {
            Some(number) => Ok(Some(number)),
            None => self.fields.positive(old),
        }
    }

    /// Where the part of a head that turns is written, and its name there.
    fn part_field(&self) -> (Fields<'_>, &'static str) {
        match self.rope {
            Some(rope) if rope.names(PART) => (rope, PART),
            _ => (self.fields, self.defaults.part_field),
        }
    }

    /// The part of a head that turns.
    fn part(&self) -> Result<f64, ConfigError> {
        let old = self.defaults.part_field;
        let given = match self.either(PART, old)? {
            // Written as nothing is a whole head; not written is the default of the family.
            None if self.fields.names(old) => Some(1.0),
            given => given,
        };
        let field = self.part_field();
        let proportional = match self.rope {
            Some(rope) => kind(rope)?.1 == "proportional",
            None => false,
        };
        match (given, self.defaults.part) {
            (Some(part), None) if part != 1.0 && !proportional => {
                Err(field.0.unsupported(field.1, part, "1"))
            }
            (Some(part), _) if part > 1.0 => Err(field.0.value(field.1, part, "1 at most")),
            (part, default) => Ok(part.or(default).unwrap_or(1.0)),
        }
    }

    /// How the frequencies of `features` rotated features are stretched.
    fn scaling(&self, rope: Fields<'_>, features: usize) -> Result<RopeScaling, ConfigError> {
        let (field, word) = kind(rope)?;
        match word {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear {
                factor: required(rope, "factor")?,
            }),
            "dynamic" => Ok(RopeScaling::Dynamic {
                factor: required(rope, "factor")?,
                original_positions: self.positions,
            }),
            "llama3" => self.llama3(rope),
            "yarn" => self.yarn(rope),
            // The second is what the first files called it.
            "longrope" | "su" => self.long_rope(rope, features),
            other => {
                let known = Known::names(&RopeScaling::KNOWN);
                Err(rope.unsupported(field, other, known))
            }
        }
    }

    fn llama3(&self, rope: Fields<'_>) -> Result<RopeScaling, ConfigError> {
        // Narrowed before they are compared: two numbers that differ may be one number as f32.
        let low: f32 = required(rope, "low_freq_factor")?;
        let high: f32 = required(rope, "high_freq_factor")?;
        // Where they are one, as in Llama 4, no wave is between them.
        if low > high {
            let expected = format!("at most the {high} of `high_freq_factor`");
            return Err(rope.value("low_freq_factor", low, expected));
        }
        Ok(RopeScaling::Llama3 {
            factor: required(rope, "factor")?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_positions: self.original_positions(rope)?,
        })
    }

    fn yarn(&self, rope: Fields<'_>) -> Result<RopeScaling, ConfigError> {
        let original_positions = self.original_positions(rope)?;
        let factor = self.factor(rope, original_positions)?;
        // Here, 0 is as good as absent.
        let number = |field| {
            let number = rope.number(field)?;
            Ok::<_, ConfigError>(number.filter(|number| *number != 0.0))
        };
        let scale = |by: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * by * factor.ln() + 1.0
            }
        };
        let derived = match (number("mscale")?, number("mscale_all_dim")?) {
            (Some(part), Some(all)) => scale(part) / scale(all),
            _ => scale(1.0),
        };
        let given = rope.positive("attention_factor")?;
        Ok(RopeScaling::Yarn {
            factor: factor as f32,
            original_positions,
            beta_fast: number("beta_fast")?.unwrap_or(32.0) as f32,
            beta_slow: number("beta_slow")?.unwrap_or(1.0) as f32,
            truncate: rope.flag_or("truncate", true)?,
            attention_factor: attention_factor(rope, given.unwrap_or(derived))?,
        })
    }

    fn long_rope(&self, rope: Fields<'_>, features: usize) -> Result<RopeScaling, ConfigError> {
        let pairs = features.div_ceil(2);
        let list = |field| {
            let list = rope.positives(field)?.ok_or_else(|| rope.missing(field))?;
            match list.len() == pairs {
                true => Ok(list),
                false => Err(rope.value(
                    field,
                    format!("a list of {}", list.len()),
                    format!("one factor for each of the {pairs} pairs of a head that turn"),
                )),
            }
        };
        let original_positions = self.original_positions(rope)?;
        let factor = self.factor(rope, original_positions)?;
        let derived = match factor <= 1.0 {
            true => 1.0,
            false => (1.0 + factor.ln() / (original_positions as f64).ln()).sqrt(),
        };
        let given = rope.positive("attention_factor")?;
        Ok(RopeScaling::LongRope {
            short: list("short_factor")?.into(),
            long: list("long_factor")?.into(),
            original_positions,
            attention_factor: attention_factor(rope, given.unwrap_or(derived))?,
        })
    }

    /// Positions of the first training.
    fn original_positions(&self, rope: Fields<'_>) -> Result<usize, ConfigError> {
        match self.original {
            Some(positions) => Ok(positions),
            None => Ok(rope.count(ORIGINAL)?.unwrap_or(self.positions)),
        }
    }

    /// How much longer texts may be than those of the first training.
    fn factor(&self, rope: Fields<'_>, original: usize) -> Result<f64, ConfigError> {
        let ratio = self.positions as f64 / original as f64;
        Ok(rope.positive("factor")?.unwrap_or(ratio))
    }
}

/// The field that says how frequencies are stretched, and its word.
fn kind(rope: Fields<'_>) -> Result<(&'static str, &str), ConfigError> {
    Ok(match (rope.text("rope_type")?, rope.text("type")?) {
        (Some(word), _) => ("rope_type", word),
        (None, Some(word)) => ("type", word),
        (None, None) => ("rope_type", "default"),
    })
}

/// A number that has to be there.
fn required(rope: Fields<'_>, field: &str) -> Result<f32, ConfigError> {
    match rope.positive(field)? {
        Some(number) => Ok(number as f32),
        None => Err(rope.missing(field)),
    }
}

/// What cosines and sines are multiplied by, given or computed.
fn attention_factor(rope: Fields<'_>, factor: f64) -> Result<f32, ConfigError> {
    match (factor as f32).is_finite() {
        true => Ok(factor as f32),
        false => {
            let expected = "a number within the range of f32, given or computed from the others";
            Err(rope.value("attention_factor", factor, expected))
        }
    }
}
