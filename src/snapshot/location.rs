//! The URL of a repository, and the store that it names. Never contains a secret.

use super::objects::{Objects, StoreObjects};
use crate::error::{Error, IoContext, Kind, Result};
use serde::{Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    url: String,
}

/// A parsed URL.
enum Target {
    Folder(PathBuf),
}

impl Location {
    /// Checks a URL: `file:///folder`, or just `/folder`.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is not one of these.
    pub fn new(url: &str) -> Result<Self> {
        if url.starts_with('/') {
            return Ok(Self::of_folder(Path::new(url)));
        }
        let location = Self { url: url.to_owned() };
        location.target()?;
        Ok(location)
    }

    /// Returns the location of a folder.
    #[must_use]
    pub fn of_folder(folder: &Path) -> Self {
        Self { url: file_url(folder) }
    }

    /// Returns the URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Opens the store, without reading anything of it.
    ///
    /// # Errors
    /// If the folder does not exist.
    pub fn open(&self) -> Result<Arc<dyn Objects>> {
        match self.target()? {
            Target::Folder(folder) => Ok(Arc::new(StoreObjects::local(&folder)?)),
        }
    }

    /// Like [`Location::open`], but creates what is missing of a folder.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn make(&self) -> Result<Arc<dyn Objects>> {
        match self.target()? {
            Target::Folder(folder) => {
                std::fs::create_dir_all(&folder).on(|| format!("make repository folder {}", folder.display()))?;
            }
        }
        self.open()
    }

    fn target(&self) -> Result<Target> {
        let url = &self.url;
        let wrong = |why: &str, hint: &str| {
            Err(Error::new(Kind::Usage, format!("repository URL {url:?} {why}")).hint(hint.to_owned()))
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            return wrong("has no scheme", "use file:///folder, or an absolute path");
        };
        match scheme {
            "file" if rest.starts_with('/') => {
                let bytes: Vec<u8> = percent_encoding::percent_decode_str(rest).collect();
                Ok(Target::Folder(std::ffi::OsStr::from_bytes(&bytes).into()))
            }
            "file" => wrong("names no absolute path", "use three slashes, as in file:///srv/snapshots"),
            _ => wrong("has an unknown scheme", "use file:///folder"),
        }
    }
}

/// What a path in a file URL must not contain as it is (RFC 3986, section 3.3).
const RESERVED: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`');

fn file_url(path: &Path) -> String {
    format!("file://{}", percent_encoding::percent_encode(path.as_os_str().as_bytes(), RESERVED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_url_and_a_url_is_a_path() {
        let folder = |url: &str| match Location::new(url).unwrap().target().unwrap() {
            Target::Folder(path) => path,
        };
        for path in ["/srv/snapshots", "/srv/my snapshots#1", "/srv/100%25"] {
            assert_eq!(folder(path), Path::new(path));
            assert_eq!(folder(Location::new(path).unwrap().url()), Path::new(path));
        }
        assert_eq!(folder("file:///srv/a%20b"), Path::new("/srv/a b"));
        for bad in ["", "srv", "file:/srv", "file://srv/a", "ftp://a/b", "FILE:///srv"] {
            let err = Location::new(bad).unwrap_err();
            assert!(err.kind() == Kind::Usage && err.advice().is_some(), "{bad}: {}", err.line());
        }
    }
}
