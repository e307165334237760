//! Packed weights that are kept.
