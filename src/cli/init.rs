//! `coffer init`: creates a data directory, its root key, catalog and snapshot repository.

use super::args::Common;
use super::client::{ask_passphrase, config_folder, data_dir, read_passphrase_fd};
use super::render;
use crate::env::{Env, Rng, SystemRng};
use crate::error::{Error, IoContext, Kind, Result};
use crate::kms::{Argon2Cost, InstallationConfig, RootChoice};
use crate::service::{Service, lies_inside};
use clap::Args;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Write the root key to this file, outside the data directory [default: a file in the configuration directory]
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    key_file: Option<PathBuf>,
    /// Use the existing key file: whoever has it can open every installation that uses it
    #[arg(long, requires = "key_file")]
    reuse_key_file: bool,
    /// Protect the root key with a passphrase, read from the terminal or from --passphrase-fd
    #[arg(long)]
    passphrase: bool,
    /// AWS-style account id, 12 digits [default: random]
    #[arg(long)]
    account: Option<String>,
    /// AWS-style Region
    #[arg(long, default_value = "us-east-1")]
    region: String,
}

pub(super) fn run(common: &Common, args: &InitArgs) -> Result<u8> {
    let data = data_dir(common)?;
    let env = Env::system();
    let config =
        InstallationConfig { account: args.account.clone(), region: args.region.clone(), name: "coffer".to_owned() };
    config.check()?;
    // Not by clap: it does not see a conflict with a global flag that stands before the verb.
    if args.key_file.is_some() && common.passphrase_fd.is_some() {
        let what = "--passphrase-fd cannot be used with --key-file: a new root key is protected by one of them";
        return Err(Error::new(Kind::Usage, what).hint("leave one of them out"));
    }
    if data.is_initialised() && !data.path().join("init-unfinished").exists() {
        return Err(Error::new(Kind::Exists, format!("{} is already initialised", data.path().display()))
            .hint("use it, or name another directory with --data"));
    }
    let (choice, file) = if args.passphrase || common.passphrase_fd.is_some() {
        (RootChoice::Passphrase(new_passphrase(common)?, Argon2Cost::default()), None)
    } else {
        let file = key_file(args)?;
        if lies_inside(&file, data.path()) {
            return Err(Error::new(
                Kind::Usage,
                format!("the root key file {} would be in the data directory", file.display()),
            )
            .hint("choose a path outside it: a stolen data directory must not contain its own key"));
        }
        let choice = if args.reuse_key_file { RootChoice::SharedFile } else { RootChoice::File };
        (choice(file.clone()), Some(file))
    };
    data.check_private()?;
    let _owner = data.act_as_owner()?;
    let status = Service::init(&data, &env, &choice, &config)?;
    render::initialised(&status, file.as_deref(), common);
    Ok(0)
}

fn new_passphrase(common: &Common) -> Result<crate::kms::Passphrase> {
    if let Some(fd) = common.passphrase_fd {
        return read_passphrase_fd(fd);
    }
    let first = ask_passphrase("New passphrase (8 bytes or more)")?;
    let second = ask_passphrase("Repeat the passphrase")?;
    if first.ct_eq(&second) {
        Ok(first)
    } else {
        Err(Error::new(Kind::Usage, "the passphrases do not match").hint("try again"))
    }
}

/// The key file that was named, or a new name in the configuration directory.
fn key_file(args: &InitArgs) -> Result<PathBuf> {
    if let Some(path) = &args.key_file {
        return std::path::absolute(path).on(|| format!("find {}", path.display()));
    }
    let folder = config_folder()?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .on(|| format!("create {}", folder.display()))?;
    let mut raw = [0u8; 8];
    SystemRng.fill(&mut raw);
    Ok(folder.join(format!("root-{}.key", hex::encode(raw))))
}
