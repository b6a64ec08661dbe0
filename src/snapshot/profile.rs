//! Credentials and Region of a profile, in the files of AWS's tools (AWS SDKs and Tools Reference Guide, "Shared config and
//! credentials files").

use super::s3::Source;
use crate::error::{Error, IoContext, Kind, Result};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long credentials are used before the files are read again.
const FRESH: Duration = Duration::from_secs(60);
/// Settings that name credentials which coffer does not get.
const ELSEWHERE: [&str; 4] = ["credential_process", "sso_session", "sso_start_url", "source_profile"];

/// The settings of a profile.
type Settings = BTreeMap<String, String>;

/// The profile in use.
#[derive(Clone)]
pub(super) struct Profiles {
    name: String,
    /// Whether `AWS_PROFILE` names it.
    named: bool,
    /// The credentials file, which takes precedence, and the config file.
    files: [Option<PathBuf>; 2],
    settings: Settings,
}

impl Profiles {
    /// Reads the profile that the environment names, or `default`.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] if the profile that is named does not exist; what the file system reports.
    pub(super) fn of(from: &Source) -> Result<Self> {
        let home = from.get("HOME").map(|home| PathBuf::from(home).join(".aws"));
        let file = |variable: &str, name: &str| {
            from.get(variable).map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(name)))
        };
        let files = [file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), file("AWS_CONFIG_FILE", "config")];
        let name = from.get("AWS_PROFILE");
        let named = name.is_some();
        let mut new =
            Self { name: name.unwrap_or_else(|| "default".to_owned()), named, files, settings: Settings::new() };
        new.settings = new.read()?;
        Ok(new)
    }

    /// Returns the profile's Region.
    pub(super) fn region(&self) -> Option<String> {
        self.settings.get("region").cloned()
    }

    /// Returns a provider of its credentials; `None`: it has none, and was not asked for.
    ///
    /// # Errors
    /// [`Kind::AccessDenied`] if it has none that coffer can get.
    pub(super) fn provider(self) -> Result<Option<ProfileCredentials>> {
        match self.credential() {
            Ok(now) => {
                Ok(Some(ProfileCredentials { profiles: self, latest: Mutex::new((Instant::now(), Arc::new(now))) }))
            }
            Err(_) if !self.named && self.elsewhere().is_none() => Ok(None),
            Err(err) => Err(err),
        }
    }

    fn elsewhere(&self) -> Option<&str> {
        ELSEWHERE.into_iter().find(|key| self.settings.contains_key(*key))
    }

    fn credential(&self) -> Result<AwsCredential> {
        let get = |key: &str| self.settings.get(key).cloned();
        if let (Some(key_id), Some(secret_key)) = (get("aws_access_key_id"), get("aws_secret_access_key")) {
            return Ok(AwsCredential { key_id, secret_key, token: get("aws_session_token") });
        }
        let what = match self.elsewhere() {
            Some(key) => format!("AWS profile {} gets its credentials by {key}, which coffer does not", self.name),
            None => format!("AWS profile {} has no aws_access_key_id and aws_secret_access_key", self.name),
        };
        Err(Error::new(Kind::AccessDenied, what)
            .hint("put a key into ~/.aws/credentials, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, as `aws configure export-credentials` prints them"))
    }

    fn read(&self) -> Result<Settings> {
        let mut all = Settings::new();
        let [credentials, config] = &self.files;
        let section = if self.name == "default" { self.name.clone() } else { format!("profile {}", self.name) };
        // The later one takes precedence.
        for (file, section) in [(config, section), (credentials, self.name.clone())] {
            let Some(file) = file else { continue };
            all.extend(section_of(&text_of(file)?, &section));
        }
        if all.is_empty() && self.named {
            let what = format!("there is no AWS profile {}", self.name);
            return Err(Error::new(Kind::AccessDenied, what).hint("see AWS_PROFILE, and ~/.aws/credentials"));
        }
        Ok(all)
    }
}

fn text_of(file: &Path) -> Result<String> {
    match std::fs::read_to_string(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.on(|| format!("read {}", file.display())),
    }
}

/// Returns the settings of a section. Nested settings, which are indented, are not among them.
fn section_of(text: &str, wanted: &str) -> Settings {
    let (mut all, mut inside) = (Settings::new(), false);
    for line in text.lines().filter(|l| !l.starts_with(['#', ';', ' ', '\t'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            let name: Vec<&str> = name.split_whitespace().collect();
            inside = name.join(" ") == wanted;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            // A comment begins with a space and a sign.
            let value = value.split(" #").next().unwrap_or_default().split(" ;").next().unwrap_or_default();
            all.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    all
}

/// Credentials of a profile, read again when they may have changed.
pub(super) struct ProfileCredentials {
    profiles: Profiles,
    latest: Mutex<(Instant, Arc<AwsCredential>)>,
}

impl fmt::Debug for ProfileCredentials {
    /// Leaves out the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProfileCredentials({})", self.profiles.name)
    }
}

#[async_trait::async_trait]
impl CredentialProvider for ProfileCredentials {
    type Credential = AwsCredential;
    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut latest = self.latest.lock();
        if latest.0.elapsed() >= FRESH {
            let again = Profiles { settings: Settings::new(), ..self.profiles.clone() };
            let read = again.read().and_then(|settings| Profiles { settings, ..again }.credential());
            // While the file is being written, the old ones are as good as any.
            if let Ok(now) = read {
                latest.1 = Arc::new(now);
            }
            latest.0 = Instant::now();
        }
        Ok(latest.1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let text = "# of all\n[default]\nregion = eu-west-1\n[profile  web]\nAWS_ACCESS_KEY_ID=AKID # of web\n\
            s3 =\n  addressing_style = path\naws_secret_access_key = a=b;c\n[other]\nregion = none\n";
        let of = |name: &str| section_of(text, name);
        assert_eq!(of("default").get("region").unwrap(), "eu-west-1");
        let web = of("profile web");
        assert_eq!(web.get("aws_access_key_id").unwrap(), "AKID");
        assert_eq!(web.get("aws_secret_access_key").unwrap(), "a=b;c");
        assert!(!web.contains_key("addressing_style") && !web.contains_key("region"));
        assert_eq!(of("profile"), Settings::new());
    }
}
