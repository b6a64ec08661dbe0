//! Copies a repository's objects to another store, so that a repeated copy continues where the last one ended.

use super::objects::{Listed, Objects, put_same};
use super::repository::DESCRIPTION;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Callback for the bytes that were copied, and those in total. Returning `false` stops the copy.
pub type OnCopied<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Copies all objects except the description, reads each back and compares it, and deletes what only the copy has.
///
/// # Errors
/// [`Kind::Integrity`] if the copy has other bytes where an object never changes; [`Kind::Interrupted`] if `on_copied` stops
/// it; what the stores report.
pub fn copy_objects(from: &dyn Objects, to: &dyn Objects, on_copied: OnCopied<'_>) -> Result<()> {
    let (source, copied) = (objects_of(from)?, objects_of(to)?);
    // A killed copy may have left some staged.
    let folders: BTreeSet<&str> = source.keys().filter_map(|path| path.rsplit_once('/')).map(|(f, _)| f).collect();
    folders.iter().try_for_each(|folder| to.settle(folder, ""))?;
    let total = source.values().sum();
    let mut done = 0;
    for (path, size) in &source {
        if !on_copied(done, total) {
            return Err(Error::new(Kind::Interrupted, "copy a repository: stopped")
                .hint("the same command continues where it ended"));
        }
        copy_one(from, to, path, *size, copied.get(path) == Some(size))?;
        done += size;
    }
    for path in copied.keys().filter(|path| !source.contains_key(*path)) {
        to.delete(path)?;
    }
    Ok(())
}

/// Copies the description, after all else: it makes the copy a repository.
///
/// # Errors
/// [`Kind::Integrity`] if the copy has another one; what the stores report.
pub fn copy_description(from: &dyn Objects, to: &dyn Objects) -> Result<()> {
    to.settle("", DESCRIPTION)?;
    put_same(to, DESCRIPTION, &from.get(DESCRIPTION, super::repository::DESCRIPTION_MAX)?)
}

/// Returns path and size of a repository's objects.
fn objects_of(objects: &dyn Objects) -> Result<BTreeMap<String, u64>> {
    let is_part = |o: &Listed| o.path.contains('/');
    Ok(objects.list("")?.into_iter().filter(is_part).map(|o| (o.path, o.size)).collect())
}

/// `is_there`: the copy has an object of that name and size.
fn copy_one(from: &dyn Objects, to: &dyn Objects, path: &str, size: u64, is_there: bool) -> Result<()> {
    let bytes = match from.get(path, usize::try_from(size).unwrap_or(usize::MAX)) {
        // Deleted since it was listed.
        Err(err) if err.kind() == Kind::NotFound => return to.delete(path),
        other => other?,
    };
    if is_there && same(to, path, &bytes)? {
        return Ok(());
    }
    // Nothing else is ever replaced.
    let (sort, deeper) = (path.split('/').nth(1), path.split('/').nth(2));
    if sort == Some("refs") || deeper == Some("redirects") {
        to.put_over(path, bytes.clone())?;
    } else {
        put_same(to, path, &bytes)?;
    }
    if same(to, path, &bytes)? {
        return Ok(());
    }
    let what = format!("copy {path}: the copy has other bytes than were put");
    Err(Error::new(Kind::Integrity, what).hint("do not use that store: it loses or changes data"))
}

fn same(objects: &dyn Objects, path: &str, bytes: &Bytes) -> Result<bool> {
    match objects.get(path, bytes.len()) {
        Ok(there) => Ok(there == *bytes),
        Err(err) if err.kind() == Kind::Integrity || err.kind() == Kind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::memory;
    use super::*;

    fn put(objects: &dyn Objects, path: &str, bytes: &'static [u8]) {
        objects.put_over(path, Bytes::from_static(bytes)).unwrap();
    }

    #[test]
    fn a_copy_continues_and_ends_up_like_its_source() {
        let (from, to) = (memory(), memory());
        let all = [
            ("l/i/log/0", &b"genesis"[..]),
            ("l/i/packs/p", b"pack"),
            ("l/i/redirects/q", b"new"),
            ("l/refs/i-x", b"new ref"),
        ];
        for (path, bytes) in all {
            put(&*from, path, bytes);
        }
        put(&*from, DESCRIPTION, b"{}");
        let mut calls = 0;
        let stopped = copy_objects(&*from, &*to, &mut |_, total| {
            assert_eq!(total, 21);
            calls += 1;
            calls < 3
        });
        assert_eq!(stopped.unwrap_err().kind(), Kind::Interrupted);
        assert_eq!(to.list("").unwrap().len(), 2);
        put(&*to, "l/refs/i-x", b"old ref");
        put(&*to, "l/i/redirects/q", b"old");
        put(&*to, "l/refs/i-gone", b"a ref that the source has no more");
        copy_objects(&*from, &*to, &mut |_, _| true).unwrap();
        assert_eq!(to.head(DESCRIPTION).unwrap(), None, "it comes last");
        copy_description(&*from, &*to).unwrap();
        let all = |objects: &dyn Objects| {
            let mut all: Vec<_> = objects.list("").unwrap().into_iter().map(|o| o.path).collect();
            all.sort();
            all.into_iter().map(|p| (objects.get(&p, 99).unwrap(), p)).collect::<Vec<_>>()
        };
        assert_eq!(all(&*to), all(&*from));
        put(&*to, "l/i/packs/p", b"kcap");
        let err = copy_objects(&*from, &*to, &mut |_, _| true).unwrap_err();
        assert!(err.kind() == Kind::Integrity && err.line().contains("packs/p"), "{}", err.line());
    }
}
