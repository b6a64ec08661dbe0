//! `snapshot export`: opens the file as the user who asks, passes it with the request, and names it once it is whole.

use crate::cli::args::Common;
use crate::cli::client::{self, Handed};
use crate::cli::{crypto, render};
use crate::error::{Error, IoContext, Kind, Result};
use crate::service::operations::ExportSnapshot;
use crate::sys::draft::Draft;
use clap::Args;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Snapshot name or id
    snapshot: String,
    /// Output file; - for standard output
    out: PathBuf,
    /// Replace the output file if it exists
    #[arg(long)]
    force: bool,
}

pub(super) fn run(common: &Common, ExportArgs { snapshot, out, force }: ExportArgs) -> Result<u8> {
    if out == Path::new("-") {
        return stream(common, snapshot);
    }
    let out = std::path::absolute(&out).on(|| format!("find {}", out.display()))?;
    let draft = if force { Draft::replacing(&out) } else { Draft::new(&out) }.map_err(|e| match e.kind() {
        Kind::Exists if !force => e.hint("choose another file, or use --force to replace it"),
        _ => crypto::out_hint(e),
    })?;
    let handed = Handed { file: draft.file(), can_restart: true };
    let reply = client::ask_with(common, ExportSnapshot { snapshot, out: Some(out) }.into(), Some(handed))?;
    draft.publish()?;
    Ok(render::reply(&reply, common))
}

/// Writes to standard output, on which nothing else is printed.
fn stream(common: &Common, snapshot: String) -> Result<u8> {
    let refused = |why: &str, hint: &str| Err(Error::new(Kind::Usage, format!("export {snapshot}: {why}")).hint(hint));
    if common.json {
        return refused("standard output cannot be both the image and JSON", "leave out --json, or name a file");
    }
    if crate::sys::was_closed(1) || std::io::stdout().is_terminal() {
        return refused("standard output is closed or a terminal", "redirect it, or name a file");
    }
    let out = std::io::stdout().as_fd().try_clone_to_owned().on(|| "duplicate standard output".to_owned())?;
    let handed = Handed { file: &File::from(out), can_restart: false };
    client::ask_with(common, ExportSnapshot { snapshot, out: None }.into(), Some(handed)).map(|_| 0)
}
