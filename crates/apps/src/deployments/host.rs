//! The process of a deployed app: it starts when somebody calls the app, and takes the connections of all who do.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lamina_events::CancelToken;
use lamina_ground::{EnvVars, microseconds_since_1970};
use lamina_store::Lock;
use lamina_system::spawn_apart;

use super::{Deployment, DeploymentName, Deployments};
use crate::log::end_of_log;
use crate::records::{log_directory, make_private, output_file, state_file};
use crate::socket::{AppListener, connect_to, socket_file};
use crate::state::StateFile;
use crate::stop::Process;
use crate::{AppState, AppsError, LogEntry, LogPosition, LogReader, LogWriter, Source};

/// The first word of the command line of such a process; environment and name of the app follow.
pub const HOST: &str = "__deployed";

/// How long a process may take until it listens. Opening a store may mean waiting for a collection.
const START: Duration = Duration::from_mins(2);

/// First and longest pause between two attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Bytes of the last output that an error quotes.
const QUOTED: usize = 600;

/// A deployed app in its own process. It counts as running until this is dropped.
#[derive(Debug)]
pub struct RunningHost {
    deployments: Deployments,
    name: DeploymentName,
    directory: PathBuf,
    state: StateFile,
}

impl RunningHost {
    /// The app's name.
    #[must_use]
    pub fn name(&self) -> &DeploymentName {
        &self.name
    }

    /// The deployed apps of the store.
    #[must_use]
    pub fn deployments(&self) -> &Deployments {
        &self.deployments
    }

    /// Where what it prints is recorded.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn log(&self) -> Result<LogWriter, AppsError> {
        LogWriter::open(&log_directory(&self.directory), &output_file(&self.directory))
    }

    /// Makes the socket, which only the app's user can reach.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn listen(&self) -> Result<AppListener, AppsError> {
        let path = socket_file(&self.directory);
        let made = AppListener::bind(&path);
        made.map_err(AppsError::file("listening at", &path))
    }

    /// Records that it has ended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(&self, code: u8) -> Result<(), AppsError> {
        self.state.end(code)
    }
}

