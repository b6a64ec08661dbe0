//! `coffer key encrypt`, `decrypt`, `re-encrypt`, `generate-data-key`: from files or standard input to files or standard
//! output. Secrets are written to files of mode 0600 and never passed as arguments.

use super::args::Common;
use super::{client, out, render};
use crate::cipher::wrap::MAX_PLAINTEXT;
use crate::error::{Error, IoContext, Kind, Result};
use crate::service::api::{CryptoInfo, Plain, Reply};
use crate::service::operations::Request;
use crate::service::operations::{Decrypt, Encrypt, GenerateDataKey, ReEncrypt};
use crate::sys::draft::Draft;
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The longest ciphertext, bytes: 4096 bytes of plaintext, the header and the context's hash, and some room.
const MAX_CIPHERTEXT: usize = 64 * 1024;

/// Input and output.
#[derive(Debug, Clone, Args)]
pub(super) struct Files {
    /// Read from this file [default: standard input]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Write to this file, which must not exist [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CryptoVerb {
    /// Encrypt 1 to 4096 bytes under a CMK
    Encrypt {
        /// Key id, ARN or alias
        key: String,
        #[command(flatten)]
        files: Files,
        /// Encryption context, name=value; can be repeated; decryption needs the same
        #[arg(long, value_name = "NAME=VALUE")]
        context: Vec<String>,
    },
    /// Decrypt the output of `encrypt`, `re-encrypt` or `generate-data-key`
    Decrypt {
        #[command(flatten)]
        files: Files,
        /// Encryption context, name=value
        #[arg(long, value_name = "NAME=VALUE")]
        context: Vec<String>,
        /// Require this CMK (key id, ARN or alias)
        #[arg(long)]
        key: Option<String>,
    },
    /// Re-encrypt a ciphertext under another CMK or a newer backing key
    ReEncrypt {
        /// Destination CMK (key id, ARN or alias)
        key: String,
        #[command(flatten)]
        files: Files,
        /// Encryption context of the ciphertext, name=value; can be repeated
        #[arg(long, value_name = "NAME=VALUE")]
        context: Vec<String>,
        /// New encryption context, name=value; can be repeated [default: the same]
        #[arg(long, value_name = "NAME=VALUE")]
        new_context: Vec<String>,
    },
    /// Generate a data key, encrypted under a CMK
    GenerateDataKey {
        /// Key id, ARN or alias
        key: String,
        /// Write the encrypted key to this file, which must not exist [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write the plaintext key to this file, which must not exist
        #[arg(long, value_name = "FILE")]
        plaintext_out: Option<PathBuf>,
        /// Length in bytes, 1 to 1024
        #[arg(long, default_value_t = 32)]
        bytes: u16,
        /// Encryption context, name=value
        #[arg(long, value_name = "NAME=VALUE")]
        context: Vec<String>,
    },
}

pub(super) fn run(common: &Common, verb: CryptoVerb) -> Result<u8> {
    let (request, out, clear_out): (Request, _, _) = match verb {
        CryptoVerb::Encrypt { key, files, context } => {
            let plaintext = Plain::of(&read_plaintext(files.input.as_deref())?);
            (Encrypt { key, plaintext, context: pairs(&context)? }.into(), files.out, None)
        }
        CryptoVerb::Decrypt { files, context, key } => {
            let blob = hex::encode(read_ciphertext(files.input.as_deref())?);
            (Decrypt { key, blob, context: pairs(&context)? }.into(), files.out, None)
        }
        CryptoVerb::ReEncrypt { key, files, context, new_context } => {
            let (blob, context) = (hex::encode(read_ciphertext(files.input.as_deref())?), pairs(&context)?);
            let new_context = if new_context.is_empty() { context.clone() } else { pairs(&new_context)? };
            (ReEncrypt { key, blob, context, new_context }.into(), files.out, None)
        }
        CryptoVerb::GenerateDataKey { key, out, plaintext_out, bytes, context } => {
            let plaintext = plaintext_out.is_some();
            (GenerateDataKey { key, bytes, plaintext, context: pairs(&context)? }.into(), out, plaintext_out)
        }
    };
    if common.json && out.is_none() {
        return Err(Error::new(Kind::Usage, "--json: standard output cannot take both the JSON and the data")
            .hint("use --out FILE"));
    }
    let is_binary = !matches!(request, Request::Decrypt(_));
    if is_binary && out.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::new(Kind::Usage, "the output is binary and is not written to a terminal")
            .hint("use --out FILE, or redirect standard output to a file or a pipe"));
    }
    // Before the key is used: otherwise an audited use might produce nothing.
    let draft = |path: &Path| Draft::new(path).map_err(out_hint);
    let clear_file = clear_out.as_deref().map(draft).transpose()?;
    let sink = out.as_deref().map(draft).transpose()?;
    let facts = deliver(client::ask(common, request)?, sink, clear_file)?;
    Ok(if common.json { render::reply(&Reply::Crypto(facts), common) } else { 0 })
}

