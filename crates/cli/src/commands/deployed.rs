//! What `modal app` does with deployed apps.

use std::collections::HashMap;
use std::fmt::Write as _;

use lamina_apps::{AppState, AppsError, Deployment, DeploymentName, Version};
use lamina_engine::{Recorded, deployments, next_run, take_over};
use lamina_events::CancelToken;
use lamina_ground::{Hint, seconds_since_1970};
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

use super::ask::{ask, say};
use super::logs::{LogView, show_log};
use super::{container, is_all_shown, listing, print, print_json};
use crate::arguments::{NamedApp, Strategy};
use crate::failure::Failure;
use crate::output::text;

/// A deployed app, and whether its process runs.
pub(crate) struct Listed {
    deployment: Deployment,
    runs: bool,
    /// How many containers it runs.
    tasks: usize,
    /// When it does something by itself next, in seconds since 1970.
    next_run: Option<i64>,
}

impl Listed {
    /// How many containers it runs.
    pub(crate) fn tasks(&self) -> usize {
        self.tasks
    }
}

/// All of them, or those of an environment, but those whose records are damaged, which are told of. `tasks` says how many
/// containers each runs.
pub(crate) fn all(environment: Option<&str>, tasks: &HashMap<String, usize>) -> Result<Vec<Listed>, Failure> {
    let deployments = deployments()?;
    let listed = |deployment: Deployment| {
        let runs = deployments.host_state(&deployment.full_name()).is_ok_and(AppState::is_running);
        let next_run = if deployment.is_deployed() { next_run(&deployments, &deployment) } else { None };
        let tasks = tasks.get(&deployment.id).copied().unwrap_or(0);
        Listed { deployment, runs, tasks, next_run }
    };
    let all = deployments.survey()?;
    warn_of_damaged(&all.damaged);
    let is_meant = |app: &Deployment| environment.is_none_or(|name| app.environment == name);
    Ok(all.sound.into_iter().filter(is_meant).map(listed).collect())
}

/// Says which apps are left out, and what to do.
pub(crate) fn warn_of_damaged(damaged: &[(DeploymentName, AppsError)]) {
    for (_, error) in damaged {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        say(&format!("warning: {error}{hint}\n"));
    }
}

/// The deployed app that is meant, if there is one.
pub(crate) fn find(app: &NamedApp) -> Result<Option<Deployment>, Failure> {
    Ok(deployments()?.find(&app.environment.name, &app.app)?)
}

/// The error for an app that is neither deployed nor detached.
pub(crate) fn explain(error: AppsError, app: &NamedApp) -> Failure {
    if !matches!(error, AppsError::Unknown(_)) || app.app.starts_with("ap-") {
        return error.into();
    }
    match require(app) {
        Err(failure) => failure,
        Ok(_) => error.into(),
    }
}

/// The deployed app that is meant, which has not been stopped.
fn require(app: &NamedApp) -> Result<Deployment, Failure> {
    let deployments = deployments()?;
    match deployments.find(&app.environment.name, &app.app)? {
        Some(deployment) if deployment.is_deployed() => Ok(deployment),
        Some(deployment) => {
            Err(Failure::new(format!("the app `{}` was stopped", deployment.name))
                .hint("deploy it anew: `modal deploy`"))
        }
        None if app.app.starts_with("ap-") => {
            Err(Failure::new(format!("no deployed app has the id `{}`: `modal app list` shows what there is", app.app)))
        }
        None => Ok(deployments.get(&DeploymentName::new(&app.environment.name, &app.app)?)?),
    }
}

/// Prints what it wrote.
pub(crate) fn logs(deployment: &Deployment, view: &mut LogView, follow: bool) -> Result<u8, Failure> {
    let deployments = deployments()?;
    if deployments.log(&deployment.full_name()).is_none() && deployment.is_deployed() {
        say("It has not run yet.\n");
    }
    let mut log = deployments.log_from(deployment, None)?;
    let shown = show_log(view, follow, &mut log, |log, show| deployments.follow(deployment, log, show))?;
    is_all_shown(shown)?;
    Ok(0)
}

/// Prints what an app prints that was deployed now, until it is stopped.
pub(super) fn stream(recorded: &Recorded, timestamps: bool) -> Result<u8, Failure> {
    let deployments = deployments()?;
    let deployment = deployments.get(&recorded.name)?;
    say(&format!("What {} prints follows. Ctrl-C ends this command, not the app.\n", recorded.name));
    let mut log = deployments.log_from(&deployment, Some(recorded.output))?;
    let mut view = LogView::of_run(timestamps);
    is_all_shown(deployments.follow(&deployment, &mut log, &mut |entry| view.take(entry))?)?;
    Ok(0)
}

