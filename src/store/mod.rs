//! Sealed bytes at rest.
