//! Names of types.
