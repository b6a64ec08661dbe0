//! An S3 bucket as a store of objects: its address, its credentials, its time limits, and what it must be able to do.
//!
//! Bodies are at most a pack, a little over 32 MiB, and are put with one request each: such a put is atomic and can be
//! conditional, a multipart one is neither everywhere.

use super::location::S3Options;
use super::objects::{Objects, StoreObjects};
use super::profile::Profiles;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use http::Uri;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Attempts of one request that must fit into the time limit.
const ATTEMPTS: u32 = 3;
/// Retries of a request that the server or the connection failed.
const RETRIES: usize = 10;
/// Shortest time limit that leaves room for retries, in seconds.
const LEAST: u32 = 5;

/// The address of a bucket.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    name: String,
    prefix: String,
    options: S3Options,
}

/// Where credentials and the Region are looked for.
pub(super) struct Source {
    variable: Box<Variables>,
}

/// Returns a variable that is set and not empty.
type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Source {
    /// The environment of this process, and the files of AWS's tools.
    pub(super) fn of_process() -> Self {
        Self { variable: Box::new(|name| std::env::var(name).ok().filter(|v| !v.is_empty())) }
    }

    /// Returns a variable that is set and not empty.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name)
    }
}

fn usage(what: impl Into<String>, hint: &str) -> Error {
    Error::new(Kind::Usage, what).hint(hint.to_owned())
}

impl Bucket {
    /// Parses what follows `s3://`.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a name, a prefix or an option that cannot be.
    pub(super) fn new(rest: &str, options: &S3Options) -> Result<Self> {
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.contains(['@', ':']) {
            return Err(usage("it has more than a bucket's name", CREDENTIALS));
        }
        if !(3..=63).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) {
            return Err(usage("no bucket can have that name", "use s3://bucket or s3://bucket/prefix"));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let parts_are_good = || prefix.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-=+".contains(&b);
        let is_good = prefix.is_empty() || (parts_are_good() && prefix.bytes().all(is_plain));
        if !is_good {
            return Err(usage("its prefix cannot be used", "use A-Z a-z 0-9 . _ - = + and single slashes"));
        }
        if let Some(endpoint) = &options.endpoint {
            check_endpoint(endpoint, options)?;
        }
        if options.time_limit.is_some_and(|seconds| seconds < LEAST) {
            return Err(usage(format!("its time limit is too short: at least {LEAST} s"), "leave out --time-limit"));
        }
        Ok(Self { name: name.to_owned(), prefix: prefix.to_owned(), options: options.clone() })
    }

    /// Opens the bucket, without any request.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] if there are no credentials.
    pub(super) fn open(&self, from: &Source) -> Result<Arc<dyn Objects>> {
        self.open_with(from, RETRIES)
    }

    fn open_with(&self, from: &Source, retries: usize) -> Result<Arc<dyn Objects>> {
        let what = || format!("open bucket {}", self.name);
        let limit = Duration::from_secs(u64::from(self.options.time_limit.unwrap_or(S3Options::TIME_LIMIT)));
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT.min(limit / ATTEMPTS))
            .with_timeout(limit / ATTEMPTS)
            .with_allow_http(self.options.endpoint.as_ref().is_some_and(|e| e.starts_with("http:")));
        let backoff = BackoffConfig { max_backoff: limit / 20, ..BackoffConfig::default() };
        let retry = RetryConfig { backoff, max_retries: retries, retry_timeout: limit };
        let profiles = Profiles::of(from)?;
        let builder = AmazonS3Builder::new().with_client_options(client).with_retry(retry);
        let builder = self.addressed(builder, from, &profiles);
        let store = with_credentials(builder, from, profiles)
            .and_then(|b| b.build().map_err(|e| Error::new(Kind::Failed, "prepare the connection").because(e)));
        let store = store.map_err(|e| e.context(what()))?;
        let key = object_store::path::Path::from(self.prefix.as_str());
        Ok(Arc::new(StoreObjects::remote(Arc::new(PrefixStore::new(store, key)), limit)))
    }

    fn addressed(&self, builder: AmazonS3Builder, from: &Source, profiles: &Profiles) -> AmazonS3Builder {
        let named = || from.get("AWS_REGION").or_else(|| from.get("AWS_DEFAULT_REGION")).or_else(|| profiles.region());
        let region = self.options.region.clone().or_else(named).unwrap_or_else(|| "us-east-1".to_owned());
        // A certificate for *.s3.amazonaws.com does not cover a name with dots.
        let in_path = self.options.path_style || (self.options.endpoint.is_none() && self.name.contains('.'));
        let builder = builder
            .with_bucket_name(&self.name)
            .with_region(region)
            .with_virtual_hosted_style_request(!in_path)
            .with_disable_tagging(true)
            .with_disable_bulk_delete(true);
        match &self.options.endpoint {
            Some(endpoint) if in_path => builder.with_endpoint(endpoint.trim_end_matches('/')),
            Some(endpoint) => {
                let (scheme, host) = endpoint.split_once("://").unwrap_or(("https", endpoint));
                builder.with_endpoint(format!("{scheme}://{}.{}", self.name, host.trim_end_matches('/')))
            }
            None => builder,
        }
    }

    /// Checks that the bucket can be used: a put of an object that exists must be refused if it is asked to be.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the server does not do that; what it answers.
    pub(super) fn check(&self, from: &Source) -> Result<()> {
        let objects = self.open_with(from, 2)?;
        let unable = |how: &str| {
            let what = format!("bucket {}: its server {how} (If-None-Match: *), which repositories need", self.name);
            Error::new(Kind::Unsupported, what)
                .hint("use a server that has conditional writes, such as AWS S3, MinIO, Ceph or SeaweedFS in a current version")
        };
        let probe = format!("coffer-probe-{}", uuid::Uuid::new_v4().simple());
        let put = |bytes: &'static [u8]| objects.put_new(&probe, Bytes::from_static(bytes));
        match put(b"first") {
            Err(err) if err.kind() == Kind::Unsupported => return Err(unable("refuses conditional puts").because(err)),
            // Its own, put by an attempt whose answer was lost.
            Err(err) if err.kind() == Kind::Exists => {}
            other => other?,
        }
        let again = put(b"second");
        objects.delete(&probe)?;
        match again {
            Err(err) if err.kind() == Kind::Exists => Ok(()),
            Err(err) if err.kind() == Kind::Unsupported => Err(unable("refuses conditional puts").because(err)),
            Err(err) => Err(err),
            Ok(()) => Err(unable("ignores conditional puts")),
        }
    }
}

