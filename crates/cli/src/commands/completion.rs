//! `modal completion`: a script for the user's shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::print;
use crate::arguments::Arguments;
use crate::failure::Failure;

/// Prints the script.
pub(crate) fn completion(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "modal", &mut script);
    print(&script)?;
    Ok(0)
}
