//! `modal app`: apps that were run with `--detach`.

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use lamina_engine::{AppState, DetachedApp, DetachedApps, any_app, known_apps, running_app};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::ask::say;
use super::detach::BACKGROUND;
use super::image::{age, now};
use super::{is_all_shown, print, print_json, show};
use crate::arguments::App;
use crate::failure::Failure;
use crate::output::text;

/// Columns of a name, and of what was run, in the list.
const COLUMNS: usize = 40;

/// How long a process that has just been started may take to say which one it is.
const START: Duration = Duration::from_secs(10);

/// How an app is ended: asked, told, killed; and how long each may take.
const STEPS: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(10)),
    (Signal::INT, Duration::from_secs(5)),
    (Signal::KILL, Duration::from_secs(10)),
];

/// Answers or stops.
pub(crate) fn app(app: &App) -> Result<u8, Failure> {
    let apps = known_apps()?;
    match app {
        App::List { json: true } => print_json(&apps.list()?.iter().map(Listed::from).collect::<Vec<_>>())?,
        App::List { json: false } => {
            let list = apps.list()?;
            if list.is_empty() {
                say("There are no detached apps: `modal run --detach` starts them.\n");
            }
            print(table(&list, now()).as_bytes())?;
        }
        App::Logs { app, follow } => {
            let mut output = apps.output(&any_app(&apps, app)?.record.id)?;
            is_all_shown(if *follow { output.follow(&mut show)? } else { output.read(&mut show)? })?;
        }
        App::Stop { app } => stop(&apps, &running_app(&apps, app)?)?,
    }
    Ok(0)
}

/// An app as `--json` shows it.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    name: Option<&'a str>,
    state: &'static str,
    exit_code: Option<u8>,
    started: u64,
    ended: Option<u64>,
    reference: &'a str,
    arguments: &'a [String],
    directory: &'a str,
}

impl<'a> From<&'a DetachedApp> for Listed<'a> {
    fn from(app: &'a DetachedApp) -> Self {
        let (state, exit_code, ended) = match app.state {
            AppState::Running { .. } => ("running", None, None),
            AppState::Ended { code, time } => ("ended", Some(code), Some(time)),
            AppState::Died => ("died", None, None),
        };
        let record = &app.record;
        Self {
            id: &record.id,
            name: record.name.as_deref(),
            state,
            exit_code,
            started: record.started,
            ended,
            reference: &record.reference,
            arguments: &record.arguments,
            directory: &record.directory,
        }
    }
}

/// The apps, one a line.
fn table(apps: &[DetachedApp], now: u64) -> String {
    let short = |text: &str| text::clip(&text::clean(text), COLUMNS);
    let name = |app: &DetachedApp| app.record.name.as_deref().map(short).unwrap_or_default();
    let mut table = String::new();
    if apps.is_empty() {
        return table;
    }
    let id_width = apps.iter().map(|app| app.record.id.len()).max().unwrap_or(0);
    let name_width = apps.iter().map(|app| name(app).width()).max().unwrap_or(0).max("name".len());
    // Writing to a string does not fail.
    let _ = writeln!(table, "{:id_width$}  {:name_width$}  {:13}  {:12}  REF", "id", "name", "state", "started");
    for app in apps {
        let (name, state) = (text::fit(&name(app), name_width), state(app.state));
        let started = age(now.saturating_sub(app.record.started));
        let reference = short(&app.record.reference);
        let _ = writeln!(table, "{:id_width$}  {name}  {state:13}  {started:12}  {reference}", app.record.id);
    }
    table
}

fn state(state: AppState) -> String {
    match state {
        AppState::Running { .. } => "running".to_owned(),
        AppState::Ended { code, .. } => format!("exit code {code}"),
        AppState::Died => "died".to_owned(),
    }
}

/// Ends an app as Ctrl-C would; one that does not listen is told again, and then killed.
fn stop(apps: &DetachedApps, app: &DetachedApp) -> Result<(), Failure> {
    let id = &*app.record.id;
    let Some(process) = Process::of(apps, id)? else {
        say(&format!("{id} has ended already.\n"));
        return Ok(());
    };
    for (signal, patience) in STEPS {
        process.signal(signal)?;
        if process.is_gone_within(patience)? {
            // One that was killed could not say so.
            apps.note_death(id, u8::try_from(128 + signal.as_raw()).unwrap_or(1))?;
            say(&format!("Stopped {id}.\n"));
            return Ok(());
        }
    }
    Err(Failure::new(format!("the app `{id}` was killed, but its process `{}` has not ended", process.pid))
        .hint("it waits for the kernel, perhaps for a disk that does not answer"))
}

