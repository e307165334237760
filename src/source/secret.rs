//! Text that must not be printed.

use core::fmt;

/// Text that `Debug` does not print: a token.
#[derive(Clone)]
pub(crate) struct Secret(
    #[cfg_attr(
        not(feature = "hub"),
        expect(dead_code, reason = "only the hub sends it")
    )]
    pub(crate) String,
);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
