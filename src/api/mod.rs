//! The daemon's socket: the same verbs, from another process.

pub mod control;
pub(crate) mod line;
