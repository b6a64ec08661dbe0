//! `coffer demo`: a complete session in a scratch directory, with a real file system, comparing every file by hash.
//!
//! The volume is mounted through the kernel's nbd device if there is one, otherwise through nbdfuse and a loop device, which
//! is the host kernel's file system at native speed. Each step is timed; steps that this machine cannot do are listed.

mod left;
mod mount;

use super::args::Common;
use crate::error::{Error, IoContext, Kind, Result};
use crate::measure::session::Session;
use crate::units::ByteLen;
use clap::Args;
use left::Scratch;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// A text that is written into the demo's files and must not appear in the data directory.
const MARKER: &str = "coffer-demo-plaintext-marker-7f3a";

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Scratch directory; removed afterwards, unless --keep [default: a new one in /var/tmp]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the scratch directory, and print its path
    #[arg(long)]
    keep: bool,
    /// Amount of data to write
    #[arg(long, default_value = "256MiB", allow_hyphen_values = true, value_parser = super::args::size)]
    files: ByteLen,
}

/// Numbers and times the steps.
struct Steps {
    n: usize,
    skipped: Vec<String>,
}

impl Steps {
    fn run<T>(&mut self, what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.n += 1;
        let started = Instant::now();
        // A signal also ends the step's commands; their failure is not the cause then.
        let outcome = act().map_err(|e| go_on().err().unwrap_or(e)).and_then(|done| go_on().map(|()| done));
        let mark = if outcome.is_ok() { "done" } else { "FAILED" };
        super::render::line(format!("{:>2}. {what:<66} {mark} {:>7.2} s", self.n, started.elapsed().as_secs_f64()));
        outcome.map_err(|e| e.context(format!("step {} ({what})", self.n)))
    }

    fn cannot(&mut self, what: impl Into<String>) {
        self.skipped.push(what.into());
    }
}

/// Whether SIGINT, SIGTERM or SIGHUP was received. The demo then removes everything that it created.
static STOPPED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

fn go_on() -> Result<()> {
    if STOPPED.load(Ordering::Acquire) {
        return Err(Error::new(Kind::Interrupted, "the demo was interrupted"));
    }
    Ok(())
}

pub(super) fn run(_common: &Common, args: &DemoArgs) -> Result<u8> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, STOPPED.clone()).on(|| "catch signals".to_owned())?;
    }
    let scratch = Scratch::new(args.dir.as_deref(), args.keep)?;
    let started = Instant::now();
    let outcome = play(scratch.path(), args.files.0);
    if args.keep {
        super::render::line(format!("kept: {}", scratch.path().display()));
    }
    drop(scratch);
    let skipped = outcome?;
    for what in &skipped {
        super::render::line(format!("skipped on this machine: {what}"));
    }
    super::render::line(format!("Done in {:.1} s. Every file compared equal.", started.elapsed().as_secs_f64()));
    Ok(0)
}

fn play(scratch: &Path, bytes: u64) -> Result<Vec<String>> {
    let mut steps = Steps { n: 0, skipped: Vec::new() };
    let mut coffer = Session::new(scratch)?.apart();
    steps.run("coffer init: data directory, catalog, and a root key outside it", || coffer.init())?;
    steps.run("coffer key create --alias alias/prod", || {
        coffer.run(&["key", "create", "-q", "--alias", "alias/prod"])
    })?;
    let size = (bytes * 4).max(1 << 30);
    let size_text = size.to_string();
    let create = ["volume", "create", "-q", "--size", &size_text, "--key", "alias/prod", "--name", "web"];
    steps.run(
        &format!("coffer volume create --size {} --key alias/prod --name web", ByteLen(size).argument()),
        || coffer.run(&create),
    )?;
    steps.run("coffer serve", || coffer.serve())?;
    let snapshot = match mount::way() {
        Ok(way) => with_files(&mut steps, &coffer, way, bytes)?,
        Err(why) => {
            steps.cannot(format!("a mounted file system: {why}"));
            without_files(&mut steps, &coffer, bytes)?
        }
    };
    steps.run("coffer snapshot verify: signature, tree, hash of every chunk", || {
        coffer.run(&["snapshot", "verify", &snapshot])
    })?;
    steps.run("coffer volume delete web", || coffer.run(&["volume", "delete", "web"]))?;
    steps.run("stop the server", || coffer.stop())?;
    let found = steps.run("search the data directory for plaintext and plaintext keys", || coffer.search(MARKER))?;
    super::render::line(format!("    {found}"));
    if !Path::new("/dev/nbd0").exists() {
        steps.cannot("`coffer attach` (this kernel has no nbd module; tools/vm runs it in a guest)");
    }
    Ok(steps.skipped)
}