impl Deployments {
    /// Connects with the process of a deployed app; it is started if it does not run.
    ///
    /// # Errors
    /// When there is no such app, or its process cannot be started or ends at once.
    pub fn connect(&self, name: &DeploymentName, cancel: &CancelToken) -> Result<(Deployment, UnixStream), AppsError> {
        let deployment = self.get(name)?;
        let directory = self.host_directory(name);
        let asked = Instant::now();
        // Once it was started: how much its former processes had printed.
        let mut started: Option<LogPosition> = None;
        let mut pause = PAUSES.0;
        loop {
            if let Some(socket) = connect_to(&socket_file(&directory))? {
                return Ok((deployment, socket));
            }
            if let Some(held) = self.acquire(name, cancel)? {
                if let Some(before) = started {
                    return Err(AppsError::HostEnded { name: name.clone(), output: self.last_words(name, before) });
                }
                started = Some(end_of_log(&log_directory(&directory)));
                self.start(name, held)?;
            }
            cancel.check()?;
            if asked.elapsed() > START {
                return Err(AppsError::HostSilent { name: name.clone(), seconds: START.as_secs() });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Connects with the process of a deployed app if it runs.
    ///
    /// # Errors
    /// When connecting fails for another reason than that.
    pub fn connect_if_running(&self, name: &DeploymentName) -> Result<Option<UnixStream>, AppsError> {
        connect_to(&socket_file(&self.host_directory(name)))
    }

    /// Whether the process of an app runs.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn host_state(&self, name: &DeploymentName) -> Result<AppState, AppsError> {
        StateFile::read(&state_file(&self.host_directory(name)))
    }

    /// What the app printed, over all its processes; nothing where none has run yet.
    #[must_use]
    pub fn log(&self, name: &DeploymentName) -> Option<LogReader> {
        Some(self.log_to_come(name)).filter(|log| !log.is_empty())
    }

    /// As [`Deployments::log`], also where none has run yet.
    pub(super) fn log_to_come(&self, name: &DeploymentName) -> LogReader {
        let directory = self.host_directory(name);
        LogReader::new(log_directory(&directory), output_file(&directory), None)
    }

    /// Where what the app prints next will begin.
    #[must_use]
    pub fn end_of_log(&self, name: &DeploymentName) -> LogPosition {
        end_of_log(&log_directory(&self.host_directory(name)))
    }

    /// Ends the process of an app, as Ctrl-C would; one that does not listen is killed. False when none runs.
    ///
    /// # Errors
    /// When the process is not found, or does not end.
    pub fn stop_host(&self, name: &DeploymentName) -> Result<bool, AppsError> {
        Ok(self.find_host(name)?.map(|process| process.stop()).transpose()?.is_some())
    }

    /// The process of an app, if it runs.
    pub(super) fn find_host(&self, name: &DeploymentName) -> Result<Option<Process>, AppsError> {
        let state = state_file(&self.host_directory(name));
        Process::of(&state, name.name(), &[HOST, name.environment(), name.name()])
    }

    /// The app in its own process; `held` is the standard input that it was started with.
    ///
    /// # Errors
    /// When `held` is something else.
    pub fn adopt(&self, name: &DeploymentName, held: OwnedFd) -> Result<RunningHost, AppsError> {
        let directory = self.host_directory(name);
        let state = StateFile::adopt(&state_file(&directory), held)?;
        Ok(RunningHost { deployments: self.clone(), name: name.clone(), directory, state })
    }

    /// What makes its holder the process of the app; nothing if another one has it.
    pub(super) fn acquire(&self, name: &DeploymentName, cancel: &CancelToken) -> Result<Option<StateFile>, AppsError> {
        // The store is not removed at the same time.
        let _starting = Lock::take_soon(&self.layout.locks().join("apps"), cancel, || ())?.keep_file();
        let directory = self.host_directory(name);
        make_private(&directory)?;
        let Some((held, before)) = StateFile::acquire(&state_file(&directory))? else { return Ok(None) };
        let (log, died) = (log_directory(&directory), before == Some(AppState::Died));
        LogWriter::prepare(&log, died)?;
        if died {
            // It could not say so itself.
            let line = "the process of the app was killed, or the machine stopped, and its containers with it\n";
            let entry = LogEntry::new(Some(microseconds_since_1970()), Source::System, line);
            LogWriter::open(&log, &output_file(&directory))?.write(&entry);
        }
        Ok(Some(held))
    }

    /// Starts this program once more as the process of the app. It has nothing of whoever starts it: not the directory, not
    /// the terminal, not its life.
    fn start(&self, name: &DeploymentName, held: StateFile) -> io::Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("modal").args([HOST, name.environment(), name.name()]);
        command.current_dir("/").env(EnvVars::MODAL_STORE, self.layout.root());
        command.env_remove(EnvVars::MODAL_ENGINE_FD);
        command.stdin(Stdio::from(OwnedFd::from(held))).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = spawn_apart(&mut command)?;
        // Whoever starts it may live longer.
        std::thread::Builder::new().spawn(move || child.wait())?;
        Ok(())
    }

    /// The end of what the app printed after this place of its log.
    fn last_words(&self, name: &DeploymentName, before: LogPosition) -> String {
        let mut text = Vec::new();
        let mut keep = |entry: &LogEntry| {
            text.extend_from_slice(&entry.data);
            let surplus = text.len().saturating_sub(QUOTED);
            text.drain(..surplus);
            ControlFlow::Continue(())
        };
        let mut log = self.log_to_come(name);
        // What cannot be read is not quoted.
        let _ = log.skip_to(before).and_then(|()| log.read(&mut keep));
        String::from_utf8_lossy(&text).trim().to_owned()
    }

    pub(super) fn host_directory(&self, name: &DeploymentName) -> PathBuf {
        self.directory(name).join("host")
    }
}
