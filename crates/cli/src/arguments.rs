//! The command line: commands, options and the help that teaches them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueHint};
use lamina_engine::GpuRequest;
use lamina_ground::EnvVars;

use crate::output::Progress;

mod app;
mod cache;
mod collections;
mod container;
mod deferred;
mod deploy;
mod image_build;
mod image_logs;
mod image_out;
mod image_pull;
mod logs;
mod profile;
mod secret;
mod volume;

pub(crate) use app::{App, AppList, Autostart, NamedApp};
pub(crate) use cache::Cache;
pub(crate) use collections::{Dict, ListOptions, Named, Queue};
pub(crate) use container::Container;
pub(crate) use deferred::Deferred;
pub(crate) use deploy::{Deploy, Strategy};
pub(crate) use image_build::ImageBuild;
pub(crate) use image_logs::ImageLogs;
pub(crate) use image_out::{Chosen, ExportFormat, ImageExport, ImagePush, PackedAs, Packing};
pub(crate) use image_pull::{ImageImport, ImagePull};
pub(crate) use logs::{LogLabels, LogOptions};
pub(crate) use profile::{Config, Profile};
pub(crate) use secret::{CreateSecret, Secret};
pub(crate) use volume::VolumeCommand;

/// Declare container images in Python, build them layer by layer, run functions in them
#[derive(Debug, Parser)]
#[command(
    name = "modal",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  modal run app.py --n 5          run the app's entrypoint with an argument
  modal run app.py::describe      run one function
  modal deploy app.py             keep the app, for `modal.Function.from_name` in any program
  modal run -d app.py             run the app; it goes on when this terminal is closed
  modal shell app.py::describe    open a shell in the image of a function
  modal image list                see what was built
  modal image prune               give disk space back
  modal doctor                    see whether this machine can build and run images

Environment:
  MODAL_STORE      where images are kept (default: $XDG_DATA_HOME/modal or ~/.local/share/modal)
  MODAL_PYTHON     the Python interpreter that imports apps
  MODAL_PROGRESS   auto, tty, plain, json or quiet
  MODAL_LOG        what `-v` says, by part: a level, or for example info,lamina_store=debug
  NO_COLOR         no colours
  docs/environment.md has all of them, such as MODAL_STORE_RESERVE and MODAL_DEBIAN_MIRROR"
)]
pub(crate) struct Arguments {
    /// Say on standard error what is done and why; twice: in detail
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a function or local entrypoint of an app, building its image first if need be
    Run(Deferred<Run>),
    /// Build an app and keep it, callable from any program of yours
    Deploy(Deferred<Deploy>),
    /// Open a shell in an image or a running container
    Shell(Deferred<Shell>),
    /// List, watch and stop apps that were deployed, or run with `--detach`
    #[command(subcommand, arg_required_else_help = true)]
    App(Deferred<App>),
    /// List, examine and stop containers that run
    #[command(subcommand, arg_required_else_help = true)]
    Container(Deferred<Container>),
    /// List, examine and remove images
    #[command(subcommand, arg_required_else_help = true)]
    Image(Deferred<Image>),
    /// Keep secrets under names, for `modal.Secret.from_name`
    #[command(subcommand, arg_required_else_help = true)]
    Secret(Deferred<Secret>),
    /// Keep files in volumes, for functions that have them
    #[command(subcommand, arg_required_else_help = true)]
    Volume(Deferred<VolumeCommand>),
    /// Keep values under keys, for programs and containers that share them
    #[command(subcommand, arg_required_else_help = true)]
    Dict(Deferred<Dict>),
    /// Keep values in their order, for programs and containers that share them
    #[command(subcommand, arg_required_else_help = true)]
    Queue(Deferred<Queue>),
    /// Bring layers to caches that machines share, which `MODAL_CACHE` names
    #[command(subcommand, arg_required_else_help = true)]
    Cache(Deferred<Cache>),
    /// List and choose the profiles of `~/.modal.toml`
    #[command(subcommand, arg_required_else_help = true)]
    Profile(Deferred<Profile>),
    /// Show the settings of the profile in use
    #[command(subcommand, arg_required_else_help = true)]
    Config(Deferred<Config>),
    /// Check whether this machine can build and run images, and say what to do if not
    Doctor(Deferred<Doctor>),
    /// Find or remove the store, where all images are kept
    #[command(subcommand, arg_required_else_help = true)]
    Store(Deferred<Store>),
    /// Print a script that completes commands and options in your shell
    #[command(after_help = "\
Examples:
  bash    modal completion bash > ~/.local/share/bash-completion/completions/modal
  zsh     modal completion zsh > ~/.zfunc/_modal      (with ~/.zfunc in $fpath)
  fish    modal completion fish > ~/.config/fish/completions/modal.fish")]
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Serve a Python program over an inherited socket (what `app.run()` starts)
    #[command(hide = true)]
    Engine(Deferred<EngineOptions>),
}

