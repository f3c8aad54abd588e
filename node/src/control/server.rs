//! Serves the control socket, on the admin thread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::watch::Watch;
use super::{Answer, Line, Request, Requests};

/// Longest request in bytes, its newline included.
pub const MAX_LINE: usize = 64 * 1024;
/// Connections served at a time.
pub const MAX_CONNECTIONS: usize = 16;
/// How long the gossip thread may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may say nothing, or not read its answer.
const IDLE: Duration = Duration::from_secs(30);

/// Serves connections until the future is dropped.
pub async fn serve(listener: UnixListener, requests: Requests) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: trying again at once would only burn the processor.
                tracing::warn!(%error, "control socket: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match Arc::clone(&slots).try_acquire_owned() {
            Ok(slot) => {
                let requests = requests.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &requests).await {
                        tracing::debug!(%error, "control connection ended");
                    }
                    drop(slot);
                });
            }
            Err(_) => {
                let answer =
                    Answer::failed(format!("{MAX_CONNECTIONS} control connections are open already"));
                // The answer fits into the socket's buffer, or the other side is not worth waiting for.
                let _ = timeout(Duration::from_millis(100), send(&mut stream, &answer)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, requests: &Requests) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let line = match timeout(IDLE, read_line(&mut stream)).await {
            Err(_) => return Ok(()),
            Ok(read) => match read? {
                Read::Line(line) => line,
                Read::End => return Ok(()),
                Read::TooLong => {
                    let answer = Answer::failed(format!("the request is longer than {MAX_LINE} bytes"));
                    return send(stream.get_mut(), &answer).await;
                }
            },
        };
        match serde_json::from_slice::<Line>(&line) {
            Ok(Line::Status) => match ask(requests, Request::Status).await {
                Ok(report) => send(stream.get_mut(), &report).await?,
                Err(why) => send(stream.get_mut(), &Answer::failed(why)).await?,
            },
            Ok(Line::Watch { internal }) => {
                match ask(requests, |reply| Request::Watch { internal, reply }).await.and_then(|w| w) {
                    Ok(watch) => return show(stream, watch).await,
                    Err(why) => send(stream.get_mut(), &Answer::failed(why)).await?,
                }
            }
            Ok(request) => send(stream.get_mut(), &answer(request, requests).await).await?,
            Err(error) => {
                let known = "status, set, get, delete or watch";
                let why =
                    format!("not a request: {error}; expected one JSON object per line with \"cmd\" {known}");
                send(stream.get_mut(), &Answer::failed(why)).await?;
            }
        }
    }
}

/// Passes a request on, and its answer back.
async fn answer(request: Line, requests: &Requests) -> Answer {
    let version = match request {
        Line::Set { key, value, trace_id } => {
            ask(requests, |reply| Request::Set { key, value, trace_id, reply }).await
        }
        Line::Delete { key } => ask(requests, |reply| Request::Delete { key, reply }).await,
        Line::Get { key } => {
            return match ask(requests, |reply| Request::Get { key, reply }).await {
                Ok(held) => Answer { ok: true, held: Some(held), ..Answer::default() },
                Err(why) => Answer::failed(why),
            };
        }
        Line::SlowHandler { us } => {
            let time = Duration::from_micros(us.into());
            return match ask(requests, |reply| Request::SlowHandler { time, reply }).await {
                Ok(()) => Answer { ok: true, ..Answer::default() },
                Err(why) => Answer::failed(why),
            };
        }
        Line::Status | Line::Watch { .. } => return Answer::failed("not answered with one line"),
    };
    match version.and_then(|version| version) {
        Ok(version) => Answer { ok: true, version: Some(version), ..Answer::default() },
        Err(why) => Answer::failed(why),
    }
}

/// Shows changes until the client closes its end or says more, or the node ends.
async fn show(mut stream: BufReader<UnixStream>, mut watch: Watch) -> io::Result<()> {
    send(stream.get_mut(), &Answer { ok: true, ..Answer::default() }).await?;
    loop {
        let changes = tokio::select! {
            changes = watch.next() => changes,
            _ = stream.fill_buf() => return Ok(()),
        };
        if changes.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for change in changes {
            serde_json::to_writer(&mut lines, &*change)?;
            lines.push(b'\n');
        }
        write(stream.get_mut(), &lines).await?;
    }
}

async fn ask<T>(
    requests: &Requests,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, String> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        requests.send(request(reply)).await.map_err(|_| ())?;
        answer.await.map_err(|_| ())
    };
    match timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(())) => Err("the node is shutting down".into()),
        Err(_) => Err(format!("the gossip thread did not answer within {} s", PATIENCE.as_secs())),
    }
}

async fn send(stream: &mut UnixStream, answer: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    write(stream, &line).await
}

