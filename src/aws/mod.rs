//! The HTTP edge for AWS clients: an unmodified SDK with this listener as its endpoint.
//!
//! It authenticates requests (Signature Version 4), tells services and operations apart, limits rates and sizes, and calls a
//! [`Backend`]. It knows no operation of any service: adding a service is a row in `service`.
//!
//! Read in this order: [`Backend`], `edge` (a request from its bytes to its answer), [`sigv4`], `service` (the table), `answer`,
//! [`query`] and `xml` (protocols), `listener` (sockets, TLS, limits).

mod answer;
mod backend;
mod clean;
mod coffer;
mod edge;
mod listener;
pub mod query;
mod rate;
mod service;
pub mod sigv4;
#[cfg(test)]
mod testing;
mod xml;

pub use crate::document::Document;
pub use backend::{ApiCall, ApiError, Backend, Credential, Refusal};
pub use coffer::{Coffer, Renew};
pub use listener::{Config, Limits, Listener, Server, serve};
pub use rate::Rate;
pub use service::Service;
