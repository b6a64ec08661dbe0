//! The URL of a repository, and the store that it names. Never contains a secret.

use super::objects::{Objects, StoreObjects};
use super::s3::{self, Bucket};
use crate::error::{Error, IoContext, Kind, Result};
use serde::{Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    url: String,
    #[serde(default, skip_serializing_if = "S3Options::is_default")]
    s3: S3Options,
}

/// How to reach an S3 bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Options {
    /// URL of the server; `None`: AWS's, for the Region.
    pub endpoint: Option<String>,
    /// The Region; `None`: that of the environment, else `us-east-1`.
    pub region: Option<String>,
    /// Whether the bucket is part of the path, not of the host name.
    pub path_style: bool,
    /// Whether an endpoint that is not on this machine may be `http:`.
    pub allow_http: bool,
    /// Longest time that a call may take, in seconds, with all its retries; `None`: [`S3Options::TIME_LIMIT`].
    pub time_limit: Option<u32>,
}

impl S3Options {
    /// The default of [`S3Options::time_limit`].
    pub const TIME_LIMIT: u32 = 120;

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A parsed URL.
enum Target {
    Folder(PathBuf),
    Bucket(Bucket),
}

impl Location {
    /// Checks a URL: `s3://bucket/prefix`, `file:///folder`, or just `/folder`.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is not one of these, or the options do not go with it.
    pub fn new(url: &str, s3: S3Options) -> Result<Self> {
        let url = if url.starts_with('/') { file_url(Path::new(url)) } else { url.to_owned() };
        let location = Self { url, s3 };
        location.target()?;
        Ok(location)
    }

    /// Returns the location of a folder.
    #[must_use]
    pub fn of_folder(folder: &Path) -> Self {
        Self { url: file_url(folder), s3: S3Options::default() }
    }

    /// Returns the URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns how its bucket is reached.
    #[must_use]
    pub const fn s3(&self) -> &S3Options {
        &self.s3
    }

    /// Opens the store, without reading anything of it.
    ///
    /// # Errors
    /// If the folder does not exist, or there are no credentials for the bucket.
    pub fn open(&self) -> Result<Arc<dyn Objects>> {
        match self.target()? {
            Target::Folder(folder) => Ok(Arc::new(StoreObjects::local(&folder)?)),
            Target::Bucket(bucket) => bucket.open(&s3::Source::of_process()),
        }
    }

    /// Opens the store for a repository that may be new: creates what is missing of a folder, and checks that a bucket has
    /// conditional puts.
    ///
    /// # Errors
    /// If the folder cannot be used; [`Kind::Unsupported`] for a bucket without conditional puts; what its server answers.
    pub fn make(&self) -> Result<Arc<dyn Objects>> {
        match self.target()? {
            Target::Folder(folder) => {
                std::fs::create_dir_all(&folder).on(|| format!("make repository folder {}", folder.display()))?;
            }
            Target::Bucket(bucket) => bucket.check(&s3::Source::of_process())?,
        }
        self.open()
    }

    fn target(&self) -> Result<Target> {
        let url = &self.url;
        let wrong = |why: &str, hint: &str| {
            Err(Error::new(Kind::Usage, format!("repository URL {url:?} {why}")).hint(hint.to_owned()))
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            return wrong("has no scheme", "use s3://bucket/prefix, file:///folder, or an absolute path");
        };
        if scheme != "s3" && !self.s3.is_default() {
            return wrong("is no bucket", "--endpoint, --region, --path-style and the like are for s3://bucket/prefix");
        }
        match scheme {
            "s3" => Bucket::new(rest, &self.s3).map(Target::Bucket).map_err(|e| e.context(format!("{url:?}"))),
            "file" if rest.starts_with('/') => {
                let bytes: Vec<u8> = percent_encoding::percent_decode_str(rest).collect();
                Ok(Target::Folder(std::ffi::OsStr::from_bytes(&bytes).into()))
            }
            "file" => wrong("names no absolute path", "use three slashes, as in file:///srv/snapshots"),
            _ => wrong("has an unknown scheme", "use s3://bucket/prefix or file:///folder"),
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

    fn plain(url: &str) -> Result<Location> {
        Location::new(url, S3Options::default())
    }

    #[test]
    fn a_path_is_a_url_and_a_url_is_a_path() {
        let folder = |url: &str| match plain(url).unwrap().target().unwrap() {
            Target::Folder(path) => path,
            Target::Bucket(_) => panic!("{url} is a bucket"),
        };
        for path in ["/srv/snapshots", "/srv/my snapshots#1", "/srv/100%25"] {
            assert_eq!(folder(path), Path::new(path));
            assert_eq!(folder(plain(path).unwrap().url()), Path::new(path));
        }
        assert_eq!(folder("file:///srv/a%20b"), Path::new("/srv/a b"));
        for bad in ["", "srv", "file:/srv", "file://srv/a", "ftp://a/b", "FILE:///srv", "s3:bucket", "s3://"] {
            let err = plain(bad).unwrap_err();
            assert!(err.kind() == Kind::Usage && err.advice().is_some(), "{bad}: {}", err.line());
        }
        let region = S3Options { region: Some("eu-west-1".to_owned()), ..S3Options::default() };
        assert!(Location::new("/srv", region.clone()).unwrap_err().line().contains("is no bucket"));
        Location::new("s3://bucket", region).unwrap();
    }

    #[test]
    fn a_record_has_only_what_differs_from_the_defaults() {
        let json = |location: Location| serde_json::to_value(location).unwrap();
        assert_eq!(json(plain("/srv").unwrap()), serde_json::json!({"url": "file:///srv"}));
        let options = S3Options { path_style: true, ..S3Options::default() };
        let bucket = Location::new("s3://bucket/p", options).unwrap();
        let read: Location = serde_json::from_value(json(bucket.clone())).unwrap();
        assert_eq!(read, bucket);
        assert!(
            serde_json::from_value::<Location>(serde_json::json!({"url": "s3://b", "s3": {"secret": "x"}})).is_err()
        );
    }
}
