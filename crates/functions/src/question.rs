//! Questions about the containers of a service, from programs and from containers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::answer::CallStatus;
use crate::calls::Calls;
use crate::options::PoolOptions;
use crate::services::Services;
use crate::state::Scaling;

/// Asks how many containers a service has, after the numbers that are given have been changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolQuestion {
    /// The name of the function or class.
    function: String,
    /// The label of the variant of the service, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<u64>,
    /// Least containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_containers: Option<u32>,
    /// Most containers; 0 is as many as without a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_containers: Option<u32>,
    /// Containers more than the inputs need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    buffer_containers: Option<u32>,
    /// Seconds that a container waits for its next input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scaledown_window: Option<u32>,
}

impl PoolQuestion {
    /// The label of the variant, if the question is about one.
    pub(crate) fn variant(&self) -> Option<u64> {
        self.variant
    }

    /// The same question, about what another connection knows under this label.
    #[must_use]
    pub fn about(self, variant: Option<u64>) -> Self {
        Self { variant, ..self }
    }

    /// The answer, on behalf of the connection with these `calls`.
    ///
    /// # Errors
    /// When there is no such service or variant.
    pub fn ask(&self, services: &Services, calls: &Calls) -> Result<Value, CallStatus> {
        let pool = services.pool(calls, &self.function, self.variant)?;
        let scaling = self.applied_to(pool.scaling());
        if scaling != pool.scaling() {
            pool.scale(scaling);
        }
        let Scaling { minimum, maximum, buffer, idle } = scaling;
        Ok(json!({
            "settings": {
                "min_containers": minimum,
                "max_containers": maximum,
                "buffer_containers": buffer,
                "scaledown_window": idle.as_secs(),
            },
            "stats": pool.stats(),
        }))
    }

    /// These numbers, where they are given.
    fn applied_to(&self, scaling: Scaling) -> Scaling {
        let count =
            |given: Option<u32>, present| given.map_or(present, |given| usize::try_from(given).unwrap_or(present));
        let minimum = count(self.min_containers, scaling.minimum);
        let maximum = match self.max_containers {
            Some(0) => PoolOptions::default_maximum(),
            given => count(given, scaling.maximum),
        };
        Scaling {
            minimum,
            maximum: maximum.max(minimum),
            buffer: count(self.buffer_containers, scaling.buffer),
            idle: self.scaledown_window.map_or(scaling.idle, |seconds| Duration::from_secs(seconds.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_containers_change_where_they_are_given() {
        let present = Scaling { minimum: 1, maximum: 3, buffer: 0, idle: Duration::from_mins(1) };
        let applied = |text: &str| {
            let question: PoolQuestion = serde_json::from_str(&format!(r#"{{"function":"f"{text}}}"#)).unwrap();
            question.applied_to(present)
        };
        assert_eq!(applied(""), present);
        assert_eq!(applied(r#","min_containers":5"#), Scaling { minimum: 5, maximum: 5, ..present });
        let maximum = PoolOptions::default_maximum();
        assert_eq!(applied(r#","max_containers":0,"min_containers":0"#), Scaling { minimum: 0, maximum, ..present });
        let idle = Duration::from_secs(2);
        assert_eq!(applied(r#","buffer_containers":2,"scaledown_window":2"#), Scaling { buffer: 2, idle, ..present });
    }
}
