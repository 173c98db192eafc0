//! The socket of a running app, at which its host takes the connections of further clients.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::{AppsError, DetachedApps, RunningApp};

/// Name of the socket in the directory of an app.
const SOCKET: &str = "socket";

/// Connections that may wait until they are taken.
const BACKLOG: i32 = 64;

/// Most connections at a time, whatever they are for: each has a thread. More than an engine lets attach, so that those
/// beyond are told why.
const MOST_CONNECTIONS: usize = 320;

/// How long after a connection that could not be taken the next one is tried.
const RETRY: Duration = Duration::from_millis(10);

/// The socket in the directory of an app.
pub(crate) fn socket_file(directory: &Path) -> PathBuf {
    directory.join(SOCKET)
}

/// Connects with whoever listens there; nothing if nobody does.
pub(crate) fn connect_to(path: &Path) -> Result<Option<UnixStream>, AppsError> {
    match with_short_path(path, |path| UnixStream::connect(path)) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(AppsError::file("connecting with", path)(error)),
    }
}

impl RunningApp {
    /// Makes the socket of the app, which only its user can reach.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn listen(&self) -> Result<AppListener, AppsError> {
        let path = socket_file(&self.directory);
        let made = AppListener::bind(&path);
        made.map_err(AppsError::file("listening at", &path))
    }
}

impl DetachedApps {
    /// Connects with the running app that a user means, see [`DetachedApps::find_running`]; gives its id as well.
    ///
    /// # Errors
    /// When there is none, or several, or it takes no connections.
    pub fn connect(&self, target: &str) -> Result<(String, UnixStream), AppsError> {
        let app = self.find_running(target)?;
        let id = app.record.id;
        if !app.state.is_running() {
            return Err(AppsError::NotRunning(id));
        }
        // One without a socket has not begun to listen, or has stopped.
        match connect_to(&socket_file(&self.directory(&id)))? {
            Some(socket) => Ok((id, socket)),
            None => Err(AppsError::NotListening(id)),
        }
    }
}

/// The socket of an app in its own process. Its file goes when this is dropped.
#[derive(Debug)]
pub struct AppListener {
    listener: UnixListener,
    path: PathBuf,
    open: Mutex<Open>,
}

/// The connections that were taken and have not ended.
#[derive(Debug, Default)]
struct Open {
    is_closed: bool,
    last: u64,
    connections: Vec<(u64, UnixStream)>,
}

impl AppListener {
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        // An id is used once, so that nobody listens at what is there.
        match fs_err::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // The file gets the mode of the socket, from the start.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        with_short_path(path, |path| Ok(rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self { listener: socket.into(), path: path.to_owned(), open: Mutex::default() })
    }

    /// Where it is.
    #[cfg(test)]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives its file another name.
    pub(crate) fn rename(&mut self, path: PathBuf) -> io::Result<()> {
        fs_err::rename(&self.path, &path)?;
        self.path = path;
        Ok(())
    }

    /// Does `work`, and takes connections meanwhile, each of which `serve` serves in a thread of its own. They are told the
    /// end when the work has been done, and are waited for. What `serve` gives is dropped once the connection does not
    /// count any more.
    pub fn serve_during<T, D>(&self, serve: impl Fn(UnixStream) -> D + Sync, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let _closed_then = Closed(self);
            scope.spawn(|| self.take(&serve));
            work()
        })
    }

    /// Takes connections until [`AppListener::close`].
    fn take<D>(&self, serve: &(impl Fn(UnixStream) -> D + Sync)) {
        std::thread::scope(|scope| {
            loop {
                let socket = match self.listener.accept() {
                    Ok((socket, _)) => socket,
                    Err(_) if self.lock().is_closed => return,
                    // The client is gone already, or there are too many files for the moment.
                    Err(_) => {
                        std::thread::sleep(RETRY);
                        continue;
                    }
                };
                if !is_allowed(&socket) {
                    continue;
                }
                let Some(number) = self.note(&socket) else { continue };
                // Without a thread for it the client sees the connection end.
                let _ = std::thread::Builder::new().spawn_scoped(scope, move || {
                    let _dropped_then = serve(socket);
                    self.lock().connections.retain(|(other, _)| *other != number);
                });
            }
        });
    }

    /// Takes no further connections if there are none now; false if there are. Who came meanwhile sees the connection end
    /// before anything was answered.
    pub fn close_if_unused(&self) -> bool {
        let mut open = self.lock();
        if open.connections.is_empty() {
            open.is_closed = true;
            // What has ended already is as it should be.
            let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        }
        open.is_closed
    }

    /// Takes no further connections, and ends those that there are: what they were sent can still be read.
    fn close(&self) {
        let mut open = self.lock();
        open.is_closed = true;
        // What has ended already is as it should be.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for (_, connection) in &open.connections {
            let _ = connection.shutdown(Shutdown::Read);
        }
    }

    /// Notes a connection, to be ended with the others; nothing where that has happened, cannot be done, or there are too
    /// many.
    fn note(&self, socket: &UnixStream) -> Option<u64> {
        let mut open = self.lock();
        if open.is_closed || open.connections.len() >= MOST_CONNECTIONS {
            return None;
        }
        open.last += 1;
        let number = open.last;
        open.connections.push((number, socket.try_clone().ok()?));
        Some(number)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the socket when it is dropped.
struct Closed<'a>(&'a AppListener);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for AppListener {
    fn drop(&mut self) {
        self.close();
        // A file that stays belongs to nobody, and goes with the record.
        let _ = fs_err::remove_file(&self.path);
    }
}

