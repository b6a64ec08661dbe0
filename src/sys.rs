//! The operating system, where it takes `unsafe` or raw calls: locked memory, OFD locks, hole punching, peer
//! credentials.
//!
//! The only `unsafe` of coffer is in this file and the cipher's SIMD kernels.

#![allow(unsafe_code)]

pub mod draft;
mod process;

pub use process::ProcessStat;

use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Fills `out` with random bytes from the operating system (`getrandom(2)`).
///
/// # Panics
/// If the kernel has no random numbers, which Linux documents not to happen after boot: continuing would make weak
/// keys.
pub fn random(out: &mut [u8]) {
    let mut done = 0;
    while done < out.len() {
        match rustix::rand::getrandom(&mut out[done..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("getrandom(2) failed, no key can be generated: {e}"),
        }
    }
}

/// Disables core dumps of this process and ptrace of it by other processes of its user.
pub fn harden_process() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Root acting as another user, until dropped.
#[derive(Debug)]
pub struct ActingAs {
    groups: Vec<libc::gid_t>,
}

fn done(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_groups(groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: setgroups reads as many gids as the slice has.
    done(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })
}

impl ActingAs {
    /// Switches the effective user and group of all threads. Root keeps its real user id, so that the user may not
    /// trace or signal this process, and [`as_started`] works.
    ///
    /// # Errors
    /// What the operating system reports; a process that is not root gets EPERM.
    pub fn user(uid: u32, gid: u32) -> io::Result<Self> {
        let groups = rustix::process::getgroups()?.into_iter().map(|g| g.as_raw()).collect();
        let acting = Self { groups };
        set_groups(&[gid])?;
        // SAFETY: plain numbers; the C library sets the ids of all threads.
        done(unsafe { libc::setegid(gid) })?;
        // SAFETY: as above.
        done(unsafe { libc::seteuid(uid) })?;
        Ok(acting)
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        // SAFETY: plain numbers; the C library sets the ids of all threads.
        let back = unsafe { done(libc::seteuid(libc::getuid())).and_then(|()| done(libc::setegid(libc::getgid()))) };
        // If that fails, the process continues with fewer privileges and reports each operation that lacks them.
        let _ = back.and_then(|()| set_groups(&self.groups));
    }
}

/// Runs `act` on this thread with the identity that the process was started with: for a path from the command line,
/// outside the data directory. `act` must not start a thread.
pub fn as_started<R>(act: impl FnOnce() -> R) -> R {
    /// Sets this thread's effective user id; unlike the C library's function, the system call affects one thread.
    fn become_user(uid: rustix::process::Uid) -> bool {
        let keep = libc::uid_t::MAX;
        // SAFETY: plain numbers; no memory is involved.
        unsafe { libc::syscall(libc::SYS_setresuid, keep, uid.as_raw(), keep) == 0 }
    }
    struct Back(rustix::process::Uid);
    impl Drop for Back {
        fn drop(&mut self) {
            assert!(become_user(self.0), "a thread could not drop root's identity again");
        }
    }
    let (started, now) = (rustix::process::getuid(), rustix::process::geteuid());
    let _back = (started != now && become_user(started)).then_some(Back(now));
    act()
}

/// Raises this process's limit of open files to the hard limit, and returns it: a server holds a file and a socket per
/// volume.
pub fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

// ---------------------------------------------------------------------------------------------------------------------
// Locked memory

/// Bytes in a pool region. RLIMIT_MEMLOCK is 8 MiB on many machines, so regions are small.
const REGION: usize = 64 * 1024;
/// Bytes in a granule of a region.
const GRANULE: usize = 64;

struct Region {
    base: NonNull<u8>,
    /// One bit per granule; set: in use.
    used: [u64; REGION / GRANULE / 64],
    locked: bool,
}

// SAFETY: a region is plain memory that is accessed only under the pool's mutex; each pointer into it that was handed
// out belongs to one `Locked<T>`.
unsafe impl Send for Region {}

static POOL: Mutex<Vec<Region>> = Mutex::new(Vec::new());

impl Region {
    fn map() -> Self {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous};
        // SAFETY: an anonymous private mapping at an address of the kernel's choice aliases nothing.
        let raw = unsafe {
            mmap_anonymous(std::ptr::null_mut(), REGION, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        let base = raw
            .ok()
            .and_then(|p| NonNull::new(p.cast::<u8>()))
            .unwrap_or_else(|| std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; REGION]>()));
        // SAFETY: base..base+REGION was mapped above and is ours.
        let locked = unsafe {
            let ptr = base.as_ptr().cast();
            let _ = madvise(ptr, REGION, Advice::LinuxDontDump);
            let _ = madvise(ptr, REGION, Advice::LinuxDontFork);
            mlock(ptr, REGION).is_ok()
        };
        Self { base, used: [0; REGION / GRANULE / 64], locked }
    }

    /// Returns the first granule of a free run of `count`.
    fn find(&self, count: usize) -> Option<usize> {
        let mut run = 0;
        for i in 0..REGION / GRANULE {
            run = if self.used[i / 64] & (1 << (i % 64)) == 0 { run + 1 } else { 0 };
            if run == count {
                return Some(i + 1 - count);
            }
        }
        None
    }

    fn mark(&mut self, first: usize, count: usize, used: bool) {
        for i in first..first + count {
            if used {
                self.used[i / 64] |= 1 << (i % 64);
            } else {
                self.used[i / 64] &= !(1 << (i % 64));
            }
        }
    }
}

