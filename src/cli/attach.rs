//! `coffer attach`, `detach` and `attachments`: volumes as disks of this machine. The kernel interface and the helper that
//! keeps its connections alive are in [`crate::attach`].

use super::args::Common;
use super::client;
use super::render;
use crate::api::control;
use crate::attach::helper::{self, Held, HelperPlace, Job, Up};
use crate::attach::machine::{Machine, claim};
use crate::attach::nbd::NbdDriver;
use crate::attach::{Device, Driver, MOST_CONNECTIONS};
use crate::error::{Error, IoContext, Kind, Result};
use crate::service::api::{AttachmentInfo, Reply, VolumeInfo};
use crate::service::operations::{
    Answer, AttachVolume, BreakLease, DescribeVolume, DetachVolume, ListAttachments, RenewAttachment,
};
use crate::service::volume_part;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Connections of a device by default, if the machine has as many processors.
const USUAL_CONNECTIONS: usize = 4;
/// How long `volume grow` waits until an attached kernel has the new size.
const GROWING: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// Volume, by name or id
    volume: String,
    /// Device, as /dev/nbd0 [default: a free one]
    device: Option<PathBuf>,
    /// Connections to the server [default: one per processor, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_CONNECTIONS)))]
    connections: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct DetachArgs {
    /// Volume, device or attachment; with --force also a snapshot
    what: String,
    /// Take the volume away from any client, attached or not, or end all exports of the snapshot: connections are closed,
    /// nothing is flushed; audited
    #[arg(long)]
    force: bool,
}

pub(super) fn attach(common: &Common, args: &AttachArgs) -> Result<u8> {
    let data = client::data_dir(common)?;
    if !control::daemon_answers(&data.control_socket()) {
        return Err(no_server(data.path()));
    }
    let wanted = args.device.as_deref().map(Device::at).transpose()?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(Kind::AccessDenied, "attach: only root can attach volumes").hint("run as root"));
    }
    if let Some(att) = attached(common, &args.volume)? {
        let device = Device::at(Path::new(&att.device))?;
        if belongs(device, &att) {
            return adopt(common, &att, device, wanted);
        }
        let Some(_held) = HelperPlace::of(device).hold()? else {
            return Err(Error::new(Kind::Busy, format!("{} is being attached as {device}", args.volume))
                .hint("try again in a moment"));
        };
        // Its device no longer exists: the machine was rebooted, or the device was disconnected.
        client::call(common, DetachVolume { what: att.id })?;
    }
    let (device, held) = choose(wanted)?;
    end_stale(common, device)?;
    let att = client::call(common, AttachVolume { volume: args.volume.clone(), device: device.to_string() })?;
    let usual = std::thread::available_parallelism().map_or(1, usize::from).min(USUAL_CONNECTIONS);
    let connections = args.connections.unwrap_or_else(|| u32::try_from(usual).unwrap_or(1));
    match helper::start(&job(&att, device, connections, false), held, &render::shown(&att)) {
        Ok(up) => Ok(show(common, att, &up, false)),
        Err(err) => {
            let _ = client::call(common, DetachVolume { what: att.id });
            Err(err.context(format!("attach {} as {device}", args.volume)))
        }
    }
}

fn no_server(data: &Path) -> Error {
    Error::new(Kind::Unreachable, format!("no server is running for {}", data.display()))
        .hint("start one with `coffer serve`")
}

fn job(att: &AttachmentInfo, device: Device, connections: u32, adopt: bool) -> Job {
    Job {
        device,
        attachment: att.id.clone(),
        socket: att.socket.clone(),
        export: Zeroizing::new(att.export.clone()),
        connections,
        adopt,
    }
}

/// Only the helper gets the token.
fn show(common: &Common, mut att: AttachmentInfo, up: &Up, again: bool) -> u8 {
    att.export.truncate(volume_part(&att.export).len());
    if common.json || common.quiet {
        return render::reply(&Reply::Attachment(att), common);
    }
    let new = if again { ", with a new helper" } else { "" };
    let connections =
        if up.connections == 1 { "1 connection".to_owned() } else { format!("{} connections", up.connections) };
    render::line(format!("{} is attached as {} ({}, {connections}){new}", render::shown(&att), att.device, att.id));
    0
}