/// The process of a running app.
struct Process {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    /// Finds it; nothing when the app has ended.
    fn of(apps: &DetachedApps, id: &str) -> Result<Option<Self>, Failure> {
        let Some(pid) = pid(apps, id)? else { return Ok(None) };
        let descriptor = pidfd_open(pid, PidfdFlags::empty());
        let is_background = is_background(pid, id);
        // As its lock is still held, the number was not given to another process before it was looked at.
        if !is_running(apps, id)? {
            return Ok(None);
        }
        match descriptor {
            Ok(descriptor) if is_background => Ok(Some(Self { pid, descriptor })),
            Ok(_) | Err(Errno::SRCH) => {
                Err(Failure::new(format!("the app `{id}` runs, but its process `{pid}` cannot be seen from here"))
                    .hint("stop it where it was started, perhaps in a container"))
            }
            Err(errno) => Err(std::io::Error::from(errno).into()),
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        match pidfd_send_signal(&self.descriptor, signal) {
            // It is gone already.
            Err(Errno::SRCH) => Ok(()),
            other => Ok(other.map_err(std::io::Error::from)?),
        }
    }

    fn is_gone_within(&self, patience: Duration) -> Result<bool, Failure> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(|_| Failure::new("the time is out of range"))?;
            match poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&timeout)) {
                Err(Errno::INTR) => {}
                other => return Ok(other.map_err(std::io::Error::from)? > 0),
            }
        }
    }
}

fn is_running(apps: &DetachedApps, id: &str) -> Result<bool, Failure> {
    Ok(apps.get(id)?.is_some_and(|app| app.state.is_running()))
}

/// The number of an app's process; nothing when the app has ended.
fn pid(apps: &DetachedApps, id: &str) -> Result<Option<Pid>, Failure> {
    let asked = Instant::now();
    loop {
        match apps.get(id)?.map(|app| app.state) {
            Some(AppState::Running { pid: Some(pid) }) => return Ok(Pid::from_raw(pid.cast_signed())),
            Some(AppState::Running { pid: None }) if asked.elapsed() < START => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Some(AppState::Running { pid: None }) => {
                return Err(Failure::new(format!("the record of the app `{id}` does not say which process it is"))
                    .hint(format!(
                        "if the app was started just now, try again; if not, the record is damaged: `pgrep -f {id}` \
                         finds the process, `kill -INT` ends it"
                    )));
            }
            _ => return Ok(None),
        }
    }
}

/// Whether a process is the background of an app. Where processes have other numbers, it may be anything.
fn is_background(pid: Pid, id: &str) -> bool {
    let words = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = words.split(|byte| *byte == 0).skip(1);
    words.next() == Some(BACKGROUND.as_bytes()) && words.next() == Some(id.as_bytes())
}

#[cfg(test)]
mod tests {
    use lamina_engine::AppRecord;

    use super::*;

    fn app(id: &str, name: Option<&str>, state: AppState) -> DetachedApp {
        let record = AppRecord {
            id: id.to_owned(),
            name: name.map(str::to_owned),
            reference: "app.py::main".to_owned(),
            arguments: vec!["--token".to_owned(), "secret".to_owned()],
            directory: "/home/ada".to_owned(),
            started: 1_000,
            number: 0,
        };
        DetachedApp { record, state }
    }

    fn apps() -> [DetachedApp; 3] {
        [
            app("ap-0a1b2c", Some("demo"), AppState::Running { pid: Some(1) }),
            app("ap-3d4e5f", Some("a\u{1b}[31mnother"), AppState::Ended { code: 130, time: 1_060 }),
            app("ap-6a7b8c", None, AppState::Died),
        ]
    }

    #[test]
    fn apps_are_a_table() {
        insta::assert_snapshot!(table(&apps(), 1_200), @r"
        id         name     state          started       REF
        ap-0a1b2c  demo     running        3 min ago     app.py::main
        ap-3d4e5f  another  exit code 130  3 min ago     app.py::main
        ap-6a7b8c           died           3 min ago     app.py::main
        ");
        assert_eq!(table(&[], 0), "");
    }

    #[test]
    fn programs_get_everything() {
        let apps = apps();
        let listed: Vec<_> = apps.iter().map(Listed::from).collect();
        insta::assert_snapshot!(serde_json::to_string_pretty(&listed[1]).unwrap(), @r#"
        {
          "id": "ap-3d4e5f",
          "name": "a\u001b[31mnother",
          "state": "ended",
          "exit_code": 130,
          "started": 1000,
          "ended": 1060,
          "reference": "app.py::main",
          "arguments": [
            "--token",
            "secret"
          ],
          "directory": "/home/ada"
        }
        "#);
        let states: Vec<_> = listed.iter().map(|app| (app.state, app.exit_code, app.ended)).collect();
        assert_eq!(states, [("running", None, None), ("ended", Some(130), Some(1_060)), ("died", None, None)]);
    }

    #[test]
    fn another_process_is_no_background() {
        assert!(!is_background(rustix::process::getpid(), "ap-0a1b2c"));
    }
}