/// `modal engine`.
#[derive(Debug, Args)]
pub(crate) struct EngineOptions {
    /// Let functions ask for the terminal
    #[arg(long)]
    pub(crate) interactive: bool,

    /// Only connect the program with the process of a deployed app: its environment and name
    #[arg(long, num_args = 2, value_names = ["ENVIRONMENT", "APP"])]
    pub(crate) introduce: Option<Vec<String>>,

    #[command(flatten)]
    pub(crate) output: Output,
}

/// How progress is shown.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How progress is shown
    #[arg(long, value_name = "HOW", value_enum, default_value_t, env = EnvVars::MODAL_PROGRESS, hide_env = true)]
    pub(crate) progress: Progress,
}

/// `modal run`.
#[derive(Debug, Args)]
#[command(
    override_usage = "modal run [OPTIONS] REF [ARGS]...",
    after_help = "\
REF names a Python file or, with -m, a module, and what to run in it:
  app.py              the only local entrypoint, or else the only function
  app.py::describe    the function or entrypoint `describe`
  -m package.app      the module `package.app`
  -                   the program on standard input

Options of `modal run` come before REF; what follows REF goes to the function, one --option per parameter:
  modal run app.py --n 5 --no-verbose
  modal run -q -w result.json app.py::report --month 2024-05

With -d the whole program goes on, its entrypoint included, when this command ends:
Ctrl-C (exit code 130), a closed terminal or a lost connection do not reach it. It has
no input. `modal app` lists, watches and stops such apps."
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Run {
    /// REF names a module, not a file
    #[arg(short, long)]
    pub(crate) module: bool,

    /// Show no progress, only failures and what the program prints
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Write what the function returns (text or bytes) to a file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write_result: Option<PathBuf>,

    /// Name of the app, instead of its own
    #[arg(short, long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Name of the environment that the program sees
    #[arg(short, long, value_name = "NAME")]
    pub(crate) env: Option<String>,

    /// Put the time in front of what containers print
    #[arg(long)]
    pub(crate) timestamps: bool,

    /// Do not stop the app when this command ends: `modal app` lists, watches and stops it
    #[arg(short, long, conflicts_with = "interactive")]
    pub(crate) detach: bool,

    /// Let functions ask for your terminal, with `breakpoint()` or `modal.interact()`
    #[arg(short, long)]
    pub(crate) interactive: bool,

    #[command(flatten)]
    pub(crate) output: Output,

    /// What to run, and its arguments: one list, so that no option after REF is taken for ours
    #[arg(value_name = "REF", required = true, trailing_var_arg = true, num_args = 1.., hide = true, value_hint = ValueHint::FilePath)]
    pub(crate) reference_and_arguments: Vec<OsString>,
}

