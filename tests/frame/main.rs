//! The frame of the source: which file may import which, and that a name of a type means one thing.

mod imports;
mod names;
mod scan;
