//! `coffer attach` and `coffer detach`: the kernel's nbd device, by nbd-client, as root.

use super::client;
use super::{Common, render};
use crate::api::control;
use crate::env::Timestamp;
use crate::error::{Error, IoContext, Kind, Result};
use crate::service::api::{AttachmentInfo, Reply, Request};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub(super) fn attach(common: &Common, volume: &str, device: &Path) -> Result<u8> {
    let data = client::data_dir(common)?;
    if !control::daemon_answers(&data.control_socket()) {
        return Err(Error::new(Kind::Unreachable, format!("no server holds {}", data.path().display()))
            .hint("start one: `coffer serve`"));
    }
    if !device.exists() {
        return Err(Error::new(Kind::NotFound, format!("there is no device {}", device.display()))
            .hint("load the kernel's module: `modprobe nbd`"));
    }
    if in_use(device) {
        return Err(Error::new(Kind::Busy, format!("{} is in use", device.display())).hint("choose another device"));
    }
    end_attachments_before_boot(common, volume)?;
    let name = device.display().to_string();
    let reply = client::call(common, Request::AttachBegin { volume: volume.to_owned(), device: name })?;
    let Reply::Attachment(att) = &reply else { return Ok(render::reply(&reply, common)) };
    if let Err(err) = connect(att, device) {
        let _ = client::call(common, Request::AttachEnd { what: att.id.clone() });
        return Err(err);
    }
    Ok(render::reply(&reply, common))
}

/// Attachments outlive the server, but not the kernel that held the device: those from before this boot are ended.
fn end_attachments_before_boot(common: &Common, volume: &str) -> Result<()> {
    let Reply::Attachments { attachments } = client::call(common, Request::AttachmentList {})? else { return Ok(()) };
    let stale = attachments.iter().find(|a| {
        (a.name.as_deref() == Some(volume) || a.volume.to_string() == volume)
            && booted().is_some_and(|boot| a.created < boot)
            && !in_use(Path::new(&a.device))
    });
    match stale {
        Some(att) => client::call(common, Request::AttachEnd { what: att.id.clone() }).map(drop),
        None => Ok(()),
    }
}

/// When this kernel was started.
fn booted() -> Option<Timestamp> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds: i64 = stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(Timestamp(seconds * 1000))
}

fn connect(att: &AttachmentInfo, device: &Path) -> Result<()> {
    // The attachment's id names a lease and opens nothing: the socket admits its owner and root alone.
    let mut client = Command::new("nbd-client");
    // No -t: with one connection a request that takes longer would end it, and the device with it. No -persist either:
    // nbd-client hands the socket to the kernel by netlink and exits, so nobody would be there to connect again.
    client.arg("-unix").arg(&att.socket).arg(device).args(["-N", &att.export, "-b", "4096"]);
    let out = client
        .output()
        .map_err(|e| Error::io("run nbd-client", e).hint("install it (Debian: nbd-client), and run as root"))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let last = said.lines().last().unwrap_or("no reason given").to_owned();
        return Err(Error::new(Kind::Failed, format!("nbd-client could not attach {}: {last}", device.display())));
    }
    let until = Instant::now() + Duration::from_secs(10);
    while !in_use(device) {
        if Instant::now() > until {
            return Err(Error::new(Kind::Failed, format!("{} did not come up in 10 s", device.display())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether the kernel has a size for it: an nbd device without a server has none.
fn in_use(device: &Path) -> bool {
    let name = device.file_name().unwrap_or_default();
    let size = std::fs::read_to_string(Path::new("/sys/block").join(name).join("size")).unwrap_or_default();
    !matches!(size.trim(), "" | "0")
}

pub(super) fn detach(common: &Common, what: &str) -> Result<u8> {
    let reply = client::call(common, Request::AttachmentList {})?;
    let Reply::Attachments { attachments } = reply else {
        return Err(Error::new(Kind::Failed, "the daemon answered something else"));
    };
    let volume = match client::call(common, Request::VolumeShow { volume: what.to_owned() }) {
        Ok(Reply::Volume(v)) => Some(v.id),
        _ => None,
    };
    let found = attachments.iter().find(|a| a.id == what || a.device == what || Some(a.volume) == volume);
    let att = found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("{what} is not attached")).hint("see `coffer attachments`")
    })?;
    refuse_mounted(&att.device)?;
    let device = Path::new(&att.device);
    let mut flushed = Ok(());
    if in_use(device) {
        flushed = std::fs::File::open(device).and_then(|d| d.sync_all());
        let status = Command::new("nbd-client").arg("-d").arg(device).output().on(|| "run nbd-client -d".to_owned())?;
        if !status.status.success() {
            return Err(Error::new(Kind::Failed, format!("nbd-client could not detach {}", att.device)));
        }
    }
    let ended = client::call(common, Request::AttachEnd { what: att.id.clone() })?;
    // A device whose server died cannot be flushed any more; it must come off all the same.
    flushed.map_err(|e| {
        Error::io(format!("flush {}", att.device), e)
            .context(format!("{what} is detached, but what was not synced before is lost"))
    })?;
    if !common.json && !common.quiet {
        render::line(format!(
            "{} is detached from {}",
            att.name.clone().unwrap_or_else(|| att.volume.to_string()),
            att.device
        ));
        return Ok(0);
    }
    Ok(render::reply(&ended, common))
}

fn refuse_mounted(device: &str) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts").on(|| "read /proc/mounts".to_owned())?;
    let place = mounts.lines().find_map(|l| {
        let mut words = l.split(' ');
        (words.next() == Some(device)).then(|| words.next().unwrap_or_default().to_owned())
    });
    match place {
        None => Ok(()),
        Some(place) => Err(Error::new(Kind::Busy, format!("{device} is mounted on {place}")).hint("unmount it first")),
    }
}
