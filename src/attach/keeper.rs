//! Keeps a device connected: detects ended connections, decides when to dial again, and offers sockets to the kernel.
//!
//! A state machine that is given the time and does one round of work per turn; [`super::helper`] waits between turns.
//! The keeper has a descriptor of each socket that the kernel uses, which shows the end of a connection, whether the
//! server went away or the kernel shut it down after a timeout.

use super::dial::{Dial, Dialed};
use super::{Device, Driver, NewDisk};
use crate::error::{Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The first pause after a failure; each further one is twice as long.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest pause while no one answers: dialing a dead socket costs next to nothing.
const NOBODY_THERE: Duration = Duration::from_secs(1);
/// The longest pause after a refusal that may be temporary: it costs the server work.
const REFUSED: Duration = Duration::from_secs(5);
/// The longest pause if the server does not know the export or rejects the token, which it records in its audit.
const UNKNOWN: Duration = Duration::from_secs(30);
/// The longest pause before a socket is offered again for which the kernel had no dead one.
const NOT_WANTED: Duration = Duration::from_secs(5);
/// After this long without a failure, the next one counts as the first.
const CALM: Duration = Duration::from_secs(5);
/// How often the server is asked for the volume's size.
const LOOK: Duration = Duration::from_secs(15);

/// A pause that grows with each failure.
#[derive(Debug, Clone, Copy)]
struct Pause {
    last: Option<Duration>,
    until: Instant,
}

impl Pause {
    const fn none(now: Instant) -> Self {
        Self { last: None, until: now }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    fn grow(&mut self, now: Instant, longest: Duration) {
        let last = self.last.filter(|_| now.saturating_duration_since(self.until) < CALM);
        let next = last.map_or(SHORTEST, |l| (l * 2).min(longest));
        *self = Self { last: Some(next), until: now + next };
    }
}

/// A connection of the device.
#[derive(Debug)]
enum Slot {
    /// No connection that the keeper knows of.
    Empty,
    /// A connection that the kernel has not taken yet.
    Offered(OwnedFd),
    /// A connection that the kernel uses.
    Held(OwnedFd),
}

impl Slot {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Empty => None,
            Self::Offered(fd) | Self::Held(fd) => Some(fd.as_fd()),
        }
    }
}

/// What woke the keeper.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// The kernel reported that a connection of the device has ended.
    pub link_dead: bool,
    /// Someone reported that the volume has a new size.
    pub size: bool,
}

/// The result of a turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Take another turn at this time, or when a socket ends.
    Wait(Instant),
    /// The device is no longer ours; the reason.
    Ended(String),
}

/// Keeps one device connected.
pub struct Keeper<D, S> {
    driver: D,
    server: S,
    device: Device,
    backend: String,
    slots: Vec<Slot>,
    /// Size in bytes, as the kernel knows it.
    size: u64,
    dialing: Pause,
    offering: Pause,
    looking: Instant,
    /// The last logged reason why there is no connection.
    said: Option<String>,
}

impl<D: Driver, S: Dial> Keeper<D, S> {
    /// Connects a device that has no server yet.
    ///
    /// # Errors
    /// What dialing and the kernel report.
    pub fn connect(
        mut driver: D,
        mut server: S,
        device: Device,
        backend: String,
        connections: u32,
        now: Instant,
    ) -> Result<Self> {
        let dialed = (0..connections).map(|slot| server.dial(slot)).collect::<Result<Vec<_>>>()?;
        let facts = dialed
            .first()
            .map(|d| d.facts)
            .ok_or_else(|| Error::new(Kind::Usage, "a device needs at least one connection"))?;
        let disk = NewDisk { size: facts.size, flags: facts.flags, backend: backend.clone() };
        driver.connect(device, &disk, &dialed.iter().map(|d| d.socket.as_fd()).collect::<Vec<_>>())?;
        let slots = dialed.into_iter().map(|d| Slot::Held(d.socket)).collect();
        Ok(Self::with(driver, server, device, backend, slots, facts.size, now))
    }

    /// Takes over a device that is already connected. Its sockets are unknown: all are dialed anew, and the kernel
    /// takes each one when the server has ended its predecessor.
    pub fn adopt(
        driver: D,
        server: S,
        device: Device,
        backend: String,
        connections: u32,
        size: u64,
        now: Instant,
    ) -> Self {
        let slots = (0..connections).map(|_| Slot::Empty).collect();
        Self::with(driver, server, device, backend, slots, size, now)
    }

    fn with(driver: D, server: S, device: Device, backend: String, slots: Vec<Slot>, size: u64, now: Instant) -> Self {
        let (dialing, offering) = (Pause::none(now), Pause::none(now));
        Self { driver, server, device, backend, slots, size, dialing, offering, looking: now + LOOK, said: None }
    }

    /// Returns how many connections the kernel is known to use.
    #[must_use]
    pub fn alive(&self) -> u32 {
        u32::try_from(self.slots.iter().filter(|s| matches!(s, Slot::Held(_))).count()).unwrap_or(u32::MAX)
    }