/// Whether this kernel's device is that attachment's.
fn belongs(device: Device, att: &AttachmentInfo) -> bool {
    let machine = Machine::this();
    machine.is_connected(device) && machine.backend(device).is_none_or(|b| b == helper::backend(&att.id))
}

/// An attachment that still exists: if only its helper has ended, it gets a new one.
fn adopt(common: &Common, att: &AttachmentInfo, device: Device, wanted: Option<Device>) -> Result<u8> {
    let place = HelperPlace::of(device);
    let busy = |who: String| {
        Error::new(Kind::Busy, format!("{} is already attached as {device}{who}", render::shown(att)))
            .hint("detach it first with `coffer detach`")
    };
    if wanted.is_some_and(|w| w != device) {
        return Err(busy(String::new()));
    }
    let last = place.last().filter(|s| s.attachment == att.id);
    let Some(held) = place.hold()? else {
        return Err(busy(last.map_or_else(String::new, |s| format!(", helper pid {}", s.pid))));
    };
    let connections = last.map_or_else(|| Machine::this().queues(device), |s| s.connections);
    // The old token was lost with the old helper.
    let renewed = client::call(common, RenewAttachment { what: att.id.clone() })?;
    let job = job(&renewed, device, connections.clamp(1, MOST_CONNECTIONS), true);
    let up = helper::start(&job, held, &render::shown(att))?;
    Ok(show(common, renewed, &up, true))
}

fn all(common: &Common) -> Result<Vec<AttachmentInfo>> {
    client::call(common, ListAttachments {})
}

/// The attachment of a volume.
fn attached(common: &Common, volume: &str) -> Result<Option<AttachmentInfo>> {
    let found = all(common)?.into_iter().find(|a| a.name.as_deref() == Some(volume) || a.volume.to_string() == volume);
    Ok(found)
}

/// The requested device, or a free one, and the lock on it.
fn choose(wanted: Option<Device>) -> Result<(Device, Held)> {
    let machine = Machine::this();
    if let Some(device) = wanted {
        let busy = || Error::new(Kind::Busy, format!("{device} is in use")).hint("choose another device");
        let held = HelperPlace::of(device).hold()?.ok_or_else(busy)?;
        return if machine.is_free(device) { Ok((device, held)) } else { Err(busy()) };
    }
    // The kernel creates devices that do not exist yet.
    for device in (0..4096).map(Device).filter(|d| machine.is_free(*d)) {
        if let Some(held) = HelperPlace::of(device).hold()? {
            return Ok((device, held));
        }
    }
    Err(Error::new(Kind::Busy, "every nbd device is in use").hint("detach a volume"))
}

/// Attachments outlive the server, but not the kernel that held the device. The caller has locked the device, and it has no
/// server: whatever was attached there no longer is.
fn end_stale(common: &Common, device: Device) -> Result<()> {
    let name = device.to_string();
    let stale = all(common)?.into_iter().filter(|a| a.device == name);
    stale.into_iter().try_for_each(|a| client::call(common, DetachVolume { what: a.id }).map(drop))
}

/// The attachment of a volume or device, or of that id.
fn find(common: &Common, what: &str) -> Result<Option<AttachmentInfo>> {
    let attachments = all(common)?;
    let volume = client::call(common, DescribeVolume { volume: what.to_owned() }).ok().map(|v| v.id);
    Ok(attachments.into_iter().find(|a| a.id == what || a.device == what || Some(a.volume) == volume))
}

pub(super) fn detach(common: &Common, args: &DetachArgs) -> Result<u8> {
    let what = &args.what;
    let found = find(common, what)?;
    if args.force {
        return take_by_force(common, what, found.as_ref());
    }
    let att = found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("{what} is not attached"))
            .hint("see `coffer attachments`; use `coffer detach --force` to take a volume away from another client")
    })?;
    let device = Device::at(Path::new(&att.device))?;
    let flushed = if belongs(device, &att) { take_away(common, device)? } else { Ok(()) };
    let ended = client::call(common, DetachVolume { what: att.id.clone() })?;
    flushed.map_err(|e| e.context(format!("{what} is detached, but writes that were not synced are lost")))?;
    if common.json || common.quiet {
        return Ok(render::reply(&Reply::Attachment(ended), common));
    }
    render::line(format!("{} is detached from {device}", render::shown(&att)));
    Ok(0)
}