/// The session with a real file system. Returns the first snapshot's id.
fn with_files(steps: &mut Steps, coffer: &Session, way: mount::Way, bytes: u64) -> Result<String> {
    let web = coffer.scratch().join("web");
    let mut mounted =
        steps.run(&format!("mkfs.ext4 and mount, through {}", way.name()), || way.mount(coffer, "web", &web, true))?;
    let seeds = steps.run(&format!("write {} of files", ByteLen(bytes)), || write_files(&web, bytes))?;
    let expected = steps.run("hash every file, fsync", || {
        mount::sync(&web)?;
        hash_tree(&web.join("files"))
    })?;
    let snapshot = steps.run("coffer snapshot create web --wait, while files are written", || {
        under_load(&web, || coffer.line(&["snapshot", "create", "-q", "web", "--wait"]))
    })?;
    steps.run("change and delete files", || change_files(&web, seeds))?;
    steps.run("coffer snapshot create web --wait, again: only changed chunks", || {
        mount::sync(&web)?;
        coffer.line(&["snapshot", "create", "-q", "web", "--wait"])
    })?;
    steps.run("unmount, e2fsck -fn", || mounted.end(true))?;
    steps.run("coffer volume create --snapshot (usable at once)", || {
        coffer.run(&["volume", "create", "-q", "--snapshot", &snapshot, "--name", "web2"])
    })?;
    let web2 = coffer.scratch().join("web2");
    let mut again = steps.run("mount the restored volume", || way.mount(coffer, "web2", &web2, false))?;
    let restored = steps.run("hash every file of it", || hash_tree(&web2.join("files")))?;
    again.end(false)?;
    if restored != expected {
        return Err(Error::new(
            Kind::Integrity,
            format!("{1} of {0} files differ after the restore", expected.len(), differing(&expected, &restored)),
        ));
    }
    super::render::line(format!("    {} files, all equal to their state at the snapshot", expected.len()));
    for text in [coffer.text(&["snapshot", "list"])?, header_lines(&coffer.text(&["volume", "show", "web2"])?)] {
        text.lines().for_each(|l| super::render::line(format!("    {l}")));
    }
    Ok(snapshot)
}

/// The session if nothing can be mounted: data is copied with nbdcopy.
fn without_files(steps: &mut Steps, coffer: &Session, bytes: u64) -> Result<String> {
    let image = coffer.scratch().join("image");
    let back = coffer.scratch().join("back");
    steps.run(&format!("write {} through nbdcopy", ByteLen(bytes)), || {
        write_file(&image, bytes, 1)?;
        mount::tool("nbdcopy", &[image.as_os_str(), coffer.uri("web").as_ref()])
    })?;
    let snapshot = steps
        .run("coffer snapshot create web --wait", || coffer.line(&["snapshot", "create", "-q", "web", "--wait"]))?;
    steps.run("coffer volume create --snapshot", || {
        coffer.run(&["volume", "create", "-q", "--snapshot", &snapshot, "--name", "web2"])
    })?;
    steps.run("read it back and compare", || {
        mount::tool("nbdcopy", &[coffer.uri("web2").as_ref(), back.as_os_str()])?;
        let of = |p: &Path| std::fs::read(p).on(|| format!("read {}", p.display()));
        let (want, got) = (of(&image)?, of(&back)?);
        if got.get(..want.len()) == Some(&want[..]) {
            Ok(())
        } else {
            Err(Error::new(Kind::Integrity, "the restored volume differs from what was written"))
        }
    })?;
    Ok(snapshot)
}

