//! A node's `/metrics`, read as Prometheus would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The body of `/metrics`. HTTP/1.0, so that it comes in one piece.
pub fn get(address: SocketAddr) -> Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.lines().next().unwrap_or_default().contains(" 200 "), "/metrics of {address}: {head}");
    Ok(body.to_owned())
}

/// The value of one series, as `name` or `name{label="value"}`.
pub fn sample(metrics: &str, series: &str) -> Result<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no metric {series}"))?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_not_taken_for_one_that_begins_like_it() {
        let text = "a_total_more 7\na_total{x=\"y\"} 8\na_total 9\n";
        assert_eq!(sample(text, "a_total").unwrap(), 9.0);
        assert!(sample(text, "a").is_err());
    }
}
