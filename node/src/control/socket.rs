//! The control socket's file: mode 0600 at every moment, one owner at a time, gone at exit.
//!
//! `bind` gives the file the mode that the umask leaves, and a `chmod` afterwards comes too late: whoever
//! connects in between is in. So the socket is bound in a fresh directory of mode 0700, which nobody else
//! can enter, gets its mode there and is then renamed to its place. A rename also replaces the file of a
//! process that died, without a moment in which there is none.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Longest path of a unix socket: `sun_path` without its final zero (`include/uapi/linux/un.h`).
const MAX_PATH: usize = 107;

/// A listening control socket; dropping it removes its file.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a listening socket; dropping it removes the file, unless another process has put its own
/// there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// Why there is no control socket. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum SocketError {
    #[error(
        "control socket {} is in use by another running node; stop that one, or give another path with --control",
        .0.display()
    )]
    InUse(PathBuf),
    #[error("{} exists and is not a socket; remove it, or give another path with --control", .0.display())]
    NotASocket(PathBuf),
    #[error("control socket path {} is longer than {MAX_PATH} bytes; give a shorter one with --control", .0.display())]
    TooLong(PathBuf),
    #[error("cannot create the control socket {} ({step}: {error}); give another path with --control", path.display())]
    Io { path: PathBuf, step: &'static str, error: io::Error },
}

impl ControlSocket {
    /// Creates the socket at `path`, and its directory (mode 0700) if there is none. The file of a process
    /// that died is replaced.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |step| move |error| SocketError::Io { path: path.to_owned(), step, error };
        let parent = match path.parent() {
            Some(p) if p.as_os_str().is_empty() => Path::new("."),
            Some(p) => p,
            None => return Err(SocketError::NotASocket(path.to_owned())),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(failed("create its directory"))?;

        // Held until the new file is in place: two nodes that start together must not both find a dead one.
        let lock = File::open(parent).map_err(failed("open its directory"))?;
        lock.lock().map_err(failed("lock its directory"))?;
        refuse_living(path)?;

        let nest = Nest::in_directory(parent, path)?;
        let inner = nest.0.join("s");
        if inner.as_os_str().len() > MAX_PATH || path.as_os_str().len() > MAX_PATH {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        let listener = UnixListener::bind(&inner).map_err(failed("bind"))?;
        std::fs::set_permissions(&inner, Permissions::from_mode(0o600)).map_err(failed("set its mode"))?;
        let meta = std::fs::symlink_metadata(&inner).map_err(failed("stat"))?;
        std::fs::rename(&inner, path).map_err(failed("rename into place"))?;
        let file = SocketFile { path: path.to_owned(), identity: (meta.dev(), meta.ino()) };
        listener.set_nonblocking(true).map_err(failed("set non-blocking"))?;
        Ok(Self { listener, file })
    }

    /// The listener (non-blocking), and the guard of its file.
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

/// An error unless `path` is free, or the socket of a process that is gone.
fn refuse_living(path: &Path) -> Result<(), SocketError> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(SocketError::Io { path: path.to_owned(), step: "stat", error }),
        Ok(meta) if !meta.file_type().is_socket() => Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(SocketError::Io {
                path: path.to_owned(),
                step: "connect to the one that is there",
                error,
            }),
            // Connected, or its queue is full: somebody listens.
            _ => Err(SocketError::InUse(path.to_owned())),
        },
    }
}

/// A directory of mode 0700 that removes itself and what is left in it.
struct Nest(PathBuf);

impl Nest {
    fn in_directory(parent: &Path, path: &Path) -> Result<Self, SocketError> {
        let nest = parent.join(format!(".pk{}", std::process::id()));
        // Left by a process of the same id that was killed between two lines of `bind`.
        let _ = std::fs::remove_dir_all(&nest);
        DirBuilder::new().mode(0o700).create(&nest).map_err(|error| SocketError::Io {
            path: path.to_owned(),
            step: "create a directory beside it",
            error,
        })?;
        Ok(Self(nest))
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        // Nothing to be done about a failure; the next start with this process id tries again.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn mode_is_0600_the_directory_0700_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(names(path.parent().unwrap()), ["control.sock"]);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(names(path.parent().unwrap()).is_empty());
    }

    #[test]
    fn a_living_socket_is_refused_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let living = ControlSocket::bind(&path).unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::InUse(_))));
        let (listener, file) = living.into_parts();
        std::mem::forget(file); // as if killed
        drop(listener);
        assert!(path.exists());
        let next = ControlSocket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(next);
        assert!(!path.exists());
    }

    #[test]
    fn only_its_own_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let (listener, file) = ControlSocket::bind(&path).unwrap().into_parts();
        drop(listener);
        let next = ControlSocket::bind(&path).unwrap();
        drop(file);
        assert!(path.exists(), "the next one's file stays");
        drop(next);
    }

    #[test]
    fn other_files_and_impossible_paths_are_refused_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert!(matches!(
            ControlSocket::bind(&dir.path().join("x".repeat(120))),
            Err(SocketError::TooLong(_))
        ));
        let error = ControlSocket::bind(&path.join("below")).unwrap_err().to_string();
        assert!(error.contains("create its directory") && !error.contains('\n'), "{error}");
        assert_eq!(names(dir.path()), ["file"]);
    }
}
