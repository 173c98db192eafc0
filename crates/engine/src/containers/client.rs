//! The command that asks about containers.

use std::collections::HashMap;
use std::ffi::c_int;
use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lamina_apps::{ContainerSockets, LogEntry, Source};
use lamina_ground::nearest;
use lamina_sandbox::{ExitStatus, TerminalSize};
use lamina_store::Layout;
use lamina_wire::{Payload, Receiver, Sender, WireError};
use rustix::net::sockopt::socket_peercred;
use rustix::process::Signal;

use super::{Answer, ContainerRecord, ContainersError, Request, encode, tell};
use crate::store_directory;

/// How long a process may take to say which containers it has.
const PATIENCE: Duration = Duration::from_secs(5);

/// Characters after `ta-` that an abbreviated id has at least: no slip of the hand shall stop a container.
const LEAST_OF_ID: usize = 4;

/// The containers that run, of all processes of this user.
#[derive(Debug)]
pub struct Containers {
    all: Vec<(ContainerRecord, usize)>,
    silent: Vec<i32>,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    sender: Sender,
    receiver: Receiver,
}

impl Connection {
    fn new(socket: UnixStream) -> Result<Self, WireError> {
        let (sender, receiver) = (Sender::new(socket.try_clone()?), Receiver::new(socket.try_clone()?));
        Ok(Self { socket, sender, receiver })
    }

    /// The next answer; an error when the process has ended.
    fn hear(&mut self) -> Result<(Answer, Vec<OwnedFd>, Payload), ContainersError> {
        let frame = match self.receiver.receive() {
            Ok(frame) => frame.ok_or(ContainersError::Gone)?,
            // One that was killed may have left what it was told unread, or half of an answer.
            Err(WireError::Truncated) => return Err(ContainersError::Gone),
            Err(WireError::Io(error)) if error.kind() == ErrorKind::ConnectionReset => {
                return Err(ContainersError::Gone);
            }
            Err(error) => return Err(error.into()),
        };
        match serde_json::from_slice(&frame.control).map_err(|error| ContainersError::Protocol(error.to_string()))? {
            Answer::Failed { message, hint } => Err(ContainersError::Refused { message, hint }),
            answer => Ok((answer, frame.fds, frame.payload)),
        }
    }

    /// The containers that it was asked for, if it says so in time.
    fn hear_list(&mut self, until: Instant) -> Result<Vec<ContainerRecord>, ContainersError> {
        // No time at all would be for ever.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left))?;
        let heard = self.hear()?.0;
        self.socket.set_read_timeout(None)?;
        match heard {
            Answer::Containers { containers } => Ok(containers),
            other => Err(unexpected(&other)),
        }
    }

    /// The process that listens.
    fn process(&self) -> Option<i32> {
        socket_peercred(&self.socket).ok().map(|credentials| credentials.pid.as_raw_nonzero().get())
    }
}

impl Containers {
    /// Asks which there are. No store is made for it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn ask() -> Result<Self, ContainersError> {
        let sockets = ContainerSockets::new(&Layout::of_no_store(store_directory()?)).connect()?;
        let mut connections: Vec<Connection> = sockets.into_iter().filter_map(|it| Connection::new(it).ok()).collect();
        // All at once: those that do not answer take the time of one.
        connections.retain(|connection| tell(&connection.sender, &Request::List).is_ok());
        let until = Instant::now() + PATIENCE;
        let (mut all, mut silent) = (Vec::new(), Vec::new());
        for (index, connection) in connections.iter_mut().enumerate() {
            match connection.hear_list(until) {
                Ok(containers) => all.extend(containers.into_iter().map(|container| (container, index))),
                Err(error) if is_timeout(&error) => silent.extend(connection.process()),
                // One that is about to end has none any more.
                Err(_) => {}
            }
        }
        all.sort_by_key(|(container, _)| container.started);
        Ok(Self { all, silent, connections })
    }

    /// Processes that run containers, perhaps, and have not said which within five seconds.
    #[must_use]
    pub fn silent(&self) -> &[i32] {
        &self.silent
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.all.iter().map(|(container, _)| container)
    }

    /// Leaves out those that are not meant.
    pub fn retain(&mut self, is_meant: impl Fn(&ContainerRecord) -> bool) {
        self.all.retain(|(container, _)| is_meant(container));
    }

    /// How many of them each app has, by its id.
    #[must_use]
    pub fn count_by_app(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for container in self.all() {
            *counts.entry(container.app_id.clone()).or_default() += 1;
        }
        counts
    }

    /// The one that a user means by its id, or the beginning of one.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn find(self, target: &str) -> Result<FoundContainer, ContainersError> {
        let (container, index) = choose(&self.all, target)?.clone();
        let connection = self.connections.into_iter().nth(index).ok_or(ContainersError::Gone)?;
        Ok(FoundContainer { container, connection })
    }
}