/// A value in the pool of locked, no-dump, no-fork pages; its bytes are wiped when it is dropped.
///
/// [`Locked::new`] moves the value in, so wiping the stack copy is up to the caller; build large values in place from
/// [`Locked::zeroed`].
pub struct Locked<T> {
    ptr: NonNull<T>,
}

// SAFETY: Locked owns its T like a Box does.
unsafe impl<T: Send> Send for Locked<T> {}
// SAFETY: as above; shared access gives &T only.
unsafe impl<T: Sync> Sync for Locked<T> {}

impl<T> Locked<T> {
    const COUNT: usize = size_of::<T>().div_ceil(GRANULE);
    const FITS: () = assert!(size_of::<T>() <= REGION && align_of::<T>() <= GRANULE && size_of::<T>() > 0);

    fn room() -> NonNull<T> {
        const { Self::FITS };
        let mut pool = POOL.lock();
        let at = pool.iter().enumerate().find_map(|(r, region)| region.find(Self::COUNT).map(|g| (r, g)));
        let (r, g) = at.unwrap_or_else(|| {
            pool.push(Region::map());
            (pool.len() - 1, 0)
        });
        pool[r].mark(g, Self::COUNT, true);
        // SAFETY: g * GRANULE is inside the region: g comes from find or is 0 in a fresh region.
        unsafe { pool[r].base.add(g * GRANULE).cast() }
    }

    /// Moves `value` into the pool.
    pub fn new(value: T) -> Self {
        let ptr = Self::room();
        // SAFETY: room() gave size_of::<T>() bytes, aligned to 64, used by nobody else.
        unsafe { ptr.as_ptr().write(value) };
        Self { ptr }
    }
}

impl<const N: usize> Locked<[u8; N]> {
    /// Returns N zero bytes in the pool, to be filled in place.
    #[must_use]
    pub fn zeroed() -> Self {
        let ptr = Self::room();
        // SAFETY: as in `new`; all-zero bytes are a valid [u8; N].
        unsafe { ptr.as_ptr().cast::<u8>().write_bytes(0, N) };
        Self { ptr }
    }
}

impl<T> std::ops::Deref for Locked<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: ptr holds a T from construction to drop.
        unsafe { self.ptr.as_ref() }
    }
}

impl<T> std::ops::DerefMut for Locked<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in deref, and &mut self is exclusive.
        unsafe { self.ptr.as_mut() }
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        // SAFETY: the T is dropped once, here; its bytes stay ours until the granules are freed below.
        let bytes = unsafe {
            self.ptr.as_ptr().drop_in_place();
            std::slice::from_raw_parts_mut(self.ptr.as_ptr().cast::<u8>(), Self::COUNT * GRANULE)
        };
        zeroize::Zeroize::zeroize(bytes);
        let mut pool = POOL.lock();
        let address = self.ptr.as_ptr() as usize;
        for region in pool.iter_mut() {
            let base = region.base.as_ptr() as usize;
            if (base..base + REGION).contains(&address) {
                region.mark((address - base) / GRANULE, Self::COUNT, false);
                return;
            }
        }
    }
}