/// `modal shell`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  modal shell                              Debian with the Python version of this machine
  modal shell im-0a1b2c                    an image by its id, or a beginning of it (see `modal image list`)
  modal shell app.py::describe             the image of a function, built first if need be
  modal shell --image ubuntu:24.04         an image of a registry, pulled first if need be
  modal shell ta-0a1b2c                    a running container (see `modal container list`)
  modal shell im-0a1b2c -c 'pip list'      one command instead of a shell; its exit code is passed on
  modal shell --add-local data             with the local directory `data` at /mnt/data

What is changed inside is gone when the shell ends, but for what is changed in a running container.
A function has limits, files, volumes and secrets of its own: --add-local, --volume, --secret,
--cpu and --memory are for the other shells.")]
pub(crate) struct Shell {
    /// An image id, a container id, or a Python file and function as in `modal run` (default: the default image)
    #[arg(value_name = "REF", value_hint = ValueHint::FilePath)]
    pub(crate) reference: Option<String>,

    /// REF names a module, not a file
    #[arg(short, long)]
    pub(crate) module: bool,

    /// The image of a registry, or of this machine as `modal.Image.from_registry` names it, instead of REF
    #[arg(long, value_name = "TAG", conflicts_with_all = ["reference", "module"])]
    pub(crate) image: Option<String>,

    /// The Python that such an image gets, as in 3.12
    #[arg(long, value_name = "VERSION", requires = "image")]
    pub(crate) add_python: Option<String>,

    /// The command to run, read by the image's /bin/sh (default: /bin/bash, or /bin/sh where there is none)
    #[arg(short, long, value_name = "COMMAND")]
    pub(crate) cmd: Option<String>,

    /// A local file or directory to take along, at /mnt/NAME (may be repeated)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) add_local: Vec<PathBuf>,

    /// A volume to have, at /mnt/NAME (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub(crate) volume: Vec<String>,

    /// A named secret to have, as environment variables (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub(crate) secret: Vec<String>,

    /// Most processors, such as 0.5
    #[arg(long, value_name = "N", value_parser = processors)]
    pub(crate) cpu: Option<f64>,

    /// Most memory, in MiB
    #[arg(long, value_name = "MIB", value_parser = mebibytes)]
    pub(crate) memory: Option<u64>,

    /// A GPU to have: its type, `H100:2` for two, or `any`
    #[arg(long, value_name = "TYPE")]
    pub(crate) gpu: Option<GpuRequest>,

    /// Name of the environment that the shell sees
    #[arg(short, long, value_name = "NAME")]
    pub(crate) env: Option<String>,

    #[command(flatten)]
    pub(crate) unavailable: Unavailable,

    /// Give the command a terminal of its own (default: if this is one)
    #[arg(long, overrides_with = "no_pty")]
    pub(crate) pty: bool,

    /// Connect the command to standard input and output as they are
    #[arg(long)]
    pub(crate) no_pty: bool,

    #[command(flatten)]
    pub(crate) output: Output,
}

/// Options of `modal shell` that Modal has and that are refused here with the reason.
#[derive(Debug, Args)]
pub(crate) struct Unavailable {
    /// Refused with the reason
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) cloud: Option<String>,

    /// Refused with the reason
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) region: Option<String>,
}

/// `modal image names`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageNames {
    /// List the names and what they stand for
    List {
        /// Only names that begin with this
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
        /// One JSON array for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Take a name away from its image, which then goes as others do
    #[command(mut_arg("name", |name| name.value_name("NAME[:TAG]").help("The name, with its tag if that is not `latest`")))]
    Delete(Removal),
}