const CREDENTIALS: &str =
    "credentials are not part of a URL: they come from the environment or from ~/.aws/credentials";

/// Refuses an endpoint that would send requests elsewhere, or in the clear over a network.
fn check_endpoint(endpoint: &str, options: &S3Options) -> Result<()> {
    let wrong = |why: &str, hint: &str| Err(usage(format!("endpoint {endpoint:?} {why}"), hint));
    let plain = "use a URL such as https://s3.example.com:9000";
    let Ok(uri) = endpoint.parse::<Uri>() else { return wrong("is not a URL", plain) };
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else { return wrong("is not a URL", plain) };
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(usage("the endpoint has a user in it", CREDENTIALS));
    }
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
        return wrong("has a path", plain);
    }
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let is_local = host == "localhost" || address.as_ref().is_ok_and(std::net::IpAddr::is_loopback);
    match scheme {
        "https" => {}
        "http" if is_local || options.allow_http => {}
        "http" => {
            return wrong(
                "would be used without TLS",
                "use https://, or --allow-http if everyone on that network may read and change requests",
            );
        }
        _ => return wrong("has an unknown scheme", plain),
    }
    if address.is_ok() && !options.path_style {
        return wrong("is an address, in which no bucket fits", "use --path-style, or a host name");
    }
    Ok(())
}

/// Takes the first credentials that there are: of the environment, a web identity, a profile, a container, the instance.
fn with_credentials(builder: AmazonS3Builder, from: &Source, profiles: Profiles) -> Result<AmazonS3Builder> {
    match (from.get("AWS_ACCESS_KEY_ID"), from.get("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => {
            let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            return Ok(from.get("AWS_SESSION_TOKEN").into_iter().fold(builder, AmazonS3Builder::with_token));
        }
        (None, None) => {}
        _ => {
            let what = "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set";
            return Err(Error::new(Kind::AccessDenied, what).hint("set both, or neither"));
        }
    }
    let all = |pairs: &[(&str, Key)]| -> Option<Vec<(Key, String)>> {
        pairs.iter().map(|(name, key)| Some((*key, from.get(name)?))).collect()
    };
    let given = |builder, pairs: Vec<(Key, String)>| {
        pairs.into_iter().fold(builder, |b: AmazonS3Builder, (key, value)| b.with_config(key, value))
    };
    let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", Key::WebIdentityTokenFile), ("AWS_ROLE_ARN", Key::RoleArn)];
    if let Some(pairs) = all(&web) {
        let name = all(&[("AWS_ROLE_SESSION_NAME", Key::RoleSessionName)]);
        return Ok(given(given(builder, pairs), name.unwrap_or_default()));
    }
    if let Some(provider) = profiles.provider()? {
        return Ok(builder.with_credentials(Arc::new(provider)));
    }
    let task = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", Key::ContainerCredentialsRelativeUri)];
    let pod = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Key::ContainerCredentialsFullUri),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", Key::ContainerAuthorizationTokenFile),
    ];
    if let Some(pairs) = all(&task).or_else(|| all(&pod)) {
        return Ok(given(builder, pairs));
    }
    if from.get("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        let what = "there are no credentials";
        return Err(Error::new(Kind::AccessDenied, what).hint(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for this process, or AWS_PROFILE, or fill in ~/.aws/credentials",
        ));
    }
    Ok(builder)
}

#[cfg(test)]
#[path = "s3_tests.rs"]
mod tests;
