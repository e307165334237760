//! Llama
