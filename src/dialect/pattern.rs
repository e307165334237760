//! Regular expressions of Python in a configuration: with lookahead and lookbehind, which the crate `regex` does not have.

use fancy_regex::{Regex, RegexBuilder};

use super::DialectError;

/// Steps that an expression may go back while it looks at one name. Usual expressions go back some dozen times; one that was made to
/// go back for ever is refused after some milliseconds.
const STEPS_MAX: usize = 100_000;

/// An expression that has to match a name from its beginning on and need not reach its end, as Python's `re.match`.
#[derive(Debug, Clone)]
pub(super) struct PythonPattern(Regex);

impl PythonPattern {
    /// `None` for a text that is no regular expression.
    pub(super) fn new(text: &str) -> Option<Self> {
        let build = |text: &str| {
            let mut builder = RegexBuilder::new(text);
            builder.backtrack_limit(STEPS_MAX).build().ok()
        };
        // By itself first: `a)|(b` is none, although the brackets around it would make it one.
        build(text)?;
        build(&format!(r"\A(?:{text})")).map(Self)
    }

    /// Whether the expression matches `module`.
    pub(super) fn is_match(&self, module: &str) -> Result<bool, DialectError> {
        self.0.is_match(module).map_err(|_| DialectError::Pattern {
            pattern: self.0.as_str().to_owned(),
            module: module.to_owned(),
            steps: STEPS_MAX,
        })
    }
}