/// Whether this can be the id of a container, or the beginning of one.
#[must_use]
pub fn is_container_id(target: &str) -> bool {
    target.strip_prefix("ta-").is_some_and(|rest| rest.len() >= LEAST_OF_ID)
}

fn choose<'a>(
    all: &'a [(ContainerRecord, usize)],
    target: &str,
) -> Result<&'a (ContainerRecord, usize), ContainersError> {
    let ids = |containers: &[&(ContainerRecord, usize)]| {
        let ids: Vec<_> = containers.iter().map(|(it, _)| format!("`{}`", it.container_id)).collect();
        ids.join(", ")
    };
    let is_id = is_container_id(target);
    let matching: Vec<_> = all.iter().filter(|(it, _)| is_id && it.container_id.starts_with(target)).collect();
    match matching[..] {
        [container] => return Ok(container),
        [] => {}
        _ => return Err(ContainersError::Ambiguous { prefix: target.to_owned(), matches: ids(&matching) }),
    }
    let of_app: Vec<_> = all
        .iter()
        .filter(|(it, _)| !target.is_empty() && it.app_id == target || it.app_name.as_deref() == Some(target))
        .collect();
    let alike = nearest(target, all.iter().map(|(it, _)| &*it.container_id));
    let meant = match (&of_app[..], &alike[..]) {
        ([], _) if target.starts_with("ta-") && !is_id => {
            "; give `ta-` and at least four characters of an id".to_owned()
        }
        ([], []) => String::new(),
        ([], [first, ..]) => format!("; did you mean `{first}`?"),
        (of_app, _) => format!("; that is an app, which has {}", ids(of_app)),
    };
    Err(ContainersError::Unknown { target: target.to_owned(), meant })
}

/// A container, and a connection with the process that runs it.
#[derive(Debug)]
pub struct FoundContainer {
    container: ContainerRecord,
    connection: Connection,
}

impl FoundContainer {
    /// Which it is.
    #[must_use]
    pub fn record(&self) -> &ContainerRecord {
        &self.container
    }

