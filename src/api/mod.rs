//! The control socket: the same verbs, for other processes.

pub mod control;
pub(crate) mod line;
