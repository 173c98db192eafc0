//! `modal app`: apps that were deployed, or run with `--detach`.

use std::fmt::Write;

use lamina_apps::{AppState, DetachedApp, LogReader};
use lamina_engine::known_apps;
use lamina_ground::seconds_since_1970;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::ask::say;
use super::logs::{LogView, show_log};
use super::{autostart, deployed, is_all_shown, print, print_json};
use crate::arguments::{App, LogLabels, LogOptions, NamedApp};
use crate::failure::Failure;
use crate::output::text;

/// Columns of a name, and of what was run, in the list.
const COLUMNS: usize = 40;

/// Answers or stops.
pub(crate) fn app(app: &App) -> Result<u8, Failure> {
    match app {
        App::List { json } => list(*json),
        App::Logs { app, options, labels } => logs(app, options, labels),
        App::Stop { app, yes } => {
            if let Some(deployment) = deployed::find(app)? {
                return deployed::stop(&deployment, *yes);
            }
            let apps = known_apps()?;
            let id = apps.find_running(&app.app).map_err(|error| deployed::explain(error, app))?.record.id;
            say(&if apps.stop(&id)? { format!("Stopped {id}.\n") } else { format!("{id} has ended already.\n") });
            Ok(0)
        }
        App::Autostart(autostart) => autostart::autostart(autostart),
        App::History { app, json } => deployed::history(app, *json),
        App::Rollback { app, version, strategy } => deployed::rollback(app, *version, *strategy),
        App::Rollover { app, strategy } => deployed::rollover(app, *strategy),
    }
}

fn logs(app: &NamedApp, options: &LogOptions, labels: &LogLabels) -> Result<u8, Failure> {
    let mut view = LogView::new(options, labels, false)?;
    if let Some(deployment) = deployed::find(app)? {
        return deployed::logs(&deployment, &mut view, options.follow);
    }
    let apps = known_apps()?;
    let id = apps.find(&app.app).map_err(|error| deployed::explain(error, app))?.record.id;
    let mut log = apps.log(&id)?;
    is_all_shown(show_log(&mut view, options.follow, &mut log, LogReader::follow)?)?;
    Ok(0)
}

fn list(json: bool) -> Result<u8, Failure> {
    let (deployed, detached) = (deployed::all()?, known_apps()?.list()?);
    if json {
        let detached = detached.iter().map(|app| serde_json::to_value(Listed::from(app)));
        let all: Result<Vec<_>, _> = deployed.iter().map(deployed::json).map(Ok).chain(detached).collect();
        print_json(&all.map_err(std::io::Error::from)?)?;
        return Ok(0);
    }
    if deployed.is_empty() && detached.is_empty() {
        say("There are no apps that stay: `modal deploy` and `modal run --detach` make them.\n");
    }
    let now = seconds_since_1970();
    print(deployed::table(&deployed, now).as_bytes())?;
    if !deployed.is_empty() && !detached.is_empty() {
        print(b"\n")?;
    }
    print(table(&detached, now).as_bytes())?;
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
        let started = text::age(now.saturating_sub(app.record.started));
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

#[cfg(test)]
mod tests {
    use lamina_apps::AppRecord;

    use super::*;

    fn app(id: &str, name: Option<&str>, state: AppState) -> DetachedApp {
        let (name, arguments) = (name.map(str::to_owned), vec!["--token".to_owned(), "secret".to_owned()]);
        let record = AppRecord { name, arguments, ..AppRecord::new(id, "app.py::main", "/home/ada", 1_000) };
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
}
