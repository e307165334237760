//! Regular expressions of Python in a configuration: with lookahead and lookbehind, which the crate `regex` does not have.

use fancy_regex::{Regex, RegexBuilder};

use super::DialectError;

/// Steps that an expression may go back while it looks at one name. Usual expressions go back some dozen times; one that was made to
/// go back for ever is refused after some milliseconds.
const STEPS_MAX: usize = 100_000;
/// How often the innermost part of nested counted repetitions may be repeated: a repetition of nothing takes no step back.
const REPEATS_MAX: usize = 100_000;

/// An expression that has to match a name from its beginning on and need not reach its end, as Python's `re.match`.
#[derive(Debug, Clone)]
pub(super) struct PythonPattern {
    text: String,
    regex: Regex,
}

impl PythonPattern {
    /// `None` for a text that is no regular expression, or one of a size that nobody needs.
    pub(super) fn new(text: &str) -> Option<Self> {
        if repeats(text) > REPEATS_MAX {
            return None;
        }
        let build = |text: &str| {
            let mut builder = RegexBuilder::new(text);
            builder.backtrack_limit(STEPS_MAX).build().ok()
        };
        // By itself first: `a)|(b` is none, although the brackets around it would make it one.
        build(text)?;
        Some(Self {
            text: text.to_owned(),
            regex: build(&format!(r"\A(?:{text})"))?,
        })
    }

    /// Whether the expression matches `module`.
    pub(super) fn is_match(&self, module: &str) -> Result<bool, DialectError> {
        self.regex
            .is_match(module)
            .map_err(|_| DialectError::Pattern {
                pattern: self.text.clone(),
                module: module.to_owned(),
                steps: STEPS_MAX,
            })
    }
}

/// The product of all counts of repetitions, `{3}` and `{2,5}`.
fn repeats(text: &str) -> usize {
    let counts = text.split('{').skip(1).filter_map(|rest| {
        let (inside, _) = rest.split_once('}')?;
        let counts = inside.split(',').map(|count| match count {
            "" => Ok(1),
            count => count.parse::<usize>(),
        });
        counts
            .collect::<Result<Vec<_>, _>>()
            .ok()?
            .into_iter()
            .max()
    });
    counts.fold(1, |product: usize, count| {
        product.saturating_mul(count.max(1))
    })
}
