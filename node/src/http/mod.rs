//! `/metrics` and `/healthz`: read-only, on the admin thread.
//!
//! Whoever can reach the address may connect, so connections are bounded in number and in time.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::metrics::{CONTENT_TYPE, Metrics};

/// Connections served at a time; more are closed at once.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take, waiting for it on an open connection included: longer than the usual
/// scrape intervals, so that Prometheus keeps its connection.
const HEAD: Duration = Duration::from_secs(90);
/// How long a connection may live; scrapers just open another.
const LIFE: Duration = Duration::from_secs(600);
/// After that, how long an answer under way may take.
const GRACE: Duration = Duration::from_secs(10);

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum HttpError {
    #[error("cannot serve metrics on {address}: {error}; give another address with --metrics-bind")]
    Bind { address: SocketAddr, error: io::Error },
}

/// Binds the address; non-blocking.
///
/// # Errors
/// It is in use, not of this host, or not permitted.
pub fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    let bound = TcpListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| l));
    bound.map_err(|error| HttpError::Bind { address, error })
}

/// Serves until the future is dropped.
pub async fn serve(listener: tokio::net::TcpListener, metrics: Arc<Metrics>) {
    let router =
        Router::new().route("/metrics", get(scrape)).route("/healthz", get(healthz)).with_state(metrics);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: trying again at once would only burn the processor.
                tracing::warn!(%error, "metrics: accept failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            let router = router.clone();
            tokio::spawn(async move {
                converse(stream, router).await;
                drop(slot);
            });
        }
    }
}

async fn converse(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = sleep(LIFE) => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "metrics connection ended");
    }
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    match metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, CONTENT_TYPE)], text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("cannot write the metrics: {error}\n"),
        ),
    }
}

async fn healthz(State(metrics): State<Arc<Metrics>>) -> (StatusCode, String) {
    match metrics.health.check() {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn with_server<T>(test: impl AsyncFnOnce(SocketAddr, &Metrics) -> T) -> T {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let server = tokio::spawn(serve(listener, Arc::clone(&metrics)));
        let result = test(address, &metrics).await;
        server.abort();
        result
    }

    async fn request(to: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
    async fn get(to: SocketAddr, path: &str) -> String {
        request(to, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }

    #[tokio::test]
    async fn metrics_are_text_and_health_follows_the_gossip_thread() {
        with_server(async |to, metrics| {
            let answer = get(to, "/metrics").await.to_lowercase();
            assert!(answer.starts_with("http/1.1 200"), "{answer}");
            assert!(
                answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
                "{answer}"
            );
            assert!(
                answer.contains("\npikoscope_packets_rejected_total{reason=\"truncated\"} 0\n"),
                "{answer}"
            );
            let answer = get(to, "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("not published"), "{answer}");
            metrics.health.beat();
            let answer = get(to, "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        })
        .await;
    }

    #[tokio::test]
    async fn nothing_else_is_served_and_garbage_is_refused() {
        with_server(async |to, _| {
            assert!(get(to, "/").await.starts_with("HTTP/1.1 404"));
            let post = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            assert!(request(to, post).await.starts_with("HTTP/1.1 405"));
            assert!(request(to, "\u{1}\u{2}garbage\r\n\r\n").await.starts_with("HTTP/1.1 400"));
        })
        .await;
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_the_others_go_on() {
        with_server(async |to, _| {
            let mut open = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                let mut stream = TcpStream::connect(to).await.unwrap();
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
                let mut first = [0];
                stream.read_exact(&mut first).await.unwrap(); // it is being served
                open.push(stream);
            }
            let mut refused = TcpStream::connect(to).await.unwrap();
            let mut nothing = Vec::new();
            assert_eq!(refused.read_to_end(&mut nothing).await.unwrap(), 0);
            drop(open.pop());
            // The slot is free once the server has seen the end of that connection.
            let served = timeout(Duration::from_secs(10), async {
                loop {
                    let mut stream = TcpStream::connect(to).await.unwrap();
                    let get = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                    let mut answer = Vec::new();
                    if stream.write_all(get).await.is_ok()
                        && stream.read_to_end(&mut answer).await.is_ok_and(|n| n > 0)
                    {
                        break;
                    }
                }
            });
            served.await.expect("served again");
        })
        .await;
    }

    #[test]
    fn an_address_in_use_is_one_sentence() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let error = bind(first.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains("Address already in use") && error.contains("--metrics-bind"), "{error}");
    }
}
