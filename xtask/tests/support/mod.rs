//! What more than one test file here needs.

use std::fs;

/// Pids of processes whose environment, as `/proc` shows it, is one that `is_ours`.
pub(crate) fn processes(is_ours: impl Fn(&[u8]) -> bool) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter(|entry| fs::read(entry.path().join("environ")).is_ok_and(|environ| is_ours(&environ)))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
