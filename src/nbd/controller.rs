//! A handle that ends single connections of a server.

use crate::engine::{Engine, Severed};
use std::sync::Weak;

/// Ends single connections of a server, from inside [`super::Exports`] or elsewhere; outlives the server harmlessly.
#[derive(Debug, Clone)]
pub struct Controller(Weak<Engine>);

impl Controller {
    pub(super) const fn new(engine: Weak<Engine>) -> Self {
        Self(engine)
    }

    /// Whether the server runs, and is not stuck where all its threads meet.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.upgrade().is_some_and(|engine| {
            let _connections = engine.connections();
            !engine.is_stopping()
        })
    }

    /// Hangs up on a connection ([`super::Client::connection`]): nothing of it is applied that has not begun, and its export is
    /// dropped once the rest has ended. Does not wait. False: it has ended already.
    pub fn disconnect(&self, connection: u64) -> bool {
        let queue = self.0.upgrade().and_then(|engine| engine.queue(connection));
        queue.is_some_and(|queue| {
            queue.sever(Severed::Displaced);
            true
        })
    }
}
