//! Making a snapshot: chunks in; packs, pages, a signed manifest and one log record out.
//!
//! Memory use is one leaf entry per changed chunk and at most two packs: the one being filled and the one being put.
//! Nothing is visible before the log's `add`; what a killed create leaves is unreachable, and a sweep deletes it.
//!
//! With a staging directory ([`super::staging`]), a chunk is copied once it is there: putting full packs is another
//! thread's work ([`SnapshotWriter::send_one`]), and a create that was killed or stopped is resumed.

use super::log::Entry;
use super::manifest::Manifest;
use super::pack::{PackBuilder, body_hash, map_of, stored_len};
use super::page::{FAN, LeafEntry, depth_of, encode_interior, encode_leaf};
use super::record::{RECORD_MAX, Record};
use super::repository::{Inner, Located, Repository};
use super::staging::{Note, Staged, Staging, packs_of};
use super::tree::Tree;
use super::{Folder, damaged};
use crate::cipher::Sealed;
use crate::env::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::units::{
    CHUNK, ChunkNo, DataKeyId, Hash32, LineageId, MAX_VOLUME, PackId, SECTOR, SnapshotId, VolumeId, chunks_in,
};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The parameters of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSpec {
    /// Its id.
    pub id: SnapshotId,
    /// The lineage it belongs to.
    pub lineage: LineageId,
    /// The volume.
    pub volume: Option<VolumeId>,
    /// The volume's size in bytes.
    pub size: u64,
    /// The time of the point in time.
    pub time: Timestamp,
    /// The volume's epoch at the point in time.
    pub point: u32,
    /// The volume's map generation.
    pub map_generation: u32,
    /// The base: chunks that are not put are the same as there. Live, or deleted and kept by a ref. `None`: holes.
    pub base: Option<SnapshotId>,
    /// Data keys in use and their blobs: a `key` record is put for each that the log does not have yet.
    pub keys: Vec<(DataKeyId, Vec<u8>)>,
    /// The source of a copy, as free text.
    pub source: Option<String>,
}

/// Statistics of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Chunks of the snapshot that are not holes.
    pub chunks: u64,
    /// Chunks that differ from the base.
    pub changed: u64,
    /// Bytes of sectors put into packs.
    pub stored_bytes: u64,
    /// Packs put.
    pub packs: u64,
    /// Pages put, or already there.
    pub pages: u64,
}

/// A completed snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// Its manifest.
    pub manifest: Manifest,
    /// The manifest's hash, as in the log.
    pub hash: Hash32,
    /// Hash of the tree's root page.
    pub root: Hash32,
    /// Statistics.
    pub stats: Stats,
}

/// A snapshot being made. Dropped without [`SnapshotWriter::finish`], it leaves unreachable objects for a sweep.
pub struct SnapshotWriter {
    repo: Arc<Inner>,
    folder: Folder,
    spec: SnapshotSpec,
    base: Option<Arc<Located>>,
    base_tree: Option<Tree>,
    /// The staging directory, if there is one.
    staged_in: Option<PathBuf>,
    filling: Mutex<Filling>,
    /// Held by the thread that puts a pack. Taken after `filling`, if at all.
    sending: Mutex<Vec<(PackId, u64)>>,
    /// Complete packs that are not put yet, oldest first. Its lock is never held during a put.
    waiting: Mutex<VecDeque<Waiting>>,
    /// Notified when `waiting` has changed.
    moved: Condvar,
    finishing: Mutex<Finishing>,
}

/// Maximum number of complete packs that wait to be put: 4 GiB in the staging directory.
const WAITING_MAX: usize = 128;

/// A complete pack that is not put yet.
#[derive(Clone)]
struct Waiting {
    id: PackId,
    length: u32,
    /// Its bytes; `None`: it is staged.
    bytes: Option<Bytes>,
}

