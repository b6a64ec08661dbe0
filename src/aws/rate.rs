//! Rates: of each principal's requests, and of each source's failures.

use crate::env::Env;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

/// Keys above which those that have not been used lately are forgotten.
const KEPT: usize = 8192;

/// A token bucket's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: NonZeroU32,
    /// Tokens that the bucket holds.
    pub burst: NonZeroU32,
}

impl Rate {
    /// A rate with a burst.
    #[must_use]
    pub const fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self { per_second, burst }
    }
}

/// Time since boot, which nobody can set.
#[derive(Clone)]
struct SinceBoot(Env);

impl Clock for SinceBoot {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Duration::from_millis(u64::try_from(self.0.clock.since_boot()).unwrap_or(0)).into()
    }
}

/// A token bucket for each key.
pub(super) struct Buckets<K: Hash + Eq + Clone>(RateLimiter<K, HashMapStateStore<K>, SinceBoot, NoOpMiddleware<Nanos>>);

impl<K: Hash + Eq + Clone> Buckets<K> {
    pub(super) fn new(rate: Rate, env: &Env) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        Self(RateLimiter::hashmap_with_clock(quota, SinceBoot(env.clone())))
    }

    /// Takes a token of this key's bucket. False: there is none.
    pub(super) fn take(&self, key: &K) -> bool {
        if self.0.len() > KEPT {
            self.0.retain_recent();
        }
        self.0.check_key(key).is_ok()
    }
}

/// Returns what counts as one source: an IPv4 address, or the /64 network of an IPv6 address, which is commonly one customer's
/// (RFC 6177).
pub(super) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Clock as _, Timestamp};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    struct Hand(AtomicI64);

    impl crate::env::Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }
        fn since_boot(&self) -> i64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_bucket_empties_and_fills_for_each_key() {
        let hand = Arc::new(Hand(AtomicI64::new(1000)));
        let env = Env { clock: hand.clone(), ..Env::system() };
        let of = |n| NonZeroU32::new(n).unwrap();
        let buckets = Buckets::new(Rate::new(of(2), of(3)), &env);
        let taken = |key| (0..10).filter(|_| buckets.take(key)).count();
        assert_eq!((taken(&"a"), taken(&"b")), (3, 3));
        hand.0.fetch_add(1000, Ordering::SeqCst);
        assert_eq!(taken(&"a"), 2);
        assert_eq!(hand.since_boot(), 2000);
    }

    #[test]
    fn forgetting_keys_does_not_refill_those_in_use() {
        let hand = Arc::new(Hand(AtomicI64::new(1000)));
        let env = Env { clock: hand.clone(), ..Env::system() };
        let one = NonZeroU32::MIN;
        let buckets = Buckets::new(Rate::new(one, one), &env);
        assert!((0..=KEPT as u32).all(|i| buckets.take(&i)));
        assert!(!buckets.take(&7), "in use");
        hand.0.fetch_add(60_000, Ordering::SeqCst);
        assert!(buckets.take(&7));
        assert!(buckets.0.len() < 10, "{} keys are kept", buckets.0.len());
    }

    #[test]
    fn a_source_is_an_address_or_a_network() {
        let of = |text: &str| source(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