    /// Returns the device's size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Returns the sockets to wait for: the end of any of them requires a turn.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.slots.iter().filter_map(Slot::socket)
    }

    /// Does one round of work.
    pub fn turn(&mut self, now: Instant, news: News) -> Turn {
        self.forget_ended(now);
        if news.link_dead {
            self.offering = Pause::none(now);
        }
        if news.size {
            self.looking = now;
        }
        if self.is_whole() && now < self.looking {
            return Turn::Wait(self.looking);
        }
        match self.driver.is_connected(self.device, &self.backend) {
            Ok(true) => {}
            Ok(false) => return Turn::Ended("the device is disconnected".to_owned()),
            Err(err) => self.say(&err),
        }
        match self.work(now) {
            Ok(()) => {}
            Err(err) if err.kind() == Kind::InvalidState => return Turn::Ended(err.line()),
            Err(err) => {
                self.offering.grow(now, NOBODY_THERE);
                self.dialing.grow(now, NOBODY_THERE);
                self.say(&err);
            }
        }
        Turn::Wait(self.next(now))
    }

    fn work(&mut self, now: Instant) -> Result<()> {
        if self.offering.is_over(now) {
            self.offer_again(now)?;
        }
        if self.dialing.is_over(now) {
            self.fill(now)?;
        }
        if now >= self.looking {
            self.looking = now + LOOK;
            // A server that does not answer is dialed again when its connections end.
            if let Ok(facts) = self.server.look() {
                self.follow(facts.size);
            }
        }
        Ok(())
    }

    /// Whether the kernel has every connection.
    fn is_whole(&self) -> bool {
        self.slots.iter().all(|s| matches!(s, Slot::Held(_)))
    }

    /// Returns when the next turn is due if nothing happens before.
    fn next(&self, now: Instant) -> Instant {
        let has = |slot: fn(&Slot) -> bool| self.slots.iter().any(slot);
        let dial = has(|s| matches!(s, Slot::Empty)).then_some(self.dialing.until);
        let offer = has(|s| matches!(s, Slot::Offered(_))).then_some(self.offering.until);
        [dial, offer].into_iter().flatten().fold(self.looking, Instant::min).max(now)
    }

    /// Forgets connections that have ended, whoever uses them. If the server keeps ending them at once, dialing slows
    /// down.
    fn forget_ended(&mut self, now: Instant) {
        let mut some = false;
        for slot in &mut self.slots {
            if slot.socket().is_some_and(has_ended) {
                *slot = Slot::Empty;
                some = true;
            }
        }
        if some {
            self.dialing.grow(now, NOBODY_THERE);
        }
    }

    /// Offers sockets again: the kernel may not have noticed a dead connection when it was offered a new one.
    fn offer_again(&mut self, now: Instant) -> Result<()> {
        for slot in &mut self.slots {
            let Slot::Offered(socket) = slot else { continue };
            if !self.driver.replace(self.device, &self.backend, socket.as_fd())? {
                self.offering.grow(now, NOT_WANTED);
                return Ok(());
            }
            if let Slot::Offered(socket) = std::mem::replace(slot, Slot::Empty) {
                *slot = Slot::Held(socket);
            }
        }
        Ok(())
    }

    /// Dials for every empty slot, until the first failure.
    fn fill(&mut self, now: Instant) -> Result<()> {
        for i in 0..self.slots.len() {
            if !matches!(self.slots[i], Slot::Empty) {
                continue;
            }
            let number = u32::try_from(i).unwrap_or(u32::MAX);
            let Dialed { socket, facts } = match self.server.dial(number) {
                Ok(dialed) => dialed,
                Err(err) => {
                    let longest = match err.kind() {
                        Kind::Unreachable => NOBODY_THERE,
                        Kind::NotFound | Kind::AccessDenied => UNKNOWN,
                        _ => REFUSED,
                    };
                    self.dialing.grow(now, longest);
                    self.say(&err);
                    return Ok(());
                }
            };
            if self.driver.replace(self.device, &self.backend, socket.as_fd())? {
                self.slots[i] = Slot::Held(socket);
            } else {
                self.slots[i] = Slot::Offered(socket);
                self.offering = Pause::none(now);
                self.offering.grow(now, NOT_WANTED);
            }
            self.follow(facts.size);
        }
        if self.is_whole() && self.said.take().is_some() {
            tracing::info!("{}: all {} connections are restored", self.device, self.slots.len());
        }
        Ok(())
    }

    /// Follows the growth of the volume; a device never shrinks under its file system. A size that the kernel refuses
    /// is offered again later, and ends nothing.
    fn follow(&mut self, size: u64) {
        if size <= self.size {
            return;
        }
        match self.driver.resize(self.device, &self.backend, size) {
            Ok(()) => {
                tracing::info!("{}: size changed to {size} bytes (was {})", self.device, self.size);
                self.size = size;
            }
            Err(err) => self.say(&err),
        }
    }

    /// Logs each reason once, not for each attempt.
    fn say(&mut self, err: &Error) {
        let line = err.line();
        if self.said.as_ref() != Some(&line) {
            tracing::warn!("{}: {line}", self.device);
            self.said = Some(line);
        }
    }
}

/// Whether a socket's peer is gone, or the kernel has shut it down.
fn has_ended(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