/// What to do if an output file cannot be created.
pub(super) fn out_hint(err: Error) -> Error {
    match err.kind() {
        Kind::Exists => err.hint("choose another name, or remove that file: output files are never overwritten"),
        Kind::NotFound => err.hint("create its directory first"),
        _ => err,
    }
}

/// Writes the bytes of a reply, and returns the rest.
fn deliver(reply: Reply, sink: Option<Draft>, clear: Option<Draft>) -> Result<CryptoInfo> {
    let Reply::Crypto(mut info) = reply else {
        return Err(Error::new(Kind::Failed, "the server sent an unexpected reply"));
    };
    let plaintext = info.plaintext.take().map(|p| p.bytes()).transpose()?;
    match (&info.blob, plaintext, clear) {
        (Some(blob), plaintext, clear) => {
            let blob = hex::decode(blob)
                .map_err(|e| Error::new(Kind::Failed, "the server sent an invalid ciphertext").because(e))?;
            if let (Some(bytes), Some(clear)) = (plaintext, &clear) {
                fill(clear, &bytes)?;
            }
            let made = sink.as_ref().map(|draft| draft.path().to_owned());
            put(sink, &blob)?;
            // Last: a ciphertext without its plaintext can be decrypted later, the reverse is useless.
            if let Err(err) = clear.map_or(Ok(()), Draft::publish) {
                made.iter().for_each(|path| drop(std::fs::remove_file(path)));
                return Err(err);
            }
        }
        (None, Some(bytes), _) => put(sink, &bytes)?,
        (None, None, _) => return Err(Error::new(Kind::Failed, "the server sent an empty reply")),
    }
    Ok(info)
}

fn read_plaintext(path: Option<&Path>) -> Result<Zeroizing<Vec<u8>>> {
    read(path, MAX_PLAINTEXT)
}

fn read_ciphertext(path: Option<&Path>) -> Result<Zeroizing<Vec<u8>>> {
    read(path, MAX_CIPHERTEXT)
}

/// Reads everything into one buffer, which is wiped.
fn read(path: Option<&Path>, most: usize) -> Result<Zeroizing<Vec<u8>>> {
    match path {
        Some(path) => {
            let name = path.display().to_string();
            let file = std::fs::File::open(path).on(|| format!("read {name}"))?;
            read_all(&name, &file, most)
        }
        None => read_all("standard input", rustix::stdio::stdin(), most),
    }
}

fn read_all(name: &str, from: impl AsFd, most: usize) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; most + 1]);
    let mut end = 0;
    while end < bytes.len() {
        match rustix::io::read(&from, &mut bytes[end..]) {
            Ok(0) => break,
            Ok(n) => end += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).on(|| format!("read {name}")),
        }
    }
    if end > most {
        let err = Error::new(Kind::Usage, format!("{name} is longer than {most} bytes"));
        return Err(if most == MAX_PLAINTEXT {
            err.hint("encrypt larger data with a data key from `coffer key generate-data-key`")
        } else {
            err.hint("use the output of `coffer key encrypt`, re-encrypt or generate-data-key")
        });
    }
    bytes.truncate(end);
    Ok(bytes)
}

/// Parses pairs: an encryption context, or tags.
pub(super) fn pairs(given: &[String]) -> Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    for pair in given {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(Error::new(Kind::Usage, format!("{pair:?} is not of the form name=value")));
        };
        if pairs.insert(name.to_owned(), value.to_owned()).is_some() {
            let what = format!("{name:?} is given more than once");
            return Err(Error::new(Kind::Usage, what).hint("give each name one value"));
        }
    }
    Ok(pairs)
}

fn fill(draft: &Draft, bytes: &[u8]) -> Result<()> {
    draft.file().write_all(bytes).on(|| format!("write {}", draft.path().display()))
}

/// Writes to the file, or to standard output.
fn put(draft: Option<Draft>, bytes: &[u8]) -> Result<()> {
    match draft {
        Some(draft) => fill(&draft, bytes).and_then(|()| draft.publish()),
        None => out::bytes(bytes).map_err(out::unwritten),
    }
}
