//! `volume import`: opens the file as the user who asks, and passes it with the request.

use super::args::{Common, size};
use super::client::{self, Handed};
use super::render;
use crate::error::{Error, IoContext, Kind, Result};
use crate::service::operations::ImportVolume;
use crate::units::ByteLen;
use clap::Args;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Raw image: a file or a block device; - for standard input
    file: PathBuf,
    /// Name of the volume
    #[arg(long)]
    name: String,
    /// CMK that wraps the volume's data key [default: alias/aws/ebs]
    #[arg(long)]
    key: Option<String>,
    /// Size of the volume, at least the image's; of standard input, the bytes that come [default: the image's]
    #[arg(long, allow_hyphen_values = true, value_parser = size)]
    size: Option<ByteLen>,
}

pub(super) fn run(common: &Common, ImportArgs { file, name, key, size }: ImportArgs) -> Result<u8> {
    let is_stream = file == Path::new("-");
    let (from, opened) = if is_stream {
        if crate::sys::was_closed(0) || std::io::stdin().is_terminal() {
            let what = format!("import {name}: standard input is closed or a terminal");
            return Err(Error::new(Kind::Usage, what).hint("redirect it, or name a file"));
        }
        (None, File::from(std::io::stdin().as_fd().try_clone_to_owned().on(|| "duplicate standard input".to_owned())?))
    } else {
        let path = std::path::absolute(&file).on(|| format!("find {}", file.display()))?;
        let opened = File::open(&path).on(|| format!("open {}", path.display()))?;
        (Some(path), opened)
    };
    let handed = Handed { file: &opened, can_restart: !is_stream };
    let request = ImportVolume { name, key, size: size.map(|s| s.0), from };
    let reply = client::ask_with(common, request.into(), Some(handed))?;
    Ok(render::reply(&reply, common))
}
