//! Whether a connection's thread asks its socket a few times more before it sleeps.
//!
//! Going to sleep and being woken costs more than a small request does, most of all in a virtual machine, where an idle
//! processor is given back to the host. So a thread whose client answers quickly looks again for [`LONGEST`] before it
//! sleeps. It does so only while that pays: after a wait that took longer it sleeps at once, until a wait was short again. And
//! at most one thread for every two processors does, so that none keeps the clients from running.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a thread looks again.
pub(super) const LONGEST: Duration = Duration::from_micros(50);

/// How many threads of a server may look again at once, and how many do.
pub(super) struct Spinners {
    most: usize,
    now: AtomicUsize,
}

impl Default for Spinners {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { most: processors / 2, now: AtomicUsize::new(0) }
    }
}

/// One connection's experience.
#[derive(Debug, Default)]
pub(super) struct Spin {
    /// Its last wait was short.
    pays: bool,
}

impl Spin {
    /// Looks again and again, by `look`, which answers whether it found something. `false`: nothing came, and it is time to
    /// sleep.
    pub(super) fn look<E>(
        &mut self,
        spinners: &Spinners,
        mut look: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        if !self.pays {
            return Ok(false);
        }
        if spinners.now.fetch_add(1, Ordering::Relaxed) >= spinners.most {
            spinners.now.fetch_sub(1, Ordering::Relaxed);
            return Ok(false);
        }
        let started = Instant::now();
        let found = loop {
            match look() {
                Ok(false) if started.elapsed() < LONGEST => std::hint::spin_loop(),
                other => break other,
            }
        };
        spinners.now.fetch_sub(1, Ordering::Relaxed);
        if matches!(found, Ok(false)) {
            self.pays = false;
        }
        found
    }

    /// A sleep of this length found something.
    pub(super) fn slept(&mut self, time: Duration) {
        self.pays = time < LONGEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Result<bool, ()> = Ok(true);

    #[test]
    fn it_looks_again_only_while_waits_are_short() {
        let spinners = Spinners { most: 1, now: AtomicUsize::new(0) };
        let mut spin = Spin::default();
        assert_eq!(spin.look(&spinners, || panic!("nothing is known yet")), Ok::<_, ()>(false));
        spin.slept(LONGEST);
        assert_eq!(spin.look(&spinners, || panic!("the last wait was long")), Ok::<_, ()>(false));
        spin.slept(LONGEST / 2);
        assert_eq!(spin.look(&spinners, || FINE), FINE);
        let mut left = 3;
        let third = || {
            left -= 1;
            Ok::<_, ()>(left == 0)
        };
        assert_eq!(spin.look(&spinners, third), FINE);
        assert_eq!(spin.look(&spinners, || Ok::<_, ()>(false)), Ok(false));
        assert_eq!(spin.look(&spinners, || panic!("it did not pay")), Ok::<_, ()>(false));
        assert_eq!(spinners.now.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn no_more_threads_look_than_may() {
        let spinners = Spinners { most: 1, now: AtomicUsize::new(0) };
        let (mut one, mut other) = (Spin { pays: true }, Spin { pays: true });
        let found = one.look(&spinners, || {
            assert_eq!(other.look(&spinners, || panic!("one looks already")), Ok::<_, ()>(false));
            FINE
        });
        assert_eq!(found, FINE);
        assert_eq!(other.look(&spinners, || FINE), FINE, "it has not lost its turn");
        assert_eq!(one.look(&spinners, || Err("lost")), Err("lost"));
        assert_eq!(spinners.now.load(Ordering::Relaxed), 0);
    }
}
