//! `firebox synth`: write a synthetic checkpoint.
