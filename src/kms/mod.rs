//! The key management service.
pub mod catalog;
pub mod root;