#[derive(Default)]
struct Filling {
    pack: Option<PackBuilder>,
    staging: Option<Staging>,
    changed: BTreeMap<u64, LeafEntry>,
    tags: BTreeMap<[u8; 4], DataKeyId>,
    stored_bytes: u64,
    /// Set by the first finish: no more chunks are accepted.
    closed: bool,
}

/// The state of an interrupted finish: a repeat continues with the same bytes.
#[derive(Default)]
struct Finishing {
    manifest: Option<(Manifest, Record)>,
    pages: Vec<(String, u64)>,
    /// It is registered as a running create.
    begun: bool,
    done: bool,
}

impl Repository {
    /// Begins a snapshot in this installation's folder. Replaces what a killed create of the same id left.
    ///
    /// # Errors
    /// [`Kind::Exists`] if it is completed already; [`Kind::Busy`] while it is being made; [`Kind::NotFound`] without
    /// its base.
    pub fn begin(&self, spec: SnapshotSpec) -> Result<SnapshotWriter> {
        self.begin_in(spec, None)
    }

    /// Like [`Repository::begin`], with a staging directory, which is created: chunks are copied there first, and
    /// [`SnapshotWriter::send_one`] puts them.
    ///
    /// # Errors
    /// As [`Repository::begin`]; what the operating system reports about the directory.
    pub fn begin_staged(&self, spec: SnapshotSpec, staging: &Path) -> Result<SnapshotWriter> {
        let writer = self.begin_in(spec, Some(staging))?;
        let made = Staging::create(staging, &writer.spec, &self.inner.env.boot_id)?;
        writer.filling.lock().staging = Some(made);
        Ok(writer)
    }

    /// Continues a snapshot from its staging directory.
    ///
    /// # Errors
    /// As [`Repository::begin`]; [`Kind::Integrity`] if the staging is damaged.
    pub fn resume(&self, staged: Staged) -> Result<SnapshotWriter> {
        let writer = self.begin_in(staged.spec().clone(), Some(staged.staging.folder()))?;
        writer.restore(staged)?;
        Ok(writer)
    }

    fn begin_in(&self, spec: SnapshotSpec, staging: Option<&Path>) -> Result<SnapshotWriter> {
        let folder = self.inner.own(spec.lineage)?;
        if spec.size == 0 || spec.size > MAX_VOLUME || !spec.size.is_multiple_of(512) {
            return Err(Error::new(
                Kind::Usage,
                format!("snapshot {}: {} is not a valid size of a volume", spec.id, spec.size),
            ));
        }
        let state = self.inner.settled_state(folder)?;
        if state.live.contains_key(&spec.id) || state.deleted.contains_key(&spec.id) {
            return Err(Error::new(Kind::Exists, format!("snapshot {} is already in the repository", spec.id)));
        }
        let base = spec.base.map(|id| self.inner.locate(spec.lineage, id)).transpose()?.map(Arc::new);
        if let Some(larger) = base.as_ref().map(|b| b.manifest.size).filter(|size| *size > spec.size) {
            let what = format!("snapshot {}: its base has {larger} bytes, the volume only {}", spec.id, spec.size);
            return Err(Error::new(Kind::Usage, what));
        }
        let mut tags = BTreeMap::new();
        for id in base.iter().flat_map(|b| b.manifest.keys.values()) {
            tags.insert(id.tag().0, *id);
        }
        let base_tree = base.as_ref().map(|b| self.inner.tree(b));
        let writer = SnapshotWriter {
            repo: self.inner.clone(),
            folder,
            spec,
            base,
            base_tree,
            staged_in: staging.map(Path::to_owned),
            filling: Mutex::new(Filling { tags, ..Filling::default() }),
            sending: Mutex::default(),
            waiting: Mutex::default(),
            moved: Condvar::new(),
            finishing: Mutex::default(),
        };
        self.inner.creates.lock().begin(writer.spec.id, folder, writer.base.clone())?;
        writer.finishing.lock().begun = true;
        if let Some(base) = writer.base.as_ref().filter(|b| b.folder == folder) {
            self.inner.take_hold(base)?;
        }
        // A manifest that no log record names was never committed: a killed create left it.
        self.inner.objects.delete(&folder.path("manifests", writer.spec.id))?;
        Ok(writer)
    }
}

