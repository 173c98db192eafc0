//! Requests for GPUs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// GPUs of one type that a step or a function asks for: `H100`, `H100:2`, `ANY`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GpuRequest {
    /// The type, in capitals.
    pub kind: String,
    /// How many: at least one.
    pub count: u32,
}

impl GpuRequest {
    /// The type of which every GPU is one.
    pub const ANY: &'static str = "ANY";

    /// Whether every GPU will do.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.kind == Self::ANY
    }
}

/// A text that asks for no GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no GPU: write a type such as `H100`, and `H100:2` for two of them")]
pub struct GpuRequestError(String);

impl FromStr for GpuRequest {
    type Err = GpuRequestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, count) = text.split_once(':').unwrap_or((text, "1"));
        match count.parse() {
            Ok(count) if count > 0 && !kind.trim().is_empty() => {
                Ok(Self { kind: kind.trim().to_ascii_uppercase(), count })
            }
            _ => Err(GpuRequestError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for GpuRequest {
    type Error = GpuRequestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<GpuRequest> for String {
    fn from(request: GpuRequest) -> Self {
        request.to_string()
    }
}

impl fmt::Display for GpuRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => formatter.write_str(&self.kind),
            count => write!(formatter, "{}:{count}", self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_type_and_a_count() {
        let canonical = |text: &str| text.parse().map(|request: GpuRequest| request.to_string());
        for (text, expected) in [("t4", "T4"), ("H100:2", "H100:2"), ("a100-80gb:1", "A100-80GB"), ("any", "ANY")] {
            assert_eq!(canonical(text).as_deref(), Ok(expected));
        }
        for wrong in ["", ":2", "T4:", "T4:0", "T4:-1", "T4:two", "T4:1:2", "T4:4294967296"] {
            assert_eq!(canonical(wrong), Err(GpuRequestError(wrong.to_owned())));
        }
    }
}