/// Ends it for good.
pub(crate) fn stop(deployment: &Deployment, yes: bool) -> Result<u8, Failure> {
    let name = deployment.full_name();
    let deployments = deployments()?;
    if !deployment.is_deployed() {
        say(&format!("The app {name} was stopped already.\n"));
        return Ok(1);
    }
    if !yes {
        let tasks = container::running()?.count_by_app().get(&deployment.id).copied().unwrap_or(0);
        let what = match tasks {
            0 => String::new(),
            1 => ", which runs a container".to_owned(),
            more => format!(", which runs {more} containers"),
        };
        match ask(&format!("Stop the app {name}{what}? It can only be deployed anew."))? {
            Some(true) => {}
            Some(false) => {
                say("Nothing was stopped.\n");
                return Ok(1);
            }
            None => {
                let message = format!("the app {name} was not stopped: there is nobody to ask");
                return Err(Failure::new(message).hint("say so with `modal app stop --yes`"));
            }
        }
    }
    let ended = deployments.end(deployment, &CancelToken::new())?;
    deployments.stop_host(&name)?;
    say(&if ended { format!("Stopped {name}.\n") } else { format!("The app {name} was stopped already.\n") });
    Ok(u8::from(!ended))
}

/// Lists its versions.
pub(crate) fn history(app: &NamedApp, as_json: bool) -> Result<u8, Failure> {
    let deployment = require(app)?;
    let versions: Vec<&Version> = deployment.versions.iter().rev().collect();
    if as_json {
        let version = |version: &&Version| {
            json!({
                "version": version.number,
                "time_deployed": listing::time(version.deployed),
                "client": version.client,
                "deployed_by": version.by,
                "commit": version.commit,
                "tag": version.tag,
                "rollback_of": version.rollback_of,
            })
        };
        print_json(&versions.iter().map(version).collect::<Vec<_>>())?;
    } else {
        print(versions_table(&versions, seconds_since_1970()).as_bytes())?;
    }
    Ok(0)
}

/// Makes an earlier version the current one.
pub(crate) fn rollback(app: &NamedApp, version: Option<u32>, strategy: Strategy) -> Result<u8, Failure> {
    let deployment = require(app)?;
    let before = || {
        let earlier = deployment.versions.iter().rev().map(|version| version.number);
        let message = format!("the app {} has no earlier version", deployment.full_name());
        earlier.clone().find(|number| *number < deployment.current).ok_or_else(|| Failure::new(message))
    };
    let number = version.map_or_else(before, Ok)?;
    repeat(&deployment, number, strategy)
}

/// Makes the current version anew.
pub(crate) fn rollover(app: &NamedApp, strategy: Strategy) -> Result<u8, Failure> {
    let deployment = require(app)?;
    repeat(&deployment, deployment.current, strategy)
}

fn repeat(deployment: &Deployment, number: u32, strategy: Strategy) -> Result<u8, Failure> {
    let (name, deployments) = (deployment.full_name(), deployments()?);
    let new = deployments.repeat(&name, number, &user(), &CancelToken::new())?.deployment;
    if take_over(&deployments, &name, strategy == Strategy::Recreate)? {
        say("The app's process ran with another version of `modal`, and was ended.\n");
    }
    say(&format!("{name} has version {} now, which is version {number} again.\n", new.current));
    Ok(0)
}

