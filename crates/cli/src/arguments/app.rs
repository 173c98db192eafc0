//! Arguments of `modal app`.

use clap::{Args, Subcommand};

use super::{Environment, LogLabels, LogOptions, OfEnvironment, Strategy};

/// `modal app`.
#[derive(Debug, Subcommand)]
pub(crate) enum App {
    /// List deployed apps, then detached ones, the one started last first
    #[command(after_help = "\
Of each kind, those that run the most containers (`tasks`) come first. The newest 100 detached apps that have
ended are remembered.")]
    List(AppList),
    /// Print what an app wrote, and what was said about it
    #[command(after_help = "\
Examples:
  modal app logs demo                      the last 100 lines of the app `demo`
  modal app logs -f ap-0a1b2c              these, and what follows, until it ends
  modal app logs demo --since 2h           all of the last two hours
  modal app logs demo -s stderr -n 1000 --function train --timestamps

Times without a zone are those of this machine's. The last 64 MiB of an app are kept.")]
    Logs {
        #[command(flatten)]
        app: NamedApp,
        #[command(flatten)]
        options: LogOptions,
        #[command(flatten)]
        labels: LogLabels,
    },
    /// Stop an app: a deployed one for good, a detached one as Ctrl-C stops one that is not
    #[command(after_help = "\
What runs has 40 seconds to end, of which exit hooks have 30; then it is told again, and 5 seconds
later it is killed. A deployed app that was stopped can only be deployed anew.")]
    Stop {
        #[command(flatten)]
        app: NamedApp,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Have apps with schedules or `min_containers` run while the machine does, by a systemd user unit
    #[command(after_help = "\
Examples:
  modal app autostart                      writes ~/.config/systemd/user/modal-apps.service and enables it
  modal app autostart --status             whether it is there, and which apps it starts
  modal app autostart --watch              what the unit runs: keeps these apps running
  modal app autostart --start              starts these apps now, and leaves them

Without systemd, have `modal app autostart --watch` run when the machine starts, by a supervisor
or a line `@reboot` of your crontab. It starts apps again that were killed, after one second at
first and five minutes at last. SIGTERM ends it, and the apps that it has started, whose exit hooks
are run. An app that somebody has ended (`modal app stop`, `kill`) is left alone. Other deployed
apps start when somebody calls them.")]
    Autostart(Autostart),
    /// List the versions of a deployed app, the newest first
    #[command(after_help = "The newest 50 versions are kept.")]
    History {
        #[command(flatten)]
        app: NamedApp,
        /// One JSON array for programs
        #[arg(long)]
        json: bool,
    },
    /// Deploy an earlier version of an app again, as a new version
    #[command(after_help = "\
Examples:
  modal app rollback demo                  the version before the present one
  modal app rollback demo v3               version 3")]
    Rollback {
        #[command(flatten)]
        app: NamedApp,
        /// The version, such as v3 (default: the one before the present one)
        #[arg(value_name = "VERSION", value_parser = version)]
        version: Option<u32>,
        /// What becomes of the inputs that the present version runs
        #[arg(long, value_enum, default_value_t)]
        strategy: Strategy,
    },
    /// Replace the containers of a deployed app by new ones of the same version
    Rollover {
        #[command(flatten)]
        app: NamedApp,
        /// What becomes of the inputs that run
        #[arg(long, value_enum, default_value_t)]
        strategy: Strategy,
    },
}

/// `modal app list`.
#[derive(Debug, Args)]
pub(crate) struct AppList {
    /// One JSON array for programs
    #[arg(long)]
    pub(crate) json: bool,

    /// So many apps at most
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,

    #[command(flatten)]
    pub(crate) of: OfEnvironment,
}

/// `modal app autostart`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Autostart {
    /// Take the unit away again
    #[arg(long, group = "what")]
    pub(crate) remove: bool,

    /// Say whether the unit is there; exit code 1 if not
    #[arg(long, group = "what")]
    pub(crate) status: bool,

    /// Keep these apps running, as the unit does: start them, and start them again when they were killed
    #[arg(long, group = "what")]
    pub(crate) watch: bool,

    /// Start these apps now, once
    #[arg(long, group = "what")]
    pub(crate) start: bool,
}

/// An app that is named.
#[derive(Debug, Args)]
pub(crate) struct NamedApp {
    /// The name of an app, its id, or of a detached one the beginning of that
    #[arg(value_name = "APP")]
    pub(crate) app: String,

    #[command(flatten)]
    pub(crate) environment: Environment,
}

fn version(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix('v').unwrap_or(text).parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "give the number of a version, such as v3: `modal app history` lists them".to_owned())
}
