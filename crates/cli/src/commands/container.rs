//! `modal container`: containers that run, in whichever process of this user.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use lamina_apps::{Deployment, LogReader};
use lamina_engine::{
    ContainerRecord, Containers, ContainersError, ExitStatus, deployments, is_container_id, known_apps,
};
use lamina_events::CancelToken;
use lamina_ground::{EnvVars, seconds_since_1970};
use serde_json::json;
use unicode_width::UnicodeWidthStr;

use super::ask::say;
use super::logs::{LogView, show_log};
use super::shell::show as show_terminal;
use super::{listing, print, print_json};
use crate::arguments::{Container, LogLabels, LogOptions, OfEnvironment};
use crate::failure::Failure;
use crate::interruption::{self, Interruption};
use crate::output::text;
use crate::user_terminal::{self, UserTerminal};

/// Columns of a name in the list.
const COLUMNS: usize = 40;

/// Answers, runs a command or stops.
pub(crate) fn container(container: &Container) -> Result<u8, Failure> {
    match container {
        Container::List { json, of } => list(*json, of),
        Container::Logs { container, options, all, of } => logs(container, options, *all, of),
        Container::Exec(words) => {
            exec_in(running_of(&words.of)?, &words.container, &words.command, wants_terminal(words.pty, words.no_pty))
        }
        Container::Stop { container, graceful, of } => stop(container, *graceful, of),
    }
}

/// Whether a command gets a terminal of its own.
pub(super) fn wants_terminal(pty: bool, no_pty: bool) -> bool {
    pty || (!no_pty && rustix::termios::isatty(io::stdin()) && rustix::termios::isatty(io::stdout()))
}

/// The containers that run; who does not say which it has is told of.
pub(super) fn running() -> Result<Containers, Failure> {
    let containers = Containers::ask()?;
    for pid in containers.silent() {
        say(&format!(
            "warning: the process `{pid}` has not said which containers it has: it is stopped, or very busy\n\
             hint: `kill -CONT {pid}` has it go on if it is stopped, `kill -KILL {pid}` ends it and its containers\n"
        ));
    }
    Ok(containers)
}

/// Those of them that are meant.
fn running_of(of: &OfEnvironment) -> Result<Containers, Failure> {
    let mut containers = running()?;
    if let Some(environment) = &of.environment {
        let deployed = deployments()?.list()?;
        let ids: Vec<_> = deployed.iter().filter(|app| app.environment == *environment).map(|app| &app.id).collect();
        containers.retain(|container| ids.contains(&&container.app_id));
    }
    Ok(containers)
}

fn list(as_json: bool, of: &OfEnvironment) -> Result<u8, Failure> {
    let containers = running_of(of)?;
    let all: Vec<_> = containers.all().collect();
    if as_json {
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let one = |it: &&ContainerRecord| {
            json!({
                "container_id": it.container_id,
                "app_id": known(&it.app_id),
                "app_name": it.app_name,
                "function": known(&it.function),
                "start_time": listing::time(it.started),
            })
        };
        print_json(&all.iter().map(one).collect::<Vec<_>>())?;
        return Ok(0);
    }
    if all.is_empty() {
        say("No containers run.\n");
    }
    print(table(&all, seconds_since_1970()).as_bytes())?;
    Ok(0)
}

fn logs(target: &str, options: &LogOptions, all: bool, of: &OfEnvironment) -> Result<u8, Failure> {
    let everything = all || options.follow;
    let found = match running_of(of)?.find(target) {
        Err(unknown @ ContainersError::Unknown { .. }) => {
            return ended_logs(target, options, everything, of, unknown);
        }
        found => found?,
    };
    if found.record().is_shell() {
        return Err(Failure::new("what a shell prints is on its own terminal, and not kept"));
    }
    let mut view = LogView::new(options, &LogLabels::default(), everything)?;
    let shown = found.logs(options.follow, |entry| match view.take(entry) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    })?;
    let shown = match shown {
        Ok(()) => view.finish(),
        Err(error) => ControlFlow::Break(error),
    };
    super::is_all_shown(shown)?;
    Ok(0)
}

