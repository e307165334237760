//! Which quantization a tensor gets: patterns over names, first match wins, then a default by role.

use core::{fmt, str::FromStr};

use globset::{GlobBuilder, GlobMatcher};

use super::Role;
use crate::{
    model::Slot,
    quant::{QuantSpec, SpecError},
};

/// Names of tensors, or a role.
///
/// * `lm_head`: the module of that path, `lm_head.weight`
/// * `*.mlp.*`, `model.layers.{0,1}`: globs; `*` crosses dots
/// * `role:embedding`: every tensor of that [`Role`]
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    matches: Matches,
}

#[derive(Debug, Clone)]
enum Matches {
    Role(Role),
    /// The name itself, or anything below it.
    Name(GlobMatcher, GlobMatcher),
}

/// A rule that could not be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// No `=`.
    #[error("rule `{rule}` has no `=`; write PATTERN=SPEC, such as `*.mlp.*=nf4`")]
    NoSpec {
        /// What was written.
        rule: String,
    },
    /// Not a glob.
    #[error("pattern `{pattern}`: {reason}")]
    Pattern {
        /// What was written.
        pattern: String,
        /// Why not.
        reason: String,
    },
    /// Not a role that can be quantized.
    #[error(
        "pattern `{pattern}`: write role:linear, role:expert, role:router, role:head or role:embedding"
    )]
    Role {
        /// What was written.
        pattern: String,
    },
    /// A size for some weights only.
    #[error("rule `{rule}`: a size is for all linear weights together; write it with --quant")]
    Auto {
        /// What was written.
        rule: String,
    },
    /// Not a quantization.
    #[error("rule `{rule}`: {source}")]
    Spec {
        /// What was written.
        rule: String,
        /// Why not.
        source: SpecError,
    },
}

impl Pattern {
    /// Whether the tensor of `slot` is meant.
    pub fn is_match(&self, slot: &Slot) -> bool {
        match &self.matches {
            Matches::Role(role) => *role == slot.role,
            Matches::Name(itself, below) => {
                itself.is_match(&slot.name) || below.is_match(&slot.name)
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Pattern {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let matches = match text.strip_prefix("role:") {
            Some(name) => {
                let mut roles = Role::ALL.into_iter().filter(|role| role.is_matrix());
                let named = roles.find(|role| role.name() == name);
                Matches::Role(named.ok_or_else(|| RuleError::Role {
                    pattern: text.to_owned(),
                })?)
            }
            None => Matches::Name(glob(text, text)?, glob(text, &format!("{text}.*"))?),
        };
        Ok(Self {
            text: text.to_owned(),
            matches,
        })
    }
}

fn glob(text: &str, pattern: &str) -> Result<GlobMatcher, RuleError> {
    let error = |reason: String| RuleError::Pattern {
        pattern: text.to_owned(),
        reason,
    };
    if text.is_empty() {
        return Err(error("is empty; `*` names everything".to_owned()));
    }
    GlobBuilder::new(pattern)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|source| error(source.kind().to_string()))
}

/// One line of a policy.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Which tensors.
    pub pattern: Pattern,
    /// What becomes of them.
    pub quant: QuantSpec,
}

impl Rule {
    /// For the tensor of this name, whatever characters it has.
    pub fn tensor(name: &str, quant: QuantSpec) -> Self {
        let text = globset::escape(name);
        let pattern = Pattern {
            matches: Matches::Name(plain_glob(&text), plain_glob(&format!("{text}.*"))),
            text,
        };
        Self { pattern, quant }
    }
}

fn plain_glob(escaped: &str) -> GlobMatcher {
    let glob = GlobBuilder::new(escaped).build();
    glob.expect("what is escaped is a glob").compile_matcher()
}

/// Prints what [`FromStr`] reads back, unless the pattern has a `=` or the method is the caller's own.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.quant)
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(rule: &str) -> Result<Self, RuleError> {
        let (pattern, spec) = rule.split_once('=').ok_or_else(|| RuleError::NoSpec {
            rule: rule.to_owned(),
        })?;
        let quant = spec.parse().map_err(|source| RuleError::Spec {
            rule: rule.to_owned(),
            source,
        })?;
        if matches!(quant, QuantSpec::Auto(_)) {
            return Err(RuleError::Auto {
                rule: rule.to_owned(),
            });
        }
        Ok(Self {
            pattern: pattern.parse()?,
            quant,
        })
    }
}

/// What becomes of every tensor.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Left dense, before any rule.
    pub skip: Vec<Pattern>,
    /// First match wins.
    pub rules: Vec<Rule>,
    /// Linear weights that no rule names. Heads, embeddings and norms stay dense.
    pub linear: QuantSpec,
}

impl Policy {
    /// What becomes of the tensor of `slot`. Only matrices can be packed: anything else stays dense
    /// whatever a pattern says, so that `*=nf4` is not an error.
    pub fn choose(&self, slot: &Slot) -> QuantSpec {
        if !slot.is_matrix() || self.skip.iter().any(|pattern| pattern.is_match(slot)) {
            return QuantSpec::None;
        }
        match self.rules.iter().find(|rule| rule.pattern.is_match(slot)) {
            Some(rule) => rule.quant.clone(),
            None if slot.role.is_quantized_by_default() => self.linear.clone(),
            None => QuantSpec::None,
        }
    }

    /// Patterns that name none of these slots: a typing error that would go unseen.
    pub fn idle<'a>(&'a self, slots: &'a [Slot]) -> impl Iterator<Item = &'a Pattern> {
        let patterns = self
            .skip
            .iter()
            .chain(self.rules.iter().map(|rule| &rule.pattern));
        patterns.filter(|pattern| {
            !slots
                .iter()
                .any(|slot| slot.is_matrix() && pattern.is_match(slot))
        })
    }
}