/// Who this is, as Python's `getpass.getuser` has it for versions that are deployed.
fn user() -> String {
    let named = || ["LOGNAME", "USER"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let uid = rustix::process::getuid().as_raw();
    named().or_else(|| lamina_system::user_name(uid)).unwrap_or_else(|| uid.to_string())
}

/// One as `--json` shows it.
pub(crate) fn json(listed: &Listed) -> Value {
    let Listed { deployment, runs, tasks, next_run } = listed;
    json!({
        "app_id": deployment.id,
        "description": deployment.name,
        "state": if deployment.is_deployed() { "deployed" } else { "stopped" },
        "tasks": tasks,
        "created_at": listing::time(deployment.created),
        "stopped_at": deployment.stopped.map(listing::time),
        "name": deployment.name,
        "environment": deployment.environment,
        "version": deployment.current,
        "running": runs,
        "next_run": next_run.and_then(|next| u64::try_from(next).ok()).map(listing::time),
        "tags": deployment.tags,
    })
}

/// Columns of a name in the list.
const COLUMNS: usize = 40;

/// Deployed apps, one a line.
pub(crate) fn table(apps: &[Listed], now: u64) -> String {
    let mut table = String::new();
    if apps.is_empty() {
        return table;
    }
    let name = |listed: &Listed| text::clip(&listed.deployment.name, COLUMNS);
    let width = |cell: &dyn Fn(&Listed) -> String, least: &str| {
        apps.iter().map(|listed| cell(listed).width()).max().unwrap_or(0).max(least.len())
    };
    let environment = |listed: &Listed| text::clip(&listed.deployment.environment, COLUMNS);
    let (names, environments) = (width(&name, "name"), width(&environment, "environment"));
    // Writing to a string does not fail.
    let _ = writeln!(
        table,
        "{:25}  {:names$}  {:environments$}  {:8}  {:7}  {:5}  {:12}  next run",
        "id", "name", "environment", "state", "version", "tasks", "created"
    );
    for listed in apps {
        let Listed { deployment, runs, tasks, next_run } = listed;
        let state = if deployment.is_deployed() { "deployed" } else { "stopped" };
        let created = text::age(now.saturating_sub(deployment.created));
        let version = format!("v{}", deployment.current);
        let tasks = if *runs { tasks.to_string() } else { String::new() };
        let next = next_run.and_then(|next| u64::try_from(next).ok()).map(listing::time);
        let line = format!(
            "{:25}  {}  {}  {state:8}  {version:7}  {tasks:5}  {created:12}  {}",
            deployment.id,
            text::fit(&name(listed), names),
            text::fit(&environment(listed), environments),
            next.unwrap_or_default()
        );
        let _ = writeln!(table, "{}", line.trim_end());
    }
    table
}

fn versions_table(versions: &[&Version], now: u64) -> String {
    let mut table = String::new();
    let _ = writeln!(table, "{:8}  {:14}  {:10}  {:16}  {:14}  tag", "version", "deployed", "client", "by", "commit");
    for version in versions {
        let again = version.rollback_of.map(|number| format!("(v{number} again)")).unwrap_or_default();
        let line = format!(
            "{:8}  {:14}  {:10}  {:16}  {:14}  {}",
            format!("v{}", version.number),
            text::age(now.saturating_sub(version.deployed)),
            text::clip(&text::clean(&version.client), 10),
            text::clip(&text::clean(&version.by), 16),
            text::clip(&text::clean(version.commit.as_deref().unwrap_or_default()), 14),
            if again.is_empty() { text::clean(&version.tag) } else { again },
        );
        let _ = writeln!(table, "{}", line.trim_end());
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn version(number: u32, rollback_of: Option<u32>) -> Version {
        Version {
            number,
            deployed: 1_000,
            client: "0.1.0".to_owned(),
            by: "ada".to_owned(),
            commit: Some("0123456789ab*".to_owned()),
            tag: if number == 1 { "first".to_owned() } else { String::new() },
            rollback_of,
        }
    }

    fn listed(name: &str, stopped: Option<u64>) -> Listed {
        let deployment = Deployment {
            id: "ap-0123456789abcdefghijkl".to_owned(),
            name: name.to_owned(),
            environment: "main".to_owned(),
            created: 1_000,
            stopped,
            current: 2,
            tags: BTreeMap::new(),
            versions: vec![version(1, None), version(2, Some(1))],
        };
        Listed { deployment, runs: stopped.is_none(), tasks: 1, next_run: stopped.is_none().then_some(1_000) }
    }

    #[test]
    fn deployed_apps_are_a_table() {
        insta::assert_snapshot!(table(&[listed("demo", None), listed("web", Some(1_100))], 1_200), @r"
        id                         name  environment  state     version  tasks  created       next run
        ap-0123456789abcdefghijkl  demo  main         deployed  v2       1      3 min ago     1970-01-01T00:16:40Z
        ap-0123456789abcdefghijkl  web   main         stopped   v2              3 min ago
        ");
        assert_eq!(table(&[], 0), "");
    }

    #[test]
    fn versions_are_a_table() {
        insta::assert_snapshot!(versions_table(&[&version(2, Some(1)), &version(1, None)], 1_200), @r"
        version   deployed        client      by                commit          tag
        v2        3 min ago       0.1.0       ada               0123456789ab*   (v1 again)
        v1        3 min ago       0.1.0       ada               0123456789ab*   first
        ");
    }
}