/// Zeroed pages mapped from the kernel and unmapped on drop: an allocator would keep some of them, and a bound on
/// buffers would not bound memory. Excluded from core dumps, for they hold plaintext.
pub struct Pages {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned like a Box<[u8]>; it is plain memory with no tie to a thread.
unsafe impl Send for Pages {}
// SAFETY: shared access gives &[u8] only.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `len` bytes, rounded up to pages; `len` must not be 0.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
        let len = len.max(1).next_multiple_of(4096);
        // SAFETY: an anonymous private mapping at an address of the kernel's choice aliases nothing.
        let raw =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let base = raw.ok().and_then(|p| NonNull::new(p.cast::<u8>()));
        let layout = std::alloc::Layout::array::<u8>(len).unwrap_or(std::alloc::Layout::new::<u8>());
        let base = base.unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        // SAFETY: base..base+len was mapped above and is ours.
        let _ = unsafe { madvise(base.as_ptr().cast(), len, Advice::LinuxDontDump) };
        Self { base, len }
    }
}

/// One of the parts made by [`Pages::split`]; the mapping is freed with the last of them.
pub struct PagesPart {
    whole: Arc<Pages>,
    start: usize,
    len: usize,
}

impl Pages {
    /// Splits the pages into parts of these lengths, in order from the start, for several threads to write at once. A
    /// part is cut off where the pages end.
    #[must_use]
    pub fn split(self, lens: impl Iterator<Item = usize>) -> Vec<PagesPart> {
        let (whole, mut start) = (Arc::new(self), 0);
        let mut part = |len: usize| {
            let len = len.min(whole.len - start);
            start += len;
            PagesPart { whole: Arc::clone(&whole), start: start - len, len }
        };
        lens.map(&mut part).collect()
    }
}

impl PagesPart {
    /// Drops this part; the last part of a mapping returns the whole.
    #[must_use]
    pub fn give_up(self) -> Option<Pages> {
        Arc::into_inner(self.whole)
    }
}

impl std::ops::Deref for PagesPart {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: start..start+len is inside the mapping (see split), which lives as long as the Arc. The only
        // references into it go through the part that owns those bytes: split consumed the whole and handed out
        // disjoint ranges, and the Pages in the Arc is not dereferenced before it is the sole owner again.
        unsafe { std::slice::from_raw_parts(self.whole.base.as_ptr().add(self.start), self.len) }
    }
}

impl std::ops::DerefMut for PagesPart {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref; a part's bytes are its own, and &mut self is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.whole.base.as_ptr().add(self.start), self.len) }
    }
}

impl std::ops::Deref for Pages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: base..base+len is mapped, initialised (by the kernel, with zeros) and ours until drop.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and &mut self is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing borrows from it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Whether every page of the secrets pool is locked in memory (`mlock(2)` can fail at RLIMIT_MEMLOCK).
#[must_use]
pub fn secrets_are_locked() -> bool {
    drop(Locked::<[u8; 64]>::zeroed());
    POOL.lock().iter().all(|r| r.locked)
}

// ---------------------------------------------------------------------------------------------------------------------
// Processes

