//! Functions that Python's templates call.

pub(super) mod strftime;
pub(super) mod tojson;
