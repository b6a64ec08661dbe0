//! Volumes: where plaintext meets the store.

pub mod parent;