/// Shows what a container has printed that has ended, as far as the log of its app has it.
fn ended_logs(
    target: &str,
    options: &LogOptions,
    everything: bool,
    of: &OfEnvironment,
    unknown: ContainersError,
) -> Result<u8, Failure> {
    let mut found: BTreeMap<String, LogReader> = BTreeMap::new();
    if is_container_id(target) {
        let (deployments, detached) = (deployments()?, known_apps()?);
        let is_meant = |app: &&Deployment| of.environment.as_ref().is_none_or(|name| app.environment == *name);
        let names: Vec<_> = deployments.list()?.iter().filter(is_meant).map(Deployment::full_name).collect();
        let detached_apps = if of.environment.is_none() { detached.list()? } else { Vec::new() };
        let ids: Vec<_> = detached_apps.into_iter().map(|app| app.record.id).collect();
        let open_deployed = names.iter().map(|name| deployments.log(name));
        // One that is damaged is not what is asked about.
        let open_detached = ids.iter().map(|id| detached.log(id).ok());
        for log in open_deployed.chain(open_detached).flatten() {
            for id in log.containers(target)? {
                found.insert(id, log.again());
            }
        }
    }
    if found.len() > 1 {
        let matches: Vec<_> = found.keys().map(|id| format!("`{id}`")).collect();
        return Err(ContainersError::Ambiguous { prefix: target.to_owned(), matches: matches.join(", ") }.into());
    }
    let Some((id, mut log)) = found.pop_first() else { return Err(unknown.into()) };
    let labels = LogLabels { container: Some(id), ..LogLabels::default() };
    let mut view = LogView::new(options, &labels, everything)?;
    super::is_all_shown(show_log(&mut view, false, &mut log, LogReader::follow)?)?;
    Ok(0)
}

/// Runs a command in the container that is meant, on a terminal of its own if it is `wanted`.
pub(super) fn exec(target: &str, argv: &[String], wanted: bool) -> Result<u8, Failure> {
    exec_in(running()?, target, argv, wanted)
}

fn exec_in(containers: Containers, target: &str, argv: &[String], wanted: bool) -> Result<u8, Failure> {
    let found = containers.find(target)?;
    let terminal = UserTerminal::new();
    let size = wanted.then(user_terminal::size);
    let kind = if wanted { std::env::var(EnvVars::TERM).ok() } else { None };
    let cancel = CancelToken::new();
    let interruption = Interruption::listen(interruption::catch()?, cancel.clone(), None, {
        let terminal = terminal.clone();
        move || terminal.restore()
    });
    let streams = (io::stdin(), io::stdout(), io::stderr());
    let mut command = found.exec(argv, size, kind, [streams.0.as_fd(), streams.1.as_fd(), streams.2.as_fd()])?;
    let _handed_on = cancel.on_cancel({
        let (signal, interruption) = (command.signals()?, interruption.clone());
        move || signal(interruption.signal())
    });
    if let Some(inner) = command.take_terminal() {
        // What the command has left in the background may have the terminal open for as long as the container runs.
        terminal.connect(&inner, Some(&command.end()?), &mut show_terminal)?;
    }
    let code = match command.wait()? {
        ExitStatus::Exited(code) => code,
        ExitStatus::Signaled(signal) => 128 + signal,
    };
    Ok(u8::try_from(code).unwrap_or(1))
}

fn stop(target: &str, graceful: bool, of: &OfEnvironment) -> Result<u8, Failure> {
    let found = running_of(of)?.find(target)?;
    let id = found.record().container_id.clone();
    found.stop(graceful)?;
    say(&format!("Stopped {id}.\n"));
    Ok(0)
}

/// The containers, one a line.
fn table(all: &[&ContainerRecord], now: u64) -> String {
    let mut table = String::new();
    if all.is_empty() {
        return table;
    }
    let app = |it: &ContainerRecord| text::clip(&text::clean(it.app_name.as_deref().unwrap_or_default()), COLUMNS);
    let function = |it: &ContainerRecord| text::clip(&text::clean(&it.function), COLUMNS);
    let width = |cell: &dyn Fn(&ContainerRecord) -> String, least: &str| {
        all.iter().map(|it| cell(it).width()).max().unwrap_or(0).max(least.len())
    };
    let ids = width(&|it| it.container_id.clone(), "id");
    let (app_ids, apps, functions) =
        (width(&|it| it.app_id.clone(), "app id"), width(&app, "app"), width(&function, "function"));
    // Writing to a string does not fail.
    let _ =
        writeln!(table, "{:ids$}  {:app_ids$}  {:apps$}  {:functions$}  started", "id", "app id", "app", "function");
    for it in all {
        let (app, function) = (text::fit(&app(it), apps), text::fit(&function(it), functions));
        let started = text::age(now.saturating_sub(it.started));
        let _ = writeln!(table, "{:ids$}  {:app_ids$}  {app}  {function}  {started}", it.container_id, it.app_id);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_a_table() {
        let one = ContainerRecord {
            container_id: "ta-0a1b2c".to_owned(),
            app_id: "ap-3d4e5f".to_owned(),
            app_name: Some("a\u{1b}[31mpp".to_owned()),
            function: "Model".to_owned(),
            started: 1_000,
        };
        let other = ContainerRecord { container_id: "ta-6g7h8i".to_owned(), app_name: None, ..one.clone() };
        insta::assert_snapshot!(table(&[&one, &other], 1_200), @r"
        id         app id     app  function  started
        ta-0a1b2c  ap-3d4e5f  app  Model     3 min ago
        ta-6g7h8i  ap-3d4e5f       Model     3 min ago
        ");
        assert_eq!(table(&[], 0), "");
    }
}
