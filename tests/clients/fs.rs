//! A kernel file system on a volume: nbdfuse, a loop device, ext4; a snapshot under load, and the volume made from it.

use super::*;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A volume as a file, and the file system in it once mounted. Dropping it unmounts both.
struct Mounted {
    file: PathBuf,
    at: PathBuf,
    fuse: Option<Child>,
    mounted: bool,
}

impl Mounted {
    fn show(scratch: &Scratch, volume: &str) -> Self {
        let (folder, at) = (scratch.path(&format!("{volume}.fuse")), scratch.path(&format!("{volume}.mnt")));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(&at).unwrap();
        let file = folder.join("volume");
        std::fs::write(&file, "").unwrap();
        let child = Command::new("nbdfuse").arg(&file).arg(scratch.uri(volume)).stdin(Stdio::null()).spawn().unwrap();
        let mut shown = Self { file, at, fuse: Some(child), mounted: false };
        let file = shown.file.clone();
        wait_until("nbdfuse shows the volume", || {
            let ended = shown.fuse.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "nbdfuse ended: {ended:?}");
            std::fs::metadata(&file).is_ok_and(|m| m.len() > 0)
        });
        shown
    }

    fn mount(&mut self) {
        good(run("mount", &["-t", "ext4", "-o", "loop"]).arg(&self.file).arg(&self.at));
        self.mounted = true;
    }

    fn unmount(&mut self) {
        good(Command::new("umount").arg(&self.at));
        self.mounted = false;
    }

    /// Runs e2fsck with these flags; returns its exit code.
    fn fsck(&self, flags: &str) -> i32 {
        let out = output(run("e2fsck", &["-f", flags]).arg(&self.file));
        println!("e2fsck {flags}: {out:?}");
        out.code
    }

    fn sync(&self) {
        rustix::fs::syncfs(std::fs::File::open(&self.at).unwrap()).unwrap();
    }

    fn end(mut self) {
        self.take_away();
    }

    fn take_away(&mut self) {
        if std::mem::take(&mut self.mounted) {
            output(Command::new("umount").arg(&self.at));
        }
        if let Some(mut fuse) = self.fuse.take() {
            // The loop device closes the file a little after its file system was unmounted.
            wait_until("nbdfuse's file is unmounted", || output(Command::new("umount").arg(&self.file)).code == 0);
            fuse.wait().unwrap();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return self.take_away();
        }
        output(run("umount", &["-l"]).arg(&self.at));
        output(run("umount", &["-l"]).arg(&self.file));
        if let Some(mut fuse) = self.fuse.take() {
            let _ = fuse.kill();
            let _ = fuse.wait();
        }
    }
}

fn can_mount() -> bool {
    if !rustix::process::geteuid().is_root() {
        return skip("root");
    }
    if ["/dev/fuse", "/dev/loop-control"].iter().any(|dev| !Path::new(dev).exists()) {
        return skip("/dev/fuse and loop devices");
    }
    ["nbdfuse", "mkfs.ext4", "e2fsck", "mount"].iter().all(|tool| requires(tool))
}

#[test]
fn a_file_system_is_written_snapshotted_under_load_and_restored() {
    if !can_mount() {
        return;
    }
    let s = with_volume("192MiB");
    let _served = s.serve();
    let mut disk = Mounted::show(&s, "web");
    good(run("mkfs.ext4", &["-q", "-F"]).arg(&disk.file));
    disk.mount();
    let stable: Vec<_> = (0..40u64).map(|i| (format!("stable-{i}"), noise(i, 4000 + i as usize * 9973))).collect();
    stable.iter().for_each(|(name, data)| std::fs::write(disk.at.join(name), data).unwrap());
    disk.sync();

    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let snapshot = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let n = written.fetch_add(1, Ordering::Relaxed);
                let file = disk.at.join(format!("load-{}", n % 7));
                std::fs::write(&file, noise(n, 300_000)).unwrap();
                std::fs::File::open(&file).unwrap().sync_all().unwrap();
            }
        });
        wait_until("the load runs", || written.load(Ordering::Relaxed) > 3 || load.is_finished());
        let before = written.load(Ordering::Relaxed);
        let snapshot = s.id(&["snapshot", "create", "web", "--wait"]);
        wait_until("the load went on", || written.load(Ordering::Relaxed) > before + 1 || load.is_finished());
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap();
        snapshot
    });
    // Changes after the snapshot must not be in it.
    std::fs::write(disk.at.join("stable-3"), "changed since").unwrap();
    std::fs::write(disk.at.join("later"), "later").unwrap();
    disk.unmount();
    assert_eq!(disk.fsck("-n"), 0);
    disk.end();

    s.ok(&["snapshot", "verify", &snapshot]);
    s.ok(&["volume", "create", "--snapshot", &snapshot, "--name", "copy"]);
    let mut copy = Mounted::show(&s, "copy");
    // Taken while it was mounted: the journal has to be replayed (1: something was corrected), and then all is well.
    assert!(matches!(copy.fsck("-p"), 0 | 1));
    assert_eq!(copy.fsck("-n"), 0);
    copy.mount();
    for (name, data) in &stable {
        assert!(std::fs::read(copy.at.join(name)).unwrap() == *data, "{name} differs");
    }
    assert!(!copy.at.join("later").exists());
    copy.unmount();
    copy.end();

    // And the first volume has the later changes.
    let mut disk = Mounted::show(&s, "web");
    disk.mount();
    assert_eq!(std::fs::read(disk.at.join("stable-3")).unwrap(), b"changed since");
    assert_eq!(std::fs::read(disk.at.join("later")).unwrap(), b"later");
    disk.unmount();
    disk.end();
}