/// `modal image`.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build the image of a Dockerfile
    Build(Box<ImageBuild>),
    /// Get an image from a registry
    Pull(ImagePull),
    /// Take an image from a file
    Import(ImageImport),
    /// Send an image to a registry
    Push(ImagePush),
    /// Write an image into a file that other programs take
    Export(ImageExport),
    /// List the images in the store, the one used last first
    List {
        /// One JSON array for programs
        #[arg(long)]
        json: bool,
    },
    /// Show what an image is made of: its layers, environment and working directory
    Inspect {
        /// An image id, a beginning of it, or a published name
        #[arg(value_name = "REF")]
        reference: String,
        /// One JSON object for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Show the steps that made an image: when, how long they took, how large they are
    History {
        /// An image id, a beginning of it, or a published name
        #[arg(value_name = "REF")]
        reference: String,
        /// One JSON array for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        environment: Environment,
    },
    /// Show what takes up the disk
    #[command(after_help = "\
Columns:
  size       the length of an image's files, as in `modal image list`
  on disk    the blocks that they take, equal files once
  its own    those of them that no other image has: what comes free with it
Volumes are not counted: they hold what cannot be built again, and stay.")]
    Du {
        /// One JSON object for programs
        #[arg(long)]
        json: bool,
    },
    /// Remove images that are not used any more, and everything that only they needed
    Prune(Prune),
    /// Names of images, which `Image.publish` gives and `Image.from_name` takes
    #[command(subcommand)]
    Names(ImageNames),
    /// Print the build log of an image
    Logs(ImageLogs),
}

/// `modal image prune`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  modal image prune                        what was not used for 30 days
  modal image prune --unused-for 7d        what was not used for a week
  modal image prune --max-size 20GiB       the least recently used, until the store fits
  modal image prune --all                  everything that no running `modal` uses
  modal image prune im-0a1b2c              this image

AGE is a number with a unit: 90m, 12h, 7d, 2w. SIZE likewise: 500MB, 20GiB.
What a running `modal` uses always stays. Everything else is built again when
it is asked for.")]
pub(crate) struct Prune {
    /// Remove exactly these images: ids, or beginnings of them
    #[arg(value_name = "ID", conflicts_with_all = ["all", "unused_for", "older_than", "max_size"])]
    pub(crate) ids: Vec<String>,

    /// Everything, however recently it was used
    #[arg(short, long, conflicts_with_all = ["unused_for", "older_than", "max_size"])]
    pub(crate) all: bool,

    /// What was not used for so long (default: 30d)
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) unused_for: Option<Duration>,

    /// What was built so long ago
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) older_than: Option<Duration>,

    /// The least recently used, until the store is no larger than this
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_size: Option<u64>,

    /// Only show what would be removed
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,

    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// What is removed of what is kept under names.
#[derive(Debug, Args)]
pub(crate) struct Removal {
    /// Its name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,

    /// Where there is none of that name, that is fine
    #[arg(long)]
    pub(crate) allow_missing: bool,

    #[command(flatten)]
    pub(crate) environment: Environment,
}

/// Which environment's objects are meant.
#[derive(Debug, Args)]
pub(crate) struct Environment {
    /// Name of the environment that it belongs to (default: main)
    #[arg(id = "environment", short = 'e', long = "env", value_name = "NAME", env = EnvVars::MODAL_ENVIRONMENT, hide_env = true, default_value = "main", hide_default_value = true, value_parser = environment)]
    pub(crate) name: String,
}

/// Which environment's apps are meant, where all are without it.
#[derive(Debug, Args)]
pub(crate) struct OfEnvironment {
    /// Only of deployed apps of this environment; others belong to none
    #[arg(id = "only_environment", short = 'e', long = "env", value_name = "NAME")]
    pub(crate) environment: Option<String>,
}

/// An environment; a variable that is set to nothing is none.
#[expect(clippy::unnecessary_wraps, reason = "what the parser of a value has to be")]
fn environment(text: &str) -> Result<String, String> {
    Ok(if text.is_empty() { "main".to_owned() } else { text.to_owned() })
}

fn processors(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "give a positive number, such as 2 or 0.5".to_owned())
}

fn mebibytes(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=1 << 40).contains(number));
    number.ok_or_else(|| "give a positive whole number of MiB, such as 512".to_owned())
}

fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "give a number with a unit, such as 12h, 7d or 2w".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    let size: Result<bytesize::ByteSize, _> = text.parse();
    size.map(|size| size.as_u64()).map_err(|_| "give a number with a unit, such as 500MB or 20GiB".to_owned())
}

/// `modal doctor`.
#[derive(Debug, Args)]
#[command(after_help = "The exit code is 1 if something is missing that builds or runs need.")]
pub(crate) struct Doctor {
    /// One JSON object for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// `modal store`.
#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Print where the store is
    Path,
    /// Print the record of a run: what was done and why, how it ended
    #[command(after_help = "\
A run leaves a record if it built something, warned or failed, or was given -v. The last 64
are kept, until `modal image prune` removes them with other old logs.")]
    Record {
        /// Print the files of all records instead, the newest last
        #[arg(short, long)]
        list: bool,
    },
    /// Check that everything in the store is as it was stored
    #[command(after_help = "\
Reads every byte. The exit code is 1 if something is damaged and still there. With --repair, what other files of the store
suffice for is made again; the rest is forgotten, so that the next build makes it again.")]
    Verify {
        /// Make again what is damaged, or forget it
        #[arg(long)]
        repair: bool,
        /// Check only what this image uses
        #[arg(value_name = "IMAGE")]
        image: Option<String>,
    },
    /// Remove the store with all images, layers, caches and logs, volumes, secrets, dicts and queues
    #[command(after_help = "\
Files of the store belong to user ids of containers, which `rm -rf` may not remove; this command does.")]
    Remove {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn help(path: &[&str]) -> String {
        let mut command = Arguments::command().term_width(100);
        command.build();
        let mut current = &mut command;
        for name in path {
            current = current.find_subcommand_mut(name).unwrap();
        }
        current.render_long_help().to_string()
    }

    fn run(words: &[&str]) -> Run {
        match Arguments::try_parse_from(words).unwrap().command {
            Command::Run(Deferred(run)) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// The words that lead to each page of help.
    fn pages(command: &clap::Command) -> Vec<Vec<String>> {
        let mut pages = vec![Vec::new()];
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            let name = below.get_name().to_owned();
            pages.extend(self::pages(below).into_iter().map(|page| [vec![name.clone()], page].concat()));
        }
        pages
    }

    #[test]
    fn help_teaches() {
        let mut command = Arguments::command();
        command.build();
        for path in pages(&command) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let name = format!("help_{}", path.join("_"));
            insta::assert_snapshot!(name.trim_end_matches('_'), help(&path));
        }
    }

    #[test]
    fn everything_after_the_reference_belongs_to_the_function() {
        let parsed = run(&["modal", "run", "-q", "app.py::main", "--n", "5", "-q", "-m", "--", "--help", "x"]);
        assert!(parsed.quiet && !parsed.module);
        assert_eq!(parsed.reference_and_arguments, ["app.py::main", "--n", "5", "-q", "-m", "--", "--help", "x"]);
    }

    #[test]
    fn unknown_options_before_the_reference_are_refused() {
        for words in [
            &["modal", "image", "prune", "--unused-for", "3"][..],
            &["modal", "image", "prune", "--max-size", "3x"],
            &["modal", "image", "prune", "im-1", "--all"],
            &["modal", "completion", "tcsh"],
            &["modal", "run", "--nope", "app.py"],
            &["modal", "run"],
            &["modal", "image", "logs"],
            &["modal", "app", "stop"],
            &["modal", "secret", "create"],
            &["modal", "volume", "cp", "name", "one"],
            &["modal", "run", "--detach", "--interactive", "app.py"],
            &["modal", "shell", "--cpu", "0"],
            &["modal", "shell", "--cpu", "inf"],
            &["modal", "shell", "--memory", "0"],
            &["modal", "shell", "--memory", "1.5"],
        ] {
            assert_eq!(Arguments::try_parse_from(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
