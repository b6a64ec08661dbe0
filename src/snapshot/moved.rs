//! Following redirects, and putting them.

use super::Folder;
use super::redirect::{Move, REDIRECT_MAX, Redirect};
use super::repository::Inner;
use crate::error::{Kind, Result};
use crate::units::PackId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Inner {
    /// Returns the redirect of a pack in this installation's folder; `None`: there is none.
    pub(super) fn redirect(&self, own: Folder, old: PackId) -> Result<Option<Arc<Redirect>>> {
        if let Some(known) = self.moved.lock().get(own, old) {
            return Ok(known);
        }
        let found = self.read_redirect(own, old)?;
        if found.is_none() && self.objects.head(&own.path("packs", old))?.is_none() {
            self.moved.lock().keep_none(own, old);
        }
        Ok(found)
    }

    /// Reads a redirect from the store, even if it is known.
    pub(super) fn read_redirect(&self, folder: Folder, old: PackId) -> Result<Option<Arc<Redirect>>> {
        let object = folder.path("redirects", old);
        let puts = self.moved.lock().puts();
        let raw = match self.objects.get(&object, REDIRECT_MAX) {
            Ok(raw) => raw,
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let redirect = Arc::new(Redirect::parse(&object, old, &raw)?);
        self.moved.lock().keep_read(folder, &redirect, puts);
        Ok(Some(redirect))
    }

    /// Puts the redirect of a pack in this installation's folder, or deletes it if no body is left.
    pub(super) fn put_redirect(&self, own: Folder, old: PackId, moves: BTreeMap<u32, Move>) -> Result<()> {
        let object = own.path("redirects", old);
        let redirect = Arc::new(Redirect { old, moves: moves.into_values().collect() });
        self.moved.lock().put(own, old, None);
        let put = match redirect.moves.is_empty() {
            true => self.objects.delete(&object),
            false => self.objects.put_over(&object, Bytes::from(redirect.encode())),
        };
        let is_there = put.is_ok() && !redirect.moves.is_empty();
        self.moved.lock().put(own, old, is_there.then_some(&redirect));
        put
    }
}
