//! Ranks that are said, and those that messages go between.

use super::RankError;

/// Refuses messages of another rank than this one is said to be; both as number and count.
pub(crate) fn check_messages(said: [usize; 2], found: [usize; 2]) -> Result<(), RankError> {
    match said == found {
        true => Ok(()),
        false => Err(RankError::Contradiction {
            first: format!("rank {} of {}", said[0], said[1]),
            second: format!("messages of rank {} of {}", found[0], found[1]),
        }),
    }
}
