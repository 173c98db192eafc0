//! How long a cache is waited for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a cache may cost in all, beyond what it has spared.
pub(crate) const BUDGET: Duration = Duration::from_secs(2);

/// Whether something comes from a cache, for whoever waits for it.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Bytes that came.
    bytes: AtomicU64,
    /// Bytes that are to come in all, once that is known.
    expected: AtomicU64,
    /// Milliseconds that making the layers took whoever made them, once that is known.
    worth: AtomicU64,
    /// Threads that are waiting for the cache, and those that are at work.
    waiting: AtomicUsize,
    working: AtomicUsize,
}

/// One thread that is counted.
pub(crate) struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pulse {
    pub(crate) fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn expect(&self, bytes: u64, worth: Duration) {
        self.worth.store(u64::try_from(worth.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.expected.store(self.bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    /// Bytes that came, and that are to come in all.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.expected.load(Ordering::Relaxed))
    }

    /// How long making the layers took.
    pub(crate) fn worth(&self) -> Duration {
        Duration::from_millis(self.worth.load(Ordering::Relaxed))
    }

    /// Waits for the cache until this is dropped.
    pub(crate) fn wait(&self) -> Counted<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Counted(&self.waiting)
    }

    /// Works on what came until this is dropped.
    pub(crate) fn work(&self) -> Counted<'_> {
        self.working.fetch_add(1, Ordering::Relaxed);
        Counted(&self.working)
    }
}

/// Looks at a pulse now and then.
pub(crate) struct Watch<'a> {
    pulse: &'a Pulse,
    /// What may still be spent.
    allowance: Duration,
    begin: Instant,
    last: Instant,
    bytes: u64,
    /// How long nothing has come.
    stalled: Duration,
    /// How long the cache was waited for, work on what came left out.
    waited: Duration,
    /// The bytes that had come after such a time, over the last two seconds of it.
    recent: VecDeque<(Duration, u64)>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(pulse: &'a Pulse, allowance: Duration) -> Self {
        let now = Instant::now();
        Self {
            pulse,
            allowance,
            begin: now,
            last: now,
            bytes: 0,
            stalled: Duration::ZERO,
            waited: Duration::ZERO,
            recent: VecDeque::from([(Duration::ZERO, 0)]),
        }
    }

    /// Why the cache is not worth waiting for any longer, if it is not: nothing came for as long as it may cost; or, at the speed of
    /// the last two seconds, the rest takes longer than making the layers; or it took as long as that already, and is not about to end.
    pub(crate) fn look(&mut self, now: Instant) -> Option<String> {
        let (bytes, expected) = self.pulse.progress();
        let has_come = bytes != self.bytes;
        let is_waiting = self.pulse.waiting.load(Ordering::Relaxed) > 0 || bytes == 0;
        let is_stalled = is_waiting && self.pulse.working.load(Ordering::Relaxed) == 0 && !has_come;
        let passed = now - self.last;
        self.stalled = if is_stalled { self.stalled + passed } else { Duration::ZERO };
        (self.last, self.bytes) = (now, bytes);
        if is_stalled || has_come {
            self.waited += passed;
            self.recent.push_back((self.waited, bytes));
            while self.recent.get(1).is_some_and(|(then, _)| self.waited.saturating_sub(*then) >= BUDGET) {
                self.recent.pop_front();
            }
        }
        if self.stalled >= self.allowance {
            return Some("it does not answer".to_owned());
        }
        if self.waited < self.allowance || expected == 0 {
            return None;
        }
        let (seconds, came) =
            self.recent.front().map(|(then, before)| (self.waited.saturating_sub(*then), bytes - before))?;
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let left = seconds.as_secs_f64() * expected.saturating_sub(bytes) as f64 / came.max(1) as f64;
        let (spared, elapsed) = (self.pulse.worth().max(BUDGET), now - self.begin);
        let is_overdue = elapsed >= spared && left > BUDGET.as_secs_f64();
        (left > spared.as_secs_f64() || is_overdue)
            .then(|| format!("it is slow: {bytes} of {expected} bytes came in {} s", elapsed.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(watch: &mut Watch<'_>, seconds: u64) -> Option<String> {
        let now = watch.begin + Duration::from_secs(seconds);
        watch.look(now)
    }

    #[test]
    fn who_gives_nothing_is_left_aside_after_two_seconds() {
        let pulse = Pulse::default();
        let mut watch = Watch::new(&pulse, BUDGET);
        assert_eq!(after(&mut watch, 1), None);
        assert!(after(&mut watch, 2).is_some_and(|reason| reason.contains("does not answer")));
        let mut watch = Watch::new(&pulse, Duration::from_secs(1));
        assert!(after(&mut watch, 1).is_some());
        let mut watch = Watch::new(&pulse, BUDGET);
        let _waiting = pulse.wait();
        for second in 1..5 {
            pulse.came(1);
            assert_eq!(after(&mut watch, 2 * second - 1), None);
            assert_eq!(after(&mut watch, 2 * second), None, "what comes slowly comes");
        }
        assert!(after(&mut watch, 10).is_some());
    }

    #[test]
    fn who_gives_something_is_waited_for_while_that_spares_time() {
        let (pulse, mebibyte) = (Pulse::default(), 1 << 20);
        let mut watch = Watch::new(&pulse, BUDGET);
        pulse.expect(100 * mebibyte, Duration::from_secs(50));
        for second in 1..10 {
            pulse.came(5 * mebibyte);
            assert_eq!(after(&mut watch, second), None, "{second}");
        }
        let pulse = Pulse::default();
        let mut watch = Watch::new(&pulse, BUDGET);
        pulse.expect(100 * mebibyte, Duration::from_secs(50));
        pulse.came(100);
        assert_eq!(after(&mut watch, 1), None);
        pulse.came(100);
        assert!(after(&mut watch, 2).is_some_and(|reason| reason.contains("it is slow: 200 of")));
    }

    #[test]
    fn work_on_what_came_is_no_wait() {
        let pulse = Pulse::default();
        let (_waiting, working) = (pulse.wait(), pulse.work());
        pulse.came(1);
        let mut watch = Watch::new(&pulse, BUDGET);
        assert_eq!(after(&mut watch, 100), None);
        drop(working);
        assert!(after(&mut watch, 110).is_some());
    }

    #[test]
    fn who_becomes_slow_or_silent_is_left_aside_soon_after() {
        let mebibyte = 1 << 20;
        for (trickle, reason) in [(0, "does not answer"), (1, "it is slow"), (mebibyte, "it is slow")] {
            let pulse = Pulse::default();
            let _waiting = pulse.wait();
            let mut watch = Watch::new(&pulse, BUDGET);
            pulse.expect(1000 * mebibyte, Duration::from_mins(1));
            for second in 1..=20 {
                pulse.came(25 * mebibyte);
                assert_eq!(after(&mut watch, second), None, "{second}");
            }
            pulse.came(trickle);
            assert_eq!(after(&mut watch, 21), None);
            pulse.came(trickle);
            assert!(after(&mut watch, 22).is_some_and(|said| said.contains(reason)), "{trickle}");
        }
    }

    #[test]
    fn who_takes_as_long_as_making_the_layers_has_two_seconds_to_end() {
        let mebibyte = 1 << 20;
        for (bytes, is_near) in [(120 * mebibyte, true), (130 * mebibyte, false)] {
            let pulse = Pulse::default();
            let mut watch = Watch::new(&pulse, BUDGET);
            pulse.expect(bytes, Duration::from_secs(20));
            for second in 1..20 {
                pulse.came(if second < 10 { 6 * mebibyte } else { 5 * mebibyte });
                assert!(watch.look(watch.begin + Duration::from_secs(second)).is_none(), "{second}");
            }
            pulse.came(6 * mebibyte);
            assert_eq!(after(&mut watch, 20).is_none(), is_near);
        }
    }
}
