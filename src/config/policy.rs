//! Which quantization a tensor gets: patterns over names, first match wins, then a default by role.

use core::{fmt, str::FromStr};

use globset::{GlobBuilder, GlobMatcher};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::Role;
use super::quant::{QuantSpec, SpecError};

/// Bytes of a pattern with wildcards: far below the size of a compiled pattern that `globset` panics at.
const PATTERN_MAX: usize = 4096;

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
    /// The tensor or module of this name, whatever characters the name has, and everything below.
    Name(String),
    /// The name itself, or anything below.
    Glob(GlobMatcher, GlobMatcher),
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
    /// A size, or a mixture, for some weights only.
    #[error("rule `{rule}`: {what} is for all linear weights together; write it with --quant")]
    Auto {
        /// Which of them.
        what: &'static str,
        /// What was written.
        rule: String,
    },
    /// Not a quantization.
    #[error("rule `{rule}`: {source}")]
    Spec {
        /// What was written.
        rule: String,
        /// Why not.
        source: Box<SpecError>,
    },
}

impl Pattern {
    /// Whether the pattern names the tensor `name`, which has the role `role`.
    pub fn is_match(&self, name: &str, role: Role) -> bool {
        match &self.matches {
            Matches::Role(matched) => *matched == role,
            Matches::Name(named) => name
                .strip_prefix(named.as_str())
                .is_some_and(|below| below.is_empty() || below.starts_with('.')),
            Matches::Glob(itself, below) => itself.is_match(name) || below.is_match(name),
        }
    }

    /// How closely it names what it matches: longer texts are closer, then names than texts with wildcards.
    pub(crate) fn closeness(&self) -> (usize, bool) {
        let is_name = matches!(self.matches, Matches::Name(_));
        (self.text.len(), is_name)
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
            None if !text.is_empty() && globset::escape(text) == text && !text.contains('\\') => {
                Matches::Name(text.to_owned())
            }
            None => Matches::Glob(glob(text, text)?, glob(text, &format!("{text}.*"))?),
        };
        Ok(Self {
            text: text.to_owned(),
            matches,
        })
    }
}

/// By the text: equal texts match equal names.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
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
    if text.len() > PATTERN_MAX {
        let len = text.len();
        return Err(error(format!(
            "has {len} bytes; at most {PATTERN_MAX} are read"
        )));
    }
    GlobBuilder::new(pattern)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|source| error(source.kind().to_string()))
}

/// One line of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which tensors.
    pub pattern: Pattern,
    /// Their quantization.
    pub quant: QuantSpec,
}

impl Rule {
    /// A rule for the tensor of this name; characters that a pattern gives a meaning to mean themselves.
    pub fn tensor(name: &str, quant: QuantSpec) -> Self {
        let pattern = Pattern {
            matches: Matches::Name(name.to_owned()),
            text: globset::escape(name),
        };
        Self { pattern, quant }
    }
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
            source: Box::new(source),
        })?;
        let what = match quant {
            QuantSpec::Auto(_) => Some("a size"),
            QuantSpec::Mixture(_) => Some("a mixture"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(RuleError::Auto {
                what,
                rule: rule.to_owned(),
            });
        }
        Ok(Self {
            pattern: pattern.parse()?,
            quant,
        })
    }
}

/// The quantization of every tensor.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Left dense, before any rule.
    pub skip: Vec<Pattern>,
    /// First match wins.
    pub rules: Vec<Rule>,
    /// Linear weights that no rule names. Heads, embeddings and norms stay dense.
    pub linear: QuantSpec,
    /// What a mixture chose, after the rules; some of them may name nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) mixed: Vec<Rule>,
}

impl Policy {
    /// The quantization of the tensor `name`, which has this role and shape. Only matrices can be packed: all other
    /// tensors stay dense even if a pattern names them, so that `*=nf4` is not an error.
    pub fn choose(&self, name: &str, role: Role, shape: &[usize]) -> QuantSpec {
        let matched = |pattern: &Pattern| pattern.is_match(name, role);
        if !can_be_packed(role, shape) || self.skip.iter().any(matched) {
            return QuantSpec::None;
        }
        let mut rules = self.rules.iter().chain(&self.mixed);
        match rules.find(|rule| matched(&rule.pattern)) {
            Some(rule) => rule.quant.clone(),
            None if role.is_quantized_by_default() => self.linear.clone(),
            // A type of a file is for all of it.
            None if matches!(self.linear, QuantSpec::Dense(_)) => self.linear.clone(),
            None => QuantSpec::None,
        }
    }

    /// The first quantization that is a type of dense values, which GGUF files alone get.
    pub(crate) fn dense_type(&self) -> Option<&QuantSpec> {
        let rules = self.rules.iter().map(|rule| &rule.quant);
        let mut quants = [&self.linear].into_iter().chain(rules);
        quants.find(|quant| matches!(quant, QuantSpec::Dense(_)))
    }

    /// The patterns of all rules, and those that leave weights dense.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        let rules = self.rules.iter().map(|rule| &rule.pattern);
        self.skip.iter().chain(rules)
    }

    /// Patterns that name no matrix among `tensors` (name, role, shape): typing errors that would go unseen.
    pub fn idle<'a>(
        &'a self,
        tensors: impl Iterator<Item = (&'a str, Role, &'a [usize])> + Clone + 'a,
    ) -> impl Iterator<Item = &'a Pattern> {
        let rules = self.rules.iter().map(|rule| &rule.pattern);
        self.skip.iter().chain(rules).filter(move |pattern| {
            !tensors.clone().any(|(name, role, shape)| {
                can_be_packed(role, shape) && pattern.is_match(name, role)
            })
        })
    }
}

/// Whether a tensor can be quantized: a matrix `[out, in]`, or the matrices `[experts, out, in]` of all experts.
pub(crate) fn can_be_packed(role: Role, shape: &[usize]) -> bool {
    match shape.len() {
        2 => role.is_matrix(),
        3 => role == Role::Expert,
        _ => false,
    }
}
