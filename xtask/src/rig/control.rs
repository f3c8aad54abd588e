//! A node's control socket: lines of JSON, one request and one answer each.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The control socket of one node. Every request is a connection of its own, so clones may be used side by side.
#[derive(Clone, Debug)]
pub struct Control {
    id: String,
    path: PathBuf,
}

impl Control {
    /// The socket of node `id` at `path`.
    pub fn new(id: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { id: id.into(), path: path.into() }
    }

    /// The node's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's report.
    pub fn status(&self) -> Result<Value> {
        self.ask(&json!({"cmd": "status"}))
    }

    /// Sets an entry of the node.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        self.ask(&json!({"cmd": "set", "key": key, "value": value})).map(drop)
    }

    /// Deletes an entry of the node.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.ask(&json!({"cmd": "delete", "key": key})).map(drop)
    }

    /// Who holds `key`, and with which value: `[{"node","value","version"}]`.
    pub fn get(&self, key: &str) -> Result<Value> {
        self.ask(&json!({"cmd": "get", "key": key})).map(|mut answer| answer["held"].take())
    }

    /// Sends one request and returns the answer; one that says no is an error.
    pub fn ask(&self, request: &Value) -> Result<Value> {
        let mut stream = UnixStream::connect(&self.path)
            .with_context(|| format!("connecting to {}", self.path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let answer: Value =
            serde_json::from_str(&line).with_context(|| format!("node {} answered `{line}`", self.id))?;
        if answer["ok"] == Value::Bool(false) {
            bail!("node {}: {}", self.id, answer["error"].as_str().unwrap_or("refused"));
        }
        Ok(answer)
    }
}
