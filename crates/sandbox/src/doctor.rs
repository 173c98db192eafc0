//! What this machine allows, and what to do about what it does not.

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, with something less.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub status: Status,
    /// One sentence.
    pub detail: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Looks at everything that sandboxes need.
#[must_use]
pub fn probe() -> Vec<Finding> {
    Vec::new()
}
