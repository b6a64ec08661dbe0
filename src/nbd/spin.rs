//! Adaptive busy-polling of a connection's socket.
//!
//! Sleeping and waking up cost more than a small request, most of all in a virtual machine, which gives an idle
//! processor back to the host. So a thread whose client responds quickly busy-polls for up to [`LONGEST`] before it
//! sleeps. It does so only while that pays: after a longer wait it sleeps at once, until a wait was short again.
//!
//! While more connection threads are awake, itself included, than half the processors, it yields between its polls: by
//! the time it runs again there is more to read, at a lower cost per request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longest busy-poll before sleeping.
pub(super) const LONGEST: Duration = Duration::from_micros(50);

/// How many of a server's connection threads may be awake for one of them to spin without yielding, and how many are.
pub(super) struct Spinners {
    most: usize,
    awake: AtomicUsize,
}

impl Spinners {
    /// Called when a connection's thread starts or wakes up.
    pub(super) fn wakes(&self) {
        self.awake.fetch_add(1, Ordering::Relaxed);
    }

    /// Called when it sleeps or ends.
    pub(super) fn sleeps(&self) {
        self.awake.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether few are awake.
    pub(super) fn is_quiet(&self) -> bool {
        self.awake.load(Ordering::Relaxed) <= self.most
    }
}

impl Default for Spinners {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { most: processors / 2, awake: AtomicUsize::new(0) }
    }
}

/// The polling state of a connection.
#[derive(Debug, Default)]
pub(super) struct Spin {
    /// Its last wait was short.
    pays: bool,
}

impl Spin {
    /// Calls `look` until it returns true or fails, for up to [`LONGEST`] by the clock `now`. `false`: nothing came,
    /// and it is time to sleep.
    pub(super) fn look<E>(
        &mut self,
        spinners: &Spinners,
        now: impl Fn() -> Instant,
        mut look: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        if !self.pays {
            return Ok(false);
        }
        let started = now();
        loop {
            match look() {
                Ok(false) if now() - started >= LONGEST => {
                    self.pays = false;
                    return Ok(false);
                }
                Ok(false) if spinners.is_quiet() => std::hint::spin_loop(),
                Ok(false) => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    /// Records that a sleep of this length ended with input.
    pub(super) fn slept(&mut self, time: Duration) {
        self.pays = time < LONGEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Result<bool, ()> = Ok(true);

    /// A clock that advances by a quarter of the limit each time it is read.
    fn ticking() -> impl Fn() -> Instant {
        let (start, looks) = (Instant::now(), std::cell::Cell::new(0));
        move || {
            looks.set(looks.get() + 1);
            start + LONGEST / 4 * looks.get()
        }
    }

    fn quiet() -> Spinners {
        Spinners { most: 1, awake: AtomicUsize::new(1) }
    }

    #[test]
    fn it_looks_again_only_while_waits_are_short() {
        let spinners = quiet();
        let mut spin = Spin::default();
        assert_eq!(spin.look(&spinners, ticking(), || panic!("nothing is known yet")), Ok::<_, ()>(false));
        spin.slept(LONGEST);
        assert_eq!(spin.look(&spinners, ticking(), || panic!("the last wait was long")), Ok::<_, ()>(false));
        spin.slept(LONGEST / 2);
        assert_eq!(spin.look(&spinners, ticking(), || FINE), FINE);
        let mut left = 3;
        let third = || {
            left -= 1;
            Ok::<_, ()>(left == 0)
        };
        assert_eq!(spin.look(&spinners, ticking(), third), FINE);
        assert_eq!(spin.look(&spinners, ticking(), || Ok::<_, ()>(false)), Ok(false));
        assert_eq!(spin.look(&spinners, ticking(), || panic!("it did not pay")), Ok::<_, ()>(false));
        spin.slept(LONGEST / 2);
        assert_eq!(spin.look(&spinners, ticking(), || Err("lost")), Err("lost"));
    }

    #[test]
    fn where_threads_compete_others_run_between_the_looks() {
        let spinners = quiet();
        spinners.wakes();
        let mut spin = Spin { pays: true };
        let mut looks = 0;
        let third = || {
            looks += 1;
            Ok::<_, ()>(looks == 3)
        };
        assert_eq!(spin.look(&spinners, ticking(), third), FINE);
        assert_eq!(spin.look(&spinners, ticking(), || Ok::<_, ()>(false)), Ok(false));
        assert_eq!(spin.look(&spinners, ticking(), || panic!("it did not pay")), Ok::<_, ()>(false));
    }
}