async fn write(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    timeout(IDLE, stream.write_all(bytes)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[derive(Debug, PartialEq, Eq)]
enum Read {
    Line(Vec<u8>),
    End,
    TooLong,
}

/// A line without its newline. Never holds more than [`MAX_LINE`] bytes; a last line without a newline counts.
async fn read_line(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Read> {
    let mut line = Vec::new();
    loop {
        let available = from.fill_buf().await?;
        if available.is_empty() {
            return Ok(if line.is_empty() { Read::End } else { Read::Line(line) });
        }
        let end = available.iter().position(|b| *b == b'\n');
        let part = &available[..end.unwrap_or(available.len())];
        if line.len() + part.len() >= MAX_LINE {
            return Ok(Read::TooLong);
        }
        line.extend_from_slice(part);
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            return Ok(Read::Line(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::watch::{Change, Watchers};
    use crate::control::{Held, Inbox, channel, client};
    use std::path::Path;
    use tokio::io::AsyncReadExt;

    /// A node that holds `k`, refuses to set `bad`, and never answers for `silent`.
    async fn fake_node(mut inbox: Inbox) {
        let (mut kept, mut watching) = (Vec::new(), Vec::new());
        while let Some(request) = inbox.requests.recv().await {
            match request {
                Request::Set { key, reply, .. } if key == "silent" => kept.push(reply),
                Request::Set { key, reply, .. } | Request::Delete { key, reply } => {
                    let _ = reply.send(if key == "bad" { Err("bad is not a key".into()) } else { Ok(7) });
                }
                Request::Get { key, reply } => {
                    let held = Held { node: "a".into(), value: "v".into(), version: 3, trace_id: None };
                    let _ = reply.send(if key == "k" { vec![held] } else { Vec::new() });
                }
                Request::Status(reply) => drop(reply),
                Request::SlowHandler { reply, .. } => drop(reply),
                Request::Watch { internal, reply } => {
                    let mut watchers = Watchers::default();
                    let _ = reply.send(watchers.watch(internal));
                    let change = |key: &str| Change::Delete {
                        node: "a".into(),
                        key: key.into(),
                        version: 1,
                        at_mono_ns: 2,
                    };
                    watchers.push(change("_internal:x"));
                    watchers.push(change("k"));
                    watching.push(watchers);
                }
            }
        }
    }

    async fn with_server<T>(test: impl AsyncFnOnce(&Path) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let listener = UnixListener::bind(&path).unwrap();
        let (to_node, inbox) = channel().unwrap();
        let node = tokio::spawn(fake_node(inbox));
        let server = tokio::spawn(serve(listener, to_node));
        let result = test(&path).await;
        server.abort();
        node.abort();
        result
    }

    async fn raw(path: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        // A server that refuses what it reads may close before all is written.
        let _ = stream.write_all(request).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn requests_are_passed_on_and_answered_in_order() {
        with_server(async |path| {
            let lines = b"{\"cmd\":\"set\",\"key\":\"k\",\"value\":\"v\"}\n{\"cmd\":\"set\",\"key\":\"bad\",\"value\":\"\"}\n{\"cmd\":\"delete\",\"key\":\"k\"}\n{\"cmd\":\"get\",\"key\":\"k\"}\n{\"cmd\":\"get\",\"key\":\"none\"}";
            assert_eq!(
                raw(path, lines).await,
                "{\"ok\":true,\"version\":7}\n{\"ok\":false,\"error\":\"bad is not a key\"}\n{\"ok\":true,\"version\":7}\n{\"ok\":true,\"held\":[{\"node\":\"a\",\"value\":\"v\",\"version\":3}]}\n{\"ok\":true,\"held\":[]}\n"
            );
        })
        .await;
    }

    #[tokio::test]
    async fn a_watch_shows_changes_until_the_client_closes() {
        with_server(async |path| {
            let mut stream = BufReader::new(UnixStream::connect(path).await.unwrap());
            stream.get_mut().write_all(b"{\"cmd\":\"watch\"}\n").await.unwrap();
            for expected in
                ["{\"ok\":true}", r#"{"event":"delete","node":"a","key":"k","version":1,"at_mono_ns":2}"#]
            {
                let Read::Line(line) = read_line(&mut stream).await.unwrap() else { panic!("no line") };
                assert_eq!(String::from_utf8(line).unwrap(), expected);
            }
            stream.get_mut().shutdown().await.unwrap();
            assert_eq!(read_line(&mut stream).await.unwrap(), Read::End);
        })
        .await;
    }

    #[tokio::test]
    async fn malformed_requests_get_one_error_each_and_the_connection_lives_on() {
        with_server(async |path| {
            let answers =
                raw(path, b"\n{}\n[1]\n{\"cmd\":\"fly\"}\n{\"cmd\":\"get\"}\n\xff\n{\"cmd\":\"status\"}\n")
                    .await;
            let lines: Vec<_> = answers.lines().collect();
            assert_eq!(lines.len(), 7, "{answers}");
            for line in &lines[..6] {
                assert!(line.starts_with("{\"ok\":false,\"error\":\"not a request: "), "{line}");
            }
            assert_eq!(lines[6], "{\"ok\":false,\"error\":\"the node is shutting down\"}");
        })
        .await;
    }

    #[tokio::test]
    async fn an_endless_line_is_cut_off() {
        with_server(async |path| {
            let answer = raw(path, &vec![b'x'; MAX_LINE + 1]).await;
            assert_eq!(answer, "{\"ok\":false,\"error\":\"the request is longer than 65536 bytes\"}\n");
        })
        .await;
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so() {
        with_server(async |path| {
            let mut open = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                let mut stream = UnixStream::connect(path).await.unwrap();
                stream.write_all(b"{\"cmd\":\"get\",\"key\":\"k\"}\n").await.unwrap();
                let mut first = [0];
                stream.read_exact(&mut first).await.unwrap(); // it is being served
                open.push(stream);
            }
            let path = path.to_owned();
            let refused = tokio::task::spawn_blocking(move || client::status(&path)).await.unwrap();
            assert_eq!(refused.unwrap_err().to_string(), "16 control connections are open already");
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_gossip_thread_that_does_not_answer_is_named() {
        let (to_node, inbox) = channel().unwrap();
        let node = tokio::spawn(fake_node(inbox));
        let set = Line::Set { key: "silent".into(), value: String::new(), trace_id: None };
        assert_eq!(
            answer(set, &to_node).await,
            Answer::failed("the gossip thread did not answer within 5 s")
        );
        node.abort();
    }

    #[test]
    fn the_client_says_when_nobody_is_there() {
        let error = client::status(Path::new("/nonexistent/c")).unwrap_err().to_string();
        assert!(error.starts_with("no node is running at /nonexistent/c"), "{error}");
    }
}
