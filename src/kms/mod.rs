//! The key management service.
pub mod catalog;
