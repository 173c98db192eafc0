//! What activating the environment does to variables: the scripts of its packages are run once, and what they set becomes
//! part of the image.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use fs_err as fs;
use lamina_store::{Job, JobError, Store, Work, WorkerContext};
use serde::{Deserialize, Serialize};

use crate::CondaError;

/// Where whoever runs the scripts puts the variables that there were before, as `env -0` writes them.
pub const BEFORE: &str = "/opt/conda/conda-meta/.variables-before";
/// Where those are put that there are afterwards.
pub const AFTER: &str = "/opt/conda/conda-meta/.variables-after";
/// What a shell sets for itself.
const OF_SHELLS: [&str; 4] = ["OLDPWD", "PWD", "SHLVL", "_"];

/// The variables that activating sets, as it was written down in a step's directories, where nothing of it stays.
///
/// # Errors
/// When they cannot be read.
pub fn activated(store: &Store, work: &Work) -> Result<BTreeMap<String, String>, CondaError> {
    Ok(store.job(&TakeActivation { work: work.id().to_owned() }, &[])?)
}

#[derive(Serialize, Deserialize)]
pub(crate) struct TakeActivation {
    work: String,
}

impl Job for TakeActivation {
    const NAME: &'static str = "conda.activation";
    type Output = BTreeMap<String, String>;

    fn work(&self) -> Option<&str> {
        Some(&self.work)
    }

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<BTreeMap<String, String>, JobError> {
        let take = |path: &str| -> Result<Vec<u8>, JobError> {
            let path = context.upper(&self.work).join(path.trim_start_matches('/'));
            // Whatever a package's script has put there instead of a file is not followed.
            if !fs::symlink_metadata(&path)?.is_file() {
                return Ok(Vec::new());
            }
            let bytes = fs::read(&path)?;
            fs::remove_file(path)?;
            Ok(bytes)
        };
        Ok(difference(&take(BEFORE)?, &take(AFTER)?))
    }
}

/// The variables that are new or different.
fn difference(before: &[u8], after: &[u8]) -> BTreeMap<String, String> {
    let before = variables(before);
    let mut after = variables(after);
    // A function of a shell is no text for others.
    after.retain(|name, value| {
        !OF_SHELLS.contains(&name.as_str()) && !name.starts_with("BASH_") && before.get(name) != Some(value)
    });
    after
}

fn variables(text: &[u8]) -> BTreeMap<String, String> {
    let lines = text.split(|byte| *byte == 0).filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_activating_sets_counts() {
        let found = difference(b"A=1\0B=2\0SHLVL=1\0", b"A=1\0B=3\nx\0C==\0SHLVL=2\0_=/bin/env\0BASH_FUNC_f%%=() {}\0");
        let expected = [("B", "3\nx"), ("C", "=")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expected.into());
    }
}
