//! `modal app autostart`: deployed apps that run by themselves start with the machine.

use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fs_err::os::unix::fs::symlink;
use lamina_apps::{AppState, Deployment, Deployments};
use lamina_engine::{
    KEEPING_UNIT as UNIT, KeepingEnd, KeepingNews, deployments, keep_deployed, runs_by_itself, start_deployed,
    store_directory,
};
use lamina_events::CancelToken;
use signal_hook::consts::SIGTERM;

use super::ask::say;
use super::deployed::warn_of_damaged;
use super::print;
use crate::arguments::Autostart;
use crate::failure::Failure;
use crate::interruption::{self, Interruption};

/// The directory of what starts with the user's systemd.
const WANTS: &str = "default.target.wants";
/// What there is where systemd runs.
const RUNNING: &str = "/run/systemd/system";
/// Who has a file here has a systemd that runs without a login.
const LINGER: &str = "/var/lib/systemd/linger";

/// Writes the unit, removes it, tells of it, or does what it does.
pub(crate) fn autostart(options: &Autostart) -> Result<u8, Failure> {
    if options.start {
        return start();
    }
    if options.watch {
        return watch();
    }
    let unit = Unit::of_this_user()?;
    if options.remove {
        remove(&unit)
    } else if options.status {
        status(&unit)
    } else {
        write(&unit)
    }
}

/// The apps that are meant.
fn apps(deployments: &Deployments) -> Result<Vec<Deployment>, Failure> {
    let mut all = deployments.survey()?;
    let mut apps = Vec::new();
    for app in all.sound {
        match runs_by_itself(deployments, &app) {
            Ok(true) => apps.push(app),
            Ok(false) => {}
            Err(error) => all.damaged.push((app.full_name(), error)),
        }
    }
    warn_of_damaged(&all.damaged);
    Ok(apps)
}

fn start() -> Result<u8, Failure> {
    let deployments = deployments()?;
    let mut code = 0;
    for app in apps(&deployments)? {
        let name = app.full_name();
        match start_deployed(&deployments, &name, &CancelToken::new()) {
            Ok(()) => say(&format!("Started {name}.\n")),
            // The others start all the same.
            Err(error) => {
                Failure::from_error(&error).print();
                code = 1;
            }
        }
    }
    Ok(code)
}

/// Keeps the apps running until a signal comes. SIGTERM is how supervisors end what is well.
fn watch() -> Result<u8, Failure> {
    let cancel = CancelToken::new();
    let interruption = Interruption::listen(interruption::catch()?, cancel.clone(), None, || ());
    if let KeepingEnd::Replaced(program) = keep_deployed(&deployments()?, &cancel, &mut |news| tell(&news))? {
        say("The program of this command was replaced: it goes on with the new one.\n");
        let error = Command::new(&program).args(std::env::args_os().skip(1)).exec();
        let message = format!("`{}`, which has replaced this program, cannot be executed: {error}", program.display());
        return Err(Failure::new(message).hint("have `modal app autostart --watch` run again"));
    }
    Ok(if interruption.signal() == SIGTERM { 0 } else { interruption.exit_code().unwrap_or(0) })
}

fn tell(news: &KeepingNews<'_>) {
    match *news {
        KeepingNews::Started(name) => say(&format!("Started {name}.\n")),
        KeepingNews::NotStarted(name, error, pause) => {
            Failure::from_error(error).print();
            say(&format!("{name} is started again in {} s.\n", pause.as_secs()));
        }
        KeepingNews::Ended(name, state, pause) => {
            let how = match state {
                AppState::Ended { code, .. } => format!("ended with exit code {code}"),
                AppState::Running { .. } | AppState::Died => "was killed".to_owned(),
            };
            let what_now = match pause {
                Some(pause) => format!("it is started again in {} s", pause.as_secs()),
                None => "whoever calls it starts it again".to_owned(),
            };
            say(&format!("The process of {name} {how}: {what_now}.\n"));
        }
        KeepingNews::Stopping(name) => say(&format!("Stopping {name}.\n")),
        KeepingNews::Trouble(error) => Failure::from_error(error).print(),
    }
}

/// Where the unit of a user is.
struct Unit {
    /// `systemd/user` of the user's configuration.
    directory: PathBuf,
}

impl Unit {
    fn of_this_user() -> Result<Self, Failure> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let configuration = set("XDG_CONFIG_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".config")))
            .ok_or_else(|| Failure::new("there is no place for a systemd unit").hint("set `HOME`"))?;
        Ok(Self { directory: configuration.join("systemd/user") })
    }

    fn file(&self) -> PathBuf {
        self.directory.join(UNIT)
    }

    fn link(&self) -> PathBuf {
        self.directory.join(WANTS).join(UNIT)
    }

    fn is_enabled(&self) -> bool {
        self.file().exists() && self.link().exists()
    }
}

/// The unit's text. `program` has the processes that it has started end in order, so systemd is to tell it alone; if it is
/// killed itself, they go on, and the next one finds them.
fn text(program: &str, store: &str) -> String {
    format!(
        "\
# Written by `modal app autostart`; `modal app autostart --remove` takes it away.
[Unit]
Description=Deployed apps of modal that run by themselves

[Service]
Type=exec
Environment={}
ExecStart={} app autostart --watch
Restart=on-failure
RestartSec=5
# It ends the apps in its group itself: exit hooks of classes have 30 seconds.
KillMode=process
TimeoutStopSec=70
# One that has no memory left is started again, and the others go on.
OOMPolicy=continue
Delegate=yes

[Install]
WantedBy=default.target
",
        quote(&format!("MODAL_STORE={store}")),
        quote(program).replace('$', "$$"),
    )
}