fn header_lines(shown: &str) -> String {
    let wanted = ["volume", "key", "snapshot", "hydrated", "generation", "data key", "wrapped", "context"];
    shown.lines().filter(|l| wanted.iter().any(|w| l.starts_with(w))).collect::<Vec<_>>().join("\n")
}

/// Writes the marker, then pseudo-random bytes from a seed.
fn write_file(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    use std::io::Write;
    let what = || format!("write {}", path.display());
    let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path).on(what)?);
    file.write_all(MARKER.as_bytes()).on(what)?;
    let mut noise = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut buf = vec![0u8; 1 << 20];
    let mut left = bytes.saturating_sub(MARKER.len() as u64);
    while left > 0 {
        go_on()?;
        let n = left.min(buf.len() as u64) as usize;
        noise.fill(&mut buf[..n]);
        file.write_all(&buf[..n]).on(what)?;
        left -= n as u64;
    }
    file.into_inner().map_err(|e| Error::io(what(), e.into_error()))?.sync_all().on(what)
}

fn write_files(web: &Path, bytes: u64) -> Result<u64> {
    let folder = web.join("files");
    std::fs::create_dir(&folder).on(|| format!("create {}", folder.display()))?;
    let (big, small) = (8, 200u64);
    for i in 0..big {
        write_file(&folder.join(format!("big-{i}")), bytes / big * 9 / 10, i)?;
    }
    for i in 0..small {
        write_file(&folder.join(format!("small-{i:03}")), (bytes / 10 / small).max(64) + i, big + i)?;
    }
    Ok(big + small)
}

fn change_files(web: &Path, seed: u64) -> Result<()> {
    let folder = web.join("files");
    let at = |name: String| folder.join(name);
    write_file(&at("big-1".into()), 1 << 20, seed + 1)?;
    for i in 0..50 {
        std::fs::remove_file(at(format!("small-{i:03}"))).on(|| "delete a file".to_owned())?;
    }
    write_file(&at("new".into()), 3 << 20, seed + 2)
}

/// Runs `act` while another thread writes files that are not compared.
fn under_load<T>(web: &Path, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let (seen, folder) = (stop.clone(), web.join("load"));
    std::fs::create_dir_all(&folder).on(|| format!("create {}", folder.display()))?;
    let load = std::thread::Builder::new().spawn(move || {
        let mut n = 0u64;
        while !seen.load(Ordering::Acquire) {
            write_file(&folder.join(format!("load-{}", n % 4)), 1 << 20, 10_000 + n)?;
            n += 1;
        }
        Ok::<u64, Error>(n)
    });
    let load = load.on(|| "start a thread that writes files".to_owned())?;
    let outcome = act();
    stop.store(true, Ordering::Release);
    let written = load.join().map_err(|_| Error::new(Kind::Failed, "the load thread panicked"))??;
    if written == 0 {
        return Err(Error::new(Kind::Failed, "nothing was written while the snapshot was taken"));
    }
    outcome
}

fn hash_tree(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(folder).on(|| format!("list {}", folder.display()))? {
        let entry = entry.on(|| format!("list {}", folder.display()))?;
        let mut hasher = blake3::Hasher::new();
        let what = || format!("read {}", entry.path().display());
        let mut file = std::fs::File::open(entry.path()).on(what)?;
        std::io::copy(&mut file, &mut hasher).on(what)?;
        out.insert(entry.file_name().to_string_lossy().into_owned(), hasher.finalize().to_string());
    }
    Ok(out)
}

fn differing(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> usize {
    a.iter().filter(|(name, hash)| b.get(*name) != Some(hash)).count()
        + b.keys().filter(|n| !a.contains_key(*n)).count()
}
