//! `modal app`: apps that were deployed, or run with `--detach`.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write;

use lamina_apps::{AppState, DetachedApp, LogReader};
use lamina_engine::known_apps;
use lamina_ground::seconds_since_1970;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::ask::say;
use super::logs::{LogView, show_log};
use super::{autostart, container, deployed, is_all_shown, listing, print, print_json};
use crate::arguments::{App, AppList, LogLabels, LogOptions, NamedApp};
use crate::failure::Failure;
use crate::output::text;

/// Columns of a name, and of what was run, in the list.
const COLUMNS: usize = 40;

/// Answers or stops.
pub(crate) fn app(app: &App) -> Result<u8, Failure> {
    match app {
        App::List(options) => list(options),
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

fn list(options: &AppList) -> Result<u8, Failure> {
    let tasks = container::running()?.count_by_app();
    let (deployed, detached) = chosen(options, &tasks)?;
    if options.json {
        let mut all: Vec<_> = deployed.iter().map(deployed::json).collect();
        for app in &detached {
            all.push(serde_json::to_value(Listed::new(app, &tasks)).map_err(std::io::Error::from)?);
        }
        all.sort_by_key(|app| Reverse(app["tasks"].as_u64()));
        print_json(&all)?;
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
    print(table(&detached, &tasks, now).as_bytes())?;
    Ok(0)
}

/// The apps that are meant, those with the most containers first.
fn chosen(options: &AppList, tasks: &Tasks) -> Result<(Vec<deployed::Listed>, Vec<DetachedApp>), Failure> {
    let limit = options.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut deployed = deployed::all(options.of.environment.as_deref(), tasks)?;
    let mut detached = if options.of.environment.is_none() { known_apps()?.list()? } else { Vec::new() };
    deployed.sort_by_key(|app| Reverse(app.tasks()));
    detached.sort_by_key(|app| Reverse(tasks_of(app, tasks)));
    let counts = deployed.iter().map(deployed::Listed::tasks).chain(detached.iter().map(|app| tasks_of(app, tasks)));
    let mut places: Vec<_> = counts.enumerate().collect();
    places.sort_by_key(|(_, tasks)| Reverse(*tasks));
    let of_deployed = places.iter().take(limit).filter(|(place, _)| *place < deployed.len()).count();
    detached.truncate(places.len().min(limit) - of_deployed);
    deployed.truncate(of_deployed);
    Ok((deployed, detached))
}

/// How many containers run, by the id of their app.
type Tasks = HashMap<String, usize>;

fn tasks_of(app: &DetachedApp, tasks: &Tasks) -> usize {
    tasks.get(&app.record.id).copied().unwrap_or(0)
}

/// A detached app as `--json` shows it. One that has died has no exit code.
#[derive(Serialize)]
struct Listed<'a> {
    app_id: &'a str,
    description: &'a str,
    state: &'static str,
    tasks: usize,
    created_at: String,
    stopped_at: Option<String>,
    name: Option<&'a str>,
    exit_code: Option<u8>,
    reference: &'a str,
    arguments: &'a [String],
    directory: &'a str,
}

impl<'a> Listed<'a> {
    fn new(app: &'a DetachedApp, tasks: &Tasks) -> Self {
        let (state, exit_code, ended) = match app.state {
            AppState::Running { .. } => ("ephemeral (detached)", None, None),
            AppState::Ended { code, time } => ("stopped", Some(code), Some(time)),
            AppState::Died => ("stopped", None, None),
        };
        let record = &app.record;
        Self {
            app_id: &record.id,
            description: record.name.as_deref().unwrap_or(&record.reference),
            state,
            tasks: tasks_of(app, tasks),
            created_at: listing::time(record.started),
            stopped_at: ended.map(listing::time),
            name: record.name.as_deref(),
            exit_code,
            reference: &record.reference,
            arguments: &record.arguments,
            directory: &record.directory,
        }
    }
}

/// The apps, one a line.
fn table(apps: &[DetachedApp], tasks: &Tasks, now: u64) -> String {
    let short = |text: &str| text::clip(&text::clean(text), COLUMNS);
    let name = |app: &DetachedApp| app.record.name.as_deref().map(short).unwrap_or_default();
    let mut table = String::new();
    if apps.is_empty() {
        return table;
    }
    let id_width = apps.iter().map(|app| app.record.id.len()).max().unwrap_or(0);
    let name_width = apps.iter().map(|app| name(app).width()).max().unwrap_or(0).max("name".len());
    // Writing to a string does not fail.
    let _ = writeln!(
        table,
        "{:id_width$}  {:name_width$}  {:13}  {:5}  {:12}  REF",
        "id", "name", "state", "tasks", "started"
    );
    for app in apps {
        let (name, state) = (text::fit(&name(app), name_width), state(app.state));
        let started = text::age(now.saturating_sub(app.record.started));
        let reference = short(&app.record.reference);
        let tasks = if app.state.is_running() { tasks_of(app, tasks).to_string() } else { String::new() };
        let id = &app.record.id;
        let _ = writeln!(table, "{id:id_width$}  {name}  {state:13}  {tasks:5}  {started:12}  {reference}");
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

    fn tasks() -> Tasks {
        HashMap::from([("ap-0a1b2c".to_owned(), 2)])
    }

    #[test]
    fn apps_are_a_table() {
        insta::assert_snapshot!(table(&apps(), &tasks(), 1_200), @r"
        id         name     state          tasks  started       REF
        ap-0a1b2c  demo     running        2      3 min ago     app.py::main
        ap-3d4e5f  another  exit code 130         3 min ago     app.py::main
        ap-6a7b8c           died                  3 min ago     app.py::main
        ");
        assert_eq!(table(&[], &tasks(), 0), "");
    }

    #[test]
    fn programs_get_everything() {
        let apps = apps();
        let tasks = tasks();
        let listed: Vec<_> = apps.iter().map(|app| Listed::new(app, &tasks)).collect();
        insta::assert_snapshot!(serde_json::to_string_pretty(&listed[1]).unwrap(), @r#"
        {
          "app_id": "ap-3d4e5f",
          "description": "a\u001b[31mnother",
          "state": "stopped",
          "tasks": 0,
          "created_at": "1970-01-01T00:16:40Z",
          "stopped_at": "1970-01-01T00:17:40Z",
          "name": "a\u001b[31mnother",
          "exit_code": 130,
          "reference": "app.py::main",
          "arguments": [
            "--token",
            "secret"
          ],
          "directory": "/home/ada"
        }
        "#);
        let states: Vec<_> = listed.iter().map(|app| (app.state, app.exit_code, app.tasks, app.description)).collect();
        let expected = [
            ("ephemeral (detached)", None, 2, "demo"),
            ("stopped", Some(130), 0, "a\u{1b}[31mnother"),
            ("stopped", None, 0, "app.py::main"),
        ];
        assert_eq!(states, expected);
    }
}