/// Flushes, ends the helper, disconnects. The inner result is that of the flush: a device that can no longer be flushed must
/// be disconnected all the same.
fn take_away(common: &Common, device: Device) -> Result<Result<()>> {
    let machine = Machine::this();
    machine.refuse_used(device)?;
    let data = client::data_dir(common)?;
    if !control::daemon_answers(&data.control_socket()) {
        // A flush would wait for hours for a server.
        return Err(no_server(data.path())
            .context(format!("{device} cannot be flushed"))
            .hint("start one with `coffer serve`, or use --force and lose writes that were not synced"));
    }
    let claimed = claim(device)?;
    let flushed = claimed.sync_all().on(|| format!("flush {device}"));
    // First, so that it does not reconnect the device.
    let _held = HelperPlace::of(device).end_helper()?;
    NbdDriver::open()?.disconnect(device)?;
    drop(claimed);
    let until = Instant::now() + Duration::from_secs(10);
    while !machine.is_free(device) {
        if Instant::now() >= until {
            return Err(Error::new(Kind::Busy, format!("{device} is disconnected, but a process still has it open"))
                .hint(format!("find that process with `fuser {device}` and end it, then detach again")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(flushed)
}

/// Takes the volume away from any client; a device of this machine gets errors from then on, mounted or not.
fn take_by_force(common: &Common, what: &str, att: Option<&AttachmentInfo>) -> Result<u8> {
    let machine = Machine::this();
    let is_ours = |d: &Device| machine.is_connected(*d) && machine.backend(*d).is_some_and(|b| helper::is_ours(&b));
    let device = match att {
        Some(att) => Device::at(Path::new(&att.device)).ok().filter(|d| belongs(*d, att)),
        // Its attachment was removed before, or belongs to another installation.
        None => Device::at(Path::new(what)).ok().filter(is_ours),
    };
    if let Some(device) = device.filter(|_| rustix::process::geteuid().is_root()) {
        let _held = HelperPlace::of(device).end_helper()?;
        NbdDriver::open()?.disconnect(device)?;
        if att.is_none() {
            let message = format!("{device} is disconnected; it belonged to no attachment of this installation");
            return Ok(render::reply(&Reply::Done { message, warning: None }, common));
        }
    }
    let done = client::call(common, BreakLease { what: what.to_owned() })?;
    Ok(render::reply(&done.into_reply(), common))
}

/// Attachments as the service knows them, with the state of their devices on this machine.
pub(super) fn attachments(common: &Common) -> Result<u8> {
    let all = all(common)?;
    if common.quiet {
        return Ok(render::reply(&Reply::Attachments { attachments: all }, common));
    }
    let live: Vec<_> =
        all.iter().map(|a| (a, Device::at(Path::new(&a.device)).ok().and_then(|d| look(d, a)))).collect();
    if common.json {
        render::attachments_json(&live);
    } else {
        render::attachments(&live);
    }
    Ok(0)
}

/// The running helper of an attachment.
fn look(device: Device, att: &AttachmentInfo) -> Option<helper::HelperState> {
    HelperPlace::of(device).living().filter(|s| s.attachment == att.id)
}

/// After a volume has grown: if it is attached to this machine, waits until the kernel has the new size.
pub(super) fn follow(common: &Common, volume: &VolumeInfo) -> Result<()> {
    if volume.holder.is_none() {
        return Ok(());
    }
    let Some(att) = all(common)?.into_iter().find(|a| a.volume == volume.id) else { return Ok(()) };
    let device = Device::at(Path::new(&att.device))?;
    let Some(state) = look(device, &att).filter(|_| belongs(device, &att)) else { return Ok(()) };
    let machine = Machine::this();
    let until = Instant::now() + GROWING;
    // Another user's helper cannot be notified; it checks periodically.
    let told = state.tell_of_size();
    while told && machine.size(device) < volume.size && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    if machine.size(device) < volume.size && !common.quiet {
        super::out::note(format!("coffer: {device} still has its old size; it is updated within 15 s"));
    }
    Ok(())
}
