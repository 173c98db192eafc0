//! The arguments of `modal cache`.

use clap::Subcommand;

/// `modal cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Upload what builds have left to be uploaded, and wait until that is done
    #[command(after_help = "\
Builds leave it to a process that goes on when they have ended. A machine that ends with its job, as those of GitHub
and GitLab do, has to wait for it with this command. The exit code is 1 if something could not be uploaded; it is
tried again by the next build.")]
    Upload {
        /// Say nothing but what went wrong
        #[arg(short, long)]
        quiet: bool,
    },
}
