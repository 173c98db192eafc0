//! The clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Whole seconds since the beginning of 1970; none on a machine whose clock is before that.
#[must_use]
pub fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Microseconds since 1970; 0 where the clock is before that.
#[must_use]
pub fn microseconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