    /// Starts a further command in it, on a terminal of the given size or else on `streams`, which are standard input, output
    /// and error. It ends when the answer is dropped.
    ///
    /// # Errors
    /// When the container has ended, or the command cannot be executed.
    pub fn exec(
        mut self,
        argv: &[String],
        terminal: Option<TerminalSize>,
        kind: Option<String>,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<Command, ContainersError> {
        let request = Request::Exec {
            container: self.container.container_id,
            argv: argv.to_vec(),
            terminal: terminal.map(|size| (size.rows, size.columns)),
            kind,
        };
        self.connection.sender.send(&encode(&request), &[], &streams)?;
        match self.connection.hear()? {
            (Answer::Started, fds, _) => Ok(Command { terminal: fds.into_iter().next(), connection: self.connection }),
            (other, ..) => Err(unexpected(&other)),
        }
    }

    /// Gives what it has printed last to `show`, and what it goes on to print if that is to be followed, until `show`
    /// fails.
    ///
    /// # Errors
    /// When the process ends that runs it.
    pub fn logs<E>(
        mut self,
        follow: bool,
        mut show: impl FnMut(&LogEntry) -> Result<(), E>,
    ) -> Result<Result<(), E>, ContainersError> {
        let container = self.container.container_id;
        tell(&self.connection.sender, &Request::Logs { container: container.clone(), follow })?;
        loop {
            match self.connection.hear() {
                Ok((Answer::Output { is_error, time, printer }, _, payload)) => {
                    let source = if is_error { Source::Stderr } else { Source::Stdout };
                    let entry = LogEntry {
                        time: (time > 0).then_some(time),
                        source,
                        container: Some(container.clone()),
                        printer,
                        data: payload.into_bytes()?,
                    };
                    let shown = show(&entry);
                    if shown.is_err() {
                        return Ok(shown);
                    }
                }
                Ok((Answer::Done, ..)) => return Ok(Ok(())),
                // The process has ended, and the container before it.
                Err(ContainersError::Gone) if follow => return Ok(Ok(())),
                Ok((other, ..)) => return Err(unexpected(&other)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Has it leave, after its inputs have ended if `graceful`; returns when it has gone.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn stop(mut self, graceful: bool) -> Result<(), ContainersError> {
        tell(&self.connection.sender, &Request::Stop { container: self.container.container_id, graceful })?;
        match self.connection.hear() {
            // The process had nothing else to do.
            Ok((Answer::Done, ..)) | Err(ContainersError::Gone) => Ok(()),
            Ok((other, ..)) => Err(unexpected(&other)),
            Err(error) => Err(error),
        }
    }
}

/// A further command in a container.
#[derive(Debug)]
pub struct Command {
    terminal: Option<OwnedFd>,
    connection: Connection,
}

impl Command {
    /// The outer end of its terminal, once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Readable when the command has ended.
    ///
    /// # Errors
    /// When there are no further descriptors.
    pub fn end(&self) -> Result<OwnedFd, ContainersError> {
        Ok(self.connection.socket.try_clone()?.into())
    }

    /// What sends it signals.
    ///
    /// # Errors
    /// When there are no further descriptors.
    pub fn signals(&self) -> Result<impl Fn(c_int) + Send + 'static, ContainersError> {
        let sender = Sender::new(self.connection.socket.try_clone()?);
        // One that has ended needs none.
        Ok(move |number| drop(tell(&sender, &Request::Signal { number })))
    }

    /// Waits for its end, at the latest that of the container.
    ///
    /// # Errors
    /// When it cannot be told how it has ended.
    pub fn wait(&mut self) -> Result<ExitStatus, ContainersError> {
        match self.connection.hear() {
            Ok((Answer::Exited { code: Some(code), .. }, ..)) => Ok(ExitStatus::Exited(code)),
            Ok((Answer::Exited { signal: Some(signal), .. }, ..)) => Ok(ExitStatus::Signaled(signal)),
            // The process that ran the container has ended, and everything in it was killed; it may not have got to say so.
            Err(ContainersError::Gone) => Ok(ExitStatus::Signaled(Signal::KILL.as_raw())),
            Ok((other, ..)) => Err(unexpected(&other)),
            Err(error) => Err(error),
        }
    }
}

/// Whether nothing was heard for too long.
fn is_timeout(error: &ContainersError) -> bool {
    matches!(error, ContainersError::Connection(WireError::Io(error)) if error.kind() == ErrorKind::WouldBlock)
}

fn unexpected(answer: &Answer) -> ContainersError {
    ContainersError::Protocol(format!("it answered what was not asked: {answer:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, app: &str) -> (ContainerRecord, usize) {
        let record = ContainerRecord {
            container_id: id.to_owned(),
            app_id: format!("ap-{app}"),
            app_name: Some(app.to_owned()),
            function: "f".to_owned(),
            started: 1,
        };
        (record, 0)
    }

    #[test]
    fn ids_may_be_abbreviated_and_others_are_explained() {
        let all = [container("ta-abcd1", "web"), container("ta-abcd2", "web"), container("ta-xyzw1", "job")];
        let found = |target: &str| choose(&all, target).map(|(it, _)| &*it.container_id).map_err(|it| it.to_string());
        assert_eq!(found("ta-abcd1").unwrap(), "ta-abcd1");
        assert_eq!(found("ta-xyzw").unwrap(), "ta-xyzw1");
        let said = |target: &str| found(target).unwrap_err();
        assert!(said("ta-abcd").contains("`ta-abcd1`, `ta-abcd2`"), "{}", said("ta-abcd"));
        assert!(said("web").contains("that is an app, which has `ta-abcd1`, `ta-abcd2`"), "{}", said("web"));
        assert!(said("ta-xyzw2").contains("did you mean `ta-xyzw1`?"), "{}", said("ta-xyzw2"));
        assert!(said("ta-x").contains("at least four characters"), "{}", said("ta-x"));
        assert!(
            said("nothing").contains("no running container `nothing`: `modal container list`"),
            "{}",
            said("nothing")
        );
    }
}