impl Inner {
    /// Makes sure that the base of a create, which is registered by now, is not being swept: it is live, or was deleted
    /// and a sweep that has begun to delete keeps it.
    fn take_hold(&self, base: &Located) -> Result<()> {
        let id = base.manifest.snapshot;
        if self.own_state(base.folder)?.live.contains_key(&id) {
            return Ok(());
        }
        let doomed = self.creates.lock().dooms(base.folder, id);
        if doomed || self.objects.head(&base.folder.path("manifests", id))?.is_none() {
            return Err(Error::new(Kind::NotFound, format!("snapshot {id}, the base, is deleted")));
        }
        Ok(())
    }
}

impl SnapshotWriter {
    /// Returns the snapshot's id.
    #[must_use]
    pub const fn id(&self) -> SnapshotId {
        self.spec.id
    }

    /// Whether the repository is reached over a network: what fails may succeed later.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.repo.objects.is_remote()
    }

    /// Adds a chunk's sealed bytes: a whole chunk, zeros past the volume's end. What equals the base is not stored
    /// again. May be called from several threads; if a chunk is put twice, the last one counts.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a chunk past the end or of a wrong length; what the store reports when a pack is put.
    pub fn put_chunk(&self, chunk: ChunkNo, sealed: Sealed<'_>, key: DataKeyId) -> Result<()> {
        let bytes = sealed.bytes();
        if bytes.len() != CHUNK || chunk.0 >= chunks_in(self.spec.size) {
            let what = format!(
                "snapshot {}: chunk {chunk} with {} bytes is not part of this volume",
                self.spec.id,
                bytes.len()
            );
            return Err(Error::new(Kind::Usage, what));
        }
        let inside = usize::try_from(self.spec.size - chunk.offset()).unwrap_or(CHUNK).min(CHUNK);
        if bytes[inside.next_multiple_of(SECTOR).min(CHUNK)..].iter().any(|b| *b != 0) {
            let what = format!("snapshot {}: chunk {chunk} has bytes past the volume's end", self.spec.id);
            return Err(Error::new(Kind::Usage, what));
        }
        let map = map_of(bytes);
        let mut entry = LeafEntry { map, ..LeafEntry::default() };
        if !map.is_empty() {
            entry.hash = body_hash(bytes, map);
            entry.tag = key.tag();
            entry.length = stored_len(map);
        }
        let was = self.base_entry(chunk)?;
        if was.same_content(&entry) {
            let mut filling = self.filling()?;
            filling.note(&Note::Same(chunk))?;
            filling.changed.remove(&chunk.0);
            return Ok(());
        }
        self.store(chunk, entry, bytes, key)
    }

    /// Locks the state being filled, unless finish has taken it.
    fn filling(&self) -> Result<MutexGuard<'_, Filling>> {
        let filling = self.filling.lock();
        if filling.closed {
            let what = format!("snapshot {}: a chunk came after finish", self.spec.id);
            return Err(Error::new(Kind::InvalidState, what));
        }
        Ok(filling)
    }

    fn base_entry(&self, chunk: ChunkNo) -> Result<LeafEntry> {
        self.base_tree.as_ref().map_or_else(|| Ok(LeafEntry::default()), |tree| tree.entry(chunk))
    }

    /// Appends the chunk to the pack, and puts the pack when it is full.
    fn store(&self, chunk: ChunkNo, mut entry: LeafEntry, bytes: &[u8], key: DataKeyId) -> Result<()> {
        let mut filling = self.filling()?;
        if entry.is_hole() {
            filling.note(&Note::Hole(chunk))?;
            filling.changed.insert(chunk.0, entry);
            return Ok(());
        }
        if *filling.tags.entry(entry.tag.0).or_insert(key) != key {
            let what =
                format!("snapshot {}: data key {key} has the same tag as another one of this lineage", self.spec.id);
            return Err(Error::new(Kind::InvalidState, what).hint("give the volume a new data key"));
        }
        let Filling { pack, staging, .. } = &mut *filling;
        let rng = &*self.repo.env.rng;
        let pack = pack.get_or_insert_with(|| PackBuilder::new(PackId::draw(rng), self.folder.lineage));
        entry.offset = pack.append(chunk, entry.map, entry.tag, entry.hash, bytes)?;
        entry.pack = pack.id().0;
        if let Some(Err(err)) = staging.as_mut().map(|staging| stage(staging, pack, chunk, entry, key)) {
            pack.take_back(entry.offset);
            return Err(err);
        }
        let full = pack.is_full();
        filling.stored_bytes += u64::from(entry.length);
        filling.changed.insert(chunk.0, entry);
        if !full {
            return Ok(());
        }
        self.complete_pack(&mut filling)?;
        drop(filling);
        if self.staged_in.is_none() { self.send_all() } else { Ok(()) }
    }

    /// Completes the pack that is being filled: it waits to be put.
    fn complete_pack(&self, filling: &mut Filling) -> Result<()> {
        if self.waiting.lock().len() >= WAITING_MAX {
            let what = format!("snapshot {}: {WAITING_MAX} packs wait for the repository", self.spec.id);
            return Err(Error::new(Kind::NoSpace, what).hint("check the repository, then create another snapshot"));
        }
        let Filling { pack: filled, staging, .. } = filling;
        let Some(pack) = filled.as_ref().filter(|p| !p.is_empty()) else { return Ok(()) };
        let (id, bodies, footer) = (pack.id(), pack.bytes().len(), pack.footer());
        let length = (bodies + footer.len()) as u32;
        // It stays where it is until that has worked: the caller may try again.
        if let Some(staging) = staging {
            staging.write_pack(id, &footer, bodies as u64)?;
        }
        let pack = filled.take().filter(|_| staging.is_none());
        let bytes = pack.map(|pack| Bytes::from(pack.seal()));
        self.waiting.lock().push_back(Waiting { id, length, bytes });
        self.moved.notify_all();
        Ok(())
    }

    /// Puts the oldest complete pack. `false`: there is none.
    ///
    /// # Errors
    /// What the store reports: a repeat puts the same bytes. [`Kind::Integrity`] if its staged copy is damaged.
    pub fn send_one(&self) -> Result<bool> {
        let mut sent = self.sending.lock();
        let Some(next) = self.waiting.lock().front().cloned() else { return Ok(false) };
        let bytes = match (next.bytes, &self.staged_in) {
            (Some(bytes), _) => bytes,
            (None, Some(folder)) => Staging::read_pack(folder, next.id)?,
            (None, None) => return Err(Error::new(Kind::Failed, format!("pack {} is nowhere", next.id))),
        };
        self.repo.put_for(self.spec.id, &self.folder.path("packs", next.id), &bytes)?;
        sent.push((next.id, u64::from(next.length)));
        self.waiting.lock().pop_front();
        self.moved.notify_all();
        drop(sent);
        if let Some(Err(err)) = self.filling.lock().staging.as_mut().map(|s| s.note_put(next.id, next.length)) {
            // Not lost: whoever resumes puts it again.
            tracing::warn!("snapshot {}: {}", self.spec.id, err.line());
        }
        Ok(true)
    }

    fn send_all(&self) -> Result<()> {
        while self.send_one()? {}
        Ok(())
    }

    /// Returns how many complete packs are not put yet.
    pub fn backlog(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Waits until the backlog is `wanted`, at most for `patience`. Returns whether it is.
    pub fn await_backlog(&self, wanted: impl Fn(usize) -> bool, patience: Duration) -> bool {
        let mut waiting = self.waiting.lock();
        if !wanted(waiting.len()) {
            let _ = self.moved.wait_for(&mut waiting, patience);
        }
        wanted(waiting.len())
    }

    /// Stops using the staging directory, and makes it durable: the snapshot can be resumed, after a restart of the
    /// machine too.
    ///
    /// # Errors
    /// What the operating system reports: then it can be resumed only in this boot.
    pub fn suspend(&self) -> Result<()> {
        let mut filling = self.filling.lock();
        filling.closed = true;
        filling.staging.take().map_or(Ok(()), |mut staging| staging.close())
    }

    /// Takes over what an earlier process has staged and put.
    fn restore(&self, Staged { staging, notes }: Staged) -> Result<()> {
        let mut filling = self.filling.lock();
        let staged_in = staging.folder().to_owned();
        filling.staging = Some(staging);
        let put: BTreeMap<PackId, u32> = notes
            .iter()
            .filter_map(|note| if let Note::Put(pack, length) = note { Some((*pack, *length)) } else { None })
            .collect();
        for note in &notes {
            match note {
                Note::Body(chunk, entry, key) => {
                    filling.tags.insert(entry.tag.0, *key);
                    filling.stored_bytes += u64::from(entry.length);
                    filling.changed.insert(chunk.0, *entry);
                }
                Note::Hole(chunk) => drop(filling.changed.insert(chunk.0, LeafEntry::default())),
                Note::Same(chunk) => drop(filling.changed.remove(&chunk.0)),
                Note::Put(..) => {}
            }
        }
        for (id, bodies) in packs_of(&notes) {
            if let Some(length) = put.get(&id) {
                self.repo.announce(self.spec.id, &self.folder.path("packs", id));
                self.sending.lock().push((id, u64::from(*length)));
                continue;
            }
            // Only the last one can be incomplete; the others get the same footer again.
            self.complete_pack(&mut filling)?;
            filling.pack = Some(Staging::rebuild(&staged_in, (id, self.folder.lineage), &bodies)?);
        }
        if filling.pack.as_ref().is_some_and(PackBuilder::is_full) {
            self.complete_pack(&mut filling)?;
        }
        Ok(())
    }

    /// Completes the snapshot, in the order of docs/format.md, section 5: packs and pages durable and confirmed; the
    /// manifest put, read back and compared; key records; the log's `add`, which is the commit point. After an error it
    /// may be called again, and continues with the same bytes. No chunk can be put after the first call.
    ///
    /// # Errors
    /// What the store reports; [`Kind::Integrity`] if an object is missing or differs from what was put.
    pub fn finish(&self) -> Result<Completed> {
        let mut state = self.finishing.lock();
        if state.manifest.is_none() {
            let manifest = self.build(&mut state)?;
            let previous = self.base.as_ref().map_or_else(Hash32::default, |b| b.hash);
            let record = manifest.sign(self.folder, previous, &*self.repo.author()?.signer)?;
            state.manifest = Some((manifest, record));
        }
        let Some((manifest, record)) = state.manifest.clone() else {
            return Err(Error::new(Kind::Failed, format!("finish {}: no manifest", self.spec.id)));
        };
        let packs = self.confirm(&state.pages)?;
        self.check_base(&manifest, record.hash())?;
        self.commit(&record)?;
        state.done = true;
        let stats = Stats {
            chunks: manifest.chunks,
            changed: manifest.changed_chunks,
            stored_bytes: manifest.stored_bytes,
            packs,
            pages: state.pages.len() as u64,
        };
        self.repo.creates.lock().end(self.spec.id);
        Ok(Completed { root: manifest.root, hash: record.hash(), manifest, stats })
    }

    /// Checks that all objects of the base still exist: what was not copied is in them.
    fn check_base(&self, manifest: &Manifest, hash: Hash32) -> Result<()> {
        let Some(base) = &self.base else { return Ok(()) };
        let public_key = self.repo.author()?.signer.public_key();
        let all = Located { folder: self.folder, manifest: manifest.clone(), hash, public_key, live: true };
        self.repo.check_reach(&all).map_err(|e| {
            let base = base.manifest.snapshot;
            e.context(format!("base {base} of snapshot {}", self.spec.id))
                .hint("create another snapshot, which copies the whole volume")
        })
    }

    /// Puts the last pack and the pages; returns the manifest.
    fn build(&self, state: &mut Finishing) -> Result<Manifest> {
        let mut filling = self.filling.lock();
        filling.closed = true;
        self.complete_pack(&mut filling)?;
        drop(filling);
        self.send_all()?;
        let filling = self.filling.lock();
        state.pages.clear();
        let (root, chunks) = self.put_pages(&filling.changed, &mut state.pages)?;
        let mut folders = vec![self.folder.installation];
        for i in self.base.iter().flat_map(|b| b.manifest.folders.iter()) {
            if !folders.contains(i) {
                folders.push(*i);
            }
        }
        let spec = &self.spec;
        Ok(Manifest {
            format: Manifest::FORMAT,
            snapshot: spec.id,
            installation: self.folder.installation,
            volume: spec.volume,
            size: spec.size,
            root,
            depth: depth_of(spec.size),
            time: spec.time,
            point: spec.point,
            map_generation: spec.map_generation,
            parent: spec.base,
            keys: filling.tags.iter().map(|(tag, id)| (hex::encode(tag), *id)).collect(),
            folders,
            chunks,
            changed_chunks: filling.changed.len() as u64,
            stored_bytes: filling.stored_bytes,
            source: spec.source.clone(),
        })
    }

    /// Puts every page that differs from the base's, leaves first. Returns the root and the number of chunks that are
    /// not holes.
    fn put_pages(&self, changed: &BTreeMap<u64, LeafEntry>, put: &mut Vec<(String, u64)>) -> Result<(Hash32, u64)> {
        let mut chunks = self.base.as_ref().map_or(0, |b| b.manifest.chunks);
        let mut above: BTreeMap<u64, Hash32> = BTreeMap::new();
        let mut rest = changed.iter().peekable();
        while let Some(index) = rest.peek().map(|(chunk, _)| **chunk / FAN as u64) {
            let mut entries = match &self.base_tree {
                Some(tree) => tree.leaves(index)?,
                None => vec![LeafEntry::default(); FAN],
            };
            while let Some((chunk, entry)) = rest.next_if(|(chunk, _)| **chunk / FAN as u64 == index) {
                let slot = &mut entries[(*chunk % FAN as u64) as usize];
                chunks = chunks.wrapping_sub(u64::from(!slot.is_hole())).wrapping_add(u64::from(!entry.is_hole()));
                *slot = *entry;
            }
            above.insert(index, self.put_page(encode_leaf(index, &entries), put)?);
        }
        for level in 1..depth_of(self.spec.size) {
            // A root that the volume has outgrown becomes child 0 of a page of its own, changed or not.
            if self.base_tree.as_ref().is_some_and(|t| level >= t.depth()) && !above.contains_key(&0) {
                above.insert(0, self.base_tree.as_ref().map_or(Ok(Hash32::default()), |t| t.name_of(level - 1, 0))?);
            }
            above = self.put_level(level, &above, put)?;
        }
        let untouched = || self.base_tree.as_ref().map_or_else(Hash32::default, Tree::root);
        Ok((above.get(&0).copied().unwrap_or_else(untouched), chunks))
    }

    /// Puts the pages of `level` above the children that changed.
    fn put_level(
        &self,
        level: u8,
        below: &BTreeMap<u64, Hash32>,
        put: &mut Vec<(String, u64)>,
    ) -> Result<BTreeMap<u64, Hash32>> {
        let mut above = BTreeMap::new();
        let mut rest = below.iter().peekable();
        while let Some(index) = rest.peek().map(|(child, _)| **child / FAN as u64) {
            let mut children = match &self.base_tree {
                Some(tree) => tree.children(level, index)?,
                None => vec![Hash32::default(); FAN],
            };
            while let Some((child, name)) = rest.next_if(|(child, _)| **child / FAN as u64 == index) {
                children[(*child % FAN as u64) as usize] = *name;
            }
            above.insert(index, self.put_page(encode_interior(level, index, &children), put)?);
        }
        Ok(above)
    }

    fn put_page(&self, page: Option<Vec<u8>>, put: &mut Vec<(String, u64)>) -> Result<Hash32> {
        let Some(page) = page else { return Ok(Hash32::default()) };
        let name = Hash32::of(&page);
        let object = self.folder.path("pages", name);
        let length = page.len() as u64;
        self.repo.put_for(self.spec.id, &object, &Bytes::from(page))?;
        put.push((object, length));
        Ok(name)
    }

    /// Confirms that every pack and page exists, with its length. Returns the number of packs.
    fn confirm(&self, pages: &[(String, u64)]) -> Result<u64> {
        let packs = self.sending.lock().clone();
        let packs_put = packs.iter().map(|(id, length)| (self.folder.path("packs", id), *length));
        for (object, length) in packs_put.chain(pages.iter().cloned()) {
            let there = self.repo.objects.head(&object)?;
            if there != Some(length) {
                return Err(damaged(
                    &object,
                    0,
                    format_args!("{length} bytes were written, but {there:?} are present"),
                ));
            }
        }
        Ok(packs.len() as u64)
    }

    fn commit(&self, record: &Record) -> Result<()> {
        let object = self.folder.path("manifests", self.spec.id);
        self.repo.put_for(self.spec.id, &object, record.raw())?;
        if self.repo.objects.get(&object, RECORD_MAX)? != *record.raw() {
            return Err(damaged(&object, 0, "the manifest that was read back differs from the one written"));
        }
        let known = self.repo.own_state(self.folder)?;
        if known.live.get(&self.spec.id).is_some_and(|live| live.manifest == record.hash()) {
            return Ok(());
        }
        for (data_key, blob) in self.spec.keys.iter().filter(|(id, _)| !known.keys.contains_key(id)) {
            let entry = Entry::Key { data_key: *data_key, blob: blob.clone(), time: self.repo.env.now() };
            self.repo.append(self.folder, &entry)?;
        }
        let entry = Entry::Add { snapshot: self.spec.id, manifest: record.hash(), time: self.repo.env.now() };
        self.repo.append(self.folder, &entry)
    }

    /// Aborts the snapshot and deletes what it had put, unless it was completed. Pages that a live tree may share are
    /// left to the next sweep.
    ///
    /// # Errors
    /// What the store reports; a sweep deletes what is left then.
    pub fn abort(self) -> Result<()> {
        let own = self.repo.own_state(self.folder)?;
        if self.finishing.lock().done || own.live.contains_key(&self.spec.id) {
            return Ok(());
        }
        self.repo.objects.delete(&self.folder.path("manifests", self.spec.id))?;
        let sent = self.sending.lock();
        let waiting = self.waiting.lock();
        for id in sent.iter().map(|(id, _)| *id).chain(waiting.iter().map(|w| w.id)) {
            self.repo.objects.delete(&self.folder.path("packs", id))?;
        }
        self.staged_in.as_deref().map_or(Ok(()), super::staging::remove)
    }
}

impl Filling {
    fn note(&mut self, note: &Note) -> Result<()> {
        self.staging.as_mut().map_or(Ok(()), |staging| staging.note(note))
    }
}

/// Stages the body that was appended last to a pack.
fn stage(staging: &mut Staging, pack: &PackBuilder, chunk: ChunkNo, entry: LeafEntry, key: DataKeyId) -> Result<()> {
    // The first body brings the pack's header along.
    let from = if entry.offset as usize == super::pack::HEADER { 0 } else { entry.offset as usize };
    staging.write_pack(pack.id(), &pack.bytes()[from..], from as u64)?;
    staging.note(&Note::Body(chunk, entry, key))
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        let state = self.finishing.lock();
        if state.begun && !state.done {
            self.repo.creates.lock().end(self.spec.id);
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
