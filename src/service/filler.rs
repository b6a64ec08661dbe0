//! The background thread that fills a volume from its snapshot.

use super::settings::{BackgroundRate, Settings};
use crate::error::Error;
use crate::units::CHUNK;
use crate::volume::Volume;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Chunks to fill in a step, at least: 8 MiB.
const FILL_BATCH: usize = 16;
/// Chunks to fill in a step from afar, at most: 128 MiB.
const FILL_MOST: usize = 256;
/// A step from afar is made larger while it takes less than this,
const FILL_SHORT: Duration = Duration::from_millis(250);
/// and smaller if it takes more than this.
const FILL_LONG: Duration = Duration::from_secs(1);
/// Pause after a batch while clients wait for chunks themselves.
const FILL_YIELD: Duration = Duration::from_millis(50);
/// How soon a paused filling notices that it is resumed.
const FILL_LOOK: Duration = Duration::from_millis(500);
/// Pause after an error.
const FILL_RETRY: Duration = Duration::from_secs(5);

/// A running thread that fills a volume.
pub(super) struct Filler {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
}

impl Filler {
    /// Stops the thread and waits for it.
    pub(super) fn end(self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        let _ = self.thread.join();
    }
}

/// Starts a thread that fills a volume and calls `filled` once it is complete. `None`: the thread could not be started; the
/// volume's next user tries again.
pub(super) fn start(
    volume: Arc<Volume>,
    settings: Arc<Settings>,
    filled: impl FnOnce() + Send + 'static,
) -> Option<Filler> {
    let (id, stop) = (volume.id(), Arc::new((Mutex::new(false), Condvar::new())));
    let seen = stop.clone();
    let thread = std::thread::Builder::new().name("fill".to_owned()).spawn(move || {
        let (mut told, mut pace) = (Told::default(), Pace::default());
        let pause = |time: Duration| {
            let mut stopped = seen.0.lock();
            if !*stopped {
                let _ = seen.1.wait_for(&mut stopped, time);
            }
        };
        while !*seen.0.lock() {
            if settings.hydrate_rate() == BackgroundRate::Paused {
                pause(FILL_LOOK);
                continue;
            }
            let (touched, began) = (volume.first_touches(), Instant::now());
            let batch = if volume.is_filled_from_afar() { pace.batch(settings.hydrate_rate()) } else { FILL_BATCH };
            let step = volume.hydrate_while(batch, &|| !*seen.0.lock());
            pace.note(began.elapsed(), step.is_ok() && volume.first_touches() == touched);
            match step {
                Ok(step) if step.done => return filled(),
                Ok(step) => {
                    let whole = settings.hydrate_rate().time_for((step.chunks * CHUNK) as u64);
                    let mut rest = whole.saturating_sub(began.elapsed());
                    if volume.first_touches() != touched {
                        rest = rest.max(FILL_YIELD);
                    }
                    if !rest.is_zero() {
                        pause(rest);
                    }
                }
                Err(err) => {
                    if told.is_news(&err, volume.missing_chunks().len()) {
                        tracing::error!("fill {}: {}; will retry", volume.id(), err.line());
                    }
                    pause(FILL_RETRY);
                }
            }
        }
    });
    match thread {
        Ok(thread) => Some(Filler { stop, thread }),
        Err(err) => {
            tracing::error!("start a thread to fill {id}: {err}");
            None
        }
    }
}

/// How many chunks a step from afar fills. Many at once are faster, but a step must end soon when it is stopped, and clients
/// who wait for chunks themselves need the connection.
struct Pace(usize);

impl Default for Pace {
    fn default() -> Self {
        Self(FILL_BATCH)
    }
}

impl Pace {
    /// Returns the size of the next step: at a limited rate, not much more than a second's worth.
    fn batch(&self, rate: BackgroundRate) -> usize {
        match rate {
            BackgroundRate::PerSecond(bytes) => self.0.min((bytes as usize / CHUNK).max(FILL_BATCH)),
            BackgroundRate::Unlimited | BackgroundRate::Paused => self.0,
        }
    }

    /// Notes how long a step took. `alone`: it succeeded, and no client waited for chunks meanwhile.
    fn note(&mut self, took: Duration, alone: bool) {
        self.0 = if !alone {
            FILL_BATCH
        } else if took < FILL_SHORT {
            (self.0 * 2).min(FILL_MOST)
        } else if took > FILL_LONG {
            (self.0 / 2).max(FILL_BATCH)
        } else {
            self.0
        };
    }
}

/// What was last logged of a fill that fails. It is retried every few seconds, and finds a few more missing chunks each time.
#[derive(Default)]
struct Told {
    words: String,
    missing: usize,
    /// Missing chunks at the last attempt.
    before: usize,
}

impl Told {
    /// Returns whether to log a line: for a different failure, for twice as many missing chunks, and for their final number.
    fn is_news(&mut self, err: &Error, missing: usize) -> bool {
        let settled = missing == std::mem::replace(&mut self.before, missing) && missing != self.missing;
        let news = match missing {
            0 => self.words != err.line(),
            n => self.missing == 0 || n >= 2 * self.missing || settled,
        };
        if news {
            (self.words, self.missing) = (err.line(), missing);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn steps_from_afar_grow_while_they_are_short_and_nobody_waits() {
        let (mut pace, any) = (Pace::default(), BackgroundRate::Unlimited);
        let short = Duration::from_millis(100);
        let grown: Vec<_> = (0..6).map(|_| (pace.batch(any), pace.note(short, true)).0).collect();
        assert_eq!(grown, [16, 32, 64, 128, 256, 256]);
        pace.note(Duration::from_millis(500), true);
        assert_eq!(pace.batch(any), 256);
        assert_eq!(pace.batch(BackgroundRate::PerSecond(50 << 20)), 100);
        assert_eq!(pace.batch(BackgroundRate::PerSecond(1 << 20)), FILL_BATCH);
        pace.note(Duration::from_secs(3), true);
        assert_eq!(pace.batch(any), 128);
        pace.note(short, false);
        assert_eq!(pace.batch(any), FILL_BATCH);
        pace.note(Duration::from_secs(3), true);
        assert_eq!(pace.batch(any), FILL_BATCH, "the least");
    }

    #[test]
    fn a_filling_that_fails_again_and_again_is_logged_where_that_is_news() {
        let mut told = Told::default();
        let mut news = |words: &str, missing| told.is_news(&Error::new(Kind::Io, words), missing);
        let all = [16, 32, 48, 64, 80, 90, 90, 90].map(|n| news("missing", n));
        assert_eq!(all, [true, true, false, true, false, false, true, false]);
        assert!(news("the store fails", 0) && !news("the store fails", 0) && news("it fails otherwise", 0));
    }
}