/// A word as units have it.
fn quote(word: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in word.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '%' => quoted.push_str("%%"),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// Calls the user's systemd; false if there is none, or it fails.
fn systemctl(words: &[&str]) -> bool {
    let mut command = Command::new("systemctl");
    command.arg("--user").args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether this machine has systemd.
fn has_systemd() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join("systemctl").is_file())
}

/// A path as the unit and a crontab can have it.
fn plain(path: &Path) -> Result<&str, Failure> {
    let text = path.to_str().filter(|text| !text.contains(char::is_control));
    text.ok_or_else(|| Failure::new(format!("the path `{}` cannot stand in a unit", path.display())).hint("rename it"))
}

fn write(unit: &Unit) -> Result<u8, Failure> {
    let (program, store) = (std::env::current_exe()?, store_directory()?);
    let (program, store) = (plain(&program)?, plain(&store)?);
    if !has_systemd() {
        let line = format!("@reboot MODAL_STORE={} {} app autostart --watch", shell(store), shell(program));
        return Err(Failure::new("this machine has no systemd, which would start the apps").hint(format!(
            "have your supervisor run `modal app autostart --watch`, or have it run when the machine starts, for example \
             by this line of `crontab -e`:\n{line}"
        )));
    }
    let link = unit.link();
    fs_err::create_dir_all(unit.directory.join(WANTS))?;
    let unfinished = unit.directory.join(format!(".{UNIT}"));
    fs_err::write(&unfinished, text(program, store))?;
    fs_err::rename(&unfinished, unit.file())?;
    match symlink(format!("../{UNIT}"), &link) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    systemctl(&["daemon-reload"]);
    say(&format!("Wrote {}.\n", unit.file().display()));
    if !Path::new(RUNNING).exists() {
        say("Systemd does not run here now.\n");
    } else if systemctl(&["start", UNIT]) {
        say("It runs now.\n");
    }
    say(&when());
    print(listed(&deployments()?)?.as_bytes())?;
    Ok(0)
}

fn remove(unit: &Unit) -> Result<u8, Failure> {
    let mut was_there = false;
    for path in [unit.link(), unit.file()] {
        match fs_err::remove_file(path) {
            Ok(()) => was_there = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    if was_there {
        systemctl(&["daemon-reload"]);
        say(&format!(
            "Removed {}. Apps that run go on; if it runs, it keeps them until you log out.\n",
            unit.file().display()
        ));
    } else {
        say("Apps do not start with the machine: there is nothing to remove.\n");
    }
    Ok(0)
}

fn status(unit: &Unit) -> Result<u8, Failure> {
    if !unit.is_enabled() {
        say("Apps do not start with the machine: `modal app autostart` has them do it.\n");
        return Ok(1);
    }
    say(&format!("{} is there. {}", unit.file().display(), when()));
    let (program, store) = (std::env::current_exe()?, store_directory()?);
    if fs_err::read_to_string(unit.file())? != text(plain(&program)?, plain(&store)?) {
        say("It was written by another version, or for another store: `modal app autostart` writes it anew.\n");
    }
    print(listed(&deployments()?)?.as_bytes())?;
    Ok(0)
}

/// When it takes effect.
fn when() -> String {
    let user = lamina_system::user_name(rustix::process::getuid().as_raw());
    if user.as_ref().is_some_and(|user| Path::new(LINGER).join(user).exists()) {
        return "It takes effect when the machine starts.\n".to_owned();
    }
    let user = user.unwrap_or_else(|| "$USER".to_owned());
    format!("It takes effect when you log in; after `sudo loginctl enable-linger {user}`, when the machine starts.\n")
}

/// What is started, one a line.
fn listed(deployments: &Deployments) -> Result<String, Failure> {
    let apps = apps(deployments)?;
    if apps.is_empty() {
        say("No app has a schedule or `min_containers` at present; others start when they are called.\n");
    }
    let lines: Vec<_> = apps.iter().map(|app| format!("{}\n", app.full_name())).collect();
    Ok(lines.concat())
}

/// A word as a shell takes it.
fn shell(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_apps_of_its_store() {
        insta::assert_snapshot!(text("/opt/a b/modal", "/home/ada/100%\"$x"), @r#"
        # Written by `modal app autostart`; `modal app autostart --remove` takes it away.
        [Unit]
        Description=Deployed apps of modal that run by themselves

        [Service]
        Type=exec
        Environment="MODAL_STORE=/home/ada/100%%\"$x"
        ExecStart="/opt/a b/modal" app autostart --watch
        Restart=on-failure
        RestartSec=5
        # It ends the apps in its group itself: exit hooks of classes have 30 seconds.
        KillMode=process
        TimeoutStopSec=70
        # One that has no memory left is started again, and the others go on.
        OOMPolicy=continue
        Delegate=yes

        [Install]
        WantedBy=default.target
        "#);
    }

    #[test]
    fn words_for_shells_are_quoted_where_needed() {
        assert_eq!(shell("/opt/modal-1.0/bin"), "/opt/modal-1.0/bin");
        assert_eq!(shell("/it's here"), r"'/it'\''s here'");
    }
}
