//! Where the processes that run containers can be reached: a socket for each of them, in one directory of the store.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use lamina_ground::random_name;
use lamina_store::Layout;

use crate::records::make_private;
use crate::socket::connect_to;
use crate::{AppListener, AppsError};

/// The sockets of a store's processes that run containers.
#[derive(Debug, Clone)]
pub struct ContainerSockets {
    directory: PathBuf,
}

impl ContainerSockets {
    /// Those of the store with this layout.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        Self { directory: layout.containers() }
    }

    /// Makes the socket of this process, which only its user can reach.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn listen(&self) -> Result<AppListener, AppsError> {
        make_private(&self.directory)?;
        let name = random_name();
        // Under its final name it takes connections from the first moment, so that nobody takes it for one left behind.
        let unfinished = self.directory.join(format!(".{name}"));
        let mut listener = AppListener::bind(&unfinished).map_err(AppsError::file("listening at", &unfinished))?;
        listener.rename(self.directory.join(name))?;
        Ok(listener)
    }

    /// Connects with all processes that run containers. Sockets that killed ones have left are removed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn connect(&self) -> Result<Vec<UnixStream>, AppsError> {
        let entries = match fs_err::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut sockets = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            match connect_to(&path) {
                Ok(Some(socket)) => sockets.push(socket),
                // Whoever else sees it removes it.
                Ok(None) => drop(fs_err::remove_file(&path)),
                // One that is about to end, or has too many connections, is not heard.
                Err(_) => {}
            }
        }
        Ok(sockets)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn all_processes_are_reached_and_what_killed_ones_leave_goes() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&directory.path().join("store")).unwrap();
        let sockets = ContainerSockets::new(&layout);
        assert!(sockets.connect().unwrap().is_empty());
        let listeners = [sockets.listen().unwrap(), sockets.listen().unwrap()];
        let killed = sockets.listen().unwrap();
        let path = killed.path().to_owned();
        fs_err::hard_link(&path, directory.path().join("kept")).unwrap();
        drop(killed);
        fs_err::rename(directory.path().join("kept"), &path).unwrap();
        let greet = |number: u8| move |mut socket: UnixStream| drop(socket.write_all(&[number]));
        let heard = listeners[0].serve_during(greet(1), || {
            listeners[1].serve_during(greet(2), || {
                let mut heard: Vec<u8> = sockets
                    .connect()
                    .unwrap()
                    .into_iter()
                    .map(|mut socket| {
                        let mut byte = [0];
                        socket.read_exact(&mut byte).unwrap();
                        byte[0]
                    })
                    .collect();
                heard.sort_unstable();
                heard
            })
        });
        assert_eq!(heard, [1, 2]);
        assert!(!path.exists());
        drop(listeners);
        assert_eq!(fs_err::read_dir(layout.containers()).unwrap().count(), 0);
    }
}
