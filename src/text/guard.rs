//! The one place where a panic of the library `tokenizers` becomes an error.
//!
//! Files are checked before the library reads them (`json.rs`, `convert`), since a panic is printed and a program may be built
//! to end at one. But a tokenizer is a file of somebody else, the library has hundreds of indices and `unwrap`s, and a
//! server must not lose a thread to a case that no check knows.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::BoxError;

/// Runs something of the library. A tokenizer that panicked is as it was: it is only read, and its caches are behind locks.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, BoxError>) -> Result<T, BoxError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let message = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let message = message.unwrap_or("no message");
        Err(format!("the library that runs the tokenizer failed: {message}").into())
    })
}

#[cfg(test)]
mod tests {
    use super::guarded;

    /// A panic that gets through ends the thread that serves a request.
    #[test]
    fn a_panic_is_an_error() {
        let index = 3;
        let error = guarded(|| Ok([1, 2][index.min(9)])).unwrap_err();
        assert!(error.to_string().contains("index out of bounds"), "{error}");
        assert_eq!(guarded(|| Ok(5)).unwrap(), 5);
    }
}