/// Returns the processor time used by all threads of a process, including those that have ended. `None` if there is no
/// such process.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<std::time::Duration> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: each call writes only to a local of its own type.
    let done = unsafe {
        libc::clock_getcpuclockid(libc::pid_t::try_from(pid).ok()?, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    let whole = u64::try_from(time.tv_sec).ok().filter(|_| done)?;
    Some(std::time::Duration::new(whole, u32::try_from(time.tv_nsec).ok()?))
}

/// Which of descriptors 0, 1 and 2 were closed when this process started, one bit each. Rust's runtime opens
/// `/dev/null` in their place before `main`, so that no file gets such a number; after that it is too late to check.
static CLOSED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// The loader calls the functions in this section before `main`.
#[used]
// SAFETY: the section holds pointers to functions of this form (the ELF gABI, "Initialization and Termination Functions").
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look_for_closed;

extern "C" fn look_for_closed() {
    for fd in 0..3 {
        // SAFETY: F_GETFD takes no pointer, and fails for a descriptor that is not open.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            CLOSED.fetch_or(1 << fd, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// Whether descriptor `fd` (0, 1 or 2) was closed when this process started: output written there is lost.
#[must_use]
pub fn was_closed(fd: u8) -> bool {
    CLOSED.load(std::sync::atomic::Ordering::Relaxed) & (1 << fd) != 0
}

// ---------------------------------------------------------------------------------------------------------------------
// Files

/// The mode of an OFD lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Any number of holders.
    Shared,
    /// One holder.
    Exclusive,
}

/// Takes an open-file-description lock (`fcntl(2)`, F_OFD_SETLK) on bytes `start..start+len` (len 0: to the end)
/// without waiting. The lock ends with the last descriptor of this open file. `Ok(false)`: there is a conflicting lock.
///
/// # Errors
/// What `fcntl` reports, other than a conflict.
pub fn ofd_lock(file: &File, kind: LockKind, start: u64, len: u64) -> io::Result<bool> {
    ofd(file, if kind == LockKind::Shared { libc::F_RDLCK } else { libc::F_WRLCK }, start, len)
}

/// Whether another open file description holds a lock on any of these bytes.
///
/// # Errors
/// What `fcntl` reports.
pub fn ofd_is_locked(file: &File, start: u64, len: u64) -> io::Result<bool> {
    let mut request = ofd_request(libc::F_WRLCK, start, len)?;
    // SAFETY: `request` is a valid flock that the kernel may write to for the length of the call; the descriptor is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(request.l_type) != libc::F_UNLCK)
}

/// A run of a file's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// Allocated and never written: it reads as zeros.
    pub unwritten: bool,
}

/// Returns the first extent of a file at or after `offset`, within `len` bytes (ioctl FS_IOC_FIEMAP). `None`: there is
/// none, or the file system does not support the ioctl.
///
/// # Errors
/// Any other error of the ioctl.
pub fn first_extent(file: &File, offset: u64, len: u64) -> io::Result<Option<Extent>> {
    /// `struct fiemap` with room for one `struct fiemap_extent` (linux/fiemap.h).
    #[repr(C)]
    #[derive(Default)]
    struct Request {
        start: u64,
        length: u64,
        flags: u32,
        mapped: u32,
        count: u32,
        reserved: u32,
        logical: u64,
        physical: u64,
        extent: u64,
        reserved64: [u64; 2],
        extent_flags: u32,
        reserved32: [u32; 3],
    }
    const FIEMAP: libc::c_ulong = 0xc020_660b; // _IOWR('f', 11, struct fiemap)
    const UNWRITTEN: u32 = 0x800;
    let mut request = Request { start: offset, length: len, count: 1, ..Request::default() };
    // SAFETY: the ioctl writes at most one extent, as `count` says, and there is room for it right after the header.
    if unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP as _, &raw mut request) } != 0 {
        let err = io::Error::last_os_error();
        return match err.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS) => Ok(None),
            _ => Err(err),
        };
    }
    Ok((request.mapped > 0).then(|| Extent {
        start: request.logical,
        end: request.logical.saturating_add(request.extent),
        unwritten: request.extent_flags & UNWRITTEN != 0,
    }))
}

/// Starts writing a range of dirty pages to the disk (`sync_file_range(2)`, SYNC_FILE_RANGE_WRITE). Neither waits nor
/// makes anything durable; it leaves less work to a later `fdatasync`.
///
/// # Errors
/// What the kernel reports; the next sync reports an error of the disk too.
pub fn start_writeback(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (file_offset(offset)?, file_offset(len)?);
    // SAFETY: the call takes no pointers, and the descriptor is open.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Releases a lock taken by [`ofd_lock`].
///
/// # Errors
/// What `fcntl` reports.
pub fn ofd_unlock(file: &File, start: u64, len: u64) -> io::Result<()> {
    ofd(file, libc::F_UNLCK, start, len).map(|_| ())
}

/// Converts an offset or length in a file to the kernel's type.
fn file_offset(n: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(n).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn ofd_request(kind: i32, start: u64, len: u64) -> io::Result<libc::flock> {
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: file_offset(start)?,
        l_len: file_offset(len)?,
        l_pid: 0,
    })
}

fn ofd(file: &File, kind: i32, start: u64, len: u64) -> io::Result<bool> {
    let request = ofd_request(kind, start, len)?;
    // SAFETY: `request` is a valid flock for the length of the call, and the descriptor is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &request) } == 0 {
        return Ok(true);
    }
    let err = io::Error::last_os_error();
    match err.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(err),
    }
}

/// The process at the other end of a Unix socket (`SO_PEERCRED`), as of when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerCred {
    /// Process id. 0: the process is in a PID namespace that is not visible from this one, such as the host's from a
    /// container.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
}

/// Returns the credentials of the process that connected `socket`.
///
/// # Errors
/// What `getsockopt(2)` reports; `PermissionDenied` for a user that is not mapped in this user namespace.
pub fn peer_cred(socket: impl AsFd) -> io::Result<PeerCred> {
    static SOME_USERS_ALONE: std::sync::OnceLock<Option<u32>> = std::sync::OnceLock::new();
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `cred`, and to `len`; both live for the length of the call.
    let code = unsafe {
        let (fd, to) = (socket.as_fd().as_raw_fd(), (&raw mut cred).cast());
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, to, &raw mut len)
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    let nobody = SOME_USERS_ALONE.get_or_init(|| {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        nobody_in(&read("/proc/self/uid_map"), &read("/proc/sys/kernel/overflowuid"))
    });
    known(&cred, *nobody)
}

