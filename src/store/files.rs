//! Stores as files in one directory, `<volume id>.coffer`.

use super::factory::{Access, Found, Room, Stores};
use super::file::{FileStore, Folder, SPILL, sync_parent};
use super::folio_hints::FolioHintCache;
use super::{BlockStore, SpillFile, SpillSpace};
use crate::env::Timestamp;
use crate::error::{IoContext, Result};
use crate::file::{OpenHow, open_regular};
use crate::units::VolumeId;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Stores in a directory; see the module's documentation.
#[derive(Debug)]
pub struct FileStores {
    folder: PathBuf,
    single_host: bool,
    /// Folio hints of recently opened volumes.
    folio_hints: FolioHintCache,
}

impl FileStores {
    /// Uses the stores in a directory. `single_host`: no other host opens them, even if the file system is shared.
    #[must_use]
    pub fn of(folder: &Path, single_host: bool) -> Self {
        Self { folder: folder.to_owned(), single_host, folio_hints: FolioHintCache::default() }
    }

    /// Returns the path of a volume's file.
    #[must_use]
    pub fn path(&self, id: VolumeId) -> PathBuf {
        self.folder.join(file_name(id))
    }
}

fn file_name(id: VolumeId) -> String {
    format!("{id}.coffer")
}

/// Whether a directory entry is the spill of a volume.
fn is_spill(entry: &std::fs::DirEntry) -> bool {
    let name = entry.file_name();
    let volume = name.to_str().and_then(|n| n.strip_suffix(SPILL)?.strip_suffix('.')?.parse::<VolumeId>().ok());
    volume.is_some()
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).on(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

impl SpillSpace for FileStores {
    fn create_spill(&self, volume: VolumeId) -> io::Result<SpillFile> {
        Folder::new(&self.folder).create_spill(volume)
    }
    fn open_spill(&self, volume: VolumeId) -> io::Result<Option<SpillFile>> {
        Folder::new(&self.folder).open_spill(volume)
    }
    fn remove_spill(&self, volume: VolumeId) -> io::Result<()> {
        Folder::new(&self.folder).remove_spill(volume)
    }
}

impl Stores for FileStores {
    fn create(&self, id: VolumeId, size: u64, fill: &mut dyn FnMut(&dyn BlockStore) -> Result<()>) -> Result<()> {
        let path = self.path(id);
        let mut made = FileStore::create_unnamed(&path, size, self.single_host)?;
        fill(&made)?;
        made.publish(&path)
    }

    fn open(&self, id: VolumeId, access: Access) -> Result<Arc<dyn BlockStore>> {
        let writable = access == Access::Write;
        let store = FileStore::open(&self.path(id), writable, self.single_host)?;
        Ok(Arc::new(if writable { store.with_folio_hints(self.folio_hints.of(id)) } else { store }))
    }

    fn remove(&self, id: VolumeId) -> Result<()> {
        let path = self.path(id);
        remove_file(&path.with_extension("new"))?;
        remove_file(&path.with_extension(SPILL))?;
        remove_file(&path)?;
        // A name that reappeared after power loss would be a file without a volume.
        sync_parent(&path)
    }

    fn has_any(&self, id: VolumeId) -> bool {
        let path = self.path(id);
        path.exists() || ["new", SPILL].iter().any(|e| path.with_extension(e).exists())
    }

    fn room(&self, id: VolumeId) -> Result<Room> {
        let path = self.path(id);
        let about = std::fs::metadata(&path).on(|| format!("stat {}", path.display()))?;
        Ok(Room { size: about.len(), taken: Some(about.blocks() * 512) })
    }

    fn place(&self, id: VolumeId) -> String {
        self.path(id).display().to_string()
    }

    fn list(&self) -> Result<Vec<Found>> {
        let what = || format!("list {}", self.folder.display());
        let folder = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let found = |entry: std::fs::DirEntry| {
            let (key, path) = (entry.file_name(), entry.path());
            let name = key.to_string_lossy().into_owned();
            let named = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<VolumeId>().ok());
            let published = named.is_some_and(|id| name == file_name(id));
            Found { key, name: format!("{folder}/{name}"), place: path.display().to_string(), named, published }
        };
        match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => {
                let all = entries.on(what)?.map(|entry| entry.on(what));
                all.filter(|entry| !entry.as_ref().is_ok_and(is_spill)).map(|entry| entry.map(found)).collect()
            }
        }
    }

    fn changed(&self) -> Option<Timestamp> {
        let about = std::fs::metadata(&self.folder).ok()?;
        Some(Timestamp(about.mtime() * 1000 + about.mtime_nsec() / 1_000_000))
    }

    fn peek(&self, found: &Found, out: &mut [u8], offset: u64) -> Result<()> {
        let file = open_regular(&self.folder.join(&found.key), &OpenHow::read())?;
        file.read_exact_at(out, offset).on(|| format!("read {}", found.place))
    }
}
