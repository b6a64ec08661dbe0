//! A handle for ending single connections of a server.

use crate::engine::{Engine, Severed};
use std::sync::Weak;

/// Ends single connections of a server, from inside [`super::Exports`] or elsewhere. May outlive the server.
#[derive(Debug, Clone)]
pub struct Controller(Weak<Engine>);

impl Controller {
    pub(super) const fn new(engine: Weak<Engine>) -> Self {
        Self(engine)
    }

    /// Whether the server is running and not deadlocked: takes the lock that all its threads take.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.upgrade().is_some_and(|engine| {
            let _connections = engine.connections();
            !engine.is_stopping()
        })
    }

    /// Hangs up on a connection ([`super::Client::connection`]): nothing of it that has not begun is applied, and its
    /// export is dropped once the rest has ended. Does not wait. Returns false if it has ended already.
    pub fn disconnect(&self, connection: u64) -> bool {
        let queue = self.0.upgrade().and_then(|engine| engine.queue(connection));
        queue.is_some_and(|queue| {
            queue.sever(Severed::Displaced);
            true
        })
    }
}
