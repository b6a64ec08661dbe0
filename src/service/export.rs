//! Exports: the sealed sectors of a volume in a file that other tools can open, and its clear data key. Both are audited.

use super::api::Progress;
use super::keygate::{HeldCiphers, KeyHolder};
use super::opening::Need;
use super::{Report, Service};
use crate::cipher::SealedBuf;
use crate::cipher::xts::{At, XtsCipher, is_hole};
use crate::error::{Error, IoContext, Kind, Result};
use crate::kms::Caller;
use crate::ledger::Act;
use crate::sys::draft::Draft;
use crate::units::{ByteLen, CHUNK, ChunkNo, DataKeyId, SECTOR, chunks_in};
use crate::volume::Volume;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

impl Service {
    /// Writes the sealed sectors, from the first byte of the volume on, to a new file. With `fill_holes`, seals zeros into the
    /// holes, which needs the key: dm-crypt has no holes and would return noise for them.
    pub(super) fn export_volume(
        &self,
        caller: &Caller,
        what: &str,
        out: &Path,
        fill_holes: bool,
        report: Report<'_>,
    ) -> Result<String> {
        let record = self.records.find_volume(what)?;
        let turn = self
            .opens
            .close_unused(&record)
            .map_err(|e| e.hint("detach it, or export a volume created from a snapshot of it"))?;
        self.attachments.refuse_if_elsewhere(&record)?;
        drop(turn);
        let used = self.opens.acquire(&record, Need::Key(caller))?;
        let stopped = || Error::new(Kind::Interrupted, format!("export to {} was stopped", out.display()));
        let mut filled = 0u64;
        loop {
            let step = used.volume.hydrate_some(64)?;
            filled += step.chunks as u64;
            let progress =
                Progress { what: "fill".into(), done: filled * CHUNK as u64, total: None, unit: "bytes".into() };
            if step.done {
                break;
            }
            if !report(progress) {
                return Err(stopped());
            }
        }
        let ciphers = fill_holes.then(|| self.held_ciphers(&used.volume, caller)).transpose()?;
        let act = Act::new("coffer:ExportVolume")
            .key(record.key_arn.clone())
            .detail("volume", record.id)
            .detail("file", out.display());
        self.ledger().record(caller, act, Ok(()))?;
        let draft = self.as_asked(|| Draft::new(out))?;
        let size = used.volume.size();
        write_sealed(&used.volume, draft.file(), out, ciphers.as_deref(), report)?;
        self.as_asked(|| draft.publish())?;
        Ok(format!("wrote {} of sealed data of {} to {}", ByteLen(size), record.shown(), out.display()))
    }

    /// Returns a second set of a volume's ciphers, registered to be wiped when a CMK that wraps its keys becomes unusable.
    fn held_ciphers(&self, volume: &Volume, caller: &Caller) -> Result<Arc<HeldCiphers<DataKeyId>>> {
        let ticket = self.keygate.ticket();
        let keys = self.keys.unwrap(volume, caller)?;
        let held = Arc::new(HeldCiphers::new(self.keys.cmks_of(volume)));
        let holder: Arc<dyn KeyHolder> = held.clone();
        self.keygate.register(Arc::downgrade(&holder));
        held.put(&self.keygate, ticket, || keys.iter().map(|(_, k)| (k.get().id(), XtsCipher::new(k))).collect())?;
        Ok(held)
    }

    /// Writes the clear data key, 64 bytes, to a new file with mode 0600.
    pub(super) fn export_key(&self, caller: &Caller, what: &str, out: &Path) -> Result<String> {
        let record = self.records.find_volume(what)?;
        let used = self.opens.acquire(&record, Need::Sealed)?;
        self.keys.ask_for_export(&used.volume, caller)?;
        let keys = self.keys.unwrap(&used.volume, caller)?;
        let [(_, key)] = &keys[..] else {
            return Err(Error::new(Kind::Unsupported, format!("{} has {} data keys", record.shown(), keys.len()))
                .hint("copy it to a new volume first, which has one data key"));
        };
        let act = Act::new("coffer:ExportKey")
            .key(record.key_arn.clone())
            .detail("volume", record.id)
            .detail("file", out.display());
        self.ledger().record(caller, act, Ok(()))?;
        let draft = self.as_asked(|| Draft::new(out))?;
        key.get().write_clear(draft.file()).on(|| format!("write {}", out.display()))?;
        self.as_asked(|| draft.publish())?;
        Ok(format!(
            "wrote the clear data key of {} to {}: whoever has it can read the volume",
            record.shown(),
            out.display()
        ))
    }
}

impl Service {
    /// Creates or renames a file at a path that a person gave. A command acts as the user who started it; a server acts as
    /// itself, because another user may have asked.
    fn as_asked<R>(&self, act: impl FnOnce() -> R) -> R {
        if self.role == super::Role::Command { crate::sys::as_started(act) } else { act() }
    }
}

/// Writes all chunks. With `ciphers`, seals zeros into the holes.
fn write_sealed(
    volume: &Volume,
    file: &File,
    out: &Path,
    ciphers: Option<&HeldCiphers<DataKeyId>>,
    report: Report<'_>,
) -> Result<()> {
    let what = || format!("write {}", out.display());
    let size = volume.size();
    let whole = size.next_multiple_of(SECTOR as u64);
    file.set_len(whole).on(what)?;
    let mut buf = SealedBuf::holes(CHUNK);
    for no in 0..chunks_in(size) {
        let chunk = ChunkNo(no);
        let key = volume.read_sealed_chunk(chunk, buf.room())?;
        if let Some(ciphers) = ciphers {
            let missing = || Error::new(Kind::Integrity, format!("chunk {chunk}: its data key is not available"));
            let name = key.ok_or_else(missing)?;
            ciphers
                .with(&name, |cipher| {
                    let at =
                        At::new(chunk.offset()).ok_or_else(|| Error::new(Kind::Failed, "the chunk is not aligned"))?;
                    cipher.ok_or_else(missing)?.fill_holes(at, buf.room());
                    Ok::<_, Error>(())
                })
                .map_err(|e| e.context(what()))??;
        }
        let len = (whole - chunk.offset()).min(CHUNK as u64) as usize;
        if !is_hole(&buf[..len]) {
            file.write_all_at(&buf[..len], chunk.offset()).on(what)?;
        }
        let progress =
            Progress { what: "export".into(), done: chunk.offset(), total: Some(size), unit: "bytes".into() };
        if no % 64 == 63 && !report(progress) {
            return Err(Error::new(Kind::Interrupted, format!("export to {} was stopped", out.display())));
        }
    }
    Ok(())
}