/// Returns the overflow uid, which stands for every user not mapped in this user namespace. `None`: all users are
/// mapped.
fn nobody_in(uid_map: &str, overflow: &str) -> Option<u32> {
    let mut lines = uid_map.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let all = lines.any(|line| line == ["0", "0", "4294967295"]);
    (!all).then(|| overflow.trim().parse().unwrap_or(65534))
}

/// Returns the credentials, unless their uid is the overflow uid.
fn known(cred: &libc::ucred, nobody: Option<u32>) -> io::Result<PeerCred> {
    if cred.uid == u32::MAX || nobody == Some(cred.uid) {
        let why = "the peer's user has no id in this user namespace";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(PeerCred { pid: cred.pid.max(0), uid: cred.uid })
}

/// Requests `bytes` of socket buffer in both directions; the kernel may grant less.
pub fn socket_buffers(socket: impl AsFd, bytes: usize) {
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket.as_fd(), bytes);
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(socket.as_fd(), bytes);
}

/// Replaces this process by `command`, which inherits `sockets` as descriptors 3, 4, … (sd_listen_fds(3)). Returns only
/// on failure; the caller must then exit, for descriptors may have lost their owners.
pub fn exec_with_sockets(command: &mut std::process::Command, sockets: &[std::os::fd::OwnedFd]) -> io::Error {
    use std::os::unix::process::CommandExt;
    let first = 3;
    let above = first + sockets.len() as i32;
    // Duplicate all of them above the range first, so that none is overwritten before it is moved.
    let moved: Result<Vec<_>, _> = sockets.iter().map(|s| rustix::io::fcntl_dupfd_cloexec(s, above)).collect();
    let moved = match moved {
        Ok(moved) => moved,
        Err(err) => return err.into(),
    };
    for (place, socket) in (first..above).zip(&moved) {
        // SAFETY: both numbers are plain descriptors. Whatever owned `place` is closed by the exec that follows or, if
        // that fails, by process exit.
        if unsafe { libc::dup2(socket.as_raw_fd(), place) } < 0 {
            return io::Error::last_os_error();
        }
    }
    command.exec()
}

/// Adds a netlink socket to a multicast group (netlink(7), NETLINK_ADD_MEMBERSHIP).
///
/// # Errors
/// What `setsockopt(2)` reports.
pub fn join_netlink_group(socket: impl AsFd, group: u32) -> io::Result<()> {
    let size = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes at `group`, which lives for the length of the call; the descriptor is open.
    let code = unsafe {
        let (fd, value) = (socket.as_fd().as_raw_fd(), (&raw const group).cast());
        libc::setsockopt(fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, value, size)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets close-on-exec on every descriptor from 3 on, including inherited ones.
pub fn keep_descriptors_from_children() {
    // SAFETY: CLOSE_RANGE_CLOEXEC sets a flag of descriptors; none is closed, and no memory is read or written. Linux
    // before 5.11 does not know the flag, and there they are inherited.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The allocator

/// The program's memory allocator: the system's, but memory is wiped when it is freed, and so is what a growing or shrinking
/// allocation leaves behind.
///
/// Secrets pass through memory that no type of coffer owns: read buffers of hyper, records of rustls, a vector that grew, a
/// string that serde built. None of those libraries wipes what it frees. Memory that a C library allocates does not come from
/// here: aws-lc wipes its own, SQLite holds nothing in the clear.
pub struct Wiping;

// SAFETY: every allocation is the system allocator's, with the caller's layout; before it is freed, the caller has given up
// its `layout.size()` bytes, so writing to them is allowed. `realloc` is the default: it allocates, copies and frees through
// these functions.
unsafe impl std::alloc::GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        // SAFETY: the caller's obligations are the same.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: std::alloc::Layout) -> *mut u8 {
        // SAFETY: the caller's obligations are the same.
        unsafe { std::alloc::System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: ptr was allocated with this layout, and nobody uses its bytes any more. The barrier keeps the compiler from
        // dropping a write that it could see nobody read.
        unsafe {
            ptr.write_bytes(0, layout.size());
            std::hint::black_box(ptr);
            std::alloc::System.dealloc(ptr, layout);
        }
    }
}

#[cfg(test)]
#[path = "sys/sys_tests.rs"]
mod tests;