/// Whether the other end is this user or root. Others cannot reach the file: this is for a descriptor that was handed on.
fn is_allowed(socket: &UnixStream) -> bool {
    socket_peercred(socket).is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// Gives `action` a path of the file that fits into the address of a socket, which has 108 bytes.
fn with_short_path<T>(path: &Path, action: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    const LONGEST: usize = 107;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return action(path);
    };
    if path.as_os_str().len() <= LONGEST {
        return action(path);
    }
    let directory: OwnedFd =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    action(&Path::new("/proc/self/fd").join(directory.as_fd().as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use lamina_events::CancelToken;
    use lamina_store::Layout;
    use tempfile::TempDir;

    use super::*;
    use crate::tests::record;

    /// A store whose directory has a name of so many characters.
    fn apps(length: usize) -> (TempDir, DetachedApps) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&directory.path().join("s".repeat(length))).unwrap();
        (directory, DetachedApps::new(layout))
    }

    fn run(apps: &DetachedApps, id: &str) -> RunningApp {
        let held = apps.create(&record(id, 1), &CancelToken::new(), || ()).unwrap();
        apps.adopt(id, held).unwrap()
    }

    /// Sends back what it gets, until the end.
    fn echo(mut socket: UnixStream) {
        let mut byte = [0];
        while let Ok(1) = socket.read(&mut byte) {
            let _ = socket.write_all(&byte);
        }
        let _ = socket.write_all(b".");
    }

    fn ask(socket: &mut UnixStream, byte: u8) -> u8 {
        let mut answer = [byte];
        socket.write_all(&answer).unwrap();
        socket.read_exact(&mut answer).unwrap();
        answer[0]
    }

    #[test]
    fn clients_come_and_go_and_the_end_is_told_to_all() {
        // The second store has a path that no address of a socket can hold.
        for length in [5, 150] {
            let (_directory, apps) = apps(length);
            let app = run(&apps, "ap-1234");
            assert!(matches!(apps.connect("ap-1234"), Err(AppsError::NotListening(_))));
            let listener = app.listen().unwrap();
            let file = apps.directory("ap-1234").join(SOCKET);
            assert_eq!(fs_err::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            let mut other = listener.serve_during(echo, || {
                let (id, mut one) = apps.connect("ap-1234").unwrap();
                let (_, mut other) = apps.connect("ap-1234").unwrap();
                assert_eq!(id, "ap-1234");
                assert_eq!((ask(&mut one, 1), ask(&mut other, 2)), (1, 2));
                drop(one);
                assert_eq!(ask(&mut other, 3), 3);
                other
            });
            let mut rest = Vec::new();
            other.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b".", "its session could end in order");
            assert!(matches!(apps.connect("ap-1234"), Err(AppsError::NotListening(_))));
            drop(listener);
            assert!(!file.exists());
        }
    }

    #[test]
    fn a_socket_that_was_left_behind_leads_nowhere() {
        let (_directory, apps) = apps(5);
        let app = run(&apps, "ap-1234");
        // As after SIGKILL: the file is there, and the lock is not held.
        let listener = app.listen().unwrap();
        let file = listener.path.clone();
        fs_err::hard_link(&file, file.with_file_name("kept")).unwrap();
        drop(listener);
        fs_err::rename(file.with_file_name("kept"), &file).unwrap();
        assert!(matches!(apps.connect("ap-1234"), Err(AppsError::NotListening(_))));
        drop(app);
        assert!(matches!(apps.connect("ap-1234"), Err(AppsError::NotRunning(_))));
        assert!(matches!(apps.connect("ap-5678"), Err(AppsError::Unknown(_))));
    }

    #[test]
    fn connections_are_bounded_and_make_room_when_they_end() {
        let (_directory, apps) = apps(5);
        let app = run(&apps, "ap-1234");
        let listener = app.listen().unwrap();
        listener.serve_during(echo, || {
            let connect = || apps.connect("ap-1234").unwrap().1;
            let mut idle: Vec<_> = (0..MOST_CONNECTIONS).map(|_| connect()).collect();
            // The last of them is served, so that all are counted.
            assert_eq!(ask(idle.last_mut().unwrap(), 7), 7);
            let mut beyond = connect();
            assert_eq!(beyond.read(&mut [0]).unwrap(), 0, "it is told the end at once");
            let mut left = idle.pop().unwrap();
            left.shutdown(Shutdown::Write).unwrap();
            left.read_to_end(&mut Vec::new()).unwrap();
            // The place of one that has ended is free soon after.
            let served = (0..1000).any(|_| {
                let mut next = connect();
                let (mut byte, sent) = ([0], next.write_all(&[8]));
                let is_served = sent.is_ok() && next.read(&mut byte).is_ok_and(|count| count == 1);
                std::thread::sleep(RETRY);
                is_served
            });
            assert!(served);
        });
    }

    #[test]
    fn one_client_that_does_nothing_keeps_nobody_waiting() {
        let (_directory, apps) = apps(5);
        let app = run(&apps, "ap-1234");
        let listener = app.listen().unwrap();
        let answer = listener.serve_during(echo, || {
            let _idle = apps.connect("ap-1234").unwrap();
            let (_, mut busy) = apps.connect("ap-1234").unwrap();
            ask(&mut busy, 7)
        });
        assert_eq!(answer, 7);
    }
}
