//! How often failed inputs run again.

use std::time::Duration;

/// How often, and after which pauses, a failed input runs again.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Retries {
    /// Most attempts after the first one.
    pub maximum: u32,
    /// By what each pause is longer than the one before it.
    pub backoff: f64,
    /// The first pause.
    pub initial_delay: Duration,
    /// The longest pause.
    pub maximum_delay: Duration,
}

impl Retries {
    /// The pause after `failed` attempts, of which there is at least one.
    pub(crate) fn delay(&self, failed: u32) -> Duration {
        let factor = self.backoff.powf(f64::from(failed.saturating_sub(1)));
        let seconds = (self.initial_delay.as_secs_f64() * factor).min(self.maximum_delay.as_secs_f64());
        Duration::try_from_secs_f64(seconds).unwrap_or(self.maximum_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let retries = Retries {
            maximum: 5,
            backoff: 2.0,
            initial_delay: Duration::from_secs(1),
            maximum_delay: Duration::from_secs(5),
        };
        assert_eq!([1, 2, 3, 4, 2000].map(|failed| retries.delay(failed).as_secs()), [1, 2, 4, 5, 5]);
        let fixed = Retries { backoff: 1.0, ..retries };
        assert_eq!([1, 2, 9].map(|failed| fixed.delay(failed).as_secs()), [1, 1, 1]);
        let none = Retries { initial_delay: Duration::ZERO, ..retries };
        assert_eq!(none.delay(3), Duration::ZERO);
    }
}
