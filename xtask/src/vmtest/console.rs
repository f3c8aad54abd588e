//! Reads what a machine wrote on its serial line: how far it came, what the tests said, whether the kernel
//! gave up.

/// Starts the lines by which the machine's `init` tells the runner something.
pub(crate) const MARK: &str = "vmtest:";

/// What a kernel says when nothing more can be expected of it.
const FATAL: [&str; 6] = [
    "Kernel panic - not syncing",
    "BUG: ",
    "Oops: ",
    "watchdog: BUG: soft lockup",
    "rcu: INFO: rcu_preempt detected stalls",
    "rcu: INFO: rcu_preempt self-detected stall",
];

/// What the output says so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// The kernel's release, once it has come up.
    pub release: Option<String>,
    /// Exit status of the test binary, once it has ended.
    pub status: Option<i32>,
    /// The first line in which the kernel gave up.
    pub fatal: Option<String>,
    /// The test binary's own count.
    pub summary: Option<Summary>,
    /// What the failed tests wrote.
    pub failures: Vec<Failure>,
}

/// The last line of a test binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// How long all took, in the test binary's words.
    pub took: String,
}

/// One failed test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub test: String,
    /// What it wrote, the panic message included.
    pub output: Vec<String>,
}

impl Transcript {
    /// Reads output from its beginning; the last line may be incomplete.
    pub fn read(output: &str) -> Self {
        let mut transcript = Self::default();
        let mut open: Option<Failure> = None;
        for line in output.lines().map(str::trim_end) {
            if let Some(test) = failure_heading(line) {
                transcript.failures.extend(open.take());
                open = Some(Failure { test: test.to_owned(), output: Vec::new() });
                continue;
            }
            // Ends the last failure; it also heads the first.
            if line == "failures:" {
                transcript.failures.extend(open.take());
            }
            if let Some(mark) = line.strip_prefix(MARK) {
                transcript.mark(mark.trim());
            } else if let Some(rest) = line.strip_prefix("test result: ") {
                transcript.summary = summary(rest);
            } else if is_fatal(line) && transcript.fatal.is_none() {
                transcript.fatal = Some(line.to_owned());
            }
            if let Some(failure) = &mut open {
                failure.output.push(line.to_owned());
            }
        }
        transcript.failures.extend(open);
        for failure in &mut transcript.failures {
            failure.trim();
        }
        transcript
    }

    fn mark(&mut self, mark: &str) {
        match mark.split_once(' ') {
            Some(("release", release)) => self.release = Some(release.to_owned()),
            Some(("exit", status)) => self.status = status.parse().ok(),
            _ => {}
        }
    }
}

impl Failure {
    fn trim(&mut self) {
        let is_blank = |line: &String| line.is_empty();
        while self.output.last().is_some_and(is_blank) {
            self.output.pop();
        }
        let leading = self.output.iter().take_while(|line| is_blank(line)).count();
        self.output.drain(..leading);
    }

    /// What it wrote without the lines that differ from test to test: equal for tests that failed for the same
    /// reason.
    pub fn reason(&self) -> impl Iterator<Item = &str> {
        // Who panicked, a hint that only the first one gets, how long the verifier took.
        const OWN: [&str; 3] = ["thread '", "note: run with `RUST_BACKTRACE", "verification time "];
        self.output.iter().map(String::as_str).filter(|line| !OWN.iter().any(|own| line.starts_with(own)))
    }
}

/// `---- NAME stdout ----`
fn failure_heading(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// `ok. 8 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.05s`
fn summary(rest: &str) -> Option<Summary> {
    let counts = rest.split_once(". ")?.1;
    let count = |what: &str| {
        counts.split(';').find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<usize>().ok())
    };
    let took = counts.split("finished in ").nth(1)?;
    Some(Summary { passed: count("passed")?, failed: count("failed")?, took: took.to_owned() })
}

/// Whether the kernel wrote this, and gave up. Its lines start with a time, so that a test that prints the
/// same words is not taken for it.
fn is_fatal(line: &str) -> bool {
    let Some((time, message)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
        return false;
    };
    time.trim().parse::<f64>().is_ok() && FATAL.iter().any(|fatal| message.starts_with(fatal))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEN: &str = "SeaBIOS (version 1.16.2)\r\n\r\nvmtest: release 6.1.0-56-cloud-amd64\r\n\r\n\
        running 2 tests\r\ntest a ... ok\r\ntest b ... ok\r\n\r\n\
        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.25s\r\n\r\n\
        vmtest: exit 0\r\n";

    const RED: &str = "vmtest: release 6.1.0\n\nrunning 3 tests\ntest a ... FAILED\ntest b ... ok\n\
        test c ... FAILED\n\nfailures:\n\n---- a stdout ----\n\n\
        thread 'a' (52) panicked at probe-user/tests/live.rs:24:23:\nR1 invalid mem access\n\
        verification time 950 usec\nprocessed 3 insns\nnote: run with `RUST_BACKTRACE=1`\n\n---- c stdout ----\n\
        thread 'c' (53) panicked at probe-user/tests/live.rs:24:23:\nR1 invalid mem access\n\
        verification time 73 usec\nprocessed 3 insns\n\n\nfailures:\n    a\n    c\n\n\
        test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\n\
        vmtest: exit 101\n";

    #[test]
    fn a_green_run_is_read() {
        let transcript = Transcript::read(GREEN);
        assert_eq!(transcript.release.as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(transcript.status, Some(0));
        assert_eq!(transcript.summary, Some(Summary { passed: 2, failed: 0, took: "1.25s".to_owned() }));
        assert_eq!((transcript.fatal, transcript.failures), (None, Vec::new()));
    }

    #[test]
    fn failures_are_read_with_all_they_wrote() {
        let transcript = Transcript::read(RED);
        assert_eq!(transcript.status, Some(101));
        let summary = transcript.summary.unwrap();
        assert_eq!((summary.passed, summary.failed), (1, 2));
        let [a, c] = &transcript.failures[..] else { panic!("{:?}", transcript.failures) };
        assert_eq!((a.test.as_str(), c.test.as_str()), ("a", "c"));
        assert!(a.output[0].starts_with("thread 'a'"), "{:?}", a.output);
        assert_eq!(a.reason().collect::<Vec<_>>(), ["R1 invalid mem access", "processed 3 insns"]);
        assert!(a.reason().eq(c.reason()));
    }

    #[test]
    fn output_can_be_read_at_any_point() {
        for text in [GREEN, RED] {
            for end in 0..text.len() {
                let transcript = Transcript::read(&text[..end]);
                let complete = text[..end].contains("vmtest: exit ") && end > text.find("exit ").unwrap() + 5;
                assert_eq!(transcript.status.is_some(), complete, "{:?}", &text[..end]);
            }
        }
    }

    #[test]
    fn only_the_kernel_can_give_up() {
        let fatal = |text: &str| Transcript::read(text).fatal;
        let panic = "[    1.203948] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
        assert_eq!(fatal(&format!("hello\r\n{panic}\r\n[    1.3] BUG: later\r\n")).as_deref(), Some(panic));
        assert!(fatal("[   25.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [live:52]").is_some());
        assert!(fatal("[    9.1] rcu: INFO: rcu_preempt self-detected stall on CPU").is_some());
        assert_eq!(fatal("the test said: Kernel panic - not syncing"), None);
        assert_eq!(fatal("[x] BUG: not a time"), None);
        assert_eq!(fatal("[    0.5] audit: type=1334 BUG: no"), None);
    }
}
