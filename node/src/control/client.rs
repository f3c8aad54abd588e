//! The other end of the control socket: what `pikoscope status`, `set`, `get`, `delete` and `watch` use.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::watch::Change;
use super::{Answer, Line};
use crate::report::NodeReport;

/// How long the node may take to answer; longer than it takes to say itself that it does not answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer that is read: a report of a few thousand members.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Why a running node could not be asked.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum ClientError {
    #[error("no node is running at {}; start one with `pikoscope run`, or give its socket with --control", .0.display())]
    NotRunning(PathBuf),
    #[error("you may not talk to the node at {}: only its own user and root may", .0.display())]
    NotPermitted(PathBuf),
    #[error("the node at {} did not answer: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("the node at {} gave an answer that is not understood ({error}); is it of another version?", path.display())]
    Malformed { path: PathBuf, error: serde_json::Error },
    #[error("{0}")]
    Refused(String),
}

/// Asks the node at `path` for its report.
///
/// # Errors
/// See [`ClientError`].
pub fn status(path: &Path) -> Result<NodeReport, ClientError> {
    let line = exchange(path, &Line::Status)?;
    // An answer that says why is told from a report by its `ok`.
    match serde_json::from_str::<Answer>(&line) {
        Ok(Answer { ok: false, error: Some(why), .. }) => Err(ClientError::Refused(why)),
        _ => parse(path, &line),
    }
}

/// Sends `request`, which is not `Status`.
///
/// # Errors
/// See [`ClientError`]; an answer that says no is [`ClientError::Refused`].
pub fn ask(path: &Path, request: &Line) -> Result<Answer, ClientError> {
    let answer: Answer = parse(path, &exchange(path, request)?)?;
    accepted(answer)
}

fn accepted(answer: Answer) -> Result<Answer, ClientError> {
    if answer.ok {
        Ok(answer)
    } else {
        Err(ClientError::Refused(answer.error.unwrap_or_else(|| "the node refused without a reason".into())))
    }
}

fn parse<T: DeserializeOwned>(path: &Path, line: &str) -> Result<T, ClientError> {
    serde_json::from_str(line).map_err(|error| ClientError::Malformed { path: path.to_owned(), error })
}

fn exchange(path: &Path, request: &Line) -> Result<String, ClientError> {
    let io = |error| ClientError::Io { path: path.to_owned(), error };
    let (stream, written) = open(path, request)?;
    let mut answer = String::new();
    let read = BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer);
    if answer.is_empty() {
        written.and(read).map_err(io)?;
        return Err(io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(answer)
}

/// Sends a request, and tells whether it could be written: a refused connection is answered and closed at once, and then
/// the answer counts, not the failed write.
fn open(path: &Path, request: &Line) -> Result<(UnixStream, io::Result<()>), ClientError> {
    let io = |error| ClientError::Io { path: path.to_owned(), error };
    let mut stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(path.to_owned())
        }
        io::ErrorKind::PermissionDenied => ClientError::NotPermitted(path.to_owned()),
        _ => io(error),
    })?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(io)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(io)?;
    let mut line = serde_json::to_vec(request)
        .map_err(|error| ClientError::Malformed { path: path.to_owned(), error })?;
    line.push(b'\n');
    let written = stream.write_all(&line);
    Ok((stream, written))
}

/// Changes at a node as they happen; ends when the node does.
#[derive(Debug)]
pub struct Changes {
    path: PathBuf,
    lines: BufReader<UnixStream>,
}

/// Begins a watch of the node at `path`: every change from here on, those of the protocol's own keys if `internal`.
///
/// # Errors
/// See [`ClientError`].
pub fn watch(path: &Path, internal: bool) -> Result<Changes, ClientError> {
    let io = |error| ClientError::Io { path: path.to_owned(), error };
    let (stream, written) = open(path, &Line::Watch { internal })?;
    let mut lines = BufReader::new(stream);
    let mut first = String::new();
    let read = lines.read_line(&mut first);
    if first.is_empty() {
        written.and(read).map_err(io)?;
        return Err(io(io::ErrorKind::UnexpectedEof.into()));
    }
    accepted(parse(path, &first)?)?;
    // Nothing may happen for as long as it likes.
    lines.get_ref().set_read_timeout(None).map_err(io)?;
    Ok(Changes { path: path.to_owned(), lines })
}

impl Iterator for Changes {
    type Item = Result<Change, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(parse(&self.path, &line)),
            Err(error) => Some(Err(ClientError::Io { path: self.path.clone(), error })),
        }
    }
}
