//! An export in memory: the baseline of benchmarks, and what tests serve.

use super::export::{ALLOCATION, Client, Export, ExportEntry, ExportInfo, Exports, STATE_HOLE, STATE_ZERO};
use crate::engine::{Attempt, Blocking, Device, Extent, VolumeControl, Zeroing};
use crate::env::SystemRng;
use crate::error::{Error, Kind, Result};
use crate::units::VolumeId;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Plain bytes in memory.
pub struct Memory {
    id: VolumeId,
    bytes: RwLock<Vec<u8>>,
    read_only: bool,
    control: Mutex<Option<Arc<dyn VolumeControl>>>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Memory {
    /// Makes an export of `size` zero bytes.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let (id, bytes) = (VolumeId::draw(&SystemRng), RwLock::new(vec![0; size]));
        Self { id, bytes, read_only: false, control: Mutex::default() }
    }

    /// Makes it reject writes.
    #[must_use]
    pub const fn as_read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Grows it to `size` bytes, if it was shorter.
    pub fn grow(&self, size: usize) {
        let mut bytes = self.bytes.write();
        if bytes.len() < size {
            bytes.resize(size, 0);
        }
    }

    /// Returns the control for its limits, once a connection was open.
    #[must_use]
    pub fn control(&self) -> Option<Arc<dyn VolumeControl>> {
        self.control.lock().clone()
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let mut bytes = self.bytes.write();
        let range = range(bytes.len(), offset, len)?;
        bytes[range].fill(0);
        Ok(())
    }
}

fn range(size: usize, offset: u64, len: u64) -> Result<std::ops::Range<usize>> {
    let end = offset.checked_add(len).filter(|&end| end <= size as u64);
    let end = end.ok_or_else(|| Error::new(Kind::Usage, "range outside the export"))?;
    Ok(offset as usize..end as usize)
}

impl Export for Memory {}

impl Device for Memory {
    fn volume(&self) -> Option<VolumeId> {
        Some(self.id)
    }

    fn scheduled(&self, scheduler: &Arc<dyn VolumeControl>) {
        *self.control.lock() = Some(Arc::clone(scheduler));
    }

    fn size(&self) -> u64 {
        self.bytes.read().len() as u64
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, out: &mut [u8], _: Blocking) -> Result<Attempt> {
        let bytes = self.bytes.read();
        out.copy_from_slice(&bytes[range(bytes.len(), offset, out.len() as u64)?]);
        Ok(Attempt::Done)
    }

    fn write(&self, offset: u64, data: &mut [u8], _: bool, _: Blocking) -> Result<Attempt> {
        let mut bytes = self.bytes.write();
        let range = range(bytes.len(), offset, data.len() as u64)?;
        bytes[range].copy_from_slice(data);
        Ok(Attempt::Done)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn trim(&self, offset: u64, len: u64, _: bool) -> Result<()> {
        self.zero(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: Zeroing) -> Result<()> {
        self.zero(offset, len)
    }

    fn cache(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    /// Zero bytes are holes.
    fn extents(&self, _: &str, offset: u64, len: u64, most: usize) -> Result<Vec<Extent>> {
        let bytes = self.bytes.read();
        let mut out: Vec<Extent> = Vec::new();
        for byte in &bytes[range(bytes.len(), offset, len)?] {
            let flags = if *byte == 0 { STATE_HOLE | STATE_ZERO } else { 0 };
            let full = out.len() == most;
            match out.last_mut() {
                Some(last) if last.flags == flags => last.len += 1,
                _ if full => break,
                _ => out.push(Extent { len: 1, flags }),
            }
        }
        Ok(out)
    }
}

/// Exports by name, open to everyone.
#[derive(Default)]
pub struct Fixed(BTreeMap<String, Arc<dyn Export>>);

impl Fixed {
    /// Adds an export.
    #[must_use]
    pub fn with(mut self, name: &str, export: Arc<dyn Export>) -> Self {
        self.0.insert(name.to_owned(), export);
        self
    }
}

impl Exports for Fixed {
    fn list(&self, _: &Client) -> Vec<ExportEntry> {
        self.0.keys().map(|name| ExportEntry { name: name.clone(), description: String::new() }).collect()
    }

    fn info(&self, name: &str, client: &Client) -> Result<ExportInfo> {
        let export = self.open(name, client)?;
        let (size, read_only) = (export.size(), export.read_only());
        Ok(ExportInfo { name: name.to_owned(), description: String::new(), size, read_only })
    }

    fn contexts(&self, name: &str, client: &Client) -> Result<Vec<String>> {
        self.open(name, client).map(|_| vec![ALLOCATION.to_owned()])
    }

    fn open(&self, name: &str, _: &Client) -> Result<Arc<dyn Export>> {
        let export = self.0.get(name).map(Arc::clone);
        export.ok_or_else(|| Error::new(Kind::NotFound, format!("no export {name:?}")))
    }
}
